//! Counters: written by the data path, read as a [`Snapshot`].
//!
//! A worker counts in a [`Tally`] of its own for the batch in hand; the batch carries it along, and
//! it is added to the whole only when the batch is done. So counters are exact, and no worker waits for
//! a lock while it compresses.

mod event;
mod rate;
mod report;
mod snapshot;
mod stage;
mod status;
mod tally;

pub(crate) use event::Notifier;
pub use event::{Event, Observer};
pub use report::{Report, RoundReport};
pub use snapshot::{LiveStats, RoundStats, Snapshot};
pub(crate) use stage::StageClock;
pub use stage::{Stage, StageTimes};
pub use status::{Owner, Status};
pub use tally::Tally;

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rate::WireRate;

use crate::page::Digest;
use crate::round::Round;
use crate::sync;
use crate::wire::Format;
use crate::wire::qemu::MissingPages;

#[derive(Debug)]
struct Counters {
    snapshot: Snapshot,
    started: Instant,
    round_started: Instant,
    round_wire: u64,
    rate: WireRate,
    /// When the writer was asked to stop.
    stopping: Option<Instant>,
    ended: Option<Instant>,
    /// Whether the owner does not follow from how far this migration comes.
    owner_is_set: bool,
}

/// The counters of one migration, at one end.
#[derive(Debug)]
pub struct Stats {
    inner: Mutex<Counters>,
    observed: Notifier,
}

impl Default for Stats {
    fn default() -> Stats {
        let now = Instant::now();
        Stats {
            inner: Mutex::new(Counters {
                snapshot: Snapshot::default(),
                started: now,
                round_started: now,
                round_wire: 0,
                rate: WireRate::new(now),
                stopping: None,
                ended: None,
                owner_is_set: false,
            }),
            observed: Notifier::default(),
        }
    }
}

impl Stats {
    fn lock(&self) -> MutexGuard<'_, Counters> {
        sync::lock(&self.inner)
    }

    /// Calls `observer` at every event. To be called once, before the start.
    pub(crate) fn observe(&self, observer: Observer) {
        self.observed.set(observer);
    }

    /// Reports events that are not the counters' own.
    pub(crate) fn notifier(&self) -> Notifier {
        self.observed.clone()
    }

    /// Reports it while the counters are locked, so that events arrive in the order in which they happened.
    fn enter(&self, inner: &mut Counters, status: Status) {
        if inner.snapshot.status != status {
            inner.snapshot.status = status;
            self.observed.notify(Event::Migration(status));
        }
    }

    /// The clock starts.
    pub(crate) fn start(&self) {
        let mut inner = self.lock();
        inner.started = Instant::now();
        inner.rate = WireRate::new(inner.started);
        inner.snapshot.owner = Some(Owner::Source);
        self.enter(&mut inner, Status::Setup);
    }

    /// The amount of RAM is known.
    pub(crate) fn ram(&self, bytes: u64, connections: u16) {
        let mut inner = self.lock();
        inner.snapshot.ram_bytes = bytes;
        inner.snapshot.connections = connections;
    }

    /// A round begins; how much there is to do may not be known yet.
    pub(crate) fn begin_round(&self, round: Round, wire_bytes: u64) {
        let mut inner = self.lock();
        let now = Instant::now();
        self.observed.notify(Event::Pass(round.0));
        if round.is_first() {
            inner.snapshot.setup_time = now - inner.started;
        }
        inner.round_started = now;
        inner.round_wire = wire_bytes;
        inner.snapshot.round = round.0;
        inner.snapshot.round_pages = 0;
        inner.snapshot.current = Tally::default();
    }

    /// How many pages this round has.
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
        // Several threads call this, and one may have read the number long before.
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

    /// The writer is asked to stop: the downtime begins.
    pub(crate) fn stopping(&self) {
        self.lock().stopping = Some(Instant::now());
    }

    /// The destination takes over, and the writer is not resumed any more.
    pub(crate) fn let_go(&self) {
        self.lock().snapshot.let_go = true;
    }

    /// Which end may run the guest from now on.
    pub(crate) fn owner(&self, owner: Owner) {
        let mut inner = self.lock();
        if !inner.owner_is_set {
            inner.snapshot.owner = Some(owner);
        }
    }

    /// Which end may run the guest whatever becomes of this migration. `None`: there is no guest, or its
    /// writer is not stopped, so that what arrives is a copy and nothing changes hands.
    pub(crate) fn set_owner(&self, owner: Option<Owner>) {
        let mut inner = self.lock();
        inner.snapshot.owner = owner;
        inner.owner_is_set = true;
    }

    /// What a scan found out about the writer.
    pub(crate) fn live(&self, live: LiveStats) {
        self.lock().snapshot.live = Some(live);
    }

    /// Something that the user should know about the outcome.
    pub(crate) fn notice(&self, line: String) {
        self.lock().snapshot.notices.push(line);
    }

    /// As [`Stats::notice`], about who may run or write the guest: shown however little is to be shown.
    pub(crate) fn caution(&self, line: String) {
        let mut inner = self.lock();
        inner.snapshot.cautions.push(line.clone());
        inner.snapshot.notices.push(line);
    }

    /// A destination has recognised what arrives.
    pub(crate) fn wire_format(&self, format: Format) {
        self.lock().snapshot.wire_format = Some(format);
    }

    /// A destination has waited this long until what it proved was on disk.
    pub(crate) fn synced(&self, time: Duration) {
        self.lock().snapshot.sync_time = Some(time);
    }

    /// Pages of these blocks never came.
    pub(crate) fn missing(&self, missing: Vec<MissingPages>) {
        self.lock().snapshot.missing_pages = missing;
    }

    /// Something that was requested is left out.
    pub(crate) fn dropped(&self, name: &'static str) {
        self.lock().snapshot.dropped.push(name);
    }

    /// It is to end as soon as possible.
    pub(crate) fn cancelling(&self) {
        self.status(Status::Cancelling);
    }

    /// The state of a running migration; one that is being cancelled stays so until the end.
    pub(crate) fn status(&self, status: Status) {
        let mut inner = self.lock();
        if inner.snapshot.status.is_running() && inner.snapshot.status != Status::Cancelling {
            self.enter(&mut inner, status);
        }
    }

    /// Why it failed, in a line.
    pub(crate) fn error(&self, line: String) {
        self.lock().snapshot.error = Some(line);
    }

    /// It arrived and was verified.
    pub(crate) fn proven(&self, digest: Digest) {
        let mut inner = self.lock();
        inner.snapshot.digest = Some(digest);
        // Without a writer to stop, a later snapshot is what the writer would have left.
        let later = (inner.snapshot.live.is_none() && inner.snapshot.round > 1)
            .then_some(inner.round_started);
        inner.snapshot.downtime = inner.stopping.or(later).map(|since| since.elapsed());
    }

    /// The clock stops, at the first call.
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
