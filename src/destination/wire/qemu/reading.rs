//! QEMU's stream as it is read: bytes, and how far they are parsed and handed on.

use bytes::{Bytes, BytesMut};

use crate::error::{Error, Kind, Result};
use crate::transport::Stream;
use crate::wire::BlockInfo;
use crate::wire::qemu::{Element, MAX_ELEMENT, Parser};

/// Bytes that are read and handed to decoders together.
const CHUNK: usize = 256 << 10;

/// The stream ended too early.
#[derive(Debug, thiserror::Error)]
#[error("the stream ends after {bytes} bytes, in the middle of {what}")]
pub(super) struct Cut {
    bytes: u64,
    what: &'static str,
}

/// Bytes of the stream that are read and not yet handed on.
pub(super) struct Reading {
    parser: Parser,
    buffer: BytesMut,
    /// How much of the buffer holds bytes of the stream.
    filled: usize,
    /// How much of it is parsed.
    parsed: usize,
    /// Bytes that have been read from the stream.
    read: u64,
}

impl Reading {
    pub(super) fn new(head: &[u8]) -> Reading {
        let mut buffer = BytesMut::zeroed(CHUNK + MAX_ELEMENT);
        buffer[..head.len()].copy_from_slice(head);
        Reading {
            parser: Parser::new(),
            buffer,
            filled: head.len(),
            parsed: 0,
            read: head.len() as u64,
        }
    }

    /// The next element and where in the buffer it ends, if all of it has been read.
    pub(super) fn next(&mut self) -> Result<Option<(Element, usize)>> {
        let bytes = &self.buffer[self.parsed..self.filled];
        let Some((element, len)) = self.parser.next(bytes)? else {
            return Ok(None);
        };
        self.parsed += len;
        Ok(Some((element, self.parsed)))
    }

    /// Waits for the next element.
    pub(super) fn element(&mut self, stream: &Stream) -> Result<(Element, usize)> {
        loop {
            if let Some(found) = self.next()? {
                return Ok(found);
            }
            // Nothing refers to what is parsed, and there is no limit to the number of commands.
            let _ = self.buffer.split_to(self.parsed);
            (self.filled, self.parsed) = (self.filled - self.parsed, 0);
            if !self.fill(stream)? {
                return Err(self.cut());
            }
        }
    }

    /// Reads what has arrived, after waiting for something if there is nothing. `false` at the end.
    pub(super) fn fill(&mut self, stream: &Stream) -> Result<bool> {
        if self.is_full() {
            // Keep what is parsed: records that refer to it may not be handed on yet.
            let mut buffer = BytesMut::zeroed(self.filled + CHUNK + MAX_ELEMENT);
            buffer[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
            self.buffer = buffer;
        }
        let read = stream.read_some(&mut self.buffer[self.filled..])?;
        self.filled += read;
        self.read += read as u64;
        Ok(read > 0)
    }

    /// Whether enough is parsed to be handed on, or must be to make room.
    pub(super) fn is_due(&self) -> bool {
        self.parsed >= CHUNK / 2 || self.is_full()
    }

    /// The guest's blocks, once the stream has listed them.
    pub(super) fn blocks(&self) -> &[BlockInfo] {
        self.parser.blocks()
    }

    /// Whether the buffer has no room for an element.
    fn is_full(&self) -> bool {
        self.buffer.len() - self.filled < MAX_ELEMENT
    }

    /// Takes what is parsed off the front, for the records that refer to it.
    pub(super) fn take_parsed(&mut self) -> Bytes {
        let bytes = self.buffer.split_to(self.parsed).freeze();
        (self.filled, self.parsed) = (self.filled - self.parsed, 0);
        bytes
    }

    /// What is read and not parsed.
    pub(super) fn rest(&self) -> &[u8] {
        &self.buffer[self.parsed..self.filled]
    }

    pub(super) fn skip_rest(&mut self) {
        (self.filled, self.parsed) = (0, 0);
    }

    /// The stream ended too early.
    pub(super) fn cut(&self) -> Error {
        let what = self.parser.expecting();
        Error::new(
            Kind::Failed,
            Cut {
                bytes: self.read,
                what,
            },
        )
    }
}
