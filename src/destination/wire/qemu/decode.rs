//! RecordBatch of QEMU's stream: from their payload to pages in their place, in the order in which they
//! came.

use std::ops::Range;

use bytes::Bytes;

use crate::codec::{self, Decoder, Method};
use crate::delta;
use crate::dirty::PageHashes;
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::{Block, Output};
use crate::page::{PAGE_SIZE, PageIndex, PageRange};
use crate::session::Context;
use crate::stats::{Stage, StageClock, Tally};
use crate::wire::qemu::RecordKind;

use crate::destination::stage::DECODING;
use crate::destination::wire::{Decode, DecodeTarget};

/// Neighbouring pages that belong to the same lane, and are placed together where they can be.
pub(super) const STRETCH: u64 = 64;

/// A record: how a page is made.
#[derive(Debug, Clone)]
pub(super) struct PageRecord {
    pub(super) block: u16,
    pub(super) page: PageIndex,
    pub(super) kind: RecordKind,
    /// Where the payload lies within the batch's bytes.
    pub(super) payload: Range<usize>,
}

/// RecordBatch of one lane, in their order.
#[derive(Debug)]
pub(in crate::destination) struct RecordBatch {
    pub(super) bytes: Bytes,
    pub(super) entries: Vec<PageRecord>,
}

/// Places records. Its buffers and its decompressor live as long as its thread.
pub(super) struct RecordDecoder<'a> {
    context: &'a Context,
    output: &'a Output,
    /// The hash of each page as it is now, by its key.
    hashes: &'a PageHashes,
    inflate: Box<dyn Decoder>,
    /// Neighbouring pages that are decoded and not yet placed: one write instead of many.
    run: Vec<u8>,
    run_block: u16,
    run_start: u64,
    /// Of the batch in hand.
    tally: Tally,
    clock: StageClock,
}

impl Decode<RecordBatch> for RecordDecoder<'_> {
    fn place(&mut self, batch: RecordBatch) -> Result<Tally> {
        self.context.faults.check(Site::Decode)?;
        (self.tally, self.clock) = (Tally::default(), StageClock::start());
        for entry in &batch.entries {
            let payload = batch.bytes.get(entry.payload.clone()).unwrap_or_default();
            self.take(entry, payload)
                .map_err(|error| error.in_stage(DECODING).at_page(entry.page.0))?;
        }
        self.flush()?;
        self.tally.frames = 1;
        Ok(self.tally)
    }
}

impl<'a> RecordDecoder<'a> {
    pub(super) fn new(target: &DecodeTarget<'a>, hashes: &'a PageHashes) -> Self {
        RecordDecoder {
            context: target.context,
            output: target.output,
            hashes,
            inflate: codec::decoder(Method::Zlib),
            run: Vec::with_capacity(STRETCH as usize * PAGE_SIZE),
            run_block: 0,
            run_start: 0,
            tally: Tally::default(),
            clock: StageClock::start(),
        }
    }

    fn take(&mut self, entry: &PageRecord, payload: &[u8]) -> Result<()> {
        match (entry.kind, payload) {
            (RecordKind::Zero, [0]) => return self.clear(entry),
            // QEMU up to 9 fills the page with any byte.
            (RecordKind::Zero, [fill]) => {
                self.tally.zero += 1;
                self.next_slot(entry)?.fill(*fill);
            }
            (RecordKind::Zero, _) => {
                return Err(Error::new(Kind::Failed, "a zero page without its byte"));
            }
            (RecordKind::Page, _) => {
                let slot = self.next_slot(entry)?;
                if payload.len() != slot.len() {
                    return Err(Error::new(Kind::Failed, "a page of another length"));
                }
                slot.copy_from_slice(payload);
                self.tally.plain += 1;
            }
            (RecordKind::Compressed, _) => self.inflate(entry, payload)?,
            (RecordKind::Xbzrle, _) => self.apply_delta(entry, payload)?,
        }
        self.placed(entry);
        Ok(())
    }

    fn inflate(&mut self, entry: &PageRecord, payload: &[u8]) -> Result<()> {
        self.next_slot(entry)?;
        let at = self.run.len() - PAGE_SIZE;
        self.inflate
            .decode(payload, &mut self.run[at..])
            .map_err(|error| Error::new(Kind::Failed, error))?;
        self.clock.cut(&mut self.tally.cpu, Stage::Codec);
        self.tally.compressed += 1;
        self.tally.compressed_bytes += payload.len() as u64;
        self.tally.compressed_input += PAGE_SIZE as u64;
        Ok(())
    }

    fn apply_delta(&mut self, entry: &PageRecord, payload: &[u8]) -> Result<()> {
        // The page that it applies to may be in the run.
        self.flush()?;
        let block = self.block(entry.block)?;
        let slot = self.next_slot(entry)?;
        block.read(entry.page, slot)?;
        let slot = slot
            .first_chunk_mut()
            .ok_or_else(|| Error::new(Kind::Failed, "a slot is a page"))?;
        delta::decode(payload, slot).map_err(|error| Error::new(Kind::Failed, error))?;
        self.clock.cut(&mut self.tally.cpu, Stage::Delta);
        self.tally.delta += 1;
        self.tally.delta_bytes += payload.len() as u64;
        Ok(())
    }

    fn block(&self, number: u16) -> Result<&'a Block> {
        self.output
            .blocks()
            .get(usize::from(number))
            .ok_or_else(|| Error::new(Kind::Failed, "a block that was not announced"))
    }

    /// Room for a page at the end of the run. A run that the page does not continue is placed first.
    fn next_slot(&mut self, entry: &PageRecord) -> Result<&mut [u8]> {
        let count = (self.run.len() / PAGE_SIZE) as u64;
        let continues = self.run_block == entry.block && self.run_start + count == entry.page.0;
        if count > 0 && (!continues || count == STRETCH) {
            self.flush()?;
        }
        if self.run.is_empty() {
            (self.run_block, self.run_start) = (entry.block, entry.page.0);
        }
        let at = self.run.len();
        self.run.resize(at + PAGE_SIZE, 0);
        Ok(&mut self.run[at..])
    }

    /// The run's last page is as it will be placed: updates its hash, and the digest.
    fn placed(&mut self, entry: &PageRecord) {
        let at = self.run.len().checked_sub(PAGE_SIZE);
        if let (Ok(block), Some(at)) = (self.block(entry.block), at) {
            let hash = block.seed().hash_or_zero(entry.page, &self.run[at..]);
            self.set_hash(block.key(entry.page), hash);
        }
    }

    fn set_hash(&mut self, key: u64, hash: u128) {
        let before = self.hashes.replace(key, hash);
        self.tally.hashes = self.tally.hashes.wrapping_add(hash).wrapping_sub(before);
    }

    /// Places the run.
    fn flush(&mut self) -> Result<()> {
        if self.run.is_empty() {
            return Ok(());
        }
        self.clock.cut(&mut self.tally.cpu, Stage::Hash);
        self.block(self.run_block)?
            .place(PageIndex(self.run_start), &self.run)?;
        self.run.clear();
        self.clock.cut(&mut self.tally.cpu, Stage::Place);
        Ok(())
    }

    /// Makes a page zero. A page that is zero already stays untouched, so that the output stays
    /// sparse.
    fn clear(&mut self, entry: &PageRecord) -> Result<()> {
        self.tally.zero += 1;
        let block = self.block(entry.block)?;
        let key = block.key(entry.page);
        if self.hashes.get(key) == 0 {
            return Ok(());
        }
        // It may be in the run that is not placed yet.
        self.flush()?;
        self.set_hash(key, 0);
        block.clear(PageRange {
            start: entry.page,
            count: 1,
        })?;
        self.clock.cut(&mut self.tally.cpu, Stage::Place);
        Ok(())
    }
}
