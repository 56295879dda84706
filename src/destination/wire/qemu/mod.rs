//! A QEMU's stream at the destination: parsed by one thread, decoded by M others, and in the end the
//! devices.
//!
//! QEMU's stream has no rounds, and a page may occur in it any number of times. Each stretch of
//! pages belongs to a lane, whose decoder keeps order: the last copy wins, and a delta meets the
//! page that precedes it, without one decoder waiting for another.
//!
//! Nor does the stream have a hash of the guest's RAM. What is proven is that the output holds what
//! the records made: their hashes are kept, 16 bytes a page, and compared with what is read back.
//!
//! Nothing is answered unless the source opens QEMU's return path.
//!
//! Memory: some 450 KiB a batch of records (its bytes and their list), six batches a decoder, and
//! the hashes of pages that are not zero. None of it grows with what a stream announces.

mod decode;
mod reading;

use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use crate::description::Description;
use crate::dirty::PageHashes;
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Output;
use crate::page::Digest;
use crate::session::{Context, LAST_WORDS, last_words};
use crate::stats::{Stage, StageClock, StageTimes};
use crate::sync;
use crate::wire::qemu::return_path::Reply;
use crate::wire::qemu::{Arrivals, Command, Element, Record, SWITCHOVER_START, tail};

use super::{Decode, DecodeTarget, Feed, Order, Wire};
use crate::destination::links::{Links, is_closed};
use crate::destination::lobby::{Lobby, QemuSource};
use crate::destination::request::Request;
use decode::{PageRecord, RecordBatch, RecordDecoder, STRETCH};
use reading::{Cut, Reading};

/// Batches that may wait for each decoder.
const DEPTH: usize = 4;
/// The most records that are handed to a decoder together: the shortest have 9 bytes, and their list
/// would take several times as much memory as they do.
const MAX_ENTRIES: usize = 4096;
/// Bytes of device state that are kept to find the end in. QEMU's description has some 100 KiB.
const MAX_END: usize = 32 << 20;

/// A QEMU that sends.
pub(in crate::destination) struct QemuWire<'a> {
    request: &'a Request,
    context: &'a Context,
    links: Links,
    /// The hash of each page as the records made it, by its key.
    hashes: OnceLock<PageHashes>,
    state: Mutex<QemuState>,
}

/// How far the stream has been read, and what it said so far.
struct QemuState {
    reading: Reading,
    description: Description,
    /// Device state that came before the list of blocks, until there is an output to keep it.
    early: Vec<u8>,
    arrivals: Arrivals,
    /// Whether the source opened the return path, and there is a way back.
    return_path: bool,
    /// Other connections, and the listener that more can come to.
    others: Option<Lobby>,
}

impl<'a> QemuWire<'a> {
    /// The QEMU that has connected.
    pub(in crate::destination) fn new(
        source: QemuSource,
        request: &'a Request,
        context: &'a Context,
    ) -> QemuWire<'a> {
        QemuWire {
            request,
            context,
            links: source.links,
            hashes: OnceLock::new(),
            state: Mutex::new(QemuState {
                reading: Reading::new(&source.head),
                description: Description::default(),
                early: Vec::new(),
                arrivals: Arrivals::default(),
                return_path: false,
                others: source.others,
            }),
        }
    }

    /// Reads the stream up to the first record of RAM.
    fn preamble(&self, state: &mut QemuState) -> Result<()> {
        loop {
            match state.reading.element(self.links.main())?.0 {
                Element::Configuration {
                    machine,
                    subsections,
                } => {
                    state.description.machine = machine;
                    state.description.configuration = subsections;
                }
                Element::Command(command) => self.obey(command, state)?,
                Element::EarlyState(bytes) => state.early.extend_from_slice(&bytes),
                Element::Section { id, .. } => state.description.ram_section_id = id,
                Element::Blocks => {
                    state.arrivals = Arrivals::new(state.reading.blocks());
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    fn obey(&self, command: Command, state: &mut QemuState) -> Result<()> {
        match command {
            // A stored stream may have this as well, but there is no way to answer it.
            Command::OpenReturnPath => state.return_path = self.links.are_two_way(),
            Command::Ping(value) if state.return_path => {
                self.links
                    .main()
                    .write(&Reply::Pong(value).to_bytes(), &[])?;
            }
            Command::Ping(_) | Command::SwitchoverStart => {}
        }
        Ok(())
    }

    /// Hands each record to the lane of its page, until RAM's last section is closed.
    fn records(&self, state: &mut QemuState, feed: &dyn Feed<RecordBatch>) -> Result<()> {
        let mut lanes: Vec<Vec<PageRecord>> = (0..feed.lanes()).map(|_| Vec::new()).collect();
        loop {
            while let Some((element, end)) = state.reading.next()? {
                match element {
                    Element::Record(record) => {
                        state.arrivals.note(&record);
                        let stretch = record.page.0 / STRETCH + u64::from(record.block);
                        let lane = (stretch % lanes.len() as u64) as usize;
                        lanes[lane].push(entry(&record, end));
                        if lanes[lane].len() >= MAX_ENTRIES {
                            hand_over(&mut state.reading, &mut lanes, feed);
                        }
                    }
                    Element::Command(command) => self.command(command, state)?,
                    Element::EarlyState(bytes) => {
                        feed.output().append_device_state(&bytes)?;
                        state.description.early.after_blocks += bytes.len() as u64;
                    }
                    Element::Tail => {
                        hand_over(&mut state.reading, &mut lanes, feed);
                        return Ok(());
                    }
                    _ => {}
                }
            }
            if state.reading.is_due() {
                hand_over(&mut state.reading, &mut lanes, feed);
            }
            self.context.faults.check(Site::Receive)?;
            self.count_bytes();
            if !state.reading.fill(self.links.main())? {
                return Err(state.reading.cut());
            }
        }
    }

    /// A command between RAM's sections.
    fn command(&self, command: Command, state: &mut QemuState) -> Result<()> {
        self.obey(command, state)?;
        if command == Command::SwitchoverStart {
            let description = &mut state.description;
            description.commands.push((SWITCHOVER_START, Vec::new()));
            description
                .check()
                .map_err(|error| Error::new(Kind::Failed, error))?;
        }
        Ok(())
    }

    /// Stores everything that follows RAM, unchanged, after the early device state. Returns its last
    /// bytes, with the stream's description.
    fn devices(&self, state: &mut QemuState, output: &Output) -> Result<Vec<u8>> {
        let reading = &mut state.reading;
        // The description in them shows that the stream is complete.
        let mut end = Vec::new();
        loop {
            output.append_device_state(reading.rest())?;
            if end.len() > MAX_END {
                end.drain(..end.len() - MAX_END / 2);
            }
            end.extend_from_slice(reading.rest());
            reading.skip_rest();
            // A source that waits for an answer does not hang up, so the end has to be found.
            let main = self.links.main();
            if state.return_path && main.is_idle() && tail::has_description(&end) {
                return Ok(end);
            }
            self.count_bytes();
            if !reading.fill(main)? {
                break;
            }
        }
        if tail::is_complete(&end) {
            Ok(end)
        } else {
            Err(reading.cut())
        }
    }

    fn count_bytes(&self) {
        let (received, sent) = (self.links.received(), self.links.sent());
        self.context.stats.bytes(received, sent);
    }

    /// Answers how it ended, if the source wants to know. It may be gone, never read, or still send.
    fn shut(&self, code: u32, limit: Duration) {
        if sync::lock(&self.state).return_path {
            let reply = Reply::Shut(code).to_bytes();
            self.links.main().last_word(&reply, limit);
        }
    }
}

impl Wire for QemuWire<'_> {
    type Work = RecordBatch;

    fn links(&self) -> &Links {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }

    fn output(&self) -> Result<Output> {
        let state = &mut *sync::lock(&self.state);
        self.preamble(state)?;
        if let Some(others) = state.others.take() {
            others.refuse_multifd(self.context)?;
        }
        let blocks: Vec<(String, u64)> = (state.reading.blocks().iter())
            .map(|block| (block.name.clone(), block.bytes))
            .collect();
        let (path, force) = (&self.request.output, self.request.force);
        let output = match &self.request.block {
            Some(keep) => Output::only(path, &blocks, keep, force)?,
            None => Output::folder(path, &blocks, force)?,
        };
        let early = std::mem::take(&mut state.early);
        output.append_device_state(&early)?;
        state.description.early.before_blocks = early.len() as u64;
        self.hashes.get_or_init(|| PageHashes::new(output.pages()));
        Ok(output)
    }

    fn order(&self, decoders: usize) -> Order {
        Order::Lanes {
            lanes: decoders,
            depth: DEPTH,
        }
    }

    fn read(&self, _connection: usize, feed: &dyn Feed<RecordBatch>) -> Result<()> {
        let state = &mut *sync::lock(&self.state);
        let mut clock = StageClock::start();
        let read = self.records(state, feed);
        let mut times = StageTimes::default();
        clock.cut(&mut times, Stage::Socket);
        self.context
            .stats
            .add_cpu(Stage::Socket, times.get(Stage::Socket));
        if let Err(error) = read {
            // Decoders may still find an earlier fault in what precedes this one: then that is the
            // one to report.
            feed.settle();
            return Err(error);
        }
        // One connection cannot disagree, and if the session has failed, the error has been kept.
        let _ = feed.end_round(true);
        Ok(())
    }

    fn decoder<'b>(&'b self, target: &'b DecodeTarget<'b>) -> Box<dyn Decode<RecordBatch> + 'b> {
        let hashes = self
            .hashes
            .get_or_init(|| PageHashes::new(target.output.pages()));
        Box::new(RecordDecoder::new(target, hashes))
    }

    fn end(&self, output: &mut Output) -> Result<Digest> {
        let state = &mut *sync::lock(&self.state);
        let end = self.devices(state, output)?;
        let missing = state.arrivals.missing();
        if !missing.is_empty() {
            (state.arrivals).check(tail::sections(&end).has_virtio_mem())?;
        }
        self.context.stats.missing(missing);
        output.describe(std::mem::take(&mut state.description));
        Ok(Digest(self.context.stats.snapshot().total.hashes))
    }

    fn proven(&self, _digest: Digest) -> Result<()> {
        if self.context.abort.is_raised() {
            return Err(Error::interrupted());
        }
        Ok(())
    }

    fn committed(&self) {
        self.shut(0, LAST_WORDS);
    }

    fn failed(&mut self, error: Error) -> Error {
        self.shut(1, last_words(&error));
        if is_closed(&error) || error.cause::<Cut>().is_some() {
            return self.links.why_closed().unwrap_or(error);
        }
        error
    }
}

/// `end` is where the record ends within the bytes that are handed over with it.
fn entry(record: &Record, end: usize) -> PageRecord {
    PageRecord {
        block: record.block,
        page: record.page,
        kind: record.kind,
        payload: end - usize::from(record.payload)..end,
    }
}

/// Hands what is parsed to the decoders.
fn hand_over(reading: &mut Reading, lanes: &mut [Vec<PageRecord>], feed: &dyn Feed<RecordBatch>) {
    let bytes = reading.take_parsed();
    for (lane, entries) in lanes.iter_mut().enumerate() {
        if !entries.is_empty() {
            let entries = std::mem::take(entries);
            let bytes = bytes.clone();
            feed.hand(lane, RecordBatch { bytes, entries });
        }
    }
}
