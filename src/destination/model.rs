//! The destination's pipeline under the model checker, on a wire of page numbers; see `src/model.rs`.

use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use super::barrier::NotEnded;
use super::links::Links;
use super::pipeline;
use super::wire::{Decode, DecodeTarget, Feed, Order, Wire};
use crate::error::{Error, Kind, Result};
use crate::image::Output;
use crate::model::{Fault, Item, PLANNED, Plan, contents, pages_of};
use crate::page::{Digest, PageIndex, PageRange};
use crate::round::Round;
use crate::session::Context;
use crate::stats::Tally;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::channel::Receiver;
use crate::transport::Stream;

/// The receiver's ends of the connections.
struct ModelWire<'a> {
    links: Links,
    items: Vec<Receiver<Item>>,
    context: &'a Context,
    plan: Plan,
    /// What each lane was handed, in this order.
    handed: Vec<StdMutex<Vec<Piece>>>,
    /// What each lane has placed.
    placed: Vec<StdMutex<Vec<Piece>>>,
    /// Decoders at work in each lane.
    busy: Vec<AtomicUsize>,
}

/// A page of a round.
type Piece = (Round, u64);

/// Takes all rounds of the plan, and proves them.
pub(crate) fn receive(
    output: &Output,
    context: &Context,
    items: Vec<Receiver<Item>>,
    plan: Plan,
) -> Result<Digest> {
    let lanes = plan.connections;
    let null = |_: &Receiver<Item>| {
        let null = std::fs::File::open("/dev/null").unwrap();
        Stream::new(null.into(), Arc::clone(&context.abort), Duration::ZERO).unwrap()
    };
    let wire = ModelWire {
        links: Links {
            streams: items.iter().map(null).collect(),
        },
        items,
        context,
        plan,
        handed: (0..lanes).map(|_| StdMutex::default()).collect(),
        placed: (0..lanes).map(|_| StdMutex::default()).collect(),
        busy: (0..lanes).map(|_| AtomicUsize::new(0)).collect(),
    };
    let proof = pipeline::run(&wire, output, context)?;
    wire.check();
    if !proof.is_begun() {
        return Ok(output.blocks()[0].digest()?.0);
    }
    Ok(proof.finish(output, context)?[0])
}

impl ModelWire<'_> {
    /// Everything was placed once, and in its lane's order if there are lanes.
    fn check(&self) {
        let take = |logs: &[StdMutex<Vec<Piece>>]| -> Vec<Vec<Piece>> {
            logs.iter().map(|log| log.lock().unwrap().clone()).collect()
        };
        let (handed, placed) = (take(&self.handed), take(&self.placed));
        if self.plan.lanes {
            assert_eq!(handed, placed, "a lane lost its order");
        }
        let mut placed = placed.concat();
        placed.sort_unstable();
        let rounds = (1..=self.plan.rounds).map(Round);
        let all =
            rounds.flat_map(|round| pages_of(round).into_iter().map(move |page| (round, page)));
        assert_eq!(placed, all.collect::<Vec<_>>(), "lost or doubled");
    }

    /// How many pages of a round are in their place.
    fn placed_of(&self, round: Round) -> usize {
        let of = |log: &StdMutex<Vec<Piece>>| {
            let log = log.lock().unwrap();
            log.iter().filter(|piece| piece.0 == round).count()
        };
        self.placed.iter().map(of).sum()
    }
}

impl Wire for ModelWire<'_> {
    type Work = (usize, Piece);

    fn links(&self) -> &Links {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }

    fn output(&self) -> Result<Output> {
        unreachable!("the model has one")
    }

    fn order(&self, _decoders: usize) -> Order {
        if self.plan.lanes {
            let lanes = self.plan.connections;
            Order::Lanes { lanes, depth: 1 }
        } else {
            Order::Any
        }
    }

    fn read(&self, connection: usize, feed: &dyn Feed<Self::Work>) -> Result<()> {
        let abort = &self.context.abort;
        loop {
            let Some(item) = self.items[connection].recv_unless(|| abort.is_raised()) else {
                return Err(if abort.is_raised() {
                    Error::interrupted()
                } else {
                    Error::new(Kind::Failed, "the peer closed the connection")
                });
            };
            match item {
                Item::Begin(round) => assert_eq!(feed.round(), round),
                Item::Page(round, page) => {
                    assert_eq!(feed.round(), round);
                    let piece = (round, page);
                    self.handed[connection].lock().unwrap().push(piece);
                    let lane = if self.plan.lanes { connection } else { 0 };
                    feed.hand(lane, (connection, piece));
                }
                Item::End { last, .. } => match feed.end_round(last) {
                    Ok(()) if last => return Ok(()),
                    Ok(()) => {}
                    // As the wires do: the reason is known elsewhere.
                    Err(NotEnded::Failed) => return Ok(()),
                    Err(NotEnded::Disagreement) => {
                        let words = format!("{PLANNED}: disagreement");
                        return Err(Error::new(Kind::Failed, words));
                    }
                },
            }
        }
    }

    fn decoder<'a>(&'a self, target: &'a DecodeTarget<'a>) -> Box<dyn Decode<Self::Work> + 'a> {
        Box::new(ModelDecoder { wire: self, target })
    }

    fn end(&self, _output: &mut Output) -> Result<Digest> {
        unreachable!("the model ends with the rounds")
    }

    fn proven(&self, _digest: Digest) -> Result<()> {
        unreachable!("the model ends with the rounds")
    }

    fn committed(&self) {}

    fn failed(&mut self, error: Error) -> Error {
        error
    }
}

struct ModelDecoder<'a> {
    wire: &'a ModelWire<'a>,
    target: &'a DecodeTarget<'a>,
}

impl Decode<(usize, Piece)> for ModelDecoder<'_> {
    fn place(&mut self, (lane, piece): (usize, Piece)) -> Result<Tally> {
        let wire = self.wire;
        let (round, page) = piece;
        // Atomics of the model are where the schedule may switch.
        let others = wire.busy[lane].fetch_add(1, Ordering::Relaxed);
        assert!(!wire.plan.lanes || others == 0, "two decoders in a lane");
        if let Some(before) = round.0.checked_sub(1).filter(|&before| before > 0) {
            let before = Round(before);
            let all = pages_of(before).len();
            assert_eq!(wire.placed_of(before), all, "rounds were mixed");
        }
        if wire.plan.fails(Fault::Place, piece) {
            return Err(Error::new(Kind::Failed, format!("{PLANNED}: place")));
        }
        let range = PageRange::between(page, page + 1);
        self.target.proof.touch(0, [range].into_iter());
        let block = &self.target.output.blocks()[0];
        block.place(PageIndex(page), &contents(round, page))?;
        wire.placed[lane].lock().unwrap().push(piece);
        wire.busy[lane].fetch_sub(1, Ordering::Relaxed);
        Ok(Tally::default())
    }
}
