//! Messages: the frames without pages.

use bytes::BufMut;

use super::MAX_TEXT;
use super::guest;
use super::header::{Frame, FrameKind, Header, frame_hash};
use super::reader::{Reader, at_most};
use crate::codec::Method;
use crate::description::Description;
use crate::page::Digest;
use crate::round::Round;
use crate::wire::WireError;

/// A frame without pages.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// See [`FrameKind::RoundEnd`].
    RoundEnd {
        /// The round that ends.
        round: Round,
        /// Frames with pages on this connection in this round.
        frames: u64,
        /// Pages in them, of all classes.
        pages: u64,
        /// Whether it was the last round.
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
        /// What the destination was found to hold.
        digest: Digest,
    },
    /// See [`FrameKind::Commit`].
    Commit,
    /// See [`FrameKind::Committed`].
    Committed,
    /// See [`FrameKind::Failure`].
    Failure {
        /// What kind of failure it was.
        reason: Reason,
        /// What happened, in one line.
        text: String,
    },
    /// See [`FrameKind::Description`].
    Description(Description),
    /// See [`FrameKind::DeviceState`].
    DeviceState {
        /// Bytes of device state before this piece.
        offset: u64,
        /// 1 to [`MAX_PIECE`](super::MAX_PIECE) bytes.
        bytes: Vec<u8>,
    },
    /// See [`FrameKind::DeviceStateEnd`].
    DeviceStateEnd {
        /// Bytes of device state in all.
        total: u64,
        /// Their xxh3-128.
        hash: u128,
    },
}

impl Message {
    /// The kind of frame that carries it.
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

    /// The whole frame in wire form.
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
            Message::Failure { reason, text } => {
                body.put_u8(*reason as u8);
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
        let message = Message::read_body(header.round, kind, &mut body)?;
        body.end()?;
        Ok(message)
    }

    fn read_body(
        round: Round,
        kind: FrameKind,
        body: &mut Reader<'_>,
    ) -> Result<Message, WireError> {
        Ok(match kind {
            FrameKind::Pages | FrameKind::Zeros => {
                return Err(WireError::OutOfPlace {
                    record: kind.name(),
                    why: "only messages may come here",
                });
            }
            FrameKind::RoundEnd => Message::RoundEnd {
                round,
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
                reason: Reason::from_number(body.u8()?),
                text: {
                    let text = body.rest();
                    at_most("the text's length", text.len() as u64, MAX_TEXT)?;
                    // It is printed on terminals, so it must not hold control characters.
                    String::from_utf8_lossy(text).replace(|c: char| c.is_control(), " ")
                },
            },
            FrameKind::Description => Message::Description(guest::take_description(body)?),
            FrameKind::DeviceState => {
                let (offset, bytes) = guest::take_piece(body)?;
                Message::DeviceState { offset, bytes }
            }
            FrameKind::DeviceStateEnd => Message::DeviceStateEnd {
                total: body.u64()?,
                hash: body.u128()?,
            },
        })
    }
}

/// Why a side gave up. An unknown number is read as [`Reason::Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Reason {
    /// It failed.
    Failed = 1,
    /// What was asked of it makes no sense.
    Usage = 2,
    /// What arrived is not what was sent.
    Differs = 3,
    /// It refused.
    Refused = 4,
    /// It does not know whether the other side has taken over.
    OutcomeUnknown = 5,
    /// It was cancelled.
    Interrupted = 130,
}

impl Reason {
    const ALL: [Reason; 6] = [
        Reason::Failed,
        Reason::Usage,
        Reason::Differs,
        Reason::Refused,
        Reason::OutcomeUnknown,
        Reason::Interrupted,
    ];

    fn from_number(number: u8) -> Reason {
        Reason::ALL
            .into_iter()
            .find(|reason| *reason as u8 == number)
            .unwrap_or(Reason::Failed)
    }
}
