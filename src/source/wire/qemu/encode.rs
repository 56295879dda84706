//! A batch as records of QEMU's stream: each page zero, plain, one zlib stream, or a delta.
//!
//! The first record names the block and the rest refer to it, so that batches may go out in any
//! order. Unlike with QEMU's own compression, a page that does not shrink is sent plain.

use bytes::BytesMut;

use crate::codec::{self, CodecSettings, Encoded, Method};
use crate::delta::Lookup;
use crate::error::Result;
use crate::page::{PAGE_SIZE, PageIndex};
use crate::source::choose::{self, Conditions, Plan};
use crate::source::encode::{self, CodecSlot, Copied, Fate};
use crate::source::job::{Job, Packet, SendState};
use crate::source::wire::seam::Encode;
use crate::stats::{Stage, StageClock, Tally};
use crate::wire::qemu::RecordWriter;

static ZERO_PAGE: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Turns jobs into records.
pub(super) struct RecordEncoder<'a> {
    state: &'a SendState<'a>,
    codec: CodecSlot,
    pages: Vec<Copied>,
    /// The batch's pages that are not zero.
    packed: Vec<u8>,
    /// One page, compressed.
    compressed: Vec<u8>,
    delta: Vec<u8>,
}

/// The records of the batch in hand.
struct Records<'a> {
    job: &'a Job,
    plan: Plan,
    settings: CodecSettings,
    writer: RecordWriter<'a>,
    out: BytesMut,
    tally: Tally,
}

impl<'a> RecordEncoder<'a> {
    pub(super) fn new(state: &'a SendState<'a>) -> Self {
        RecordEncoder {
            state,
            codec: CodecSlot::default(),
            pages: Vec::new(),
            packed: Vec::new(),
            compressed: vec![0; PAGE_SIZE - 1],
            delta: Vec::new(),
        }
    }

    /// Pages that hold data.
    fn batch(&mut self, records: &mut Records<'_>) -> Result<()> {
        let job = records.job;
        let mut clock = StageClock::start();
        let count: u64 = job.ranges.iter().map(|range| range.count).sum();
        self.packed.resize(count as usize * PAGE_SIZE, 0);
        let len = encode::read(job, &mut self.pages, &mut self.packed)?;
        clock.cut(&mut records.tally.cpu, Stage::Read);
        let packed = std::mem::take(&mut self.packed);
        let mut pages = std::mem::take(&mut self.pages);
        let plain = &packed[..len];
        encode::hash(
            self.state,
            job.block(),
            &mut pages,
            plain,
            &mut records.tally,
        );
        clock.cut(&mut records.tally.cpu, Stage::Hash);

        let mut plain = packed.chunks_exact(PAGE_SIZE);
        for copied in &pages {
            if copied.fate == Fate::Zero {
                self.zero(copied.page, records);
            } else {
                let bytes = plain.next().unwrap_or(&ZERO_PAGE);
                self.page(copied.page, bytes, records)?;
            }
        }
        let stage = if records.plan.delta {
            Stage::Delta
        } else {
            Stage::Codec
        };
        clock.cut(&mut records.tally.cpu, stage);
        (self.packed, self.pages) = (packed, pages);
        Ok(())
    }

    /// Pages in holes, a record each.
    fn zeros(&mut self, records: &mut Records<'_>) {
        let mut clock = StageClock::start();
        encode::hash_holes(self.state, records.job, &mut records.tally);
        for page in records.job.pages() {
            self.zero(page, records);
        }
        clock.cut(&mut records.tally.cpu, Stage::Read);
    }

    /// A zero page. In rounds with deltas, the cache remembers it as well.
    fn zero(&self, page: PageIndex, records: &mut Records<'_>) {
        if let (Some(cache), true) = (self.state.cache(), records.plan.delta) {
            let (key, round) = (records.job.block().key(page), records.job.mark.round);
            // If refused, another page holds the slot, so no older copy of this one is left.
            cache.remember(key, &ZERO_PAGE, round.0);
        }
        records.writer.zero(&mut records.out, page);
        records.tally.zero += 1;
    }

    /// A page that is not zero: a delta, or nothing if it has not changed, or whole.
    fn page(&mut self, page: PageIndex, bytes: &[u8], records: &mut Records<'_>) -> Result<()> {
        if records.plan.delta {
            match self.look_up(page, bytes, records) {
                Lookup::Unchanged => {
                    records.tally.unchanged += 1;
                    return Ok(());
                }
                Lookup::Delta(len) => {
                    records.writer.xbzrle(&mut records.out, page, &self.delta);
                    records.tally.delta += 1;
                    records.tally.delta_bytes += len as u64;
                    return Ok(());
                }
                Lookup::Overflow | Lookup::Miss => {}
            }
        }
        if let Some(len) = self.compress(bytes, records)? {
            let compressed = &self.compressed[..len];
            records
                .writer
                .compressed(&mut records.out, page, compressed);
            records.tally.compressed += 1;
            records.tally.compressed_bytes += len as u64;
            records.tally.compressed_input += PAGE_SIZE as u64;
        } else {
            records.writer.page(&mut records.out, page, bytes);
            records.tally.plain += 1;
        }
        Ok(())
    }

    /// Looks a page up in the cache and keeps it equal to what the destination will hold. A delta
    /// is left in `self.delta`.
    fn look_up(&mut self, page: PageIndex, bytes: &[u8], records: &mut Records<'_>) -> Lookup {
        let Some(cache) = self.state.cache() else {
            return Lookup::Miss;
        };
        let (key, round) = (records.job.block().key(page), records.job.mark.round);
        self.delta.clear();
        let found = cache.delta(key, bytes, round.0, &mut self.delta);
        match found {
            Lookup::Overflow => records.tally.overflow += 1,
            Lookup::Miss => {
                records.tally.cache_miss += 1;
                if records.plan.remember {
                    cache.remember(key, bytes, round.0);
                }
            }
            Lookup::Unchanged | Lookup::Delta(_) => {}
        }
        found
    }

    /// Compresses a page into `self.compressed`, if that makes it shorter.
    fn compress(&mut self, page: &[u8], records: &Records<'_>) -> Result<Option<usize>> {
        if !records.plan.compress || codec::looks_random(page) {
            return Ok(None);
        }
        let outcome = (self.codec).encode(records.settings, page, &mut self.compressed)?;
        Ok(match outcome {
            Encoded::Done(len) => Some(len),
            Encoded::WouldGrow => None,
        })
    }
}

impl Encode for RecordEncoder<'_> {
    fn encode(&mut self, job: &Job, busy: bool) -> Result<Packet> {
        let params = self.state.context.tuning.get();
        let settings = params.codec_settings();
        let mut plan = choose::plan_records(Conditions::of(job, self.state, &params, busy));
        // QEMU's stream supports no other method.
        plan.compress &= settings.method == Method::Zlib;
        let mut out = self.state.buffers.take()?;
        out.clear();
        let mut records = Records {
            job,
            plan,
            settings,
            writer: RecordWriter::new(job.block().name()),
            out,
            tally: Tally::default(),
        };
        if job.hole {
            self.zeros(&mut records);
        } else {
            self.batch(&mut records)?;
        }
        let Records { out, mut tally, .. } = records;
        tally.frames = 1;
        if busy {
            tally.busy = tally.plain;
        }
        Ok(Packet {
            head: Vec::new(),
            body_len: out.len(),
            body: out,
            tally,
        })
    }
}
