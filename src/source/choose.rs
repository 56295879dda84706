//! The policy: how the pages of a batch travel. The mechanism is in each wire's encoder.

use crate::caps::{Capability, Caps};
use crate::params::Params;
use crate::round::RoundMark;

use super::job::{Job, SendState};

/// How the pages of a batch travel that are not zero.
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
pub(super) struct Conditions {
    pub(super) mark: RoundMark,
    pub(super) caps: Caps,
    /// Parameter `delta-compress`.
    pub(super) delta_compress: bool,
    /// Whether rounds may follow the first. If not, filling the cache would be a waste of memory.
    pub(super) later_rounds: bool,
    /// Whether no compressor was free and `compress-wait-thread` is off.
    pub(super) busy: bool,
}

impl Conditions {
    pub(super) fn of(job: &Job, state: &SendState<'_>, params: &Params, busy: bool) -> Conditions {
        Conditions {
            mark: job.mark,
            caps: state.caps,
            delta_compress: params.delta_compress,
            later_rounds: state.later_rounds,
            busy,
        }
    }

    /// Only pages that the destination already has can be sent as deltas.
    fn delta(self) -> bool {
        self.caps.has(Capability::Xbzrle) && self.mark.baseline.is_known()
    }

    /// If no compressor is free only compression is left out, because deltas cost next to nothing.
    fn compress(self) -> bool {
        self.caps.has(Capability::Compress) && !self.busy
    }
}

/// For a wire whose batches have one body, which is compressed after the deltas are made.
///
/// Compression alone works in the bulk stage; then deltas take over, and their batches are
/// compressed as well unless that is switched off. Without XBZRLE every round is compressed.
pub(super) fn plan_batch(now: Conditions) -> Plan {
    let delta = now.delta();
    Plan {
        delta,
        compress: now.compress() && (!delta || now.delta_compress),
        remember: now.caps.has(Capability::Xbzrle) && now.later_rounds,
    }
}

/// For a wire on which each page is a record. QEMU's rule: a page is compressed or a delta but
/// never both, the bulk stage leaves the cache empty, and the last round adds nothing to it.
pub(super) fn plan_records(now: Conditions) -> Plan {
    let delta = now.delta();
    Plan {
        delta,
        compress: now.compress() && !delta,
        remember: delta && !now.mark.last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::{Baseline, Round};

    fn mark(round: u32, last: bool) -> RoundMark {
        let round = Round(round);
        RoundMark {
            round,
            baseline: Baseline::Fresh.before(round),
            last,
        }
    }

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
            ((true, true, 2, true, true), (true, false)),
        ];
        for ((compress, xbzrle, round, delta_compress, busy), expected) in table {
            let mut caps = Caps::default();
            caps.set("compress", compress).unwrap();
            caps.set("xbzrle", xbzrle).unwrap();
            let plan = plan_batch(Conditions {
                mark: mark(round, false),
                caps,
                delta_compress,
                later_rounds: true,
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
        let now = Conditions {
            mark: RoundMark::first(true),
            caps: Caps::default(),
            delta_compress: true,
            later_rounds: false,
            busy: false,
        };
        assert!(!plan_batch(now).remember);
    }

    /// What QEMU does: records are compressed or deltas, and the bulk stage remembers nothing.
    #[test]
    fn records_keep_to_the_rule_of_qemu() {
        // (compress, xbzrle, round, last) -> (delta, compress, remember)
        let table = [
            ((true, true, 1, false), (false, true, false)),
            ((true, true, 2, false), (true, false, true)),
            ((true, true, 3, true), (true, false, false)),
            ((true, false, 2, true), (false, true, false)),
            ((false, true, 1, false), (false, false, false)),
            ((false, true, 2, false), (true, false, true)),
            ((false, false, 2, false), (false, false, false)),
        ];
        for ((compress, xbzrle, round, last), expected) in table {
            let mut caps = Caps::default();
            caps.set("compress", compress).unwrap();
            caps.set("xbzrle", xbzrle).unwrap();
            let plan = plan_records(Conditions {
                mark: mark(round, last),
                caps,
                delta_compress: true,
                later_rounds: true,
                busy: false,
            });
            let found = (plan.delta, plan.compress, plan.remember);
            assert_eq!(found, expected, "{compress} {xbzrle} {round} {last}");
        }
    }
}
