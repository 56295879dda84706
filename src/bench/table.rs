//! A report as people read it in a terminal: the table, the best over each link, the
//! recommendation.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use comfy_table::{CellAlignment, LineStyle, Table, presets};
use serde_json::Value;

use super::commands;
use super::peer::PeerReport;
use super::recommend::{self, Recommendation};
use super::report::{MEMCPY, MIB, Report, SettingReport};
use super::statistics::Summary;
use crate::stats::Status;
use crate::units::{format_bytes, format_duration};

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

impl Sort {
    /// All of them.
    pub const ALL: [Sort; 6] = [
        Sort::Given,
        Sort::Time,
        Sort::Bytes,
        Sort::Ratio,
        Sort::Cpu,
        Sort::Downtime,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Sort::Given => "given",
            Sort::Time => "time",
            Sort::Bytes => "bytes",
            Sort::Ratio => "ratio",
            Sort::Cpu => "cpu",
            Sort::Downtime => "downtime",
        }
    }

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

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Sort {
    type Err = String;

    fn from_str(name: &str) -> Result<Sort, String> {
        Sort::ALL
            .into_iter()
            .find(|sort| sort.name() == name)
            .ok_or_else(|| {
                format!(
                    "'{name}' is no order: allowed are given, time, bytes, ratio, cpu and downtime"
                )
            })
    }
}

/// Stands where nothing was measured.
const NOTHING: &str = "-";
const DIM: &str = "\x1b[2m";
const NORMAL: &str = "\x1b[0m";

/// The settings in this order. Rows that are equal stay as they were given.
pub fn sorted(report: &Report, sort: Sort) -> Vec<&SettingReport> {
    let mut rows: Vec<&SettingReport> = report.settings.iter().collect();
    rows.sort_by(|a, b| sort.key(a).total_cmp(&sort.key(b)));
    rows
}

/// The column headings: a name and its unit.
pub const HEADINGS: [(&str, &str); 11] = [
    ("setting", ""),
    ("time", "ms"),
    ("min to max", "ms"),
    ("RAM", "MiB/s"),
    ("wire", "MiB/s"),
    ("sent", "MiB"),
    ("ratio", ""),
    ("source", "CPU s"),
    ("dest.", "CPU s"),
    ("both", "CPU s/GiB"),
    ("downtime", "ms"),
];

/// A row of numbers, in the order of [`HEADINGS`].
pub fn cells(row: &SettingReport) -> [String; 11] {
    let [time, range] = times(row.time);
    [
        row.name.clone(),
        time,
        range,
        median(row.ram_bytes_per_second, MIB, 0),
        median(row.wire_bytes_per_second, MIB, 0),
        median(row.wire_bytes, MIB, 2),
        median(row.ratio, 1.0, 3),
        median(row.source_cpu_seconds, 1.0, 3),
        median(row.destination_cpu_seconds, 1.0, 3),
        median(row.cpu_seconds_per_gib, 1.0, 2),
        median(row.downtime, 1.0, 1),
    ]
}

/// A peer's row; what it does not tell is left open.
pub fn peer_cells(row: &PeerReport) -> [String; 11] {
    let [time, range] = times(row.time);
    [
        row.name.clone(),
        time,
        range,
        median(row.ram_bytes_per_second, MIB, 0),
        NOTHING.to_owned(),
        median(row.wire_bytes, MIB, 2),
        median(row.ratio, 1.0, 3),
        median(row.source_cpu_seconds, 1.0, 3),
        median(row.destination_cpu_seconds, 1.0, 3),
        median(row.cpu_seconds_per_gib, 1.0, 2),
        NOTHING.to_owned(),
    ]
}

/// The plain copy's row.
pub fn memcpy_cells(report: &Report) -> [String; 11] {
    let mut cells = [NOTHING; 11].map(str::to_owned);
    cells[0] = MEMCPY.to_owned();
    [cells[1], cells[2]] = times(report.memcpy.time);
    cells[3] = median(report.memcpy.ram_bytes_per_second, MIB, 0);
    cells
}

/// The columns that a narrow terminal can best do without, by their places in [`HEADINGS`], the
/// first first: the wire's rate, CPU a GiB, the range, RAM's rate.
const SPARE: [usize; 4] = [4, 9, 2, 3];

/// The medians, for people. A dash stands where nothing was measured. With `dim`, settings that
/// another one beats on time, bytes and CPU are dimmed by the escape sequences of a terminal. Within
/// `width` characters, columns are left out until it fits, and named.
pub fn table(report: &Report, sort: Sort, dim: bool, width: Option<usize>) -> String {
    let mut columns: Vec<usize> = (0..HEADINGS.len()).collect();
    if report.image.then.is_empty() {
        columns.pop();
    }
    let all = columns.clone();
    let mut lines = grid(report, sort, dim, &columns);
    let fits = |lines: &[String]| {
        width.is_none_or(|width| lines.iter().all(|line| shown_width(line) <= width))
    };
    for spare in SPARE {
        if fits(&lines) {
            break;
        }
        columns.retain(|column| *column != spare);
        lines = grid(report, sort, dim, &columns);
    }
    // The last to go may have made room for one that went before.
    for spare in SPARE.into_iter().rev() {
        let more: Vec<usize> = all
            .iter()
            .copied()
            .filter(|column| *column == spare || columns.contains(column))
            .collect();
        let wider = grid(report, sort, dim, &more);
        if fits(&wider) {
            (columns, lines) = (more, wider);
        }
    }
    let mut foot = foot(report);
    let left_out: Vec<&str> = all
        .iter()
        .filter(|column| !columns.contains(column))
        .map(|column| HEADINGS[*column].0)
        .collect();
    if !left_out.is_empty() {
        foot.push_str(&format!(
            "Left out, for the terminal is narrow: {}.\n",
            left_out.join(", ")
        ));
    }
    format!(
        "{}{}\n{}",
        wrapped(&head(report), width),
        lines.join("\n"),
        wrapped(&foot, width)
    )
}

/// How many characters of a line are seen.
fn shown_width(line: &str) -> usize {
    let escapes = if line.starts_with(DIM) {
        DIM.len() + NORMAL.len()
    } else {
        0
    };
    line.chars().count() - escapes
}

/// These columns of the table, line by line.
fn grid(report: &Report, sort: Sort, dim: bool, columns: &[usize]) -> Vec<String> {
    let heading = |(name, unit): (&str, &str)| match unit {
        "" => name.to_owned(),
        unit => format!("{name}\n[{unit}]"),
    };
    let chosen = |cells: [String; 11]| -> Vec<String> {
        columns.iter().map(|at| cells[*at].clone()).collect()
    };
    let mut table = Table::new();
    let line = LineStyle::none().fill('─').junction('─');
    table
        .load_style(presets::NOTHING.header_separator(line).bottom_border(line))
        .set_header(chosen(HEADINGS.map(heading)));
    table.add_row(chosen(memcpy_cells(report)));
    let rows = sorted(report, sort);
    for row in &rows {
        table.add_row(chosen(cells(row)));
    }
    for peer in &report.peers {
        table.add_row(chosen(peer_cells(peer)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if let Some(last) = table.column_mut(columns.len() - 1) {
        last.set_padding((0, 0));
    }
    let text = table.trim_fmt();
    let lines: Vec<&str> = text.lines().collect();
    // The rows stand in front of the peers' and of the last line, one line each.
    let below = report.peers.len() + 1;
    let first = lines.len().saturating_sub(rows.len() + below);
    lines
        .iter()
        .enumerate()
        .map(|(at, line)| {
            let row = at.checked_sub(first).and_then(|at| rows.get(at));
            match row {
                Some(row) if dim && row.dominated_by.is_some() => format!("{DIM}{line}{NORMAL}"),
                _ => (*line).to_owned(),
            }
        })
        .collect()
}

/// Lines that are no longer than `width`, if there is one and their words allow it: what is too long goes on in the
/// next line, four characters further in.
fn wrapped(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else {
        return text.to_owned();
    };
    let mut out = String::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let mut used = indent;
        out.push_str(&line[..indent]);
        for (at, word) in line.split_whitespace().enumerate() {
            let len = word.chars().count();
            if at == 0 {
                used += len;
            } else if used + 1 + len > width {
                out.push('\n');
                out.push_str(&" ".repeat(indent + 4));
                used = indent + 4 + len;
            } else {
                out.push(' ');
                used += 1 + len;
            }
            out.push_str(word);
        }
        out.push('\n');
    }
    out
}

/// What the table is about.
fn head(report: &Report) -> String {
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
        [one] if one != super::matrix::UNLIMITED => format!(" emulating {one}"),
        _ => String::new(),
    };
    let runs = match (report.status, plan.runs) {
        (_, 1) => "1 run".to_owned(),
        (Status::Completed, runs) => format!("{runs} runs"),
        // Not every setting had all of them.
        (_, runs) => format!("up to {runs} runs"),
    };
    let common = |of: fn(&SettingReport) -> u8, what: &str| {
        let first = report.settings.first().map(of)?;
        let same = report.settings.iter().all(|row| of(row) == first);
        same.then(|| format!("{first} {what}, "))
    };
    let threads = [
        common(|row| row.parameters.compress_threads, "compressing threads"),
        common(|row| row.parameters.decompress_threads, "decompressing"),
    ];
    format!(
        "{what}: {} of RAM, {} of it data\n{machine}{} cores; {}{} link{emulated}; medians of {runs}\n",
        format_bytes(image.ram_bytes),
        format_bytes(image.data_bytes),
        conditions.cores,
        threads.into_iter().flatten().collect::<String>(),
        plan.transport,
    )
}

/// How to read the table, and what to be wary of.
fn foot(report: &Report) -> String {
    let mut text = format!(
        "RAM rates count holes, as a guest does. {MEMCPY} copies the data out of the image, with {} \
         threads.\nEvery migration was proven: digest {}.\n",
        report.memcpy.threads, report.image.digest
    );
    if !report.peers.is_empty() {
        text.push_str(
            "QEMU ran between two stopped guests, over a link that is not emulated, at level 1.\nIt \
             neither hashes nor proves: what arrived was compared here.\nUp to QEMU 9, multifd's \
             compressed bytes are unknown.\n",
        );
    }
    let ours = report
        .settings
        .iter()
        .map(|row| (&row.name, &row.suspicion));
    let peers = report.peers.iter().map(|row| (&row.name, &row.suspicion));
    if let Some(words) = recommend::disturbed(report) {
        text.push_str(&format!("warning: {words}\n"));
    }
    for (name, suspicion) in ours.chain(peers) {
        if let Some(words) = suspicion.words() {
            text.push_str(&format!("warning: {name}: {words}\n"));
        }
    }
    text
}

/// What is best over each link, and why; and the commands that choose it. Only the commands have
/// lines longer than `width`: they are there to be copied.
pub fn recommendations(report: &Report, width: Option<usize>) -> String {
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
    // Links over which the same is best share its commands.
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
    for (links, chosen) in groups {
        let heading = format!(
            "As commands, for {}: {}\n",
            links.join(", "),
            chosen.setting
        );
        text.push('\n');
        text.push_str(&wrapped(&heading, width));
        text.push_str(&format!("  {}\n  {}\n", chosen.receive, chosen.send));
        text.push_str(&for_qemu(chosen, width));
    }
    text
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

/// A setting in one line, as soon as it has all its runs.
pub fn line(row: &SettingReport) -> String {
    let time = |summary: Summary| {
        let time = Duration::try_from_secs_f64(summary.median / 1e3);
        format_duration(time.unwrap_or_default())
    };
    format!(
        "{}: {}, {} MiB sent, ratio {}, {} + {} CPU s",
        row.name,
        row.time.map_or_else(|| NOTHING.to_owned(), time),
        median(row.wire_bytes, MIB, 1),
        median(row.ratio, 1.0, 2),
        median(row.source_cpu_seconds, 1.0, 2),
        median(row.destination_cpu_seconds, 1.0, 2),
    )
}

/// The median in units of `unit`, with so many decimals.
fn median(summary: Option<Summary>, unit: f64, decimals: usize) -> String {
    summary.map_or_else(
        || NOTHING.to_owned(),
        |summary| format!("{:.decimals$}", summary.median / unit),
    )
}

/// The median, and from where to where it goes.
fn times(summary: Option<Summary>) -> [String; 2] {
    let range = summary.map_or_else(
        || NOTHING.to_owned(),
        |summary| format!("{:.1} to {:.1}", summary.min, summary.max),
    );
    [median(summary, 1.0, 1), range]
}

#[cfg(test)]
mod tests;
