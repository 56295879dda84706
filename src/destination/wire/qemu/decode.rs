//! Records of QEMU's stream: from their payload to pages in their place, in the order in which they came.

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

use crate::destination::pipeline::Target;
use crate::destination::wire::Decode;

/// Neighbouring pages that belong to the same lane, and are placed together where they can be.
pub(super) const STRETCH: u64 = 64;

/// A record: how a page is made.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) block: u16,
    pub(super) page: PageIndex,
    pub(super) kind: RecordKind,
    /// Where the payload lies within the batch's bytes.
    pub(super) payload: Range<usize>,
}

/// Records of one lane, in their order.
#[derive(Debug)]
pub(in crate::destination) struct Records {
    pub(super) bytes: Bytes,
    pub(super) entries: Vec<Entry>,
}

/// Places records. Its buffers and its decompressor live as long as its thread.
pub(super) struct RecordDecoder<'a> {
    context: &'a Context,
    output: &'a Output,
    /// The hash of each page as it is now, by its key.
    hashes: &'a PageHashes,
    inflate: Box<dyn Decoder>,
    /// Neighbouring pages that are decoded and not yet placed.
    run: Vec<u8>,
    run_block: u16,
    run_start: u64,
}

impl Decode<Records> for RecordDecoder<'_> {
    fn place(&mut self, batch: Records) -> Result<Tally> {
        self.context.faults.check(Site::Decode)?;
        let mut tally = Tally::default();
        let mut clock = StageClock::start();
        for entry in &batch.entries {
            let payload = batch.bytes.get(entry.payload.clone()).unwrap_or_default();
            self.take(entry, payload, &mut tally, &mut clock)
                .map_err(|error| error.in_stage("decode").at_page(entry.page.0))?;
        }
        self.flush(&mut tally, &mut clock)?;
        tally.frames = 1;
        Ok(tally)
    }
}

impl<'a> RecordDecoder<'a> {
    pub(super) fn new(target: &Target<'a>, hashes: &'a PageHashes) -> Self {
        RecordDecoder {
            context: target.context,
            output: target.output,
            hashes,
            inflate: codec::decoder(Method::Zlib),
            run: Vec::with_capacity(STRETCH as usize * PAGE_SIZE),
            run_block: 0,
            run_start: 0,
        }
    }

    fn take(
        &mut self,
        entry: &Entry,
        payload: &[u8],
        tally: &mut Tally,
        clock: &mut StageClock,
    ) -> Result<()> {
        let page = entry.page;
        match entry.kind {
            RecordKind::Zero => {
                tally.zero += 1;
                match payload {
                    [0] => self.clear(entry, tally, clock),
                    // Any other byte is one that QEMU up to 9 fills the page with.
                    [fill] => {
                        self.next_slot(entry.block, page, tally, clock)?.fill(*fill);
                        self.placed(entry.block, page, tally);
                        Ok(())
                    }
                    _ => Err(Error::new(Kind::Failed, "a zero page without its byte")),
                }
            }
            RecordKind::Page => {
                let slot = self.next_slot(entry.block, page, tally, clock)?;
                if payload.len() != slot.len() {
                    return Err(Error::new(Kind::Failed, "a page that is not one"));
                }
                slot.copy_from_slice(payload);
                tally.plain += 1;
                self.placed(entry.block, page, tally);
                Ok(())
            }
            RecordKind::Compressed => {
                self.next_slot(entry.block, page, tally, clock)?;
                let at = self.run.len() - PAGE_SIZE;
                self.inflate
                    .decode(payload, &mut self.run[at..])
                    .map_err(|error| Error::new(Kind::Failed, error))?;
                clock.cut(&mut tally.cpu, Stage::Codec);
                tally.compressed += 1;
                tally.compressed_bytes += payload.len() as u64;
                tally.compressed_input += PAGE_SIZE as u64;
                self.placed(entry.block, page, tally);
                Ok(())
            }
            RecordKind::Xbzrle => {
                // What it applies to may be in the run.
                self.flush(tally, clock)?;
                let file = self.file(entry.block)?;
                let slot = self.next_slot(entry.block, page, tally, clock)?;
                file.read(page, slot)?;
                let slot = slot
                    .first_chunk_mut()
                    .ok_or_else(|| Error::new(Kind::Failed, "a slot is a page"))?;
                delta::decode(payload, slot).map_err(|error| Error::new(Kind::Failed, error))?;
                clock.cut(&mut tally.cpu, Stage::Delta);
                tally.delta += 1;
                tally.delta_bytes += payload.len() as u64;
                self.placed(entry.block, page, tally);
                Ok(())
            }
        }
    }

    fn file(&self, block: u16) -> Result<&'a Block> {
        self.output
            .blocks()
            .get(usize::from(block))
            .ok_or_else(|| Error::new(Kind::Failed, "a block that was not announced"))
    }

    /// Room for a page at the end of the run; a run that it does not continue is placed before.
    fn next_slot(
        &mut self,
        block: u16,
        page: PageIndex,
        tally: &mut Tally,
        clock: &mut StageClock,
    ) -> Result<&mut [u8]> {
        let count = (self.run.len() / PAGE_SIZE) as u64;
        let continues = self.run_block == block && self.run_start + count == page.0;
        if count > 0 && (!continues || count == STRETCH) {
            self.flush(tally, clock)?;
        }
        if self.run.is_empty() {
            (self.run_block, self.run_start) = (block, page.0);
        }
        let at = self.run.len();
        self.run.resize(at + PAGE_SIZE, 0);
        Ok(&mut self.run[at..])
    }

    /// The run's last page is as it will be placed: keeps account of the digest.
    fn placed(&mut self, block: u16, page: PageIndex, tally: &mut Tally) {
        let (Ok(file), Some(at)) = (self.file(block), self.run.len().checked_sub(PAGE_SIZE)) else {
            return;
        };
        let hash = file.seed().hash_or_zero(page, &self.run[at..]);
        let before = self.hashes.replace(file.key(page), hash);
        tally.hashes = tally.hashes.wrapping_add(hash).wrapping_sub(before);
    }

    /// Places the run.
    fn flush(&mut self, tally: &mut Tally, clock: &mut StageClock) -> Result<()> {
        if self.run.is_empty() {
            return Ok(());
        }
        clock.cut(&mut tally.cpu, Stage::Hash);
        self.file(self.run_block)?
            .place(PageIndex(self.run_start), &self.run)?;
        self.run.clear();
        clock.cut(&mut tally.cpu, Stage::Place);
        Ok(())
    }

    /// Makes a page zero. One that is already stays untouched, so that the output stays sparse.
    fn clear(&mut self, entry: &Entry, tally: &mut Tally, clock: &mut StageClock) -> Result<()> {
        let file = self.file(entry.block)?;
        if self.hashes.get(file.key(entry.page)) == 0 {
            return Ok(());
        }
        // It may be in the run that is not placed yet.
        self.flush(tally, clock)?;
        let before = self.hashes.replace(file.key(entry.page), 0);
        tally.hashes = tally.hashes.wrapping_sub(before);
        file.clear(PageRange {
            start: entry.page,
            count: 1,
        })?;
        clock.cut(&mut tally.cpu, Stage::Place);
        Ok(())
    }
}
