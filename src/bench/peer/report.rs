//! A peer's migrations, as part of the report.

use serde::Serialize;
use serde_json::Value;

use crate::bench::statistics::{Summary, Suspicion};

/// The mark of rows without the later rounds that others have.
pub const BULK_ONLY: &str = ", bulk only";

/// One migration between two QEMUs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerRun {
    /// Milliseconds from the command `migrate` until both ends have completed.
    pub time: f64,
    /// Bytes of the RAM stream; null if QEMU does not count them.
    pub wire_bytes: Option<u64>,
    /// The source process's CPU seconds during that time.
    pub source_cpu_seconds: f64,
    /// The destination process's CPU seconds during that time.
    pub destination_cpu_seconds: f64,
}

/// A peer's mode of migration, and how it was set.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerMode {
    /// QEMU and its version.
    pub peer: String,
    /// The mode's name.
    #[serde(rename = "way")]
    pub name: String,
    /// Whether our settings had later images, which no peer has.
    pub bulk_only: bool,
    /// The capability that was on at both ends.
    pub capability: Option<&'static str>,
    /// The parameters of the source, as QMP has them.
    pub source_parameters: Value,
    /// The parameters of the destination, as QMP has them.
    pub destination_parameters: Value,
}

/// The migrations of one of QEMU's modes. Summaries are null where nothing is known.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerReport {
    /// The peer and its mode.
    pub name: String,
    /// The same as separate members, and the parameters.
    #[serde(flatten)]
    pub mode: PeerMode,
    /// Why it failed and was not measured any further.
    pub error_desc: Option<String>,
    /// Each run.
    pub runs: Vec<PeerRun>,
    /// The time of all runs.
    pub time: Option<Summary>,
    /// RAM, holes included, divided by the time.
    pub ram_bytes_per_second: Option<Summary>,
    /// Bytes of the RAM stream divided by the time, if QEMU counts them.
    pub wire_bytes_per_second: Option<Summary>,
    /// Bytes of the RAM stream, if QEMU counts them.
    pub wire_bytes: Option<Summary>,
    /// Bytes of guest RAM per byte of the stream.
    pub ratio: Option<Summary>,
    /// The source process's CPU seconds.
    pub source_cpu_seconds: Option<Summary>,
    /// The destination process's CPU seconds.
    pub destination_cpu_seconds: Option<Summary>,
    /// CPU seconds of both per GiB of RAM.
    pub cpu_seconds_per_gib: Option<Summary>,
    /// Outliers among the times.
    #[serde(flatten)]
    pub suspicion: Suspicion,
}

impl PeerReport {
    /// Summarises the runs of one mode with a guest of `ram_bytes` bytes.
    pub fn new(
        mode: PeerMode,
        runs: &[PeerRun],
        error_desc: Option<String>,
        ram_bytes: u64,
    ) -> PeerReport {
        let summary = |of: &dyn Fn(&PeerRun) -> f64| Summary::of(runs.iter().map(of));
        let some = |of: &dyn Fn(&PeerRun) -> Option<f64>| Summary::of(runs.iter().filter_map(of));
        let ram = ram_bytes as f64;
        let times: Vec<f64> = runs.iter().map(|run| run.time).collect();
        let rest = if mode.bulk_only { BULK_ONLY } else { "" };
        PeerReport {
            name: format!("{} {}{rest}", mode.peer, mode.name),
            mode,
            error_desc,
            time: summary(&|run| run.time),
            ram_bytes_per_second: summary(&|run| ram * 1e3 / run.time.max(1e-6)),
            wire_bytes_per_second: some(&|run| {
                Some(run.wire_bytes? as f64 * 1e3 / run.time.max(1e-6))
            }),
            wire_bytes: some(&|run| Some(run.wire_bytes? as f64)),
            ratio: some(&|run| Some(ram / run.wire_bytes?.max(1) as f64)),
            source_cpu_seconds: summary(&|run| run.source_cpu_seconds),
            destination_cpu_seconds: summary(&|run| run.destination_cpu_seconds),
            cpu_seconds_per_gib: summary(&|run| {
                let cpu = run.source_cpu_seconds + run.destination_cpu_seconds;
                cpu * (1_u64 << 30) as f64 / ram.max(1.0)
            }),
            suspicion: Suspicion::of(&times),
            runs: runs.to_vec(),
        }
    }
}
