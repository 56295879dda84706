//! What is known of a peer's migrations, as part of the document.

use serde::Serialize;
use serde_json::Value;

use crate::bench::statistics::{Summary, Suspicion};

/// What is said of rows that lack the later rounds that others have.
pub const BULK_ONLY: &str = ", bulk only";

/// One migration between two QEMUs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerRun {
    /// Milliseconds from the command to migrate until both ends say that they are done.
    pub time: f64,
    /// Bytes of RAM's stream; null where QEMU does not count them.
    pub wire_bytes: Option<u64>,
    /// The source process's CPU seconds meanwhile.
    pub source_cpu_seconds: f64,
    /// The destination process's CPU seconds meanwhile.
    pub destination_cpu_seconds: f64,
}

/// What a peer was told to do.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerMode {
    /// What the peer is: QEMU, and its version.
    pub peer: String,
    /// The way, in words.
    #[serde(rename = "way")]
    pub name: String,
    /// Whether our settings had later images as well, which no peer has.
    pub bulk_only: bool,
    /// The capability that was on at both ends.
    pub capability: Option<&'static str>,
    /// The parameters of the source, as QMP has them.
    pub source_parameters: Value,
    /// The parameters of the destination, as QMP has them.
    pub destination_parameters: Value,
}

/// The migrations of one of QEMU's ways. Summaries are null where nothing is known.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerReport {
    /// The peer and its way.
    pub name: String,
    /// The same apart, and what was set.
    #[serde(flatten)]
    pub mode: PeerMode,
    /// Why it was not measured any further.
    pub error_desc: Option<String>,
    /// Each run.
    pub runs: Vec<PeerRun>,
    /// How long it took.
    pub time: Option<Summary>,
    /// RAM, holes included, by the time.
    pub ram_bytes_per_second: Option<Summary>,
    /// Bytes of RAM's stream by the time, where QEMU counts them.
    pub wire_bytes_per_second: Option<Summary>,
    /// Bytes of RAM's stream, where QEMU counts them.
    pub wire_bytes: Option<Summary>,
    /// Bytes of guest RAM for each of those.
    pub ratio: Option<Summary>,
    /// The source process's CPU seconds.
    pub source_cpu_seconds: Option<Summary>,
    /// The destination process's CPU seconds.
    pub destination_cpu_seconds: Option<Summary>,
    /// CPU seconds of both for each GiB of RAM.
    pub cpu_seconds_per_gib: Option<Summary>,
    /// What is suspicious about the times.
    #[serde(flatten)]
    pub suspicion: Suspicion,
}

impl PeerReport {
    /// Summarises the runs of one way with a guest of so many bytes of RAM.
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
