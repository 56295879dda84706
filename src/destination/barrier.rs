//! Keeps rounds apart: nothing of the next is placed before all of this one is.
//!
//! A page may occur in both, on different connections and with different decoders; without the
//! barrier the older copy could be placed last.

use crate::round::Round;
use crate::sync::{self, Condvar, Mutex};

#[derive(Debug)]
struct RoundState {
    round: Round,
    /// Connections that have read this round's end.
    arrived: usize,
    /// Pieces of work that were read and are not yet placed.
    in_flight: usize,
    /// Whether it was the last round, according to the first connection at its end.
    last: Option<bool>,
    failed: bool,
}

/// The barrier at a round's end, for the connections' readers and the decoders.
#[derive(Debug)]
pub(super) struct Barrier {
    connections: usize,
    state: Mutex<RoundState>,
    changed: Condvar,
}

/// Why a round does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotEnded {
    /// The session has failed elsewhere, where the reason is kept.
    Failed,
    /// The connections disagree about whether this is the last round.
    Disagreement,
}

impl Barrier {
    pub(super) fn new(connections: usize) -> Barrier {
        Barrier {
            connections,
            state: Mutex::new(RoundState {
                round: Round::FIRST,
                arrived: 0,
                in_flight: 0,
                last: None,
                failed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// The round in hand.
    pub(super) fn round(&self) -> Round {
        sync::lock(&self.state).round
    }

    /// A piece of this round's work was read.
    pub(super) fn enter(&self) {
        sync::lock(&self.state).in_flight += 1;
    }

    /// A piece of work is placed.
    pub(super) fn leave(&self) {
        let mut state = sync::lock(&self.state);
        state.in_flight -= 1;
        if state.in_flight == 0 {
            self.changed.notify_all();
        }
    }

    /// The session is over: every wait ends.
    pub(super) fn fail(&self) {
        sync::lock(&self.state).failed = true;
        self.changed.notify_all();
    }

    /// Waits until all that was read is placed, or the session is over.
    pub(super) fn settle(&self) {
        let mut state = sync::lock(&self.state);
        while state.in_flight > 0 && !state.failed {
            state = sync::ignore_poison(self.changed.wait(state));
        }
    }

    /// A connection's reader has read the round's end: waits for the others and for the decoders.
    /// The last to come calls `close` before any other goes on. `close` must not call the barrier,
    /// which is locked meanwhile.
    pub(super) fn end(&self, last: bool, close: impl FnOnce()) -> Result<(), NotEnded> {
        let mut state = sync::lock(&self.state);
        let round = state.round;
        if *state.last.get_or_insert(last) != last {
            return Err(NotEnded::Disagreement);
        }
        state.arrived += 1;
        self.changed.notify_all();
        loop {
            if state.failed {
                return Err(NotEnded::Failed);
            }
            if state.round != round {
                return Ok(());
            }
            if state.arrived == self.connections && state.in_flight == 0 {
                close();
                state.arrived = 0;
                state.last = None;
                state.round = round.next();
                self.changed.notify_all();
                return Ok(());
            }
            state = sync::ignore_poison(self.changed.wait(state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_reader_passes_before_all_have_arrived_and_all_work_is_placed() {
        let barrier = Barrier::new(3);
        let closed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 1..=100 {
                        assert_eq!(barrier.round(), Round(round));
                        for _ in 0..10 {
                            barrier.enter();
                            scope.spawn(|| barrier.leave());
                        }
                        barrier
                            .end(false, || {
                                closed.fetch_add(1, Ordering::Relaxed);
                            })
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(closed.into_inner(), 100);
    }

    #[test]
    fn settling_waits_for_all_work_or_the_first_failure() {
        let barrier = Barrier::new(1);
        barrier.settle();
        std::thread::scope(|scope| {
            for _ in 0..10 {
                barrier.enter();
            }
            let settled = scope.spawn(|| barrier.settle());
            assert!(!settled.is_finished());
            for _ in 0..10 {
                barrier.leave();
            }
            settled.join().unwrap();
            barrier.enter();
            let settled = scope.spawn(|| barrier.settle());
            barrier.fail();
            settled.join().unwrap();
        });
    }

    #[test]
    fn a_failure_releases_all_who_wait() {
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| barrier.end(false, || {}));
            barrier.fail();
            assert_eq!(waiting.join().unwrap(), Err(NotEnded::Failed));
        });
    }
}
