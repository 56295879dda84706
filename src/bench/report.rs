//! What is made of the runs: the document that `--json` and `--export-json` write, of which the
//! table, the other exports and the page are views.
//!
//! # The document
//! `schema` is [`SCHEMA`] and `schema-version` [`SCHEMA_VERSION`], which grows whenever a member
//! changes its meaning or goes; a member that is added changes nothing. Times are milliseconds and
//! sizes bytes, rates bytes a second, unless a name says otherwise. A member is null where there is
//! nothing to say. Every summary is `{min, median, max, mad}` over the runs of a setting, and every
//! run is there too, in the order in which it was measured. Members of a run carry the names of a
//! migration's own report ([`crate::stats::Report`]).
//!
//! | member | what it is |
//! |---|---|
//! | `status`, `error-desc` | `completed`, or how far it came and why no further |
//! | `version` | of this crate |
//! | `conditions` | [`Conditions`]: machine, kernel, load, codecs |
//! | `image` | [`Image`]: what was migrated, its digest and its pages by class |
//! | `plan` | [`PlanReport`]: what was to be measured, and what was left out |
//! | `memcpy` | [`Memcpy`]: the plain copy of the image |
//! | `settings` | [`SettingReport`] each: parameters, runs, summaries |
//! | `peers` | [`PeerReport`] each: a QEMU's own ways, if there is one, over a link that is not emulated |
//! | `links` | [`LinkReport`] each: the best settings and the recommendation |

use std::collections::BTreeMap;

use serde::Serialize;

use super::alone::AloneReport;
use super::conditions::Conditions;
use super::limit::{self, Limit, Load};
use super::matrix::{Setting, link_name};
use super::measurement::{Run, Transport};
use super::peer::PeerReport;
use super::recommend::{self, LinkReport};
use super::statistics::{Summary, Suspicion};
use crate::advice::{self, Cost, Goal};
use crate::inspect::Pages;
use crate::page::Digest;
use crate::params::Value;
use crate::stats::{Stage, Status};

/// What `schema` says.
pub const SCHEMA: &str = "ramferry-bench";
/// What `schema-version` says.
pub const SCHEMA_VERSION: u32 = 1;
/// The name of the row that is no migration.
pub const MEMCPY: &str = "memcpy";
/// The name of the task that is none either: its results stand with each setting.
pub const ALONE: &str = "the codecs alone";

pub(super) const MIB: f64 = (1_u64 << 20) as f64;
pub(super) const GIB: f64 = (1_u64 << 30) as f64;

/// What was measured, on what, and how.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// `completed`, or how far it came.
    pub status: Status,
    /// Why it did not come further.
    pub error_desc: Option<String>,
    /// The version of this crate.
    pub version: &'static str,
    /// Where it was measured.
    pub conditions: Conditions,
    /// What was migrated.
    pub image: Image,
    /// What was to be measured.
    pub plan: PlanReport,
    /// The plain copy.
    pub memcpy: Memcpy,
    /// The migrations.
    pub settings: Vec<SettingReport>,
    /// A QEMU's own ways of migrating the same image.
    pub peers: Vec<PeerReport>,
    /// What is best over each link.
    pub links: Vec<LinkReport>,
}

/// What was migrated.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Image {
    /// The file or the folder, or `synthetic`.
    pub path: String,
    /// What it was synthesised as: `idle`, `busy`, `database` or `random`.
    pub mix: Option<&'static str>,
    /// And from what.
    pub seed: Option<u64>,
    /// Its later states.
    pub then: Vec<String>,
    /// Its size.
    pub ram_bytes: u64,
    /// What of it is no hole.
    pub data_bytes: u64,
    /// The RAM digest of what had to arrive: of the last state, if there are later ones.
    pub digest: Digest,
    /// The first state's pages, by what they hold.
    pub pages: Pages,
}

/// What was to be measured, and how.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlanReport {
    /// Counted runs of each setting, at least.
    pub runs: u32,
    /// Milliseconds for which each setting was to be measured at least.
    pub min_time: f64,
    /// Milliseconds that all of it was allowed to take.
    pub max_time: Option<f64>,
    /// Milliseconds that it was expected to take.
    pub expected_time: f64,
    /// Settings that were left out to fit into that.
    pub dropped: Vec<String>,
    /// What else somebody should know, a line each.
    pub notes: Vec<String>,
    /// What the recommendation looks at.
    pub goal: Goal,
    /// What joined the two ends.
    pub transport: Transport,
    /// Where what arrived was written to.
    pub scratch: String,
    /// The parameters that all settings have in common.
    pub parameters: BTreeMap<&'static str, Value>,
    /// Which capabilities were on; deltas and the qemu wire's compression are the setting's.
    pub capabilities: BTreeMap<&'static str, bool>,
}

/// The plain copy of the image's data out of its map.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memcpy {
    /// Copying threads.
    pub threads: usize,
    /// Each run's time.
    pub runs: Vec<f64>,
    /// How long it took.
    pub time: Option<Summary>,
    /// The guest's RAM, holes included, by the time.
    pub ram_bytes_per_second: Option<Summary>,
    /// The same without zero pages.
    pub data_bytes_per_second: Option<Summary>,
}

/// A setting's parameters: what the axes were.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SettingParameters {
    /// What compressed.
    pub compress_method: &'static str,
    /// At which level.
    pub compress_level: u8,
    /// Compressing threads.
    pub compress_threads: u8,
    /// Decompressing threads.
    pub decompress_threads: u8,
    /// Pages in a batch.
    pub batch_pages: u16,
    /// Connections.
    pub connections: u8,
    /// The delta cache; null without deltas.
    pub xbzrle_cache_size: Option<u64>,
    /// What compressed for zlib and gzip.
    pub zlib_engine: &'static str,
    /// The emulated link; null for the link as it is.
    pub link: Option<String>,
    /// `native` or `qemu`.
    pub wire: &'static str,
}

impl SettingParameters {
    /// Those of a setting.
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
    /// The method and whatever else not all settings have in common.
    pub name: String,
    /// Everything in which settings may differ.
    pub parameters: SettingParameters,
    /// Each run.
    pub runs: Vec<Run>,
    /// From the source's start until the destination had taken over.
    pub time: Option<Summary>,
    /// RAM that was handled, in all rounds together and holes included, by the time.
    pub ram_bytes_per_second: Option<Summary>,
    /// Bytes on the wire by the time.
    pub wire_bytes_per_second: Option<Summary>,
    /// Every byte from source to destination.
    pub wire_bytes: Option<Summary>,
    /// Bytes of guest RAM for each byte on the wire.
    pub ratio: Option<Summary>,
    /// The source's CPU seconds.
    pub source_cpu_seconds: Option<Summary>,
    /// The destination's CPU seconds.
    pub destination_cpu_seconds: Option<Summary>,
    /// CPU seconds of both ends for each GiB of RAM that was handled.
    pub cpu_seconds_per_gib: Option<Summary>,
    /// From the last round's beginning to the proof; only if there were later rounds.
    pub downtime: Option<Summary>,
    /// What both ends took of anonymous memory at the most.
    pub peak_anonymous_bytes: Option<Summary>,
    /// The same without the first image's zero pages, which no codec sees.
    pub data_bytes_per_second: Option<Summary>,
    /// What the codec does alone; null without one.
    pub codec_alone: Option<AloneReport>,
    /// CPU seconds that the codec alone needs, by its median, to compress as many bytes as were
    /// compressed here.
    pub codec_alone_cpu_seconds: Option<f64>,
    /// CPU seconds of the source's codec stage: the codec in the pipeline.
    pub codec_cpu_seconds: Option<Summary>,
    /// What the codec does in the pipeline: bytes in for each second of the source's CPU time.
    pub codec_bytes_per_second: Option<Summary>,
    /// And bytes out for each second of the destination's.
    pub decompress_bytes_per_second: Option<Summary>,
    /// What is suspicious about the times.
    #[serde(flatten)]
    pub suspicion: Suspicion,
    /// Which other setting over the same link beats it on time, bytes and CPU.
    pub dominated_by: Option<String>,
    /// What limited it.
    pub limit: Option<Limit>,
    /// The setting itself.
    #[serde(skip)]
    pub setting: Setting,
}

/// What all settings of a comparison have in common.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// Cores that both ends share.
    pub cores: usize,
    /// Zero pages of the first image, in bytes.
    pub zero_bytes: u64,
}

impl SettingReport {
    /// Summarises the runs of a setting.
    pub fn new(
        setting: Setting,
        name: String,
        runs: &[Run],
        codec_alone: Option<AloneReport>,
        circumstances: &Circumstances,
    ) -> SettingReport {
        let Circumstances { cores, zero_bytes } = *circumstances;
        let summary = |of: fn(&Run) -> f64| Summary::of(runs.iter().map(of));
        let some = |of: fn(&Run) -> Option<f64>| Summary::of(runs.iter().filter_map(of));
        let times: Vec<f64> = runs.iter().map(|run| run.time).collect();
        let codec_bytes = Summary::of(runs.iter().map(|run| run.codec_bytes as f64));
        let alone_cpu = codec_alone
            .as_ref()
            .zip(codec_bytes)
            .map(|(alone, bytes)| bytes.median / alone.compress_bytes_per_second.median.max(1.0));
        let mut report = SettingReport {
            name,
            parameters: SettingParameters::of(&setting),
            time: summary(|run| run.time),
            ram_bytes_per_second: summary(|run| rate(run.ram_bytes, run.time)),
            wire_bytes_per_second: summary(|run| rate(run.wire_bytes, run.time)),
            wire_bytes: summary(|run| run.wire_bytes as f64),
            ratio: summary(|run| run.ratio),
            source_cpu_seconds: summary(Run::source_cpu),
            destination_cpu_seconds: summary(Run::destination_cpu),
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
            codec_alone,
            codec_alone_cpu_seconds: alone_cpu,
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
        report.limit = report.load(cores).map(|load| limit::limit(&load));
        report
    }

    /// What it costs, by medians; `None` if nothing was measured.
    pub fn cost(&self) -> Option<Cost> {
        Some(Cost {
            time: self.time?.median,
            bytes: self.wire_bytes?.median,
            cpu: self.source_cpu_seconds?.median + self.destination_cpu_seconds?.median,
            downtime: self.downtime.map(|summary| summary.median),
        })
    }

    fn load(&self, cores: usize) -> Option<Load> {
        Some(Load {
            time: self.time?.median,
            bytes: self.wire_bytes?.median,
            bits_per_second: self.setting.link.map(|link| link.bits_per_second() as f64),
            source_cpu: self.source_cpu_seconds?.median,
            destination_cpu: self.destination_cpu_seconds?.median,
            process_cpu: Summary::of(self.runs.iter().map(|run| run.process_cpu_seconds))?.median,
            others: recommend::others(&self.runs),
            compress_threads: usize::from(self.setting.compress_threads),
            decompress_threads: usize::from(self.setting.decompress_threads),
            cores,
        })
    }

    /// The link's name.
    pub fn link(&self) -> String {
        link_name(self.setting.link)
    }
}

/// The bytes that one end's codec had to do with, and its CPU seconds; `None` if it had nothing to
/// do.
fn codec(run: &Run, stages: &BTreeMap<&'static str, f64>) -> Option<(f64, f64)> {
    let seconds = stages.get(Stage::Codec.name()).copied()?;
    (run.codec_bytes > 0 && seconds > 0.0).then_some((run.codec_bytes as f64, seconds))
}

/// Bytes a second.
fn rate(bytes: u64, milliseconds: f64) -> f64 {
    bytes as f64 / (milliseconds / 1e3).max(1e-9)
}

/// Fills in what only a comparison with the other settings says, and the recommendations.
pub fn compare_settings(report: &mut Report) {
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

impl Report {
    /// Whether there is a migration in it.
    pub fn has_runs(&self) -> bool {
        self.settings.iter().any(|setting| !setting.runs.is_empty())
    }
}

#[cfg(test)]
pub(super) mod tests;
