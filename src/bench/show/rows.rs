//! The rows of every table of a report, whatever it is drawn with.

use crate::bench::measure::setting::{self, Setting};
use crate::bench::peer::{BULK_ONLY, PeerReport};
use crate::bench::report::{BenchReport, MEMCPY, MIB, SettingReport};
use crate::bench::statistics::Summary;

/// The order of the rows. The least comes first, but of rates and ratios the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sort {
    /// The order in which the settings were given.
    #[default]
    Given,
    /// Shortest time first.
    Time,
    /// Fewest bytes on the wire first.
    Bytes,
    /// Highest ratio first.
    Ratio,
    /// Fewest CPU seconds of both ends first.
    Cpu,
    /// Shortest downtime first.
    Downtime,
}

names!(
    "order",
    Sort {
        Given: "given",
        Time: "time",
        Bytes: "bytes",
        Ratio: "ratio",
        Cpu: "cpu",
        Downtime: "downtime"
    }
);

impl Sort {
    /// The number by which a row is sorted.
    fn key(self, row: &SettingReport) -> f64 {
        let Some(cost) = row.cost() else {
            return f64::INFINITY;
        };
        match self {
            Sort::Given => 0.0,
            Sort::Time => cost.time,
            Sort::Bytes => cost.bytes,
            Sort::Ratio => -row.ratio.map_or(0.0, |ratio| ratio.median),
            Sort::Cpu => cost.cpu,
            Sort::Downtime => cost.downtime.unwrap_or(f64::INFINITY),
        }
    }
}

/// The cell of what was not measured or is not known.
pub const NOTHING: &str = "-";

/// The column headings: a name and its unit.
pub const HEADINGS: [(&str, &str); 13] = [
    ("setting", ""),
    ("time", "ms"),
    ("±", "ms"),
    ("min", "ms"),
    ("relative", ""),
    ("RAM", "MiB/s"),
    ("wire", "MiB/s"),
    ("sent", "MiB"),
    ("ratio", ""),
    ("source", "CPU s"),
    ("dest.", "CPU s"),
    ("both", "s/GiB"),
    ("down", "ms"),
];

/// The column headings of the codecs' table.
pub const CODEC_HEADINGS: [(&str, &str); 7] = [
    ("setting", ""),
    ("alone", "CPU s"),
    ("pipeline", "CPU s"),
    ("more", "%"),
    ("alone", "MiB/s"),
    ("pipeline", "MiB/s"),
    ("whole", "MiB/s"),
];

/// Rows with something in common.
#[derive(Debug, Clone)]
pub struct RowGroup<'a> {
    /// What they have in common; `None` for rows by themselves.
    pub title: Option<String>,
    /// At least one.
    pub rows: Vec<TableRow<'a>>,
}

/// One row.
#[derive(Debug, Clone)]
pub struct TableRow<'a> {
    /// A name, without what the title says, and numbers.
    pub cells: Vec<String>,
    /// Another setting over the same link that is better in time, bytes and CPU.
    pub dominated_by: Option<&'a str>,
}

/// The number of columns of the main table: the last, the downtime, only with later rounds.
pub fn columns(report: &BenchReport) -> usize {
    HEADINGS.len() - usize::from(report.image.then.is_empty())
}

/// A heading on one line.
pub fn heading((name, unit): &(&str, &str)) -> String {
    match *unit {
        "" => (*name).to_owned(),
        unit => format!("{name} [{unit}]"),
    }
}

/// The rows of the main table: the plain copy, the settings over each link, sorted, and the peers.
pub fn groups(report: &BenchReport, sort: Sort) -> Vec<RowGroup<'_>> {
    let row = |cells: [String; 13], dominated_by| TableRow {
        cells: cells.into_iter().take(columns(report)).collect(),
        dominated_by,
    };
    let mut groups = vec![RowGroup {
        title: None,
        rows: vec![row(memcpy_cells(report), None)],
    }];
    for (link, rows) in by_link(report, sort) {
        let times = rows.iter().filter_map(|(_, setting)| setting.time);
        let fastest = times.map(|time| time.median).min_by(f64::total_cmp);
        groups.push(RowGroup {
            title: link.map(|link| format!("over {link}")),
            rows: rows
                .into_iter()
                .map(|(name, setting)| {
                    let cells = cells(name, setting, fastest);
                    row(cells, setting.dominated_by.as_deref())
                })
                .collect(),
        });
    }
    for peer in &report.peers {
        let rest = if peer.mode.bulk_only { BULK_ONLY } else { "" };
        let title = Some(format!("{}{rest}", peer.mode.peer));
        let row = row(peer_cells(peer), None);
        match groups.last_mut().filter(|group| group.title == title) {
            Some(group) => group.rows.push(row),
            None => groups.push(RowGroup {
                title,
                rows: vec![row],
            }),
        }
    }
    groups
}

/// A link, if there is more than one, and its settings with their names without the link.
pub type LinkRows<'a> = (Option<String>, Vec<(String, &'a SettingReport)>);

/// The settings over each link, sorted.
pub fn by_link(report: &BenchReport, sort: Sort) -> Vec<LinkRows<'_>> {
    let settings: Vec<Setting> = report
        .settings
        .iter()
        .map(|row| row.setting.over(None))
        .collect();
    let mut named: Vec<(String, &SettingReport)> = setting::names(&settings)
        .into_iter()
        .zip(&report.settings)
        .collect();
    named.sort_by(|(_, a), (_, b)| sort.key(a).total_cmp(&sort.key(b)));
    let links = links(report);
    let several = links.len() > 1;
    links
        .into_iter()
        .map(|link| {
            let rows = named.iter().filter(|(_, row)| row.link() == link);
            let rows = rows.cloned().collect();
            (several.then_some(link), rows)
        })
        .collect()
}

/// The measured links, in order.
pub fn links(report: &BenchReport) -> Vec<String> {
    let mut links: Vec<String> = Vec::new();
    for row in &report.settings {
        if !links.contains(&row.link()) {
            links.push(row.link());
        }
    }
    links
}

/// The settings in this order, grouped by link. Equal rows keep the order in which they were given.
pub fn sorted(report: &BenchReport, sort: Sort) -> Vec<&SettingReport> {
    by_link(report, sort)
        .into_iter()
        .flat_map(|(_, rows)| rows)
        .map(|(_, row)| row)
        .collect()
}

/// A setting's row, in the order of [`HEADINGS`]; `fastest` is the least time over the same link.
fn cells(name: String, row: &SettingReport, fastest: Option<f64>) -> [String; 13] {
    let [time, deviation, min] = times(row.time, row.runs.len());
    let relative = row.time.zip(fastest);
    [
        name,
        time,
        deviation,
        min,
        relative.map_or_else(nothing, |(time, fastest)| {
            format!("{:.2}", time.median / fastest.max(1e-9))
        }),
        median(row.ram_bytes_per_second, MIB, 0),
        median(row.wire_bytes_per_second, MIB, 0),
        median(row.wire_bytes, MIB, 2),
        median(row.ratio, 1.0, 3),
        median(row.source_cpu_seconds, 1.0, 3),
        median(row.destination_cpu_seconds, 1.0, 3),
        median(row.cpu_seconds_per_gib, 1.0, 2),
        row.downtime
            .map_or_else(nothing, |time| milliseconds(time.median)),
    ]
}

/// A peer's row; what it does not report is left open.
fn peer_cells(row: &PeerReport) -> [String; 13] {
    let [time, deviation, min] = times(row.time, row.runs.len());
    [
        row.mode.name.clone(),
        time,
        deviation,
        min,
        nothing(),
        median(row.ram_bytes_per_second, MIB, 0),
        median(row.wire_bytes_per_second, MIB, 0),
        median(row.wire_bytes, MIB, 2),
        median(row.ratio, 1.0, 3),
        median(row.source_cpu_seconds, 1.0, 3),
        median(row.destination_cpu_seconds, 1.0, 3),
        median(row.cpu_seconds_per_gib, 1.0, 2),
        nothing(),
    ]
}

/// The plain copy's row.
fn memcpy_cells(report: &BenchReport) -> [String; 13] {
    let mut cells = [NOTHING; 13].map(str::to_owned);
    let memcpy = &report.memcpy;
    let [time, deviation, min] = times(memcpy.time, memcpy.runs.len());
    let ram = median(memcpy.ram_bytes_per_second, MIB, 0);
    let known = [MEMCPY.to_owned(), time, deviation, min, nothing(), ram];
    for (cell, value) in cells.iter_mut().zip(known) {
        *cell = value;
    }
    cells
}

fn nothing() -> String {
    NOTHING.to_owned()
}

/// The codec alone and in the pipeline.
#[derive(Debug, Clone)]
pub struct CodecRow<'a> {
    /// The setting's name without the link, or the plain copy's.
    pub name: String,
    /// The setting; `None` for the plain copy.
    pub setting: Option<&'a SettingReport>,
    /// Bytes of data per second of wall time, the whole migration.
    pub whole: Option<Summary>,
}

impl CodecRow<'_> {
    /// How much more CPU time the codec takes in the pipeline than alone, in percent.
    pub fn more(&self) -> Option<f64> {
        let row = self.setting?;
        let (alone, here) = (row.codec_alone_cpu_seconds?, row.codec_cpu_seconds?.median);
        (alone > 0.0).then(|| (here / alone - 1.0) * 100.0)
    }

    /// The cells, in the order of [`CODEC_HEADINGS`].
    pub fn cells(&self) -> [String; 7] {
        // The codec alone is known earlier than the pipeline to compare it with.
        let here = self.setting.filter(|row| row.codec_cpu_seconds.is_some());
        let alone = here.and_then(|row| row.codec_alone.as_ref());
        let of = |of: fn(&SettingReport) -> Option<Summary>, unit, decimals| {
            median(here.and_then(of), unit, decimals)
        };
        [
            self.name.clone(),
            here.and_then(|row| row.codec_alone_cpu_seconds)
                .map_or_else(nothing, |seconds| format!("{seconds:.3}")),
            of(|row| row.codec_cpu_seconds, 1.0, 3),
            self.more()
                .map_or_else(nothing, |more| format!("{more:+.0}")),
            median(alone.map(|alone| alone.compress_bytes_per_second), MIB, 0),
            of(|row| row.codec_bytes_per_second, MIB, 0),
            median(self.whole, MIB, 0),
        ]
    }
}

/// The rows of the codecs' table: the plain copy, and the settings over the fastest link. Empty if no
/// setting compresses.
pub fn codec_rows(report: &BenchReport, sort: Sort) -> Vec<CodecRow<'_>> {
    let compared = |row: &SettingReport| row.codec_alone_cpu_seconds.is_some();
    if !report.settings.iter().any(compared) {
        return Vec::new();
    }
    let memcpy = CodecRow {
        name: MEMCPY.to_owned(),
        setting: None,
        whole: report.memcpy.data_bytes_per_second,
    };
    let links = by_link(report, sort);
    let least = |(link, _): &&LinkRows<'_>| link.as_deref() == Some(setting::UNLIMITED);
    let rows = links.iter().find(least).or(links.first());
    let rows = rows.map_or(&[][..], |(_, rows)| rows);
    let mut all = vec![memcpy];
    all.extend(rows.iter().map(|(name, row)| CodecRow {
        name: name.clone(),
        setting: Some(*row),
        whole: row.data_bytes_per_second,
    }));
    all
}

/// The median in units of `unit`, with this many decimals.
pub(super) fn median(summary: Option<Summary>, unit: f64, decimals: usize) -> String {
    summary.map_or_else(
        || NOTHING.to_owned(),
        |summary| format!("{:.decimals$}", summary.median / unit),
    )
}

/// A time, without useless digits.
fn milliseconds(time: f64) -> String {
    if time < 999.95 {
        format!("{time:.1}")
    } else {
        format!("{time:.0}")
    }
}

/// The median, the deviation, which a single run does not have, and the minimum.
fn times(summary: Option<Summary>, runs: usize) -> [String; 3] {
    let Some(summary) = summary else {
        return [NOTHING; 3].map(str::to_owned);
    };
    let mut cells = [summary.median, summary.mad, summary.min].map(milliseconds);
    if runs == 1 {
        cells[1] = nothing();
    }
    cells
}
