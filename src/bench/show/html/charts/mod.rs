//! The charts of the page. Each takes its points from the report, and has a table of them below it.

mod bars;
mod bytes;
mod codecs;
mod cpu;
mod rates;
mod threads;

use serde::Serialize;

use crate::bench::measure::setting::{self, Setting};
use crate::bench::report::{BenchReport, SettingReport};
use crate::codec::Method;

const HEIGHT: f64 = 360.0;
/// The space between a chart and the names beside it.
const ASIDE: f64 = 20.0;

/// A chart with its legend and its table.
#[derive(Debug, Serialize)]
pub(super) struct Chart {
    /// What it shows, as a heading.
    pub(super) title: String,
    /// How to read it.
    pub(super) note: String,
    /// The picture, escaped.
    pub(super) svg: String,
    /// Names with the classes of their colours.
    pub(super) legend: Vec<(String, &'static str)>,
    /// The numbers as a table: headings and rows.
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// The number of data points, each of which is a mark in the picture.
    pub(super) points: usize,
}

/// The classes of the colours.
const COLOURS: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];
/// The class of a peer's colour.
const PEER: &str = "peer";

/// A method has the same colour in every chart.
fn colour(row: &SettingReport) -> &'static str {
    COLOURS[row.setting.compression.method as usize]
}

fn method_legend(rows: &[&SettingReport]) -> Vec<(String, &'static str)> {
    Method::ALL
        .into_iter()
        .filter(|method| {
            rows.iter()
                .any(|row| row.setting.compression.method == *method)
        })
        .map(|method| (method.to_string(), COLOURS[method as usize]))
        .collect()
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// The settings that were measured over one link.
fn over<'a>(report: &'a BenchReport, link: &str) -> Vec<&'a SettingReport> {
    report
        .settings
        .iter()
        .filter(|row| row.link() == link && row.cost().is_some())
        .collect()
}

/// Names of settings that have the link in common.
fn names_without_link(rows: &[&SettingReport]) -> Vec<String> {
    let settings: Vec<Setting> = rows.iter().map(|row| row.setting.over(None)).collect();
    setting::names(&settings)
}

/// All charts for which the report has data.
pub(super) fn all(report: &BenchReport) -> Vec<Chart> {
    let mut charts = Vec::new();
    let links = || report.links.iter().filter(|link| link.measured);
    for link in links() {
        charts.extend(bytes::time_and_bytes(report, &link.link));
    }
    charts.extend(rates::link_rates(report));
    for link in links() {
        charts.extend(threads::thread_scaling(report, &link.link));
    }
    charts.extend(cpu::cpu_split(report));
    charts.extend(codecs::codecs(report));
    charts.extend(bars::delta_rounds(report));
    charts.push(bars::page_classes(report));
    charts
}
