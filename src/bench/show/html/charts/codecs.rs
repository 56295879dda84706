//! The codec alone beside the codec in the pipeline and the whole migration.

use super::super::svg::{BOTTOM, RIGHT, Scale, Svg, TOP, WIDTH, fitting, room, short};
use super::{COLOURS, Chart, strings};
use crate::bench::report::{BenchReport, MIB};
use crate::bench::show::rows::{self, CodecRow, NOTHING, Sort};

/// What is compared, the colour of its dots, and its bytes per second.
type Point = (&'static str, &'static str, fn(&CodecRow<'_>) -> Option<f64>);
const POINTS: [Point; 3] = [
    ("the codec alone, per CPU second", COLOURS[1], |row| {
        let row = row.setting.filter(|row| row.codec_cpu_seconds.is_some())?;
        let alone = row.codec_alone.as_ref()?;
        Some(alone.compress_bytes_per_second.median)
    }),
    (
        "the codec in the pipeline, per CPU second",
        COLOURS[3],
        |row| Some(row.setting?.codec_bytes_per_second?.median),
    ),
    ("the whole migration, per second", COLOURS[0], |row| {
        Some(row.whole?.median)
    }),
];

/// Rates as dots on a line for each setting: the length of the line is the gap.
pub(super) fn codecs(report: &BenchReport) -> Option<Chart> {
    const ROW: f64 = 24.0;
    let rows = rows::codec_rows(report, Sort::Given);
    let rates = |row: &CodecRow<'_>| POINTS.map(|(_, _, of)| of(row).filter(|rate| *rate > 0.0));
    let all: Vec<f64> = rows.iter().flat_map(rates).flatten().collect();
    if all.is_empty() {
        return None;
    }
    let least = all.iter().copied().fold(f64::INFINITY, f64::min) / MIB;
    let most = all.iter().copied().fold(0.0, f64::max) / MIB;
    let names = room(rows.iter().map(|row| row.name.as_str()));
    let left = names + 18.0;
    let title = "The codec alone and in the pipeline";
    let mut svg = Svg::new(title, TOP + BOTTOM + ROW * rows.len() as f64);
    let x = Scale::log(least, most, left, WIDTH - RIGHT);
    svg.x_axis(&x, "MiB/s, logarithmic", short);
    let (mut table, mut points) = (Vec::new(), 0);
    for (number, row) in rows.iter().enumerate() {
        let y = TOP + ROW * number as f64 + ROW / 2.0;
        let shown = fitting(&row.name, names);
        svg.words(left - 8.0, y + 4.0, "end", "name", &shown);
        let rates = rates(row);
        let places: Vec<(f64, f64)> = rates
            .iter()
            .flatten()
            .map(|rate| (x.at(rate / MIB), y))
            .collect();
        svg.line("front", "", &places, &row.name);
        for ((what, class, _), rate) in POINTS.iter().zip(rates) {
            let Some(rate) = rate else { continue };
            let hover = format!("{}, {what}: {} MiB/s", row.name, short(rate / MIB));
            svg.dot(class, (x.at(rate / MIB), y), &hover);
            points += 1;
        }
        let mut cells = row.cells().to_vec();
        let decoded = row.setting.filter(|row| row.codec_cpu_seconds.is_some());
        let alone = decoded.and_then(|row| row.codec_alone.as_ref());
        let rate = |rate: Option<crate::bench::statistics::Summary>| {
            rate.map_or_else(|| NOTHING.to_owned(), |rate| short(rate.median / MIB))
        };
        cells.extend([
            rate(alone.map(|alone| alone.decompress_bytes_per_second)),
            rate(decoded.and_then(|row| row.decompress_bytes_per_second)),
        ]);
        table.push(cells);
    }
    let mut head: Vec<String> = rows::CODEC_HEADINGS.iter().map(rows::heading).collect();
    head.extend(strings([
        "decompressing alone [MiB/s]",
        "in the pipeline [MiB/s]",
    ]));
    Some(Chart {
        title: title.to_owned(),
        note: "The speed of the codec alone (one thread, a sample of the same pages); in the \
               pipeline, at the source, where threads share cores and caches; and of the whole \
               migration, for data without zero pages. memcpy and none have no codec: they show the \
               upper bound."
            .to_owned(),
        svg: svg.end(),
        legend: POINTS
            .iter()
            .map(|(what, class, _)| ((*what).to_owned(), *class))
            .collect(),
        head,
        rows: table,
        points,
    })
}
