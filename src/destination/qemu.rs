//! What a QEMU sends: parsed by one thread, decoded by M others, and in the end the devices.
//!
//! ```text
//! receive   x 1   link -> records -> Batch   by block and page, so that a page's records stay in order
//! decode    x M   Batch -> place             inflate, apply deltas, hash, pwrite (decode/qemu.rs)
//! ```
//!
//! QEMU's stream has no rounds, and a page may occur in it any number of times. Each stretch of
//! pages belongs to one decoder, whose queue keeps order: the last copy wins, and a delta meets the
//! page that precedes it, without anybody waiting for anybody.
//!
//! The stream has no hash of the guest's RAM either. What is proven is that the output holds what
//! the records made: their hashes are kept, 16 bytes a page, and compared with what is read back.
//!
//! Nothing is answered unless the source opens QEMU's return path.
//!
//! Memory: some 450 KiB a batch (its bytes and the list of its records), six batches a decoder, and
//! the hashes of pages that are not zero. None of it grows with what a stream announces.

use std::sync::Mutex;
use std::thread;

use bytes::BytesMut;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::description::Description;
use crate::dirty::PageHashes;
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Output;
use crate::page::{Digest, PAGE_SIZE, PageRange};
use crate::round::Round;
use crate::session::{Context, Phase};
use crate::stats::{Stage, StageClock, StageTimes};
use crate::sync;
use crate::transport::{Stream, TransportError};
use crate::wire::qemu::return_path::Reply;
use crate::wire::qemu::{Command, Element, MAX_ELEMENT, Parser, Record, SWITCHOVER_START, tail};

use super::accept::Others;
use super::decode::{Batch, DecodeQemu, Entry, STRETCH};
use super::prove::Proof;
use super::{LAST_WORDS, Request};

/// Bytes that are read and handed to decoders together.
const CHUNK: usize = 256 << 10;
/// Batches that may wait for each decoder.
const DEPTH: usize = 4;
/// Records for one decoder that are handed on together at most: the shortest have 9 bytes and would
/// else take several times as much memory here.
const MAX_ENTRIES: usize = 4096;
/// Bytes of device state that are kept to find their end in: QEMU's description is a tenth of a MiB.
const MAX_END: usize = 32 << 20;

/// The stream ended where it may not.
#[derive(Debug, thiserror::Error)]
#[error("the stream ends after {bytes} bytes, in the middle of {what}")]
struct Cut {
    bytes: u64,
    what: &'static str,
}

/// Receives a guest from a QEMU, of whose stream `head` has been read, while others may connect.
pub(super) fn receive(
    stream: &mut Stream,
    (head, others): (&[u8], Option<Others>),
    request: &Request,
    context: &Context,
) -> Result<()> {
    let mut link = Link {
        stream,
        return_path: false,
    };
    let outcome = guest(&mut link, (head, others), request, context);
    // If the output is there, what becomes of the link is no matter now.
    link.last_word(Reply::Shut(u32::from(outcome.is_err())));
    context
        .stats
        .bytes(link.stream.received(), link.stream.sent());
    match outcome {
        Ok(()) => {
            context.end(&Ok(()));
            Ok(())
        }
        Err(error) => {
            let closed = matches!(error.cause(), Some(TransportError::Closed))
                || error.cause::<Cut>().is_some();
            match link.stream.why_closed().filter(|_| closed) {
                Some(why) => Err(why.into()),
                None => Err(error),
            }
        }
    }
}

/// The one connection, and whether the source wants to be answered on it.
struct Link<'a> {
    stream: &'a mut Stream,
    return_path: bool,
}

impl Link<'_> {
    fn say(&self, reply: Reply) -> Result<(), TransportError> {
        if self.return_path {
            self.stream.write(&reply.to_bytes(), &[])?;
        }
        Ok(())
    }

    /// Says how it ended, to a source that may be gone, or never read, or still be sending.
    fn last_word(&self, reply: Reply) {
        if self.return_path {
            self.stream.last_word(&reply.to_bytes(), LAST_WORDS);
        }
    }

    fn obey(&mut self, command: &Command) -> Result<()> {
        match command {
            // A stored stream may have it as well; then nobody listens.
            Command::OpenReturnPath => self.return_path = self.stream.is_two_way(),
            Command::Ping(value) => self.say(Reply::Pong(*value))?,
            Command::SwitchoverStart => {}
        }
        Ok(())
    }
}

/// The phases, top-down.
fn guest(
    link: &mut Link<'_>,
    (head, others): (&[u8], Option<Others>),
    request: &Request,
    context: &Context,
) -> Result<()> {
    let mut reading = Reading::new(head);
    let mut description = preamble(&mut reading, link)?;
    if let Some(others) = others {
        others.refuse_multifd(context)?;
    }
    let blocks: Vec<(String, u64)> = reading
        .parser
        .blocks()
        .iter()
        .map(|block| (block.name.clone(), block.bytes))
        .collect();
    let mut output = match &request.block {
        Some(keep) => Output::only(&request.output, &blocks, keep, request.force)?,
        None => Output::folder(&request.output, &blocks, request.force)?,
    };
    context.stats.ram(output.pages() * PAGE_SIZE as u64, 1);
    context.begin_round(Round::FIRST, link.stream.received())?;
    context.stats.round_pages(output.pages());

    let sent = ram(&mut reading, link, &output, &mut description, context)?;
    context.stats.end_round(link.stream.received());
    devices(&mut reading, link, &output, context)?;
    // A command that failed may have written all the same.
    if !link.stream.is_two_way() {
        link.stream.finish()?;
    }
    super::prove(sent, Proof::default(), &mut output, context)?;
    if context.abort.is_raised() {
        return Err(Error::interrupted());
    }
    context.enter(Phase::Commit)?;
    output.describe(description);
    output.commit()?;
    context.stats.proven(sent);
    Ok(())
}

/// Everything in front of RAM.
fn preamble(reading: &mut Reading, link: &mut Link<'_>) -> Result<Description> {
    let mut description = Description::default();
    loop {
        match reading.element(link.stream)?.0 {
            Element::Configuration {
                machine,
                subsections,
            } => {
                description.machine = machine;
                description.configuration = subsections;
            }
            Element::Command(command) => link.obey(&command)?,
            Element::Section { id, .. } => description.ram_section_id = id,
            Element::Blocks => return Ok(description),
            _ => {}
        }
    }
}

/// RAM, until its END section is closed. Returns the digest of what the records made.
fn ram(
    reading: &mut Reading,
    link: &mut Link<'_>,
    output: &Output,
    description: &mut Description,
    context: &Context,
) -> Result<Digest> {
    let decoders = usize::from(context.tuning.get().decompress_threads);
    let hashes = PageHashes::new(output.pages());
    let failure = Mutex::new(None);
    let fail = |error: Error| {
        sync::lock(&failure).get_or_insert(error);
        context.abort.raise();
    };
    let received = thread::scope(|scope| {
        let mut lanes = Vec::new();
        for lane in 0..decoders {
            let (batches, queue) = bounded(DEPTH);
            lanes.push(Lane {
                batches,
                entries: Vec::new(),
            });
            let (hashes, fail) = (&hashes, &fail);
            thread::Builder::new()
                .name(format!("decode-{lane}"))
                .spawn_scoped(scope, move || {
                    let done = Error::catch("decode", || decode(&queue, output, hashes, context));
                    if let Err(error) = done {
                        fail(error);
                    }
                })
                .map_err(|error| Error::new(Kind::Failed, error).in_stage("start a thread"))?;
        }
        Error::catch("receive", || {
            records(reading, link, &mut lanes, description, context)
        })
        .map_err(|error| error.in_stage("receive"))
    });
    let failure = sync::ignore_poison(failure.into_inner());
    match (received, failure) {
        (_, Some(error)) | (Err(error), None) => Err(error),
        (Ok(()), None) => Ok(Digest(context.stats.snapshot().total.hashes)),
    }
}

/// A decoder's queue, and the records that are to go there next.
struct Lane {
    batches: Sender<Batch>,
    entries: Vec<Entry>,
}

/// Hands each record to the decoder that its page belongs to.
fn records(
    reading: &mut Reading,
    link: &mut Link<'_>,
    lanes: &mut [Lane],
    description: &mut Description,
    context: &Context,
) -> Result<()> {
    let mut clock = StageClock::start();
    loop {
        while let Some((element, end)) = reading.next()? {
            match element {
                Element::Record(record) => {
                    let stretch = record.page.0 / STRETCH + u64::from(record.block);
                    let lane = (stretch % lanes.len() as u64) as usize;
                    if lanes[lane].add(&record, end) && !reading.dispatch(lanes) {
                        // A decoder has failed, and says so itself.
                        return Err(Error::interrupted());
                    }
                }
                Element::Command(command) => {
                    link.obey(&command)?;
                    if command == Command::SwitchoverStart {
                        description.commands.push((SWITCHOVER_START, Vec::new()));
                        description
                            .check()
                            .map_err(|error| Error::new(Kind::Failed, error))?;
                    }
                }
                Element::Tail => {
                    reading.dispatch(lanes);
                    let mut times = StageTimes::default();
                    clock.cut(&mut times, Stage::Socket);
                    let time = times.get(Stage::Socket);
                    context.stats.add_cpu(Stage::Socket, time);
                    return Ok(());
                }
                _ => {}
            }
        }
        let due = reading.parsed >= CHUNK / 2 || reading.is_full();
        if due && !reading.dispatch(lanes) {
            return Err(Error::interrupted());
        }
        context.faults.check(Site::Receive)?;
        context
            .stats
            .bytes(link.stream.received(), link.stream.sent());
        if !reading.fill(link.stream)? {
            return Err(reading.cut());
        }
    }
}

impl Lane {
    /// `end` is where the record ends within the bytes that are handed on with it. Returns whether
    /// that must be now.
    fn add(&mut self, record: &Record, end: usize) -> bool {
        let payload = end - usize::from(record.payload)..end;
        let pages = PageRange {
            start: record.page,
            count: 1,
        };
        self.entries.push(Entry {
            block: record.block,
            pages,
            kind: record.kind,
            payload,
        });
        self.entries.len() >= MAX_ENTRIES
    }
}

/// What a decoder thread does, until there are no more batches.
fn decode(
    queue: &Receiver<Batch>,
    output: &Output,
    hashes: &PageHashes,
    context: &Context,
) -> Result<()> {
    let mut worker = DecodeQemu::new(context, output, hashes);
    for batch in queue {
        let tally = worker.place(&batch)?;
        context.stats.add(&tally);
    }
    Ok(())
}

/// Everything behind RAM: kept as it is.
fn devices(
    reading: &mut Reading,
    link: &Link<'_>,
    output: &Output,
    context: &Context,
) -> Result<()> {
    // The end of it, in which the description shows whether it is complete.
    let mut end = Vec::new();
    loop {
        output.append_device_state(reading.rest())?;
        if end.len() > MAX_END {
            end.drain(..end.len() - MAX_END / 2);
        }
        end.extend_from_slice(reading.rest());
        reading.skip_rest();
        // Who waits for an answer does not hang up: the stream's own end has to be found.
        if link.return_path && link.stream.is_idle() && tail::has_description(&end) {
            return Ok(());
        }
        context
            .stats
            .bytes(link.stream.received(), link.stream.sent());
        if !reading.fill(link.stream)? {
            break;
        }
    }
    if tail::is_complete(&end) {
        Ok(())
    } else {
        Err(reading.cut())
    }
}

/// Bytes of the stream that are read and not yet handed on.
struct Reading {
    parser: Parser,
    buffer: BytesMut,
    /// How much of the buffer holds bytes of the stream.
    filled: usize,
    /// How much of it is parsed.
    parsed: usize,
    /// Bytes that have been read from the stream.
    read: u64,
}

impl Reading {
    fn new(head: &[u8]) -> Reading {
        let mut buffer = BytesMut::zeroed(CHUNK + MAX_ELEMENT);
        buffer[..head.len()].copy_from_slice(head);
        Reading {
            parser: Parser::new(),
            buffer,
            filled: head.len(),
            parsed: 0,
            read: head.len() as u64,
        }
    }

    /// The next element, if all of it has been read, and where in the buffer it ends.
    fn next(&mut self) -> Result<Option<(Element, usize)>> {
        let bytes = &self.buffer[self.parsed..self.filled];
        let Some((element, len)) = self.parser.next(bytes)? else {
            return Ok(None);
        };
        self.parsed += len;
        Ok(Some((element, self.parsed)))
    }

    /// The next element, waited for.
    fn element(&mut self, stream: &Stream) -> Result<(Element, usize)> {
        loop {
            if let Some(found) = self.next()? {
                return Ok(found);
            }
            // Nothing refers to what is parsed, and there may be any number of commands.
            let _ = self.buffer.split_to(self.parsed);
            (self.filled, self.parsed) = (self.filled - self.parsed, 0);
            if !self.fill(stream)? {
                return Err(self.cut());
            }
        }
    }

    /// Reads what there is, and waits for something if there is nothing. `false` at the end.
    fn fill(&mut self, stream: &Stream) -> Result<bool> {
        if self.is_full() {
            // What is parsed stays in front: records that refer to it may not be handed on yet.
            let mut buffer = BytesMut::zeroed(self.filled + CHUNK + MAX_ELEMENT);
            buffer[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
            self.buffer = buffer;
        }
        let read = stream.read_some(&mut self.buffer[self.filled..])?;
        self.filled += read;
        self.read += read as u64;
        Ok(read > 0)
    }

    /// Whether the buffer has no room for an element.
    fn is_full(&self) -> bool {
        self.buffer.len() - self.filled < MAX_ELEMENT
    }

    /// Hands what is parsed to the decoders. `false` if one of them is gone.
    fn dispatch(&mut self, lanes: &mut [Lane]) -> bool {
        let bytes = self.buffer.split_to(self.parsed).freeze();
        (self.filled, self.parsed) = (self.filled - self.parsed, 0);
        lanes.iter_mut().all(|lane| {
            lane.entries.is_empty()
                || lane
                    .batches
                    .send(Batch {
                        bytes: bytes.clone(),
                        entries: std::mem::take(&mut lane.entries),
                    })
                    .is_ok()
        })
    }

    /// What is read and not parsed.
    fn rest(&self) -> &[u8] {
        &self.buffer[self.parsed..self.filled]
    }

    fn skip_rest(&mut self) {
        (self.filled, self.parsed) = (0, 0);
    }

    /// The stream ended where it may not.
    fn cut(&self) -> Error {
        let what = self.parser.expecting();
        Error::new(
            Kind::Failed,
            Cut {
                bytes: self.read,
                what,
            },
        )
    }
}
