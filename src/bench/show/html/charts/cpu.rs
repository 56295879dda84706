//! CPU seconds by side and stage.

use std::collections::BTreeMap;

use super::super::svg::{BOTTOM, RIGHT, Scale, Svg, TOP, WIDTH, fitting, room, short};
use super::{COLOURS, Chart, PEER, strings};
use crate::bench::measure::migrate::BenchRun;
use crate::bench::peer::PeerReport;
use crate::bench::report::{BenchReport, SettingReport};
use crate::bench::show::rows::{self, Sort};
use crate::bench::statistics::median;
use crate::stats::Stage;

/// The height of two bars and the space around them.
const ROW: f64 = 38.0;
const TITLE: f64 = 24.0;
/// The letters for the sides, and the space around them.
const SIDE: f64 = 26.0;

/// The parts of a side's bar: a name, a colour and CPU seconds each.
type Parts = Vec<(&'static str, &'static str, f64)>;

/// The two bars of a setting or of a peer's mode.
struct Bars<'a> {
    /// The name below its title.
    name: String,
    full_name: &'a str,
    source: Parts,
    destination: Parts,
}

/// One line of the chart.
enum CpuLine<'a> {
    Title(String),
    Bars(Bars<'a>),
}

/// CPU seconds by side and stage; of peers, by process.
pub(super) fn cpu_split(report: &BenchReport) -> Option<Chart> {
    let lines = lines(report);
    let bars = || {
        lines.iter().filter_map(|line| match line {
            CpuLine::Bars(bars) => Some(bars),
            CpuLine::Title(_) => None,
        })
    };
    bars().next()?;
    let most = bars()
        .flat_map(|bars| [&bars.source, &bars.destination])
        .map(|parts| parts.iter().map(|(_, _, seconds)| seconds).sum())
        .fold(0.0, f64::max);
    let names = room(bars().map(|bars| bars.name.as_str()));
    let left = names + SIDE + 12.0;
    let heights = lines.iter().map(|line| match line {
        CpuLine::Title(_) => TITLE,
        CpuLine::Bars(_) => ROW,
    });
    let title = "CPU seconds by side and stage";
    let mut svg = Svg::new(title, TOP + BOTTOM + heights.sum::<f64>());
    let x = Scale::linear(most, left, WIDTH - RIGHT);
    svg.x_axis(&x, "CPU [s]", short);
    svg.x_names_on_top(&x, short);
    let mut table = Vec::new();
    let mut top = TOP;
    for line in &lines {
        match line {
            CpuLine::Title(words) => {
                svg.words(6.0, top + 17.0, "start", "label", words);
                top += TITLE;
            }
            CpuLine::Bars(bars) => {
                let shown = fitting(&bars.name, names);
                svg.words(left - SIDE, top + 22.0, "end", "name", &shown);
                table.extend(draw(&mut svg, &x, (left, top), bars));
                top += ROW;
            }
        }
    }
    Some(Chart {
        title: title.to_owned(),
        note: "Medians. The upper bar (s) is the source, the lower one (d) the destination."
            .to_owned(),
        svg: svg.end(),
        legend: legend(bars()),
        head: strings(["setting", "side", "stage", "CPU [s]"]),
        points: table.len(),
        rows: table,
    })
}

/// Draws two bars; gives the rows of the table.
fn draw(svg: &mut Svg, x: &Scale, (left, top): (f64, f64), bars: &Bars<'_>) -> Vec<Vec<String>> {
    let sides = [
        ("source", &bars.source, 3.0),
        ("destination", &bars.destination, 19.0),
    ];
    let mut table = Vec::new();
    for (side, parts, below) in sides {
        let y = top + below;
        svg.words(left - 6.0, y + 11.0, "end", "tick", &side[..1]);
        let mut from = 0.0;
        for (part, class, seconds) in parts {
            let (start, end) = (x.at(from), x.at(from + seconds));
            let hover = format!("{}, {side}, {part}: {seconds:.3} CPU s", bars.full_name);
            // A gap of one pixel between neighbours.
            svg.bar(class, (start, y), (end - start - 1.0, 14.0), &hover);
            table.push(vec![
                bars.full_name.to_owned(),
                side.to_owned(),
                (*part).to_owned(),
                format!("{seconds:.3}"),
            ]);
            from += seconds;
        }
    }
    table
}

fn legend<'a>(bars: impl Iterator<Item = &'a Bars<'a>>) -> Vec<(String, &'static str)> {
    let mut legend = Vec::new();
    for (part, class, _) in bars.flat_map(|bars| bars.source.iter().chain(&bars.destination)) {
        let entry = ((*part).to_owned(), *class);
        if !legend.contains(&entry) {
            legend.push(entry);
        }
    }
    legend.sort_by_key(|(_, class)| *class);
    legend
}

/// The settings over each link, and the peers.
fn lines(report: &BenchReport) -> Vec<CpuLine<'_>> {
    let mut lines = Vec::new();
    for (link, rows) in rows::by_link(report, Sort::Given) {
        let measured = rows.into_iter().filter(|(_, row)| row.cost().is_some());
        let mut measured = measured.peekable();
        if measured.peek().is_some() {
            lines.extend(link.map(|link| CpuLine::Title(format!("over {link}"))));
        }
        lines.extend(measured.map(|(name, row)| {
            CpuLine::Bars(Bars {
                name,
                full_name: &row.name,
                source: stages(row, |run| &run.source_cpu_seconds),
                destination: stages(row, |run| &run.destination_cpu_seconds),
            })
        }));
    }
    let mut titled = "";
    for peer in &report.peers {
        let Some([source, destination]) = processes(peer) else {
            continue;
        };
        if titled != peer.mode.peer {
            titled = &peer.mode.peer;
            lines.push(CpuLine::Title(titled.to_owned()));
        }
        lines.push(CpuLine::Bars(Bars {
            name: peer.mode.name.clone(),
            full_name: &peer.name,
            source,
            destination,
        }));
    }
    lines
}

/// The stages of one side that took any time.
fn stages(row: &SettingReport, side: fn(&BenchRun) -> &BTreeMap<&'static str, f64>) -> Parts {
    let seconds = |stage: Stage| {
        let of = |run: &BenchRun| side(run).get(stage.name()).copied().unwrap_or(0.0);
        let values: Vec<f64> = row.runs.iter().map(of).collect();
        median(&values).unwrap_or(0.0)
    };
    Stage::ALL
        .into_iter()
        .map(|stage| (stage.name(), COLOURS[stage as usize], seconds(stage)))
        .filter(|(_, _, seconds)| *seconds > 0.0)
        .collect()
}

/// A peer does not report its stages.
fn processes(peer: &PeerReport) -> Option<[Parts; 2]> {
    let part = |seconds: f64| vec![("whole process", PEER, seconds)];
    Some([
        part(peer.source_cpu_seconds?.median),
        part(peer.destination_cpu_seconds?.median),
    ])
}
