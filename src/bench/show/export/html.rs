//! The page for a browser.

use super::Exporter;
use crate::bench::report::BenchReport;
use crate::bench::show::html;
use crate::bench::show::rows::Sort;
use crate::error::{Error, Kind, Result};

pub(super) struct HtmlExporter;

impl Exporter for HtmlExporter {
    fn text(&self, report: &BenchReport, sort: Sort) -> Result<String> {
        html::page(report, sort).map_err(|error| Error::new(Kind::Failed, error).in_stage("export"))
    }
}
