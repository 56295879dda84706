//! The way of a page into the destination, whatever the wire.
//!
//! ```text
//! receive   x K   link -> work               a wire's readers, one a connection
//! decode    x M   work -> place              decompress, apply deltas, check or make hashes, pwrite
//! round end       a barrier                  nothing of round r+1 is placed before all of round r is (barrier.rs)
//! prove     x 1   file -> hashes             beside later rounds: read back what earlier ones left (prove.rs)
//! write-out x 1   page cache -> disk         beside the rounds, unless with --no-sync (write_out.rs)
//! ```
//!
//! The wire decides how its work may be spread. Work that depends on nothing else in its round goes
//! to any free decoder; their number follows `decompress-threads`. Work that depends on what
//! came before it goes to a lane: one decoder, which does it in order.
//!
//! Bounded queues join the stages. The first error of any thread is kept; it aborts the session,
//! which ends every system call that waits, and fails the barrier. The decoder that failed goes on
//! taking work and drops it, so that no reader waits for room. The readers then meet the abort, end,
//! and close the queues, which ends the decoders.
//!
//! Memory: (work in the queues + K + M) buffers, whatever the size of the image. With more than one
//! round also 16 bytes for each page that holds data and two bits for each page: what `prove.rs` keeps.

use crate::error::{Error, Result};
use crate::image::Output;
use crate::pool::{Crew, FirstError, QUEUE, Queues, Workers, must_fit};
use crate::round::{Baseline, Round};
use crate::session::Context;
use crate::sync::channel::Receiver;
use crate::sync::thread;

use super::barrier::{Barrier, NotEnded};
use super::prove::Proof;
use super::stage::{DECODING, PROVING, RECEIVING};
use super::wire::{DecodeTarget, Feed, Order, Wire};
use super::write_out::WriteOut;

/// 256 pages.
const LARGEST_BATCH: usize = 1 << 20;

/// What all threads of the pipeline share.
struct Receiving<'a, W> {
    wire: &'a W,
    target: DecodeTarget<'a>,
    barrier: Barrier,
    write_out: WriteOut,
    decoders: Workers,
    failure: FirstError,
}

impl<W: Wire> Receiving<'_, W> {
    /// Keeps the first error and ends every wait.
    fn fail(&self, error: Error) {
        // In this order: threads that wake up and complain must not be the first to report.
        self.failure.report(error);
        self.target.context.abort.raise();
        self.barrier.fail();
    }

    fn wanted_decoders(&self) -> usize {
        usize::from(self.target.context.tuning.get().decompress_threads)
    }

    fn count_bytes(&self) {
        let links = self.wire.links();
        let stats = &self.target.context.stats;
        stats.bytes(links.received(), links.sent());
    }
}

/// Starts the threads, takes all rounds, and joins the threads. The proof holds what has been read back
/// by then.
pub(super) fn run<W: Wire>(wire: &W, output: &Output, context: &Context) -> Result<Proof> {
    let connections = wire.links().streams.len();
    let shared = Receiving {
        wire,
        target: DecodeTarget {
            context,
            output,
            proof: Proof::default(),
            baseline: Baseline::Fresh,
        },
        barrier: Barrier::new(connections),
        write_out: WriteOut::default(),
        decoders: Workers::default(),
        failure: FirstError::default(),
    };
    let queues = match wire.order(shared.wanted_decoders()) {
        Order::Any => Queues::shared(QUEUE + connections),
        Order::Lanes { lanes, depth } => Queues::lanes(lanes, depth),
    };
    // A decoder has its frame and what that decodes to.
    must_fit(shared.wanted_decoders() + connections, 3 * LARGEST_BATCH)?;
    context.begin_round(Round::FIRST, wire.links().received())?;
    context.stats.round_pages(output.pages());
    let failed = |error| shared.fail(error);
    thread::scope(|scope| {
        let main = PipelineFeed {
            crew: Crew::new(scope, &failed),
            shared: &shared,
            queues,
        };
        main.start_lanes();
        if output.is_synced() {
            let out = &shared.write_out;
            (main.crew).spawn("write-out".to_owned(), RECEIVING, || out.run(output));
        }
        for connection in 1..connections {
            let reader = main.clone();
            main.crew
                .spawn(format!("receive-{connection}"), RECEIVING, move || {
                    reader.shared.wire.read(connection, &reader)
                });
        }
        // The first connection is this thread's.
        main.crew.answer_for(RECEIVING, || wire.read(0, &main));
        // Ends the decoders, once the other readers' clones are gone as well.
        drop(main);
        shared.write_out.stop();
        // Whatever is left to be read back is read by all threads of the proof.
        shared.target.proof.stop();
    });
    match shared.failure.take() {
        Some(error) => Err(error),
        None => Ok(shared.target.proof),
    }
}

/// A reader's end of the pipeline.
struct PipelineFeed<'scope, 'env, W: Wire> {
    crew: Crew<'scope, 'env>,
    shared: &'scope Receiving<'scope, W>,
    queues: Queues<W::Work>,
}

impl<W: Wire> Clone for PipelineFeed<'_, '_, W> {
    fn clone(&self) -> Self {
        PipelineFeed {
            crew: self.crew,
            shared: self.shared,
            queues: self.queues.clone(),
        }
    }
}

impl<W: Wire> Feed<W::Work> for PipelineFeed<'_, '_, W> {
    fn output(&self) -> &Output {
        self.shared.target.output
    }

    fn round(&self) -> Round {
        self.shared.barrier.round()
    }

    fn lanes(&self) -> usize {
        self.queues.len()
    }

    fn hand(&self, lane: usize, work: W::Work) {
        // Counted before a decoder can have it, so that the barrier never opens too early.
        self.shared.barrier.enter();
        self.grow();
        self.queues.hand(lane, work);
    }

    fn settle(&self) {
        self.shared.barrier.settle();
    }

    fn end_round(&self, last: bool) -> Result<(), NotEnded> {
        let DecodeTarget {
            context,
            output,
            proof,
            ..
        } = &self.shared.target;
        let (stats, links) = (&context.stats, self.shared.wire.links());
        let round = self.round();
        let mut proof_begins = false;
        self.shared.barrier.end(last, || {
            self.shared.count_bytes();
            stats.end_round(links.received());
            proof_begins = proof.end_round(last, output);
            if !last {
                self.shared.write_out.end_round();
                stats.begin_round(round.next(), links.received());
            }
        })?;
        // Not while the barrier is locked: if the thread cannot be started, the barrier fails, which
        // locks it.
        if proof_begins {
            self.crew
                .spawn("prove".to_owned(), PROVING, || proof.run(output, context));
        }
        Ok(())
    }
}

impl<W: Wire> PipelineFeed<'_, '_, W> {
    /// Starts decoders up to the number that is wanted now.
    fn grow(&self) {
        if self.queues.are_lanes() {
            return;
        }
        let shared = self.shared;
        let wanted = shared.wanted_decoders();
        shared.decoders.grow_to(wanted, || {
            self.start("decode".to_owned(), 0);
        });
    }

    /// Starts the one decoder of each lane, if there are lanes.
    fn start_lanes(&self) {
        if self.queues.are_lanes() {
            for lane in 0..self.queues.len() {
                self.start(format!("decode-{lane}"), lane);
            }
        }
    }

    fn start(&self, name: String, lane: usize) {
        let (crew, shared) = (self.crew, self.shared);
        let may_leave = !self.queues.are_lanes();
        let queue = self.queues.queue(lane).clone();
        crew.spawn(name, DECODING, move || {
            if crew
                .answer_for(DECODING, || decode(shared, &queue, may_leave))
                .is_none()
            {
                // A reader may be waiting for room. As it holds a receiver of its own, the queue
                // does not close under it.
                queue.iter().for_each(drop);
            }
            Ok(())
        });
    }
}

/// What a decoder thread does, until there is no more work or, if it `may_leave`, it is one too many.
fn decode<W: Wire>(
    shared: &Receiving<'_, W>,
    queue: &Receiver<W::Work>,
    may_leave: bool,
) -> Result<()> {
    let mut decoder = shared.wire.decoder(&shared.target);
    for work in queue {
        let tally = decoder.place(work)?;
        shared.target.context.stats.add(&tally);
        let placed = tally.pages_on_the_wire() - tally.zero;
        shared.write_out.placed(placed);
        shared.count_bytes();
        // After the statistics: when the barrier opens, they hold all of the round.
        shared.barrier.leave();
        if may_leave && shared.decoders.leave_if_above(shared.wanted_decoders()) {
            break;
        }
    }
    Ok(())
}
