//! A frame's header: its fields, their bounds, and the hash that guards the frame.

use bytes::BufMut;
use xxhash_rust::xxh3::Xxh3;

use super::reader::{Reader, at_most};
use super::{HEADER_LEN, MAX_BODY, MAX_PAGE_SET, MAX_PAGES};
use crate::codec::Method;
use crate::round::Round;
use crate::wire::WireError;

/// What kind of frame it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum FrameKind {
    /// Pages of one block.
    Pages = 1,
    /// Long runs of zero pages.
    Zeros = 2,
    /// The round is over on this connection.
    RoundEnd = 3,
    /// The peer is alive.
    KeepAlive = 4,
    /// Everything is sent; this is what the destination must hold.
    Finish = 5,
    /// The destination holds it.
    Proven = 6,
    /// The source lets go of the guest.
    Commit = 7,
    /// The destination has taken over.
    Committed = 8,
    /// The migration failed, and this is why.
    Failure = 9,
    /// What a guest folder describes besides RAM and devices.
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

    /// The name in error messages.
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

/// A frame's header; the table in [`super`] has its layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// `None`: an unknown kind that may be skipped.
    pub kind: Option<FrameKind>,
    /// The body's compression method.
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
    /// The header in wire form.
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

    /// Reads a header and checks every number against its general bounds, so that memory may be
    /// allocated for what it announces. What depends on the session is left for the receiver to check.
    ///
    /// # Errors
    /// An unknown kind that may not be skipped, and any number that is out of bounds.
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
        header.check_bounds()?;
        Ok(header)
    }

    fn check_bounds(&self) -> Result<(), WireError> {
        at_most(
            "the page set's length",
            self.page_set_len.into(),
            MAX_PAGE_SET,
        )?;
        at_most("the body's length", self.body_len.into(), MAX_BODY)?;
        at_most("the decoded length", self.decoded_len.into(), MAX_BODY)?;
        if self.kind == Some(FrameKind::Pages) {
            at_most("the number of pages", self.pages.into(), MAX_PAGES)?;
        } else {
            let (given, expected) = (self.decoded_len.into(), self.body_len.into());
            if given != expected {
                return Err(WireError::Contradiction {
                    field: "the decoded length",
                    given,
                    expected,
                });
            }
        }
        Ok(())
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
    /// See [`Header::kind`].
    pub kind: FrameKind,
    /// The body's compression method.
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
