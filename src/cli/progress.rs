//! The live view of a migration, on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::control::Handle;
use crate::page::PAGE_SIZE;
use crate::stats::{Snapshot, Status};
use crate::units::{format_bytes, format_rate};

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often a line is written elsewhere.
const LINE: Duration = Duration::from_secs(5);

/// Shows one migration.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    next_line: Instant,
}

impl Progress {
    pub(super) fn new() -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template(
                "{prefix:9} [{bar:30}] {percent:>3}%  {msg}  ETA {eta}",
            ) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Progress {
            bar,
            next_line: Instant::now() + LINE,
        }
    }

    /// Shows `migration` until it is over.
    pub(super) fn follow(mut self, migration: &Handle) {
        while !migration.is_finished() {
            std::thread::park_timeout(REDRAW);
            self.show(&migration.query());
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn show(&mut self, now: &Snapshot) {
        if now.status == Status::Setup {
            return;
        }
        let phase = if now.status == Status::Device {
            "proving".to_owned()
        } else {
            format!("round {}", now.round)
        };
        let seconds = now.elapsed.as_secs_f64().max(1e-3);
        let done = now.total.pages() * PAGE_SIZE as u64;
        let details = format!(
            "{} of RAM at {}, {} on the wire (1:{:.2}), {} of the round left",
            format_bytes(done),
            format_rate((done as f64 / seconds) as u64),
            format_bytes(now.wire_bytes),
            done as f64 / (now.wire_bytes.max(1)) as f64,
            format_bytes(now.round_remaining() * PAGE_SIZE as u64),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_length(now.round_pages);
                bar.set_position(now.current.pages());
                bar.set_prefix(phase);
                bar.set_message(details);
            }
            None if Instant::now() >= self.next_line => {
                self.next_line = Instant::now() + LINE;
                let percent = 100 * now.current.pages() / now.round_pages.max(1);
                let _ = writeln!(std::io::stderr(), "{phase}: {percent} %, {details}");
            }
            None => {}
        }
    }
}
