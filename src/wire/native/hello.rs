//! Hello and answer: what both sides say before the first frame.

use bytes::BufMut;
use xxhash_rust::xxh3::xxh3_64;

use super::reader::{Reader, at_most};
use super::{ANSWER_MAGIC, HELLO_HEAD_LEN, HELLO_MAGIC, MAX_HELLO, MAX_TEXT};
use crate::wire::{BlockInfo, WireError};

/// Lists of a hello or an answer are bounded by its length alone.
const ANY: usize = u16::MAX as usize;

/// A capability as the hello offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its name, at most 255 bytes.
    pub name: String,
    /// Whether the migration fails without it.
    pub required: bool,
}

/// The first message of a source, on each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The oldest and the newest version that the source speaks.
    pub versions: (u16, u16),
    /// Random; the same on all connections of a session.
    pub session: [u8; 16],
    /// This connection's number, from 0.
    pub connection: u16,
    /// How many connections there will be.
    pub connections: u16,
    /// Bytes in a page.
    pub page_size: u32,
    /// Milliseconds of silence after which the source gives up.
    pub silence_ms: u32,
    /// The guest's blocks.
    pub blocks: Vec<BlockInfo>,
    /// What the source supports and what it requires.
    pub capabilities: Vec<Offer>,
}

/// Whether a destination takes part in the migration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It takes part.
    Accepted,
    /// It refuses, for this reason.
    Refused(String),
}

/// A destination's answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The oldest and the newest version that the destination speaks.
    pub versions: (u16, u16),
    /// Whether it takes part in the migration.
    pub verdict: Verdict,
    /// The version that both will use; 0 if refused.
    pub version: u16,
    /// Milliseconds of silence after which the destination gives up.
    pub silence_ms: u32,
    /// The names of the capabilities that both support.
    pub capabilities: Vec<String>,
}

/// The part of a hello or an answer that gives the length of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloHead {
    bytes: [u8; HELLO_HEAD_LEN],
    versions: (u16, u16),
    body_len: usize,
}

impl HelloHead {
    /// Reads the head of a [`Hello`].
    ///
    /// # Errors
    /// [`WireError::NotOurs`], or a body that is longer than allowed.
    pub fn of_hello(bytes: [u8; HELLO_HEAD_LEN]) -> Result<HelloHead, WireError> {
        HelloHead::read(bytes, HELLO_MAGIC)
    }

    /// Reads the head of an [`Answer`].
    ///
    /// # Errors
    /// [`WireError::NotOurs`], or a body that is longer than allowed.
    pub fn of_answer(bytes: [u8; HELLO_HEAD_LEN]) -> Result<HelloHead, WireError> {
        HelloHead::read(bytes, ANSWER_MAGIC)
    }

    fn read(bytes: [u8; HELLO_HEAD_LEN], magic: [u8; 8]) -> Result<HelloHead, WireError> {
        let mut reader = Reader::new("hello", &bytes);
        let found = reader.array()?;
        if found != magic {
            return Err(WireError::NotOurs { found });
        }
        let versions = (reader.u16()?, reader.u16()?);
        let body_len = at_most("the hello's length", reader.u32()?.into(), MAX_HELLO)?;
        Ok(HelloHead {
            bytes,
            versions,
            body_len,
        })
    }

    /// Bytes that follow: body and hash.
    pub fn rest_len(&self) -> usize {
        self.body_len + 8
    }

    /// Checks the hash and returns the body.
    fn body<'a>(&self, rest: &'a [u8]) -> Result<&'a [u8], WireError> {
        let (body, hash) = rest.split_last_chunk::<8>().ok_or(WireError::Short {
            record: "hello",
            have: rest.len(),
        })?;
        let expected = u64::from_le_bytes(*hash);
        let found = xxh3_64(&[&self.bytes[..], body].concat());
        if found == expected {
            Ok(body)
        } else {
            Err(WireError::Damaged {
                record: "hello",
                found,
                expected,
            })
        }
    }
}

fn seal(magic: [u8; 8], versions: (u16, u16), body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HELLO_HEAD_LEN + body.len() + 8);
    bytes.extend_from_slice(&magic);
    bytes.put_u16_le(versions.0);
    bytes.put_u16_le(versions.1);
    bytes.put_u32_le(body.len() as u32);
    bytes.extend_from_slice(body);
    let hash = xxh3_64(&bytes);
    bytes.put_u64_le(hash);
    bytes
}

/// No name is longer than 255 bytes: they come from our own tables or have been checked.
fn put_string(out: &mut Vec<u8>, text: &str) {
    debug_assert!(text.len() <= 255);
    out.put_u8(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

impl Hello {
    /// The hello in wire form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&self.session);
        body.put_u16_le(self.connection);
        body.put_u16_le(self.connections);
        body.put_u32_le(self.page_size);
        body.put_u32_le(self.silence_ms);
        body.put_u16_le(self.blocks.len() as u16);
        for block in &self.blocks {
            put_string(&mut body, &block.name);
            body.put_u64_le(block.bytes);
        }
        body.put_u16_le(self.capabilities.len() as u16);
        for offer in &self.capabilities {
            body.put_u8(u8::from(offer.required));
            put_string(&mut body, &offer.name);
        }
        seal(HELLO_MAGIC, self.versions, &body)
    }

    /// Reads what follows the head of a hello.
    ///
    /// # Errors
    /// Damage, and fields that are missing.
    pub fn read(head: &HelloHead, rest: &[u8]) -> Result<Hello, WireError> {
        let mut body = Reader::new("hello", head.body(rest)?);
        Ok(Hello {
            versions: head.versions,
            session: body.array()?,
            connection: body.u16()?,
            connections: body.u16()?,
            page_size: body.u32()?,
            silence_ms: body.u32()?,
            blocks: body.list("the number of blocks", ANY, |body| {
                Ok(BlockInfo {
                    name: body.string("a block's name")?,
                    bytes: body.u64()?,
                })
            })?,
            capabilities: body.list("the number of capabilities", ANY, |body| {
                Ok(Offer {
                    required: body.u8()? & 1 != 0,
                    name: body.string("a capability's name")?,
                })
            })?,
        })
    }
}

impl Answer {
    /// The answer in wire form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (verdict, why) = match &self.verdict {
            Verdict::Accepted => (0, ""),
            Verdict::Refused(why) => (1, why.as_str()),
        };
        let mut body = Vec::new();
        body.put_u8(verdict);
        body.put_u16_le(self.version);
        body.put_u32_le(self.silence_ms);
        body.put_u16_le(self.capabilities.len() as u16);
        for name in &self.capabilities {
            put_string(&mut body, name);
        }
        let mut end = why.len().min(MAX_TEXT);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        body.put_u16_le(end as u16);
        body.extend_from_slice(&why.as_bytes()[..end]);
        seal(ANSWER_MAGIC, self.versions, &body)
    }

    /// Reads what follows the head of an answer.
    ///
    /// # Errors
    /// Damage, fields that are missing, and a verdict that is unknown.
    pub fn read(head: &HelloHead, rest: &[u8]) -> Result<Answer, WireError> {
        let mut body = Reader::new("answer", head.body(rest)?);
        let refused = match body.u8()? {
            0 => false,
            1 => true,
            other => {
                return Err(WireError::Unknown {
                    field: "verdict",
                    given: other.into(),
                });
            }
        };
        let version = body.u16()?;
        let silence_ms = body.u32()?;
        let capabilities = body.list("the number of capabilities", ANY, |body| {
            body.string("a capability's name")
        })?;
        let len = body.u16()?;
        let why = body
            .text(usize::from(len), "the reason")?
            .replace(|c: char| c.is_control(), " ");
        Ok(Answer {
            versions: head.versions,
            verdict: if refused {
                Verdict::Refused(why)
            } else {
                Verdict::Accepted
            },
            version,
            silence_ms,
            capabilities,
        })
    }
}
