//! Decides whether to send another round, to stop the writer for the last one, or to give up; and
//! how much to slow the writer down. Pure functions: numbers in, a decision out.
//!
//! The expected downtime is that of a last round over what is dirty now: one scan, the pages on the
//! wire, and the proof. It is compared with the limit after each round. While rounds and time are
//! left, a downtime that is too long does not end the attempt: guests calm down.

use std::fmt::Write as _;
use std::time::Duration;

use crate::page::PAGE_SIZE;
use crate::units::{format_duration, format_rate};

/// After how many rounds a scan that alone exceeds the limit ends the attempt. One slow scan may be
/// chance.
const HOPELESS_AFTER: u32 = 3;

/// What the user allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// How long the writer may be stopped: QEMU's `downtime-limit`.
    pub(super) downtime: Duration,
    /// The most rounds before the last, including the bulk stage.
    pub(super) max_rounds: u32,
    /// The most time before the last round. `None`: no limit.
    pub(super) max_time: Option<Duration>,
}

/// What is known after a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    /// The round that has ended, from 1.
    pub(super) round: u32,
    /// Since the first page was sent.
    pub(super) elapsed: Duration,
    /// Pages that are dirty now.
    pub(super) dirty_pages: u64,
    /// Pages per second that the writer dirties.
    pub(super) dirty_rate: f64,
    /// Bytes per second that the link carried while it was busy; 0 while unknown.
    pub(super) link_rate: f64,
    /// Bytes on the wire for each dirty page of the last round.
    pub(super) wire_bytes_per_page: f64,
    /// How long the last scan took.
    pub(super) scan: Duration,
    /// How long the proof will take.
    pub(super) proof: Duration,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// One more round while the writer runs.
    Continue,
    /// Stop the writer and send the last round.
    SwitchOver {
        /// How long it will be stopped.
        expected_downtime: Duration,
    },
    /// Both would exceed the limits.
    NotConverging {
        /// Why, and what would help, in a line.
        reason: String,
    },
}

/// The parts of the downtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Downtime {
    scan: Duration,
    /// `None` while nothing is known about the link.
    send: Option<Duration>,
    proof: Duration,
}

impl Downtime {
    fn of(now: &Measured) -> Downtime {
        Downtime {
            scan: now.scan,
            send: if now.dirty_pages == 0 {
                Some(Duration::ZERO)
            } else {
                seconds(now.dirty_pages as f64 * now.wire_bytes_per_page / now.link_rate)
            },
            proof: now.proof,
        }
    }

    /// Whether more rounds cannot help, because they do not make a scan shorter.
    fn is_hopeless(&self, limits: &Limits) -> bool {
        // A limit of 0 is a way to ask for all allowed rounds.
        !limits.downtime.is_zero()
            && self.scan.saturating_add(self.proof) > limits.downtime
            && self.send.is_some_and(|send| send <= self.scan)
    }

    fn total(&self) -> Option<Duration> {
        self.scan.checked_add(self.send?)?.checked_add(self.proof)
    }
}

/// A time, unless the number is negative, too large or NaN.
fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// How long the writer would be stopped now, if enough is known to say.
pub(super) fn expected_downtime(now: &Measured) -> Option<Duration> {
    Downtime::of(now).total()
}

/// Decides after a round.
pub(super) fn decide(limits: &Limits, now: &Measured) -> Decision {
    let downtime = Downtime::of(now);
    if let Some(expected_downtime) = downtime.total().filter(|time| *time <= limits.downtime) {
        return Decision::SwitchOver { expected_downtime };
    }
    let end = if downtime.is_hopeless(limits) && now.round >= HOPELESS_AFTER {
        format!("after {} rounds", now.round)
    } else if now.round >= limits.max_rounds {
        format!("after {} rounds, which is the limit,", now.round)
    } else if limits.max_time.is_some_and(|most| now.elapsed >= most) {
        let elapsed = format_duration(now.elapsed);
        format!("after {elapsed}, which is beyond the limit,")
    } else {
        return Decision::Continue;
    };
    Decision::NotConverging {
        reason: reason(limits, now, downtime, &end),
    }
}

/// The share of the link's rate from which a guest counts as faster than the link. A guest that
/// rewrites all of its pages in each round appears to dirty exactly what the link carries, however
/// fast it is.
const KEEPS_UP: f64 = 0.9;

fn reason(limits: &Limits, now: &Measured, downtime: Downtime, end: &str) -> String {
    let wire_rate = now.dirty_rate * now.wire_bytes_per_page;
    let rate = |bytes: f64| format_rate(bytes as u64);
    let allowed = format_duration(limits.downtime);
    let lead = if downtime.is_hopeless(limits) {
        "the downtime limit cannot be kept"
    } else if wire_rate >= now.link_rate * KEEPS_UP {
        "the guest changes faster than it can be sent"
    } else {
        "there is too much left to send within the downtime limit"
    };
    let plural = if now.dirty_pages == 1 { " is" } else { "s are" };
    let mut text = format!("{lead}: {end} {} page{plural} dirty", now.dirty_pages);
    let Some((send, total)) = downtime.send.zip(downtime.total()) else {
        text.push_str(", and nothing is known about the link yet; more rounds would help");
        return text;
    };
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        "; the guest dirties {} of pages, {} on the wire, and the link carries {}; the downtime \
         would be {} (scan {}, sending {}, proof {}), and {allowed} are allowed; what would help: \
         a downtime limit of {} ms",
        rate(now.dirty_rate * PAGE_SIZE as f64),
        rate(wire_rate),
        rate(now.link_rate),
        format_duration(total),
        format_duration(downtime.scan),
        format_duration(send),
        format_duration(downtime.proof),
        total.as_nanos().div_ceil(1_000_000),
    );
    if downtime.scan.saturating_add(downtime.proof) > limits.downtime {
        text.push_str("; fewer pages to scan and prove, as these alone take longer than allowed");
    } else if wire_rate >= now.link_rate * KEEPS_UP {
        let _ = write!(
            text,
            "; a link of more than {}, smaller pages on the wire, or a slower guest (auto-converge)",
            rate(wire_rate)
        );
    } else {
        text.push_str("; more rounds or time, as the link is faster than the guest");
    }
    text
}

/// How much the writer is slowed down, by QEMU's rule for auto-converge. At most once per second it
/// compares the bytes dirtied with the bytes sent; the second time since the last step that they
/// exceed `trigger_threshold` percent, it takes the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AutoConverge {
    /// QEMU's `throttle-trigger-threshold`, percent.
    pub(super) trigger_threshold: u8,
    /// QEMU's `cpu-throttle-initial`, percent: the first step.
    pub(super) initial: u8,
    /// QEMU's `cpu-throttle-increment`, percent: each later step.
    pub(super) increment: u8,
    /// QEMU's `max-cpu-throttle`, percent.
    pub(super) max: u8,
    /// How much it is slowed down now, percent.
    pub(super) percent: u8,
    /// How many times too much was dirtied since the last step.
    high: u8,
    /// The totals at the last comparison.
    last: Totals,
}

/// Totals since the first page was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) elapsed: Duration,
    pub(super) dirtied_bytes: u64,
    pub(super) sent_bytes: u64,
}

/// The time between two comparisons, as in QEMU.
const PERIOD: Duration = Duration::from_secs(1);

impl Default for AutoConverge {
    fn default() -> AutoConverge {
        AutoConverge {
            trigger_threshold: 50,
            initial: 20,
            increment: 10,
            max: 99,
            percent: 0,
            high: 0,
            last: Totals::default(),
        }
    }
}

impl AutoConverge {
    /// Call after each scan. Returns the new percentage if it changes.
    pub(super) fn after_scan(&mut self, now: Totals) -> Option<u8> {
        if now.elapsed.saturating_sub(self.last.elapsed) <= PERIOD {
            return None;
        }
        let dirtied = now.dirtied_bytes.saturating_sub(self.last.dirtied_bytes);
        let sent = now.sent_bytes.saturating_sub(self.last.sent_bytes);
        self.last = now;
        let threshold = u128::from(sent) * u128::from(self.trigger_threshold);
        if u128::from(dirtied) * 100 <= threshold {
            return None;
        }
        self.high += 1;
        if self.high < 2 {
            return None;
        }
        self.high = 0;
        let next = match self.percent {
            0 => self.initial,
            percent => percent.saturating_add(self.increment),
        };
        let next = next.min(self.max);
        (next != self.percent).then(|| {
            self.percent = next;
            next
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        downtime: Duration::from_millis(300),
        max_rounds: 30,
        max_time: Some(Duration::from_secs(60)),
    };

    /// 1000 pages of 2 KiB on a link of 20 MiB/s: 100 ms, 20 more for scan and proof.
    const NOW: Measured = Measured {
        round: 3,
        elapsed: Duration::from_secs(9),
        dirty_pages: 1024,
        dirty_rate: 2560.0,
        link_rate: (20 << 20) as f64,
        wire_bytes_per_page: 2048.0,
        scan: Duration::from_millis(15),
        proof: Duration::from_millis(5),
    };

    fn over(ms: u64) -> Decision {
        Decision::SwitchOver {
            expected_downtime: Duration::from_millis(ms),
        }
    }

    #[test]
    fn each_situation_has_its_decision() {
        const MS: fn(u64) -> Duration = Duration::from_millis;
        const MANY: u64 = 4096;
        let go_on = Decision::Continue;
        #[rustfmt::skip]
        let table: [(&str, Measured, Decision); 15] = [
            ("little is left", NOW, over(120)),
            ("nothing is left", Measured { dirty_pages: 0, ..NOW }, over(20)),
            ("nothing is left and nothing was measured", Measured { dirty_pages: 0, link_rate: 0.0, wire_bytes_per_page: 0.0, ..NOW }, over(20)),
            ("exactly the limit", Measured { scan: MS(195), ..NOW }, over(300)),
            ("a little more than the limit", Measured { scan: MS(196), ..NOW }, go_on.clone()),
            ("much is left", Measured { dirty_pages: MANY, ..NOW }, go_on.clone()),
            ("much is left and nearly all rounds are over", Measured { dirty_pages: MANY, round: 29, ..NOW }, go_on.clone()),
            ("the last round that is allowed was enough", Measured { round: 30, ..NOW }, over(120)),
            ("time is up but it was enough", Measured { elapsed: MS(90_000), ..NOW }, over(120)),
            ("it shrinks well", Measured { dirty_pages: MANY, wire_bytes_per_page: 512.0, ..NOW }, over(120)),
            ("the scan alone takes too long", Measured { round: 2, scan: MS(400), dirty_pages: 0, ..NOW }, go_on.clone()),
            ("the proof alone takes too long", Measured { round: 2, proof: MS(400), dirty_pages: 0, ..NOW }, go_on.clone()),
            ("the link is not known yet", Measured { link_rate: 0.0, ..NOW }, go_on.clone()),
            ("the link is not a number", Measured { link_rate: f64::NAN, ..NOW }, go_on.clone()),
            ("the link is nearly dead", Measured { link_rate: f64::MIN_POSITIVE, ..NOW }, go_on),
        ];
        for (what, now, expected) in table {
            assert_eq!(decide(&LIMITS, &now), expected, "{what}");
        }
        let no_time = Limits {
            max_time: None,
            ..LIMITS
        };
        let late = Measured {
            elapsed: Duration::MAX,
            dirty_pages: MANY,
            ..NOW
        };
        assert_eq!(decide(&no_time, &late), Decision::Continue);
    }

    #[test]
    fn giving_up_reports_the_numbers_and_what_would_help() {
        let many = Measured {
            dirty_pages: 10_240,
            ..NOW
        };
        #[rustfmt::skip]
        let table: [(&str, Measured, &[&str]); 7] = [
            ("a guest that writes all it has", Measured { round: 30, dirty_rate: 10_239.0, ..many }, &["a link of more than", "auto-converge"]),
            ("rounds", Measured { round: 30, ..many }, &[
                "after 30 rounds, which is the limit, 10240 pages are dirty",
                "dirties 10.00 MiB/s of pages, 5.00 MiB/s on the wire", "the link carries 20.00 MiB/s",
                "would be 1.02 s (scan 15.00 ms, sending 1.00 s, proof 5.00 ms), and 300.00 ms are allowed",
                "a downtime limit of 1020 ms", "more rounds or time",
            ]),
            ("time", Measured { elapsed: Duration::from_secs(60), ..many }, &["after 1 min 00 s, which is beyond the limit"]),
            ("a fast guest", Measured { round: 30, dirty_rate: 20_480.0, ..many }, &[
                "dirties 80.00 MiB/s of pages, 40.00 MiB/s on the wire", "a link of more than 40.00 MiB/s", "auto-converge",
            ]),
            ("a slow scan", Measured { dirty_pages: 1, scan: Duration::from_millis(350), ..NOW }, &[
                "the downtime limit cannot be kept: after 3 rounds 1 page is dirty",
                "a downtime limit of 356 ms", "these alone take longer than allowed",
            ]),
            ("no link", Measured { round: 30, link_rate: 0.0, ..many }, &["nothing is known about the link"]),
            ("no number", Measured { round: 30, link_rate: f64::NAN, dirty_rate: f64::INFINITY, ..many }, &["nothing is known"]),
        ];
        for (what, now, words) in table {
            let Decision::NotConverging { reason } = decide(&LIMITS, &now) else {
                panic!("{what}");
            };
            for word in words {
                assert!(reason.contains(word), "{what}: no {word:?} in {reason:?}");
            }
            assert!(!reason.contains('\n'));
        }
    }

    /// Each row: milliseconds, bytes dirtied and sent since the row before, the answer.
    fn walk(converge: &mut AutoConverge, rows: &[(u64, u64, u64, Option<u8>)]) {
        let mut now = Totals::default();
        for (number, &(ms, dirtied, sent, expected)) in rows.iter().enumerate() {
            now.elapsed += Duration::from_millis(ms);
            now.dirtied_bytes += dirtied;
            now.sent_bytes += sent;
            assert_eq!(converge.after_scan(now), expected, "row {number}");
        }
    }

    #[test]
    fn every_second_time_that_too_much_is_dirtied_the_guest_gets_slower() {
        walk(
            &mut AutoConverge::default(),
            &[
                (1001, 51, 100, None),
                (1001, 51, 100, Some(20)),
                (1001, 51, 100, None),
                (1001, 51, 100, Some(30)),
                // Exactly the threshold is not too much, and does not undo what was counted.
                (1001, 50, 100, None),
                (1001, 99, 100, None),
                (1001, 50, 100, None),
                (1001, 99, 100, Some(40)),
                // Nothing dirtied and nothing sent.
                (5000, 0, 0, None),
                // Dirtied although nothing was sent.
                (5000, 1, 0, None),
                (5000, 1, 0, Some(50)),
            ],
        );
    }

    #[test]
    fn comparisons_that_follow_too_soon_are_added_up() {
        walk(
            &mut AutoConverge::default(),
            &[
                (1000, 90, 100, None),
                // Now 90 of 300 in 1.5 s: not too much.
                (500, 0, 200, None),
                (600, 50, 50, None),
                (600, 50, 100, None),
                (1001, 51, 100, Some(20)),
            ],
        );
    }

    #[test]
    fn the_guest_is_never_slowed_beyond_the_maximum() {
        let mut converge = AutoConverge {
            initial: 60,
            increment: 30,
            max: 80,
            trigger_threshold: 1,
            ..AutoConverge::default()
        };
        let high = (2000, 100, 100, None);
        let step = |percent| (2000, 100, 100, Some(percent));
        walk(
            &mut converge,
            &[high, step(60), high, step(80), high, high, high],
        );
        assert_eq!(converge.percent, 80);
        let mut converge = AutoConverge {
            initial: 99,
            increment: 99,
            max: 99,
            ..AutoConverge::default()
        };
        walk(&mut converge, &[high, step(99), high, high]);
    }
}
