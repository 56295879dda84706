//! Charts of bars: CPU by side and stage, delta rounds, the pages of the image.

use super::super::svg::{BOTTOM, LEFT, RIGHT, Scale, Svg, TOP, WIDTH, fitting, room, short};
use super::{COLOURS, Chart, PEER, colour, method_legend, strings};
use crate::bench::measure::migrate::Run;
use crate::bench::peer::PeerReport;
use crate::bench::report::{BenchReport, MIB, SettingReport};
use crate::bench::show::rows::{self, Sort};
use crate::bench::statistics::median;
use crate::page::PAGE_SIZE;
use crate::stats::Stage;
use crate::units::format_bytes;

/// What the bars of one side consist of: a name, a colour and CPU seconds each.
type Parts = Vec<(&'static str, &'static str, f64)>;

/// One line of the CPU chart.
enum Line<'a> {
    /// What those below have in common.
    Title(String),
    /// A name, a name with everything, and the parts of the source and of the destination.
    Bars(String, &'a str, [Parts; 2]),
}

/// CPU seconds by side and stage; of peers, by process.
pub(super) fn cpu_split(report: &BenchReport) -> Option<Chart> {
    const ROW: f64 = 38.0;
    const TITLE: f64 = 24.0;
    /// The letters for the sides, and the space around them.
    const SIDE: f64 = 26.0;
    let lines = lines(report);
    let bars = || {
        lines.iter().filter_map(|line| match line {
            Line::Bars(name, _, sides) => Some((name, sides)),
            Line::Title(_) => None,
        })
    };
    bars().next()?;
    let most = bars()
        .flat_map(|(_, sides)| sides)
        .map(|parts| parts.iter().map(|(_, _, seconds)| seconds).sum())
        .fold(0.0, f64::max);
    let names = room(bars().map(|(name, _)| name.as_str()));
    let left = names + SIDE + 12.0;
    let heights = lines.iter().map(|line| match line {
        Line::Title(_) => TITLE,
        Line::Bars(..) => ROW,
    });
    let title = "CPU seconds by side and stage";
    let mut svg = Svg::new(title, TOP + BOTTOM + heights.sum::<f64>());
    let x = Scale::linear(most, left, WIDTH - RIGHT);
    svg.x_axis(&x, "CPU [s]", short);
    svg.x_names_on_top(&x, short);
    let (mut table, mut legend) = (Vec::new(), Vec::new());
    let mut top = TOP;
    for line in &lines {
        let (name, full, sides) = match line {
            Line::Title(words) => {
                svg.words(6.0, top + 17.0, "start", "label", words);
                top += TITLE;
                continue;
            }
            Line::Bars(name, full, sides) => (name, full, sides),
        };
        let shown = fitting(name, names);
        svg.words(left - SIDE, top + 22.0, "end", "name", &shown);
        for (side, (word, parts)) in ["source", "destination"].iter().zip(sides).enumerate() {
            let y = top + 3.0 + 16.0 * side as f64;
            svg.words(left - 6.0, y + 11.0, "end", "tick", &word[..1]);
            let mut from = 0.0;
            for (part, class, seconds) in parts {
                let (start, end) = (x.at(from), x.at(from + seconds));
                let hover = format!("{full}, {word}, {part}: {seconds:.3} CPU s");
                // A hair's breadth between neighbours.
                svg.bar(class, (start, y), (end - start - 1.0, 14.0), &hover);
                table.push(vec![
                    (*full).to_owned(),
                    (*word).to_owned(),
                    (*part).to_owned(),
                    format!("{seconds:.3}"),
                ]);
                if !legend.contains(&((*part).to_owned(), *class)) {
                    legend.push(((*part).to_owned(), *class));
                }
                from += seconds;
            }
        }
        top += ROW;
    }
    legend.sort_by_key(|(_, class)| *class);
    Some(Chart {
        title: title.to_owned(),
        note: "Medians. The upper bar (s) is the source, the lower one (d) the destination."
            .to_owned(),
        svg: svg.end(),
        legend,
        head: strings(["setting", "side", "stage", "CPU [s]"]),
        points: table.len(),
        rows: table,
    })
}

/// The settings over each link, and the peers.
fn lines(report: &BenchReport) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for (link, rows) in rows::by_link(report, Sort::Given) {
        let measured = rows.into_iter().filter(|(_, row)| row.cost().is_some());
        let mut measured = measured.peekable();
        if measured.peek().is_some() {
            lines.extend(link.map(|link| Line::Title(format!("over {link}"))));
        }
        lines.extend(measured.map(|(name, row)| {
            let sides = [
                stages(row, |run| &run.source_cpu_seconds),
                stages(row, |run| &run.destination_cpu_seconds),
            ];
            Line::Bars(name, &row.name, sides)
        }));
    }
    let mut titled = "";
    for peer in &report.peers {
        let Some(sides) = processes(peer) else {
            continue;
        };
        if titled != peer.mode.peer {
            titled = &peer.mode.peer;
            lines.push(Line::Title(titled.to_owned()));
        }
        lines.push(Line::Bars(peer.mode.name.clone(), &peer.name, sides));
    }
    lines
}

/// The stages of one side that took any time.
fn stages(
    row: &SettingReport,
    side: fn(&Run) -> &std::collections::BTreeMap<&'static str, f64>,
) -> Parts {
    let seconds = |stage: Stage| {
        let of = |run: &Run| side(run).get(stage.name()).copied().unwrap_or(0.0);
        let values: Vec<f64> = row.runs.iter().map(of).collect();
        median(&values).unwrap_or(0.0)
    };
    Stage::ALL
        .into_iter()
        .map(|stage| (stage.name(), COLOURS[stage as usize], seconds(stage)))
        .filter(|(_, _, seconds)| *seconds > 0.0)
        .collect()
}

/// A peer does not tell its stages.
fn processes(peer: &PeerReport) -> Option<[Parts; 2]> {
    let part = |seconds: f64| vec![("whole process", PEER, seconds)];
    Some([
        part(peer.source_cpu_seconds?.median),
        part(peer.destination_cpu_seconds?.median),
    ])
}

/// What each delta round took on the wire.
pub(super) fn delta_rounds(report: &BenchReport) -> Option<Chart> {
    // What changed does not depend on the link.
    let (_, rows) = rows::by_link(report, Sort::Given).into_iter().next()?;
    let mut bars = Vec::new();
    for (name, row) in &rows {
        let rounds = row.runs.iter().map(|run| run.rounds.len()).min();
        for round in 1..rounds.unwrap_or(0) {
            let of = |run: &Run| run.rounds.get(round).map(|round| round.wire_bytes as f64);
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
        note: "What the rounds after the bulk stage took: the pages that had changed.".to_owned(),
        svg: svg.end(),
        legend: method_legend(&rows),
        head: strings(["setting", "round", "on the wire [MiB]"]),
        points: table.len(),
        rows: table,
    })
}

/// What the pages of the image are.
pub(super) fn page_classes(report: &BenchReport) -> Chart {
    let pages = &report.image.pages;
    let classes = [
        ("zero", pages.zero),
        ("one byte all over", pages.one_byte),
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
        note: "Zero pages take next to nothing to send; duplicates are sent like any other."
            .to_owned(),
        svg: svg.end(),
        legend,
        head: strings(["class", "pages", "size", "part"]),
        points: table.len(),
        rows: table,
    }
}
