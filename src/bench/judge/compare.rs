//! Compares two exported reports: which settings became faster or slower beyond the noise.
//!
//! Settings match if all their parameters are equal, a peer's modes if they have the same name. A
//! difference counts if the one-sided rank-sum test of their runs gives a chance of at most 5 %. Three
//! runs on each side suffice for that only if all new ones are beyond all old ones.

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::bench::report::{SCHEMA, SCHEMA_VERSION};
use crate::bench::statistics::{chance_of_greater, median};
use crate::error::{Error, Kind, Result};
use crate::special::{PatientReader, open_to_read};
use crate::text::printable;

/// The p-value up to which a difference counts.
const CHANCE: f64 = 0.05;
/// Far more than the report of the largest matrix.
const MOST_BYTES: u64 = 1 << 30;

/// The part of a report that is compared.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ExportedReport {
    schema: String,
    schema_version: u32,
    version: String,
    conditions: ExportedConditions,
    image: ExportedImage,
    settings: Vec<ExportedSetting>,
    #[serde(default)]
    peers: Vec<ExportedPeer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ExportedConditions {
    cpu_model: Option<String>,
    cores: u64,
    kernel: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ExportedImage {
    digest: String,
}

#[derive(Debug, Deserialize)]
struct ExportedSetting {
    name: String,
    parameters: Value,
    runs: Vec<ExportedRun>,
}

#[derive(Debug, Deserialize)]
struct ExportedPeer {
    name: String,
    runs: Vec<ExportedRun>,
}

#[derive(Debug, Deserialize)]
struct ExportedRun {
    time: f64,
}

/// The comparison of two reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Settings in both, in the order of the new report, and then peers' modes.
    pub rows: Vec<ComparedRow>,
    /// Names of settings and modes with runs in only one of them.
    pub unmatched: Vec<String>,
    /// Other differences, a line each.
    pub notes: Vec<String>,
}

/// A setting, or a peer's mode, in both reports.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparedRow {
    /// Its name in the new report.
    pub name: String,
    /// The old median in milliseconds.
    pub old: f64,
    /// The new median in milliseconds.
    pub new: f64,
    /// Whether the times differ beyond the noise.
    pub differs: bool,
    /// Whether it is a peer's mode.
    pub peer: bool,
}

impl ComparedRow {
    /// How much longer the new one takes, in percent of the old one; negative if it is faster.
    pub fn percent_slower(&self) -> f64 {
        (self.new / self.old.max(1e-9) - 1.0) * 100.0
    }
}

/// Files that cannot be compared.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("cannot read '{0}'")]
    Io(String, #[source] std::io::Error),
    #[error("'{0}' is not a file of --export-json")]
    Malformed(String, #[source] serde_json::Error),
    #[error("'{0}' has schema {1} version {2}; supported is {SCHEMA} version {SCHEMA_VERSION}")]
    Schema(String, String, u32),
    #[error("the reports are of different images: {0} and {1}")]
    Images(String, String),
}

/// Reads and compares two files.
///
/// # Errors
/// Of kind [`Kind::Failed`] for a file that cannot be read, of kind [`Kind::Usage`] for one that is not
/// a report, and for reports of different images.
pub fn files(old: &Path, new: &Path) -> Result<Comparison> {
    compare(&read(old)?, &read(new)?)
}

fn read(path: &Path) -> Result<ExportedReport> {
    let name = path.display().to_string();
    let mut text = String::new();
    open_to_read(path)
        .map(PatientReader::new)
        .and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text))
        .map_err(|error| Error::new(Kind::Failed, Unusable::Io(name.clone(), error)))?;
    let usage = |what| Error::new(Kind::Usage, what);
    let document: ExportedReport = serde_json::from_str(&text)
        .map_err(|error| usage(Unusable::Malformed(name.clone(), error)))?;
    if document.schema != SCHEMA || document.schema_version != SCHEMA_VERSION {
        return Err(usage(Unusable::Schema(
            name,
            document.schema,
            document.schema_version,
        )));
    }
    Ok(document)
}

fn compare(old: &ExportedReport, new: &ExportedReport) -> Result<Comparison> {
    if old.image.digest != new.image.digest {
        let (old, new) = (old.image.digest.clone(), new.image.digest.clone());
        return Err(Error::new(Kind::Usage, Unusable::Images(old, new)));
    }
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let (a, b) = (&old.conditions, &new.conditions);
    let notes = [
        ("version", old.version.clone(), new.version.clone()),
        ("CPU", shown(&a.cpu_model), shown(&b.cpu_model)),
        ("cores", a.cores.to_string(), b.cores.to_string()),
        ("kernel", shown(&a.kernel), shown(&b.kernel)),
    ];
    let notes = notes
        .into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(what, old, new)| printable(&format!("{what} differs: {old}, now {new}")))
        .collect();
    let mut pairs = Pairs::default();
    pairs.pair(&old.settings, &new.settings, |old, new| {
        old.parameters == new.parameters
    });
    pairs.pair(&old.peers, &new.peers, |old, new| old.name == new.name);
    let Pairs { rows, unmatched } = pairs;
    Ok(Comparison {
        rows,
        unmatched,
        notes,
    })
}

/// What has a name and runs.
trait Timed {
    const PEER: bool;
    fn name(&self) -> String;
    fn times(&self) -> Vec<f64>;
}

impl Timed for ExportedSetting {
    const PEER: bool = false;

    fn name(&self) -> String {
        printable(&self.name)
    }

    fn times(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.time).collect()
    }
}

impl Timed for ExportedPeer {
    const PEER: bool = true;

    fn name(&self) -> String {
        printable(&self.name)
    }

    fn times(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.time).collect()
    }
}

/// What matches, and what does not.
#[derive(Default)]
struct Pairs {
    rows: Vec<ComparedRow>,
    unmatched: Vec<String>,
}

impl Pairs {
    fn pair<T: Timed>(&mut self, old: &[T], new: &[T], same: impl Fn(&T, &T) -> bool) {
        let mut matched = vec![false; old.len()];
        for row in new {
            let found = old.iter().position(|other| same(other, row));
            let before = found.map(|at| {
                matched[at] = true;
                old[at].times()
            });
            let (before, after) = (before.unwrap_or_default(), row.times());
            match (median(&before), median(&after)) {
                (Some(old), Some(new)) => {
                    let chance =
                        chance_of_greater(&before, &after).min(chance_of_greater(&after, &before));
                    self.rows.push(ComparedRow {
                        name: row.name(),
                        old,
                        new,
                        // Three runs against three give this chance exactly.
                        differs: chance <= CHANCE * 1.000_001,
                        peer: T::PEER,
                    });
                }
                (None, None) if found.is_some() => {}
                _ => self.unmatched.push(row.name()),
            }
        }
        let only_old = old.iter().zip(matched).filter(|(_, matched)| !matched);
        self.unmatched.extend(only_old.map(|(row, _)| row.name()));
    }
}

impl Comparison {
    /// The settings that became slower by more than this many percent, beyond the noise. A slower peer
    /// is not our regression.
    pub fn slower(&self, percent: f64) -> Vec<&ComparedRow> {
        self.rows
            .iter()
            .filter(|row| !row.peer && row.differs && row.percent_slower() > percent)
            .collect()
    }

    /// The comparison as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        let width = self.rows.iter().map(|row| row.name.chars().count()).max();
        let width = width.unwrap_or(0);
        for row in &self.rows {
            let verdict = match (row.differs, row.new < row.old) {
                (false, _) => "no measurable difference",
                (true, true) => "faster",
                (true, false) => "slower",
            };
            let _ = writeln!(
                text,
                "{:width$}  {:>10.1} ms -> {:>10.1} ms  {:>+7.1} %  {verdict}",
                row.name,
                row.old,
                row.new,
                row.percent_slower()
            );
        }
        if !self.unmatched.is_empty() {
            let _ = writeln!(text, "in only one of them: {}", self.unmatched.join("; "));
        }
        text
    }
}

/// Parses `5%` or `5`.
///
/// # Errors
/// Names what is allowed.
pub fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if percent.is_finite() && percent >= 0.0 => Ok(percent),
        _ => Err(format!(
            "invalid percentage '{}': allowed is a number of at least 0, such as 5%",
            printable(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{peer, report_of, report_with, run};

    fn document(name: &str, times: &[f64]) -> ExportedReport {
        let setting = report_with(&[(name, 1.0, 1)]).settings[0].setting;
        let runs = times.iter().map(|time| run(*time, 1000)).collect();
        let text = serde_json::to_string(&report_of(vec![(setting, runs)])).expect("JSON");
        serde_json::from_str(&text).expect("what we write is what we read")
    }

    #[test]
    fn only_what_is_beyond_the_noise_is_slower() {
        let old = document("zstd:1", &[100.0, 101.0, 102.0]);
        let slower = compare(&old, &document("zstd:1", &[110.0, 111.0, 112.0])).expect("rows");
        assert!(slower.rows[0].differs);
        assert_eq!(
            (slower.slower(5.0).len(), slower.slower(20.0).len()),
            (1, 0)
        );
        assert!(
            slower.text().contains("+9.9 %  slower"),
            "{}",
            slower.text()
        );
        let noisy = compare(&old, &document("zstd:1", &[101.5, 130.0, 140.0])).expect("rows");
        assert!(!noisy.rows[0].differs && noisy.slower(5.0).is_empty());
        let faster = compare(&old, &document("zstd:1", &[50.0, 51.0, 52.0])).expect("rows");
        assert!(faster.rows[0].differs && faster.slower(0.0).is_empty());
        assert!(faster.text().contains("faster"));
    }

    #[test]
    fn modes_of_a_peer_are_compared_by_name_and_are_not_a_reason_to_fail() {
        let with_peer = |way: &str, times: [f64; 3]| {
            let mut report = report_with(&[("lz4", 1.0, 1)]);
            report.peers = vec![
                peer(way, &times.map(|time| (time, None))),
                peer("multifd zlib:1", &[]),
            ];
            let text = serde_json::to_string(&report).expect("JSON");
            serde_json::from_str::<ExportedReport>(&text).expect("what we write")
        };
        let old = with_peer("plain", [100.0, 101.0, 102.0]);
        let slower = compare(&old, &with_peer("plain", [150.0, 151.0, 152.0])).expect("rows");
        assert_eq!(slower.rows.len(), 2);
        assert!(slower.rows[1].differs && slower.rows[1].peer);
        assert!(
            slower.text().contains("QEMU 7.2.22 plain"),
            "{}",
            slower.text()
        );
        assert!(slower.slower(5.0).is_empty() && slower.unmatched.is_empty());
        let other = compare(&old, &with_peer("multifd none", [1.0; 3])).expect("rows");
        assert_eq!(
            other.unmatched,
            ["QEMU 7.2.22 multifd none", "QEMU 7.2.22 plain"]
        );
    }

    #[test]
    fn settings_match_by_their_parameters() {
        let old = document("zstd:1", &[1.0]);
        let other = compare(&old, &document("zstd:3", &[1.0])).expect("no rows");
        assert!(other.rows.is_empty());
        assert_eq!(other.unmatched, ["zstd:3", "zstd:1"]);
    }

    #[test]
    fn other_images_and_other_files_are_refused_and_other_machines_noted() {
        let (old, mut new) = (document("lz4", &[1.0]), document("lz4", &[1.0]));
        new.conditions.cores = 64;
        let noted = compare(&old, &new).expect("rows");
        assert_eq!(noted.notes, ["cores differs: 2, now 64"]);
        new.image.digest = "0".to_owned();
        assert_eq!(
            compare(&old, &new).expect_err("refused").kind(),
            Kind::Usage
        );
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.json");
        assert_eq!(read(&path).expect_err("missing").kind(), Kind::Failed);
        for text in ["", "{}", "[1]", "{\"schema\": \"other\"}"] {
            std::fs::write(&path, text).expect("a file");
            assert_eq!(
                read(&path).expect_err("refused").kind(),
                Kind::Usage,
                "{text}"
            );
        }
    }

    #[test]
    fn percentages_are_numbers_of_at_least_zero() {
        assert_eq!(parse_percent("5%"), Ok(5.0));
        assert_eq!(parse_percent("0.5"), Ok(0.5));
        for text in ["", "%", "-1%", "NaN", "inf", "five"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }
}
