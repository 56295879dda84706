//! The native wire at the destination: frames, messages, and the commit protocol.

mod decode;
mod folder;

use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use crossbeam_channel::RecvTimeoutError;

use crate::description::Description;
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Output;
use crate::page::Digest;
use crate::pool::{Buffers, QUEUE};
use crate::round::Round;
use crate::session::{self, Agreed, Context, LAST_WORDS, PeerFailure, TooLong, last_words};
use crate::stats::{Stage, StageClock, Tally};
use crate::sync;
use crate::transport::{Stream, TransportError};
use crate::wire::native::{FrameKind, Header, MAX_ROUNDS, Message};
use crate::wire::{WireError, must_be};

use super::{Decode, DecodeTarget, Feed, Order, Wire};
use crate::destination::barrier::NotEnded;
use crate::destination::links::{Links, is_closed, source_knows};
use crate::destination::lobby::NativeSource;
use crate::destination::stage::{COMMITTING, RECEIVING};
use decode::{FrameDecoder, ReceivedFrame};
use folder::FolderIntake;

/// A source on the native wire, with all of its connections.
pub(in crate::destination) struct NativeWire<'a> {
    context: &'a Context,
    links: Links,
    agreed: Agreed,
    buffers: Buffers,
    /// Made when the source was greeted, so that it could be refused; then handed over.
    output: Mutex<Option<Output>>,
    /// The source's last message before the proof.
    finish: Mutex<Option<Finish>>,
    /// Held by the one of two threads that writes: keep-alives or answers.
    writing: Mutex<()>,
}

/// `Finish`, and what preceded it.
struct Finish {
    /// The digest of the RAM that was sent.
    digest: Digest,
    /// Of a guest folder.
    description: Option<Description>,
}

impl<'a> NativeWire<'a> {
    /// The source that has been let in.
    pub(in crate::destination) fn new(
        source: NativeSource,
        context: &'a Context,
    ) -> NativeWire<'a> {
        if (source.agreed.capabilities).contains(session::CAPABILITY_GUEST_STAYS) {
            context.stats.set_owner(None);
        }
        let decoders = usize::from(context.tuning.get().decompress_threads);
        // Frames say how large they are; a buffer grows to the largest that it has met.
        let buffers = Buffers::new(1, decoders + QUEUE + 2 * source.links.streams.len());
        NativeWire {
            context,
            links: source.links,
            agreed: source.agreed,
            buffers,
            output: Mutex::new(Some(source.output)),
            finish: Mutex::new(None),
            writing: Mutex::new(()),
        }
    }

    fn say(&self, message: &Message) -> Result<(), TransportError> {
        let _writing = sync::lock(&self.writing);
        session::send_message(self.links.main(), message)
    }

    /// Waits for the source to let go of the guest.
    fn hear_commit(&self) -> Result<()> {
        let main = self.links.main();
        // Nothing that it has to do grows with RAM.
        let limit = session::patience(main.silence(), 0);
        let since = Instant::now();
        loop {
            match session::receive_message(main)? {
                None | Some(Message::KeepAlive) if since.elapsed() <= limit => {}
                None | Some(Message::KeepAlive) => {
                    let too_long = TooLong {
                        awaited: "Commit",
                        peer: "source",
                        limit,
                    };
                    return Err(Error::new(Kind::Failed, too_long));
                }
                Some(Message::Commit) => return Ok(()),
                Some(Message::Failure { reason, text }) => {
                    return Err(session::peer_failure(reason, &text));
                }
                Some(other) => return Err(session::out_of_place(&other, "Commit was expected")),
            }
        }
    }
}

impl Wire for NativeWire<'_> {
    type Work = ReceivedFrame;

    fn links(&self) -> &Links {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }

    /// Sends keep-alives, if the source waits for answers.
    fn attend<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.links.are_two_way() {
            return work();
        }
        let (done, until_done) = crossbeam_channel::bounded::<()>(0);
        thread::scope(|scope| {
            let keep_alive = || {
                let interval = self.agreed.keepalive_interval();
                // Nothing is ever sent on the channel: it ends when its sender is dropped.
                while until_done.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    if self.say(&Message::KeepAlive).is_err() {
                        return;
                    }
                }
            };
            // If it cannot be started, only a long wait is lost; to fail here after the source has
            // let go would be worse.
            let _ = thread::Builder::new()
                .name("keep-alive".into())
                .spawn_scoped(scope, keep_alive);
            let outcome = work();
            // The thread may be waiting for a source that reads nothing.
            self.context.abort_on_error(&outcome);
            drop(done);
            outcome
        })
    }

    fn output(&self) -> Result<Output> {
        let output = sync::lock(&self.output).take();
        output.ok_or_else(|| Error::new(Kind::Failed, "the output is taken already"))
    }

    fn order(&self, _decoders: usize) -> Order {
        Order::Any
    }

    fn read(&self, connection: usize, feed: &dyn Feed<ReceivedFrame>) -> Result<()> {
        let agreed = &self.agreed.capabilities;
        let mut reading = ConnectionReader {
            wire: self,
            feed,
            stream: &self.links.streams[connection],
            is_main: connection == 0,
            round: Round::FIRST,
            frames: 0,
            pages: 0,
            rounds_are_over: false,
            folder: FolderIntake::new(agreed.contains(session::CAPABILITY_GUEST_FOLDER)),
        };
        reading.run()
    }

    fn decoder<'b>(&'b self, target: &'b DecodeTarget<'b>) -> Box<dyn Decode<ReceivedFrame> + 'b> {
        Box::new(FrameDecoder::new(target, &self.buffers))
    }

    fn end(&self, output: &mut Output) -> Result<Digest> {
        let finish = sync::lock(&self.finish).take();
        let finish = finish.ok_or_else(Error::interrupted)?;
        // The digest says nothing of zero pages: a page that never came would pass for one.
        let first = self.context.stats.snapshot().rounds.first().copied();
        must_be(
            "the number of pages in the first round",
            first.map_or(0, |round| round.tally.pages()),
            output.pages(),
        )?;
        if let Some(description) = finish.description {
            output.describe(description);
        }
        if !self.links.are_two_way() {
            // The end of the stream, or a writer that has not hung up yet.
            if let Ok(Some(_)) = self.links.main().try_read(&mut [0]) {
                let what = "the stream goes on after its end";
                return Err(Error::new(Kind::Failed, what).in_stage(RECEIVING));
            }
        }
        Ok(finish.digest)
    }

    fn proven(&self, digest: Digest) -> Result<()> {
        if !self.links.are_two_way() {
            // There is no answer to wait for: this is the last moment to be cancelled.
            if self.context.abort.is_raised() {
                return Err(Error::interrupted());
            }
            return Ok(());
        }
        // From the moment in which the source can have Proven, it may let go: only its answer, or the
        // end of the link, says whether it has.
        let held = self.context.abort.hold().ok_or_else(Error::interrupted)?;
        let outcome = (self.say(&Message::Proven { digest }).map_err(Error::from)).and_then(|()| {
            self.hear_commit()
                .map_err(|error| error.in_stage(COMMITTING))
        });
        let cancelled = self.context.abort.is_asked_for();
        drop(held);
        outcome.map_err(|error| match error.cause::<PeerFailure>() {
            None if cancelled => Error::interrupted(),
            _ => error,
        })
    }

    fn committed(&self) {
        if !self.links.are_two_way() {
            return;
        }
        if self.say(&Message::Committed).is_err() && self.context.abort.is_raised() {
            // It is too late to cancel, and the source has to learn how it ended.
            let main = self.links.main();
            main.last_word(&Message::Committed.to_bytes(), LAST_WORDS);
        }
    }

    fn failed(&mut self, error: Error) -> Error {
        if !source_knows(&error) {
            let message = session::failure_message(&error);
            self.links
                .main()
                .last_word(&message.to_bytes(), last_words(&error));
        }
        if is_closed(&error) {
            return self.links.why_closed().unwrap_or(error);
        }
        error
    }
}

/// One connection on its way to the end of the last round.
struct ConnectionReader<'r> {
    wire: &'r NativeWire<'r>,
    feed: &'r dyn Feed<ReceivedFrame>,
    stream: &'r Stream,
    is_main: bool,
    round: Round,
    /// Frames with pages in this round, on this connection.
    frames: u64,
    /// Pages in them.
    pages: u64,
    rounds_are_over: bool,
    folder: FolderIntake,
}

/// Whether to go on reading a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

impl ConnectionReader<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            let header = session::receive_header(self.stream)?;
            self.round = self.feed.round();
            if self.frame(&header)? == Then::End {
                return Ok(());
            }
        }
    }

    fn frame(&mut self, header: &Header) -> Result<Then> {
        if self.round.0 > MAX_ROUNDS && !self.rounds_are_over {
            return Err(WireError::TooLarge {
                field: "the number of rounds",
                given: self.round.0.into(),
                allowed: MAX_ROUNDS.into(),
            }
            .into());
        }
        let round = self.round.0;
        let in_round = |error: Error| error.in_round(round);
        match header.kind {
            Some(kind @ (FrameKind::Pages | FrameKind::Zeros)) => {
                self.batch(header, kind).map_err(in_round)?;
                Ok(Then::GoOn)
            }
            _ => match session::receive_rest(self.stream, header).map_err(in_round)? {
                None | Some(Message::KeepAlive) => Ok(Then::GoOn),
                Some(Message::RoundEnd {
                    round,
                    frames,
                    pages,
                    last,
                }) => {
                    self.count(round, frames, pages)
                        .map_err(|error| in_round(error.into()))?;
                    self.end_round(last).map_err(in_round)
                }
                Some(message) => self.message(message),
            },
        }
    }

    /// A frame with pages.
    fn batch(&mut self, header: &Header, kind: FrameKind) -> Result<()> {
        self.check(header, kind)?;
        let packet = self.read_packet(header)?;
        self.frames += 1;
        self.pages += u64::from(header.pages);
        self.feed.hand(0, packet);
        Ok(())
    }

    /// Whether a frame with pages may come here.
    fn check(&self, header: &Header, kind: FrameKind) -> Result<(), WireError> {
        if self.rounds_are_over {
            return Err(WireError::OutOfPlace {
                record: kind.name(),
                why: "the last round is over",
            });
        }
        let (given, expected) = (header.round.0, self.round.0);
        must_be("the frame's round", given.into(), expected.into())?;
        let blocks = self.feed.output().blocks().len();
        if usize::from(header.block) >= blocks {
            return Err(WireError::TooLarge {
                field: "the frame's block",
                given: header.block.into(),
                allowed: blocks as u64 - 1,
            });
        }
        Ok(())
    }

    fn read_packet(&self, header: &Header) -> Result<ReceivedFrame> {
        self.wire.context.faults.check(Site::Receive)?;
        let mut tally = Tally::default();
        let mut clock = StageClock::start();
        let len = header.rest_len();
        let mut bytes = self.wire.buffers.take_for(len)?;
        self.stream.read(&mut bytes[..len])?;
        clock.cut(&mut tally.cpu, Stage::Socket);
        Ok(ReceivedFrame {
            header: *header,
            bytes,
            tally,
        })
    }

    /// Whether `RoundEnd` agrees with what has come.
    fn count(&self, ended: Round, frames: u64, pages: u64) -> Result<(), WireError> {
        if self.rounds_are_over {
            return Err(WireError::OutOfPlace {
                record: "RoundEnd",
                why: "the last round is over",
            });
        }
        must_be("the round that ends", ended.0.into(), self.round.0.into())?;
        must_be("the number of frames in the round", self.frames, frames)?;
        // A header counts pages modulo 2^32.
        let (counted, pages) = (self.pages as u32, pages as u32);
        let field = "the number of pages in the round";
        must_be(field, counted.into(), pages.into())
    }

    fn end_round(&mut self, last: bool) -> Result<Then> {
        (self.frames, self.pages, self.rounds_are_over) = (0, 0, last);
        match self.feed.end_round(last) {
            Ok(()) if last && !self.is_main => Ok(Then::End),
            Ok(()) => Ok(Then::GoOn),
            // The error that ended it has been kept.
            Err(NotEnded::Failed) => Ok(Then::End),
            Err(NotEnded::Disagreement) => Err(WireError::OutOfPlace {
                record: "RoundEnd",
                why: "the connections disagree about which round is the last",
            }
            .into()),
        }
    }

    /// A message that is neither part of a round nor its end.
    fn message(&mut self, message: Message) -> Result<Then> {
        let may_end = self.is_main && self.rounds_are_over;
        match message {
            Message::Description(_)
            | Message::DeviceState { .. }
            | Message::DeviceStateEnd { .. }
                if may_end =>
            {
                self.folder.take(message, self.feed.output())?;
                Ok(Then::GoOn)
            }
            Message::Finish { digest } if may_end => {
                let description = self.folder.end()?;
                *sync::lock(&self.wire.finish) = Some(Finish {
                    digest,
                    description,
                });
                Ok(Then::End)
            }
            Message::Failure { reason, text } => {
                Err(session::peer_failure(reason, &text).in_round(self.round.0))
            }
            other => {
                let error = session::out_of_place(&other, "rounds are under way");
                Err(error.in_round(self.round.0))
            }
        }
    }
}
