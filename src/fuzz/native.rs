//! Native streams that are put in order. Hashes, counts and digests stop nearly every change that is
//! made by chance before it gets anywhere; so where one of them is zero, it is filled in here.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::wire::native::{
    ANSWER_MAGIC, FrameKind, HEADER_LEN, HELLO_HEAD_LEN, HELLO_MAGIC, Header, Hello, HelloHead,
    Message, frame_hash,
};

use super::model::Model;

/// Bytes of a hash.
const HASH: usize = 8;
/// Where a frame's hash is.
const HASH_AT: usize = HEADER_LEN - HASH;

/// A stream in order, and what RAM must be after it.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) bytes: Vec<u8>,
    /// `None` if it is too large to be followed, or if there is no hello.
    pub(super) model: Option<Model>,
}

/// Puts a source's stream in order: a hello, then frames.
pub(super) fn seal_stream(data: &[u8]) -> Sealed {
    let (greeting, frames) = split_greeting(data, HELLO_MAGIC);
    let mut bytes = seal_greeting(greeting);
    let model = bytes.split_first_chunk().and_then(|(head, rest)| {
        let head = HelloHead::of_hello(*head).ok()?;
        Model::new(&Hello::read(&head, rest).ok()?.blocks)
    });
    let mut sealing = Sealing {
        model,
        ..Sealing::default()
    };
    sealing.frames(frames, &mut bytes);
    Sealed {
        bytes,
        model: sealing.model,
    }
}

/// Puts a destination's stream in order: an answer, then frames.
pub(super) fn seal_answers(data: &[u8]) -> Vec<u8> {
    let (greeting, frames) = split_greeting(data, ANSWER_MAGIC);
    [seal_greeting(greeting), seal_frames(frames)].concat()
}

/// Puts messages in order.
pub(super) fn seal_frames(data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Sealing::default().frames(data, &mut bytes);
    bytes
}

/// Puts one hello or answer in order.
pub(super) fn seal_greeting(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if let Some((content, hash)) = bytes.split_last_chunk_mut::<HASH>()
        && *hash == [0; HASH]
    {
        *hash = xxh3_64(content).to_le_bytes();
    }
    bytes
}

/// Cuts the hello or answer off, if there is one of the announced length.
fn split_greeting(data: &[u8], magic: [u8; 8]) -> (&[u8], &[u8]) {
    let len = data
        .split_first_chunk::<HELLO_HEAD_LEN>()
        .filter(|(head, _)| head.starts_with(&magic))
        .map(|(head, _)| u32::from_le_bytes([head[12], head[13], head[14], head[15]]));
    let end = len.map_or(0, |len| HELLO_HEAD_LEN + len as usize + HASH);
    data.split_at_checked(end).unwrap_or((data, &[]))
}

/// The reverse of sealing, for what honest ends say: hashes, counts and digests become zero.
pub(super) fn unseal(stream: &[u8], magic: [u8; 8]) -> Vec<u8> {
    let (greeting, mut rest) = split_greeting(stream, magic);
    let mut bytes = greeting.to_vec();
    if let Some(hash) = bytes.last_chunk_mut::<HASH>() {
        hash.fill(0);
    }
    while let Some((head, set, body)) = next_frame(&mut rest) {
        let mut frame = [head, set, body].concat();
        frame[HASH_AT..HEADER_LEN].fill(0);
        let body = HEADER_LEN + set.len();
        match Header::from_bytes(head).ok().and_then(|header| header.kind) {
            Some(FrameKind::RoundEnd) => frame[body..body + 16].fill(0),
            Some(FrameKind::Finish) => frame[body..].fill(0),
            Some(FrameKind::DeviceStateEnd) => frame[body + 8..].fill(0),
            _ => {}
        }
        bytes.extend_from_slice(&frame);
    }
    bytes.extend_from_slice(rest);
    bytes
}

/// A message, to be put in order.
pub(super) fn unsealed(message: &Message) -> Vec<u8> {
    let mut bytes = message.to_bytes();
    bytes[HASH_AT..HEADER_LEN].fill(0);
    bytes
}

/// Takes a frame off the front: header, page set, body.
fn next_frame<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8; HEADER_LEN], &'a [u8], &'a [u8])> {
    let (head, after) = rest.split_first_chunk()?;
    let header = Header::from_bytes(head).ok()?;
    let (frame, next) = after.split_at_checked(header.rest_len())?;
    let (set, body) = frame.split_at(header.page_set_len as usize);
    *rest = next;
    Some((head, set, body))
}

/// What has come so far.
#[derive(Default)]
struct Sealing {
    model: Option<Model>,
    /// Of this round.
    frames: u64,
    pages: u64,
    device_state: Vec<u8>,
}

impl Sealing {
    /// Puts all frames in order. What comes after the last whole one is left as it is.
    fn frames(&mut self, mut rest: &[u8], out: &mut Vec<u8>) {
        while let Some((head, set, body)) = next_frame(&mut rest) {
            let mut body = body.to_vec();
            let mut head = *head;
            if let Ok(header) = Header::from_bytes(&head) {
                let content = self.frame(&header, set, &mut body);
                if header.hash == 0
                    && let Some(content) = content
                {
                    let hash = frame_hash(&header, set, &content).to_le_bytes();
                    head[HASH_AT..].copy_from_slice(&hash);
                }
            }
            out.extend_from_slice(&head);
            out.extend_from_slice(set);
            out.extend_from_slice(&body);
        }
        out.extend_from_slice(rest);
    }

    /// Fills in the body. Returns what the hash is over.
    fn frame(&mut self, header: &Header, set: &[u8], body: &mut [u8]) -> Option<Vec<u8>> {
        match header.kind {
            Some(FrameKind::Pages | FrameKind::Zeros) => {
                self.frames += 1;
                self.pages += u64::from(header.pages);
                return self.model.as_mut()?.frame(header, set, body);
            }
            Some(FrameKind::RoundEnd) => {
                if let Some(counts) = body.first_chunk_mut::<16>()
                    && *counts == [0; 16]
                {
                    let pages = u128::from(self.pages) << 64;
                    *counts = (pages | u128::from(self.frames)).to_le_bytes();
                }
                (self.frames, self.pages) = (0, 0);
            }
            Some(FrameKind::Finish) if body == [0; 16] => {
                if let Some(model) = &self.model {
                    body.copy_from_slice(&model.digest().0.to_le_bytes());
                }
            }
            Some(FrameKind::DeviceState) => {
                self.device_state.extend(body.iter().skip(8));
            }
            Some(FrameKind::DeviceStateEnd) => {
                if let Some(hash) = body.last_chunk_mut::<16>()
                    && *hash == [0; 16]
                {
                    *hash = xxh3_128(&self.device_state).to_le_bytes();
                }
            }
            _ => {}
        }
        Some(body.to_vec())
    }
}
