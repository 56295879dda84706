//! How far a measurement was disturbed by other programs.

use crate::bench::limit::disturbs;
use crate::bench::measure::migrate::BenchRun;
use crate::bench::report::BenchReport;
use crate::bench::statistics::Summary;

/// Cores that other programs used during these runs, by the median; `None` if the system does not
/// report it.
pub fn others<'a>(runs: impl IntoIterator<Item = &'a BenchRun>) -> Option<f64> {
    let cores = runs.into_iter().filter_map(|run| {
        let others = run.machine_cpu_seconds? - run.process_cpu_seconds;
        Some(others.max(0.0) / (run.time / 1e3).max(1e-9))
    });
    Summary::of(cores).map(|cores| cores.median)
}

/// A warning if other programs used a good part of the machine during the whole benchmark.
pub fn disturbed(report: &BenchReport) -> Option<String> {
    let others = others(report.settings.iter().flat_map(|row| &row.runs))?;
    let conditions = &report.conditions;
    let load = conditions.load.map_or_else(String::new, |[minute, ..]| {
        format!(" (load average {minute:.2} before the first run)")
    });
    disturbs(others, conditions.cores).then(|| {
        format!(
            "other programs used {others:.1} of {} cores during the measurement{load}: do not trust \
             the times, measure again on a quiet machine",
            conditions.cores
        )
    })
}
