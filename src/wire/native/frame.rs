//! Frames: the fixed header, the hash that guards them, and the messages without pages.

use bytes::BufMut;
use xxhash_rust::xxh3::Xxh3;

use super::super::WireError;
use super::guest;
use super::reader::Reader;
use super::{HEADER_LEN, MAX_BODY, MAX_PAGE_SET, MAX_PAGES, MAX_TEXT};
use crate::codec::Method;
use crate::description::Description;
use crate::page::Digest;
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
        let at_most = |field, given: u32, allowed: usize| {
            if given as usize <= allowed {
                Ok(())
            } else {
                Err(WireError::TooLarge {
                    field,
                    given: given.into(),
                    allowed: allowed as u64,
                })
            }
        };
        at_most("the page set's length", header.page_set_len, MAX_PAGE_SET)?;
        at_most("the body's length", header.body_len, MAX_BODY)?;
        at_most("the decoded length", header.decoded_len, MAX_BODY)?;
        if kind == Some(FrameKind::Pages) {
            at_most("the number of pages", header.pages, MAX_PAGES)?;
        }
        if kind != Some(FrameKind::Pages) {
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

/// A frame without pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// See [`FrameKind::RoundEnd`].
    RoundEnd {
        /// The round that ends.
        round: Round,
        /// Frames with pages on this connection in this round.
        frames: u64,
        /// Pages in them, of all classes.
        pages: u64,
        /// Whether no further round comes.
        last: bool,
    },
    /// See [`FrameKind::KeepAlive`].
    KeepAlive,
    /// See [`FrameKind::Finish`].
    Finish {
        /// What the destination must hold.
        digest: Digest,
    },
    /// See [`FrameKind::Proven`].
    Proven {
        /// What the destination holds.
        digest: Digest,
    },
    /// See [`FrameKind::Commit`].
    Commit,
    /// See [`FrameKind::Committed`].
    Committed,
    /// See [`FrameKind::Failure`].
    Failure {
        /// The exit code that fits.
        code: u8,
        /// What happened, one line.
        text: String,
    },
    /// See [`FrameKind::Description`].
    Description(Description),
    /// See [`FrameKind::DeviceState`].
    DeviceState {
        /// How many bytes came before.
        offset: u64,
        /// 1 to [`MAX_PIECE`](super::MAX_PIECE) bytes.
        bytes: Vec<u8>,
    },
    /// See [`FrameKind::DeviceStateEnd`].
    DeviceStateEnd {
        /// How many bytes there were.
        total: u64,
        /// Their xxh3-128.
        hash: u128,
    },
}

impl Message {
    /// Which kind of frame carries it.
    pub fn kind(&self) -> FrameKind {
        match self {
            Message::RoundEnd { .. } => FrameKind::RoundEnd,
            Message::KeepAlive => FrameKind::KeepAlive,
            Message::Finish { .. } => FrameKind::Finish,
            Message::Proven { .. } => FrameKind::Proven,
            Message::Commit => FrameKind::Commit,
            Message::Committed => FrameKind::Committed,
            Message::Failure { .. } => FrameKind::Failure,
            Message::Description(_) => FrameKind::Description,
            Message::DeviceState { .. } => FrameKind::DeviceState,
            Message::DeviceStateEnd { .. } => FrameKind::DeviceStateEnd,
        }
    }

    /// The whole frame as it stands on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let mut round = Round(0);
        match self {
            Message::RoundEnd {
                round: ended,
                frames,
                pages,
                last,
            } => {
                round = *ended;
                body.put_u64_le(*frames);
                body.put_u64_le(*pages);
                body.put_u8(u8::from(*last));
            }
            Message::Finish { digest } | Message::Proven { digest } => {
                body.put_u128_le(digest.0);
            }
            Message::Failure { code, text } => {
                body.put_u8(*code);
                let mut end = text.len().min(MAX_TEXT);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                body.extend_from_slice(&text.as_bytes()[..end]);
            }
            Message::Description(description) => guest::put_description(&mut body, description),
            Message::DeviceState { offset, bytes } => {
                body.put_u64_le(*offset);
                body.extend_from_slice(bytes);
            }
            Message::DeviceStateEnd { total, hash } => {
                body.put_u64_le(*total);
                body.put_u128_le(*hash);
            }
            Message::KeepAlive | Message::Commit | Message::Committed => {}
        }
        let frame = Frame {
            kind: self.kind(),
            codec: Method::None,
            block: 0,
            round,
            pages: 0,
            body_len: body.len() as u32,
            decoded_len: body.len() as u32,
        };
        let mut bytes = frame.head(&[], &body);
        bytes.append(&mut body);
        bytes
    }

    /// Reads the message that follows a header of `kind`, and checks its hash.
    ///
    /// # Errors
    /// Damage, fields that are missing or left over, and a kind that carries pages.
    pub fn read(header: &Header, kind: FrameKind, rest: &[u8]) -> Result<Message, WireError> {
        if header.page_set_len != 0 || header.pages != 0 || header.codec != Method::None {
            return Err(WireError::OutOfPlace {
                record: "a page set or a compressed body",
                why: "this kind of frame has none",
            });
        }
        let found = frame_hash(header, &[], rest);
        if found != header.hash {
            return Err(WireError::Damaged {
                record: kind.name(),
                found,
                expected: header.hash,
            });
        }
        let mut body = Reader::new(kind.name(), rest);
        let message = match kind {
            FrameKind::Pages | FrameKind::Zeros => {
                return Err(WireError::OutOfPlace {
                    record: kind.name(),
                    why: "only messages may stand here",
                });
            }
            FrameKind::RoundEnd => Message::RoundEnd {
                round: header.round,
                frames: body.u64()?,
                pages: body.u64()?,
                last: match body.u8()? {
                    0 => false,
                    1 => true,
                    other => {
                        return Err(WireError::Unknown {
                            field: "the mark of the last round",
                            given: other.into(),
                        });
                    }
                },
            },
            FrameKind::KeepAlive => Message::KeepAlive,
            FrameKind::Finish => Message::Finish {
                digest: Digest(body.u128()?),
            },
            FrameKind::Proven => Message::Proven {
                digest: Digest(body.u128()?),
            },
            FrameKind::Commit => Message::Commit,
            FrameKind::Committed => Message::Committed,
            FrameKind::Failure => Message::Failure {
                code: body.u8()?,
                text: {
                    let text = body.rest();
                    if text.len() > MAX_TEXT {
                        return Err(WireError::TooLarge {
                            field: "the text's length",
                            given: text.len() as u64,
                            allowed: MAX_TEXT as u64,
                        });
                    }
                    // It will be shown on a terminal, so nothing in it may steer one.
                    String::from_utf8_lossy(text).replace(|c: char| c.is_control(), " ")
                },
            },
            FrameKind::Description => Message::Description(guest::take_description(&mut body)?),
            FrameKind::DeviceState => guest::take_piece(&mut body)?,
            FrameKind::DeviceStateEnd => Message::DeviceStateEnd {
                total: body.u64()?,
                hash: body.u128()?,
            },
        };
        body.end()?;
        Ok(message)
    }
}
