//! A frame's header: its fields, their bounds, and the hash that guards the frame.

use bytes::BufMut;
use xxhash_rust::xxh3::Xxh3;

use super::super::WireError;
use super::reader::{Reader, at_most};
use super::{HEADER_LEN, MAX_BODY, MAX_PAGE_SET, MAX_PAGES};
use crate::codec::Method;
use crate::round::Round;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Pages of one block.
    Pages = 1,
    /// Long runs of zero pages.
    Zeros = 2,
    /// Nothing more of this round comes on this connection.
    RoundEnd = 3,
    /// The peer lives.
    KeepAlive = 4,
    /// Nothing more comes; this is what the destination must hold.
    Finish = 5,
    /// The destination holds it.
    Proven = 6,
    /// The source lets go.
    Commit = 7,
    /// The destination has taken over.
    Committed = 8,
    /// It went wrong, and this is why.
    Failure = 9,
    /// What the guest consists of besides RAM and devices.
    Description = 10,
    /// A piece of the devices' state.
    DeviceState = 11,
    /// The devices' state is complete.
    DeviceStateEnd = 12,
}

impl FrameKind {
    const ALL: [FrameKind; 12] = [
        FrameKind::Pages,
        FrameKind::Zeros,
        FrameKind::RoundEnd,
        FrameKind::KeepAlive,
        FrameKind::Finish,
        FrameKind::Proven,
        FrameKind::Commit,
        FrameKind::Committed,
        FrameKind::Failure,
        FrameKind::Description,
        FrameKind::DeviceState,
        FrameKind::DeviceStateEnd,
    ];

    /// The kind's name, for messages.
    pub fn name(self) -> &'static str {
        match self {
            FrameKind::Pages => "Pages frame",
            FrameKind::Zeros => "Zeros frame",
            FrameKind::RoundEnd => "RoundEnd",
            FrameKind::KeepAlive => "KeepAlive",
            FrameKind::Finish => "Finish",
            FrameKind::Proven => "Proven",
            FrameKind::Commit => "Commit",
            FrameKind::Committed => "Committed",
            FrameKind::Failure => "Failure",
            FrameKind::Description => "Description",
            FrameKind::DeviceState => "DeviceState",
            FrameKind::DeviceStateEnd => "DeviceStateEnd",
        }
    }
}

/// A frame's header. See the table in [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is; `None` for a kind that is unknown but may be skipped.
    pub kind: Option<FrameKind>,
    /// What the body is compressed with.
    pub codec: Method,
    /// The block's place in the hello's list.
    pub block: u16,
    /// The round that the frame belongs to.
    pub round: Round,
    /// How many pages the set holds, modulo 2^32.
    pub pages: u32,
    /// Bytes of the page set.
    pub page_set_len: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// Bytes of the body once decompressed.
    pub decoded_len: u32,
    /// The hash over all of the frame.
    pub hash: u64,
}

impl Header {
    /// The header as it stands on the wire.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut out = &mut bytes[..];
        out.put_u8(self.kind.map_or(0, |kind| kind as u8));
        out.put_u8(0);
        out.put_u8(self.codec as u8);
        out.put_u8(0);
        out.put_u16_le(0);
        out.put_u16_le(self.block);
        out.put_u32_le(self.round.0);
        out.put_u32_le(self.pages);
        out.put_u32_le(self.page_set_len);
        out.put_u32_le(self.body_len);
        out.put_u32_le(self.decoded_len);
        out.put_u64_le(self.hash);
        bytes
    }

    /// Reads a header and checks every number against what is allowed anywhere, so that whatever
    /// passes may be allocated for. What depends on the session is the receiver's to check.
    ///
    /// # Errors
    /// A kind that is unknown and may not be skipped, and any number that is out of bounds.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Result<Header, WireError> {
        let mut reader = Reader::new("frame header", bytes);
        let number = reader.u8()?;
        let kind = FrameKind::ALL
            .into_iter()
            .find(|kind| *kind as u8 == number);
        let flags = reader.u8()?;
        if kind.is_none() && flags & 1 == 0 {
            return Err(WireError::Unknown {
                field: "frame kind",
                given: number.into(),
            });
        }
        let codec = reader.u8()?;
        let codec = Method::from_wire(codec).ok_or(WireError::Unknown {
            field: "codec",
            given: codec.into(),
        })?;
        let zero = reader.u8()?;
        let lane = reader.u16()?;
        let header = Header {
            kind,
            codec,
            block: reader.u16()?,
            round: Round(reader.u32()?),
            pages: reader.u32()?,
            page_set_len: reader.u32()?,
            body_len: reader.u32()?,
            decoded_len: reader.u32()?,
            hash: reader.u64()?,
        };
        reader.end()?;
        if kind.is_some() && (flags != 0 || zero != 0) {
            return Err(WireError::Unknown {
                field: "frame flags",
                given: u64::from(flags) | u64::from(zero) << 8,
            });
        }
        if lane != 0 {
            return Err(WireError::Unknown {
                field: "lane",
                given: lane.into(),
            });
        }
        at_most(
            "the page set's length",
            header.page_set_len.into(),
            MAX_PAGE_SET,
        )?;
        at_most("the body's length", header.body_len.into(), MAX_BODY)?;
        at_most("the decoded length", header.decoded_len.into(), MAX_BODY)?;
        if kind == Some(FrameKind::Pages) {
            at_most("the number of pages", header.pages.into(), MAX_PAGES)?;
        } else {
            let (given, expected) = (header.decoded_len.into(), header.body_len.into());
            if given != expected {
                return Err(WireError::Contradiction {
                    field: "the decoded length",
                    given,
                    expected,
                });
            }
        }
        Ok(header)
    }

    /// Bytes that follow the header.
    pub fn rest_len(&self) -> usize {
        self.page_set_len as usize + self.body_len as usize
    }
}

/// A frame's hash, from the header (whose own hash field is left out), the page set, and `content`:
/// the pages' hashes in a `Pages` frame, the body in any other.
pub fn frame_hash(header: &Header, page_set: &[u8], content: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&header.to_bytes()[..HEADER_LEN - 8]);
    hasher.update(page_set);
    hasher.update(content);
    hasher.digest()
}

/// A frame to be written: what its [`Header`] says besides the page set's length and the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// What the frame is.
    pub kind: FrameKind,
    /// What the body is compressed with.
    pub codec: Method,
    /// The block's place in the hello's list.
    pub block: u16,
    /// The round that the frame belongs to.
    pub round: Round,
    /// How many pages the set holds, modulo 2^32.
    pub pages: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// Bytes of the body once decompressed.
    pub decoded_len: u32,
}

impl Frame {
    /// The frame up to its body: header and page set. `page_set` is in wire form, `content` as for
    /// [`frame_hash`].
    pub fn head(&self, page_set: &[u8], content: &[u8]) -> Vec<u8> {
        let mut header = Header {
            kind: Some(self.kind),
            codec: self.codec,
            block: self.block,
            round: self.round,
            pages: self.pages,
            page_set_len: page_set.len() as u32,
            body_len: self.body_len,
            decoded_len: self.decoded_len,
            hash: 0,
        };
        header.hash = frame_hash(&header, page_set, content);
        let mut head = Vec::with_capacity(HEADER_LEN + page_set.len());
        head.extend_from_slice(&header.to_bytes());
        head.extend_from_slice(page_set);
        head
    }
}
