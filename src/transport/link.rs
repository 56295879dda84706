//! An emulated link, for tests and benchmarks: `--link RATE[/DELAY]`.
//!
//! Without a relay and without rights, in the process itself, so that each end does a part:
//!
//! * What an end **writes** is paced to RATE. All connections of the session share it, as they
//!   would share a wire, and take turns of a millisecond. The two directions do not slow each other.
//! * What an end **reads** it gets DELAY after it has arrived. A thread takes bytes off the
//!   descriptor as they come and notes when (`link/incoming.rs`), so that the delay costs no rate.
//!
//! With both ends emulating, source to destination is RATE and DELAY, the way back too, and a round
//! trip takes two DELAYs. With only one end, its writes are paced and its reads are late, nothing
//! else: a source with `--link 1Gbit/20ms` alone sends at 1 Gbit/s and hears answers 20 ms late.
//! A destination begins when it has answered all hellos, so the greeting takes one DELAY for each
//! connection. Last words of a session that failed are not paced.
//!
//! Pacing follows a schedule of absolute times, not a sleep for each write: who wakes late finds the
//! link free since when it should have been awake, and catches up. An idle link saves up
//! 5 ms, and up to 50 ms of oversleeping are made up for; beyond that no
//! more is written than RATE allows, and over 300 ms or more that is within 3 %. Below RATE it stays
//! only if there is not enough to send, or if the machine cannot carry so much.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::abort::Woken;
use super::{Abort, TransportError};
use crate::params::LinkSpec;
use crate::sync;

mod incoming;

pub(super) use incoming::Incoming;

/// Writes are cut to what the link carries in this time, or to [`FRAME`] if that is more.
const SLICE: Duration = Duration::from_millis(1);
/// What a slow link carries at once, as Ethernet would; but no longer than [`LONGEST_SLICE`].
const FRAME: u64 = 1500;
/// However slow the link, the peer sees it move.
const LONGEST_SLICE: Duration = Duration::from_millis(10);
/// What an idle link saves up, as the buffers on a real one's way would: neither the way from one
/// write to the next nor a thread that has to wait for a core costs rate.
const SLACK: Duration = Duration::from_millis(5);
/// How much oversleeping is made up for.
const CATCH_UP: Duration = Duration::from_millis(50);
/// Waits shorter than this are left out: sleeping takes longer. The schedule keeps count of them.
const SHORTEST_WAIT: Duration = Duration::from_micros(100);

/// A link that all connections of a session share.
#[derive(Debug)]
pub struct EmulatedLink {
    spec: LinkSpec,
    schedule: Mutex<Schedule>,
}

impl EmulatedLink {
    /// An idle link.
    pub fn new(spec: LinkSpec) -> EmulatedLink {
        EmulatedLink {
            spec,
            schedule: Mutex::new(Schedule::new(spec, Instant::now())),
        }
    }

    /// How long bytes are under way.
    pub(super) fn delay(&self) -> Duration {
        self.spec.delay()
    }

    /// How many bytes may be under way, with room for a reader that is not there at once.
    pub(super) fn window(&self) -> usize {
        let time = self.spec.delay() * 2 + Duration::from_millis(5);
        usize::try_from(self.spec.bytes_in(time)).unwrap_or(usize::MAX) + (64 << 10)
    }

    /// The most that is written at once.
    pub(super) fn slice(&self) -> usize {
        let least = self.spec.bytes_in(LONGEST_SLICE).clamp(1, FRAME);
        usize::try_from(self.spec.bytes_in(SLICE).max(least)).unwrap_or(usize::MAX)
    }

    /// Takes the link for `bytes` and waits until it is free for them.
    pub(super) fn wait_for_turn(&self, bytes: usize, abort: &Abort) -> Result<(), TransportError> {
        let now = Instant::now();
        let turn = self.schedule().reserve(bytes as u64, now);
        let wait = turn.saturating_duration_since(now);
        if wait < SHORTEST_WAIT {
            self.schedule().begun(turn, now, false);
            return Ok(());
        }
        match abort.wait(wait).map_err(TransportError::Link)? {
            Woken::Aborted => Err(TransportError::Aborted),
            Woken::Ready | Woken::TimedOut => {
                self.schedule().begun(turn, Instant::now(), true);
                Ok(())
            }
        }
    }

    fn schedule(&self) -> std::sync::MutexGuard<'_, Schedule> {
        sync::lock(&self.schedule)
    }
}

/// When the link is free for whom. Knows no clock.
#[derive(Debug)]
struct Schedule {
    spec: LinkSpec,
    /// When everything that was reserved is through.
    free_at: Instant,
    /// By how much the writers are behind the schedule because they slept too long. Time lost in
    /// other ways, by a source without data or a peer that takes none, is lost on a link, too.
    late: Duration,
}

impl Schedule {
    fn new(spec: LinkSpec, now: Instant) -> Schedule {
        Schedule {
            spec,
            free_at: now,
            late: Duration::ZERO,
        }
    }

    /// Takes the link for `bytes` and returns from when on: a time that may be over.
    fn reserve(&mut self, bytes: u64, now: Instant) -> Instant {
        let behind = now.saturating_duration_since(self.free_at);
        if behind > self.late + SLACK {
            // It has been idle, so nothing is left to be caught up with.
            self.late = Duration::ZERO;
            self.free_at = now.checked_sub(SLACK).unwrap_or(now);
        }
        let turn = self.free_at;
        self.free_at = turn + self.spec.time_for(bytes);
        turn
    }

    /// The write whose turn is or was at `turn` begins now, after a wait or without one.
    fn begun(&mut self, turn: Instant, now: Instant, waited: bool) {
        let late = now.saturating_duration_since(turn).min(CATCH_UP);
        self.late = if waited { late } else { self.late.min(late) };
    }
}

#[cfg(test)]
mod tests;
