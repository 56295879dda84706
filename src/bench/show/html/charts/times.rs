//! Charts of how long it takes: against bytes, against the link's rate, against threads.

use super::super::svg::{LEFT, RIGHT, Scale, Svg, TOP, WIDTH, room, short};
use super::{Chart, HEIGHT, PEER, colour, method_legend, names_without_link, over, strings};
use crate::advice;
use crate::bench::judge::recommend::bit_rate;
use crate::bench::measure::setting::{UNLIMITED, link_name};
use crate::bench::peer::PeerReport;
use crate::bench::report::{BenchReport, MIB, SettingReport};
use crate::codec::Method;

/// What tells lines of one colour apart.
const DASHES: [&str; 4] = ["", "6 3", "2 3", "9 3 2 3"];
/// Between a chart and the names beside it, and behind them.
const ASIDE: f64 = 20.0;

/// Times that differ by more than this factor are shown on a logarithmic scale.
const SPREAD: f64 = 6.0;

/// Time against bytes, over one link.
pub(super) fn time_and_bytes(report: &BenchReport, link: &str) -> Option<Chart> {
    let rows = over(report, link);
    let points: Vec<(f64, f64)> = rows
        .iter()
        .filter_map(|row| row.cost())
        .map(|cost| (cost.time, cost.bytes / MIB))
        .collect();
    if points.is_empty() {
        return None;
    }
    // No link is emulated for them.
    let peers: &[PeerReport] = if link == UNLIMITED {
        &report.peers
    } else {
        &[]
    };
    let place = |peer: &PeerReport| Some((peer.time?.median, peer.wire_bytes?.median / MIB));
    let placed: Vec<(&PeerReport, (f64, f64))> = peers
        .iter()
        .filter_map(|peer| Some((peer, place(peer)?)))
        .collect();
    let unplaced: Vec<&str> = peers
        .iter()
        .filter(|peer| peer.time.is_some() && peer.wire_bytes.is_none())
        .map(|peer| peer.mode.name.as_str())
        .collect();
    let all = || points.iter().chain(placed.iter().map(|(_, point)| point));
    let greatest = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(0.0, f64::max);
    let names = names_without_link(&rows);
    let title = format!("Time against bytes, link {link}");
    let mut svg = Svg::new(&title, HEIGHT);
    let longest = greatest(|point| point.0);
    let shortest = all().map(|point| point.0).fold(f64::INFINITY, f64::min);
    // Where one takes many times as long as another, most would stand on each other otherwise.
    let (x, label) = if longest > SPREAD * shortest {
        let scale = Scale::log(shortest, longest, LEFT, WIDTH - RIGHT);
        (scale, "time [ms], logarithmic")
    } else {
        let scale = Scale::linear(longest * 1.05, LEFT, WIDTH - RIGHT);
        (scale, "time [ms]")
    };
    let y = Scale::linear(greatest(|point| point.1) * 1.05, svg.floor(), TOP);
    svg.x_axis(&x, label, short);
    svg.y_axis(&y, "on the wire [MiB]", short);
    let at = |point: (f64, f64)| (x.at(point.0), y.at(point.1));
    let front = advice::front(&points);
    let line: Vec<(f64, f64)> = front.iter().map(|index| at(points[*index])).collect();
    svg.line(
        "front",
        "4 4",
        &line,
        "the Pareto front: no setting is both faster and smaller",
    );
    svg.take_line(&line);
    let hover = |name: &str, point: (f64, f64)| {
        format!("{name}: {} ms, {} MiB", short(point.0), short(point.1))
    };
    let mut table = Vec::new();
    let mut line = |name: &str, point: (f64, f64), on: &str| {
        table.push(vec![
            name.to_owned(),
            short(point.0),
            short(point.1),
            on.to_owned(),
        ]);
    };
    for (peer, point) in &placed {
        svg.diamond(PEER, at(*point), &hover(&peer.name, *point));
    }
    for (row, point) in rows.iter().zip(&points) {
        svg.dot(colour(row), at(*point), &hover(&row.name, *point));
    }
    // What is on the front is named before others take the place.
    for index in &front {
        svg.name("", at(points[*index]), &names[*index]);
    }
    for (peer, point) in &placed {
        svg.name(PEER, at(*point), &peer.mode.name);
    }
    for (index, (name, point)) in names.iter().zip(&points).enumerate() {
        line(
            name,
            *point,
            if front.contains(&index) { "yes" } else { "" },
        );
    }
    for (peer, point) in &placed {
        line(&peer.name, *point, "");
    }
    let mut note = "Down and left is better. The dashed line joins the settings that no other \
                    beats in both; those on it are named."
        .to_owned();
    if let Some((peer, _)) = placed.first() {
        let what = if peer.mode.bulk_only {
            ", without the later rounds"
        } else {
            ""
        };
        note.push_str(&format!(
            " Diamonds are {}'s own ways{what}.",
            peer.mode.peer
        ));
    }
    if !unplaced.is_empty() {
        note.push_str(&format!(
            " Not shown, for nobody counts their bytes: {}.",
            unplaced.join("; ")
        ));
    }
    let mut legend = method_legend(&rows);
    legend.extend(
        placed
            .first()
            .map(|(peer, _)| (peer.mode.peer.clone(), PEER)),
    );
    Some(Chart {
        title,
        note,
        svg: svg.end(),
        legend,
        head: strings(["setting", "time [ms]", "on the wire [MiB]", "on the front"]),
        points: table.len(),
        rows: table,
    })
}

/// The rates between which lines are drawn, in bits a second.
const SLOWEST: f64 = 1e8;
const FASTEST: f64 = 1e11;

/// Time against the link's rate: lines from what was measured without a limit, dots as measured.
pub(super) fn link_rates(report: &BenchReport) -> Option<Chart> {
    let rows: Vec<&SettingReport> = report
        .settings
        .iter()
        .filter(|row| row.cost().is_some())
        .collect();
    if rows.is_empty() {
        return None;
    }
    let rate_of = |row: &SettingReport| {
        let link = row.setting.link;
        link.map_or(FASTEST, |link| link.bits_per_second() as f64)
    };
    let slowest = rows.iter().map(|row| rate_of(row)).fold(SLOWEST, f64::min);
    let cost_at = |row: &SettingReport, rate| {
        let cost = row.cost()?;
        Some(advice::time_over(cost.time, cost.bytes, rate))
    };
    let free = over(report, UNLIMITED);
    let names = names_without_link(&free);
    let times = rows.iter().filter_map(|row| Some(row.cost()?.time));
    let (low, high) = free
        .iter()
        .filter_map(|row| cost_at(row, slowest))
        .chain(times)
        .fold((f64::INFINITY, 0.0_f64), |(low, high), time| {
            (low.min(time), high.max(time))
        });
    let title = "Time against the link's rate";
    let mut svg = Svg::new(title, HEIGHT);
    let right = WIDTH - RIGHT - room(names.iter().map(String::as_str)) - ASIDE;
    let x = Scale::log(slowest, FASTEST, LEFT, right);
    let y = Scale::log(low, high, svg.floor(), TOP);
    svg.x_axis_to(right, &x, "rate of the link [bit/s], logarithmic", |rate| {
        if rate >= FASTEST {
            return "unlimited".to_owned();
        }
        bit_rate(rate)
            .replace(".00", "")
            .replace(".0 ", " ")
            .replace("bit/s", "")
    });
    svg.y_axis_to(right, &y, "time [ms], logarithmic", short);
    let mut seen = [0_usize; Method::ALL.len()];
    let mut ends: Vec<(f64, &str)> = Vec::new();
    for (row, name) in free.iter().zip(&names) {
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
        ends.extend(line.last().map(|(_, y)| (*y, name.as_str())));
    }
    // The fastest find room first.
    ends.sort_by(|a, b| b.0.total_cmp(&a.0));
    svg.names_beside(right, &ends);
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

/// Throughput against threads over one link, beside the ideal.
pub(super) fn thread_scaling(report: &BenchReport, link: &str) -> Option<Chart> {
    let measured = over(report, link);
    let mut groups: Vec<Vec<&SettingReport>> = Vec::new();
    for row in measured {
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
    for group in &mut groups {
        group.sort_by_key(|row| row.setting.compress_threads);
    }
    let rate = |row: &SettingReport| {
        row.ram_bytes_per_second
            .map_or(0.0, |rate| rate.median / MIB)
    };
    let threads = |row: &SettingReport| f64::from(row.setting.compress_threads);
    let rows: Vec<&SettingReport> = groups.iter().flatten().copied().collect();
    if rows.is_empty() {
        return None;
    }
    // What the groups differ in, which is not the threads.
    let firsts: Vec<&SettingReport> = groups.iter().map(|group| group[0]).collect();
    let mut settings: Vec<_> = firsts.iter().map(|row| row.setting.over(None)).collect();
    settings
        .iter_mut()
        .for_each(|setting| setting.compress_threads = 1);
    let names = crate::bench::measure::setting::names(&settings);
    let title = format!("Compressing threads, link {link}");
    let mut svg = Svg::new(&title, HEIGHT);
    let most = rows.iter().map(|row| threads(row)).fold(0.0, f64::max);
    let highest = rows.iter().map(|row| rate(row)).fold(0.0, f64::max);
    let right = WIDTH - RIGHT - room(names.iter().map(String::as_str)) - ASIDE;
    let least = rows.iter().map(|row| threads(row)).fold(most, f64::min);
    let x = Scale::counts(least, most, LEFT + ASIDE, right);
    let y = Scale::linear(highest * 1.05, svg.floor(), TOP);
    svg.x_axis_to(right, &x, "compressing threads", short);
    svg.y_axis_to(right, &y, "RAM [MiB/s]", short);
    let mut table = Vec::new();
    let mut ends: Vec<(f64, &str)> = Vec::new();
    for (group, name) in groups.iter().zip(&names) {
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
            &format!("{name}, ideal: as many times as fast as there are threads"),
        );
        let line: Vec<(f64, f64)> = group
            .iter()
            .map(|row| (x.at(threads(row)), y.at(rate(row))))
            .collect();
        svg.line(colour(first), "", &line, name);
        ends.extend(line.last().map(|(_, y)| (*y, name.as_str())));
        for row in group {
            let part = rate(row) / (each * threads(row)).max(1e-9);
            let hover = format!(
                "{}: {} MiB/s, {:.0} % of the ideal",
                row.name,
                short(rate(row)),
                part * 100.0
            );
            svg.dot(colour(row), (x.at(threads(row)), y.at(rate(row))), &hover);
            table.push(vec![
                name.clone(),
                row.setting.compress_threads.to_string(),
                short(rate(row)),
                format!("{:.0} %", part * 100.0),
            ]);
        }
    }
    svg.names_beside(right, &ends);
    let mut legend = method_legend(&rows);
    legend.push(("ideal".to_owned(), "ideal"));
    Some(Chart {
        title,
        note: format!(
            "Both ends share {} cores: beyond that, no thread can help. Dotted: as many times as \
             fast as there are threads.",
            report.conditions.cores
        ),
        svg: svg.end(),
        legend,
        head: strings(["setting", "threads", "RAM [MiB/s]", "of the ideal"]),
        points: table.len(),
        rows: table,
    })
}
