//! Compares compression settings by real migrations: both ends in one process, over a loopback
//! link, every run verified.
//!
//! A codec alone says little about a migration: zero pages are skipped, threads share cores with the
//! other end, the link and the compressor take turns, and everything has to be read, hashed, placed
//! and verified. So a measurement here *is* a migration, by the same code as between two hosts.
//!
//! | wing | what lives there |
//! |---|---|
//! | [`measure`] | which settings, how often, and one run of each |
//! | [`peer`] | a real QEMU's own modes, measured beside ours |
//! | [`judge`] | what the runs mean: summaries, recommendations, comparisons |
//! | `show` | views: terminal, HTML page, JSON, CSV, Markdown |
//!
//! Between them: [`statistics`] and [`limit`], pure functions over numbers, and [`report`], the
//! document that `judge` fills in and `show` presents. Imports go one way: `show` > `judge` >
//! `report` > `peer` > `measure` > `limit`, `statistics`.
//!
//! [`Bench`] puts them together: [`Bench::prepare`] checks the request and makes a plan,
//! [`Bench::measure`] runs it and reports to a [`Watch`], [`Bench::report`] is the result so far.
//!
//! Runs are interleaved, run 1 of every setting and then run 2 of every setting. A machine that gets
//! warm or busy slows all settings alike, and not just the one that happens to run at the time.

mod document;
pub mod judge;
pub mod limit;
pub mod measure;
pub mod peer;
mod prepare;
pub mod report;
mod schedule;
#[cfg(feature = "cli")]
pub mod show;
pub mod statistics;

use std::path::PathBuf;
use std::time::Duration;

use crate::advice::Goal;
use crate::caps::Caps;
use crate::error::{Error, Kind, Result};
use crate::image::{ImageFormat, Later};
use crate::inspect::Pages;
use crate::page::Digest;
use crate::params::Params;
use crate::stats::{Snapshot, Status};
use crate::synthetic::Mix;
use measure::budget::Budget;
use measure::codec_speed::Codecs;
use measure::conditions::BenchConditions;
use measure::migrate::BenchRun;
use measure::setting::Setting;
use measure::workload::{Transport, Workload};
use peer::{PeerReport, PeerSpec, QemuPeer};
pub use prepare::data_bytes;
use report::BenchReport;

/// What to compare, on which image, and how thoroughly.
#[derive(Debug, Clone)]
pub struct BenchRequest {
    /// The guest: a raw image of its RAM, or a guest folder.
    pub image: PathBuf,
    /// What to take the image and its later states for.
    pub image_format: ImageFormat,
    /// Whether running processes that can write the images are known not to: their guest is paused.
    pub paused: bool,
    /// The mix of pages and the seed of a synthetic guest.
    pub synthetic: Option<(Mix, u64)>,
    /// Later images of the same guest: a delta round each.
    pub then: Vec<Later>,
    /// The settings to compare, at least one.
    pub settings: Vec<Setting>,
    /// Notes for a reader of the result, a line each.
    pub notes: Vec<String>,
    /// Minimum number of runs of each setting, at least one.
    pub runs: u32,
    /// Minimum time for which each setting is measured.
    pub min_time: Duration,
    /// Maximum time of the whole benchmark.
    pub max_time: Option<Duration>,
    /// What the recommendation optimises.
    pub goal: Goal,
    /// What connects the two ends.
    pub transport: Transport,
    /// The parameters that all settings share.
    pub params: Params,
    /// The capabilities that all settings share.
    pub caps: Caps,
    /// A QEMU whose own modes of migration are measured too.
    pub peer: Option<PeerSpec>,
}

/// One step of a benchmark.
#[derive(Debug, Clone)]
pub struct Task {
    /// The setting, `memcpy`, the codecs alone, or a peer's mode.
    pub name: String,
    /// The number of the run, from 1; 0 for the warm-up.
    pub run: u32,
    /// The number of the task, from 0.
    pub number: usize,
    /// How long it is expected to take.
    pub expected: Duration,
    /// How long everything before it was expected to take.
    pub before: Duration,
}

/// Observes the progress of a benchmark.
pub trait Watch {
    /// A task begins.
    fn begin(&mut self, _task: &Task) {}
    /// The progress of the current migration.
    fn progress(&mut self, _now: &Snapshot) {}
    /// The current task has ended.
    fn end(&mut self, _task: &Task, _time: Duration) {}
    /// A setting has all its runs: the one with this index in the report so far.
    fn setting_done(&mut self, _report: &BenchReport, _index: usize) {}
    /// A peer's mode has all its runs: the one with this index in the report so far.
    fn peer_done(&mut self, _report: &BenchReport, _index: usize) {}
    /// The current task failed for this reason, and the benchmark continues without it.
    fn failed(&mut self, _task: &Task, _why: &str) {}
    /// A run was counted.
    ///
    /// # Errors
    /// Any reason to end the benchmark.
    fn counted(&mut self, _bench: &Bench) -> Result<()> {
        Ok(())
    }
}

/// Observes nothing.
impl Watch for () {}

/// A benchmark, with what has been measured so far.
#[derive(Debug)]
pub struct Bench {
    request: BenchRequest,
    workload: Workload,
    scratch: PathBuf,
    conditions: BenchConditions,
    ram_bytes: u64,
    data_bytes: u64,
    pages: Pages,
    /// What must arrive.
    digest: Digest,
    budget: Budget,
    dropped: Vec<String>,
    names: Vec<String>,
    /// How long a run of each setting is expected to take.
    expected: Vec<Duration>,
    runs: Vec<Vec<BenchRun>>,
    copies: Vec<Duration>,
    codecs: Codecs,
    peer: Option<QemuPeer>,
    status: Status,
    error: Option<String>,
}

impl Bench {
    /// The forecast of how long all of it takes, made before the first run.
    pub fn expected(&self) -> Duration {
        self.budget.expected
    }

    /// The number of runs of each setting, unless more are needed to fill its minimum time.
    pub fn runs(&self) -> u32 {
        self.budget.runs
    }

    /// What is measured, settings and then the peer's modes, and how long a run is expected to take.
    pub fn forecast(&self) -> Vec<(String, Duration)> {
        let peer = self.peer.iter().flat_map(|peer| {
            let expected = peer.expected(self.codecs.data_bytes(), self.conditions.cores);
            peer.names().into_iter().zip(expected)
        });
        let settings = self.names.iter().cloned();
        settings
            .zip(self.expected.iter().copied())
            .chain(peer)
            .collect()
    }

    /// The settings that were left out to fit into the time.
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// Notes for the user before the first run, a line each.
    pub fn notes(&self) -> &[String] {
        &self.request.notes
    }

    /// The number of tasks of [`Bench::measure`], at least.
    pub fn tasks(&self) -> usize {
        let besides = 1 + usize::from(!self.codecs.is_empty());
        let peers = self.peer.iter().flat_map(QemuPeer::names).count();
        1 + self.budget.runs as usize * (besides + self.request.settings.len() + peers)
    }

    /// Why no mode of the requested peer could be measured, if that is so.
    pub fn peer_failure(&self) -> Option<Error> {
        let reports = self.peer.as_ref()?.reports();
        let failure =
            |report: &PeerReport| report.error_desc.clone().filter(|_| report.runs.is_empty());
        let failures: Vec<String> = reports.iter().map_while(failure).collect();
        let first = failures
            .first()
            .filter(|_| failures.len() == reports.len())?;
        Some(Error::new(
            Kind::Failed,
            format!("the peer could not be measured: {first}"),
        ))
    }
}

#[cfg(test)]
mod tests;
