//! The way of a page into the destination.
//!
//! ```text
//! receive   x K   link -> Packet             read a header, check it, read the rest into one buffer
//! decode    x M   Packet -> place            decompress, apply deltas, check the hash, pwrite (decode.rs)
//! round end       a barrier                  nothing of round r+1 is placed before all of round r is (rounds.rs)
//! prove     x 1   file -> hashes             beside later rounds: read back what earlier ones left (prove.rs)
//! ```
//!
//! Bounded channels join the stages, buffers move with the packets and come back. The first error
//! of any thread is kept; it aborts the session, which wakes whoever is inside a system call and
//! whoever waits at the barrier, and closing the channel ends the decoders.
//!
//! Memory: (packets in the channel + K + M) buffers of a frame, and 2 M of its pages, whatever the
//! size of the image. With more than one round also 16 bytes for each page that holds data and two
//! bits for each that there is: what `prove.rs` keeps.

use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::description::Description;
use crate::error::{Error, Result};
use crate::fault::Site;
use crate::image::Output;
use crate::page::Digest;
use crate::pool::{Buffers, Crew, FirstError, QUEUE, Workers};
use crate::round::Round;
use crate::session::{self, Context};
use crate::stats::{Stage, StageClock, Tally};
use crate::transport::Stream;
use crate::wire::WireError;
use crate::wire::native::{FrameKind, Header, MAX_ROUNDS, Message};

use super::accept::Links;
use super::decode::{DecodeWorker, Packet};
use super::folder::Rest;
use super::prove::Proof;
use super::rounds::{Rounds, Stuck};

/// What all threads of the pipeline read.
struct Shared<'a> {
    context: &'a Context,
    links: &'a Links,
    output: &'a Output,
    rounds: Rounds,
    proof: Proof,
    buffers: Buffers,
    decoders: Workers,
    failure: FirstError,
}

impl Shared<'_> {
    /// Keeps the first error and ends every wait.
    fn fail(&self, error: Error) {
        self.failure.report(error);
        self.context.abort.raise();
        self.rounds.fail();
    }

    fn received(&self) -> u64 {
        self.links.received()
    }
}

/// What the source said at its end.
#[derive(Debug)]
pub(super) struct Finished {
    /// Of the RAM that it sent.
    pub(super) digest: Digest,
    /// What a guest folder has besides.
    pub(super) description: Option<Description>,
    /// What has been read back by then.
    pub(super) proof: Proof,
}

impl Finished {
    /// Passes the description on to the output, and leaves the digest and what speaks for it.
    pub(super) fn take(self, output: &mut Output) -> (Digest, Proof) {
        if let Some(description) = self.description {
            output.describe(description);
        }
        (self.digest, self.proof)
    }
}

/// Starts the threads, takes all rounds, joins the threads, and returns what the source said at
/// its end.
pub(super) fn run(links: &Links, output: &Output, context: &Context) -> Result<Finished> {
    let params = context.tuning.get();
    let decoders = usize::from(params.decompress_threads);
    let shared = Shared {
        context,
        links,
        output,
        rounds: Rounds::new(links.streams.len()),
        proof: Proof::default(),
        // Frames tell how large they are; a buffer grows to the largest it has met.
        buffers: Buffers::new(1, decoders + QUEUE + 2 * links.streams.len()),
        decoders: Workers::default(),
        failure: FirstError::default(),
    };
    let (packets, queue) = bounded(QUEUE + links.streams.len());
    context.begin_round(Round::FIRST, shared.received())?;
    context.stats.round_pages(output.pages());
    let failed = |error| shared.fail(error);
    let finished = thread::scope(|scope| {
        let crew = Crew::new(scope, &failed);
        for (connection, stream) in links.streams.iter().enumerate().skip(1) {
            let (packets, queue) = (packets.clone(), queue.clone());
            let shared = &shared;
            crew.spawn(format!("receive-{connection}"), "receive", move || {
                receive(crew, shared, stream, &packets, &queue).map(drop)
            });
        }
        // The first connection is this thread's.
        let finished = crew.answer_for("receive", || {
            receive(crew, &shared, &links.streams[0], &packets, &queue)
        });
        drop((packets, queue));
        // Whatever is left to be read back is read by all threads of the proof.
        shared.proof.stop();
        finished.flatten()
    });
    match (shared.failure.take(), finished) {
        (Some(error), _) => Err(error),
        (None, Some((digest, description))) => Ok(Finished {
            digest,
            description,
            proof: shared.proof,
        }),
        (None, None) => Err(Error::interrupted()),
    }
}

/// What a receiver does: reads one connection up to its end, which on the first is `Finish`.
fn receive<'scope>(
    crew: Crew<'scope, '_>,
    shared: &'scope Shared<'_>,
    stream: &Stream,
    packets: &Sender<Packet>,
    queue: &Receiver<Packet>,
) -> Result<Option<(Digest, Option<Description>)>> {
    let is_main = std::ptr::eq(stream, &raw const shared.links.streams[0]);
    let (mut frames, mut pages, mut last_round) = (0, 0, false);
    let agreed = &shared.links.agreed.capabilities;
    let mut rest = Rest::new(agreed.contains(session::CAPABILITY_GUEST_FOLDER));
    loop {
        let header = session::receive_header(stream)?;
        let round = shared.rounds.current();
        if round.0 > MAX_ROUNDS && !last_round {
            return Err(WireError::TooLarge {
                field: "the number of rounds",
                given: round.0.into(),
                allowed: MAX_ROUNDS.into(),
            }
            .into());
        }
        let in_round = |error: Error| error.in_round(round.0);
        match header.kind {
            Some(kind @ (FrameKind::Pages | FrameKind::Zeros)) => {
                check(
                    &header,
                    kind,
                    (round, last_round),
                    shared.output.blocks().len(),
                )
                .map_err(|error| in_round(error.into()))?;
                let packet = read_packet(stream, &header, shared).map_err(in_round)?;
                frames += 1;
                pages += u64::from(header.pages);
                shared.rounds.enter();
                grow(crew, shared, queue);
                if packets.send(packet).is_err() {
                    return Ok(None);
                }
            }
            _ => match session::receive_rest(stream, &header).map_err(in_round)? {
                None | Some(Message::KeepAlive) => {}
                Some(Message::RoundEnd {
                    round: ended,
                    frames: sent_frames,
                    pages: sent_pages,
                    last,
                }) => {
                    let counted = (ended, frames, pages as u32);
                    if counted != (round, sent_frames, sent_pages as u32) || last_round {
                        return Err(in_round(miscounted(round, ended, frames, sent_frames)));
                    }
                    (frames, pages, last_round) = (0, 0, last);
                    let stats = &shared.context.stats;
                    let ended = shared.rounds.end(last, || {
                        stats.bytes(shared.received(), shared.links.sent());
                        stats.end_round(shared.received());
                        shared.proof.end_round(last, shared.output);
                        if !last {
                            stats.begin_round(round.next(), shared.received());
                        }
                    });
                    match ended {
                        Ok(()) if last && !is_main => return Ok(None),
                        Ok(()) if is_main && round.is_first() && shared.proof.is_begun() => {
                            crew.spawn("prove".to_owned(), "prove", || {
                                shared.proof.run(shared.output, shared.context)
                            });
                        }
                        Ok(()) => {}
                        Err(Stuck::Failed) => return Ok(None),
                        Err(Stuck::Disagreement) => {
                            return Err(in_round(
                                WireError::OutOfPlace {
                                    record: "RoundEnd",
                                    why: "the connections disagree about which round is the last",
                                }
                                .into(),
                            ));
                        }
                    }
                }
                Some(
                    message @ (Message::Description(_)
                    | Message::DeviceState { .. }
                    | Message::DeviceStateEnd { .. }),
                ) if is_main && last_round => rest.take(message, shared.output)?,
                Some(Message::Finish { digest }) if is_main && last_round => {
                    return Ok(Some((digest, rest.end()?)));
                }
                Some(Message::Failure { code, text }) => {
                    return Err(in_round(session::peer_failure(code, &text)));
                }
                Some(other) => {
                    let why = "rounds are under way";
                    return Err(in_round(session::out_of_place(&other, why)));
                }
            },
        }
    }
}

/// Whether a frame with pages may stand where it does.
fn check(
    header: &Header,
    kind: FrameKind,
    (round, last_round): (Round, bool),
    blocks: usize,
) -> Result<(), WireError> {
    if last_round {
        return Err(WireError::OutOfPlace {
            record: kind.name(),
            why: "the last round is over",
        });
    }
    if header.round != round {
        return Err(WireError::Contradiction {
            field: "the frame's round",
            given: header.round.0.into(),
            expected: round.0.into(),
        });
    }
    if usize::from(header.block) >= blocks {
        return Err(WireError::TooLarge {
            field: "the frame's block",
            given: header.block.into(),
            allowed: blocks as u64 - 1,
        });
    }
    Ok(())
}

fn miscounted(round: Round, ended: Round, frames: u64, sent: u64) -> Error {
    if round == ended {
        WireError::Contradiction {
            field: "the number of frames in the round",
            given: frames,
            expected: sent,
        }
    } else {
        WireError::Contradiction {
            field: "the round that ends",
            given: ended.0.into(),
            expected: round.0.into(),
        }
    }
    .into()
}

fn read_packet(stream: &Stream, header: &Header, shared: &Shared<'_>) -> Result<Packet> {
    shared.context.faults.check(Site::Receive)?;
    let mut tally = Tally::default();
    let mut clock = StageClock::start();
    let mut bytes = shared.buffers.take();
    let len = header.rest_len();
    if bytes.len() < len {
        bytes.resize(len, 0);
    }
    stream.read(&mut bytes[..len])?;
    clock.cut(&mut tally.cpu, Stage::Socket);
    Ok(Packet {
        header: *header,
        bytes,
        tally,
    })
}

/// Starts decoders up to the number that is wanted now.
fn grow<'scope>(crew: Crew<'scope, '_>, shared: &'scope Shared<'_>, queue: &Receiver<Packet>) {
    let wanted = usize::from(shared.context.tuning.get().decompress_threads);
    shared.decoders.grow_to(wanted, || {
        let queue = queue.clone();
        crew.spawn("decode".to_owned(), "decode", move || {
            let done = crew.answer_for("decode", || decode(shared, &queue));
            if done.is_none() {
                // A reader may be waiting for room, and holds a receiver of its own, so that the
                // channel would never close under it.
                queue.iter().for_each(drop);
            }
            Ok(())
        });
    });
}

/// What a decoder thread does, until there are no more packets or it is one too many.
fn decode(shared: &Shared<'_>, queue: &Receiver<Packet>) -> Result<()> {
    let mut worker = DecodeWorker::new(shared.context, shared.output, &shared.proof);
    for packet in queue {
        let tally = worker.place(&packet)?;
        shared.buffers.give(packet.bytes);
        shared.context.stats.add(&tally);
        shared
            .context
            .stats
            .bytes(shared.received(), shared.links.sent());
        shared.rounds.leave();
        let wanted = usize::from(shared.context.tuning.get().decompress_threads);
        if shared.decoders.leave_if_above(wanted) {
            break;
        }
    }
    Ok(())
}
