//! Compares two exported reports: which settings became faster or slower beyond the noise.
//!
//! Settings match if all their parameters are equal, a peer's modes if they have the same name. A
//! difference counts if the one-sided rank-sum test of their runs gives a chance of at most 5 %. Three
//! runs on each side suffice for that only if all new ones are beyond all old ones; with fewer, nothing
//! can be told.
//!
//! A gate ([`Comparison::gate`]) passes only if it has compared: every setting of the old report was
//! measured again, often enough, by a benchmark that was completed.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bench::report::{SCHEMA, SCHEMA_VERSION};
use crate::bench::statistics::{chance_of_greater, least_chance, median};
use crate::error::{Error, Kind, Result};
use crate::special::{PatientReader, open_to_read};
use crate::text::printable;

/// The p-value up to which a difference counts.
const CHANCE: f64 = 0.05;
/// Far more than the report of the largest matrix.
const MOST_BYTES: u64 = 1 << 30;
/// The status of a report that has all of its runs.
const COMPLETED: &str = "completed";

/// The part of a report that is compared.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ExportedReport {
    schema: String,
    schema_version: u32,
    status: String,
    error_desc: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Comparison {
    /// Settings in both, in the order of the new report, and then peers' modes.
    pub rows: Vec<ComparedRow>,
    /// Settings and modes that have runs in the old report only.
    pub only_old: Vec<Unmatched>,
    /// Settings and modes that have runs in the new report only.
    pub only_new: Vec<Unmatched>,
    /// Reports of benchmarks that were not completed, a line each.
    pub incomplete: Vec<String>,
    /// Other differences, a line each.
    pub notes: Vec<String>,
}

/// A setting, or a peer's mode, that only one report has runs of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unmatched {
    /// Its name there.
    pub name: String,
    /// Whether it is a peer's mode.
    pub peer: bool,
}

/// What the runs of both reports say about a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// No difference beyond the noise.
    Same,
    /// The new runs take less time, beyond the noise.
    Faster,
    /// The new runs take more time, beyond the noise.
    Slower,
    /// So few runs that no difference of theirs would be beyond the noise.
    TooFewRuns,
}

impl Verdict {
    fn of(old: &[f64], new: &[f64]) -> Verdict {
        // Three runs against three give this chance exactly.
        let counts = |chance: f64| chance <= CHANCE * 1.000_001;
        if !counts(least_chance(old.len(), new.len())) {
            Verdict::TooFewRuns
        } else if counts(chance_of_greater(old, new)) {
            Verdict::Slower
        } else if counts(chance_of_greater(new, old)) {
            Verdict::Faster
        } else {
            Verdict::Same
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Same => "no measurable difference",
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::TooFewRuns => "cannot tell: too few runs",
        }
    }
}

/// A setting, or a peer's mode, in both reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ComparedRow {
    /// Its name in the new report.
    pub name: String,
    /// The old median in milliseconds.
    #[serde(rename = "old-ms")]
    pub old: f64,
    /// The new median in milliseconds.
    #[serde(rename = "new-ms")]
    pub new: f64,
    /// The number of old and of new runs.
    pub runs: [usize; 2],
    /// Whether the times differ beyond the noise.
    pub verdict: Verdict,
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
    Io(String, #[source] io::Error),
    #[error("'{0}' is not a file of --export-json: it is not text")]
    NotText(String),
    #[error("'{0}' is not a file of --export-json: it is empty or cut short")]
    CutShort(String),
    #[error("'{0}' is not a file of --export-json")]
    Malformed(String, #[source] serde_json::Error),
    #[error("'{0}' has schema {1} version {2}; supported is {SCHEMA} version {SCHEMA_VERSION}")]
    Schema(String, String, u32),
    #[error(
        "the reports are of different images, with the RAM digests {0} and {1}: measure the same image again (a \
         synthetic guest with the same --synthetic, --mix and --seed)"
    )]
    Images(String, String),
}

/// Reads and compares two files.
///
/// # Errors
/// Of kind [`Kind::Usage`] for a file that cannot be read or is not a report, and for reports of different
/// images.
pub fn files(old: &Path, new: &Path) -> Result<Comparison> {
    let (before, after) = (read(old)?, read(new)?);
    let mut comparison = compare(&before, &after)?;
    for (path, report) in [(old, &before), (new, &after)] {
        if report.status != COMPLETED {
            let (file, status) = (path.display(), &report.status);
            let why = report.error_desc.as_ref();
            let why = why.map_or_else(String::new, |why| format!(" ({why})"));
            let line = format!("the benchmark of '{file}' is {status}, not completed{why}");
            comparison.incomplete.push(printable(&line));
        }
    }
    Ok(comparison)
}

fn read(path: &Path) -> Result<ExportedReport> {
    let name = path.display().to_string();
    let usage = |what| Error::new(Kind::Usage, what);
    let mut text = String::new();
    open_to_read(path)
        .map(PatientReader::new)
        .and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text))
        .map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => usage(Unusable::NotText(name.clone())),
            _ => usage(Unusable::Io(name.clone(), error)),
        })?;
    let document: ExportedReport = serde_json::from_str(&text).map_err(|error| {
        usage(match error.is_eof() {
            true => Unusable::CutShort(name.clone()),
            false => Unusable::Malformed(name.clone(), error),
        })
    })?;
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
    let mut comparison = Comparison {
        notes,
        ..Comparison::default()
    };
    comparison.pair(&old.settings, &new.settings, |old, new| {
        old.parameters == new.parameters
    });
    comparison.pair(&old.peers, &new.peers, |old, new| old.name == new.name);
    Ok(comparison)
}

/// What has a name and runs.
trait Timed {
    const PEER: bool;
    fn name(&self) -> String;
    fn times(&self) -> Vec<f64>;
}

impl Timed for ExportedSetting {
    const PEER: bool = false;

    /// Names distinguish the settings of one report, and leave out a link that all of them have.
    fn name(&self) -> String {
        let link = self.parameters["link"].as_str();
        let link = link.filter(|link| !self.name.contains(link));
        let over = link.map_or_else(String::new, |link| format!(" over {link}"));
        printable(&format!("{}{over}", self.name))
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

impl Comparison {
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
                    self.rows.push(ComparedRow {
                        name: row.name(),
                        old,
                        new,
                        runs: [before.len(), after.len()],
                        verdict: Verdict::of(&before, &after),
                        peer: T::PEER,
                    });
                }
                (Some(_), None) => self.only_old.push(unmatched(row)),
                (None, Some(_)) => self.only_new.push(unmatched(row)),
                (None, None) => {}
            }
        }
        let only_old = old.iter().zip(matched).filter(|(_, matched)| !matched);
        let only_old = only_old.filter(|(row, _)| !row.times().is_empty());
        self.only_old
            .extend(only_old.map(|(row, _)| unmatched(row)));
    }

    /// Passes if no setting became slower by more than this many percent, beyond the noise, and that can
    /// be told. A peer's modes are not ours to judge.
    ///
    /// # Errors
    /// [`Kind::Slower`], which names the settings; [`Kind::Failed`], which says why it cannot be told.
    pub fn gate(&self, percent: f64) -> Result<()> {
        let of_ours = || self.rows.iter().filter(|row| !row.peer);
        let is_slower =
            |row: &&ComparedRow| row.verdict == Verdict::Slower && row.percent_slower() > percent;
        let slower: Vec<&str> = of_ours().filter(is_slower).map(|row| &*row.name).collect();
        if !slower.is_empty() {
            let what = format!("slower by more than {percent} %: {}", slower.join("; "));
            return Err(Error::new(Kind::Slower, what));
        }
        let doubts = self.doubts();
        if doubts.is_empty() {
            return Ok(());
        }
        let what = format!(
            "cannot tell whether something became slower: {}",
            doubts.join("; ")
        );
        Err(Error::new(Kind::Failed, what))
    }

    /// Why a gate cannot tell whether a setting of the old report became slower.
    fn doubts(&self) -> Vec<String> {
        let mut doubts = self.incomplete.clone();
        let ours = || self.rows.iter().filter(|row| !row.peer);
        if ours().next().is_none() {
            doubts.push("the reports have no setting in common".to_owned());
        }
        let missing = self.only_old.iter().filter(|row| !row.peer);
        let missing: Vec<&str> = missing.map(|row| &*row.name).collect();
        if !missing.is_empty() {
            doubts.push(format!("not measured again: {}", missing.join(", ")));
        }
        let few = ours().filter(|row| row.verdict == Verdict::TooFewRuns);
        let few: Vec<String> = few
            .map(|row| format!("{} ({} and {})", row.name, row.runs[0], row.runs[1]))
            .collect();
        if !few.is_empty() {
            let few = few.join(", ");
            doubts.push(format!(
                "too few runs, measure with --runs 3 or more: {few}"
            ));
        }
        doubts
    }

    /// The comparison as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for note in self.incomplete.iter().chain(&self.notes) {
            let _ = writeln!(text, "note: {note}");
        }
        let width = self.rows.iter().map(|row| row.name.chars().count()).max();
        let width = width.unwrap_or(0);
        for row in &self.rows {
            let verdict = row.verdict.words();
            let _ = writeln!(
                text,
                "{:width$}  {:>10.1} ms -> {:>10.1} ms  {:>+7.1} %  {verdict}",
                row.name,
                row.old,
                row.new,
                row.percent_slower()
            );
        }
        for (which, rows) in [("old", &self.only_old), ("new", &self.only_new)] {
            let names: Vec<&str> = rows.iter().map(|row| &*row.name).collect();
            if !names.is_empty() {
                let _ = writeln!(text, "only in the {which} report: {}", names.join("; "));
            }
        }
        text
    }
}

fn unmatched<T: Timed>(row: &T) -> Unmatched {
    Unmatched {
        name: row.name(),
        peer: T::PEER,
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
mod tests;
