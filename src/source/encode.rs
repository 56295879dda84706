//! One batch: from ranges of pages to a frame. What an encoder thread does all day.

use bytes::{BufMut, BytesMut};

use crate::codec::{self, Encoded, Encoder, Settings};
use crate::delta::Lookup;
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Block;
use crate::page::{PAGE_SIZE, PageIndex, is_zero};
use crate::stats::{Stage, StageClock, Tally};
use crate::wire::native::{Class, Frame, Header, Kind as FrameKind, PageSet};

use super::choose::{self, Circumstances, Plan};
use super::pipeline::{Job, Packet, Shared};

/// Turns jobs into packets. Its buffers and its compressor live as long as its thread.
pub(super) struct EncodeWorker<'a> {
    shared: &'a Shared<'a>,
    codec: Option<(Settings, Box<dyn Encoder>)>,
    /// Each page of the batch that has to be said something about, and its hash; 0 is zero.
    pages: Vec<(PageIndex, u128)>,
    set: PageSet,
    set_bytes: Vec<u8>,
    hash_bytes: Vec<u8>,
    lengths: Vec<u8>,
    deltas: Vec<u8>,
}

impl<'a> EncodeWorker<'a> {
    pub(super) fn new(shared: &'a Shared<'a>) -> Self {
        EncodeWorker {
            shared,
            codec: None,
            pages: Vec::new(),
            set: PageSet::default(),
            set_bytes: Vec::new(),
            hash_bytes: Vec::new(),
            lengths: Vec::new(),
            deltas: Vec::new(),
        }
    }

    /// Encodes one batch. `busy`: no compressor was free, so it goes plain.
    pub(super) fn encode(&mut self, job: &Job, busy: bool) -> Result<Packet> {
        self.shared.context.faults.check(Site::Encode)?;
        let block = &job.guest.blocks()[usize::from(job.block)];
        let place = |error: Error| {
            let first = job.ranges.first().map_or(0, |range| range.start.0);
            error
                .in_stage("encode")
                .in_round(job.round.0)
                .at_page(first)
        };
        if job.hole {
            return Ok(self.zeros(job, block));
        }
        let params = self.shared.context.tuning.get();
        let plan = choose::plan(Circumstances {
            round: job.round,
            caps: self.shared.caps,
            delta_compress: params.delta_compress,
            more_rounds: self.shared.more_rounds,
            busy,
        });
        let mut tally = Tally::default();
        let mut clock = StageClock::start();

        let mut plain = self.shared.buffers.take();
        let filled = self.read(job, block, &mut plain).map_err(place)?;
        clock.cut(&mut tally.cpu, Stage::Read);
        self.hash(block, &plain[..filled], &mut tally);
        clock.cut(&mut tally.cpu, Stage::Hash);
        let (body, decoded_len) = if plan.delta || plan.remember {
            let packed = self.delta(job, block, plan, plain, filled, &mut tally);
            clock.cut(&mut tally.cpu, Stage::Delta);
            packed
        } else {
            self.all_whole();
            (plain, filled)
        };
        let packet = self
            .seal(
                job,
                plan,
                params.codec_settings(),
                body,
                decoded_len,
                busy,
                &mut tally,
            )
            .map_err(place)?;
        clock.cut(&mut tally.cpu, Stage::Codec);
        Ok(Packet { tally, ..packet })
    }

    /// Pages in holes: their numbers are all there is to say.
    fn zeros(&mut self, job: &Job, block: &Block) -> Packet {
        let mut tally = Tally::default();
        self.set.clear();
        for &range in &job.ranges {
            self.set.push_range(range, Class::Zero);
            tally.zero += range.count;
            if let Some(sent) = &self.shared.sent {
                for page in range.pages() {
                    let before = sent.replace(block.key(page), 0);
                    tally.hashes = tally.hashes.wrapping_sub(before);
                }
            }
            if let (Some(cache), false) = (&self.shared.cache, job.round.is_bulk()) {
                range.pages().for_each(|page| cache.forget(block.key(page)));
            }
        }
        tally.frames = 1;
        self.set_bytes.clear();
        self.set.write(&mut self.set_bytes);
        let header = Header {
            kind: Some(FrameKind::Zeros),
            codec: codec::Method::None,
            block: job.block,
            round: job.round,
            pages: self.set.pages() as u32,
            page_set_len: 0,
            body_len: 0,
            decoded_len: 0,
            hash: 0,
        };
        Packet {
            head: Frame::seal(header, &self.set_bytes, [[]; 0]).head,
            body: BytesMut::new(),
            body_len: 0,
            tally,
        }
    }

    /// Copies the pages out of the image and packs those that are not zero.
    fn read(&mut self, job: &Job, block: &Block, plain: &mut [u8]) -> Result<usize> {
        self.pages.clear();
        let mut filled = 0;
        let pages = &mut self.pages;
        for &range in &job.ranges {
            filled += block
                .image()
                .copy_some(range, &mut plain[filled..], |page, bytes| {
                    // 1 stands for "not zero" until the hash is known.
                    let zero = is_zero(bytes);
                    pages.push((page, u128::from(!zero)));
                    !zero
                })?;
        }
        Ok(filled)
    }

    /// Hashes the packed pages and keeps account of the digest.
    fn hash(&mut self, block: &Block, packed: &[u8], tally: &mut Tally) {
        let mut packed = packed.chunks_exact(PAGE_SIZE);
        for (page, hash) in &mut self.pages {
            if *hash != 0 {
                if let Some(bytes) = packed.next() {
                    *hash = block.seed().hash(*page, bytes);
                }
            }
            let before = match &self.shared.sent {
                Some(sent) => sent.replace(block.key(*page), *hash),
                None => 0,
            };
            tally.hashes = tally.hashes.wrapping_add(*hash).wrapping_sub(before);
        }
    }

    /// The page set of a batch without deltas.
    fn all_whole(&mut self) {
        self.set.clear();
        self.hash_bytes.clear();
        for &(page, hash) in &self.pages {
            if hash == 0 {
                self.set.push(page, Class::Zero);
            } else {
                self.set.push(page, Class::Whole);
                self.hash_bytes.put_u128_le(hash);
            }
        }
    }

    /// Looks pages up in the cache and puts the body together: lengths of deltas, deltas, whole
    /// pages. Keeps the cache equal to what the destination will hold.
    fn delta(
        &mut self,
        job: &Job,
        block: &Block,
        plan: Plan,
        mut plain: BytesMut,
        filled: usize,
        tally: &mut Tally,
    ) -> (BytesMut, usize) {
        let Some(cache) = &self.shared.cache else {
            self.all_whole();
            return (plain, filled);
        };
        let generation = job.round.0;
        self.set.clear();
        self.hash_bytes.clear();
        self.lengths.clear();
        self.deltas.clear();
        let (mut from, mut whole) = (0, 0);
        for &(page, hash) in &self.pages {
            let key = block.key(page);
            if hash == 0 {
                self.set.push(page, Class::Zero);
                if !job.round.is_bulk() {
                    cache.forget(key);
                }
                continue;
            }
            let bytes = from..from + PAGE_SIZE;
            from += PAGE_SIZE;
            let found = if plan.delta {
                cache.delta(key, &plain[bytes.clone()], generation, &mut self.deltas)
            } else {
                Lookup::Miss
            };
            match found {
                Lookup::Delta(len) => {
                    // A delta is never longer than a page, which fits.
                    self.lengths.put_u16_le(len as u16);
                    tally.delta += 1;
                    tally.delta_bytes += len as u64;
                    self.set.push(page, Class::Delta);
                    self.hash_bytes.put_u128_le(hash);
                    continue;
                }
                Lookup::Unchanged => {
                    tally.unchanged += 1;
                    continue;
                }
                Lookup::Overflow => tally.overflow += 1,
                Lookup::Miss => {
                    tally.cache_miss += u64::from(plan.delta);
                    if plan.remember {
                        // Refused means that another page holds the slot, so that no older copy
                        // of this one can be left either.
                        cache.remember(key, &plain[bytes.clone()], generation);
                    }
                }
            }
            self.set.push(page, Class::Whole);
            self.hash_bytes.put_u128_le(hash);
            if bytes.start != whole {
                plain.copy_within(bytes, whole);
            }
            whole += PAGE_SIZE;
        }
        if self.lengths.is_empty() {
            return (plain, whole);
        }
        let deltas = self.lengths.len() + self.deltas.len();
        plain.copy_within(..whole, deltas);
        plain[..self.lengths.len()].copy_from_slice(&self.lengths);
        plain[self.lengths.len()..deltas].copy_from_slice(&self.deltas);
        (plain, deltas + whole)
    }

    /// Compresses the body if that is the plan and pays, and puts header and page set in front.
    #[allow(clippy::too_many_arguments)]
    fn seal(
        &mut self,
        job: &Job,
        plan: Plan,
        settings: Settings,
        mut body: BytesMut,
        decoded_len: usize,
        busy: bool,
        tally: &mut Tally,
    ) -> Result<Packet> {
        let mut body_len = decoded_len;
        let mut method = codec::Method::None;
        if plan.compress && settings.method != codec::Method::None && decoded_len > 1 {
            let mut out = self.shared.buffers.take();
            let encoder = encoder(&mut self.codec, settings)?;
            // A byte less than plain: what does not shrink goes as it is.
            let room = decoded_len - 1;
            match encoder
                .encode(&body[..decoded_len], &mut out[..room])
                .map_err(|error| Error::new(Kind::Failed, error))?
            {
                Encoded::Done(len) => {
                    (body_len, method) = (len, settings.method);
                    self.shared.buffers.give(std::mem::replace(&mut body, out));
                }
                Encoded::WouldGrow => self.shared.buffers.give(out),
            }
        }
        let whole = self.set.count(Class::Whole);
        if method == codec::Method::None {
            tally.plain += whole;
        } else {
            tally.compressed += whole;
            tally.compressed_bytes += body_len as u64;
            tally.compressed_input += decoded_len as u64;
        }
        if busy {
            tally.busy += whole;
        }
        tally.zero += self.set.count(Class::Zero);

        if self.set.runs().is_empty() {
            self.shared.buffers.give(body);
            return Ok(Packet::default());
        }
        tally.frames = 1;
        self.set_bytes.clear();
        self.set.write(&mut self.set_bytes);
        let header = Header {
            kind: Some(FrameKind::Pages),
            codec: method,
            block: job.block,
            round: job.round,
            pages: self.set.pages() as u32,
            page_set_len: 0,
            body_len: body_len as u32,
            decoded_len: decoded_len as u32,
            hash: 0,
        };
        Ok(Packet {
            head: Frame::seal(header, &self.set_bytes, [&self.hash_bytes]).head,
            body,
            body_len,
            tally: Tally::default(),
        })
    }
}

/// The compressor for these settings; the one in hand if it fits.
fn encoder(
    slot: &mut Option<(Settings, Box<dyn Encoder>)>,
    settings: Settings,
) -> Result<&mut dyn Encoder> {
    if slot
        .as_ref()
        .is_none_or(|(made_for, _)| *made_for != settings)
    {
        let encoder = codec::encoder(settings).map_err(|error| Error::new(Kind::Usage, error))?;
        *slot = Some((settings, encoder));
    }
    match slot {
        Some((_, encoder)) => Ok(encoder.as_mut()),
        None => Err(Error::new(Kind::Failed, "there is no compressor")),
    }
}
