//! The live view of a migration, on standard error: one line on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output;
use crate::control::Migration;
use crate::grid::terminal_size;
use crate::page::PAGE_SIZE;
use crate::stats::{Snapshot, Status};
use crate::units::{format_bytes, format_duration, format_rate};

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often a line is written elsewhere.
const LINE: Duration = Duration::from_secs(5);
/// How many characters the bar has.
const BAR: u64 = 20;

/// Shows one migration.
pub(super) struct Progress {
    /// What to show before the peer is connected.
    waiting: String,
    view: Option<ProgressBar>,
    next_line: Instant,
    /// The last line that was written where there is no terminal.
    last_line: String,
    /// Rounds and notices that have been shown.
    rounds: usize,
    notices: usize,
}

impl Progress {
    pub(super) fn new(waiting: String) -> Progress {
        let view = io::stderr().is_terminal().then(|| {
            let view = ProgressBar::new_spinner();
            // Cut to the terminal's width, whatever it is.
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                view.set_style(style);
            }
            view
        });
        Progress {
            waiting,
            view,
            next_line: Instant::now() + LINE,
            last_line: String::new(),
            rounds: 0,
            notices: 0,
        }
    }

    /// Shows `migration` until it is over.
    pub(super) fn follow(mut self, migration: &Migration) {
        while !migration.ends_within(REDRAW) {
            let now = migration.query();
            self.history(&now);
            match &self.view {
                Some(view) => view.set_message(self.line(&now, width())),
                None if Instant::now() >= self.next_line => {
                    self.next_line = Instant::now() + LINE;
                    let line = self.line(&now, None);
                    // A log needs to say once that a source is waited for.
                    if line != self.last_line {
                        output::report(&line);
                        self.last_line = line;
                    }
                }
                None => {}
            }
        }
        self.history(&migration.query());
        if let Some(view) = &self.view {
            view.finish_and_clear();
        }
    }

    /// What stays: the notices, and the rounds of a live migration, which should be seen to shrink.
    fn history(&mut self, now: &Snapshot) {
        let mut lines: Vec<String> = Vec::new();
        if let Some(live) = &now.live {
            // The scan that says more about a round comes after its end.
            let scanned = live.round as usize;
            let last = if now.status == Status::Active && !now.let_go {
                now.rounds.len().min(scanned)
            } else {
                now.rounds.len()
            };
            let rounds = now.rounds.iter().take(last);
            for (number, round) in (1..).zip(rounds).skip(self.rounds) {
                let pages = round.tally.pages();
                let mut line = format!(
                    "round {}: {pages} page{}, {} on the wire, {}",
                    round.round,
                    if pages == 1 { "" } else { "s" },
                    format_bytes(round.wire_bytes),
                    format_duration(round.time)
                );
                if let Some(time) = live.expected_downtime.filter(|_| number == scanned) {
                    line.push_str(&format!(
                        "; {} pages dirtied per second, expected downtime {}",
                        live.dirty_pages_rate,
                        format_duration(time)
                    ));
                }
                lines.push(line);
            }
            self.rounds = last;
        }
        lines.extend(
            now.notices
                .iter()
                .skip(self.notices)
                .map(|notice| format!("note: {notice}")),
        );
        self.notices = now.notices.len();
        for line in lines {
            match &self.view {
                Some(view) => view.println(line),
                None => output::report(&line),
            }
        }
    }

    /// What is going on, in at most `width` columns.
    fn line(&self, now: &Snapshot, width: Option<usize>) -> String {
        match now.status {
            Status::None | Status::Setup => return self.waiting.clone(),
            Status::PreSwitchover => {
                return "ready to switch over: waiting for migrate-continue".to_owned();
            }
            Status::Device => {
                return format!("verifying what arrived ({})", format_bytes(now.ram_bytes));
            }
            _ => {}
        }
        let (done, all) = (now.current.pages(), now.round_pages.max(1));
        let filled = (BAR * done / all).min(BAR) as usize;
        let seconds = now
            .elapsed
            .saturating_sub(now.setup_time)
            .as_secs_f64()
            .max(1e-3);
        let pages_a_second = now.total.pages() as f64 / seconds;
        let left = now.round_remaining();
        let eta = if pages_a_second > 0.0 {
            format_duration(Duration::from_secs_f64(left as f64 / pages_a_second))
        } else {
            "?".to_owned()
        };
        let bytes = now.total.pages().saturating_mul(PAGE_SIZE as u64);
        let bar = format!(
            "round {} [{}{}] {:3} %",
            now.round,
            "=".repeat(filled),
            " ".repeat(BAR as usize - filled),
            100 * done / all,
        );
        // The dearest first: a narrow terminal shows as many as fit.
        let parts = [
            format!("ETA {eta}"),
            format!("{} of RAM", format_rate((bytes as f64 / seconds) as u64)),
            format!("ratio {:.2}", bytes as f64 / now.wire_bytes.max(1) as f64),
            format!("{} on the wire", format_rate(now.wire_rate as u64)),
            format!(
                "{} left",
                format_bytes(left.saturating_mul(PAGE_SIZE as u64))
            ),
            format!("{} sent", format_bytes(now.wire_bytes)),
        ];
        parts.iter().fold(bar, |line, part| {
            let longer = format!("{line}, {part}");
            let fits = width.is_none_or(|width| longer.chars().count() < width);
            if fits { longer } else { line }
        })
    }
}

/// Waits for the end, and shows only what must be known however little is to be shown.
pub(super) fn follow_quietly(migration: &Migration) {
    let mut shown = 0;
    loop {
        let is_over = migration.ends_within(REDRAW);
        let cautions = migration.query().cautions;
        for caution in cautions.iter().skip(shown) {
            output::report(&format!("note: {caution}"));
        }
        shown = cautions.len();
        if is_over {
            return;
        }
    }
}

fn width() -> Option<usize> {
    terminal_size(io::stderr()).map(|(width, _)| width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Tally;

    #[test]
    fn the_line_says_what_is_going_on() {
        let progress = Progress::new("waiting".to_owned());
        assert_eq!(progress.line(&Snapshot::default(), None), "waiting");
        let now = Snapshot {
            status: Status::Active,
            round: 1,
            round_pages: 512,
            elapsed: Duration::from_secs(1),
            wire_bytes: 1 << 19,
            wire_rate: 524_288.0,
            current: Tally {
                plain: 256,
                ..Tally::default()
            },
            total: Tally {
                plain: 256,
                ..Tally::default()
            },
            ..Snapshot::default()
        };
        assert_eq!(
            progress.line(&now, None),
            "round 1 [==========          ]  50 %, ETA 1.00 s, 1.00 MiB/s of RAM, ratio 2.00, \
             512.00 KiB/s on the wire, 1.00 MiB left, 512.00 KiB sent"
        );
        assert_eq!(
            progress.line(&now, Some(80)),
            "round 1 [==========          ]  50 %, ETA 1.00 s, 1.00 MiB/s of RAM, ratio 2.00"
        );
    }
}
