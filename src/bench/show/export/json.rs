//! The whole document.

use super::Exporter;
use crate::bench::report::BenchReport;
use crate::bench::show::rows::Sort;
use crate::error::{Error, Kind, Result};

pub(super) struct JsonExporter;

impl Exporter for JsonExporter {
    fn text(&self, report: &BenchReport, _: Sort) -> Result<String> {
        let text = serde_json::to_string_pretty(report)
            .map_err(|error| Error::new(Kind::Failed, error).in_stage("export"))?;
        Ok(text + "\n")
    }
}
