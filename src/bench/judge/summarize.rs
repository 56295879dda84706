//! What the runs of a setting come to, and how settings compare.

use std::collections::BTreeMap;

use super::noise::others;
use super::recommend;
use crate::advice::{self, Cost};
use crate::bench::limit::{self, Load};
use crate::bench::measure::codec_speed::CodecReport;
use crate::bench::measure::migrate::BenchRun;
use crate::bench::measure::setting::Setting;
use crate::bench::report::{BenchReport, GIB, SettingParameters, SettingReport};
use crate::bench::statistics::{Summary, Suspicion};
use crate::stats::Stage;

/// Summarises the runs of a setting on a machine of `cores` cores, with an image of which
/// `zero_bytes` are zero pages.
pub fn setting(
    (setting, name): (Setting, String),
    runs: &[BenchRun],
    codec_alone: Option<CodecReport>,
    cores: usize,
    zero_bytes: u64,
) -> SettingReport {
    let summary = |of: fn(&BenchRun) -> f64| Summary::of(runs.iter().map(of));
    let some = |of: fn(&BenchRun) -> Option<f64>| Summary::of(runs.iter().filter_map(of));
    let times: Vec<f64> = runs.iter().map(|run| run.time).collect();
    let mut report = SettingReport {
        name,
        parameters: SettingParameters::of(&setting),
        time: summary(|run| run.time),
        ram_bytes_per_second: summary(|run| rate(run.ram_bytes, run.time)),
        wire_bytes_per_second: summary(|run| rate(run.wire_bytes, run.time)),
        wire_bytes: summary(|run| run.wire_bytes as f64),
        ratio: summary(|run| run.ratio),
        source_cpu_seconds: summary(BenchRun::source_cpu),
        destination_cpu_seconds: summary(BenchRun::destination_cpu),
        cpu_seconds_per_gib: summary(|run| {
            let gib = run.ram_bytes.max(1) as f64 / GIB;
            (run.source_cpu() + run.destination_cpu()) / gib
        }),
        downtime: some(|run| run.downtime),
        peak_anonymous_bytes: some(|run| run.peak_anonymous_bytes.map(|bytes| bytes as f64)),
        data_bytes_per_second: Summary::of(runs.iter().map(|run| {
            let bytes = run.ram_bytes.saturating_sub(zero_bytes);
            rate(bytes, run.time)
        })),
        codec_alone_cpu_seconds: codec_alone
            .as_ref()
            .zip(summary(|run| run.codec_bytes as f64))
            .map(|(alone, bytes)| bytes.median / alone.compress_bytes_per_second.median.max(1.0)),
        codec_alone,
        codec_cpu_seconds: some(|run| Some(codec(run, &run.source_cpu_seconds)?.1)),
        codec_bytes_per_second: some(|run| {
            let (bytes, seconds) = codec(run, &run.source_cpu_seconds)?;
            Some(bytes / seconds)
        }),
        decompress_bytes_per_second: some(|run| {
            let (bytes, seconds) = codec(run, &run.destination_cpu_seconds)?;
            Some(bytes / seconds)
        }),
        suspicion: Suspicion::of(&times),
        dominated_by: None,
        limit: None,
        runs: runs.to_vec(),
        setting,
    };
    report.limit = load(&report, cores).map(|load| limit::limit(&load));
    report
}

fn load(report: &SettingReport, cores: usize) -> Option<Load> {
    let process_cpu = Summary::of(report.runs.iter().map(|run| run.process_cpu_seconds))?;
    let link = report.setting.link;
    Some(Load {
        time: report.time?.median,
        bytes: report.wire_bytes?.median,
        bits_per_second: link.map(|link| link.bits_per_second() as f64),
        source_cpu: report.source_cpu_seconds?.median,
        destination_cpu: report.destination_cpu_seconds?.median,
        process_cpu: process_cpu.median,
        others: others(&report.runs),
        compress_threads: usize::from(report.setting.compress_threads),
        decompress_threads: usize::from(report.setting.decompress_threads),
        cores,
    })
}

/// The bytes that one end's codec processed, and its CPU seconds; `None` if it did nothing.
fn codec(run: &BenchRun, stages: &BTreeMap<&'static str, f64>) -> Option<(f64, f64)> {
    let seconds = stages.get(Stage::Codec.name()).copied()?;
    (run.codec_bytes > 0 && seconds > 0.0).then_some((run.codec_bytes as f64, seconds))
}

/// Bytes per second.
fn rate(bytes: u64, milliseconds: f64) -> f64 {
    bytes as f64 / (milliseconds / 1e3).max(1e-9)
}

/// Fills in what follows only from comparing the settings: which are dominated, and what to choose.
pub fn compare_settings(report: &mut BenchReport) {
    let mut links: BTreeMap<String, Vec<(usize, Cost)>> = BTreeMap::new();
    for (index, setting) in report.settings.iter().enumerate() {
        if let Some(cost) = setting.cost() {
            let same = links.entry(setting.link()).or_default();
            same.push((index, cost));
        }
    }
    for same in links.values() {
        let costs: Vec<Cost> = same.iter().map(|(_, cost)| *cost).collect();
        for ((index, _), by) in same.iter().zip(advice::dominated_by(&costs)) {
            let name = by.map(|by| report.settings[same[by].0].name.clone());
            report.settings[*index].dominated_by = name;
        }
    }
    report.links = recommend::links(report);
}
