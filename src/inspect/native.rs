//! A native stream: what each frame contains, and whether its pages match its hash.
//!
//! The checks are those of the destination, except for what needs the guest's RAM: a delta is
//! decompressed and decoded, but what it applies to is not known, so its frame's hash cannot be
//! checked, nor the digest after more than one round. `receive` checks those. Memory: one
//! frame, its pages, and one entry per round, at most [`MAX_ROUNDS`].

use std::io;

use xxhash_rust::xxh3::Xxh3;

use crate::codec::{CodecError, Decoders, Method};
use crate::delta::{self, DeltaError};
use crate::page::{BlockSeed, Digest, PAGE_SIZE};
use crate::round::Round;
use crate::session::CAPABILITY_GUEST_FOLDER;
use crate::wire::native::{
    Class, FolderParts, FrameKind, HEADER_LEN, HELLO_HEAD_LEN, Header, Hello, HelloHead,
    MAX_ROUNDS, Message, PageSet, Run, VERSIONS, frame_hash,
};
use crate::wire::{WireError, must_be};

use super::input::{Input, ScanError, whole};
use super::report::{
    Damage, FrameCount, NativeBlock, NativeCapability, NativeHello, NativeRound, NativeStream,
    RoundPages,
};

/// The name of frames of a kind that this version does not know and may skip.
const UNKNOWN: &str = "unknown";

/// Describes the stream up to its end or the first damage.
pub(super) fn read(input: &mut Input<'_>) -> io::Result<(NativeStream, Option<Damage>)> {
    let mut scan = NativeScan::default();
    let damage = match scan.stream(input) {
        Ok(()) => None,
        Err(ScanError::Damage(damage)) => Some(damage),
        Err(ScanError::Io(error)) => return Err(error),
    };
    let mut stream = scan.stream;
    stream.complete &= damage.is_none();
    stream.other_bytes = input.size() - input.offset();
    Ok((stream, damage))
}

/// Damage in the record that begins at `offset`.
fn at(offset: u64) -> impl Fn(WireError) -> ScanError {
    move |error| ScanError::damaged(offset, &error)
}

/// The device state so far.
#[derive(Default)]
struct DeviceStateSum {
    bytes: u64,
    hasher: Box<Xxh3>,
}

#[derive(Default)]
struct NativeScan {
    stream: NativeStream,
    blocks: Vec<(BlockSeed, u64)>,
    is_first: bool,
    /// Pages of the current round, by the frame headers.
    pages: u64,
    last_round_ended: bool,
    folder: FolderParts,
    device_state: DeviceStateSum,
    sum: Digest,
    checker: Checker,
}

impl NativeScan {
    fn stream(&mut self, input: &mut Input<'_>) -> Result<(), ScanError> {
        self.hello(input)?;
        loop {
            let begin = input.offset();
            if input.peek(1)?.is_empty() && self.stream.complete {
                return self.prove(begin);
            }
            if input.peek(1)?.is_empty() {
                let missing = if self.last_round_ended {
                    "the digest, which comes last, is missing"
                } else {
                    "the last round's end is missing"
                };
                return Err(ScanError::truncated(
                    input,
                    &format!("it ends too early: {missing}"),
                ));
            }
            let header = whole(input, HEADER_LEN, "frame header")?;
            let mut bytes = [0; HEADER_LEN];
            bytes.copy_from_slice(header);
            let header = Header::from_bytes(&bytes).map_err(at(begin))?;
            let len = HEADER_LEN + header.rest_len();
            let name = header
                .kind
                .map_or("frame of an unknown kind", FrameKind::name);
            let frame = whole(input, len, name)?;
            self.frame(&header, &frame[HEADER_LEN..], len as u64)
                .map_err(|error| ScanError::damaged(begin, &error))?;
            self.count(&header, len as u64);
            input.consume(len);
        }
    }

    fn hello(&mut self, input: &mut Input<'_>) -> Result<(), ScanError> {
        let mut bytes = [0; HELLO_HEAD_LEN];
        bytes.copy_from_slice(whole(input, HELLO_HEAD_LEN, "hello")?);
        let head = HelloHead::of_hello(bytes).map_err(at(0))?;
        let len = HELLO_HEAD_LEN + head.rest_len();
        let rest = &whole(input, len, "hello")?[HELLO_HEAD_LEN..];
        let hello = Hello::read(&head, rest).map_err(at(0))?;
        input.consume(len);
        self.stream.hello_bytes = len as u64;
        self.blocks = hello
            .blocks
            .iter()
            .map(|block| (BlockSeed::new(&block.name), block.bytes / PAGE_SIZE as u64))
            .collect();
        self.is_first = hello.connection == 0;
        let mut offers = hello.capabilities.iter();
        let has_folder = offers.any(|offer| offer.name == CAPABILITY_GUEST_FOLDER);
        self.folder = FolderParts::new(has_folder);
        let (oldest, newest) = hello.versions;
        let page_size = hello.page_size;
        self.stream.hello = Some(describe(hello));
        if oldest > *VERSIONS.end() || newest < *VERSIONS.start() {
            return Err(ScanError::damaged(
                len as u64,
                &format!("frame versions {oldest} to {newest} are not supported"),
            ));
        }
        if page_size as usize != PAGE_SIZE {
            return Err(ScanError::damaged(
                len as u64,
                &format!("pages of {page_size} bytes are not supported, only {PAGE_SIZE}"),
            ));
        }
        Ok(())
    }

    /// Reads a complete frame.
    fn frame(&mut self, header: &Header, rest: &[u8], len: u64) -> Result<(), FrameError> {
        match header.kind {
            // Its hash, if it has one, is not known.
            None => Ok(()),
            Some(FrameKind::Pages | FrameKind::Zeros) => self.pages(header, rest, len),
            Some(kind) => {
                let message = Message::read(header, kind, rest)?;
                self.message(message, kind)
            }
        }
    }

    fn message(&mut self, message: Message, kind: FrameKind) -> Result<(), FrameError> {
        let out_of_place = |why| {
            Err(FrameError::Wire(WireError::OutOfPlace {
                record: kind.name(),
                why,
            }))
        };
        match message {
            Message::KeepAlive => Ok(()),
            Message::RoundEnd { .. } if self.last_round_ended => {
                out_of_place("the last round is over")
            }
            Message::RoundEnd {
                round,
                frames,
                pages,
                last,
            } => {
                let current = self.round()?;
                let (ended, counted) = (round.0.into(), current.frames);
                must_be("the round that ends", ended, current.round.into())?;
                must_be("the number of frames in the round", counted, frames)?;
                // A header counts pages modulo 2^32.
                let (counted, pages) = (self.pages as u32, pages as u32);
                let field = "the number of pages in the round";
                must_be(field, counted.into(), pages.into())?;
                self.check_first(round)?;
                self.round()?.complete = true;
                self.pages = 0;
                self.last_round_ended = last;
                self.stream.complete = last && !self.is_first;
                Ok(())
            }
            Message::Finish { .. } if !self.is_first => {
                out_of_place("it goes on the first connection")
            }
            Message::Finish { .. } if !self.last_round_ended => {
                out_of_place("the last round is not over")
            }
            Message::Finish { .. } if self.stream.complete => out_of_place("it came before"),
            Message::Finish { .. } if !self.folder.is_whole() => {
                out_of_place("the device state is not complete")
            }
            Message::Finish { digest } => {
                self.stream.digest = Some(digest);
                self.stream.complete = true;
                Ok(())
            }
            Message::Description(_)
            | Message::DeviceState { .. }
            | Message::DeviceStateEnd { .. } => {
                if !self.is_first {
                    out_of_place("it goes on the first connection")
                } else if !self.last_round_ended {
                    out_of_place("the last round is not over")
                } else {
                    Ok(self.folder_part(&message)?)
                }
            }
            Message::Commit if self.stream.complete && self.is_first => Ok(()),
            Message::Failure { text, .. } => Err(FrameError::GaveUp(text)),
            Message::Commit | Message::Proven { .. } | Message::Committed => {
                out_of_place("a source does not send it")
            }
        }
    }

    /// Round 1 brings every page of the guest, if nothing of it went over other connections.
    fn check_first(&mut self, ended: Round) -> Result<(), WireError> {
        if !ended.is_first() || !self.is_alone() {
            return Ok(());
        }
        let pages = self.blocks.iter().map(|(_, pages)| *pages);
        let expected = pages.fold(0, u64::saturating_add);
        let RoundPages {
            zero,
            whole,
            stored,
            ..
        } = self.round()?.pages;
        let found = zero.saturating_add(whole + stored);
        must_be("the number of pages in the first round", found, expected)
    }

    /// Whether the guest came over this connection alone.
    fn is_alone(&self) -> bool {
        let hello = self.stream.hello.as_ref();
        hello.is_some_and(|hello| hello.connections == 1)
    }

    fn folder_part(&mut self, message: &Message) -> Result<(), WireError> {
        self.folder.check(message, self.device_state.bytes)?;
        match message {
            Message::DeviceState { bytes, .. } => {
                self.device_state.bytes += bytes.len() as u64;
                self.device_state.hasher.update(bytes);
                Ok(())
            }
            Message::DeviceStateEnd { hash, .. } => {
                let found = self.device_state.hasher.digest128();
                if found == *hash {
                    return Ok(());
                }
                // The lower halves suffice to distinguish them.
                Err(WireError::Damaged {
                    record: "device state",
                    found: found as u64,
                    expected: *hash as u64,
                })
            }
            _ => Ok(()),
        }
    }

    /// The current round. The first frame after a round's end begins the next.
    fn round(&mut self) -> Result<&mut NativeRound, WireError> {
        let rounds = &mut self.stream.rounds;
        if rounds.last().is_none_or(|round| round.complete) {
            let number = rounds.len() as u32 + 1;
            if number > MAX_ROUNDS {
                return Err(WireError::TooLarge {
                    field: "the number of rounds",
                    given: number.into(),
                    allowed: MAX_ROUNDS.into(),
                });
            }
            rounds.push(NativeRound {
                round: number,
                ..NativeRound::default()
            });
        }
        // There is one: pushed above, if there was none.
        rounds.last_mut().ok_or(WireError::OutOfPlace {
            record: "a frame",
            why: "there is no round",
        })
    }

    fn pages(&mut self, header: &Header, rest: &[u8], len: u64) -> Result<(), FrameError> {
        if self.last_round_ended {
            return Err(FrameError::Wire(WireError::OutOfPlace {
                record: header.kind.map_or(UNKNOWN, FrameKind::name),
                why: "the last round is over",
            }));
        }
        let expected = self.round()?.round;
        must_be("the frame's round", header.round.0.into(), expected.into())?;
        let blocks = self.blocks.len() as u64;
        let &(seed, block_pages) = self.blocks.get(usize::from(header.block)).ok_or({
            WireError::TooLarge {
                field: "the frame's block",
                given: header.block.into(),
                allowed: blocks.saturating_sub(1),
            }
        })?;
        let checked = self.checker.check(header, rest, seed, block_pages)?;
        let set = &self.checker.set;
        let (zero, whole) = (set.count(Class::Zero), set.count(Class::Whole));
        let (delta, stored) = (set.count(Class::Delta), set.count(Class::Stored));
        match checked {
            Some(sum) => {
                self.stream.checked_frames += 1;
                self.sum.add(sum);
            }
            None => self.stream.unchecked_frames += 1,
        }
        self.pages = self.pages.wrapping_add(u64::from(header.pages));
        let round = self.round()?;
        round.frames += 1;
        round.bytes += len;
        // A stream may claim any number of runs of zeros of any length.
        round.pages.zero = round.pages.zero.saturating_add(zero);
        round.pages.whole += whole;
        round.pages.delta += delta;
        round.pages.stored += stored;
        let method = header.codec.name();
        if whole + delta + stored > 0 && !round.methods.contains(&method) {
            round.methods.push(method);
        }
        Ok(())
    }

    fn count(&mut self, header: &Header, bytes: u64) {
        let kind = header.kind.map_or(UNKNOWN, FrameKind::name);
        let frames = &mut self.stream.frames;
        match frames.iter_mut().find(|frames| frames.kind == kind) {
            Some(known) => {
                known.count += 1;
                known.bytes += bytes;
            }
            None => frames.push(FrameCount {
                kind,
                count: 1,
                bytes,
            }),
        }
    }

    /// Compares the digest with that of the frames, if all of them were checked.
    fn prove(&mut self, end: u64) -> Result<(), ScanError> {
        let Some(digest) = self.stream.digest else {
            return Ok(());
        };
        if !self.is_alone() || self.stream.rounds.len() != 1 || self.stream.unchecked_frames > 0 {
            return Ok(());
        }
        self.stream.computed_digest = Some(self.sum);
        if self.sum == digest {
            Ok(())
        } else {
            let held = self.sum;
            Err(ScanError::damaged(
                end,
                &format!("the digest of its pages is {held}, but its end says {digest}"),
            ))
        }
    }
}

/// Why a frame is damaged.
#[derive(Debug, thiserror::Error)]
enum FrameError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Delta(#[from] DeltaError),
    #[error("the source gave up: {0}")]
    GaveUp(String),
}

fn describe(hello: Hello) -> NativeHello {
    NativeHello {
        oldest_version: hello.versions.0,
        newest_version: hello.versions.1,
        session: hello
            .session
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        connection: hello.connection,
        connections: hello.connections,
        page_size: hello.page_size,
        silence_ms: hello.silence_ms,
        blocks: hello
            .blocks
            .into_iter()
            .map(|block| NativeBlock {
                name: block.name,
                bytes: block.bytes,
            })
            .collect(),
        capabilities: hello
            .capabilities
            .into_iter()
            .map(|offer| NativeCapability {
                name: offer.name,
                required: offer.required,
            })
            .collect(),
    }
}

/// Decodes frames to check their hashes.
struct Checker {
    set: PageSet,
    /// What deltas are applied to, as the pages that they are for are not known.
    page: Box<[u8; PAGE_SIZE]>,
    decoders: Decoders,
    plain: Vec<u8>,
    hashes: Vec<u8>,
}

impl Default for Checker {
    fn default() -> Checker {
        Checker {
            set: PageSet::default(),
            page: Box::new([0; PAGE_SIZE]),
            decoders: Decoders::default(),
            plain: Vec::new(),
            hashes: Vec::new(),
        }
    }
}

impl Checker {
    /// Checks a frame with pages. Returns its part of the digest, or `None` if it has deltas.
    fn check(
        &mut self,
        header: &Header,
        rest: &[u8],
        seed: BlockSeed,
        block_pages: u64,
    ) -> Result<Option<u128>, FrameError> {
        let short = WireError::Short {
            record: "frame",
            have: rest.len(),
        };
        let (set_bytes, body) = rest
            .split_at_checked(header.page_set_len as usize)
            .ok_or(short)?;
        self.set.read(set_bytes, block_pages)?;
        let (pages, said) = (self.set.pages(), u64::from(header.pages));
        if header.kind == Some(FrameKind::Zeros) {
            must_be(
                "the number of pages in the page set",
                pages as u32 as u64,
                said,
            )?;
            if self.set.count(Class::Zero) != pages || !body.is_empty() {
                return Err(FrameError::Wire(WireError::OutOfPlace {
                    record: "a page that is not zero",
                    why: "a Zeros frame has none",
                }));
            }
            check_hash(header, set_bytes, &[])?;
            return Ok(Some(0));
        }
        // The header's check allows 256 pages at most.
        must_be("the number of pages in the page set", pages, said)?;
        let deltas = self.set.count(Class::Delta) as usize;
        if header.round.is_first() && deltas > 0 {
            return Err(FrameError::Wire(WireError::OutOfPlace {
                record: "a delta",
                why: "round 1 has no earlier pages that it could apply to",
            }));
        }
        let stored = self.set.count(Class::Stored) as usize * PAGE_SIZE;
        let (body, stored) = body
            .len()
            .checked_sub(stored)
            .and_then(|at| body.split_at_checked(at))
            .ok_or_else(|| body_length(body.len(), stored))?;
        let len = header.decoded_len as usize;
        if header.codec == Method::None && body.len() != len {
            return Err(body_length(body.len(), len).into());
        }
        let plain = (self.decoders).decode((header.codec, body), len, &mut self.plain)?;
        let whole = self.set.count(Class::Whole) as usize * PAGE_SIZE;
        let (lengths, plain) = plain
            .split_at_checked(2 * deltas)
            .ok_or_else(|| body_length(plain.len(), 2 * deltas + whole))?;
        let (lengths, _) = lengths.as_chunks::<2>();
        let lengths = lengths
            .iter()
            .map(|length| usize::from(u16::from_le_bytes(*length)));
        let delta_bytes: usize = lengths.clone().sum();
        if plain.len() != delta_bytes + whole {
            return Err(body_length(plain.len(), delta_bytes + whole).into());
        }
        if deltas > 0 {
            let mut rest = plain;
            for length in lengths {
                let (one, later) = rest.split_at(length);
                rest = later;
                delta::decode(one, &mut self.page)?;
            }
            return Ok(None);
        }
        let sum = self::hash(&self.set, seed, plain, stored, &mut self.hashes);
        check_hash(header, set_bytes, &self.hashes)?;
        Ok(Some(sum))
    }
}

fn body_length(given: usize, expected: usize) -> WireError {
    WireError::Contradiction {
        field: "the length of the decoded body",
        given: given as u64,
        expected: expected as u64,
    }
}

/// Hashes the pages in the order of their set into `hashes`; returns their sum.
fn hash<'a>(
    set: &PageSet,
    seed: BlockSeed,
    mut whole: &'a [u8],
    mut stored: &'a [u8],
    hashes: &mut Vec<u8>,
) -> u128 {
    hashes.clear();
    let mut sum = 0_u128;
    for Run { range, class } in set.runs() {
        let source = match class {
            Class::Whole => &mut whole,
            Class::Stored => &mut stored,
            Class::Zero | Class::Delta => continue,
        };
        // Their lengths have been checked against the set.
        let Some((pages, rest)) = source.split_at_checked(range.count as usize * PAGE_SIZE) else {
            break;
        };
        *source = rest;
        for (page, bytes) in range.pages().zip(pages.chunks_exact(PAGE_SIZE)) {
            let hash = seed.hash(page, bytes);
            sum = sum.wrapping_add(hash);
            hashes.extend_from_slice(&hash.to_le_bytes());
        }
    }
    sum
}

fn check_hash(header: &Header, set: &[u8], hashes: &[u8]) -> Result<(), WireError> {
    let found = frame_hash(header, set, hashes);
    if found == header.hash {
        Ok(())
    } else {
        Err(WireError::Damaged {
            record: header.kind.map_or(UNKNOWN, FrameKind::name),
            found,
            expected: header.hash,
        })
    }
}
