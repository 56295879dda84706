//! The method `lz4`: one LZ4 block per batch, without a frame.
//!
//! A block holds neither its length nor a check value: the announced length and the wire's own hash
//! take their place. Appended bytes cannot pass: a block ends in literals, so they are read as a
//! match, which is truncated or decodes to at least 4 bytes more than announced.

use std::fmt;

use lz4_flex::block::{
    CompressError, CompressTable, DecompressError, compress_into_with_table, decompress_into,
    get_maximum_output_size,
};

use super::{CodecError, Decoder, Encoded, Encoder, Method};

/// Compresses with lz4_flex. The hash table (16 KiB) is made once.
pub struct Lz4Encoder {
    table: CompressTable,
    /// lz4_flex needs room for the worst case, which callers do not provide, so it writes here.
    /// About 110 % of the largest batch so far.
    worst_case: Vec<u8>,
}

impl Lz4Encoder {
    /// An encoder. LZ4 has no levels here.
    pub fn new() -> Lz4Encoder {
        Lz4Encoder {
            // The large table is for inputs of every size; the small one would be replaced by it at
            // the first batch of 16 pages.
            table: CompressTable::large(),
            worst_case: Vec::new(),
        }
    }
}

impl Default for Lz4Encoder {
    fn default() -> Lz4Encoder {
        Lz4Encoder::new()
    }
}

impl fmt::Debug for Lz4Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lz4Encoder")
            .field("worst_case", &self.worst_case.len())
            .finish_non_exhaustive()
    }
}

impl Encoder for Lz4Encoder {
    fn encode(&mut self, plain: &[u8], out: &mut [u8]) -> Result<Encoded, CodecError> {
        let worst_case = get_maximum_output_size(plain.len());
        let failed = |error: CompressError| CodecError::Compress {
            method: Method::Lz4,
            given: plain.len(),
            reason: error.to_string(),
        };
        if out.len() >= worst_case {
            let length = compress_into_with_table(plain, out, &mut self.table).map_err(failed)?;
            return Ok(Encoded::Done(length));
        }
        if self.worst_case.len() < worst_case {
            super::grow(&mut self.worst_case, worst_case, Method::Lz4)?;
        }
        let length = compress_into_with_table(plain, &mut self.worst_case, &mut self.table)
            .map_err(failed)?;
        // The copy costs 2 % of the compression time.
        let (Some(payload), Some(room)) = (self.worst_case.get(..length), out.get_mut(..length))
        else {
            return Ok(Encoded::WouldGrow);
        };
        room.copy_from_slice(payload);
        Ok(Encoded::Done(length))
    }
}

/// Decompresses with lz4_flex, which needs no state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lz4Decoder;

impl Decoder for Lz4Decoder {
    fn decode(&mut self, body: &[u8], plain: &mut [u8]) -> Result<(), CodecError> {
        let (method, given, expected) = (Method::Lz4, body.len(), plain.len());
        let made = decompress_into(body, plain).map_err(|error| match error {
            DecompressError::OutputTooSmall { .. } => CodecError::TooLong {
                method,
                given,
                expected,
            },
            error => CodecError::Damaged {
                method,
                given,
                expected,
                reason: error.to_string(),
            },
        })?;
        if made != expected {
            return Err(CodecError::TooShort {
                method,
                given,
                made,
                expected,
            });
        }
        Ok(())
    }
}
