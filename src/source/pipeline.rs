//! The way of a page out of the source.
//!
//! ```text
//! scan      dirty runs -> Job                 one thread, the only producer (rounds.rs)
//! encode    x N   Job -> Packet               copy, zero? delta? compress; hash; frame (encode/)
//! send      x K   Packet -> link              throttle, write; one thread a connection
//! ```
//!
//! Stages are joined by bounded channels and a buffer's ownership moves with the message. Every
//! job is answered once, by an [`Answer`] or by an error, also if a worker panics; wherever the
//! producer waits, it waits for errors too, so it can wait for nothing that does not come.
//! Closing a channel is the cancellation: when the producer goes, jobs end, the
//! encoders go, packets end, the senders go. Whoever is inside a system call is woken by the
//! session's [`Abort`](crate::transport::Abort).
//!
//! Within a round each page occurs once, so packets may overtake each other. Rounds may not mix:
//! the producer waits until everything of a round is on the links, and then has every sender
//! write `RoundEnd`; or, on the qemu wire, closes the section that the round was.
//!
//! Memory: a job in the channel is only page numbers. A packet holds one buffer of a batch, and a
//! worker another while it compresses: (packets in the channel + K + 2 N) buffers, whatever the
//! size of the image.

use std::sync::{Arc, RwLock, RwLockReadGuard};
use std::thread::{self, Scope};
use std::time::Duration;

use bytes::BytesMut;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select, unbounded};

use crate::caps::{Capability, Caps};
use crate::delta::Cache;
use crate::dirty::PageHashes;
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Guest;
use crate::page::{Digest, PAGE_SIZE, PageRange};
use crate::params::Params;
use crate::pool::{Buffers, QUEUE, Workers};
use crate::round::RoundMark;
use crate::session::{Context, Phase, send_message};
use crate::stats::{Stage, StageClock, Tally};
use crate::sync;
use crate::wire::Format;
use crate::wire::native::Message;

use super::Request;
use super::connect::Links;
use super::encode::EncodeWorker;
use super::throttle::Throttle;

/// Pages of a hole that become one packet where each is a record.
const HOLE_PAGES: u64 = 16_384;

/// A batch of pages to be sent.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) guest: Arc<Guest>,
    pub(super) block: u16,
    pub(super) mark: RoundMark,
    /// The pages lie in a hole: they are zero, and reading them might allocate them.
    pub(super) hole: bool,
    /// Ascending; together no more than a batch, unless they are holes.
    pub(super) ranges: Vec<PageRange>,
}

/// A batch as it goes on the wire, or what stands between rounds. Empty if there is nothing to write.
#[derive(Debug, Default)]
pub(super) struct Packet {
    pub(super) head: Vec<u8>,
    pub(super) body: BytesMut,
    pub(super) body_len: usize,
    pub(super) tally: Tally,
}

/// What the producer hears from the senders.
#[derive(Debug)]
enum Answer {
    /// A batch is on the link.
    Sent(Box<Tally>),
    /// A connection has ended its round.
    RoundEnded,
}

/// What all threads of the pipeline read.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub(super) context: &'a Context,
    pub(super) links: &'a Links,
    pub(super) format: Format,
    pub(super) caps: &'a Caps,
    /// Whether a later round may come.
    pub(super) more_rounds: bool,
    /// What the destination holds of the pages that may be sent again. Workers look pages up
    /// together; locked against them only while its size changes.
    cache: Option<RwLock<Cache>>,
    /// The hash of each page as it was sent, if a later round may come.
    pub(super) sent: Option<PageHashes>,
    pub(super) buffers: Buffers,
    batch_pages: usize,
    throttle: Throttle,
    encoders: Workers,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        request: &'a Request,
        links: &'a Links,
        context: &'a Context,
    ) -> Result<Shared<'a>> {
        let params = context.tuning.get();
        let more_rounds = request.has_later_rounds();
        let pages = context.stats.snapshot().ram_bytes / PAGE_SIZE as u64;
        let batch_pages = usize::from(params.batch_pages());
        let spare = usize::from(params.compress_threads) + QUEUE + 2 * links.streams.len();
        Ok(Shared {
            context,
            links,
            format: links.format(),
            caps: &links.caps,
            more_rounds,
            cache: (more_rounds && links.caps.has(Capability::Xbzrle))
                .then(|| Cache::new(params.xbzrle_cache_size).map(RwLock::new))
                .transpose()
                .map_err(|error| Error::new(Kind::Usage, error))?,
            sent: more_rounds.then(|| PageHashes::new(pages)),
            // All pages as deltas as long as a page, and their lengths; or plain, and their headers.
            buffers: Buffers::new(batch_pages * (PAGE_SIZE + 12), spare),
            batch_pages,
            throttle: Throttle::new(),
            encoders: Workers::default(),
        })
    }
}

impl Shared<'_> {
    /// The cache, of one size for as long as this is held.
    pub(super) fn cache(&self) -> Option<RwLockReadGuard<'_, Cache>> {
        let cache = self.cache.as_ref()?;
        // Whoever panicked while it held the lock left an entry that is at worst a miss.
        Some(sync::ignore_poison(cache.read()))
    }

    /// Gives the cache the size that is wanted now.
    fn resize_cache(&self) -> Result<()> {
        let wanted = self.context.tuning.get().xbzrle_cache_size;
        let (Some(cache), Some(now)) = (&self.cache, self.cache()) else {
            return Ok(());
        };
        if now.capacity() == wanted {
            return Ok(());
        }
        drop(now);
        let mut cache = sync::ignore_poison(cache.write());
        cache
            .resize(wanted)
            .map_err(|error| Error::new(Kind::Usage, error))
    }
}

/// The producer's end of the pipeline.
pub(super) struct Pipeline<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    shared: &'scope Shared<'scope>,
    jobs: Sender<Job>,
    /// For encoders that join later.
    job_queue: Receiver<Job>,
    packets: Sender<Packet>,
    failure: Sender<Error>,
    failures: Receiver<Error>,
    answers: Receiver<Answer>,
    round_ends: Vec<Sender<RoundMark>>,
    /// Batches without an answer.
    outstanding: usize,
    digest: Digest,
    /// Encodes plainly when no encoder is free and it was asked not to wait.
    spare: EncodeWorker<'scope>,
}

/// Starts the threads, lets `produce` feed them, and joins them.
pub(super) fn run<T>(
    shared: &Shared<'_>,
    (failure, failures): (Sender<Error>, Receiver<Error>),
    produce: impl FnOnce(&mut Pipeline<'_, '_>) -> Result<T>,
) -> Result<T> {
    thread::scope(|scope| {
        let params = shared.context.tuning.get();
        // Without waiting, "no encoder is free" must mean just that: a channel without room.
        let depth = if params.compress_wait_thread {
            usize::from(params.compress_threads) + QUEUE
        } else {
            0
        };
        let (jobs, job_queue) = bounded(depth);
        let (packets, packet_queue) = bounded(QUEUE + shared.links.streams.len());
        // Emptied with every job, so it holds no more than what is under way.
        let (answer, answers) = unbounded();
        let mut pipeline = Pipeline {
            scope,
            shared,
            jobs,
            job_queue,
            packets,
            failure,
            failures,
            answers,
            round_ends: Vec::new(),
            outstanding: 0,
            digest: Digest::default(),
            spare: EncodeWorker::new(shared),
        };
        let outcome = pipeline
            .start_senders(&packet_queue, &answer)
            .and_then(|()| Error::catch("scan", || produce(&mut pipeline)));
        // Wakes whoever is inside a system call.
        shared.context.abort_on_error(&outcome);
        // Dropping the producer's ends of the channels ends the threads; the scope joins them.
        drop((pipeline, packet_queue, answer));
        outcome
    })
}

impl<'scope> Pipeline<'scope, '_> {
    fn start_senders(&mut self, packets: &Receiver<Packet>, answer: &Sender<Answer>) -> Result<()> {
        for connection in 0..self.shared.links.streams.len() {
            let (round_end, round_ends) = unbounded();
            self.round_ends.push(round_end);
            let (shared, failure) = (self.shared, self.failure.clone());
            let (packets, answer) = (packets.clone(), answer.clone());
            spawn(self.scope, format!("send-{connection}"), move || {
                answer_for("send", &failure, || {
                    send(shared, connection, &packets, &round_ends, &answer)
                });
            })?;
        }
        Ok(())
    }

    /// Starts encoders up to the number that is wanted now.
    fn grow(&mut self) -> Result<()> {
        let wanted = usize::from(self.shared.context.tuning.get().compress_threads);
        let mut outcome = Ok(());
        self.shared.encoders.grow_to(wanted, || {
            let (shared, jobs) = (self.shared, self.job_queue.clone());
            let (packets, failure) = (self.packets.clone(), self.failure.clone());
            let started = spawn(self.scope, "encode".to_owned(), move || {
                answer_for("encode", &failure, || encode(shared, &jobs, &packets));
            });
            outcome = std::mem::replace(&mut outcome, Ok(())).and(started);
        });
        outcome
    }

    /// Hands a batch to the next free encoder; returns early with whatever went wrong elsewhere.
    pub(super) fn push(&mut self, job: Job) -> Result<()> {
        self.shared.context.faults.check(Site::Scan)?;
        if self.shared.context.abort.is_raised() {
            return Err(Error::interrupted());
        }
        self.grow()?;
        self.shared.resize_cache()?;
        while let Ok(answer) = self.answers.try_recv() {
            self.take(&answer);
        }
        self.outstanding += 1;
        if self.shared.context.tuning.get().compress_wait_thread {
            return self.hand_over(&self.jobs, job);
        }
        match self.jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job)) => {
                let packet = self.spare.encode(&job, true)?;
                self.hand_over(&self.packets, packet)
            }
            Err(TrySendError::Disconnected(_)) => Err(gone("encode")),
        }
    }

    /// Waits until `channel` takes `message`, or something goes wrong.
    fn hand_over<M>(&self, channel: &Sender<M>, message: M) -> Result<()> {
        select! {
            send(channel, message) -> sent => sent.map_err(|_| gone("encode")),
            recv(self.failures) -> error => Err(error.unwrap_or_else(|_| gone("send"))),
        }
    }

    fn take(&mut self, answer: &Answer) {
        if let Answer::Sent(tally) = answer {
            self.outstanding -= 1;
            self.digest.add(tally.hashes);
            let (stats, links) = (&self.shared.context.stats, self.shared.links);
            stats.add(tally);
            stats.bytes(links.sent(), links.received());
        }
    }

    fn wait_for_answer(&self) -> Result<Answer> {
        select! {
            recv(self.answers) -> answer => answer.map_err(|_| gone("send")),
            recv(self.failures) -> error => Err(error.unwrap_or_else(|_| gone("send"))),
        }
    }

    /// A round begins. How many pages it is about may not be known yet.
    pub(super) fn begin_round(&mut self, mark: RoundMark) -> Result<()> {
        self.shared
            .context
            .begin_round(mark.round, self.shared.links.sent())?;
        match &self.shared.links.framing {
            None => Ok(()),
            Some(framing) => self.mark(framing.section_start(mark)),
        }
    }

    /// Puts what stands between batches on the link: with nothing else under way, there is only one
    /// sender for it to be next at.
    fn mark(&mut self, head: Vec<u8>) -> Result<()> {
        self.outstanding += 1;
        let mark = Packet {
            head,
            ..Packet::default()
        };
        self.hand_over(&self.packets, mark)?;
        self.drain()
    }

    /// Waits until everything that was pushed is on the links.
    fn drain(&mut self) -> Result<()> {
        while self.outstanding > 0 {
            let answer = self.wait_for_answer()?;
            self.take(&answer);
        }
        Ok(())
    }

    /// How many pages the round is about.
    pub(super) fn round_pages(&mut self, pages: u64) {
        self.shared.context.stats.round_pages(pages);
    }

    /// Waits until all of the round is on the links, and marks its end on each of them.
    pub(super) fn end_round(&mut self, mark: RoundMark) -> Result<()> {
        self.drain()?;
        match &self.shared.links.framing {
            None => self.mark_ends(mark)?,
            Some(framing) => self.mark(framing.section_end())?,
        }
        let stats = &self.shared.context.stats;
        stats.end_round(self.shared.links.sent());
        Ok(())
    }

    /// Has every connection's sender write `RoundEnd`.
    fn mark_ends(&mut self, end: RoundMark) -> Result<()> {
        for round_end in &self.round_ends {
            round_end.send(end).map_err(|_| gone("send"))?;
        }
        let mut open = self.round_ends.len();
        while open > 0 {
            let answer = self.wait_for_answer()?;
            open -= usize::from(matches!(answer, Answer::RoundEnded));
        }
        Ok(())
    }

    /// With `pause-before-switchover`, waits until somebody lets it go on; the links stay warm.
    pub(super) fn wait_for_leave(&self) -> Result<()> {
        let Shared { context, caps, .. } = self.shared;
        if !caps.has(Capability::PauseBeforeSwitchover) {
            return Ok(());
        }
        context.enter(Phase::Paused)?;
        select! {
            recv(context.gate.opened()) -> _ => {}
            recv(self.failures) -> error => return Err(error.unwrap_or_else(|_| gone("send"))),
        }
        if context.abort.is_raised() {
            return Err(Error::interrupted());
        }
        context.enter(Phase::Switchover)
    }

    /// The digest of what the destination must hold now.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// The hash of each page as it was sent.
    pub(super) fn sent(&self) -> Option<&'scope PageHashes> {
        self.shared.sent.as_ref()
    }

    /// Pages in a batch.
    pub(super) fn batch_pages(&self) -> u64 {
        self.shared.batch_pages as u64
    }

    /// Pages of a hole in a job: a hole of the native wire is a number, one of QEMU's a record a page.
    pub(super) fn hole_pages(&self) -> u64 {
        match self.shared.format {
            Format::Native => u64::MAX,
            Format::Qemu => HOLE_PAGES,
        }
    }

    /// Whether jobs have to be in the order of their pages. QEMU's delta cache depends on it.
    pub(super) fn keeps_order(&self) -> bool {
        self.shared.format == Format::Qemu
    }

    /// The parameters as they are now.
    pub(super) fn params(&self) -> Arc<Params> {
        self.shared.context.tuning.get()
    }

    /// CPU time that belongs to no batch.
    pub(super) fn add_cpu(&self, stage: Stage, time: Duration) {
        self.shared.context.stats.add_cpu(stage, time);
    }
}

/// What an encoder thread does, until there are no more jobs or it is one too many.
fn encode(shared: &Shared<'_>, jobs: &Receiver<Job>, packets: &Sender<Packet>) -> Result<()> {
    let mut worker = EncodeWorker::new(shared);
    for job in jobs {
        let packet = worker.encode(&job, false)?;
        let wanted = usize::from(shared.context.tuning.get().compress_threads);
        if packets.send(packet).is_err() || shared.encoders.leave_if_above(wanted) {
            break;
        }
    }
    Ok(())
}

/// What a sender thread does: it owns its connection until the rounds are over.
fn send(
    shared: &Shared<'_>,
    connection: usize,
    packets: &Receiver<Packet>,
    round_ends: &Receiver<RoundMark>,
    answer: &Sender<Answer>,
) -> Result<()> {
    let Context {
        abort,
        tuning,
        stats,
        faults,
        ..
    } = shared.context;
    let stream = &shared.links.streams[connection];
    let silence = shared.links.agreed.keepalive_interval();
    let (mut frames, mut pages) = (0, 0);
    loop {
        select! {
            recv(packets) -> packet => {
                let Ok(mut packet) = packet else { return Ok(()) };
                faults.check(Site::Send)?;
                if packet.head.len() + packet.body_len > 0 {
                    let mut clock = StageClock::start();
                    let frame = (&packet.head[..], &packet.body[..packet.body_len]);
                    shared.links.in_frame(connection, || {
                        let count = || stats.bytes(shared.links.sent(), shared.links.received());
                        shared.throttle.write(stream, frame, (tuning, abort), count)
                    })?;
                    frames += 1;
                    pages += packet.tally.pages_on_the_wire();
                    clock.cut(&mut packet.tally.cpu, Stage::Socket);
                }
                shared.buffers.give(packet.body);
                // The producer may be gone; then there is nobody left to be told.
                let _ = answer.send(Answer::Sent(Box::new(packet.tally)));
            }
            recv(round_ends) -> end => {
                let Ok(RoundMark { round, last, .. }) = end else { return Ok(()) };
                send_message(stream, &Message::RoundEnd { round, frames, pages, last })?;
                (frames, pages) = (0, 0);
                let _ = answer.send(Answer::RoundEnded);
            }
            default(silence) => match shared.format {
                Format::Native => send_message(stream, &Message::KeepAlive)?,
                // QEMU knows no such thing.
                Format::Qemu => {}
            },
        }
    }
}

fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: String,
    work: impl FnOnce() + Send + 'scope,
) -> Result<()> {
    thread::Builder::new()
        .name(name)
        .spawn_scoped(scope, work)
        .map(drop)
        .map_err(|error| Error::new(Kind::Failed, error).in_stage("start a thread"))
}

/// Runs a thread's work and reports what ended it, a panic too.
fn answer_for(stage: &'static str, failure: &Sender<Error>, work: impl FnOnce() -> Result<()>) {
    if let Err(error) = Error::catch(stage, work) {
        let _ = failure.send(error.in_stage(stage));
    }
}

/// A stage has ended without saying why, which it never should.
fn gone(stage: &'static str) -> Error {
    Error::new(Kind::Failed, "a stage of the pipeline has ended").in_stage(stage)
}
