//! The progress of a benchmark on standard error, and the files that are written as results come in.

use std::time::{Duration, Instant};

use super::console::Console;
use crate::bench::report::BenchReport;
use crate::bench::show::export::Exports;
use crate::bench::show::terminal;
use crate::bench::{self, Bench, Task};
use crate::error::Result;
use crate::page::PAGE_SIZE;
use crate::stats::{Snapshot, Status};
use crate::units::{format_bytes, format_duration};

/// Files are not written more often: a page of a thousand settings takes a while.
const BETWEEN: Duration = Duration::from_secs(1);

/// Shows progress and writes files.
pub(super) struct View<'a> {
    console: &'a Console,
    /// Whether there is a bar: otherwise each task is a line.
    bar: bool,
    exports: &'a Exports,
    /// When the files were last written.
    written: Option<Instant>,
    tasks: usize,
    runs: u32,
    /// The expected milliseconds before the current task, and of it.
    base: u64,
    length: u64,
    name: String,
}

impl<'a> View<'a> {
    pub(super) fn new(bench: &Bench, exports: &'a Exports, console: &'a Console) -> View<'a> {
        console.start_bar(milliseconds(bench.expected()));
        View {
            bar: console.bar(|_| {}),
            console,
            exports,
            written: None,
            tasks: bench.tasks(),
            runs: bench.runs(),
            base: 0,
            length: 0,
            name: String::new(),
        }
    }

    /// The task in words.
    fn words(&self, task: &Task) -> String {
        match task.run {
            0 => format!("warm-up: {}", task.name),
            run => format!("run {run}/{}: {}", self.runs.max(run), task.name),
        }
    }

    fn show(&self, position: u64, message: String) {
        self.console.bar(|bar| {
            bar.set_position(position.min(bar.length().unwrap_or(u64::MAX)));
            bar.set_message(message);
        });
    }
}

/// Whole milliseconds.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl bench::Watch for View<'_> {
    fn begin(&mut self, task: &Task) {
        self.base = milliseconds(task.before);
        self.length = milliseconds(task.expected);
        self.name = self.words(task);
        if task.run > 0 {
            self.console.measuring();
        }
        self.show(self.base, self.name.clone());
    }

    fn progress(&mut self, now: &Snapshot) {
        let done = (self.length as f64 * part_done(now)) as u64;
        let ram = format_bytes(now.total.pages() * PAGE_SIZE as u64);
        self.show(self.base + done, format!("{}, {ram}", self.name));
    }

    fn end(&mut self, task: &Task, time: Duration) {
        if !self.bar {
            let (number, tasks) = (task.number + 1, self.tasks.max(task.number + 1));
            let time = format_duration(time);
            self.console
                .line(&format!("{number} of {tasks}: {}, {time}", self.name));
        }
    }

    fn setting_done(&mut self, report: &BenchReport, index: usize) {
        if let Some(row) = report.settings.get(index).filter(|_| self.bar) {
            self.console.line(&terminal::line(row));
        }
    }

    fn peer_done(&mut self, report: &BenchReport, index: usize) {
        if let Some(row) = report.peers.get(index).filter(|_| self.bar) {
            self.console.line(&terminal::peer_line(row));
        }
    }

    fn failed(&mut self, _: &Task, why: &str) {
        let name = &self.name;
        self.console
            .warn(&format!("warning: {name}: {why}; left out from now on"));
    }

    fn counted(&mut self, bench: &Bench) -> Result<()> {
        let lately = |written: Instant| written.elapsed() < BETWEEN;
        if self.exports.is_empty() || self.written.is_some_and(lately) {
            return Ok(());
        }
        self.written = Some(Instant::now());
        self.exports.write(&bench.report())?;
        self.console.keeps(self.exports.kept());
        Ok(())
    }
}

/// The bulk stage takes nearly all of a migration.
const BULK: f64 = 0.9;

/// How much of a migration is done, from 0 to 1.
fn part_done(now: &Snapshot) -> f64 {
    let ram_pages = now.ram_bytes / PAGE_SIZE as u64;
    if now.round > 1 || now.status == Status::Device {
        BULK
    } else {
        // Before the first round there are no pages at all.
        BULK * now.total.pages().min(ram_pages) as f64 / ram_pages.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_stays_within_its_task() {
        let mut now = Snapshot::default();
        assert_eq!(part_done(&now), 0.0);
        now.ram_bytes = 1000 * PAGE_SIZE as u64;
        now.total.zero = 500;
        assert_eq!(part_done(&now), BULK / 2.0);
        now.total.zero = 5000;
        assert_eq!(part_done(&now), BULK);
        now.status = Status::Device;
        assert!(part_done(&now) < 1.0);
    }
}
