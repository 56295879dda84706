//! Rounds: their numbers, their order, and what the destination holds when one begins.

use std::fmt;

/// The number of a round, from 1. A round is one walk over the dirty pages; every page is dirty in
/// the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Round(pub u32);

impl Round {
    /// The first round, the bulk stage.
    pub const FIRST: Round = Round(1);

    /// Whether no round comes before this one.
    pub fn is_first(self) -> bool {
        self == Round::FIRST
    }

    /// The round after this one.
    pub fn next(self) -> Round {
        Round(self.0 + 1)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What the destination holds when a round begins.
///
/// Four things depend on it rather than on the round's number: whether there is anything that a
/// delta could differ from, whether the source's delta cache can hold a stale page, whether a zero
/// page must be cleared at the destination, and whether what it holds can be proven early. So a
/// migration onto an older copy of the guest needs another baseline and no other code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Baseline {
    /// Zeros: the output is new.
    Fresh,
    /// Pages of which both ends know the hashes.
    Known,
}

impl Baseline {
    /// What the destination holds before `round` if it holds `self` before the first: from the
    /// second round on, what was sent.
    pub fn before(self, round: Round) -> Baseline {
        if round.is_first() {
            self
        } else {
            Baseline::Known
        }
    }

    /// Whether there are older pages that a page may differ from.
    pub fn is_known(self) -> bool {
        self == Baseline::Known
    }
}

/// A round in its place among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoundMark {
    /// The round's number.
    pub round: Round,
    /// What the destination holds before it.
    pub baseline: Baseline,
    /// Whether no round comes after it.
    pub last: bool,
}

impl RoundMark {
    /// The first round onto a new output.
    pub fn first(last: bool) -> RoundMark {
        RoundMark {
            round: Round::FIRST,
            baseline: Baseline::Fresh,
            last,
        }
    }

    /// The round after this one.
    #[must_use]
    pub fn next(self, last: bool) -> RoundMark {
        let round = self.round.next();
        RoundMark {
            round,
            baseline: self.baseline.before(round),
            last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_the_baseline_of_every_later_round() {
        let first = RoundMark::first(false);
        assert_eq!((first.round, first.baseline), (Round(1), Baseline::Fresh));
        let second = first.next(true);
        assert_eq!((second.round, second.baseline), (Round(2), Baseline::Known));
        assert!(second.last);
        let onto_a_copy = Baseline::Known;
        assert!(onto_a_copy.before(Round::FIRST).is_known());
    }
}
