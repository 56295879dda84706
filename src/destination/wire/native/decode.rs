//! A frame of the native wire: from its bytes to pages in their place.

use bytes::BytesMut;

use crate::codec::{Decoders, Method};
use crate::delta;
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Block;

use crate::page::{BlockSeed, PAGE_SIZE};
use crate::pool::Buffers;
use crate::stats::{Stage, StageClock, Tally};
use crate::wire::WireError;
use crate::wire::native::{Class, FrameKind, Header, PageSet, Run, frame_hash};

use crate::destination::prove::Proof;
use crate::destination::stage::DECODING;
use crate::destination::wire::{Decode, DecodeTarget};

/// A frame with pages, as it was read.
#[derive(Debug)]
pub(in crate::destination) struct ReceivedFrame {
    pub(super) header: Header,
    /// Page set, then body.
    pub(super) bytes: BytesMut,
    /// The CPU time of reading it.
    pub(super) tally: Tally,
}

/// Checks and places frames. Its buffers and decompressors live as long as its thread.
pub(super) struct FrameDecoder<'a> {
    target: &'a DecodeTarget<'a>,
    /// Where a frame's buffer goes when its pages are placed.
    buffers: &'a Buffers,
    decoders: Decoders,
    set: PageSet,
    plain: Vec<u8>,
    /// Pages that deltas were applied to.
    patched: Vec<u8>,
    hashes: Vec<u8>,
}

impl Decode<ReceivedFrame> for FrameDecoder<'_> {
    fn place(&mut self, packet: ReceivedFrame) -> Result<Tally> {
        self.target.context.faults.check(Site::Decode)?;
        let header = &packet.header;
        let block = self
            .target
            .output
            .blocks()
            .get(usize::from(header.block))
            .ok_or(WireError::Unknown {
                field: "the frame's block",
                given: header.block.into(),
            })?;
        let tally = self
            .read_page_set(&packet, block)
            .and_then(|()| self.place_pages(&packet, block))
            .map_err(|error| {
                let error = error.in_stage(DECODING).in_round(header.round.0);
                match self.set.runs().first() {
                    Some(run) => error.at_page(run.range.start.0),
                    None => error,
                }
            })?;
        self.buffers.give(packet.bytes);
        Ok(tally)
    }
}

impl<'a> FrameDecoder<'a> {
    pub(super) fn new(target: &'a DecodeTarget<'a>, buffers: &'a Buffers) -> Self {
        FrameDecoder {
            target,
            buffers,
            decoders: Decoders::default(),
            set: PageSet::default(),
            plain: Vec::new(),
            patched: Vec::new(),
            hashes: Vec::new(),
        }
    }

    fn read_page_set(&mut self, packet: &ReceivedFrame, block: &Block) -> Result<()> {
        let header = &packet.header;
        let bytes = &packet.bytes[..header.page_set_len as usize];
        self.set.read(bytes, block.pages())?;
        let (pages, expected) = (self.set.pages(), u64::from(header.pages));
        let modulo = header.kind == Some(FrameKind::Zeros);
        if pages != expected && !(modulo && pages as u32 == header.pages) {
            return Err(WireError::Contradiction {
                field: "the number of pages in the page set",
                given: pages,
                expected,
            }
            .into());
        }
        Ok(())
    }

    /// Checks the frame's hash, and only then places its pages.
    fn place_pages(&mut self, packet: &ReceivedFrame, block: &Block) -> Result<Tally> {
        let header = &packet.header;
        let (set, body) = packet.bytes.split_at(header.page_set_len as usize);
        let body = &body[..header.body_len as usize];
        let mut tally = packet.tally;
        let mut clock = StageClock::start();
        let baseline = self.target.baseline.before(header.round);
        if header.kind == Some(FrameKind::Zeros) {
            self.check_zeros(body)?;
            check_hash(header, set, &[])?;
            touch(&self.target.proof, header, &self.set);
        } else {
            if !baseline.is_known() && self.set.count(Class::Delta) > 0 {
                return Err(WireError::OutOfPlace {
                    record: "a delta",
                    why: "in round 1 there is nothing to differ from",
                }
                .into());
            }
            let (compressed, stored) = split_stored(&self.set, body)?;
            let plain = decompress(&mut self.decoders, header, compressed, &mut self.plain)?;
            clock.cut(&mut tally.cpu, Stage::Codec);
            let (deltas, whole) = split_whole(&self.set, plain)?;
            tally.delta_bytes = apply_deltas(deltas, &self.set, block, &mut self.patched)? as u64;
            clock.cut(&mut tally.cpu, Stage::Delta);
            let bodies = Bodies {
                whole,
                patched: &self.patched,
                stored,
            };
            hash(&self.set, block.seed(), bodies, &mut self.hashes);
            check_hash(header, set, &self.hashes)?;
            clock.cut(&mut tally.cpu, Stage::Hash);
            touch(&self.target.proof, header, &self.set);
            place(&self.set, block, bodies)?;
        }
        // A fresh output is zero already.
        if baseline.is_known() {
            for range in self.set.of(Class::Zero) {
                block.clear(range)?;
            }
        }
        clock.cut(&mut tally.cpu, Stage::Place);
        self.count(header, &mut tally);
        Ok(tally)
    }

    fn check_zeros(&self, body: &[u8]) -> Result<(), WireError> {
        if self.set.count(Class::Zero) == self.set.pages() && body.is_empty() {
            return Ok(());
        }
        Err(WireError::OutOfPlace {
            record: "a page that is not zero",
            why: "a Zeros frame has none",
        })
    }

    fn count(&self, header: &Header, tally: &mut Tally) {
        let whole = self.set.count(Class::Whole);
        tally.zero = self.set.count(Class::Zero);
        tally.delta = self.set.count(Class::Delta);
        tally.plain = self.set.count(Class::Stored);
        if header.codec == Method::None {
            tally.plain += whole;
        } else {
            tally.compressed = whole;
            tally.compressed_bytes = header.body_len.into();
            tally.compressed_input = header.decoded_len.into();
        }
        tally.frames = 1;
    }
}

/// Has the proof read these pages back when the round is over. To be called before they change.
fn touch(proof: &Proof, header: &Header, set: &PageSet) {
    proof.touch(header.block.into(), set.runs().iter().map(|run| run.range));
}

fn check_hash(header: &Header, set: &[u8], hashes: &[u8]) -> Result<()> {
    let found = frame_hash(header, set, hashes);
    if found == header.hash {
        return Ok(());
    }
    Err(WireError::Damaged {
        record: header.kind.map_or("frame", FrameKind::name),
        found,
        expected: header.hash,
    }
    .into())
}

fn contradiction(given: usize, expected: usize) -> Error {
    WireError::Contradiction {
        field: "the length of the decoded body",
        given: given as u64,
        expected: expected as u64,
    }
    .into()
}

/// A body as it was before compression, without its stored pages.
fn decompress<'a>(
    decoders: &mut Decoders,
    header: &Header,
    body: &'a [u8],
    plain: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    let len = header.decoded_len as usize;
    if header.codec == Method::None && body.len() != len {
        return Err(contradiction(body.len(), len));
    }
    decoders
        .decode((header.codec, body), len, plain)
        .map_err(|error| Error::new(Kind::Failed, error))
}

/// Cuts the whole pages off the end of what was compressed; what precedes them are deltas.
fn split_whole<'a>(set: &PageSet, plain: &'a [u8]) -> Result<(&'a [u8], &'a [u8])> {
    set.count(Class::Whole)
        .checked_mul(PAGE_SIZE as u64)
        .and_then(|bytes| plain.len().checked_sub(bytes as usize))
        .map(|at| plain.split_at(at))
        .ok_or_else(|| contradiction(plain.len(), 0))
}

/// Applies all deltas to the block's pages, into `patched`. Returns the bytes of deltas.
fn apply_deltas(
    bytes: &[u8],
    set: &PageSet,
    block: &Block,
    patched: &mut Vec<u8>,
) -> Result<usize> {
    let count = set.count(Class::Delta) as usize;
    let (lengths, mut deltas) = bytes
        .split_at_checked(2 * count)
        .ok_or_else(|| contradiction(bytes.len(), 2 * count))?;
    let total = deltas.len();
    patched.resize(count * PAGE_SIZE, 0);
    let pages = set.of(Class::Delta).flat_map(|range| range.pages());
    let (pages_out, _) = patched.as_chunks_mut::<PAGE_SIZE>();
    let (lengths, _) = lengths.as_chunks::<2>();
    for ((page, length), out) in pages.zip(lengths).zip(pages_out) {
        let length = usize::from(u16::from_le_bytes(*length));
        let (delta, rest) = deltas
            .split_at_checked(length)
            .ok_or_else(|| contradiction(deltas.len(), length))?;
        deltas = rest;
        block.read(page, out)?;
        delta::decode(delta, out)
            .map_err(|error| Error::new(Kind::Failed, error).at_page(page.0))?;
    }
    if deltas.is_empty() {
        Ok(total)
    } else {
        Err(contradiction(total, total - deltas.len()))
    }
}

/// The bytes of the pages of each class, in the order of the page set.
#[derive(Clone, Copy)]
struct Bodies<'a> {
    whole: &'a [u8],
    patched: &'a [u8],
    stored: &'a [u8],
}

impl<'a> Bodies<'a> {
    /// The bytes of the next run; there are enough, as they have been counted before.
    fn next(&mut self, run: &Run) -> Option<&'a [u8]> {
        let source = match run.class {
            Class::Zero => return None,
            Class::Whole => &mut self.whole,
            Class::Delta => &mut self.patched,
            Class::Stored => &mut self.stored,
        };
        let (bytes, rest) = source.split_at_checked(run.range.count as usize * PAGE_SIZE)?;
        *source = rest;
        Some(bytes)
    }
}

/// Cuts the stored pages off a body's end.
fn split_stored<'a>(set: &PageSet, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8])> {
    // At most 256 pages, as the header's check has it.
    let stored = set.count(Class::Stored) as usize * PAGE_SIZE;
    body.len()
        .checked_sub(stored)
        .map(|at| body.split_at(at))
        .ok_or_else(|| contradiction(body.len(), stored))
}

/// Hashes all pages that are not zero, in the order of the page set.
fn hash(set: &PageSet, seed: BlockSeed, mut bodies: Bodies<'_>, hashes: &mut Vec<u8>) {
    hashes.clear();
    for run in set.runs() {
        let bytes = bodies.next(run).unwrap_or_default();
        for (page, bytes) in run.range.pages().zip(bytes.chunks_exact(PAGE_SIZE)) {
            hashes.extend_from_slice(&seed.hash(page, bytes).to_le_bytes());
        }
    }
}

fn place(set: &PageSet, block: &Block, mut bodies: Bodies<'_>) -> Result<()> {
    for run in set.runs() {
        if let Some(bytes) = bodies.next(run) {
            block.place(run.range.start, bytes)?;
        }
    }
    Ok(())
}
