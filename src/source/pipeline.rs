//! The way of a page out of the source.
//!
//! ```text
//! scan      dirty runs -> Job                 one thread, the only producer (rounds.rs, live.rs)
//! encode    x N   Job -> Packet               copy, zero? delta? compress; hash (encode.rs, wire/)
//! send      x K   Packet -> link              throttle, write; one thread a connection
//! ```
//!
//! Stages are joined by bounded channels and a buffer's ownership moves with the message. Every job
//! gets exactly one answer, an [`Answer`] or an error, even if a worker panics. Wherever the
//! producer waits it waits for errors, too, so it never waits for something that cannot come.
//! Closing a channel is the cancellation: the producer drops the jobs' sender, the encoders end and
//! drop the packets' sender, the connections' senders end. A thread that is inside a system call is
//! woken by the session's [`Abort`](crate::transport::Abort).
//!
//! Within a round each page occurs once, so packets may overtake each other. Rounds must not mix:
//! the producer waits until everything of a round is on the links, and then has every sender mark
//! the end of the round on its connection, in the way of the [`Wire`](super::wire::Wire).
//!
//! Memory: a job in the channel is only page numbers. A packet holds one buffer of a batch, and a
//! worker another while it compresses: (packets in the channel + K + 2 N) buffers, whatever the
//! size of the image.

use std::sync::Arc;
use std::time::Duration;

use crate::caps::Capability;
use crate::codec;
use crate::dirty::PageHashes;
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Later;
use crate::page::{Digest, PAGE_SIZE};
use crate::params::Params;
use crate::pool::{Crew, FirstError, QUEUE, must_fit};
use crate::round::RoundMark;
use crate::session::Phase;
use crate::stats::{Stage, StageClock, Tally};
use crate::sync::channel::{Receiver, Sender, TrySendError, bounded, select, unbounded};
use crate::sync::thread;

use super::job::{Job, Packet, SendState};
use super::wire::{Batches, Channel, Encode, Wire};

/// The timeout of a connection that needs no keep-alive.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// What a sender reports to the producer.
#[derive(Debug)]
enum Answer {
    /// A batch is on the link.
    Sent(Box<Tally>),
    /// A mark is on the link.
    Marked,
}

/// What every sender marks on its connection.
#[derive(Debug, Clone, Copy)]
enum Mark {
    Begin(RoundMark),
    End(RoundMark),
}

/// Both ends of the queue of a connection's marks. The producer holds the sender thread's end too, so
/// that it never finds a queue closed by a thread that has failed: the reason is on its way.
type MarkQueue = (Sender<Mark>, Receiver<Mark>);

/// The producer's end of the pipeline.
pub(super) struct Pipeline<'scope, 'env> {
    crew: Crew<'scope, 'env>,
    state: &'scope SendState<'scope>,
    wire: &'scope dyn Wire,
    jobs: Sender<Job>,
    /// For encoders that join later.
    job_queue: Receiver<Job>,
    packets: Sender<Packet>,
    errors: &'scope FirstError,
    answers: Receiver<Answer>,
    /// One for each connection.
    marks: Vec<MarkQueue>,
    /// Batches without an answer.
    outstanding: usize,
    digest: Digest,
    /// The part of the digest that the sampled pages have.
    sample: Digest,
    /// Encodes without compressing when no encoder is free and it was asked not to wait.
    spare: Box<dyn Encode + 'scope>,
}

/// Starts the threads, lets `produce` feed them, and joins them. An error that something outside
/// the pipeline reports to `errors` also ends what `produce` waits for.
pub(super) fn run<T>(
    state: &SendState<'_>,
    wire: &dyn Wire,
    errors: &FirstError,
    produce: impl FnOnce(&mut Pipeline<'_, '_>) -> Result<T>,
) -> Result<T> {
    let failed = |error| errors.report(error);
    let params = state.context.tuning.get();
    // An encoder has its batch, what it compresses to, and the packet that waits to be sent.
    let batch = state.batch_pages * (PAGE_SIZE + 12);
    let threads = usize::from(params.compress_threads) + state.links.streams.len();
    must_fit(threads, 3 * batch + codec::memory(params.codec_settings()))?;
    thread::scope(|scope| {
        // With `compress-wait-thread` off, "no encoder is free" must mean exactly that, so the
        // channel must not buffer anything.
        let depth = if params.compress_wait_thread {
            usize::from(params.compress_threads) + QUEUE
        } else {
            0
        };
        let (jobs, job_queue) = bounded(depth);
        let (packets, packet_queue) = bounded(QUEUE + state.links.streams.len());
        // Drained with every job, so it never holds more than what is under way.
        let (answer, answers) = unbounded();
        let mut pipeline = Pipeline {
            crew: Crew::new(scope, &failed),
            state,
            wire,
            jobs,
            job_queue,
            packets,
            errors,
            answers,
            marks: Vec::new(),
            outstanding: 0,
            digest: Digest::default(),
            sample: Digest::default(),
            spare: wire.encoder(state),
        };
        pipeline.start_senders(&packet_queue, &answer);
        let outcome = Error::catch("while scanning", || produce(&mut pipeline));
        // Wakes threads that are inside a system call.
        state.context.abort_on_error(&outcome);
        // Dropping the producer's ends of the channels ends the threads; the scope joins them.
        drop((pipeline, packet_queue, answer));
        outcome
    })
}

impl<'scope> Pipeline<'scope, '_> {
    fn start_senders(&mut self, packets: &Receiver<Packet>, answer: &Sender<Answer>) {
        for connection in 0..self.state.links.streams.len() {
            let (mark, marks) = unbounded();
            self.marks.push((mark, marks.clone()));
            let (state, wire) = (self.state, self.wire);
            let (packets, answer) = (packets.clone(), answer.clone());
            let name = format!("send-{connection}");
            self.crew.spawn(name, "while sending", move || {
                let channel = wire.channel(connection);
                let mut link = LinkWriter {
                    state,
                    connection,
                    channel,
                };
                send(&mut link, &packets, &marks, &answer)
            });
        }
    }

    /// Starts encoders up to `compress-threads`, which may have changed.
    fn grow(&mut self) {
        let wanted = usize::from(self.params().compress_threads);
        self.state.encoders.grow_to(wanted, || {
            let (state, wire, jobs) = (self.state, self.wire, self.job_queue.clone());
            let packets = self.packets.clone();
            self.crew
                .spawn("encode".to_owned(), "while encoding", move || {
                    encode_all(state, wire, &jobs, &packets)
                });
        });
    }

    /// Hands a batch to the next free encoder. Returns early with an error of any other thread.
    pub(super) fn push(&mut self, job: Job) -> Result<()> {
        let context = self.state.context;
        context.faults.check(Site::Scan)?;
        if context.abort.is_raised() {
            return Err(Error::interrupted());
        }
        self.grow();
        self.state.resize_cache()?;
        while let Ok(answer) = self.answers.try_recv() {
            self.take(&answer);
        }
        self.outstanding += 1;
        if self.params().compress_wait_thread {
            return self.hand_over(&self.jobs, job);
        }
        match self.jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job)) => {
                let packet = encode(self.spare.as_mut(), self.state, &job, true)?;
                self.hand_over(&self.packets, packet)
            }
            Err(TrySendError::Disconnected(_)) => Err(gone("while encoding")),
        }
    }

    /// Waits until `channel` takes `message`, or something goes wrong.
    fn hand_over<M>(&self, channel: &Sender<M>, message: M) -> Result<()> {
        select! {
            send(channel, message) -> sent => sent.map_err(|_| gone("while encoding")),
            recv(self.errors.reported()) -> error => Err(error.unwrap_or_else(|_| gone("while sending"))),
        }
    }

    /// Waits for a message of `channel`, unless something goes wrong.
    fn wait_for<M>(&self, channel: &Receiver<M>) -> Result<M> {
        select! {
            recv(channel) -> message => message.map_err(|_| gone("while sending")),
            recv(self.errors.reported()) -> error => Err(error.unwrap_or_else(|_| gone("while sending"))),
        }
    }

    fn take(&mut self, answer: &Answer) {
        if let Answer::Sent(tally) = answer {
            self.outstanding -= 1;
            self.digest.add(tally.hashes);
            self.sample.add(tally.sample);
            self.state.context.stats.add(tally);
            self.state.count_bytes();
        }
    }

    /// Begins a round. Its number of pages may not be known yet.
    pub(super) fn begin_round(&mut self, mark: RoundMark) -> Result<()> {
        let sent = self.state.links.sent();
        self.state.context.begin_round(mark.round, sent)?;
        self.mark(Mark::Begin(mark))
    }

    /// Sets the number of pages of the round.
    pub(super) fn round_pages(&mut self, pages: u64) {
        self.state.context.stats.round_pages(pages);
    }

    /// Waits until all of the round is on the links, and marks its end on each of them.
    pub(super) fn end_round(&mut self, mark: RoundMark) -> Result<()> {
        while self.outstanding > 0 {
            let answer = self.wait_for(&self.answers)?;
            self.take(&answer);
        }
        self.mark(Mark::End(mark))?;
        self.state.context.stats.end_round(self.state.links.sent());
        Ok(())
    }

    /// Has every sender mark its connection. No batch may be under way.
    fn mark(&mut self, mark: Mark) -> Result<()> {
        for (marks, _) in &self.marks {
            marks.send(mark).map_err(|_| gone("while sending"))?;
        }
        let mut open = self.marks.len();
        while open > 0 {
            let answer = self.wait_for(&self.answers)?;
            open -= usize::from(matches!(answer, Answer::Marked));
        }
        Ok(())
    }

    /// With `pause-before-switchover`, waits for `migrate-continue`; the links stay warm.
    pub(super) fn wait_for_leave(&self) -> Result<()> {
        let context = self.state.context;
        if !self.state.caps.has(Capability::PauseBeforeSwitchover) {
            return Ok(());
        }
        context.enter(Phase::Paused)?;
        self.wait_for(context.gate.opened())?;
        if context.abort.is_raised() {
            return Err(Error::interrupted());
        }
        context.enter(Phase::Switchover)
    }

    /// Notes how many pages a diff has made zero in the round that has just ended: whether its guest did
    /// that, or its holes were filled with zeros, cannot be seen.
    pub(super) fn note_cleared(&self, later: &Later) {
        let stats = &self.state.context.stats;
        let cleared = stats.snapshot().rounds.last().map(|round| round.tally.zero);
        let count = cleared.unwrap_or(0);
        if later.is_diff && count > 0 {
            let pages = if count == 1 { "page" } else { "pages" };
            stats.notice(format!(
                "'{}' makes {count} {pages} zero that held data: right if the guest cleared them, wrong if the \
                 diff's holes were filled (a copy without holes; on tmpfs, a program that read it through a map)",
                later.path.display()
            ));
        }
    }

    /// The part of [`Pipeline::digest`] that the sampled pages have.
    pub(super) fn sample(&self) -> Digest {
        self.sample
    }

    /// The digest of the RAM that the destination must hold now.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// The hash of each page as it was sent, which is kept if later rounds may come.
    pub(super) fn sent(&self) -> Result<&'scope PageHashes> {
        self.state.sent.as_ref().ok_or_else(|| {
            Error::new(Kind::Failed, "there is no record of what was sent")
                .in_stage("while scanning")
        })
    }

    /// Pages in a batch.
    pub(super) fn batch_pages(&self) -> u64 {
        self.state.batch_pages as u64
    }

    /// How batches are to be made.
    pub(super) fn batches(&self) -> Batches {
        self.wire.batches()
    }

    /// The parameters as they are now.
    pub(super) fn params(&self) -> Arc<Params> {
        self.state.context.tuning.get()
    }

    /// CPU time that belongs to no batch.
    pub(super) fn add_cpu(&self, stage: Stage, time: Duration) {
        self.state.context.stats.add_cpu(stage, time);
    }
}

/// Encodes one batch; an error names its place. `busy`: no compressor was free, so it goes
/// uncompressed.
fn encode(
    encoder: &mut dyn Encode,
    state: &SendState<'_>,
    job: &Job,
    busy: bool,
) -> Result<Packet> {
    let checked = state.context.faults.check(Site::Encode);
    checked
        .and_then(|()| encoder.encode(job, busy))
        .map_err(|error| {
            let first = job.ranges.first().map_or(0, |range| range.start.0);
            error
                .in_stage("while encoding")
                .in_round(job.mark.round.0)
                .at_page(first)
        })
}

/// The work of an encoder thread, until the jobs end or `compress-threads` was lowered.
fn encode_all(
    state: &SendState<'_>,
    wire: &dyn Wire,
    jobs: &Receiver<Job>,
    packets: &Sender<Packet>,
) -> Result<()> {
    let mut encoder = wire.encoder(state);
    for job in jobs {
        let packet = encode(encoder.as_mut(), state, &job, false)?;
        let wanted = usize::from(state.context.tuning.get().compress_threads);
        if packets.send(packet).is_err() || state.encoders.leave_if_above(wanted) {
            break;
        }
    }
    Ok(())
}

/// The work of a sender thread, which owns its connection until the rounds are over.
fn send(
    link: &mut LinkWriter<'_>,
    packets: &Receiver<Packet>,
    marks: &Receiver<Mark>,
    answer: &Sender<Answer>,
) -> Result<()> {
    let keep_alive = link.channel.keep_alive();
    let silence = keep_alive.as_ref().map_or(FOR_EVER, |one| one.after);
    loop {
        // A failed send of an answer means that the producer is gone, which ends this thread next.
        select! {
            recv(packets) -> packet => {
                let Ok(packet) = packet else { return Ok(()) };
                let tally = link.packet(packet)?;
                let _ = answer.send(Answer::Sent(Box::new(tally)));
            }
            recv(marks) -> mark => {
                let Ok(mark) = mark else { return Ok(()) };
                link.mark(mark)?;
                let _ = answer.send(Answer::Marked);
            }
            default(silence) => {
                if let Some(one) = &keep_alive {
                    link.write(&one.bytes)?;
                }
            }
        }
    }
}

/// One connection, and what the wire has to write on it.
struct LinkWriter<'a> {
    state: &'a SendState<'a>,
    connection: usize,
    channel: Box<dyn Channel + 'a>,
}

impl LinkWriter<'_> {
    /// Writes a batch, within the limit of all connections together.
    fn packet(&mut self, mut packet: Packet) -> Result<Tally> {
        let state = self.state;
        state.context.faults.check(Site::Send)?;
        if !packet.is_empty() {
            let mut clock = StageClock::start();
            packet = self.channel.seal(packet)?;
            let frame = [&packet.head, packet.body()];
            state.links.in_frame(self.connection, frame, |stream| {
                let written = || state.count_bytes();
                state.throttle.write(stream, frame, state.context, written)
            })?;
            clock.cut(&mut packet.tally.cpu, Stage::Socket);
        }
        state.buffers.give(packet.body);
        Ok(packet.tally)
    }

    fn mark(&mut self, mark: Mark) -> Result<()> {
        let bytes = match mark {
            Mark::Begin(mark) => self.channel.begin_round(mark),
            Mark::End(mark) => self.channel.end_round(mark),
        };
        self.write(&bytes)
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let links = self.state.links;
        links
            .in_frame(self.connection, [bytes, &[]], |stream| {
                stream.write(bytes, &[])
            })
            .map_err(Error::from)
    }
}

/// A stage has ended without reporting why, which is a bug.
fn gone(stage: &'static str) -> Error {
    Error::new(Kind::Failed, "a stage of the pipeline has ended").in_stage(stage)
}
