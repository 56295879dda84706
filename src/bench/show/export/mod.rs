//! A report as files, one module per format. They are checked before the first run and written again
//! after each, so that a benchmark that ends early keeps its results.

mod csv;
mod html;
mod json;
mod markdown;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::rows::Sort;
use crate::bench::report::BenchReport;
use crate::error::{Error, Kind, Result};
use crate::partial::{folder_of, random_name};
use crate::special;

/// A format of a report.
trait Exporter {
    /// The report in this format. Fails only through a bug in the format.
    fn text(&self, report: &BenchReport, sort: Sort) -> Result<String>;
}

/// The formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// The whole document, see [`crate::bench::report`].
    Json,
    /// A line for the plain copy, each setting and each mode of a peer: its parameters and the median
    /// of each summary; of the time, the whole summary.
    Csv,
    /// The table.
    Markdown,
    /// A page for a browser, with charts.
    Html,
}

impl Form {
    fn exporter(self) -> &'static dyn Exporter {
        match self {
            Form::Json => &json::JsonExporter,
            Form::Csv => &csv::CsvExporter,
            Form::Markdown => &markdown::MarkdownExporter,
            Form::Html => &html::HtmlExporter,
        }
    }
}

/// A report in one of its formats.
///
/// # Errors
/// The page's template does not fit the report, which would be a bug.
pub fn text(report: &BenchReport, form: Form, sort: Sort) -> Result<String> {
    form.exporter().text(report, sort)
}

/// The files to which a report is written.
#[derive(Debug, Default)]
pub struct Exports {
    targets: Vec<ExportTarget>,
    sort: Sort,
}

#[derive(Debug)]
struct ExportTarget {
    form: Form,
    /// Without symbolic links, which a renamed file would replace.
    path: PathBuf,
    /// A pipe or a character device, which is written to once, at the end. It stays open until
    /// then: a pipe's reader takes the first close for the end.
    pipe: Option<File>,
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
    /// Makes sure that each file can be written; a missing one is created, empty. No file may be one
    /// of `images` or be given twice.
    ///
    /// # Errors
    /// Of kind [`Kind::Usage`] for the first file that cannot be written.
    pub fn open(files: &[(Form, PathBuf)], images: &[&Path], sort: Sort) -> Result<Exports> {
        let mut targets: Vec<ExportTarget> = Vec::new();
        for (form, path) in files {
            let refused = |source| {
                let path = path.clone();
                Error::new(Kind::Usage, NotWritten { path, source })
            };
            let file = open(path).map_err(refused)?;
            let about = file.metadata().map_err(refused)?;
            let identity = (about.dev(), about.ino());
            let is_image = images.iter().any(|image| {
                std::fs::metadata(image).is_ok_and(|image| (image.dev(), image.ino()) == identity)
            });
            if is_image {
                let what = format!(
                    "'{}' is the image to send: choose another file",
                    path.display()
                );
                return Err(Error::new(Kind::Usage, what));
            }
            let path = path.canonicalize().map_err(refused)?;
            let pipe = (!about.is_file()).then_some(file);
            if about.is_file() && targets.iter().any(|target| target.path == path) {
                let what = format!("'{}' is given twice: choose another file", path.display());
                return Err(Error::new(Kind::Usage, what));
            }
            targets.push(ExportTarget {
                form: *form,
                path,
                pipe,
            });
        }
        Ok(Exports { targets, sort })
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The files that have been written so far by [`Exports::write`] without `end`.
    pub fn kept(&self) -> Vec<PathBuf> {
        let regular = self.targets.iter().filter(|target| target.pipe.is_none());
        regular.map(|target| target.path.clone()).collect()
    }

    /// Writes all files again; with `end` also those that can be written only once.
    ///
    /// # Errors
    /// Of kind [`Kind::Failed`] for the first file that cannot be written.
    pub fn write(&self, report: &BenchReport, end: bool) -> Result<()> {
        for target in &self.targets {
            if target.pipe.is_some() && !end {
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

/// Opens a file to write a report to. A named pipe must have its reader, so that it is not waited for.
fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = opened.map_err(|error| {
        let kind = std::fs::metadata(path).map(|about| special::sort(about.file_type()));
        match (error.raw_os_error(), kind) {
            (Some(libc::ENXIO), Ok("a named pipe")) => {
                io::Error::other("no program reads this pipe; start it first")
            }
            (Some(libc::ENXIO), Ok(kind)) => io::Error::other(format!("it is {kind}")),
            _ => error,
        }
    })?;
    if special::is_device(&file.metadata()?) {
        return Err(io::Error::other("it is a block device"));
    }
    // The reader may be slow.
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

impl ExportTarget {
    fn write(&self, text: &str) -> io::Result<()> {
        if let Some(mut pipe) = self.pipe.as_ref() {
            return pipe.write_all(text.as_bytes());
        }
        // A reader finds the old or the new file at any time, never half of one.
        let partial = folder_of(&self.path).join(random_name()?);
        let mut file = File::create_new(&partial)?;
        file.write_all(text.as_bytes())
            .and_then(|()| std::fs::rename(&partial, &self.path))
            .inspect_err(|_| {
                // The first error is the one to report.
                let _ = std::fs::remove_file(&partial);
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::report;

    #[test]
    fn files_are_checked_beforehand_and_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let files = [(Form::Json, path("r.json")), (Form::Csv, path("r.csv"))];
        std::fs::write(path("r.json.partial"), b"mine").expect("written");
        let exports = Exports::open(&files, &[], Sort::Given).expect("they can be written");
        for end in [false, true] {
            exports.write(&report(), end).expect("they are written");
            let text = std::fs::read_to_string(path("r.json")).expect("it is there");
            let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(json["schema"], "ramferry-bench");
        }
        let other = std::fs::read(path("r.json.partial")).expect("it is there");
        assert_eq!(other, b"mine", "it is not a report's");
        let names = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(names, 3, "nothing else is left");
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
