//! Throughput against the number of compression threads, beside the ideal.

use super::super::svg::{LEFT, RIGHT, Scale, Svg, TOP, WIDTH, room, short};
use super::{ASIDE, Chart, HEIGHT, colour, method_legend, over, strings};
use crate::bench::measure::setting::names;
use crate::bench::report::{BenchReport, MIB, SettingReport};

fn rate(row: &SettingReport) -> f64 {
    row.ram_bytes_per_second
        .map_or(0.0, |rate| rate.median / MIB)
}

fn threads(row: &SettingReport) -> f64 {
    f64::from(row.setting.compress_threads)
}

/// Settings over one link that differ only in their threads, at least two each.
fn groups<'a>(report: &'a BenchReport, link: &str) -> Vec<Vec<&'a SettingReport>> {
    let mut groups: Vec<Vec<&SettingReport>> = Vec::new();
    for row in over(report, link) {
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
    groups
}

/// What the groups differ in, which is not the threads.
fn group_names(groups: &[Vec<&SettingReport>]) -> Vec<String> {
    let settings = groups.iter().map(|group| {
        let mut setting = group[0].setting.over(None);
        setting.compress_threads = 1;
        setting
    });
    names(&settings.collect::<Vec<_>>())
}

/// RAM per second against threads, over one link.
pub(super) fn thread_scaling(report: &BenchReport, link: &str) -> Option<Chart> {
    let groups = groups(report, link);
    let rows: Vec<&SettingReport> = groups.iter().flatten().copied().collect();
    if rows.is_empty() {
        return None;
    }
    let names = group_names(&groups);
    let title = format!("Compression threads, link {link}");
    let mut svg = Svg::new(&title, HEIGHT);
    let most = rows.iter().map(|row| threads(row)).fold(0.0, f64::max);
    let least = rows.iter().map(|row| threads(row)).fold(most, f64::min);
    let highest = rows.iter().map(|row| rate(row)).fold(0.0, f64::max) * 1.05;
    let right = WIDTH - RIGHT - room(names.iter().map(String::as_str)) - ASIDE;
    let x = Scale::counts(least, most, LEFT + ASIDE, right);
    let y = Scale::linear(highest, svg.floor(), TOP);
    svg.x_axis_to(right, &x, "compression threads", short);
    svg.y_axis_to(right, &y, "RAM [MiB/s]", short);
    let mut table = Vec::new();
    let mut ends: Vec<(f64, &str)> = Vec::new();
    for (group, name) in groups.iter().zip(&names) {
        let line: Vec<(f64, f64)> = group
            .iter()
            .map(|row| (x.at(threads(row)), y.at(rate(row))))
            .collect();
        let each = rate(group[0]) / threads(group[0]).max(1.0);
        // As far as it fits into the picture.
        let end = most.min(highest / each.max(1e-9));
        let ideal = [line[0], (x.at(end), y.at(end * each))];
        let hover = format!("{name}, ideal: n threads are n times as fast");
        svg.line("ideal", "2 4", &ideal, &hover);
        svg.line(colour(group[0]), "", &line, name);
        ends.extend(line.last().map(|(_, y)| (*y, name.as_str())));
        for (row, point) in group.iter().zip(line) {
            let of_ideal = format!(
                "{:.0} %",
                rate(row) * 100.0 / (each * threads(row)).max(1e-9)
            );
            let (threads, rate) = (row.setting.compress_threads, short(rate(row)));
            let hover = format!("{name}, {threads} threads: {rate} MiB/s, {of_ideal} of the ideal");
            svg.dot(colour(row), point, &hover);
            table.push(vec![name.clone(), threads.to_string(), rate, of_ideal]);
        }
    }
    svg.names_beside(right, &ends);
    let mut legend = method_legend(&rows);
    legend.push(("ideal".to_owned(), "ideal"));
    Some(Chart {
        title,
        note: format!(
            "Both ends share {} cores: more threads than that cannot help. Dotted: n threads are n \
             times as fast.",
            report.conditions.cores
        ),
        svg: svg.end(),
        legend,
        head: strings(["setting", "threads", "RAM [MiB/s]", "of the ideal"]),
        points: table.len(),
        rows: table,
    })
}
