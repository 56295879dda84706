//! A report as files: JSON, CSV, Markdown, a page. Checked before the first run and written again
//! after each, so that a comparison that ends early leaves what it has.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::html;
use super::report::{Report, SettingReport};
use super::statistics::Summary;
use super::table::{self, Sort};
use crate::error::{Error, Kind, Result};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// The whole document, see [`super::report`].
    Json,
    /// A line for each setting of ours: its parameters, and each summary's median; all of the time's.
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
    pub fn write(&self, report: &Report, end: bool) -> Result<()> {
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
pub fn text(report: &Report, form: Form, sort: Sort) -> Result<String> {
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

/// The columns that are medians: their names and where they come from.
type Column = (&'static str, fn(&SettingReport) -> Option<Summary>);
const COLUMNS: [Column; 9] = [
    ("ram_bytes_per_second", |row| row.ram_bytes_per_second),
    ("wire_bytes_per_second", |row| row.wire_bytes_per_second),
    ("wire_bytes", |row| row.wire_bytes),
    ("ratio", |row| row.ratio),
    ("source_cpu_seconds", |row| row.source_cpu_seconds),
    ("destination_cpu_seconds", |row| row.destination_cpu_seconds),
    ("cpu_seconds_per_gib", |row| row.cpu_seconds_per_gib),
    ("downtime_ms", |row| row.downtime),
    ("peak_anonymous_bytes", |row| row.peak_anonymous_bytes),
];

fn csv(report: &Report, sort: Sort) -> String {
    let mut names = vec![
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
        "runs",
        "time_min_ms",
        "time_median_ms",
        "time_max_ms",
        "time_mad_ms",
    ];
    names.extend(COLUMNS.map(|(name, _)| name));
    names.extend(["limit", "dominated_by"]);
    let mut text = names.join(",");
    text.push('\n');
    let number = |number: Option<f64>| number.map_or_else(String::new, |number| number.to_string());
    for row in table::sorted(report, sort) {
        let parameters = &row.parameters;
        let mut fields = vec![
            row.name.clone(),
            parameters.compress_method.to_owned(),
            parameters.compress_level.to_string(),
            parameters.compress_threads.to_string(),
            parameters.decompress_threads.to_string(),
            parameters.batch_pages.to_string(),
            parameters.connections.to_string(),
            parameters
                .xbzrle_cache_size
                .map_or_else(|| "off".to_owned(), |bytes| bytes.to_string()),
            parameters.zlib_engine.to_owned(),
            row.link(),
            parameters.wire.to_owned(),
            row.runs.len().to_string(),
        ];
        fields.extend([
            number(row.time.map(|time| time.min)),
            number(row.time.map(|time| time.median)),
            number(row.time.map(|time| time.max)),
            number(row.time.map(|time| time.mad)),
        ]);
        fields.extend(COLUMNS.map(|(_, of)| number(of(row).map(|summary| summary.median))));
        fields.push(
            row.limit
                .map_or_else(String::new, |limit| limit.name().to_owned()),
        );
        fields.push(row.dominated_by.clone().unwrap_or_default());
        let fields: Vec<String> = fields.into_iter().map(csv_field).collect();
        text.push_str(&fields.join(","));
        text.push('\n');
    }
    text
}

/// A field, quoted as RFC 4180 has it where that is needed.
fn csv_field(field: String) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field
    }
}

fn markdown(report: &Report, sort: Sort) -> String {
    let columns = table::HEADINGS.len() - usize::from(report.image.then.is_empty());
    let line = |cells: Vec<String>| {
        let cells: Vec<String> = cells
            .into_iter()
            .take(columns)
            .map(|cell| cell.replace('|', "\\|"))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let headings = table::HEADINGS.map(|(name, unit)| match unit {
        "" => name.to_owned(),
        unit => format!("{name} [{unit}]"),
    });
    let mut text = line(headings.to_vec());
    let rules = table::HEADINGS.map(|(name, _)| if name == "setting" { ":---" } else { "---:" });
    text.push_str(&line(rules.map(str::to_owned).to_vec()));
    text.push_str(&line(table::memcpy_cells(report).to_vec()));
    for row in table::sorted(report, sort) {
        text.push_str(&line(table::cells(row).to_vec()));
    }
    for peer in &report.peers {
        text.push_str(&line(table::peer_cells(peer).to_vec()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{report, report_with};

    #[test]
    fn each_form_has_a_line_for_each_setting() {
        let report = report_with(&[("none", 500.0, 4000), ("zstd:1", 700.0, 1000)]);
        let csv = text(&report, Form::Csv, Sort::Bytes).expect("text");
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].starts_with("zstd:1,zstd,1,8,2,64,1,67108864,libdeflate,unlimited,native,1,")
        );
        let columns = lines[0].split(',').count();
        assert!(lines.iter().all(|line| line.split(',').count() == columns));
        let markdown = text(&report, Form::Markdown, Sort::Given).expect("text");
        assert!(
            markdown.starts_with("| setting | time [ms] |"),
            "{markdown}"
        );
        assert!(markdown.contains("\n| zstd:1 | 700.0 | 700.0 to 700.0 |"));
        assert_eq!(markdown.lines().count(), 6);
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
