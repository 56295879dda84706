//! Charts of bars: delta rounds, and the pages of the image.

use super::super::svg::{BOTTOM, LEFT, RIGHT, Scale, Svg, TOP, WIDTH, fitting, room, short};
use super::{COLOURS, Chart, colour, method_legend, strings};
use crate::bench::measure::migrate::BenchRun;
use crate::bench::report::{BenchReport, MIB, SettingReport};
use crate::bench::show::rows::{self, Sort};
use crate::bench::statistics::median;
use crate::page::PAGE_SIZE;
use crate::units::format_bytes;

/// The bytes of each delta round on the wire.
pub(super) fn delta_rounds(report: &BenchReport) -> Option<Chart> {
    // What changed does not depend on the link.
    let (_, rows) = rows::by_link(report, Sort::Given).into_iter().next()?;
    let mut bars = Vec::new();
    for (name, row) in &rows {
        let rounds = row.runs.iter().map(|run| run.rounds.len()).min();
        for round in 1..rounds.unwrap_or(0) {
            let of = |run: &BenchRun| run.rounds.get(round).map(|round| round.wire_bytes as f64);
            let values: Vec<f64> = row.runs.iter().filter_map(of).collect();
            bars.push((name, *row, round + 1, median(&values)? / MIB));
        }
    }
    let most = bars.iter().map(|(_, _, _, size)| *size).fold(0.0, f64::max);
    if bars.is_empty() {
        return None;
    }
    const ROW: f64 = 20.0;
    /// The number of the round, and the space around it.
    const SIDE: f64 = 62.0;
    let names = room(bars.iter().map(|(name, ..)| name.as_str()));
    let left = names + SIDE + 12.0;
    let title = "Delta rounds";
    let mut svg = Svg::new(title, TOP + BOTTOM + ROW * bars.len() as f64);
    let x = Scale::linear(most, left, WIDTH - RIGHT);
    svg.x_axis(&x, "on the wire [MiB]", short);
    let mut table = Vec::new();
    let mut before = None;
    for (number, (name, row, round, bytes)) in bars.iter().enumerate() {
        let y = TOP + ROW * number as f64;
        if before != Some(*name) {
            svg.words(left - SIDE, y + 14.0, "end", "name", &fitting(name, names));
            before = Some(*name);
        }
        svg.words(
            left - 6.0,
            y + 14.0,
            "end",
            "tick",
            &format!("round {round}"),
        );
        let hover = format!("{name}, round {round}: {} MiB", short(*bytes));
        svg.bar(
            colour(row),
            (left, y + 3.0),
            (x.at(*bytes) - left, 15.0),
            &hover,
        );
        table.push(vec![(*name).clone(), round.to_string(), short(*bytes)]);
    }
    let rows: Vec<&SettingReport> = bars.iter().map(|(_, row, _, _)| *row).collect();
    Some(Chart {
        title: title.to_owned(),
        note: "The rounds after the bulk stage: only the pages that had changed.".to_owned(),
        svg: svg.end(),
        legend: method_legend(&rows),
        head: strings(["setting", "round", "on the wire [MiB]"]),
        points: table.len(),
        rows: table,
    })
}

/// The pages of the image by their content.
pub(super) fn page_classes(report: &BenchReport) -> Chart {
    let pages = &report.image.pages;
    let classes = [
        ("zero", pages.zero),
        ("one repeated byte", pages.one_byte),
        ("duplicate", pages.duplicate),
        ("other", pages.other),
    ];
    let all = pages.all().max(1) as f64;
    let title = "The pages of the image";
    let mut svg = Svg::new(title, 100.0);
    let x = Scale::linear(100.0, LEFT, WIDTH - RIGHT);
    svg.x_axis(&x, "of all pages [%]", short);
    let (mut from, mut table, mut legend) = (0.0, Vec::new(), Vec::new());
    for (number, (name, count)) in classes.into_iter().enumerate() {
        if count == 0 {
            continue;
        }
        let part = count as f64 * 100.0 / all;
        let (left, right) = (x.at(from), x.at(from + part));
        let bytes = format_bytes(count * PAGE_SIZE as u64);
        let hover = format!("{name}: {part:.1} %, {bytes}");
        svg.bar(
            COLOURS[number],
            (left, TOP + 4.0),
            (right - left - 1.0, 30.0),
            &hover,
        );
        table.push(vec![
            name.to_owned(),
            count.to_string(),
            bytes,
            format!("{part:.1} %"),
        ]);
        legend.push((name.to_owned(), COLOURS[number]));
        from += part;
    }
    Chart {
        title: title.to_owned(),
        note: "Zero pages cost almost nothing to send; duplicates are sent like any other page."
            .to_owned(),
        svg: svg.end(),
        legend,
        head: strings(["class", "pages", "size", "part"]),
        points: table.len(),
        rows: table,
    }
}
