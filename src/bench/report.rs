//! The document that `--json` and `--export-json` write, and that the table, the other exports and
//! the page are views of.
//!
//! # The document
//! `schema` is [`SCHEMA`] and `schema-version` [`SCHEMA_VERSION`], which grows whenever a member
//! changes its meaning or is removed; an added member changes nothing. Times are milliseconds, sizes
//! bytes, and rates bytes per second, unless a name says otherwise. A member is null where nothing is
//! known. Every summary is `{min, median, max, mad}` over the runs of a setting, and every run is
//! there too, in the order of measurement. Members of a run have the names of a migration's own
//! report ([`crate::stats::Report`]).
//!
//! | member | what it is |
//! |---|---|
//! | `status`, `error-desc` | `completed`, or how far it got and why no further |
//! | `version` | of this crate |
//! | `conditions` | [`BenchConditions`]: machine, kernel, load, codecs |
//! | `image` | [`ImageReport`]: what was migrated, its digest and its pages by class |
//! | `plan` | [`PlanReport`]: what was to be measured, and what was left out |
//! | `memcpy` | [`Memcpy`]: the plain copy of the image |
//! | `settings` | [`SettingReport`] each: parameters, runs, summaries |
//! | `peers` | [`PeerReport`] each: a QEMU's own modes, if there is one, over a link that is not emulated |
//! | `links` | [`LinkReport`] each: the best settings and the recommendation |

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;

use super::limit::Limit;
use super::measure::codec_speed::CodecReport;
use super::measure::conditions::BenchConditions;
use super::measure::migrate::BenchRun;
use super::measure::setting::{Setting, link_name};
use super::measure::workload::Transport;
use super::peer::PeerReport;
use super::statistics::{Summary, Suspicion};
use crate::advice::{Cost, Goal};
use crate::inspect::Pages;
use crate::page::Digest;
use crate::params::Value;
use crate::stats::Status;

/// The value of `schema`.
pub const SCHEMA: &str = "ramferry-bench";
/// The value of `schema-version`.
pub const SCHEMA_VERSION: u32 = 1;
/// The name of the plain copy's row.
pub const MEMCPY: &str = "memcpy";
/// The name of the task that runs every codec alone. Its results are in the settings' reports.
pub const CODECS_ALONE: &str = "the codecs alone";

#[cfg(feature = "cli")]
pub(super) const MIB: f64 = (1_u64 << 20) as f64;
pub(super) const GIB: f64 = (1_u64 << 30) as f64;

/// What was measured, on what, and how.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BenchReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// `completed`, or how far it got.
    pub status: Status,
    /// Why it did not complete.
    pub error_desc: Option<String>,
    /// The version of this crate.
    pub version: &'static str,
    /// The machine and its state.
    pub conditions: BenchConditions,
    /// What was migrated.
    pub image: ImageReport,
    /// What was to be measured.
    pub plan: PlanReport,
    /// The plain copy.
    pub memcpy: Memcpy,
    /// Each setting's migrations.
    pub settings: Vec<SettingReport>,
    /// A QEMU's own modes of migrating the same image.
    pub peers: Vec<PeerReport>,
    /// The best settings over each link.
    pub links: Vec<LinkReport>,
}

impl BenchReport {
    /// Whether at least one migration was measured.
    pub fn has_runs(&self) -> bool {
        self.settings.iter().any(|setting| !setting.runs.is_empty())
    }
}

/// The images of a benchmark.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageReport {
    /// The path of the image, or `synthetic`.
    pub path: String,
    /// The mix of a synthetic guest: `idle`, `busy`, `database` or `random`.
    pub mix: Option<&'static str>,
    /// The seed of a synthetic guest.
    pub seed: Option<u64>,
    /// The paths of later images.
    pub then: Vec<String>,
    /// Those of them that are diffs, in which holes are unchanged pages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diffs: Vec<String>,
    /// The size of the RAM.
    pub ram_bytes: u64,
    /// The part of it that is not holes.
    pub data_bytes: u64,
    /// The RAM digest that had to arrive: of the last image, if there are later ones.
    pub digest: Digest,
    /// The first image's pages, by what they hold.
    pub pages: Pages,
}

/// What was to be measured, and how.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlanReport {
    /// Minimum number of counted runs of each setting.
    pub runs: u32,
    /// Minimum time for each setting, in milliseconds.
    pub min_time: f64,
    /// Maximum time of everything, in milliseconds.
    pub max_time: Option<f64>,
    /// The forecast of the whole time, in milliseconds.
    pub expected_time: f64,
    /// Settings that were left out to fit into the maximum time.
    pub dropped: Vec<String>,
    /// Notes for the reader, a line each.
    pub notes: Vec<String>,
    /// What the recommendation optimises.
    pub goal: Goal,
    /// What connected the two ends.
    pub transport: Transport,
    /// The folder to which received RAM was written.
    pub scratch: String,
    /// The parameters that all settings share.
    pub parameters: BTreeMap<&'static str, Value>,
    /// Which capabilities were on. Deltas, and compression on the qemu wire, belong to the setting.
    pub capabilities: BTreeMap<&'static str, bool>,
}

/// The plain copy of the image's data out of its memory map.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memcpy {
    /// Threads that copied.
    pub threads: usize,
    /// The time of each run.
    pub runs: Vec<f64>,
    /// The time of all runs.
    pub time: Option<Summary>,
    /// The guest's RAM, holes included, divided by the time.
    pub ram_bytes_per_second: Option<Summary>,
    /// The same without zero pages.
    pub data_bytes_per_second: Option<Summary>,
}

/// Everything in which settings may differ.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SettingParameters {
    /// The compression method.
    pub compress_method: &'static str,
    /// Its level.
    pub compress_level: u8,
    /// Compression threads.
    pub compress_threads: u8,
    /// Decompression threads.
    pub decompress_threads: u8,
    /// Pages in a batch.
    pub batch_pages: u16,
    /// Number of connections.
    pub connections: u8,
    /// The size of the delta cache; null without deltas.
    pub xbzrle_cache_size: Option<u64>,
    /// The library that compresses for zlib and gzip.
    pub zlib_engine: &'static str,
    /// The emulated link; null if none is emulated.
    pub link: Option<String>,
    /// `native` or `qemu`.
    pub wire: &'static str,
}

impl SettingParameters {
    /// The parameters of a setting.
    pub fn of(setting: &Setting) -> SettingParameters {
        let params = setting.apply(&crate::params::Params::default());
        SettingParameters {
            compress_method: setting.compression.method.name(),
            compress_level: setting.compression.level,
            compress_threads: setting.compress_threads,
            decompress_threads: setting.decompress_threads,
            batch_pages: params.batch_pages(),
            connections: setting.connections,
            xbzrle_cache_size: setting.xbzrle,
            zlib_engine: setting.zlib_engine.name(),
            link: setting.link.map(|link| link.to_string()),
            wire: setting.wire.name(),
        }
    }
}

/// The migrations of one setting. Summaries are null if there was no run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SettingReport {
    /// The method and every other parameter in which the settings differ.
    pub name: String,
    /// The setting's parameters.
    pub parameters: SettingParameters,
    /// Each run.
    pub runs: Vec<BenchRun>,
    /// From the source's start until the destination had taken over.
    pub time: Option<Summary>,
    /// RAM handled in all rounds together, holes included, divided by the time.
    pub ram_bytes_per_second: Option<Summary>,
    /// Bytes on the wire divided by the time.
    pub wire_bytes_per_second: Option<Summary>,
    /// Bytes from source to destination.
    pub wire_bytes: Option<Summary>,
    /// Bytes of guest RAM per byte on the wire.
    pub ratio: Option<Summary>,
    /// CPU seconds of the source.
    pub source_cpu_seconds: Option<Summary>,
    /// CPU seconds of the destination.
    pub destination_cpu_seconds: Option<Summary>,
    /// CPU seconds of both ends per GiB of RAM handled.
    pub cpu_seconds_per_gib: Option<Summary>,
    /// From the beginning of the last round to the proof; only with later rounds.
    pub downtime: Option<Summary>,
    /// Peak of anonymous memory of both ends.
    pub peak_anonymous_bytes: Option<Summary>,
    /// As `ram_bytes_per_second`, without the first image's zero pages, which no codec sees.
    pub data_bytes_per_second: Option<Summary>,
    /// The codec alone; null without one.
    pub codec_alone: Option<CodecReport>,
    /// CPU seconds that the codec alone, at its median speed, needs for as many bytes as were
    /// compressed here.
    pub codec_alone_cpu_seconds: Option<f64>,
    /// CPU seconds of the source's codec stage: the codec in the pipeline.
    pub codec_cpu_seconds: Option<Summary>,
    /// The codec in the pipeline: bytes in per second of the source's CPU time.
    pub codec_bytes_per_second: Option<Summary>,
    /// The codec in the pipeline: bytes out per second of the destination's CPU time.
    pub decompress_bytes_per_second: Option<Summary>,
    /// Outliers among the times.
    #[serde(flatten)]
    pub suspicion: Suspicion,
    /// Another setting over the same link that is better in time, bytes and CPU.
    pub dominated_by: Option<String>,
    /// What limited it.
    pub limit: Option<Limit>,
    /// The setting itself.
    #[serde(skip)]
    pub setting: Setting,
}

impl SettingReport {
    /// The cost, by medians; `None` if nothing was measured.
    pub fn cost(&self) -> Option<Cost> {
        Some(Cost {
            time: self.time?.median,
            bytes: self.wire_bytes?.median,
            cpu: self.source_cpu_seconds?.median + self.destination_cpu_seconds?.median,
            downtime: self.downtime.map(|summary| summary.median),
        })
    }

    /// The link's name.
    pub fn link(&self) -> String {
        link_name(self.setting.link)
    }
}

/// The best settings over one link.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LinkReport {
    /// The link, or `unlimited`.
    pub link: String,
    /// Whether it was measured, or is computed from what was measured without a limit.
    pub measured: bool,
    /// The time of each setting over this link.
    pub times: Vec<LinkTime>,
    /// The best setting for each goal. Settings within `best_tolerance` of the least count as equal,
    /// and of those it is the one that takes the least CPU (for the goal `cpu`, the least time).
    pub best: BTreeMap<&'static str, String>,
    /// How far the costs of equally good settings may differ: 0.02 is 2 %.
    pub best_tolerance: f64,
    /// The recommendation for the requested goal.
    pub recommended: Recommendation,
    /// Below which rate each setting that compresses pays. Empty if nothing was measured without
    /// compression, or if a faster link was measured.
    pub break_even: Vec<BreakEvenReport>,
}

/// The time of a setting over a link.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LinkTime {
    /// The setting, without the link.
    pub setting: String,
    /// Milliseconds.
    pub time: f64,
}

/// The recommended setting, why, and the commands that choose it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recommendation {
    /// The setting's name.
    pub setting: String,
    /// Milliseconds over this link.
    pub time: f64,
    /// Milliseconds of downtime, with later rounds.
    pub downtime: Option<f64>,
    /// What limits it.
    pub limit: Limit,
    /// The comparison with the best setting that does not compress; if that is the recommended one,
    /// with the best that does. Null if there is no other.
    pub alternative: Option<Alternative>,
    /// The rate of the link, in bits per second, below which compression pays.
    pub pays_below: Option<f64>,
    /// All of this in a sentence or two.
    pub reason: String,
    /// The command for the destination.
    pub receive: String,
    /// The command for the source.
    pub send: String,
    /// The setting of the next two members: the same, or the best that QEMU supports. Null if there
    /// is none.
    pub qemu_setting: Option<String>,
    /// virsh's command. With multifd, the channels are the threads.
    pub virsh: Option<String>,
    /// QMP commands, for both ends.
    pub qmp: Vec<Json>,
    /// The same by the capability `compress`, for a QEMU up to 9.0; null if it lacks the method.
    pub qemu_compress: Option<QemuCommands>,
}

/// What a recommended setting is compared with.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Alternative {
    /// The other setting.
    pub setting: String,
    /// Milliseconds of the other setting.
    pub time: f64,
    /// How many times as fast the recommended one is.
    pub times_as_fast: f64,
    /// Its bytes on the wire, in percent of the other's.
    pub bytes_percent: f64,
    /// Its CPU seconds less the other's.
    pub more_cpu_seconds: f64,
    /// Whether their times differ by more than their noise.
    pub measurable: bool,
}

/// One way of setting up a QEMU.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QemuCommands {
    /// virsh's command.
    pub virsh: String,
    /// QMP commands, for both ends; none where everything is at its default.
    pub qmp: Vec<Json>,
}

/// The rate of the link below which a setting that compresses pays.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BreakEvenReport {
    /// The setting that compresses.
    pub setting: String,
    /// The fastest setting that does not.
    pub plain: String,
    /// `always`, `never` or `below`.
    pub verdict: &'static str,
    /// The rate, in bits per second.
    pub bits_per_second: Option<f64>,
}

#[cfg(test)]
pub(super) mod tests;
