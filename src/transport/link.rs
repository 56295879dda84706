//! An emulated link, for tests and benchmarks: `--link RATE[/DELAY]`.
//!
//! It works within the process, needs neither a relay nor privileges, and each end does a part:
//!
//! * **Writes** are paced to RATE. All connections of the session share it, as they would share a
//!   cable, and take turns of a millisecond. The two directions do not slow each other.
//! * **Reads** return bytes DELAY after they arrived. A thread takes bytes off the descriptor as they
//!   come and notes the time (`link/incoming.rs`), so that the delay costs no rate.
//!
//! If both ends emulate, each direction has RATE and DELAY, and a round trip takes two DELAYs. If
//! only one does, only its writes are paced and only its reads are late: a source with `--link
//! 1Gbit/20ms` alone sends at 1 Gbit/s and gets answers 20 ms late. A destination starts to emulate
//! after it has answered all hellos, so the greeting takes one DELAY for each connection. The last
//! message of a session that failed is not paced.
//!
//! Pacing follows a schedule of absolute times rather than one sleep for each write: a thread that
//! wakes late finds the link free since the time at which it should have woken, and catches up. An
//! idle link saves up 5 ms, and up to 50 ms of oversleeping are made up for; beyond that no more is
//! written than RATE allows. Measured over 300 ms or more, the rate is within 3 %. It is lower only if
//! there is not enough to send, or if the machine is too slow for RATE.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::abort::{Abort, Woken};
use super::error::TransportError;
use crate::params::LinkSpec;
use crate::sync;

mod incoming;

pub(super) use incoming::Incoming;

/// Writes are cut to what the link carries in this time, or to [`FRAME`] if that is more.
const SLICE: Duration = Duration::from_millis(1);
/// What a slow link carries at once, as Ethernet would; but no longer than [`LONGEST_SLICE`].
const FRAME: u64 = 1500;
/// However slow the link is, the peer must see progress.
const LONGEST_SLICE: Duration = Duration::from_millis(10);
/// What an idle link saves up, as a real one's buffers would: neither the time between two writes
/// nor a thread's wait for a core costs rate.
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

    /// Reserves the link for `bytes`, and waits for its turn.
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

/// When the link is free, and for how many bytes. It has no clock of its own.
#[derive(Debug)]
struct Schedule {
    spec: LinkSpec,
    /// When everything that was reserved has been carried.
    free_at: Instant,
    /// How late the writers are because they slept too long. Time lost for any other reason (a source
    /// without data, a peer that takes none) is lost on a real link, too.
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

    /// Reserves the link for `bytes`, and returns from when on: a time that may have passed.
    fn reserve(&mut self, bytes: u64, now: Instant) -> Instant {
        let idle = now.saturating_duration_since(self.free_at);
        if idle > self.late + SLACK {
            // Truly idle, so there is nothing left to catch up with.
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
