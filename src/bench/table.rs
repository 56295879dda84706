//! A report as people read it in a terminal: the table, the best over each link, the
//! recommendation.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use comfy_table::{CellAlignment, LineStyle, Table, presets};

use super::peer::PeerReport;
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

/// The medians, for people. A dash stands where nothing was measured. With `dim`, settings that
/// another one beats on time, bytes and CPU are dimmed by the escape sequences of a terminal.
pub fn table(report: &Report, sort: Sort, dim: bool) -> String {
    let columns = HEADINGS.len() - usize::from(report.image.then.is_empty());
    let heading = |(name, unit): &(&str, &str)| match *unit {
        "" => (*name).to_owned(),
        unit => format!("{name}\n[{unit}]"),
    };
    let mut table = Table::new();
    let line = LineStyle::none().fill('─').junction('─');
    table
        .load_style(presets::NOTHING.header_separator(line).bottom_border(line))
        .set_header(HEADINGS.iter().take(columns).map(heading));
    table.add_row(memcpy_cells(report).into_iter().take(columns));
    let rows = sorted(report, sort);
    for row in &rows {
        table.add_row(cells(row).into_iter().take(columns));
    }
    for peer in &report.peers {
        table.add_row(peer_cells(peer).into_iter().take(columns));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let text = table.trim_fmt();
    let lines: Vec<&str> = text.lines().collect();
    // The rows stand in front of the peers' and of the last line, one line each.
    let below = report.peers.len() + 1;
    let first = lines.len().saturating_sub(rows.len() + below);
    let lines: Vec<String> = lines
        .iter()
        .enumerate()
        .map(|(at, line)| {
            let row = at.checked_sub(first).and_then(|at| rows.get(at));
            match row {
                Some(row) if dim && row.dominated_by.is_some() => format!("{DIM}{line}{NORMAL}"),
                _ => (*line).to_owned(),
            }
        })
        .collect();
    format!("{}\n{}\n{}", head(report), lines.join("\n"), foot(report))
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
        "{what}: {} of RAM, {} of it data\n{machine}{} cores; {}{} link{emulated}; medians of {runs}",
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
            "QEMU ran between two stopped guests, over a link that is not emulated, at level 1; it \
             neither hashes nor proves,\nwhat arrived was compared here. Up to QEMU 9, multifd's \
             compressed bytes are unknown.\n",
        );
    }
    let ours = report
        .settings
        .iter()
        .map(|row| (&row.name, &row.suspicion));
    let peers = report.peers.iter().map(|row| (&row.name, &row.suspicion));
    for (name, suspicion) in ours.chain(peers) {
        if let Some(words) = suspicion.words() {
            text.push_str(&format!("warning: {name}: {words}\n"));
        }
    }
    text
}

/// What is best over each link, and why.
pub fn recommendations(report: &Report) -> String {
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
    let Some(link) = report.links.first() else {
        return text;
    };
    let chosen = &link.recommended;
    text.push_str(&format!(
        "\nAs commands, for {}:\n  {}\n  {}\n",
        link.link, chosen.receive, chosen.send
    ));
    if let (Some(setting), Some(virsh)) = (&chosen.qemu_setting, &chosen.virsh) {
        if *setting != chosen.setting {
            text.push_str(&format!(
                "QEMU does not have it; the best that it has is {setting}:\n"
            ));
        }
        text.push_str(&format!("  {virsh}\n"));
        for command in &chosen.qmp {
            text.push_str(&format!("  {command}\n"));
        }
        let levels = chosen.qmp.len() > 1;
        text.push_str(if levels {
            "  (QMP for both ends. QEMU 7.2 takes multifd's levels only as -global migration.NAME=LEVEL.)\n"
        } else {
            "  (QMP for both ends.)\n"
        });
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
        "{}: {}, {} MiB on the wire, ratio {}, {} + {} CPU s",
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
mod tests {
    use super::*;
    use crate::bench::report::tests::{report, report_with};

    fn words(text: &str, name: &str) -> String {
        let line = text.lines().find(|line| line.trim().starts_with(name));
        let words: Vec<_> = line.expect(name).split_whitespace().collect();
        words.join(" ")
    }

    #[test]
    fn the_table_shows_medians_with_units_and_a_dash_for_what_was_not_measured() {
        let text = table(&report(), Sort::Given, false);
        assert_eq!(
            words(&text, "zstd:1"),
            "zstd:1 1000.0 900.0 to 2000.0 1024 256 256.00 4.000 0.500 0.250 0.75"
        );
        assert_eq!(words(&text, "lz4"), "lz4 - - - - - - - - -");
        assert_eq!(
            words(&text, "memcpy"),
            "memcpy 100.0 100.0 to 100.0 10240 - - - - - -"
        );
        assert!(words(&text, "QEMU 7.2.22").ends_with("zlib:1 - - - - - - - - -"));
        assert!(text.contains("A CPU, 2 cores") && text.contains("[MiB/s]"));
        assert!(!text.contains("downtime") && !text.contains('\x1b'));
        assert!(text.lines().all(|line| line.chars().count() <= 130));
    }

    #[test]
    fn dominated_rows_are_dimmed_and_rows_sorted() {
        let report = report_with(&[
            ("none", 500.0, 4000),
            ("zlib:9", 900.0, 5000),
            ("zstd:1", 700.0, 1000),
        ]);
        let text = table(&report, Sort::Bytes, true);
        let order: Vec<usize> = ["zstd:1", "none", "zlib:9"]
            .iter()
            .map(|name| text.find(name).expect("its row"))
            .collect();
        assert!(order.is_sorted());
        let dimmed: Vec<&str> = text.lines().filter(|line| line.starts_with(DIM)).collect();
        assert!(
            matches!(dimmed[..], [line] if line.contains("zlib:9")),
            "{dimmed:?}"
        );
        for sort in Sort::ALL {
            assert_eq!(sort.to_string().parse(), Ok(sort));
        }
        assert!("size".parse::<Sort>().is_err());
    }

    #[test]
    fn the_recommendation_is_words_and_then_commands() {
        let text = recommendations(&report_with(&[
            ("none", 500.0, 400 << 20),
            ("zstd:1", 700.0, 100 << 20),
        ]));
        assert!(
            text.starts_with("unlimited: none, 500.00 ms: nothing is gained"),
            "{text}"
        );
        assert!(text.contains("1Gbit (computed): zstd:1, "), "{text}");
        assert!(text.contains("ramferry send guest.ram tcp:HOST:4444 --compress-method none"));
        assert!(text.contains("virsh migrate --live DOMAIN DESTURI\n"));
        assert!(text.contains("\"migrate-set-capabilities\""));
    }
}
