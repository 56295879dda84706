//! A report as files, one module per format. They are checked before the first run and written again
//! after each, so that a benchmark that ends early keeps its results.

mod csv;
mod html;
mod json;
mod markdown;
mod target;

use std::path::{Path, PathBuf};

use super::rows::Sort;
use crate::bench::report::BenchReport;
use crate::error::{Error, Kind, Result};
use crate::image::conflict_with_image;
use target::ExportTarget;

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

impl Exports {
    /// Makes sure that each file can be written. No file may be one of `images`, lie in one that is a
    /// guest folder, or be given twice.
    ///
    /// # Errors
    /// Of kind [`Kind::Usage`] for the first file that cannot be written.
    pub fn open(files: &[(Form, PathBuf)], images: &[&Path], sort: Sort) -> Result<Exports> {
        let mut targets: Vec<ExportTarget> = Vec::new();
        for (form, path) in files {
            let refused = |what| {
                let what = format!("'{}' {what}: choose another file", path.display());
                Error::new(Kind::Usage, what)
            };
            if let Some(what) = (images.iter()).find_map(|image| conflict_with_image(path, image)) {
                return Err(refused(what));
            }
            let target = ExportTarget::open(*form, path)?;
            if targets.iter().any(|other| other.is_same_file(&target)) {
                return Err(refused("is given twice"));
            }
            targets.push(target);
        }
        Ok(Exports { targets, sort })
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The files that [`Exports::write`] replaces.
    pub fn kept(&self) -> Vec<PathBuf> {
        let files = self.targets.iter().filter(|target| !target.is_pipe());
        files.map(|target| target.path().to_owned()).collect()
    }

    /// The files that held something before the benchmark.
    pub fn older(&self) -> impl Iterator<Item = &Path> {
        let older = self.targets.iter().filter(|target| target.is_older());
        older.map(ExportTarget::path)
    }

    /// Writes all files again, but not what can be written only once, which is for
    /// [`Exports::write_pipes`]. Without a single run, older files stay as they are: they are worth more.
    ///
    /// # Errors
    /// Of kind [`Kind::Failed`] for the first file that cannot be written.
    pub fn write(&self, report: &BenchReport) -> Result<()> {
        let spare_older = !report.has_runs();
        for target in self.targets.iter().filter(|target| !target.is_pipe()) {
            if !(spare_older && target.is_older()) {
                target.write(&text(report, target.form, self.sort)?)?;
            }
        }
        Ok(())
    }

    /// Writes to pipes and devices, which may wait for their readers.
    ///
    /// # Errors
    /// As [`Exports::write`].
    pub fn write_pipes(&self, report: &BenchReport) -> Result<()> {
        for target in self.targets.iter().filter(|target| target.is_pipe()) {
            target.write(&text(report, target.form, self.sort)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::bench::report::tests::report;

    fn text_at(path: &Path) -> String {
        std::fs::read_to_string(path).expect("it is there")
    }

    #[test]
    fn files_are_checked_beforehand_and_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let names = || std::fs::read_dir(folder.path()).expect("a folder").count();
        let files = [(Form::Json, path("r.json")), (Form::Csv, path("r.csv"))];
        let exports = Exports::open(&files, &[], Sort::Given).expect("they can be written");
        assert_eq!(names(), 0, "nothing is made for them yet");
        for _ in 0..2 {
            exports.write(&report()).expect("they are written");
            let json: serde_json::Value =
                serde_json::from_str(&text_at(&path("r.json"))).expect("JSON");
            assert_eq!(json["schema"], "ramferry-bench");
        }
        assert_eq!(names(), 2, "nothing else is left");
        // As any new file: the umask of tests leaves the owner's rights, and takes none of 0600.
        let mode = |name| {
            path(name)
                .metadata()
                .expect("it is there")
                .permissions()
                .mode()
                & 0o777
        };
        std::fs::write(path("any"), "").expect("a file");
        assert_eq!(mode("r.json"), mode("any"));
        std::fs::set_permissions(path("r.json"), std::fs::Permissions::from_mode(0o640))
            .expect("ours");
        exports.write(&report()).expect("they are written");
        assert_eq!(mode("r.json"), 0o640, "an older file keeps its mode");
    }

    #[test]
    fn without_a_run_older_files_stay_and_new_ones_say_why() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("old"), "yesterday's").expect("a file");
        let files = [(Form::Json, path("old")), (Form::Json, path("new"))];
        let exports = Exports::open(&files, &[], Sort::Given).expect("they can be written");
        let mut none = report();
        none.settings
            .iter_mut()
            .for_each(|setting| setting.runs.clear());
        exports.write(&none).expect("the new one is written");
        assert_eq!(text_at(&path("old")), "yesterday's");
        assert!(text_at(&path("new")).contains("\"status\""));
        assert_eq!(exports.older().collect::<Vec<_>>(), [path("old")]);
    }

    #[test]
    fn a_file_or_link_beside_it_is_not_written_through() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("keep.ram"), "RAM").expect("a file");
        std::fs::hard_link(path("keep.ram"), path("e.json.partial")).expect("a link");
        std::os::unix::fs::symlink("keep.ram", path("e.csv.partial")).expect("a link");
        let files = [(Form::Json, path("e.json")), (Form::Csv, path("e.csv"))];
        let exports = Exports::open(&files, &[], Sort::Given).expect("they can be written");
        exports.write(&report()).expect("they are written");
        assert_eq!(text_at(&path("keep.ram")), "RAM");
        assert_eq!(text_at(&path("e.json.partial")), "RAM");
        assert_eq!(text_at(&path("e.csv.partial")), "RAM");
    }

    #[test]
    fn what_must_not_be_written_is_refused_beforehand() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("ram"), "RAM").expect("a file");
        std::fs::create_dir(path("guest")).expect("a folder");
        std::os::unix::fs::symlink("guest", path("link")).expect("a link");
        let (image, guest) = (path("ram"), path("guest"));
        for files in [
            vec![(Form::Json, path("no/folder/r.json"))],
            vec![(Form::Html, folder.path().to_owned())],
            vec![(Form::Csv, image.clone())],
            vec![(Form::Csv, path("twice")), (Form::Json, path("twice"))],
            // Of a guest folder: a file of it, a new one, and one by another name of the folder.
            vec![(Form::Json, guest.join("pc.ram"))],
            vec![(Form::Json, path("link").join("new"))],
        ] {
            let error = Exports::open(&files, &[&image, &guest], Sort::Given).expect_err("refused");
            assert_eq!(error.kind(), Kind::Usage, "{error}");
        }
        assert_eq!(text_at(&image), "RAM");
        assert_eq!(std::fs::read_dir(&guest).expect("it is there").count(), 0);
    }
}
