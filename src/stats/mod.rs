//! Counters: written by the data path, read by everyone else as a [`Snapshot`].
//!
//! A worker counts in a [`Tally`] of its own for the batch in hand; the batch carries it along, and
//! it is added to the whole only when the batch is done. So counters are exact and nobody waits
//! for a lock while there is work.

mod event;
mod rate;
mod report;

pub(crate) use event::Teller;
pub use event::{Event, Observer};
pub use report::{Report, RoundReport};

use std::ops::AddAssign;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::Serialize;

use rate::WireRate;

use crate::page::Digest;
use crate::round::Round;
use crate::sync;

/// The parts of the work whose CPU time is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Finding out what to send.
    Scan,
    /// Copying pages out of the image and looking for zeroes.
    Read,
    /// Hashing pages.
    Hash,
    /// XBZRLE, with its cache.
    Delta,
    /// Compressing or decompressing.
    Codec,
    /// Writing to or reading from the link.
    Socket,
    /// Putting pages in their place.
    Place,
    /// Reading back and hashing what arrived.
    Proof,
}

names!(Stage {
    Scan: "scan",
    Read: "read",
    Hash: "hash",
    Delta: "delta",
    Codec: "codec",
    Socket: "socket",
    Place: "place",
    Proof: "proof"
});

/// CPU time by stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageTimes([Duration; Stage::ALL.len()]);

impl StageTimes {
    /// The time of one stage.
    pub fn get(&self, stage: Stage) -> Duration {
        self.0[stage as usize]
    }

    /// Adds to a stage's time.
    pub fn add(&mut self, stage: Stage, time: Duration) {
        self.0[stage as usize] += time;
    }

    /// The time of all stages.
    pub fn sum(&self) -> Duration {
        self.0.iter().sum()
    }
}

impl AddAssign for StageTimes {
    fn add_assign(&mut self, other: StageTimes) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own += other;
        }
    }
}

/// Cuts a thread's CPU time into stages.
#[derive(Debug)]
pub(crate) struct StageClock(Duration);

impl StageClock {
    pub(crate) fn start() -> StageClock {
        StageClock(crate::sys::thread_cpu_time())
    }

    /// Gives the time since the last cut to `stage`.
    pub(crate) fn cut(&mut self, times: &mut StageTimes, stage: Stage) {
        let now = crate::sys::thread_cpu_time();
        times.add(stage, now.saturating_sub(self.0));
        self.0 = now;
    }
}

/// What was done for one batch, or for many. Pages unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Zero pages.
    pub zero: u64,
    /// Pages that went whole and compressed.
    pub compressed: u64,
    /// Pages that went as deltas.
    pub delta: u64,
    /// Pages that went whole as they are.
    pub plain: u64,
    /// Pages that were dirty but turned out to be as they had been sent.
    pub unchanged: u64,
    /// Pages that went plain because no compressor was free.
    pub busy: u64,
    /// Bytes of compressed bodies.
    pub compressed_bytes: u64,
    /// Bytes that went into compressed bodies.
    pub compressed_input: u64,
    /// Bytes of deltas before compression.
    pub delta_bytes: u64,
    /// Pages that were not in the delta cache.
    pub cache_miss: u64,
    /// Pages whose delta would have been longer than a page.
    pub overflow: u64,
    /// Frames with pages.
    pub frames: u64,
    /// The change of the digest's sum.
    pub hashes: u128,
    /// CPU time.
    pub cpu: StageTimes,
}

impl Tally {
    /// Pages that were handled, of every kind.
    pub fn pages(&self) -> u64 {
        self.zero + self.compressed + self.delta + self.plain + self.unchanged
    }

    /// Pages that stand in page sets.
    pub fn pages_on_the_wire(&self) -> u64 {
        self.pages() - self.unchanged
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.zero += other.zero;
        self.compressed += other.compressed;
        self.delta += other.delta;
        self.plain += other.plain;
        self.unchanged += other.unchanged;
        self.busy += other.busy;
        self.compressed_bytes += other.compressed_bytes;
        self.compressed_input += other.compressed_input;
        self.delta_bytes += other.delta_bytes;
        self.cache_miss += other.cache_miss;
        self.overflow += other.overflow;
        self.frames += other.frames;
        self.hashes = self.hashes.wrapping_add(other.hashes);
        self.cpu += other.cpu;
    }
}

/// How far a migration is, in QEMU's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Not started.
    #[default]
    None,
    /// Connecting and agreeing.
    Setup,
    /// Rounds are under way.
    Active,
    /// The writer stands still; what is left is sent when somebody says so.
    PreSwitchover,
    /// Everything is sent; the destination proves and commits.
    Device,
    /// Done.
    Completed,
    /// It did not work.
    Failed,
    /// It is being cancelled.
    Cancelling,
    /// It was cancelled.
    Cancelled,
}

names!(Status {
    None: "none",
    Setup: "setup",
    Active: "active",
    PreSwitchover: "pre-switchover",
    Device: "device",
    Completed: "completed",
    Failed: "failed",
    Cancelling: "cancelling",
    Cancelled: "cancelled"
});

impl Status {
    /// Whether there is a migration that goes on.
    pub fn is_running(self) -> bool {
        match self {
            Status::Setup
            | Status::Active
            | Status::PreSwitchover
            | Status::Device
            | Status::Cancelling => true,
            Status::None | Status::Completed | Status::Failed | Status::Cancelled => false,
        }
    }
}

/// One round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoundStats {
    /// Its number.
    pub round: Round,
    /// What was done.
    pub tally: Tally,
    /// Bytes written on all connections.
    pub wire_bytes: u64,
    /// How long it took, finding out what to send included.
    pub time: Duration,
}

/// What a live migration's last scan told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LiveStats {
    /// The round before the scan.
    pub round: u32,
    /// How long the writer would stand still if it were stopped now; unknown before the link is.
    pub expected_downtime: Option<Duration>,
    /// Pages a second that become dirty.
    pub dirty_pages_rate: u64,
    /// How much the writer is slowed down, in percent.
    pub cpu_throttle_percentage: u8,
}

/// Everything that is known at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// How far it is.
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
    /// The round in hand, from 1; 0 before the first.
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
    /// Bytes a second on the wire: now, while it runs; on average, once it is over.
    pub wire_rate: f64,
    /// Bytes from destination to source.
    pub return_bytes: u64,
    /// The digest, once known.
    pub digest: Option<Digest>,
    /// What is known of a writer, in a live migration.
    pub live: Option<LiveStats>,
    /// Whether a writer stays stopped because the destination has, or may have, taken over.
    pub let_go: bool,
    /// What somebody should know who looks at the outcome, a line each.
    pub notices: Vec<String>,
    /// What was asked for and left out, as the destination lacks it: methods and capabilities.
    pub dropped: Vec<&'static str>,
    /// Why it did not work, in a line.
    pub error: Option<String>,
    /// The CPU time of what belongs to no batch.
    pub cpu: StageTimes,
    /// What the guest's memory is sent through, at the source.
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

#[derive(Debug)]
struct Inner {
    snapshot: Snapshot,
    started: Instant,
    round_started: Instant,
    round_wire: u64,
    rate: WireRate,
    /// When the writer was told to stop.
    stopping: Option<Instant>,
    ended: Option<Instant>,
}

/// The counters of one migration, at one end.
#[derive(Debug)]
pub struct Stats {
    inner: Mutex<Inner>,
    observed: Teller,
}

impl Default for Stats {
    fn default() -> Stats {
        let now = Instant::now();
        Stats {
            inner: Mutex::new(Inner {
                snapshot: Snapshot::default(),
                started: now,
                round_started: now,
                round_wire: 0,
                rate: WireRate::new(now),
                stopping: None,
                ended: None,
            }),
            observed: Teller::default(),
        }
    }
}

impl Stats {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        sync::lock(&self.inner)
    }

    /// Has `observer` told of every event; to be called before the start, and once.
    pub(crate) fn observe(&self, observer: Observer) {
        self.observed.set(observer);
    }

    /// For events that are not the counters' own.
    pub(crate) fn teller(&self) -> Teller {
        self.observed.clone()
    }

    /// Told while the counters are locked: events are heard in the order in which they happened.
    fn enter(&self, inner: &mut Inner, status: Status) {
        if inner.snapshot.status != status {
            inner.snapshot.status = status;
            self.observed.tell(Event::Migration(status));
        }
    }

    /// The clock starts.
    pub(crate) fn start(&self) {
        let mut inner = self.lock();
        inner.started = Instant::now();
        inner.rate = WireRate::new(inner.started);
        self.enter(&mut inner, Status::Setup);
    }

    /// What will be moved is known.
    pub(crate) fn ram(&self, bytes: u64, connections: u16) {
        let mut inner = self.lock();
        inner.snapshot.ram_bytes = bytes;
        inner.snapshot.connections = connections;
    }

    /// A round begins; how much there is to do may not be known yet.
    pub(crate) fn begin_round(&self, round: Round, wire_bytes: u64) {
        let mut inner = self.lock();
        let now = Instant::now();
        self.observed.tell(Event::Pass(round.0));
        if round.is_first() {
            inner.snapshot.setup_time = now - inner.started;
        }
        inner.round_started = now;
        inner.round_wire = wire_bytes;
        inner.snapshot.round = round.0;
        inner.snapshot.round_pages = 0;
        inner.snapshot.current = Tally::default();
    }

    /// How many pages this round is about.
    pub(crate) fn round_pages(&self, pages: u64) {
        self.lock().snapshot.round_pages = pages;
    }

    /// A batch is done.
    pub(crate) fn add(&self, tally: &Tally) {
        let mut inner = self.lock();
        inner.snapshot.current += *tally;
        inner.snapshot.total += *tally;
    }

    /// CPU time that belongs to no batch.
    pub(crate) fn add_cpu(&self, stage: Stage, time: Duration) {
        self.lock().snapshot.cpu.add(stage, time);
    }

    /// The bytes on the links so far.
    pub(crate) fn bytes(&self, wire: u64, back: u64) {
        let mut inner = self.lock();
        // Told by several threads, of which one may have looked long before it tells.
        let wire = wire.max(inner.snapshot.wire_bytes);
        inner.snapshot.wire_bytes = wire;
        inner.snapshot.return_bytes = back.max(inner.snapshot.return_bytes);
        inner.rate.at(wire, Instant::now());
    }

    /// The round in hand is over.
    pub(crate) fn end_round(&self, wire_bytes: u64) {
        let mut inner = self.lock();
        let round = RoundStats {
            round: Round(inner.snapshot.round),
            tally: inner.snapshot.current,
            wire_bytes: wire_bytes.saturating_sub(inner.round_wire),
            time: inner.round_started.elapsed(),
        };
        inner.snapshot.rounds.push(round);
    }

    /// The writer is being told to stop: the downtime begins.
    pub(crate) fn stopping(&self) {
        self.lock().stopping = Some(Instant::now());
    }

    /// The destination takes over, and the writer is not resumed any more.
    pub(crate) fn let_go(&self) {
        self.lock().snapshot.let_go = true;
    }

    /// What a scan told about the writer.
    pub(crate) fn live(&self, live: LiveStats) {
        self.lock().snapshot.live = Some(live);
    }

    /// Something that whoever looks at the outcome should know.
    pub(crate) fn notice(&self, line: String) {
        self.lock().snapshot.notices.push(line);
    }

    /// Something that was asked for is left out.
    pub(crate) fn dropped(&self, name: &'static str) {
        self.lock().snapshot.dropped.push(name);
    }

    /// It is to end as soon as possible.
    pub(crate) fn cancelling(&self) {
        self.status(Status::Cancelling);
    }

    /// What a migration that runs has come to; one that is being cancelled stays so until the end.
    pub(crate) fn status(&self, status: Status) {
        let mut inner = self.lock();
        if inner.snapshot.status.is_running() && inner.snapshot.status != Status::Cancelling {
            self.enter(&mut inner, status);
        }
    }

    /// Why it did not work, in a line.
    pub(crate) fn error(&self, line: String) {
        self.lock().snapshot.error = Some(line);
    }

    /// It arrived.
    pub(crate) fn proven(&self, digest: Digest) {
        let mut inner = self.lock();
        inner.snapshot.digest = Some(digest);
        // Without a writer to stop, a later snapshot stands for what the writer left.
        let later = (inner.snapshot.live.is_none() && inner.snapshot.round > 1)
            .then_some(inner.round_started);
        inner.snapshot.downtime = inner.stopping.or(later).map(|since| since.elapsed());
    }

    /// The clock stops, the first time that this is said.
    pub(crate) fn end(&self, status: Status) {
        let mut inner = self.lock();
        self.enter(&mut inner, status);
        inner.ended.get_or_insert_with(Instant::now);
    }

    /// The counters as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let mut inner = self.lock();
        let now = Instant::now();
        let bytes = inner.snapshot.wire_bytes;
        let elapsed = inner.ended.unwrap_or(now) - inner.started;
        let wire_rate = match inner.ended {
            None => inner.rate.at(bytes, now),
            Some(_) if elapsed.is_zero() => 0.0,
            Some(_) => bytes as f64 / elapsed.as_secs_f64(),
        };
        Snapshot {
            elapsed,
            wire_rate,
            ..inner.snapshot.clone()
        }
    }
}
