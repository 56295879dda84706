//! The charts of the page. Each takes its points from the report, and has a table of them behind it.

mod bars;
mod codecs;
mod times;

use serde::Serialize;

use crate::bench::measure::setting::{self, Setting};
use crate::bench::report::{BenchReport, SettingReport};
use crate::codec::Method;

const HEIGHT: f64 = 360.0;

/// A chart with what belongs to it.
#[derive(Debug, Serialize)]
pub(super) struct Chart {
    /// What it shows.
    pub(super) title: String,
    /// How to read it.
    pub(super) note: String,
    /// The picture.
    pub(super) svg: String,
    /// Names and the classes of their colours.
    pub(super) legend: Vec<(String, &'static str)>,
    /// The same numbers for reading: headings and rows.
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// How many points of data it shows: as many marks must be there.
    pub(super) points: usize,
}

/// The colours, by their number.
const COLOURS: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];
/// The colour of what a peer did.
const PEER: &str = "peer";

/// A method has its colour wherever it occurs.
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

/// What tells settings apart that have the link in common.
fn names_without_link(rows: &[&SettingReport]) -> Vec<String> {
    let settings: Vec<Setting> = rows.iter().map(|row| row.setting.over(None)).collect();
    setting::names(&settings)
}

/// All charts for which the report has data.
pub(super) fn all(report: &BenchReport) -> Vec<Chart> {
    let mut charts = Vec::new();
    let links = || report.links.iter().filter(|link| link.measured);
    for link in links() {
        charts.extend(times::time_and_bytes(report, &link.link));
    }
    charts.extend(times::link_rates(report));
    for link in links() {
        charts.extend(times::thread_scaling(report, &link.link));
    }
    charts.extend(bars::cpu_split(report));
    charts.extend(codecs::codecs(report));
    charts.extend(bars::delta_rounds(report));
    charts.push(bars::page_classes(report));
    charts
}
