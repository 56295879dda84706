//! A report in a terminal: the recommendation, the tables, the commands.

mod advice;
mod head;

use std::time::Duration;

use super::rows::{CODEC_HEADINGS, HEADINGS, NOTHING, Sort, codec_rows, columns, groups, median};
use crate::bench::peer::PeerReport;
use crate::bench::report::{BenchReport, MIB, SettingReport};
use crate::bench::statistics::Summary;
use crate::grid::{Grid, GridLine, wrapped};
use crate::units::format_duration;

pub use advice::{CommandBlock, LinkCommands, commands_by_link, goal_words};
pub use head::{PEER_NOTE, warnings};

/// How a report is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Whether settings that another one beats in time, bytes and CPU are dimmed, by the escape
    /// sequences of a terminal.
    pub dim: bool,
    /// The most characters in a line, as far as that is possible.
    pub width: usize,
    /// Whether the codecs' table is shown too.
    pub codecs: bool,
}

impl Default for Look {
    fn default() -> Look {
        Look {
            dim: false,
            width: 100,
            codecs: false,
        }
    }
}

/// The columns that a narrow terminal can do without, by their places in [`HEADINGS`], the most
/// dispensable first: the wire's rate, CPU per GiB, minimum, RAM's rate, deviation, relative time.
const SPARE: [usize; 6] = [6, 11, 3, 5, 2, 4];

/// All of a report: what was measured, the recommendation, the table, the commands. The
/// recommendation comes before the table, because it is what most readers are looking for.
pub fn summary(report: &BenchReport, sort: Sort, look: Look) -> String {
    let width = Some(look.width);
    let parts = [
        wrapped(&head::head(report), width),
        advice::recommendations(report, width),
        table(report, sort, look),
        advice::commands(report, width),
    ];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("\n")
}

/// The medians. A dash marks what was not measured.
fn table(report: &BenchReport, sort: Sort, look: Look) -> String {
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
    let mut foot = head::foot(report);
    let left_out: Vec<&str> = left_out
        .into_iter()
        .filter_map(|at| Some(headings.get(at)?.0))
        .collect();
    if !left_out.is_empty() {
        foot.push_str(&format!(
            "Not shown on a narrow terminal: {}.\n",
            left_out.join(", ")
        ));
    }
    let codecs = match look.codecs {
        true => codec_table(report, sort, look),
        false => String::new(),
    };
    format!("{table}{}{codecs}", wrapped(&foot, Some(look.width)))
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
     CPU seconds for as many bytes, MiB per CPU second. Whole: the whole migration, data without \
     zero pages, per second of wall time.";

/// The median, with its unit.
fn typical(times: Option<Summary>) -> String {
    let Some(times) = times else {
        return NOTHING.to_owned();
    };
    let time = Duration::try_from_secs_f64(times.median / 1e3);
    format_duration(time.unwrap_or_default())
}

/// A setting on one line, printed when it has all its runs.
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

/// A peer's mode on one line, printed when it has all its runs.
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
