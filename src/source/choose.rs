//! The policy: how the pages of a batch travel. Mechanism is elsewhere.

use crate::caps::{Capability, Caps};
use crate::round::RoundMark;
use crate::wire::Format;

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
    pub(super) format: Format,
    pub(super) mark: RoundMark,
    pub(super) caps: &'a Caps,
    /// Parameter `delta-compress`.
    pub(super) delta_compress: bool,
    /// Whether a later round may come: a cache for nothing is a waste of memory.
    pub(super) more_rounds: bool,
    /// Whether no compressor was free, and it was asked not to wait for one.
    pub(super) busy: bool,
}

/// Compression alone works in the bulk stage; then deltas take over, and their batches are
/// compressed as well unless that is switched off. Without XBZRLE every round is compressed. With no
/// compressor free, only compression is left out: deltas cost next to nothing.
///
/// On the qemu wire QEMU's rule holds: a record is compressed or a delta but never both, the bulk
/// stage leaves the cache empty, and the last round adds nothing to it.
pub(super) fn plan(now: Circumstances<'_>) -> Plan {
    let xbzrle = now.caps.has(Capability::Xbzrle);
    let delta = xbzrle && now.mark.baseline.is_known();
    let compress = now.caps.has(Capability::Compress) && !now.busy;
    match now.format {
        Format::Native => Plan {
            delta,
            compress: compress && (!delta || now.delta_compress),
            remember: xbzrle && now.more_rounds,
        },
        Format::Qemu => Plan {
            delta,
            compress: compress && !delta,
            remember: delta && !now.mark.last,
        },
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
            let plan = plan(Circumstances {
                format: Format::Native,
                mark: mark(round, false),
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
            format: Format::Native,
            mark: RoundMark::first(true),
            caps: &Caps::default(),
            delta_compress: true,
            more_rounds: false,
            busy: false,
        };
        assert!(!plan(now).remember);
    }

    /// What QEMU does: records are compressed or deltas, and the bulk stage remembers nothing.
    #[test]
    fn the_qemu_wire_keeps_to_the_rule_of_qemu() {
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
            let plan = plan(Circumstances {
                format: Format::Qemu,
                mark: mark(round, last),
                caps: &caps,
                delta_compress: true,
                more_rounds: true,
                busy: false,
            });
            let found = (plan.delta, plan.compress, plan.remember);
            assert_eq!(found, expected, "{compress} {xbzrle} {round} {last}");
        }
    }
}
