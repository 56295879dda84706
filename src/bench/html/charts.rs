//! The charts of the page. Each takes its points from the report, and has a table of them behind it.

use serde::Serialize;

use super::svg::{BOTTOM, LEFT, RIGHT, Scale, Svg, TOP, WIDTH, short};
use crate::bench::advice;
use crate::bench::matrix::{self, Setting, UNLIMITED, link_name};
use crate::bench::measurement::Run;
use crate::bench::recommend::bit_rate;
use crate::bench::report::{MIB, Report, SettingReport};
use crate::bench::statistics::median;
use crate::codec::Method;
use crate::page::PAGE_SIZE;
use crate::stats::Stage;
use crate::units::format_bytes;

const HEIGHT: f64 = 360.0;

/// A chart with what belongs to it.
#[derive(Debug, Serialize)]
pub(super) struct Chart {
    /// What it shows.
    pub(super) title: String,
    /// How to read it.
    pub(super) note: String,
    /// The picture.
    pub(super) svg: String,
    /// Names and the classes of their colours.
    pub(super) legend: Vec<(String, &'static str)>,
    /// The same numbers for reading: headings and rows.
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// How many points of data it shows: as many marks must be there.
    pub(super) points: usize,
}

/// The colours, by their number.
const COLOURS: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];
/// What tells lines of one colour apart.
const DASHES: [&str; 4] = ["", "6 3", "2 3", "9 3 2 3"];

/// A method has its colour wherever it occurs.
fn colour(row: &SettingReport) -> &'static str {
    COLOURS[row.setting.compression.method as usize]
}

fn method_legend(rows: &[&SettingReport]) -> Vec<(String, &'static str)> {
    Method::ALL
        .into_iter()
        .filter(|method| {
            rows.iter()
                .any(|row| row.setting.compression.method == *method)
        })
        .map(|method| (method.to_string(), COLOURS[method as usize]))
        .collect()
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// All charts for which the report has data.
pub(super) fn all(report: &Report) -> Vec<Chart> {
    let mut charts = Vec::new();
    for link in report.links.iter().filter(|link| link.measured) {
        charts.extend(time_and_bytes(report, &link.link));
    }
    charts.extend(link_rates(report));
    charts.extend(thread_scaling(report));
    charts.extend(cpu_split(report));
    charts.extend(delta_rounds(report));
    charts.push(page_classes(report));
    charts
}

/// Time against bytes, over one link.
fn time_and_bytes(report: &Report, link: &str) -> Option<Chart> {
    let rows: Vec<&SettingReport> = report
        .settings
        .iter()
        .filter(|row| row.link() == link && row.cost().is_some())
        .collect();
    let points: Vec<(f64, f64)> = rows
        .iter()
        .filter_map(|row| row.cost())
        .map(|cost| (cost.time, cost.bytes / MIB))
        .collect();
    let greatest = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).fold(0.0, f64::max);
    if points.is_empty() {
        return None;
    }
    // The link is the same for all of them.
    let settings: Vec<Setting> = rows.iter().map(|row| row.setting.over(None)).collect();
    let names = matrix::names(&settings);
    let title = format!("Time against bytes, link {link}");
    let mut svg = Svg::new(&title, HEIGHT);
    let x = Scale::linear(greatest(|point| point.0) * 1.05, LEFT, WIDTH - RIGHT);
    let y = Scale::linear(greatest(|point| point.1) * 1.05, svg.floor(), TOP);
    svg.x_axis(&x, "time [ms]", short);
    svg.y_axis(&y, "on the wire [MiB]", short);
    let at = |point: (f64, f64)| (x.at(point.0), y.at(point.1));
    let front = advice::front(&points);
    let line: Vec<(f64, f64)> = front.iter().map(|index| at(points[*index])).collect();
    svg.line(
        "front",
        "4 4",
        &line,
        "the Pareto front: nothing is both faster and smaller",
    );
    for (index, (row, point)) in rows.iter().zip(&points).enumerate() {
        let hover = format!(
            "{}: {} ms, {} MiB",
            row.name,
            short(point.0),
            short(point.1)
        );
        svg.dot(colour(row), at(*point), &hover);
        if front.contains(&index) {
            svg.name(at(*point), &names[index]);
        }
    }
    Some(Chart {
        title,
        note: "Down and left is better. The dashed line joins the settings that no other beats in \
               both; those on it are named."
            .to_owned(),
        svg: svg.end(),
        legend: method_legend(&rows),
        head: strings(["setting", "time [ms]", "on the wire [MiB]", "on the front"]),
        rows: names
            .iter()
            .zip(&points)
            .enumerate()
            .map(|(index, (name, (time, bytes)))| {
                let on = if front.contains(&index) { "yes" } else { "" };
                vec![name.clone(), short(*time), short(*bytes), on.to_owned()]
            })
            .collect(),
        points: points.len(),
    })
}

/// The rates between which lines are drawn, in bits a second.
const SLOWEST: f64 = 1e8;
const FASTEST: f64 = 1e11;

/// Time against the link's rate: lines from what was measured without a limit, dots as measured.
fn link_rates(report: &Report) -> Option<Chart> {
    let rows: Vec<&SettingReport> = report
        .settings
        .iter()
        .filter(|row| row.cost().is_some())
        .collect();
    let rate_of = |row: &SettingReport| {
        let link = row.setting.link;
        link.map_or(FASTEST, |link| link.bits_per_second() as f64)
    };
    let slowest = rows.iter().map(|row| rate_of(row)).fold(SLOWEST, f64::min);
    let cost_at = |row: &SettingReport, rate| {
        let cost = row.cost()?;
        Some(advice::time_over(cost.time, cost.bytes, rate))
    };
    let free: Vec<&SettingReport> = rows
        .iter()
        .copied()
        .filter(|row| row.link() == UNLIMITED)
        .collect();
    let times = rows.iter().filter_map(|row| Some(row.cost()?.time));
    let (low, high) = free
        .iter()
        .filter_map(|row| cost_at(row, slowest))
        .chain(times)
        .fold((f64::INFINITY, 0.0_f64), |(low, high), time| {
            (low.min(time), high.max(time))
        });
    if rows.is_empty() {
        return None;
    }
    let title = "Time against the link's rate";
    let mut svg = Svg::new(title, HEIGHT);
    let x = Scale::log(slowest, FASTEST, LEFT, WIDTH - RIGHT);
    let y = Scale::log(low, high, svg.floor(), TOP);
    svg.x_axis(
        &x,
        "rate of the link [bit/s], logarithmic; unlimited at the right",
        |rate| {
            bit_rate(rate)
                .replace(".00", "")
                .replace(".0 ", " ")
                .replace("bit/s", "")
        },
    );
    svg.y_axis(&y, "time [ms], logarithmic", short);
    let mut seen = [0_usize; Method::ALL.len()];
    let settings: Vec<Setting> = free.iter().map(|row| row.setting).collect();
    for (row, name) in free.iter().zip(matrix::names(&settings)) {
        let method = row.setting.compression.method as usize;
        let dash = DASHES[seen[method] % DASHES.len()];
        seen[method] += 1;
        let steps = 120;
        let line: Vec<(f64, f64)> = (0..=steps)
            .filter_map(|step| {
                let part = f64::from(step) / f64::from(steps);
                let rate = slowest * (FASTEST / slowest).powf(part);
                Some((x.at(rate), y.at(cost_at(row, rate)?)))
            })
            .collect();
        svg.line(colour(row), dash, &line, &format!("{name} (computed)"));
        if let Some(end) = line.first() {
            svg.name(*end, &name);
        }
    }
    let mut table = Vec::new();
    for row in &rows {
        let (time, rate) = (row.time.map_or(0.0, |time| time.median), rate_of(row));
        let hover = format!("{} over {}: {} ms", row.name, row.link(), short(time));
        svg.dot(colour(row), (x.at(rate), y.at(time)), &hover);
        table.push(vec![
            row.setting.compression.to_string(),
            row.name.clone(),
            link_name(row.setting.link),
            short(time),
        ]);
    }
    Some(Chart {
        title: title.to_owned(),
        note: "Dots are measured. Lines are computed from the measurement without a limit: the \
               longer of what the setting took and what the link needs for its bytes. Where lines \
               cross, another setting becomes the faster one."
            .to_owned(),
        svg: svg.end(),
        legend: method_legend(&rows),
        head: strings(["method", "setting", "link", "time [ms]"]),
        rows: table,
        points: rows.len(),
    })
}

/// Throughput against threads, beside the ideal.
fn thread_scaling(report: &Report) -> Option<Chart> {
    let mut groups: Vec<Vec<&SettingReport>> = Vec::new();
    for row in report.settings.iter().filter(|row| row.cost().is_some()) {
        let mut same = row.setting;
        let found = groups.iter_mut().find(|group| {
            same.compress_threads = group[0].setting.compress_threads;
            group[0].setting == same
        });
        match found {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups.retain(|group| group.len() > 1);
    let rate = |row: &SettingReport| {
        row.ram_bytes_per_second
            .map_or(0.0, |rate| rate.median / MIB)
    };
    let threads = |row: &SettingReport| f64::from(row.setting.compress_threads);
    let rows: Vec<&SettingReport> = groups.iter().flatten().copied().collect();
    if rows.is_empty() {
        return None;
    }
    let title = "Compressing threads";
    let mut svg = Svg::new(title, HEIGHT);
    let most = rows.iter().map(|row| threads(row)).fold(0.0, f64::max);
    let highest = rows.iter().map(|row| rate(row)).fold(0.0, f64::max);
    let x = Scale::linear(most, LEFT, WIDTH - RIGHT);
    let y = Scale::linear(highest * 1.05, svg.floor(), TOP);
    svg.x_axis(&x, "compressing threads", short);
    svg.y_axis(&y, "RAM [MiB/s]", short);
    let mut table = Vec::new();
    for group in &mut groups {
        group.sort_by_key(|row| row.setting.compress_threads);
        let first = group[0];
        let each = rate(first) / threads(first).max(1.0);
        // As far as it fits into the picture.
        let end = most.min(highest * 1.05 / each.max(1e-9));
        let ideal = [
            (x.at(threads(first)), y.at(rate(first))),
            (x.at(end), y.at(end * each)),
        ];
        svg.line(
            "ideal",
            "2 4",
            &ideal,
            "ideal: as many times as fast as there are threads",
        );
        let line: Vec<(f64, f64)> = group
            .iter()
            .map(|row| (x.at(threads(row)), y.at(rate(row))))
            .collect();
        svg.line(
            colour(first),
            "",
            &line,
            &first.setting.compression.to_string(),
        );
        for row in group.iter() {
            let part = rate(row) / (each * threads(row)).max(1e-9);
            let hover = format!(
                "{}: {} MiB/s, {:.0} % of the ideal",
                row.name,
                short(rate(row)),
                part * 100.0
            );
            svg.dot(colour(row), (x.at(threads(row)), y.at(rate(row))), &hover);
            table.push(vec![
                row.name.clone(),
                row.setting.compress_threads.to_string(),
                short(rate(row)),
                format!("{:.0} %", part * 100.0),
            ]);
        }
    }
    let mut legend = method_legend(&rows);
    legend.push(("ideal".to_owned(), "ideal"));
    Some(Chart {
        title: title.to_owned(),
        note: format!(
            "Both ends share {} cores: beyond that, no thread can help.",
            report.conditions.cores
        ),
        svg: svg.end(),
        legend,
        head: strings(["setting", "threads", "RAM [MiB/s]", "of the ideal"]),
        points: table.len(),
        rows: table,
    })
}

/// CPU seconds by side and stage.
fn cpu_split(report: &Report) -> Option<Chart> {
    const ROW: f64 = 38.0;
    const NAMES: f64 = 190.0;
    let rows: Vec<&SettingReport> = report
        .settings
        .iter()
        .filter(|row| row.cost().is_some())
        .collect();
    let most = rows
        .iter()
        .filter_map(|row| {
            Some(
                row.source_cpu_seconds?
                    .max
                    .max(row.destination_cpu_seconds?.max),
            )
        })
        .fold(0.0, f64::max);
    if rows.is_empty() {
        return None;
    }
    let title = "CPU seconds by side and stage";
    let mut svg = Svg::new(title, TOP + BOTTOM + ROW * rows.len() as f64);
    let x = Scale::linear(most, NAMES, WIDTH - RIGHT);
    svg.x_axis(&x, "CPU [s]", short);
    let mut table = Vec::new();
    let mut used = [false; Stage::ALL.len()];
    for (number, row) in rows.iter().enumerate() {
        let top = TOP + ROW * number as f64;
        svg.words(NAMES - 26.0, top + 21.0, "end", "name", &row.name);
        for (side, name) in ["source", "destination"].into_iter().enumerate() {
            let y = top + 3.0 + 16.0 * side as f64;
            svg.words(NAMES - 6.0, y + 11.0, "end", "tick", &name[..1]);
            let mut from = 0.0;
            for stage in Stage::ALL {
                let of = |run: &Run| {
                    let stages = match side {
                        0 => &run.source_cpu_seconds,
                        _ => &run.destination_cpu_seconds,
                    };
                    stages.get(stage.name()).copied().unwrap_or(0.0)
                };
                let values: Vec<f64> = row.runs.iter().map(of).collect();
                let seconds = median(&values).unwrap_or(0.0);
                if seconds <= 0.0 {
                    continue;
                }
                used[stage as usize] = true;
                let (left, right) = (x.at(from), x.at(from + seconds));
                let hover = format!("{}, {name}, {}: {seconds:.3} CPU s", row.name, stage.name());
                let class = COLOURS[stage as usize];
                // A hair's breadth between neighbours.
                svg.bar(class, (left, y), (right - left - 1.0, 14.0), &hover);
                table.push(vec![
                    row.name.clone(),
                    name.to_owned(),
                    stage.name().to_owned(),
                    format!("{seconds:.3}"),
                ]);
                from += seconds;
            }
        }
    }
    Some(Chart {
        title: title.to_owned(),
        note: "Medians. The upper bar (s) is the source, the lower one (d) the destination."
            .to_owned(),
        svg: svg.end(),
        legend: Stage::ALL
            .into_iter()
            .filter(|stage| used[*stage as usize])
            .map(|stage| (stage.name().to_owned(), COLOURS[stage as usize]))
            .collect(),
        head: strings(["setting", "side", "stage", "CPU [s]"]),
        points: table.len(),
        rows: table,
    })
}

/// What each delta round took on the wire.
fn delta_rounds(report: &Report) -> Option<Chart> {
    let mut bars = Vec::new();
    for row in &report.settings {
        let rounds = row
            .runs
            .iter()
            .map(|run| run.rounds.len())
            .min()
            .unwrap_or(0);
        for round in 1..rounds {
            let of = |run: &Run| run.rounds.get(round).map(|round| round.wire_bytes as f64);
            let values: Vec<f64> = row.runs.iter().filter_map(of).collect();
            bars.push((row, round + 1, median(&values)? / MIB));
        }
    }
    let most = bars.iter().map(|(_, _, bytes)| *bytes).fold(0.0, f64::max);
    if bars.is_empty() {
        return None;
    }
    const ROW: f64 = 22.0;
    const NAMES: f64 = 230.0;
    let title = "Delta rounds";
    let mut svg = Svg::new(title, TOP + BOTTOM + ROW * bars.len() as f64);
    let x = Scale::linear(most, NAMES, WIDTH - RIGHT);
    svg.x_axis(&x, "on the wire [MiB]", short);
    let mut table = Vec::new();
    for (number, (row, round, bytes)) in bars.iter().enumerate() {
        let y = TOP + ROW * number as f64;
        let name = format!("{}, round {round}", row.name);
        svg.words(NAMES - 8.0, y + 14.0, "end", "name", &name);
        let hover = format!("{name}: {} MiB", short(*bytes));
        svg.bar(
            colour(row),
            (NAMES, y + 3.0),
            (x.at(*bytes) - NAMES, 15.0),
            &hover,
        );
        table.push(vec![row.name.clone(), round.to_string(), short(*bytes)]);
    }
    let rows: Vec<&SettingReport> = bars.iter().map(|(row, _, _)| *row).collect();
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
fn page_classes(report: &Report) -> Chart {
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
