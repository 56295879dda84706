//! A report as files: JSON, CSV, Markdown, a page. Checked before the first run and written again
//! after each, so that a comparison that ends early leaves what it has.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::bench::peer::PeerReport;
use crate::bench::report::{BenchReport, MEMCPY, SettingReport};
use crate::bench::show::html;
use crate::bench::show::table::{self, CODEC_HEADINGS, HEADINGS, Sort};
use crate::bench::statistics::Summary;
use crate::error::{Error, Kind, Result};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// The whole document, see [`super::report`].
    Json,
    /// A line for the plain copy, each setting, and each way of a peer: its parameters, and each
    /// summary's median; all of the time's.
    Csv,
    /// The table.
    Markdown,
    /// One page for a browser, with charts.
    Html,
}

/// Files that a report is written to.
#[derive(Debug, Default)]
pub struct Exports {
    targets: Vec<Target>,
    sort: Sort,
}

#[derive(Debug)]
struct Target {
    form: Form,
    /// Without symbolic links, which a file that is renamed would replace.
    path: PathBuf,
    /// Whether it can be replaced by renaming; a pipe or a device is written to once, in the end.
    regular: bool,
}

/// A file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write '{}'", path.display())]
struct NotWritten {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Exports {
    /// Makes sure that each file can be written; one that is not there is made, empty. None of
    /// them may be one of `images`, nor another of them.
    ///
    /// # Errors
    /// Of kind [`Kind::Usage`] for the first that cannot be.
    pub fn open(files: &[(Form, PathBuf)], images: &[&Path], sort: Sort) -> Result<Exports> {
        let mut targets: Vec<Target> = Vec::new();
        for (form, path) in files {
            let refused = |source| {
                let path = path.clone();
                Error::new(Kind::Usage, NotWritten { path, source })
            };
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(refused)?;
            let about = file.metadata().map_err(refused)?;
            let identity = (about.dev(), about.ino());
            let is_image = images.iter().any(|image| {
                std::fs::metadata(image).is_ok_and(|image| (image.dev(), image.ino()) == identity)
            });
            if is_image {
                let what = format!("'{}' is an image that is to be sent", path.display());
                return Err(Error::new(Kind::Usage, what));
            }
            let path = path.canonicalize().map_err(refused)?;
            if about.is_file() && targets.iter().any(|target| target.path == path) {
                let what = format!("'{}' is written to twice", path.display());
                return Err(Error::new(Kind::Usage, what));
            }
            targets.push(Target {
                form: *form,
                path,
                regular: about.is_file(),
            });
        }
        Ok(Exports { targets, sort })
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Writes all files anew; with `end` also those that can be written only once.
    ///
    /// # Errors
    /// Of kind [`Kind::Failed`] for the first that cannot be written.
    pub fn write(&self, report: &BenchReport, end: bool) -> Result<()> {
        for target in &self.targets {
            if !target.regular && !end {
                continue;
            }
            let text = text(report, target.form, self.sort)?;
            target.write(&text).map_err(|source| {
                let path = target.path.clone();
                Error::new(Kind::Failed, NotWritten { path, source })
            })?;
        }
        Ok(())
    }
}

impl Target {
    fn write(&self, text: &str) -> io::Result<()> {
        if !self.regular {
            return OpenOptions::new()
                .write(true)
                .open(&self.path)?
                .write_all(text.as_bytes());
        }
        // Whoever reads it meanwhile finds the old or the new one, and never half of one.
        let mut partial = self.path.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        std::fs::write(&partial, text)
            .and_then(|()| std::fs::rename(&partial, &self.path))
            .inspect_err(|_| {
                // The first error is the one to tell.
                let _ = std::fs::remove_file(&partial);
            })
    }
}

/// A report in one of its forms.
///
/// # Errors
/// When the page's template does not fit the report, which would be a bug.
pub fn text(report: &BenchReport, form: Form, sort: Sort) -> Result<String> {
    let failed = |error| Error::new(Kind::Failed, error).in_stage("export");
    match form {
        Form::Json => {
            let mut text = serde_json::to_string_pretty(report)
                .map_err(|error| Error::new(Kind::Failed, error).in_stage("export"))?;
            text.push('\n');
            Ok(text)
        }
        Form::Csv => Ok(csv(report, sort)),
        Form::Markdown => Ok(markdown(report, sort)),
        Form::Html => html::page(report, sort).map_err(failed),
    }
}

/// A row's medians, each with its column's name: [`csv`] has them in this order.
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

/// What each row begins with: whether it is `memcpy`, a `setting` or a `peer`, its name, and a
/// setting's parameters.
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

/// The number of runs, and all of the time's summary.
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
    for row in table::sorted(report, sort) {
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

/// A field, quoted as RFC 4180 has it where that is needed.
fn csv_field(field: String) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field
    }
}

fn markdown(report: &BenchReport, sort: Sort) -> String {
    let mut lines = Vec::new();
    for group in table::groups(report, sort) {
        lines.extend(group.title.map(|title| vec![format!("**{title}**")]));
        lines.extend(group.rows.into_iter().map(|row| row.cells));
    }
    let columns = table::columns(report);
    let mut text = markdown_table(HEADINGS.get(..columns).unwrap_or(&HEADINGS), &lines);
    let codecs = table::codec_rows(report, sort);
    if !codecs.is_empty() {
        let lines: Vec<Vec<String>> = codecs.iter().map(|row| row.cells().to_vec()).collect();
        text.push_str(&format!("\n{}\n\n", table::CODEC_NOTE));
        text.push_str(&markdown_table(&CODEC_HEADINGS, &lines));
    }
    if !report.peers.is_empty() {
        text.push_str(&format!("\n{}\n", table::PEER_NOTE));
    }
    for peer in &report.peers {
        if let Some(why) = &peer.error_desc {
            text.push_str(&format!("\n{} failed: {}\n", peer.name, markdown_cell(why)));
        }
    }
    text
}

/// Lines that are shorter than others are filled up.
fn markdown_table(headings: &[(&str, &str)], lines: &[Vec<String>]) -> String {
    let line = |cells: &[String]| {
        let cells = (0..headings.len()).map(|at| cells.get(at).map_or("", String::as_str));
        let cells: Vec<String> = cells.map(markdown_cell).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let names: Vec<String> = headings.iter().map(table::heading).collect();
    let rules = (0..headings.len()).map(|at| if at == 0 { ":---" } else { "---:" });
    let rules: Vec<String> = rules.map(str::to_owned).collect();
    let mut text = line(&names) + &line(&rules);
    for cells in lines {
        text.push_str(&line(cells));
    }
    text
}

/// Text that stays in its cell.
fn markdown_cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{peer, report, report_with};

    #[test]
    fn each_form_has_a_line_for_each_setting() {
        let mut report = report_with(&[("none", 500.0, 4000), ("zstd:1", 700.0, 1000)]);
        report.peers = vec![
            peer("plain", &[(600.0, Some(1 << 20))]),
            peer("multifd zlib:1, 2 channels", &[(800.0, None)]),
        ];
        report.peers[1].error_desc = Some("it | ended".to_owned());
        let csv = text(&report, Form::Csv, Sort::Bytes).expect("text");
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
        let markdown = text(&report, Form::Markdown, Sort::Given).expect("text");
        assert!(
            markdown.starts_with("| setting | time [ms] |"),
            "{markdown}"
        );
        assert!(markdown.contains("\n| zstd:1 | 700.0 | 700.0 | 0.0 |"));
        assert!(markdown.contains("\n| **QEMU 7.2.22** |  |"));
        assert!(markdown.contains("\n| multifd zlib:1, 2 channels | 800.0 |"));
        assert!(markdown.contains("failed: it \\| ended\n"), "{markdown}");
        assert!(
            markdown.contains("\n| zstd:1 | 0.250 | 0.400 | +60 |"),
            "{markdown}"
        );
        assert_eq!(csv_field("a, \"b\"".to_owned()), "\"a, \"\"b\"\"\"");
    }

    #[test]
    fn files_are_checked_beforehand_and_replaced_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let files = [(Form::Json, path("r.json")), (Form::Csv, path("r.csv"))];
        let exports = Exports::open(&files, &[], Sort::Given).expect("they can be written");
        for end in [false, true] {
            exports.write(&report(), end).expect("they are written");
            let text = std::fs::read_to_string(path("r.json")).expect("it is there");
            let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(json["schema"], "ramferry-bench");
        }
        let names = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(names, 2, "nothing else is left");
    }

    #[test]
    fn what_must_not_be_written_is_refused_beforehand() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("ram"), "RAM").expect("a file");
        let image = path("ram");
        for files in [
            vec![(Form::Json, path("no/folder/r.json"))],
            vec![(Form::Html, folder.path().to_owned())],
            vec![(Form::Csv, image.clone())],
            vec![(Form::Csv, path("twice")), (Form::Json, path("twice"))],
        ] {
            let error = Exports::open(&files, &[&image], Sort::Given).expect_err("refused");
            assert_eq!(error.kind(), Kind::Usage, "{error}");
        }
        assert_eq!(std::fs::read(&image).expect("it is there"), b"RAM");
    }
}
