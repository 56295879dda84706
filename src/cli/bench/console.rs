//! Standard error of a benchmark: a bar on a terminal, lines elsewhere, and what a signal prints.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use indicatif::{ProgressBar, ProgressStyle};

use crate::bench::measure::scratch;
use crate::bench::peer;
use crate::cli::output::report;
use crate::cli::{exit_code, signals};
use crate::error::{Kind, Result};
use crate::sync;

/// What is shown, and shared with the thread that handles signals.
#[derive(Debug, Clone)]
pub(super) struct Console {
    quiet: bool,
    shared: Arc<ConsoleState>,
}

#[derive(Debug, Default)]
struct ConsoleState {
    bar: Mutex<Option<ProgressBar>>,
    /// Files that have results in them.
    kept: Mutex<Vec<PathBuf>>,
    measuring: AtomicBool,
    /// Whether a signal has nothing to wait for.
    over: AtomicBool,
}

impl Console {
    pub(super) fn new(quiet: bool) -> Console {
        Console {
            quiet,
            shared: Arc::default(),
        }
    }

    /// Prints a line, above the bar if there is one.
    pub(super) fn line(&self, line: &str) {
        if !self.quiet {
            self.warn(line);
        }
    }

    /// Prints a warning, also if quiet.
    pub(super) fn warn(&self, line: &str) {
        match &*sync::lock(&self.shared.bar) {
            Some(bar) => bar.println(line),
            None => report(line),
        }
    }

    /// Shows a bar of this length on a terminal; elsewhere, or if quiet, nothing.
    pub(super) fn start_bar(&self, length: u64) {
        if self.quiet || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new(length.max(1));
        // 30 characters before the message, which leaves it 50 of 80. It is cut to the rest of the
        // line: a bar of two lines leaves its traces.
        let style =
            ProgressStyle::with_template("{percent:>3}% [{bar:12}] {eta:>4} left  {wide_msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        *sync::lock(&self.shared.bar) = Some(bar);
    }

    /// Calls `update` with the bar; returns whether there is one.
    pub(super) fn bar(&self, update: impl FnOnce(&ProgressBar)) -> bool {
        let bar = sync::lock(&self.shared.bar);
        bar.as_ref().map(update).is_some()
    }

    /// Removes the bar.
    pub(super) fn end_bar(&self) {
        if let Some(bar) = sync::lock(&self.shared.bar).take() {
            bar.finish_and_clear();
        }
    }

    /// From now on there is a run to finish: one that counts.
    pub(super) fn measuring(&self) {
        self.shared.measuring.store(true, Ordering::Relaxed);
    }

    /// From now on the first signal ends the program: the files are written, and a reader of what is
    /// left may never read.
    pub(super) fn over(&self) {
        self.shared.over.store(true, Ordering::SeqCst);
    }

    /// These files have results in them.
    pub(super) fn keeps(&self, files: Vec<PathBuf>) {
        *sync::lock(&self.shared.kept) = files;
    }

    /// Gives a flag that SIGINT and SIGTERM set; a second signal ends the program. Each says what it
    /// does: a run can take a minute, and a Ctrl-C without an answer is pressed again.
    pub(super) fn stop_on_signals(&self) -> Result<Arc<AtomicBool>> {
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, console) = (Arc::clone(&stop), self.clone());
        signals::on_each(signals::catch()?, move || {
            let is_over = console.shared.over.load(Ordering::SeqCst);
            if !flag.swap(true, Ordering::Relaxed) && !is_over {
                let what = match console.shared.measuring.load(Ordering::Relaxed) {
                    true => "finishing the run in progress",
                    false => "stopping",
                };
                console.line(&format!("{what}; press Ctrl-C again to stop now"));
                return;
            }
            console.end_bar();
            console.line(&console.what_was_kept());
            peer::kill_all();
            scratch::remove_all();
            std::process::exit(i32::from(exit_code(Kind::Interrupted)));
        })?;
        Ok(stop)
    }

    fn what_was_kept(&self) -> String {
        let kept = sync::lock(&self.shared.kept);
        if kept.is_empty() {
            return "stopped; no results were kept (--export-json FILE keeps them after each run)"
                .to_owned();
        }
        let files: Vec<String> = kept.iter().map(|file| file.display().to_string()).collect();
        format!("stopped; the results so far are in {}", files.join(", "))
    }
}
