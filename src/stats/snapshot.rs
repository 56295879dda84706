//! A migration's counters at one moment.

use std::time::Duration;

use super::{Owner, StageTimes, Status, Tally};
use crate::page::Digest;
use crate::round::Round;
use crate::wire::Format;
use crate::wire::qemu::MissingPages;

/// One round.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RoundStats {
    /// Its number.
    pub round: Round,
    /// What was done.
    pub tally: Tally,
    /// Bytes written on all connections.
    pub wire_bytes: u64,
    /// How long it took, including finding out what to send.
    pub time: Duration,
}

/// What the last scan of a live migration found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LiveStats {
    /// The round before the scan.
    pub round: u32,
    /// How long the writer would be paused if it were stopped now; unknown until the link's rate is.
    pub expected_downtime: Option<Duration>,
    /// Pages dirtied per second.
    pub dirty_pages_rate: u64,
    /// How much the writer is slowed down, in percent.
    pub cpu_throttle_percentage: u8,
}

/// A migration's counters at one moment.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The migration's state.
    pub status: Status,
    /// Since the start, until the end.
    pub elapsed: Duration,
    /// Until the first round began.
    pub setup_time: Duration,
    /// From stopping the writer to the proof; with later snapshots instead of a writer, from the
    /// last round's beginning.
    pub downtime: Option<Duration>,
    /// The guest's RAM in bytes.
    pub ram_bytes: u64,
    /// The current round, from 1; 0 before the first.
    pub round: u32,
    /// Pages to handle in this round.
    pub round_pages: u64,
    /// What was done in this round so far.
    pub current: Tally,
    /// What was done in all rounds so far.
    pub total: Tally,
    /// The rounds that are over.
    pub rounds: Vec<RoundStats>,
    /// Bytes from source to destination, on all connections.
    pub wire_bytes: u64,
    /// Bytes per second on the wire: the current rate while it runs, the average once it is over.
    pub wire_rate: f64,
    /// Bytes from destination to source.
    pub return_bytes: u64,
    /// The digest, once known.
    pub digest: Option<Digest>,
    /// What is known about the writer of a live migration.
    pub live: Option<LiveStats>,
    /// Whether a writer stays stopped because the destination has, or may have, taken over.
    pub let_go: bool,
    /// Which end may run the guest; `None` before the start, and at a source whose image cannot be opened
    /// or whose writer is not stopped.
    pub owner: Option<Owner>,
    /// What the user should know about the outcome, one line each.
    pub notices: Vec<String>,
    /// Those of them about who may run or write the guest, to be shown however little is to be shown.
    pub cautions: Vec<String>,
    /// Methods and capabilities that were requested and left out, because the destination lacks them.
    pub dropped: Vec<&'static str>,
    /// How long a destination waited for its disk at the end.
    pub sync_time: Option<Duration>,
    /// The wire that arrives, at a destination that has recognised it.
    pub wire_format: Option<Format>,
    /// Blocks of which the source left pages out, at a destination of QEMU's wire. Those pages are zero.
    pub missing_pages: Vec<MissingPages>,
    /// Why it failed, in a line.
    pub error: Option<String>,
    /// CPU time that belongs to no batch.
    pub cpu: StageTimes,
    /// The number of connections.
    pub connections: u16,
}

impl Snapshot {
    /// CPU time by stage, of everything.
    pub fn stage_times(&self) -> StageTimes {
        let mut times = self.cpu;
        times += self.total.cpu;
        times
    }

    /// Pages of this round that are still to be handled.
    pub fn round_remaining(&self) -> u64 {
        self.round_pages.saturating_sub(self.current.pages())
    }
}
