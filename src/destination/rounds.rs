//! Keeps rounds apart: nothing of the next is placed before all of this one is.

use std::sync::{Condvar, Mutex};

use crate::round::Round;
use crate::sync;

#[derive(Debug)]
struct State {
    round: Round,
    /// Connections that have read this round's end.
    arrived: usize,
    /// Frames that were read and are not yet placed.
    in_flight: usize,
    /// What the first connection at the round's end said: whether it was the last round.
    last: Option<bool>,
    failed: bool,
}

/// The barrier at a round's end, for the connections' readers and the decoders.
#[derive(Debug)]
pub(super) struct Rounds {
    connections: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// Why a round cannot end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stuck {
    /// The session has failed elsewhere; whoever hears this has nothing to add.
    Failed,
    /// The connections disagree about whether this is the last round.
    Disagreement,
}

impl Rounds {
    pub(super) fn new(connections: usize) -> Rounds {
        Rounds {
            connections,
            state: Mutex::new(State {
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
    pub(super) fn current(&self) -> Round {
        sync::lock(&self.state).round
    }

    /// A frame of this round was read.
    pub(super) fn enter(&self) {
        sync::lock(&self.state).in_flight += 1;
    }

    /// A frame is placed.
    pub(super) fn leave(&self) {
        let mut state = sync::lock(&self.state);
        state.in_flight -= 1;
        if state.in_flight == 0 {
            self.changed.notify_all();
        }
    }

    /// It is over; nobody needs to wait any longer.
    pub(super) fn fail(&self) {
        sync::lock(&self.state).failed = true;
        self.changed.notify_all();
    }

    /// A connection's reader has read the round's end: waits for the others and for the decoders.
    /// Whoever comes last calls `close` before any other goes on.
    pub(super) fn end(&self, last: bool, close: impl FnOnce()) -> Result<(), Stuck> {
        let mut state = sync::lock(&self.state);
        let round = state.round;
        if *state.last.get_or_insert(last) != last {
            return Err(Stuck::Disagreement);
        }
        state.arrived += 1;
        self.changed.notify_all();
        loop {
            if state.failed {
                return Err(Stuck::Failed);
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
    fn nobody_passes_before_all_have_arrived_and_all_frames_are_placed() {
        let rounds = Rounds::new(3);
        let closed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 1..=100 {
                        assert_eq!(rounds.current(), Round(round));
                        for _ in 0..10 {
                            rounds.enter();
                            scope.spawn(|| rounds.leave());
                        }
                        rounds
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
    fn a_failure_releases_whoever_waits() {
        let rounds = Rounds::new(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| rounds.end(false, || {}));
            rounds.fail();
            assert_eq!(waiting.join().unwrap(), Err(Stuck::Failed));
        });
    }
}
