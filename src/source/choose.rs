//! The policy: how the pages of a batch travel. Mechanism is elsewhere.

use crate::caps::{Capability, Caps};
use crate::page::Round;

/// How the pages of a batch travel, those that are not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Whether pages are looked up in the cache and go as deltas.
    pub(super) delta: bool,
    /// Whether the body is compressed, if that makes it shorter.
    pub(super) compress: bool,
    /// Whether pages that go whole enter the cache.
    pub(super) remember: bool,
}

/// What a plan depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances<'a> {
    pub(super) round: Round,
    pub(super) caps: &'a Caps,
    /// Parameter `delta-compress`.
    pub(super) delta_compress: bool,
    /// Whether a later round may come: a cache for nothing is a waste of memory.
    pub(super) more_rounds: bool,
    /// Whether no compressor was free, and it was asked not to wait for one.
    pub(super) busy: bool,
}

/// Compression alone works in the bulk stage; then deltas take over, and their batches are
/// compressed as well unless that is switched off. Without XBZRLE every round is compressed.
pub(super) fn plan(now: Circumstances<'_>) -> Plan {
    let xbzrle = now.caps.has(Capability::Xbzrle);
    let delta = xbzrle && !now.round.is_bulk() && !now.busy;
    Plan {
        delta,
        compress: now.caps.has(Capability::Compress) && !now.busy && (!delta || now.delta_compress),
        remember: xbzrle && (now.more_rounds || !now.round.is_bulk()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_combination_of_capabilities_does_what_it_promises() {
        // (compress, xbzrle, round, delta-compress, busy) -> (delta, compress)
        let table = [
            ((true, true, 1, true, false), (false, true)),
            ((true, true, 2, true, false), (true, true)),
            ((true, true, 2, false, false), (true, false)),
            ((true, true, 1, false, false), (false, true)),
            ((true, false, 1, true, false), (false, true)),
            ((true, false, 2, false, false), (false, true)),
            ((false, true, 1, true, false), (false, false)),
            ((false, true, 2, true, false), (true, false)),
            ((false, false, 2, true, false), (false, false)),
            ((true, true, 1, true, true), (false, false)),
            ((true, true, 2, true, true), (false, false)),
        ];
        for ((compress, xbzrle, round, delta_compress, busy), expected) in table {
            let mut caps = Caps::default();
            caps.set("compress", compress).unwrap();
            caps.set("xbzrle", xbzrle).unwrap();
            let plan = plan(Circumstances {
                round: Round(round),
                caps: &caps,
                delta_compress,
                more_rounds: true,
                busy,
            });
            assert_eq!(
                (plan.delta, plan.compress),
                expected,
                "compress {compress}, xbzrle {xbzrle}, round {round}, busy {busy}"
            );
            assert_eq!(plan.remember, xbzrle);
        }
    }

    #[test]
    fn the_cache_stays_empty_when_no_later_round_can_come() {
        let now = Circumstances {
            round: Round::BULK,
            caps: &Caps::default(),
            delta_compress: true,
            more_rounds: false,
            busy: false,
        };
        assert!(!plan(now).remember);
    }
}
