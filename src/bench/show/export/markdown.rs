//! The tables, for pasting into an issue or a document.

use super::Exporter;
use crate::bench::report::BenchReport;
use crate::bench::show::rows::{
    CODEC_HEADINGS, HEADINGS, Sort, codec_rows, columns, groups, heading,
};
use crate::bench::show::terminal::{CODEC_NOTE, PEER_NOTE};
use crate::error::Result;

pub(super) struct MarkdownExporter;

impl Exporter for MarkdownExporter {
    fn text(&self, report: &BenchReport, sort: Sort) -> Result<String> {
        Ok(markdown(report, sort))
    }
}

fn markdown(report: &BenchReport, sort: Sort) -> String {
    let mut lines = Vec::new();
    for group in groups(report, sort) {
        lines.extend(group.title.map(|title| vec![format!("**{title}**")]));
        lines.extend(group.rows.into_iter().map(|row| row.cells));
    }
    let columns = columns(report);
    let mut text = markdown_table(HEADINGS.get(..columns).unwrap_or(&HEADINGS), &lines);
    let codecs = codec_rows(report, sort);
    if !codecs.is_empty() {
        let lines: Vec<Vec<String>> = codecs.iter().map(|row| row.cells().to_vec()).collect();
        text.push_str(&format!("\n{CODEC_NOTE}\n\n"));
        text.push_str(&markdown_table(&CODEC_HEADINGS, &lines));
    }
    if !report.peers.is_empty() {
        text.push_str(&format!("\n{PEER_NOTE}\n"));
    }
    for peer in &report.peers {
        if let Some(why) = &peer.error_desc {
            text.push_str(&format!("\n{} failed: {}\n", peer.name, markdown_cell(why)));
        }
    }
    text
}

/// Short lines are filled up.
fn markdown_table(headings: &[(&str, &str)], lines: &[Vec<String>]) -> String {
    let line = |cells: &[String]| {
        let cells = (0..headings.len()).map(|at| cells.get(at).map_or("", String::as_str));
        let cells: Vec<String> = cells.map(markdown_cell).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let names: Vec<String> = headings.iter().map(heading).collect();
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
    use crate::bench::report::tests::{peer, report_with};

    #[test]
    fn every_setting_and_every_mode_has_a_line() {
        let mut report = report_with(&[("none", 500.0, 4000), ("zstd:1", 700.0, 1000)]);
        report.peers = vec![peer("multifd zlib:1, 2 channels", &[(800.0, None)])];
        report.peers[0].error_desc = Some("it | ended".to_owned());
        let markdown = markdown(&report, Sort::Given);
        assert!(
            markdown.starts_with("| setting | time [ms] |"),
            "{markdown}"
        );
        assert!(markdown.contains("\n| zstd:1 | 700.0 | - | 700.0 | 1.40 |"));
        assert!(markdown.contains("\n| **QEMU 7.2.22** |  |"));
        assert!(markdown.contains("\n| multifd zlib:1, 2 channels | 800.0 |"));
        assert!(markdown.contains("failed: it \\| ended\n"), "{markdown}");
        assert!(
            markdown.contains("\n| zstd:1 | 0.250 | 0.400 | +60 |"),
            "{markdown}"
        );
    }
}
