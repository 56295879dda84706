//! A batch as a frame of the native wire: deltas where they pay, the rest compressed as one body.

use bytes::{BufMut, BytesMut};

use crate::codec::{self, CodecSettings, Encoded, Method};
use crate::delta::Lookup;
use crate::error::Result;
use crate::page::PAGE_SIZE;
use crate::source::choose::{self, Conditions, Plan};
use crate::source::encode::{self, CodecSlot, Copied, Fate};
use crate::source::job::{Job, Packet, SendState};
use crate::source::wire::seam::Encode;
use crate::stats::{Stage, StageClock, Tally};
use crate::wire::native::{Class, Frame, FrameKind, PageSet};

/// Turns jobs into frames.
pub(super) struct FrameEncoder<'a> {
    state: &'a SendState<'a>,
    codec: CodecSlot,
    pages: Vec<Copied>,
    set: PageSet,
    set_bytes: Vec<u8>,
    hash_bytes: Vec<u8>,
    lengths: Vec<u8>,
    deltas: Vec<u8>,
    /// Whole pages that no compressor could shrink.
    stored: Vec<u8>,
}

impl<'a> FrameEncoder<'a> {
    pub(super) fn new(state: &'a SendState<'a>) -> Self {
        FrameEncoder {
            state,
            codec: CodecSlot::default(),
            pages: Vec::new(),
            set: PageSet::default(),
            set_bytes: Vec::new(),
            hash_bytes: Vec::new(),
            lengths: Vec::new(),
            deltas: Vec::new(),
            stored: Vec::new(),
        }
    }

    /// Pages that hold data: read, hash, look up, set aside, compress, seal.
    fn batch(&mut self, job: &Job, busy: bool) -> Result<Packet> {
        let params = self.state.context.tuning.get();
        let settings = params.codec_settings();
        let plan = choose::plan_batch(Conditions::of(job, self.state, &params, busy));
        let mut tally = Tally::default();
        let mut clock = StageClock::start();

        let mut body = Body::plain(self.state.buffers.take()?);
        body.len = encode::read(job, &mut self.pages, &mut body.bytes)?;
        clock.cut(&mut tally.cpu, Stage::Read);
        let plain = &body.bytes[..body.len];
        encode::hash(self.state, job.block(), &mut self.pages, plain, &mut tally);
        clock.cut(&mut tally.cpu, Stage::Hash);
        if plan.delta || plan.remember {
            self.look_up(job, plan, &mut body, &mut tally);
            clock.cut(&mut tally.cpu, Stage::Delta);
        }
        self.stored.clear();
        if plan.compress && settings.method != Method::None {
            if !plan.delta && codec::sets_aside(settings.method) {
                self.set_aside(&mut body);
            }
            self.compress(settings, &mut body, &mut tally)?;
        } else {
            body.decoded_len = body.len;
        }
        let packet = self.seal(job, body, &mut tally);
        clock.cut(&mut tally.cpu, Stage::Codec);
        if busy {
            tally.busy = tally.plain;
        }
        Ok(Packet { tally, ..packet })
    }

    /// Pages in holes, of which only the numbers are sent.
    fn zeros(&mut self, job: &Job) -> Packet {
        let mut tally = Tally::default();
        self.set.clear();
        for &range in &job.ranges {
            self.set.push_range(range, Class::Zero);
            tally.zero += range.count;
        }
        if let (Some(cache), true) = (self.state.cache(), job.mark.baseline.is_known()) {
            let block = job.block();
            job.pages().for_each(|page| cache.forget(block.key(page)));
        }
        encode::hash_holes(self.state, job, &mut tally);
        Packet {
            head: self.head(
                job,
                FrameKind::Zeros,
                &Body::plain(BytesMut::new()),
                &mut tally,
            ),
            tally,
            ..Packet::default()
        }
    }

    /// Looks pages up in the cache and keeps it equal to what the destination will hold. The body
    /// becomes the lengths of deltas, the deltas, and the pages that stay whole.
    fn look_up(&mut self, job: &Job, plan: Plan, body: &mut Body, tally: &mut Tally) {
        let Some(cache) = self.state.cache() else {
            return;
        };
        let (block, generation) = (job.block(), job.mark.round.0);
        self.lengths.clear();
        self.deltas.clear();
        let (mut from, mut whole) = (0, 0);
        for copied in &mut self.pages {
            let key = block.key(copied.page);
            if copied.fate == Fate::Zero {
                if job.mark.baseline.is_known() {
                    cache.forget(key);
                }
                continue;
            }
            let bytes = from..from + PAGE_SIZE;
            from += PAGE_SIZE;
            let page = &body.bytes[bytes.clone()];
            let found = if plan.delta {
                cache.delta(key, page, generation, &mut self.deltas)
            } else {
                Lookup::Miss
            };
            match found {
                Lookup::Delta(len) => {
                    // A delta is never longer than a page, which fits.
                    self.lengths.put_u16_le(len as u16);
                    tally.delta += 1;
                    tally.delta_bytes += len as u64;
                    copied.fate = Fate::Delta;
                    continue;
                }
                Lookup::Unchanged => {
                    tally.unchanged += 1;
                    copied.fate = Fate::Unchanged;
                    continue;
                }
                Lookup::Overflow => tally.overflow += 1,
                Lookup::Miss => {
                    tally.cache_miss += u64::from(plan.delta);
                    if plan.remember {
                        // If refused, another page holds the slot, so no older copy of this one is
                        // left.
                        cache.remember(key, page, generation);
                    }
                }
            }
            body.move_page(bytes.start, &mut whole);
        }
        body.len = whole;
        body.prepend(&self.lengths, &self.deltas);
    }

    /// Takes pages that a compressor would only waste its time on out of the body, which holds
    /// nothing but whole pages.
    fn set_aside(&mut self, body: &mut Body) {
        let (mut from, mut kept) = (0, 0);
        for copied in &mut self.pages {
            if copied.fate != Fate::Whole {
                continue;
            }
            let page = &body.bytes[from..from + PAGE_SIZE];
            if codec::looks_random(page) {
                copied.fate = Fate::Stored;
                self.stored.extend_from_slice(page);
            } else {
                body.move_page(from, &mut kept);
            }
            from += PAGE_SIZE;
        }
        debug_assert_eq!(from, body.len);
        body.len = kept;
    }

    /// Compresses the body, if that makes it shorter.
    fn compress(
        &mut self,
        settings: CodecSettings,
        body: &mut Body,
        tally: &mut Tally,
    ) -> Result<()> {
        let len = body.len;
        body.decoded_len = len;
        if len <= 1 {
            return Ok(());
        }
        let mut out = self.state.buffers.take()?;
        // One byte less than plain: a body that does not shrink is sent as it is.
        let outcome = self
            .codec
            .encode(settings, &body.bytes[..len], &mut out[..len - 1])?;
        if let Encoded::Done(compressed) = outcome {
            (body.len, body.method) = (compressed, settings.method);
            tally.compressed_bytes = compressed as u64;
            tally.compressed_input = len as u64;
            std::mem::swap(&mut body.bytes, &mut out);
        }
        self.state.buffers.give(out);
        Ok(())
    }

    /// Describes the batch in a page set, puts what was set aside after the body, and header and
    /// page set in front.
    fn seal(&mut self, job: &Job, mut body: Body, tally: &mut Tally) -> Packet {
        let set_aside = body.len..body.len + self.stored.len();
        body.bytes[set_aside.clone()].copy_from_slice(&self.stored);
        body.len = set_aside.end;
        self.set.clear();
        self.hash_bytes.clear();
        for copied in &self.pages {
            let Some(class) = class(copied.fate) else {
                continue;
            };
            self.set.push(copied.page, class);
            if class != Class::Zero {
                self.hash_bytes.put_u128_le(copied.hash);
            }
        }
        let whole = self.set.count(Class::Whole);
        if body.method == Method::None {
            tally.plain += whole;
        } else {
            tally.compressed += whole;
        }
        tally.plain += self.set.count(Class::Stored);
        tally.zero += self.set.count(Class::Zero);
        if self.set.runs().is_empty() {
            self.state.buffers.give(body.bytes);
            return Packet::default();
        }
        Packet {
            head: self.head(job, FrameKind::Pages, &body, tally),
            body_len: body.len,
            body: body.bytes,
            tally: Tally::default(),
        }
    }

    /// Header and page set of a frame.
    fn head(&mut self, job: &Job, kind: FrameKind, body: &Body, tally: &mut Tally) -> Vec<u8> {
        tally.frames = 1;
        self.set_bytes.clear();
        self.set.write(&mut self.set_bytes);
        let frame = Frame {
            kind,
            codec: body.method,
            block: job.block,
            round: job.mark.round,
            pages: self.set.pages() as u32,
            body_len: body.len as u32,
            decoded_len: body.decoded_len as u32,
        };
        let hashes = match kind {
            FrameKind::Zeros => &[][..],
            _ => &self.hash_bytes,
        };
        frame.head(&self.set_bytes, hashes)
    }
}

impl Encode for FrameEncoder<'_> {
    fn encode(&mut self, job: &Job, busy: bool) -> Result<Packet> {
        if job.hole {
            Ok(self.zeros(job))
        } else {
            self.batch(job, busy)
        }
    }
}

/// The class of a page in a page set; `None` if it is not in it.
fn class(fate: Fate) -> Option<Class> {
    match fate {
        Fate::Zero => Some(Class::Zero),
        Fate::Whole => Some(Class::Whole),
        Fate::Stored => Some(Class::Stored),
        Fate::Delta => Some(Class::Delta),
        Fate::Unchanged => None,
    }
}

/// The body of the frame in hand.
struct Body {
    bytes: BytesMut,
    /// How many of the bytes are used.
    len: usize,
    /// How many they are when decoded, without what was set aside.
    decoded_len: usize,
    method: Method,
}

impl Body {
    fn plain(bytes: BytesMut) -> Body {
        Body {
            bytes,
            len: 0,
            decoded_len: 0,
            method: Method::None,
        }
    }

    /// Moves the page at `from` down to `to`, which then points after it.
    fn move_page(&mut self, from: usize, to: &mut usize) {
        if from != *to {
            self.bytes.copy_within(from..from + PAGE_SIZE, *to);
        }
        *to += PAGE_SIZE;
    }

    /// Puts deltas and their lengths in front.
    fn prepend(&mut self, lengths: &[u8], deltas: &[u8]) {
        let front = lengths.len() + deltas.len();
        if front > 0 {
            self.bytes.copy_within(..self.len, front);
            self.bytes[..lengths.len()].copy_from_slice(lengths);
            self.bytes[lengths.len()..front].copy_from_slice(deltas);
        }
        self.len += front;
    }
}
