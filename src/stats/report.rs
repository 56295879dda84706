//! The report of a migration. As JSON it is QEMU's `query-migrate` with our additions.
//!
//! Members have QEMU's names wherever the meaning is QEMU's; all names are stable. In JSON, times are
//! milliseconds; sizes are bytes and rates Mbit/s unless a name says otherwise.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Owner, RoundStats, Snapshot, Stage, Status, Tally};
use crate::caps::{Capability, Caps};
use crate::page::{Digest, PAGE_SIZE};
use crate::params::{LinkSpec, Params};
use crate::wire::Format;
use crate::wire::qemu::MissingPages;

/// What `--json` prints at the end of a migration.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Report {
    /// `completed`, or how far it got.
    pub status: Status,
    /// From the start to the end.
    #[serde(serialize_with = "as_milliseconds")]
    pub total_time: Duration,
    /// Until the first round began.
    #[serde(serialize_with = "as_milliseconds")]
    pub setup_time: Duration,
    /// From stopping the writer to the proof; with later snapshots instead of a writer, from the
    /// start of the last round. The source's only, because the destination does not know when that
    /// was.
    #[serde(
        serialize_with = "as_milliseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub downtime: Option<Duration>,
    /// How long the writer would have been stopped, estimated by the last scan.
    #[serde(
        serialize_with = "as_milliseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub expected_downtime: Option<Duration>,
    /// How long the destination waited at the end until what it had proven was on disk. Part of the
    /// source's downtime, and not of its expected downtime. Absent at the source, and without syncing.
    #[serde(
        serialize_with = "as_milliseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub sync_time: Option<Duration>,
    /// How much the writer was slowed down at the end, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_throttle_percentage: Option<u8>,
    /// Which end may run the guest. Absent at a source whose image cannot be opened, and at both ends if the
    /// writer is not stopped (`--fuzzy`): it runs on at the source, and what arrives is a copy. QEMU's wire
    /// does not tell a destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<Owner>,
    /// What the user should know about the outcome, one line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Methods and capabilities that were requested and left out, because the destination lacks them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<&'static str>,
    /// Blocks of which a QEMU left pages out, as with `free-page-hint`. Those pages are zero.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_pages: Vec<MissingPages>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_desc: Option<String>,
    /// RAM.
    pub ram: Ram,
    /// Deltas, if capability `xbzrle` is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xbzrle_cache: Option<XbzrleCache>,
    /// Compression, if capability `compress` is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// `source` or `destination`.
    pub side: &'static str,
    /// The compression method; absent at the destination, which takes what arrives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
    /// The compression level; absent at the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// Compression threads at the source, decompression threads at the destination.
    pub threads: u8,
    /// Connections.
    pub connections: u16,
    /// The link that this side emulated, as `RATE[/DELAY]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkSpec>,
    /// What arrived at a destination: `native`, or `qemu`, whose format has no checksums. Absent at the
    /// source, where it is a setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_format: Option<&'static str>,
    /// Every byte from source to destination, on all connections.
    pub wire_bytes: u64,
    /// Every byte from destination to source.
    pub return_bytes: u64,
    /// Bytes of RAM for each byte on the wire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Each round.
    pub rounds: Vec<RoundReport>,
    /// CPU seconds of this side by stage, and their `total`.
    pub cpu_seconds: BTreeMap<&'static str, f64>,
    /// The RAM digest that both sides agree on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// Query-migrate's `ram`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Ram {
    /// Bytes on the wire.
    pub transferred: u64,
    /// Bytes of RAM that are still to be handled in this round.
    pub remaining: u64,
    /// The guest's RAM.
    pub total: u64,
    /// Zero pages.
    pub duplicate: u64,
    /// Pages that were sent whole and uncompressed.
    pub normal: u64,
    /// Their bytes.
    pub normal_bytes: u64,
    /// Rate on the wire in Mbit/s: that of the last moments while it runs, the average in the end.
    pub mbps: f64,
    /// Rounds so far.
    pub dirty_sync_count: u64,
    /// Pages dirtied per second before the last scan of a live migration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_pages_rate: Option<u64>,
    /// 4096.
    pub page_size: u64,
    /// Average rate of pages.
    pub pages_per_second: u64,
}

/// Query-migrate's `xbzrle-cache`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct XbzrleCache {
    /// Its capacity in bytes.
    pub cache_size: u64,
    /// Bytes of deltas, before they were compressed.
    pub bytes: u64,
    /// Pages that were sent as deltas.
    pub pages: u64,
    /// Dirty pages that were not in the cache.
    pub cache_miss: u64,
    /// Misses for each page that was looked up.
    pub cache_miss_rate: f64,
    /// Bytes of pages for each byte of delta.
    pub encoding_rate: f64,
    /// Pages whose delta would have been longer than a page.
    pub overflow: u64,
}

/// Query-migrate's `compression`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Compression {
    /// Pages that were sent whole and compressed.
    pub pages: u64,
    /// Pages that were sent uncompressed because no compression thread was free.
    pub busy: u64,
    /// The share of those among the pages that were not zero.
    pub busy_rate: f64,
    /// Bytes of compressed bodies, those of deltas included.
    pub compressed_size: u64,
    /// Bytes in for each byte out.
    pub compression_rate: f64,
}

/// One round.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct RoundReport {
    /// Its number, from 1.
    pub round: u32,
    /// Every byte from source to destination in this round.
    pub wire_bytes: u64,
    /// How long it took.
    #[serde(serialize_with = "as_milliseconds")]
    pub time: Duration,
    /// Pages that were handled.
    pub pages: u64,
    /// Zero pages.
    pub zero: u64,
    /// Pages that were sent whole and compressed.
    pub compressed: u64,
    /// Pages that were sent as deltas.
    pub delta: u64,
    /// Pages that were sent whole and uncompressed.
    pub plain: u64,
    /// Dirty pages that were the same as when they were last sent.
    pub unchanged: u64,
    /// Bytes of deltas, before they were compressed.
    pub delta_bytes: u64,
    /// Dirty pages that were not in the cache.
    pub cache_miss: u64,
    /// Pages whose delta would have been longer than a page.
    pub overflow: u64,
}

fn per(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// Milliseconds, to the microsecond.
fn as_milliseconds<S: Serializer>(
    time: &(impl Copy + Into<Option<Duration>>),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let time: Option<Duration> = (*time).into();
    time.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3)
        .serialize(serializer)
}

impl From<&RoundStats> for RoundReport {
    fn from(stats: &RoundStats) -> RoundReport {
        let Tally {
            zero,
            compressed,
            delta,
            plain,
            unchanged,
            delta_bytes,
            cache_miss,
            overflow,
            ..
        } = stats.tally;
        RoundReport {
            round: stats.round.0,
            wire_bytes: stats.wire_bytes,
            time: stats.time,
            pages: stats.tally.pages(),
            zero,
            compressed,
            delta,
            plain,
            unchanged,
            delta_bytes,
            cache_miss,
            overflow,
        }
    }
}

impl Report {
    /// A source's report.
    pub fn of_source(snapshot: &Snapshot, params: &Params, caps: &Caps) -> Report {
        let settings = params.codec_settings();
        let tally = &snapshot.total;
        let looked_up = (tally.delta + tally.unchanged + tally.cache_miss + tally.overflow) as f64;
        let not_zero = (tally.pages() - tally.zero) as f64;
        let deltas =
            caps.has(Capability::Xbzrle) && !snapshot.dropped.contains(&Capability::Xbzrle.name());
        let xbzrle = deltas.then(|| XbzrleCache {
            cache_size: params.xbzrle_cache_size,
            bytes: tally.delta_bytes,
            pages: tally.delta,
            cache_miss: tally.cache_miss,
            cache_miss_rate: per(tally.cache_miss as f64, looked_up),
            encoding_rate: per(
                (tally.delta * PAGE_SIZE as u64) as f64,
                tally.delta_bytes as f64,
            ),
            overflow: tally.overflow,
        });
        let compression = caps.has(Capability::Compress).then(|| Compression {
            pages: tally.compressed,
            busy: tally.busy,
            busy_rate: per(tally.busy as f64, not_zero),
            compressed_size: tally.compressed_bytes,
            compression_rate: per(tally.compressed_input as f64, tally.compressed_bytes as f64),
        });
        Report {
            xbzrle_cache: xbzrle,
            compression,
            method: Some(settings.method.name()),
            level: Some(settings.level),
            threads: params.compress_threads,
            link: params.link,
            ..Report::of_either(snapshot, "source")
        }
    }

    /// A destination's report.
    pub fn of_destination(snapshot: &Snapshot, params: &Params) -> Report {
        Report {
            downtime: None,
            threads: params.decompress_threads,
            link: params.link,
            ..Report::of_either(snapshot, "destination")
        }
    }

    /// The same report of a migration that failed.
    #[must_use]
    pub fn with_error(mut self, error: &crate::error::Error) -> Report {
        self.error_desc = Some(error.one_line());
        self
    }

    fn of_either(snapshot: &Snapshot, side: &'static str) -> Report {
        let seconds = snapshot.elapsed.as_secs_f64();
        let times = snapshot.stage_times();
        let tally = &snapshot.total;
        let completed = snapshot.status == Status::Completed;
        Report {
            status: snapshot.status,
            total_time: snapshot.elapsed,
            setup_time: snapshot.setup_time,
            downtime: snapshot.downtime,
            expected_downtime: snapshot.live.and_then(|live| live.expected_downtime),
            sync_time: snapshot.sync_time,
            cpu_throttle_percentage: snapshot
                .live
                .map(|live| live.cpu_throttle_percentage)
                .filter(|percent| *percent > 0),
            guest: snapshot.owner,
            notices: snapshot.notices.clone(),
            dropped: snapshot.dropped.clone(),
            missing_pages: snapshot.missing_pages.clone(),
            wire_format: snapshot.wire_format.map(Format::name),
            error_desc: snapshot.error.clone(),
            ram: Ram {
                transferred: snapshot.wire_bytes,
                remaining: if completed {
                    0
                } else {
                    snapshot.round_remaining() * PAGE_SIZE as u64
                },
                total: snapshot.ram_bytes,
                duplicate: tally.zero,
                normal: tally.plain,
                normal_bytes: tally.plain * PAGE_SIZE as u64,
                mbps: snapshot.wire_rate * 8.0 / 1e6,
                dirty_sync_count: snapshot.round.into(),
                dirty_pages_rate: snapshot.live.map(|live| live.dirty_pages_rate),
                page_size: PAGE_SIZE as u64,
                pages_per_second: per(tally.pages() as f64, seconds) as u64,
            },
            xbzrle_cache: None,
            compression: None,
            side,
            method: None,
            level: None,
            threads: 0,
            connections: snapshot.connections,
            link: None,
            wire_bytes: snapshot.wire_bytes,
            return_bytes: snapshot.return_bytes,
            ratio: (snapshot.wire_bytes > 0)
                .then(|| per(snapshot.ram_bytes as f64, snapshot.wire_bytes as f64)),
            rounds: snapshot.rounds.iter().map(RoundReport::from).collect(),
            cpu_seconds: Stage::ALL
                .into_iter()
                .map(|stage| (stage.name(), times.get(stage)))
                .filter(|(_, time)| !time.is_zero())
                .chain([("total", times.sum())])
                .map(|(name, time)| (name, time.as_secs_f64()))
                .collect(),
            digest: snapshot.digest,
        }
    }
}
