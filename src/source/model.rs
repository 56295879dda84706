//! The source's pipeline under the model checker, on a wire of page numbers; see `src/model.rs`.

use std::collections::HashSet;
use std::fs::File;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use super::job::{Job, Packet, SendState};
use super::links::Links;
use super::pipeline::{self, Pipeline};
use super::wire::{AllSent, Batches, Channel, Encode, KeepAlive, Wire};
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::model::{Fault, Item, PLANNED, Plan, pages_of};
use crate::page::{PageIndex, PageRange};
use crate::pool::FirstError;
use crate::round::{Baseline, Round, RoundMark};
use crate::session::Context;
use crate::sync::channel::Sender;
use crate::transport::Stream;
use crate::writer::Stopped;

/// The sender's ends of the connections.
#[derive(Debug)]
struct ModelWire<'a> {
    links: Vec<Sender<Item>>,
    context: &'a Context,
    plan: Plan,
    /// Where the buffers are that were ever taken.
    buffers: StdMutex<HashSet<usize>>,
}

/// Sends all rounds of the plan.
pub(crate) fn send(
    guest: &Arc<Guest>,
    context: &Context,
    links: Vec<Sender<Item>>,
    plan: Plan,
) -> Result<()> {
    let null = |_: &Sender<Item>| {
        let null = File::options().write(true).open("/dev/null").unwrap();
        Stream::new(null.into(), Arc::clone(&context.abort), Duration::ZERO).unwrap()
    };
    let streams = Links::to(links.iter().map(null).collect());
    let state = SendState::new(context, &streams, context.caps, false)?;
    let wire = ModelWire {
        links,
        context,
        plan,
        buffers: StdMutex::default(),
    };
    let errors = FirstError::default();
    pipeline::run(&state, &wire, &errors, |pipeline| {
        (1..=plan.rounds).try_for_each(|round| send_round(pipeline, guest, Round(round), plan))
    })?;
    let taken = wire.buffers.into_inner().unwrap().len();
    assert_eq!(state.buffers.waiting(), taken, "a buffer did not come back");
    // Only of a thread that was not needed, or of a cancel when everything was sent.
    let passed_over = errors.take().map(|error| error.kind());
    let harmless = plan.fault == Fault::Thread || passed_over == Some(Kind::Interrupted);
    assert!(
        passed_over.is_none() || harmless,
        "an error was passed over"
    );
    Ok(())
}

fn send_round(
    pipeline: &mut Pipeline<'_, '_>,
    guest: &Arc<Guest>,
    round: Round,
    plan: Plan,
) -> Result<()> {
    let mark = RoundMark {
        round,
        baseline: Baseline::Fresh.before(round),
        last: round.0 == plan.rounds,
    };
    pipeline.begin_round(mark)?;
    for page in pages_of(round) {
        pipeline.push(Job {
            guest: Arc::clone(guest),
            block: 0,
            mark,
            hole: false,
            ranges: vec![PageRange::between(page, page + 1)],
        })?;
    }
    if mark.last {
        pipeline.wait_for_leave()?;
    }
    pipeline.end_round(mark)
}

impl Wire for ModelWire<'_> {
    fn batches(&self) -> Batches {
        Batches {
            hole_pages: 1,
            in_order: false,
        }
    }

    fn encoder<'a>(&'a self, state: &'a SendState<'a>) -> Box<dyn Encode + 'a> {
        Box::new(ModelEncoder { wire: self, state })
    }

    fn channel(&self, connection: usize) -> Box<dyn Channel + '_> {
        let wire = self;
        Box::new(ModelChannel { wire, connection })
    }

    fn finish<'w>(
        &self,
        _all: AllSent<'w>,
        _links: &Links,
        _context: &Context,
    ) -> Result<Option<Stopped<'w>>> {
        unreachable!("the model ends with the rounds")
    }

    fn farewell(&self, _error: &Error) -> Vec<u8> {
        Vec::new()
    }
}

fn planned(what: &str) -> Error {
    Error::new(Kind::Failed, format!("{PLANNED}: {what}"))
}

struct ModelEncoder<'a> {
    wire: &'a ModelWire<'a>,
    state: &'a SendState<'a>,
}

impl Encode for ModelEncoder<'_> {
    fn encode(&mut self, job: &Job, _busy: bool) -> Result<Packet> {
        let round = job.mark.round;
        let PageIndex(page) = job.pages().next().unwrap();
        let body = self.state.buffers.take().unwrap();
        self.wire
            .buffers
            .lock()
            .unwrap()
            .insert(body.as_ptr().addr());
        if self.wire.plan.fails(Fault::Encode, (round, page)) {
            return Err(planned("encode"));
        }
        Ok(Packet {
            head: vec![round.0 as u8, page as u8],
            body,
            ..Packet::default()
        })
    }
}

struct ModelChannel<'a> {
    wire: &'a ModelWire<'a>,
    connection: usize,
}

impl ModelChannel<'_> {
    /// As a write to a socket: waits for room, until the peer is gone or the session aborted.
    fn put(&self, item: Item) -> Result<()> {
        let abort = &self.wire.context.abort;
        let sender = &self.wire.links[self.connection];
        if sender.send_unless(item, || abort.is_raised()) {
            Ok(())
        } else if abort.is_raised() {
            Err(Error::interrupted())
        } else {
            Err(Error::new(Kind::Failed, "the peer closed the connection"))
        }
    }
}

impl Channel for ModelChannel<'_> {
    fn begin_round(&mut self, mark: RoundMark) -> Vec<u8> {
        // A write that fails here is met by the next.
        let _ = self.put(Item::Begin(mark.round));
        vec![0]
    }

    fn seal(&mut self, packet: Packet) -> Result<Packet> {
        let (round, page) = (Round(packet.head[0].into()), packet.head[1].into());
        if self.wire.plan.fails(Fault::Seal, (round, page)) {
            return Err(planned("send"));
        }
        self.put(Item::Page(round, page))?;
        Ok(packet)
    }

    fn end_round(&mut self, mark: RoundMark) -> Vec<u8> {
        let lies = self.wire.plan.fault == Fault::Disagree && self.connection == 1;
        let last = mark.last != (lies && mark.round == self.wire.plan.at.0);
        let round = mark.round;
        let _ = self.put(Item::End { round, last });
        vec![0]
    }

    fn keep_alive(&self) -> Option<KeepAlive> {
        Some(KeepAlive {
            after: Duration::from_millis(1),
            bytes: vec![0],
        })
    }
}
