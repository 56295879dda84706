//! A batch as records of QEMU's stream: each page zero, plain, one zlib stream, or a delta.
//!
//! The first record names the block and the rest refer to it, so that batches may go out in any
//! order. Unlike QEMU's own compression, a page that does not shrink goes plain.

use crate::codec::{self, CodecSettings, Encoded, Encoder, Method};
use crate::delta::Lookup;
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Block;
use crate::page::{PAGE_SIZE, PageIndex};
use crate::stats::{Stage, StageClock, Tally};
use crate::wire::Format;
use crate::wire::native::Class;
use crate::wire::qemu::RecordWriter;

use super::super::choose::{self, Circumstances, Plan};
use super::super::pipeline::{Job, Packet, Shared};
use super::Copied;

static ZERO_PAGE: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Turns jobs into records.
pub(in super::super) struct Encode<'a> {
    pub(super) shared: &'a Shared<'a>,
    codec: Option<(CodecSettings, Box<dyn Encoder>)>,
    pages: Vec<Copied>,
    /// The batch's pages that are not zero.
    packed: Vec<u8>,
    /// One page, compressed.
    compressed: Vec<u8>,
    delta: Vec<u8>,
}

impl<'a> Encode<'a> {
    pub(super) fn new(shared: &'a Shared<'a>) -> Self {
        Encode {
            shared,
            codec: None,
            pages: Vec::new(),
            packed: Vec::new(),
            compressed: vec![0; PAGE_SIZE - 1],
            delta: Vec::new(),
        }
    }

    pub(super) fn encode(&mut self, job: &Job, busy: bool) -> Result<Packet> {
        self.shared.context.faults.check(Site::Encode)?;
        let block = &job.guest.blocks()[usize::from(job.block)];
        let params = self.shared.context.tuning.get();
        let settings = params.codec_settings();
        let mut plan = choose::plan(Circumstances {
            format: Format::Qemu,
            mark: job.mark,
            caps: self.shared.caps,
            delta_compress: params.delta_compress,
            more_rounds: self.shared.more_rounds,
            busy,
        });
        // The only method that QEMU knows here.
        plan.compress &= settings.method == Method::Zlib;

        let mut tally = Tally::default();
        let mut clock = StageClock::start();
        let mut body = self.shared.buffers.take();
        body.clear();
        let mut records = RecordWriter::new(block.name());
        if job.hole {
            super::hash_holes(self.shared, block, job, &mut tally);
            for page in job.ranges.iter().flat_map(|range| range.pages()) {
                self.zero(block, page, plan, job);
                records.zero(&mut body, page);
                tally.zero += 1;
            }
            clock.cut(&mut tally.cpu, Stage::Read);
            return Ok(packet(body, tally));
        }

        let count: u64 = job.ranges.iter().map(|range| range.count).sum();
        self.packed.resize(count as usize * PAGE_SIZE, 0);
        let len = super::read(block, job, &mut self.pages, &mut self.packed)?;
        clock.cut(&mut tally.cpu, Stage::Read);
        let packed = std::mem::take(&mut self.packed);
        let mut pages = std::mem::take(&mut self.pages);
        super::hash(self.shared, block, &mut pages, &packed[..len], &mut tally);
        clock.cut(&mut tally.cpu, Stage::Hash);

        let mut bytes = packed.chunks_exact(PAGE_SIZE);
        for copied in &pages {
            let page = copied.page;
            if copied.class == Some(Class::Zero) {
                self.zero(block, page, plan, job);
                records.zero(&mut body, page);
                tally.zero += 1;
                continue;
            }
            let bytes = bytes.next().unwrap_or(&ZERO_PAGE);
            if plan.delta {
                match self.look_up(block, page, bytes, plan, job, &mut tally) {
                    Lookup::Unchanged => {
                        tally.unchanged += 1;
                        continue;
                    }
                    Lookup::Delta(len) => {
                        records.xbzrle(&mut body, page, &self.delta);
                        tally.delta += 1;
                        tally.delta_bytes += len as u64;
                        continue;
                    }
                    Lookup::Overflow | Lookup::Miss => {}
                }
            }
            match self.compress(settings, plan, bytes)? {
                Some(len) => {
                    records.compressed(&mut body, page, &self.compressed[..len]);
                    tally.compressed += 1;
                    tally.compressed_bytes += len as u64;
                    tally.compressed_input += PAGE_SIZE as u64;
                }
                None => {
                    records.page(&mut body, page, bytes);
                    tally.plain += 1;
                }
            }
        }
        let stage = if plan.delta {
            Stage::Delta
        } else {
            Stage::Codec
        };
        clock.cut(&mut tally.cpu, stage);
        (self.packed, self.pages) = (packed, pages);
        if busy {
            tally.busy = tally.plain;
        }
        Ok(packet(body, tally))
    }

    /// A zero page is to be sent: once deltas are made, the cache takes it in as well.
    fn zero(&self, block: &Block, page: PageIndex, plan: Plan, job: &Job) {
        if let (Some(cache), true) = (self.shared.cache(), plan.delta) {
            // Refused means that the slot holds another page, and no older copy of this one.
            cache.remember(block.key(page), &ZERO_PAGE, job.mark.round.0);
        }
    }

    /// Looks a page up in the cache, which is kept equal to what the destination will hold. A delta
    /// is left in `self.delta`.
    fn look_up(
        &mut self,
        block: &Block,
        page: PageIndex,
        bytes: &[u8],
        plan: Plan,
        job: &Job,
        tally: &mut Tally,
    ) -> Lookup {
        let Some(cache) = self.shared.cache() else {
            return Lookup::Miss;
        };
        let key = block.key(page);
        self.delta.clear();
        let found = cache.delta(key, bytes, job.mark.round.0, &mut self.delta);
        match found {
            Lookup::Overflow => tally.overflow += 1,
            Lookup::Miss => {
                tally.cache_miss += 1;
                if plan.remember {
                    cache.remember(key, bytes, job.mark.round.0);
                }
            }
            Lookup::Unchanged | Lookup::Delta(_) => {}
        }
        found
    }

    /// Compresses a page into `self.compressed`, if that makes it shorter.
    fn compress(
        &mut self,
        settings: CodecSettings,
        plan: Plan,
        page: &[u8],
    ) -> Result<Option<usize>> {
        if !plan.compress || codec::looks_random(page) {
            return Ok(None);
        }
        let outcome = super::encoder(&mut self.codec, settings)?
            .encode(page, &mut self.compressed)
            .map_err(|error| Error::new(Kind::Failed, error))?;
        Ok(match outcome {
            Encoded::Done(len) => Some(len),
            Encoded::WouldGrow => None,
        })
    }
}

fn packet(body: bytes::BytesMut, mut tally: Tally) -> Packet {
    tally.frames = 1;
    Packet {
        head: Vec::new(),
        body_len: body.len(),
        body,
        tally,
    }
}
