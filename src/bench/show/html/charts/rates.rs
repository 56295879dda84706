//! Time against the rate of the link.

use super::super::svg::{LEFT, RIGHT, Scale, Svg, TOP, WIDTH, room, short};
use super::{ASIDE, Chart, HEIGHT, colour, method_legend, names_without_link, over, strings};
use crate::advice;
use crate::bench::judge::recommend::bit_rate;
use crate::bench::measure::setting::{UNLIMITED, link_name};
use crate::bench::report::{BenchReport, SettingReport};
use crate::codec::Method;

/// Dashes that distinguish lines of one colour.
const DASHES: [&str; 4] = ["", "6 3", "2 3", "9 3 2 3"];

/// The rates between which lines are drawn, in bits per second.
const SLOWEST: f64 = 1e8;
const FASTEST: f64 = 1e11;

fn rate_of(row: &SettingReport) -> f64 {
    let link = row.setting.link;
    link.map_or(FASTEST, |link| link.bits_per_second() as f64)
}

fn time_at(row: &SettingReport, rate: f64) -> Option<f64> {
    let cost = row.cost()?;
    Some(advice::time_over(cost.time, cost.bytes, rate))
}

fn axis_name(rate: f64) -> String {
    if rate >= FASTEST {
        return "unlimited".to_owned();
    }
    bit_rate(rate)
        .replace(".00", "")
        .replace(".0 ", " ")
        .replace("bit/s", "")
}

/// Lines computed from what was measured without a limit; dots where something was measured.
pub(super) fn link_rates(report: &BenchReport) -> Option<Chart> {
    let measured = report.settings.iter().filter(|row| row.cost().is_some());
    let rows: Vec<&SettingReport> = measured.collect();
    if rows.is_empty() {
        return None;
    }
    let slowest = rows.iter().map(|row| rate_of(row)).fold(SLOWEST, f64::min);
    let unlimited = over(report, UNLIMITED);
    let names = names_without_link(&unlimited);
    let times = rows.iter().filter_map(|row| Some(row.cost()?.time));
    let computed = unlimited.iter().filter_map(|row| time_at(row, slowest));
    let (low, high) = computed
        .chain(times)
        .fold((f64::INFINITY, 0.0_f64), |(low, high), time| {
            (low.min(time), high.max(time))
        });
    let title = "Time against the link's rate";
    let mut svg = Svg::new(title, HEIGHT);
    let right = WIDTH - RIGHT - room(names.iter().map(String::as_str)) - ASIDE;
    let x = Scale::log(slowest, FASTEST, LEFT, right);
    let y = Scale::log(low, high, svg.floor(), TOP);
    svg.x_axis_to(
        right,
        &x,
        "rate of the link [bit/s], logarithmic",
        axis_name,
    );
    svg.y_axis_to(right, &y, "time [ms], logarithmic", short);
    draw_lines(&mut svg, (&x, &y), (slowest, right), &unlimited, &names);
    let table = draw_dots(&mut svg, (&x, &y), &rows);
    Some(Chart {
        title: title.to_owned(),
        note: "Dots are measured. Lines are computed from the measurement without a limit: the \
               longer of the setting's time and the time that the link needs for its bytes. Where \
               lines cross, another setting becomes the fastest."
            .to_owned(),
        svg: svg.end(),
        legend: method_legend(&rows),
        head: strings(["method", "setting", "link", "time [ms]"]),
        rows: table,
        points: rows.len(),
    })
}

fn draw_lines(
    svg: &mut Svg,
    (x, y): (&Scale, &Scale),
    (slowest, right): (f64, f64),
    rows: &[&SettingReport],
    names: &[String],
) {
    const STEPS: i32 = 120;
    let mut seen = [0_usize; Method::ALL.len()];
    let mut ends: Vec<(f64, &str)> = Vec::new();
    for (row, name) in rows.iter().zip(names) {
        let method = row.setting.compression.method as usize;
        let dash = DASHES[seen[method] % DASHES.len()];
        seen[method] += 1;
        let line: Vec<(f64, f64)> = (0..=STEPS)
            .filter_map(|step| {
                let part = f64::from(step) / f64::from(STEPS);
                let rate = slowest * (FASTEST / slowest).powf(part);
                Some((x.at(rate), y.at(time_at(row, rate)?)))
            })
            .collect();
        svg.line(colour(row), dash, &line, &format!("{name} (computed)"));
        ends.extend(line.last().map(|(_, y)| (*y, name.as_str())));
    }
    // The fastest get the room first.
    ends.sort_by(|a, b| b.0.total_cmp(&a.0));
    svg.names_beside(right, &ends);
}

/// Draws what was measured; gives the rows of the table. Dots at an emulated link are named beside
/// them, those without a limit at the end of their lines.
fn draw_dots(svg: &mut Svg, (x, y): (&Scale, &Scale), rows: &[&SettingReport]) -> Vec<Vec<String>> {
    let names = names_without_link(rows);
    let mut named = Vec::new();
    let mut table = Vec::new();
    for (row, name) in rows.iter().zip(&names) {
        let (time, rate) = (row.time.map_or(0.0, |time| time.median), rate_of(row));
        let point = (x.at(rate), y.at(time));
        let link = link_name(row.setting.link);
        let hover = format!("{name}, link {link}: {} ms", short(time));
        svg.dot(colour(row), point, &hover);
        if row.setting.link.is_some() {
            named.push((point, name));
        }
        table.push(vec![
            row.setting.compression.to_string(),
            name.clone(),
            link,
            short(time),
        ]);
    }
    for (point, name) in named {
        svg.name("minor", point, name);
    }
    table
}
