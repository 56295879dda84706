//! Streams made by hand: frames, messages and greetings, for a test to change before they are sent.

use std::io::Read;
use std::time::Duration;

use ramferry::Params;
use ramferry::codec::{self, CodecSettings, Encoded, Method};
use ramferry::delta;
use ramferry::handshake as session;
use ramferry::page::{BlockSeed, Digest, PAGE_SIZE, PageIndex, is_zero};
use ramferry::round::Round;
use ramferry::wire::native::{
    Answer, BlockInfo, Class, Frame, FrameKind, HELLO_HEAD_LEN, Header, Hello, HelloHead, Message,
    PageSet,
};

/// The seed of page hashes in a raw image.
pub(crate) fn seed() -> BlockSeed {
    BlockSeed::new(ramferry::image::RAW_BLOCK_NAME)
}

/// The digest of an image given as bytes.
pub(crate) fn digest_of(image: &[u8]) -> Digest {
    let mut digest = Digest::default();
    for (index, page) in (0..).zip(image.chunks_exact(PAGE_SIZE)) {
        digest.add(seed().hash_or_zero(PageIndex(index), page));
    }
    digest
}

/// The hello of a source with one connection.
pub(crate) fn hello(pages: u64) -> Hello {
    session::hello(
        *b"0123456789abcdef",
        (0, 1),
        Duration::from_secs(30),
        vec![BlockInfo {
            name: ramferry::image::RAW_BLOCK_NAME.to_owned(),
            bytes: pages * PAGE_SIZE as u64,
        }],
        session::offers(None, true),
    )
}

/// How a page of a frame made by hand travels.
#[derive(Debug, Clone)]
pub(crate) enum Carried {
    Zero,
    Whole(Vec<u8>),
    /// Outside of what is compressed.
    Stored(Vec<u8>),
    /// The page as it was, and as it is.
    Delta(Vec<u8>, Vec<u8>),
}

/// The parts of a frame with pages, for a test to change before they are put together.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) header: Frame,
    pub(crate) set: Vec<u8>,
    pub(crate) hashes: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Parts {
    /// A frame with these pages, ascending, stored as they are.
    pub(crate) fn new(round: u32, pages: &[(u64, Carried)]) -> Parts {
        let mut set = PageSet::default();
        let (mut lengths, mut deltas, mut whole) = (Vec::new(), Vec::new(), Vec::new());
        let (mut hashes, mut stored) = (Vec::new(), Vec::new());
        for (index, page) in pages {
            let index = PageIndex(*index);
            let (class, bytes) = match page {
                Carried::Zero => (Class::Zero, None),
                Carried::Whole(bytes) => {
                    whole.extend_from_slice(bytes);
                    (Class::Whole, Some(bytes))
                }
                Carried::Stored(bytes) => {
                    stored.extend_from_slice(bytes);
                    (Class::Stored, Some(bytes))
                }
                Carried::Delta(old, new) => {
                    let delta = delta_between(old, new);
                    lengths.extend_from_slice(&(delta.len() as u16).to_le_bytes());
                    deltas.extend_from_slice(&delta);
                    (Class::Delta, Some(new))
                }
            };
            set.push(index, class);
            if let Some(bytes) = bytes {
                hashes.extend_from_slice(&seed().hash(index, bytes).to_le_bytes());
            }
        }
        let mut set_bytes = Vec::new();
        set.write(&mut set_bytes);
        let decoded_len = (lengths.len() + deltas.len() + whole.len()) as u32;
        let body = [lengths, deltas, whole, stored].concat();
        Parts {
            header: Frame {
                kind: FrameKind::Pages,
                codec: Method::None,
                block: 0,
                round: Round(round),
                pages: pages.len() as u32,
                body_len: body.len() as u32,
                decoded_len,
            },
            set: set_bytes,
            hashes,
            body,
        }
    }

    /// A frame of long runs of zero pages.
    pub(crate) fn zeros(round: u32, runs: &[(u64, u64)]) -> Parts {
        let mut set = PageSet::default();
        for &(start, end) in runs {
            set.push_range(ramferry::page::PageRange::between(start, end), Class::Zero);
        }
        let mut parts = Parts::new(round, &[]);
        parts.header.kind = FrameKind::Zeros;
        parts.header.pages = set.pages() as u32;
        set.write(&mut parts.set);
        parts
    }

    /// Compresses the body, but for the stored pages.
    pub(crate) fn compressed(mut self, method: Method) -> Parts {
        let settings = CodecSettings {
            method,
            level: 1,
            ..Params::default().codec_settings()
        };
        let (plain, stored) = self.body.split_at(self.header.decoded_len as usize);
        let mut out = vec![0; plain.len() + 1024];
        let encoded = codec::encoder(settings)
            .unwrap()
            .encode(plain, &mut out)
            .unwrap();
        let Encoded::Done(len) = encoded else {
            panic!("the body of a test compresses");
        };
        out.truncate(len);
        out.extend_from_slice(stored);
        self.header.codec = method;
        self.header.body_len = out.len() as u32;
        self.body = out;
        self
    }

    /// Replaces the body and its lengths.
    pub(crate) fn with_body(mut self, body: Vec<u8>) -> Parts {
        self.header.body_len = body.len() as u32;
        self.header.decoded_len = body.len() as u32;
        self.body = body;
        self
    }

    /// The frame as it is on the wire, with its hash.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.head(&self.set, &self.hashes);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

pub(crate) fn delta_between(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = vec![0; PAGE_SIZE];
    let (old, new) = (old.try_into().unwrap(), new.try_into().unwrap());
    match delta::encode(old, new, &mut out) {
        delta::Delta::Encoded(len) => out.truncate(len),
        other => panic!("no delta: {other:?}"),
    }
    out
}

pub(crate) fn round_end(round: u32, frames: u64, pages: u64, last: bool) -> Vec<u8> {
    Message::RoundEnd {
        round: Round(round),
        frames,
        pages,
        last,
    }
    .to_bytes()
}

pub(crate) fn finish(image: &[u8]) -> Vec<u8> {
    Message::Finish {
        digest: digest_of(image),
    }
    .to_bytes()
}

/// An image as the frames of one round: every page that is not zero in one, the others in another.
pub(crate) fn one_round(image: &[u8]) -> Vec<u8> {
    let pages = || (0..).zip(image.chunks_exact(PAGE_SIZE));
    let data: Vec<(u64, Carried)> = pages()
        .filter(|(_, page)| !is_zero(page))
        .map(|(index, page)| (index, Carried::Whole(page.to_vec())))
        .collect();
    let zeros: Vec<(u64, u64)> = pages()
        .filter(|(_, page)| is_zero(page))
        .map(|(index, _)| (index, index + 1))
        .collect();
    let mut frames = vec![Parts::new(1, &data).bytes()];
    if !zeros.is_empty() {
        frames.push(Parts::zeros(1, &zeros).bytes());
    }
    let pages = (data.len() + zeros.len()) as u64;
    frames.push(round_end(1, frames.len() as u64, pages, true));
    frames.concat()
}

/// Reads a hello or the like: head and rest.
fn read_greeting(link: &mut impl Read) -> ([u8; HELLO_HEAD_LEN], Vec<u8>) {
    let mut head = [0; HELLO_HEAD_LEN];
    link.read_exact(&mut head).unwrap();
    let len = u32::from_le_bytes(head[12..16].try_into().unwrap()) as usize;
    let mut rest = vec![0; len + 8];
    link.read_exact(&mut rest).unwrap();
    (head, rest)
}

/// What a destination made by hand reads first.
pub(crate) fn read_hello(link: &mut impl Read) -> Hello {
    let (head, rest) = read_greeting(link);
    Hello::read(&HelloHead::of_hello(head).unwrap(), &rest).unwrap()
}

/// What a source made by hand reads first.
pub(crate) fn read_answer(link: &mut impl Read) -> Answer {
    let (head, rest) = read_greeting(link);
    Answer::read(&HelloHead::of_answer(head).unwrap(), &rest).unwrap()
}

/// Reads a message made by a destination; keep-alives are passed over.
pub(crate) fn read_message(link: &mut impl Read) -> Message {
    loop {
        let mut head = [0; ramferry::wire::native::HEADER_LEN];
        link.read_exact(&mut head).unwrap();
        let header = Header::from_bytes(&head).unwrap();
        let mut rest = vec![0; header.rest_len()];
        link.read_exact(&mut rest).unwrap();
        match Message::read(&header, header.kind.unwrap(), &rest).unwrap() {
            Message::KeepAlive => {}
            message => return message,
        }
    }
}
