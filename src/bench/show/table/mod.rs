//! A report as people read it in a terminal: the tables, the best over each link, the
//! recommendation.

mod rows;

use std::time::Duration;

use serde_json::Value;

use crate::bench::judge::commands;
use crate::bench::judge::noise;
use crate::bench::peer::PeerReport;
use crate::bench::report::Recommendation;
use crate::bench::report::{BenchReport, MEMCPY, MIB, SettingReport};
use crate::bench::statistics::Summary;
use crate::codec::ZlibEngine;
use crate::grid::{Grid, GridLine, wrapped};
use crate::stats::Status;
use crate::units::{format_bytes, format_duration};
use crate::wire::Format;
use rows::median;

pub use rows::{
    CODEC_HEADINGS, CodecRow, Group, HEADINGS, LinkRows, NOTHING, Row, by_link, codec_rows,
    columns, groups, heading, links, sorted,
};

/// What the rows are sorted by. The least comes first, but of rates and ratios the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sort {
    /// As the settings were given.
    #[default]
    Given,
    /// By time.
    Time,
    /// By bytes on the wire.
    Bytes,
    /// By the ratio.
    Ratio,
    /// By CPU seconds of both ends.
    Cpu,
    /// By downtime.
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
    /// Rows are sorted by this number, the least first.
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

/// How a table is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Whether settings that another one beats on time, bytes and CPU are dimmed, by the escape
    /// sequences of a terminal.
    pub dim: bool,
    /// The most characters in a line, as far as that is possible.
    pub width: usize,
}

impl Default for Look {
    fn default() -> Look {
        Look {
            dim: false,
            width: 100,
        }
    }
}

/// The columns that a narrow terminal can best do without, by their places in [`HEADINGS`], the
/// first first: the wire's rate, CPU a GiB, MAD, min, RAM's rate.
const SPARE: [usize; 5] = [5, 10, 3, 2, 4];

/// The medians, for people. A dash stands where nothing was measured.
pub fn table(report: &BenchReport, sort: Sort, look: Look) -> String {
    let mut lines = Vec::new();
    for group in groups(report, sort) {
        let indented = group.title.is_some();
        lines.extend(group.title.map(GridLine::Title));
        lines.extend(group.rows.into_iter().map(|row| GridLine::Row {
            cells: row.cells,
            indented,
            dim: row.dominated_by.is_some(),
        }));
    }
    let headings = HEADINGS.get(..columns(report)).unwrap_or(&HEADINGS);
    let (table, left_out) = Grid {
        headings,
        lines: &lines,
        spare: &SPARE,
        width: look.width,
        dim: look.dim,
    }
    .draw();
    let mut foot = foot(report);
    let left_out: Vec<&str> = left_out
        .into_iter()
        .filter_map(|at| Some(headings.get(at)?.0))
        .collect();
    if !left_out.is_empty() {
        foot.push_str(&format!(
            "Left out, for the terminal is narrow: {}.\n",
            left_out.join(", ")
        ));
    }
    let width = Some(look.width);
    format!(
        "{}{table}{}{}",
        wrapped(&head(report), width),
        wrapped(&foot, width),
        codec_table(report, sort, look)
    )
}

/// The codecs alone and in the pipeline; empty if nothing compresses.
fn codec_table(report: &BenchReport, sort: Sort, look: Look) -> String {
    let rows = codec_rows(report, sort);
    if rows.is_empty() {
        return String::new();
    }
    let lines: Vec<GridLine> = rows
        .iter()
        .map(|row| GridLine::Row {
            cells: row.cells().to_vec(),
            indented: false,
            dim: row.setting.is_some_and(|row| row.dominated_by.is_some()),
        })
        .collect();
    let note = wrapped(&format!("{CODEC_NOTE}\n"), Some(look.width));
    let (table, _) = Grid {
        headings: &CODEC_HEADINGS,
        lines: &lines,
        spare: &[],
        width: look.width,
        dim: look.dim,
    }
    .draw();
    format!("\n{note}{table}")
}

/// What the codecs' table shows.
pub const CODEC_NOTE: &str = "The codec alone (one thread, a sample of the same pages) and in the pipeline, at the source: \
     CPU seconds for as many bytes, MiB for each CPU second. Whole: all of the migration, data \
     without zero pages, for each second of wall time.";

/// What the table is about.
fn head(report: &BenchReport) -> String {
    let (image, plan, conditions) = (&report.image, &report.plan, &report.conditions);
    let what = match (image.mix.zip(image.seed), image.then.len()) {
        (Some((mix, seed)), _) => format!("a synthesised guest ({mix}, seed {seed})"),
        (None, 0) => image.path.clone(),
        (None, later) => format!("{} and {later} later", image.path),
    };
    let machine = match &conditions.cpu_model {
        Some(model) => format!("{model}, "),
        None => String::new(),
    };
    let links: Vec<&str> = report
        .links
        .iter()
        .filter(|link| link.measured)
        .map(|link| &link.link[..])
        .collect();
    let emulated = match links[..] {
        [one] if one != crate::bench::measure::setting::UNLIMITED => format!(" emulating {one}"),
        _ => String::new(),
    };
    let runs = match (report.status, plan.runs) {
        (_, 1) => "1 run".to_owned(),
        (Status::Completed, runs) => format!("{runs} runs"),
        // Not every setting had all of them.
        (_, runs) => format!("up to {runs} runs"),
    };
    format!(
        "{what}: {} of RAM, {} of it data\n{machine}{} cores; {}{} link{emulated}; medians of {runs}\n",
        format_bytes(image.ram_bytes),
        format_bytes(image.data_bytes),
        conditions.cores,
        in_common(report),
        plan.transport,
    )
}

/// What all settings have in common, as far as it is not what nearly everybody has.
fn in_common(report: &BenchReport) -> String {
    fn common<T: PartialEq>(report: &BenchReport, of: fn(&SettingReport) -> T) -> Option<T> {
        let first = of(report.settings.first()?);
        let same = report.settings.iter().all(|row| of(row) == first);
        same.then_some(first)
    }
    let (first, all) = match report.settings.first() {
        Some(first) => (first, &report.settings),
        None => return String::new(),
    };
    let things = |count: u8| if count == 1 { "" } else { "s" };
    let compressing = common(report, |row| row.parameters.compress_threads);
    let decompressing = common(report, |row| row.parameters.decompress_threads);
    let threads = match (compressing, decompressing) {
        (Some(one), Some(other)) => Some(format!(
            "{one} compressing and {other} decompressing thread{}, ",
            things(other)
        )),
        (Some(one), None) => Some(format!("{one} compressing thread{}, ", things(one))),
        (None, Some(one)) => Some(format!("{one} decompressing thread{}, ", things(one))),
        (None, None) => None,
    };
    let same_batch = all
        .iter()
        .all(|row| row.setting.batch_pages == first.setting.batch_pages);
    [
        threads,
        common(report, |row| row.parameters.connections)
            .filter(|count| *count > 1)
            .map(|count| format!("{count} connections, ")),
        first
            .setting
            .batch_pages
            .filter(|_| same_batch)
            .map(|pages| format!("batches of {pages} pages, ")),
        common(report, |row| row.parameters.zlib_engine)
            .filter(|engine| *engine != ZlibEngine::default().name())
            .map(|engine| format!("{engine}, ")),
        common(report, |row| row.parameters.wire)
            .filter(|wire| *wire != Format::Native.name())
            .map(|wire| format!("{wire} wire, ")),
        common(report, |row| row.parameters.xbzrle_cache_size)
            .filter(|_| !report.image.then.is_empty())
            .map(|cache| match cache {
                Some(bytes) => format!("xbzrle {}, ", format_bytes(bytes)),
                None => "xbzrle off, ".to_owned(),
            }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// How to read the table, and what to be wary of.
fn foot(report: &BenchReport) -> String {
    let mut text = format!(
        "MAD: median absolute deviation. RAM rates count holes, as a guest does. {MEMCPY} copies \
         the data out of the image, with {} threads.\nEvery migration was proven: digest {}.\n",
        report.memcpy.threads, report.image.digest
    );
    if !report.peers.is_empty() {
        text.push_str(&format!("{PEER_NOTE}\n"));
    }
    for peer in &report.peers {
        if let Some(why) = &peer.error_desc {
            text.push_str(&format!("warning: {} failed: {why}\n", peer.name));
        }
    }
    if let Some(words) = noise::disturbed(report) {
        text.push_str(&format!("warning: {words}\n"));
    }
    for (words, names) in warnings(report) {
        text.push_str(&format!("warning: {}: {words}\n", names.join("; ")));
    }
    text
}

/// What has to be known about a peer's rows.
pub const PEER_NOTE: &str = "QEMU ran between two stopped guests, over a unix socket and a link that is not emulated, at \
     level 1; it neither hashes nor proves, what arrived was compared here. Its CPU is that of its \
     processes. Up to QEMU 9, multifd's compressed bytes are unknown.";

/// What is suspicious about times, and whose.
pub fn warnings(report: &BenchReport) -> Vec<(&'static str, Vec<String>)> {
    let ours = report
        .settings
        .iter()
        .map(|row| (&row.name, &row.suspicion));
    let peers = report.peers.iter().map(|row| (&row.name, &row.suspicion));
    let mut warnings: Vec<(&'static str, Vec<String>)> = Vec::new();
    for (name, suspicion) in ours.chain(peers) {
        let Some(words) = suspicion.words() else {
            continue;
        };
        match warnings.iter_mut().find(|(other, _)| *other == words) {
            Some((_, names)) => names.push(name.clone()),
            None => warnings.push((words, vec![name.clone()])),
        }
    }
    warnings
}

/// What is best over each link, and why; and the commands that choose it. Only the commands have
/// lines longer than `width`: they are there to be copied.
pub fn recommendations(report: &BenchReport, width: Option<usize>) -> String {
    let mut text = String::new();
    for link in &report.links {
        let computed = if link.measured { "" } else { " (computed)" };
        let chosen = &link.recommended;
        text.push_str(&format!(
            "{}{computed}: {}, {}\n",
            link.link, chosen.setting, chosen.reason
        ));
        let others: Vec<String> = link
            .best
            .iter()
            .filter(|(goal, name)| **goal != report.plan.goal.name() && **name != chosen.setting)
            .map(|(goal, name)| format!("least {goal}: {name}"))
            .collect();
        if link.measured && !others.is_empty() {
            text.push_str(&format!("    {}\n", others.join("; ")));
        }
    }
    let computed: Vec<&str> = report
        .links
        .iter()
        .filter(|link| !link.measured)
        .map(|link| &link.link[..])
        .collect();
    if !computed.is_empty() {
        text.push_str(&format!(
            "(--links {} measures what is computed here, and gives the commands.)\n",
            computed.join(",")
        ));
    }
    let mut text = wrapped(&text, width);
    for (chosen, commands) in commands_by_link(report, width) {
        text.push_str(&format!(
            "\n{}{commands}",
            wrapped(&format!("As commands, for {chosen}\n"), width)
        ));
    }
    text
}

/// The commands that choose what is best over each measured link, as lines; before them the links and
/// the setting. Links over which the same is best share its commands.
pub fn commands_by_link(report: &BenchReport, width: Option<usize>) -> Vec<(String, String)> {
    let mut groups: Vec<(Vec<&str>, &Recommendation)> = Vec::new();
    for link in report.links.iter().filter(|link| link.measured) {
        let same = groups
            .iter_mut()
            .find(|(_, chosen)| chosen.setting == link.recommended.setting);
        match same {
            Some((links, _)) => links.push(&link.link),
            None => groups.push((vec![&link.link], &link.recommended)),
        }
    }
    let commands = groups.into_iter().map(|(links, chosen)| {
        let ours = format!("  {}\n  {}\n", chosen.receive, chosen.send);
        (
            format!("{}: {}", links.join(", "), chosen.setting),
            ours + &for_qemu(chosen, width),
        )
    });
    commands.collect()
}

/// How a QEMU is told.
fn for_qemu(chosen: &Recommendation, width: Option<usize>) -> String {
    // The method, with its level if it has several.
    let method = chosen.setting.split(',').next().unwrap_or_default();
    let (Some(setting), Some(virsh)) = (&chosen.qemu_setting, &chosen.virsh) else {
        let words = format!(
            "QEMU has no {method}: measure zlib, zstd (up to level 20) or none to have its commands.\n"
        );
        return wrapped(&words, width);
    };
    let mut text = String::new();
    let part = |words: &str, virsh: &str, qmp: &[Value]| {
        let words = wrapped(&format!("{words}\n"), width);
        let mut part = format!("{words}  {virsh}\n");
        for command in qmp {
            part.push_str(&format!("  {}\n", commands::line(command)));
        }
        part
    };
    if *setting != chosen.setting {
        let words = format!("QEMU has no {method}; the best measured that it has is {setting}.\n");
        text.push_str(&wrapped(&words, width));
    }
    let words = if chosen.qmp.is_empty() {
        "For QEMU there is nothing to set:"
    } else if !virsh.contains("--parallel") || !virsh.contains("--comp-methods") {
        "For QEMU (by libvirt, or QMP for both ends):"
    } else if virsh.ends_with("-level 1") {
        "For QEMU by multifd (libvirt 9.4 or newer; or QMP, for both ends):"
    } else {
        "For QEMU by multifd (libvirt 9.4 or newer; or QMP, for both ends; QEMU 7.2 takes the level \
         only as -global migration.NAME=LEVEL):"
    };
    text.push_str(&part(words, virsh, &chosen.qmp));
    if let Some(older) = &chosen.qemu_compress {
        let words = "For QEMU up to 9.0 by its capability compress, which 9.1 removed:";
        text.push_str(&part(words, &older.virsh, &older.qmp));
    }
    text
}

/// The median of times, with its unit.
fn typical(times: Option<Summary>) -> String {
    let Some(times) = times else {
        return NOTHING.to_owned();
    };
    let time = Duration::try_from_secs_f64(times.median / 1e3);
    format_duration(time.unwrap_or_default())
}

/// A setting in one line, as soon as it has all its runs.
pub fn line(row: &SettingReport) -> String {
    format!(
        "{}: {}, {} MiB sent, ratio {}, {} + {} CPU s",
        row.name,
        typical(row.time),
        median(row.wire_bytes, MIB, 1),
        median(row.ratio, 1.0, 2),
        median(row.source_cpu_seconds, 1.0, 2),
        median(row.destination_cpu_seconds, 1.0, 2),
    )
}

/// A peer's way in one line, as soon as it has all its runs.
pub fn peer_line(row: &PeerReport) -> String {
    format!(
        "{}: {}, {} MiB on the wire, {} + {} CPU s",
        row.name,
        typical(row.time),
        median(row.wire_bytes, MIB, 1),
        median(row.source_cpu_seconds, 1.0, 2),
        median(row.destination_cpu_seconds, 1.0, 2),
    )
}

#[cfg(test)]
mod tests;
