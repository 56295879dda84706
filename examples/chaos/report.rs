//! What a campaign found.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::check::Category;
use crate::one::Record;

/// Counts over all runs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) runs: u64,
    median_milliseconds: u64,
    /// Runs of each kind.
    kinds: BTreeMap<String, u64>,
    /// Faults that happened, and did not because the run was over before.
    faults: BTreeMap<String, u64>,
    faults_too_late: u64,
    /// Runs by the exit codes of source and destination.
    ends: BTreeMap<String, u64>,
    /// Runs that ended in the documented gap.
    nowhere: u64,
    /// Runs in which a flipped bit arrived, on QEMU's wire, which has no checksums.
    unseen: u64,
    problems: BTreeMap<String, u64>,
    /// Seeds of the runs in which something was wrong.
    pub(crate) failed: Vec<u64>,
    #[serde(skip)]
    times: Vec<u64>,
}

const ALL: [Category; 8] = [
    Category::Difference,
    Category::Hang,
    Category::Leftover,
    Category::Owner,
    Category::ExitCode,
    Category::Output,
    Category::Message,
    Category::Campaign,
];

const MODES: [&str; 20] = [
    "still",
    "rounds",
    "live",
    "native",
    "qemu",
    "unix",
    "tcp",
    "file",
    "exec",
    "pipe",
    "folder",
    "twice",
    "monitor",
    "small disk",
    "no fault",
    "commands",
    "monitored",
    "no room for a report",
    "paused",
    "retry",
];

impl Report {
    pub(crate) fn add(&mut self, record: Record) {
        self.runs += 1;
        let mut planned = 0;
        for label in record.labels {
            match MODES.contains(&label.as_str()) {
                true => *self.kinds.entry(label).or_default() += 1,
                false => planned += 1,
            }
        }
        let fired = record.fired.len() as u64;
        self.faults_too_late += u64::saturating_sub(planned, fired);
        for fault in record.fired {
            *self.faults.entry(fault).or_default() += 1;
        }
        let (source, destination) = record.ends;
        *self
            .ends
            .entry(format!("{source} / {destination}"))
            .or_default() += 1;
        self.nowhere += u64::from(record.nowhere);
        self.unseen += u64::from(record.unseen);
        if !record.problems.is_empty() {
            self.failed.push(record.seed);
        }
        for (category, _) in record.problems {
            *self.problems.entry(format!("{category:?}")).or_default() += 1;
        }
        let at = self
            .times
            .partition_point(|time| *time < record.milliseconds);
        self.times.insert(at, record.milliseconds);
        self.median_milliseconds = self.times[self.times.len() / 2];
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} runs, median {} ms",
            self.runs, self.median_milliseconds
        )?;
        let mut table = |title: &str, counts: &BTreeMap<String, u64>| -> fmt::Result {
            writeln!(f, "\n{title}")?;
            for (name, count) in counts {
                writeln!(f, "  {count:6} {name}")?;
            }
            Ok(())
        };
        table("runs by kind", &self.kinds)?;
        table("faults that happened", &self.faults)?;
        table("exit codes, source / destination", &self.ends)?;
        writeln!(f, "\n{} faults came after the end", self.faults_too_late)?;
        writeln!(
            f,
            "{} times the guest ran nowhere, in the documented gap",
            self.nowhere
        )?;
        writeln!(
            f,
            "{} times a flipped bit arrived on QEMU's wire, which has no checksums",
            self.unseen
        )?;
        for category in ALL {
            let name = format!("{category:?}");
            let count = self.problems.get(&name).copied().unwrap_or(0);
            writeln!(f, "{count} {name}")?;
        }
        if !self.failed.is_empty() {
            writeln!(f, "failed seeds: {:?}", self.failed)?;
        }
        Ok(())
    }
}
