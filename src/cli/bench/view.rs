//! A comparison while it runs, on standard error: a bar on a terminal, a line for each task
//! elsewhere; and the files that are written as results come in.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::bench::report::BenchReport;
use crate::bench::show::export::Exports;
use crate::bench::show::table;
use crate::bench::{self, Bench, Task};
use crate::error::Result;
use crate::page::PAGE_SIZE;
use crate::stats::{Snapshot, Status};
use crate::units::{format_bytes, format_duration};

use super::tell;

/// Files are not written more often: a page of a thousand settings takes a while.
const BETWEEN: Duration = Duration::from_secs(1);

/// Shows a comparison and writes its files.
pub(super) struct View<'a> {
    bar: Option<ProgressBar>,
    quiet: bool,
    exports: &'a Exports,
    /// When the files were written last.
    written: Option<Instant>,
    tasks: usize,
    runs: u32,
    /// The expected milliseconds before the task in hand, and of it.
    base: u64,
    length: u64,
    name: String,
}

impl<'a> View<'a> {
    pub(super) fn new(bench: &Bench, exports: &'a Exports, quiet: bool) -> View<'a> {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(milliseconds(bench.expected()).max(1));
            // The message is cut to what is left of the line: a bar of two lines leaves its traces.
            if let Ok(style) =
                ProgressStyle::with_template("[{bar:20}] {percent:>3}%, ETA {eta:>3}  {wide_msg}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        View {
            bar,
            quiet,
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
        if task.run == 0 {
            format!("warming up with {}", task.name)
        } else {
            format!(
                "run {} of {}: {}",
                task.run,
                self.runs.max(task.run),
                task.name
            )
        }
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
        if let Some(bar) = &self.bar {
            bar.set_position(self.base.min(bar.length().unwrap_or(u64::MAX)));
            bar.set_message(self.name.clone());
        }
    }

    fn progress(&mut self, now: &Snapshot) {
        let Some(bar) = &self.bar else { return };
        let done = (self.length as f64 * part_done(now)) as u64;
        bar.set_position((self.base + done).min(bar.length().unwrap_or(u64::MAX)));
        let done = format_bytes(now.total.pages() * PAGE_SIZE as u64);
        bar.set_message(format!("{}, {done} of RAM", self.name));
    }

    fn end(&mut self, task: &Task, time: Duration) {
        if self.bar.is_none() && !self.quiet {
            tell(&format!(
                "{} of {}: {}, {}",
                task.number + 1,
                self.tasks.max(task.number + 1),
                self.name,
                format_duration(time)
            ));
        }
    }

    fn setting_done(&mut self, report: &BenchReport, index: usize) {
        if let (Some(bar), Some(row)) = (&self.bar, report.settings.get(index)) {
            bar.println(table::line(row));
        }
    }

    fn peer_done(&mut self, report: &BenchReport, index: usize) {
        if let (Some(bar), Some(row)) = (&self.bar, report.peers.get(index)) {
            bar.println(table::peer_line(row));
        }
    }

    fn failed(&mut self, _: &Task, why: &str) {
        let line = format!("warning: {}: {why}; it is left out from now on", self.name);
        match &self.bar {
            Some(bar) => bar.println(line),
            None => tell(&line),
        }
    }

    fn counted(&mut self, bench: &Bench) -> Result<()> {
        let lately = |written: Instant| written.elapsed() < BETWEEN;
        if self.exports.is_empty() || self.written.is_some_and(lately) {
            return Ok(());
        }
        self.written = Some(Instant::now());
        self.exports.write(&bench.report(), false)
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The bulk stage is nearly all of a migration.
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
    fn the_bar_never_goes_beyond_its_task() {
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
