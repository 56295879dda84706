//! A batch as a frame of the native wire: deltas where they pay, the rest compressed as one body.

use bytes::{BufMut, BytesMut};

use crate::codec::{self, CodecSettings, Encoded, Encoder, Method};
use crate::delta::Lookup;
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Block;
use crate::page::PAGE_SIZE;
use crate::stats::{Stage, StageClock, Tally};
use crate::wire::Format;
use crate::wire::native::{Class, Frame, FrameKind, PageSet};

use super::super::choose::{self, Circumstances, Plan};
use super::super::pipeline::{Job, Packet, Shared};
use super::Copied;

/// Turns jobs into frames.
pub(in super::super) struct Encode<'a> {
    pub(super) shared: &'a Shared<'a>,
    codec: Option<(CodecSettings, Box<dyn Encoder>)>,
    pages: Vec<Copied>,
    set: PageSet,
    set_bytes: Vec<u8>,
    hash_bytes: Vec<u8>,
    lengths: Vec<u8>,
    deltas: Vec<u8>,
    /// Whole pages that no compressor could shrink.
    stored: Vec<u8>,
}

impl<'a> Encode<'a> {
    pub(super) fn new(shared: &'a Shared<'a>) -> Self {
        Encode {
            shared,
            codec: None,
            pages: Vec::new(),
            set: PageSet::default(),
            set_bytes: Vec::new(),
            hash_bytes: Vec::new(),
            lengths: Vec::new(),
            deltas: Vec::new(),
            stored: Vec::new(),
        }
    }

    /// Encodes one batch. `busy`: no compressor was free, so it goes plain.
    pub(super) fn encode(&mut self, job: &Job, busy: bool) -> Result<Packet> {
        self.shared.context.faults.check(Site::Encode)?;
        let block = &job.guest.blocks()[usize::from(job.block)];
        if job.hole {
            return Ok(self.zeros(job, block));
        }
        self.batch(job, block, busy)
    }

    /// Pages that hold data: read, hash, look up, set aside, compress, seal.
    fn batch(&mut self, job: &Job, block: &Block, busy: bool) -> Result<Packet> {
        let params = self.shared.context.tuning.get();
        let settings = params.codec_settings();
        let plan = choose::plan(Circumstances {
            format: Format::Native,
            mark: job.mark,
            caps: self.shared.caps,
            delta_compress: params.delta_compress,
            more_rounds: self.shared.more_rounds,
            busy,
        });
        let mut tally = Tally::default();
        let mut clock = StageClock::start();

        let mut body = self.shared.buffers.take();
        let mut len = super::read(block, job, &mut self.pages, &mut body)?;
        clock.cut(&mut tally.cpu, Stage::Read);
        super::hash(
            self.shared,
            block,
            &mut self.pages,
            &body[..len],
            &mut tally,
        );
        clock.cut(&mut tally.cpu, Stage::Hash);
        if plan.delta || plan.remember {
            len = self.look_up(job, block, plan, &mut body, len, &mut tally);
            clock.cut(&mut tally.cpu, Stage::Delta);
        }
        self.stored.clear();
        let (mut method, mut decoded_len) = (Method::None, len);
        if plan.compress && settings.method != Method::None {
            if !plan.delta && codec::sets_aside(settings.method) {
                decoded_len = self.set_aside(&mut body, len);
            }
            (body, len, method) = self.compress(settings, body, decoded_len, &mut tally)?;
        }
        let packet = self.seal(job, method, body, (len, decoded_len), &mut tally);
        clock.cut(&mut tally.cpu, Stage::Codec);
        if busy {
            tally.busy = tally.plain;
        }
        Ok(Packet { tally, ..packet })
    }

    /// Pages in holes: their numbers are all there is to say.
    fn zeros(&mut self, job: &Job, block: &Block) -> Packet {
        let mut tally = Tally::default();
        self.set.clear();
        for &range in &job.ranges {
            self.set.push_range(range, Class::Zero);
            tally.zero += range.count;
            if let (Some(cache), true) = (self.shared.cache(), job.mark.baseline.is_known()) {
                range.pages().for_each(|page| cache.forget(block.key(page)));
            }
        }
        super::hash_holes(self.shared, block, job, &mut tally);
        tally.frames = 1;
        self.set_bytes.clear();
        self.set.write(&mut self.set_bytes);
        let frame = Frame {
            kind: FrameKind::Zeros,
            codec: Method::None,
            block: job.block,
            round: job.mark.round,
            pages: self.set.pages() as u32,
            body_len: 0,
            decoded_len: 0,
        };
        Packet {
            head: frame.head(&self.set_bytes, &[]),
            body: BytesMut::new(),
            body_len: 0,
            tally,
        }
    }

    /// Looks pages up in the cache, which is kept equal to what the destination will hold, and puts
    /// lengths of deltas, deltas and the pages that stay whole behind each other. Returns their length.
    fn look_up(
        &mut self,
        job: &Job,
        block: &Block,
        plan: Plan,
        body: &mut [u8],
        len: usize,
        tally: &mut Tally,
    ) -> usize {
        let Some(cache) = self.shared.cache() else {
            return len;
        };
        let generation = job.mark.round.0;
        self.lengths.clear();
        self.deltas.clear();
        let (mut from, mut whole) = (0, 0);
        for copied in &mut self.pages {
            let key = block.key(copied.page);
            if copied.class == Some(Class::Zero) {
                if job.mark.baseline.is_known() {
                    cache.forget(key);
                }
                continue;
            }
            let bytes = from..from + PAGE_SIZE;
            from += PAGE_SIZE;
            let found = if plan.delta {
                cache.delta(key, &body[bytes.clone()], generation, &mut self.deltas)
            } else {
                Lookup::Miss
            };
            match found {
                Lookup::Delta(len) => {
                    // A delta is never longer than a page, which fits.
                    self.lengths.put_u16_le(len as u16);
                    tally.delta += 1;
                    tally.delta_bytes += len as u64;
                    copied.class = Some(Class::Delta);
                    continue;
                }
                Lookup::Unchanged => {
                    tally.unchanged += 1;
                    copied.class = None;
                    continue;
                }
                Lookup::Overflow => tally.overflow += 1,
                Lookup::Miss => {
                    tally.cache_miss += u64::from(plan.delta);
                    if plan.remember {
                        // Refused means that another page holds the slot, so that no older copy
                        // of this one can be left either.
                        cache.remember(key, &body[bytes.clone()], generation);
                    }
                }
            }
            if bytes.start != whole {
                body.copy_within(bytes, whole);
            }
            whole += PAGE_SIZE;
        }
        let deltas = self.lengths.len() + self.deltas.len();
        if deltas > 0 {
            body.copy_within(..whole, deltas);
            body[..self.lengths.len()].copy_from_slice(&self.lengths);
            body[self.lengths.len()..deltas].copy_from_slice(&self.deltas);
        }
        deltas + whole
    }

    /// Takes pages that a compressor would only waste its time on out of `body`, which holds
    /// nothing but whole pages. Returns what is left of its length.
    fn set_aside(&mut self, body: &mut [u8], len: usize) -> usize {
        let (mut from, mut kept) = (0, 0);
        for copied in &mut self.pages {
            if copied.class != Some(Class::Whole) {
                continue;
            }
            let bytes = from..from + PAGE_SIZE;
            from += PAGE_SIZE;
            if codec::looks_random(&body[bytes.clone()]) {
                copied.class = Some(Class::Stored);
                self.stored.extend_from_slice(&body[bytes]);
                continue;
            }
            if bytes.start != kept {
                body.copy_within(bytes, kept);
            }
            kept += PAGE_SIZE;
        }
        debug_assert_eq!(from, len);
        kept
    }

    /// Compresses the first `len` bytes of the body, if that makes them fewer. Returns the body,
    /// how many bytes it holds then, and its codec.
    fn compress(
        &mut self,
        settings: CodecSettings,
        mut body: BytesMut,
        len: usize,
        tally: &mut Tally,
    ) -> Result<(BytesMut, usize, Method)> {
        let (mut filled, mut method) = (len, Method::None);
        if len > 1 {
            let mut out = self.shared.buffers.take();
            // A byte less than plain: what does not shrink goes as it is.
            let room = len - 1;
            let outcome = super::encoder(&mut self.codec, settings)?
                .encode(&body[..len], &mut out[..room])
                .map_err(|error| Error::new(Kind::Failed, error))?;
            if let Encoded::Done(compressed) = outcome {
                (filled, method) = (compressed, settings.method);
                tally.compressed_bytes = compressed as u64;
                tally.compressed_input = len as u64;
                std::mem::swap(&mut body, &mut out);
            }
            self.shared.buffers.give(out);
        }
        Ok((body, filled, method))
    }

    /// Describes the batch in a page set and puts header and page set in front of the body: its
    /// first `len` bytes, and behind them what was set aside.
    fn seal(
        &mut self,
        job: &Job,
        method: Method,
        mut body: BytesMut,
        (len, decoded_len): (usize, usize),
        tally: &mut Tally,
    ) -> Packet {
        let body_len = len + self.stored.len();
        body[len..body_len].copy_from_slice(&self.stored);
        self.set.clear();
        self.hash_bytes.clear();
        for copied in &self.pages {
            let Some(class) = copied.class else { continue };
            self.set.push(copied.page, class);
            if class != Class::Zero {
                self.hash_bytes.put_u128_le(copied.hash);
            }
        }
        let whole = self.set.count(Class::Whole);
        if method == Method::None {
            tally.plain += whole;
        } else {
            tally.compressed += whole;
        }
        tally.plain += self.set.count(Class::Stored);
        tally.zero += self.set.count(Class::Zero);

        if self.set.runs().is_empty() {
            self.shared.buffers.give(body);
            return Packet::default();
        }
        tally.frames = 1;
        self.set_bytes.clear();
        self.set.write(&mut self.set_bytes);
        let frame = Frame {
            kind: FrameKind::Pages,
            codec: method,
            block: job.block,
            round: job.mark.round,
            pages: self.set.pages() as u32,
            body_len: body_len as u32,
            decoded_len: decoded_len as u32,
        };
        Packet {
            head: frame.head(&self.set_bytes, &self.hash_bytes),
            body,
            body_len,
            tally: Tally::default(),
        }
    }
}
