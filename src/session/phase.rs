//! The phases of a migration, which both ends go through, and which end may run the guest in each.
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> Setup
//!     Setup --> Rounds: agreed
//!     Rounds --> Paused: pause-before-switchover (source only)
//!     Paused --> Switchover: migrate-continue
//!     Rounds --> Switchover: everything is sent
//!     Switchover --> Commit: proven, on a link with a way back
//!     Switchover --> Completed: a source without an answer (file, pipe)
//!     Commit --> Completed
//!     Commit --> Unknown: the answer is lost (source only)
//!     Commit --> Failed: the destination could not take over
//!     Setup --> Failed
//!     Rounds --> Failed
//!     Paused --> Failed
//!     Switchover --> Failed
//!     Setup --> Cancelled
//!     Rounds --> Cancelled
//!     Paused --> Cancelled
//!     Switchover --> Cancelled
//! ```
//!
//! At every instant at most one end may run the guest. Up to and including [`Phase::Switchover`]
//! that is the source. From [`Phase::Commit`] on the source must not run it again, so the migration
//! can no longer be cancelled; the destination may run it once it is [`Phase::Completed`]. The
//! source enters `Commit` before it writes the message of that name, the destination after it has
//! read it:
//!
//! ```mermaid
//! sequenceDiagram
//!     participant S as source
//!     participant D as destination
//!     S->>D: hello (on every connection)
//!     D->>S: answer
//!     Note over S,D: Rounds
//!     loop every round
//!         S->>D: Pages, Zeros
//!         S->>D: RoundEnd (on every connection)
//!     end
//!     Note over S: the writer of a live guest is stopped before the last round
//!     S->>D: Finish (digest)
//!     Note over S,D: Switchover
//!     D->>D: read back and hash the RAM
//!     D->>S: Proven (digest)
//!     Note over S: Commit: the writer stays stopped
//!     S->>D: Commit
//!     Note over D: Commit: rename the output
//!     D->>S: Committed
//!     Note over S,D: Completed
//! ```
//!
//! | what fails | the source ends as | the destination ends as | the guest runs at |
//! |---|---|---|---|
//! | anything before `Proven` is read | `Failed` | `Failed`; an older output is untouched | the source |
//! | `Proven` is lost | `Failed` | `Failed`, as no `Commit` comes | the source |
//! | the destination is cancelled before it sends `Proven` | `Failed` | `Cancelled` | the source |
//! | it is cancelled after that, and `Commit` comes | `Completed` | `Completed` | the destination |
//! | it is cancelled after that, and no `Commit` comes | `Failed` | `Cancelled` | the source |
//! | `Commit` is lost | `Unknown` | `Failed` | neither: resume the source by hand |
//! | the output cannot be renamed | `Failed`, as the destination says so | `Failed` | neither: resume the source by hand |
//! | the source is cancelled after it entered `Commit` | as if it were not | as if the source were not | the destination |
//! | its new name cannot be synced | `Completed` | `Completed`, with a note | the destination |
//! | `Committed` is lost | `Unknown` | `Completed` | the destination |
//! | the source is killed before its guard is released | (killed) | `Failed` | the source: the guard resumes its writer |
//! | the source is killed between that and `Commit` | (killed) | `Failed` | neither: resume the source by hand |
//! | the source is killed after `Commit` | (killed) | `Completed` | the destination |
//! | the destination is killed before it renames the output | `Failed`, or `Unknown` after `Commit` | (killed) | the source; by hand after `Commit` |
//! | the destination is killed after that | `Unknown`, or `Completed` | (killed) | the destination |
//!
//! The source cannot distinguish a lost `Commit` from a lost `Committed`, so both are `Unknown`.
//!
//! That the guest runs at neither end cannot be excluded, only made rare. Two things have to happen, one
//! here (nothing resumes the writer any more) and one there (`Commit` arrives), and no order makes
//! them one: a failure in between leaves the guest with neither end in the order that is used, and with
//! both ends in the other. Between the two is one system call. In each of these cases the writer is
//! stopped, whole and marked as handed over, and OUTPUT's name at the destination says which end is to
//! run it.
//!
//! [`Phase::owner`] is the same as `guest` in the reports, and docs/control.md has it for each exit code.
//! With a QEMU, the last byte of the stream takes the place of `Commit`, and shutting the return
//! path with 0 that of `Committed`.

use std::fmt;

use crate::error::{Error, Kind, Result};
use crate::stats::{Owner, Status};

/// How far a migration has come, at either end. [`Status`] is the same in QEMU's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Phase {
    /// Connecting and negotiating.
    #[default]
    Setup,
    /// Rounds of pages are under way.
    Rounds,
    /// Source only: it waits for `migrate-continue` before it switches over.
    Paused,
    /// The rest is sent and proven. The source is still in charge.
    Switchover,
    /// The destination takes over, or may have: the source is not in charge any more.
    Commit,
    /// The guest arrived.
    Completed,
    /// It did not arrive, and the destination does not run it.
    Failed,
    /// Cancelled while the source was in charge.
    Cancelled,
    /// Source only: the destination may or may not have taken over.
    Unknown,
}

/// A phase that cannot follow the one before, which is a bug in this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("internal error: a migration cannot go from {from} to {to}")]
pub(crate) struct IllegalTransition {
    /// The phase it is in.
    pub(crate) from: Phase,
    /// The phase it was to enter.
    pub(crate) to: Phase,
}

impl Phase {
    /// Every phase.
    #[cfg(test)]
    pub(crate) const ALL: [Phase; 9] = [
        Phase::Setup,
        Phase::Rounds,
        Phase::Paused,
        Phase::Switchover,
        Phase::Commit,
        Phase::Completed,
        Phase::Failed,
        Phase::Cancelled,
        Phase::Unknown,
    ];

    /// The phase `to`, if it may follow this one. To stay in a phase is always allowed.
    ///
    /// # Errors
    /// [`IllegalTransition`].
    pub(crate) fn to(self, to: Phase) -> Result<Phase, IllegalTransition> {
        if self == to || self.leads_to(to) {
            Ok(to)
        } else {
            Err(IllegalTransition { from: self, to })
        }
    }

    fn leads_to(self, to: Phase) -> bool {
        match to {
            Phase::Setup => false,
            Phase::Rounds => self == Phase::Setup,
            Phase::Paused => self == Phase::Rounds,
            Phase::Switchover => matches!(self, Phase::Rounds | Phase::Paused),
            Phase::Commit => self == Phase::Switchover,
            Phase::Completed => matches!(self, Phase::Switchover | Phase::Commit),
            Phase::Failed => !self.is_over(),
            Phase::Cancelled => self.source_is_in_charge(),
            Phase::Unknown => self == Phase::Commit,
        }
    }

    /// Whether only the source may run the guest, so that the migration can still be cancelled.
    pub(crate) fn source_is_in_charge(self) -> bool {
        matches!(
            self,
            Phase::Setup | Phase::Rounds | Phase::Paused | Phase::Switchover
        )
    }

    /// Whether nothing follows.
    pub(crate) fn is_over(self) -> bool {
        matches!(
            self,
            Phase::Completed | Phase::Failed | Phase::Cancelled | Phase::Unknown
        )
    }

    /// The phase in which `outcome` ends a migration that is in this one.
    pub(super) fn ended_by(self, outcome: &Result<()>) -> Phase {
        match outcome.as_ref().map_err(Error::kind) {
            Ok(()) => Phase::Completed,
            Err(Kind::OutcomeUnknown) => Phase::Unknown,
            Err(Kind::Interrupted) => Phase::Cancelled,
            Err(_) => Phase::Failed,
        }
    }

    /// Which end may run the guest. A migration that failed in [`Phase::Commit`] did so because the
    /// destination reported that it did not take over.
    pub(super) fn owner(self) -> Owner {
        match self {
            Phase::Setup
            | Phase::Rounds
            | Phase::Paused
            | Phase::Switchover
            | Phase::Failed
            | Phase::Cancelled => Owner::Source,
            Phase::Commit | Phase::Unknown => Owner::Unknown,
            Phase::Completed => Owner::Destination,
        }
    }

    /// The phase in QEMU's names, which have one for both halves of the commit protocol, and none
    /// for an unknown outcome.
    pub(crate) fn status(self) -> Status {
        match self {
            Phase::Setup => Status::Setup,
            Phase::Rounds => Status::Active,
            Phase::Paused => Status::PreSwitchover,
            Phase::Switchover | Phase::Commit => Status::Device,
            Phase::Completed => Status::Completed,
            Phase::Failed | Phase::Unknown => Status::Failed,
            Phase::Cancelled => Status::Cancelled,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Setup => "setup",
            Phase::Rounds => "rounds",
            Phase::Paused => "paused",
            Phase::Switchover => "switchover",
            Phase::Commit => "commit",
            Phase::Completed => "completed",
            Phase::Failed => "failed",
            Phase::Cancelled => "cancelled",
            Phase::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(phases: &[Phase]) -> Result<Phase, IllegalTransition> {
        phases
            .iter()
            .try_fold(Phase::Setup, |now, &next| now.to(next))
    }

    #[test]
    fn every_way_through_a_migration_is_allowed() {
        use Phase::*;
        for way in [
            &[Rounds, Switchover, Commit, Completed][..],
            &[Rounds, Paused, Switchover, Switchover, Commit, Completed],
            &[Rounds, Switchover, Completed],
            &[Rounds, Switchover, Commit, Unknown],
            &[Rounds, Switchover, Commit, Failed],
            &[Failed],
            &[Rounds, Cancelled],
        ] {
            assert_eq!(walk(way), Ok(way[way.len() - 1]), "{way:?}");
        }
    }

    #[test]
    fn a_source_that_let_go_is_never_in_charge_again() {
        let mut seen = vec![Phase::Commit];
        while let Some(from) = seen.pop() {
            for to in Phase::ALL {
                if from != to && from.to(to).is_ok() {
                    assert!(!to.source_is_in_charge(), "{from} to {to}");
                    assert_ne!(to, Phase::Cancelled, "{from} to {to}");
                    seen.push(to);
                }
            }
        }
    }

    #[test]
    fn an_illegal_transition_names_both_phases() {
        for (from, to) in [
            (Phase::Setup, Phase::Completed),
            (Phase::Setup, Phase::Switchover),
            (Phase::Rounds, Phase::Commit),
            (Phase::Paused, Phase::Rounds),
            (Phase::Switchover, Phase::Unknown),
            (Phase::Commit, Phase::Cancelled),
        ] {
            assert_eq!(from.to(to), Err(IllegalTransition { from, to }));
        }
        let error = Phase::Commit.to(Phase::Cancelled).unwrap_err();
        assert_eq!(
            error.to_string(),
            "internal error: a migration cannot go from commit to cancelled"
        );
    }

    #[test]
    fn what_is_over_stays_as_it_is() {
        for from in Phase::ALL.into_iter().filter(|phase| phase.is_over()) {
            for to in Phase::ALL {
                assert_eq!(from.to(to).is_ok(), from == to, "{from} to {to}");
            }
        }
    }
}
