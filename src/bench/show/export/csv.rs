//! One line for each setting, for spreadsheets and scripts.

use super::Exporter;
use crate::bench::peer::PeerReport;
use crate::bench::report::{BenchReport, MEMCPY, SettingReport};
use crate::bench::show::rows::{self, Sort};
use crate::bench::statistics::Summary;
use crate::error::Result;

pub(super) struct CsvExporter;

impl Exporter for CsvExporter {
    fn text(&self, report: &BenchReport, sort: Sort) -> Result<String> {
        Ok(csv(report, sort))
    }
}

/// The columns of a row's medians.
const MEDIANS: [&str; 14] = [
    "ram_bytes_per_second",
    "data_bytes_per_second",
    "wire_bytes_per_second",
    "wire_bytes",
    "ratio",
    "source_cpu_seconds",
    "destination_cpu_seconds",
    "cpu_seconds_per_gib",
    "downtime_ms",
    "peak_anonymous_bytes",
    "codec_alone_cpu_seconds",
    "codec_cpu_seconds",
    "codec_alone_bytes_per_second",
    "codec_bytes_per_second",
];

/// The first columns: whether the row is `memcpy`, a `setting` or a `peer`, its name, and a setting's
/// parameters.
const FIRST: [&str; 12] = [
    "kind",
    "setting",
    "compress_method",
    "compress_level",
    "compress_threads",
    "decompress_threads",
    "batch_pages",
    "connections",
    "xbzrle_cache_size",
    "zlib_engine",
    "link",
    "wire",
];

/// The number of runs, and the summary of the time.
const TIMES: [&str; 5] = [
    "runs",
    "time_min_ms",
    "time_median_ms",
    "time_max_ms",
    "time_mad_ms",
];

fn csv(report: &BenchReport, sort: Sort) -> String {
    let names = FIRST.iter().chain(&TIMES).chain(&MEDIANS);
    let names = names.chain(&["limit", "dominated_by", "error"]);
    let names: Vec<&str> = names.copied().collect();
    let mut text = csv_line(names.into_iter().map(str::to_owned));
    let memcpy = &report.memcpy;
    let mut medians = [None; 14];
    medians[0] = memcpy.ram_bytes_per_second;
    medians[1] = memcpy.data_bytes_per_second;
    text.push_str(&csv_line(
        first(["memcpy", MEMCPY].map(str::to_owned))
            .chain(times(memcpy.runs.len(), memcpy.time))
            .chain(medians.map(median))
            .chain([const { String::new() }; 3]),
    ));
    for row in rows::sorted(report, sort) {
        text.push_str(&csv_line(setting_fields(row)));
    }
    for peer in &report.peers {
        text.push_str(&csv_line(peer_fields(peer)));
    }
    text
}

fn setting_fields(row: &SettingReport) -> impl Iterator<Item = String> {
    let parameters = &row.parameters;
    let cache = parameters.xbzrle_cache_size;
    let alone = row.codec_alone.as_ref();
    let medians = [
        row.ram_bytes_per_second,
        row.data_bytes_per_second,
        row.wire_bytes_per_second,
        row.wire_bytes,
        row.ratio,
        row.source_cpu_seconds,
        row.destination_cpu_seconds,
        row.cpu_seconds_per_gib,
        row.downtime,
        row.peak_anonymous_bytes,
        row.codec_alone_cpu_seconds
            .and_then(|seconds| Summary::of([seconds])),
        row.codec_cpu_seconds,
        alone.map(|alone| alone.compress_bytes_per_second),
        row.codec_bytes_per_second,
    ];
    let limit = row.limit.map(|limit| limit.name().to_owned());
    [
        "setting".to_owned(),
        row.name.clone(),
        parameters.compress_method.to_owned(),
        parameters.compress_level.to_string(),
        parameters.compress_threads.to_string(),
        parameters.decompress_threads.to_string(),
        parameters.batch_pages.to_string(),
        parameters.connections.to_string(),
        cache.map_or_else(|| "off".to_owned(), |bytes| bytes.to_string()),
        parameters.zlib_engine.to_owned(),
        row.link(),
        parameters.wire.to_owned(),
    ]
    .into_iter()
    .chain(times(row.runs.len(), row.time))
    .chain(medians.map(median))
    .chain([
        limit.unwrap_or_default(),
        row.dominated_by.clone().unwrap_or_default(),
        String::new(),
    ])
}

fn peer_fields(row: &PeerReport) -> impl Iterator<Item = String> {
    let medians = [
        row.ram_bytes_per_second,
        None,
        row.wire_bytes_per_second,
        row.wire_bytes,
        row.ratio,
        row.source_cpu_seconds,
        row.destination_cpu_seconds,
        row.cpu_seconds_per_gib,
        None,
        None,
        None,
        None,
        None,
        None,
    ];
    let error = row.error_desc.clone().unwrap_or_default();
    first(["peer".to_owned(), row.name.clone()])
        .chain(times(row.runs.len(), row.time))
        .chain(medians.map(median))
        .chain([String::new(), String::new(), error])
}

/// The first fields of a row without parameters.
fn first(fields: [String; 2]) -> impl Iterator<Item = String> {
    let empty = std::iter::repeat_with(String::new);
    fields.into_iter().chain(empty).take(FIRST.len())
}

fn times(runs: usize, time: Option<Summary>) -> [String; 5] {
    let of = |of: fn(Summary) -> f64| time.map_or_else(String::new, |time| of(time).to_string());
    [
        runs.to_string(),
        of(|time| time.min),
        of(|time| time.median),
        of(|time| time.max),
        of(|time| time.mad),
    ]
}

fn median(summary: Option<Summary>) -> String {
    summary.map_or_else(String::new, |summary| summary.median.to_string())
}

fn csv_line(fields: impl Iterator<Item = String>) -> String {
    let fields: Vec<String> = fields.map(csv_field).collect();
    fields.join(",") + "\n"
}

/// A field, quoted as in RFC 4180 where that is needed.
fn csv_field(field: String) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{peer, report_with};

    #[test]
    fn every_setting_and_every_mode_has_a_line() {
        let mut report = report_with(&[("none", 500.0, 4000), ("zstd:1", 700.0, 1000)]);
        report.peers = vec![
            peer("plain", &[(600.0, Some(1 << 20))]),
            peer("multifd zlib:1, 2 channels", &[(800.0, None)]),
        ];
        report.peers[1].error_desc = Some("it | ended".to_owned());
        let csv = csv(&report, Sort::Bytes);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(lines[1].starts_with("memcpy,memcpy,,,,,,,,,,,1,100,100,100,0,"));
        assert!(
            lines[2].starts_with(
                "setting,zstd:1,zstd,1,8,2,64,1,67108864,libdeflate,unlimited,native,1,"
            ),
            "{}",
            lines[2]
        );
        assert!(lines[4].starts_with("peer,QEMU 7.2.22 plain,,,,,,,,,,,1,600,"));
        assert!(lines[5].starts_with("peer,\"QEMU 7.2.22 multifd zlib:1, 2 channels\",,"));
        assert!(lines[5].ends_with(",it | ended"));
        let columns = lines[0].split(',').count();
        let commas = |line: &&str| line.replace("1, 2", "1 2").split(',').count();
        assert!(lines.iter().all(|line| commas(line) == columns), "{csv}");
        let column = |name: &str| lines[0].split(',').position(|other| other == name);
        let wire = column("wire_bytes").expect("a column");
        let of = |line: &str| {
            line.replace("1, 2", "1 2")
                .split(',')
                .nth(wire)
                .map(str::to_owned)
        };
        assert_eq!(of(lines[4]).as_deref(), Some("1048576"));
        assert_eq!(of(lines[5]).as_deref(), Some(""), "unknown, and not 0");
        let alone = column("codec_alone_cpu_seconds").expect("a column");
        assert_eq!(lines[2].split(',').nth(alone), Some("0.25"));
        assert_eq!(csv_field("a, \"b\"".to_owned()), "\"a, \"\"b\"\"\"");
    }
}
