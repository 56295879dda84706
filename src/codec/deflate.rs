//! The methods `zlib` (RFC 1950) and `gzip` (RFC 1952): DEFLATE in two wrappings.
//!
//! Two engines compress: libdeflate, which takes whole buffers and is the faster one, and zlib-rs
//! by way of flate2. Decoding is always libdeflate's, for what either has written.
//!
//! # Bytes after the stream
//! libdeflate's safe interface does not report how much of a body it read, and stops at the end of
//! the stream. But both formats end in a check value of the output (Adler-32; CRC-32 and length),
//! which libdeflate has found right after the DEFLATE data. So the decoder also requires it to be
//! the *last* bytes of the body. A body with bytes appended by accident fails that check, except
//! for one in 2^32 (zlib) or 2^64 (gzip). A malicious peer can append bytes that end in the check
//! value again, but gains nothing: the output is complete and as long as announced, and no other
//! byte of the body is used.

use std::fmt;

use flate2::{Compress, Compression, FlushCompress, Status};
use libdeflater::{
    CompressionError, CompressionLvl, Compressor, DecompressionError, Decompressor, adler32, crc32,
};

use super::{CodecError, Decoder, Encoded, Encoder, Method};

/// At most what libdeflate 1.25 allocates for a compressor of level 1 to 9, and for a decompressor.
const COMPRESSOR: usize = 2 << 20;
const DECOMPRESSOR: usize = 64 << 10;

/// Whether there is memory for a context. libdeflater panics if libdeflate does not find it.
fn fits(bytes: usize, format: Format) -> Result<(), CodecError> {
    let method = format.method();
    (Vec::<u8>::new().try_reserve_exact(bytes)).map_err(|_| CodecError::NoMemory { method })
}

/// What DEFLATE data is wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// RFC 1950: 2 bytes before, the Adler-32 of the output after.
    Zlib,
    /// RFC 1952: 10 bytes before, the CRC-32 of the output and its length after.
    Gzip,
}

impl Format {
    /// The method that writes it.
    pub fn method(self) -> Method {
        match self {
            Format::Zlib => Method::Zlib,
            Format::Gzip => Method::Gzip,
        }
    }

    /// Whether `body` ends in the trailer that belongs to `plain`.
    fn ends_in_trailer_of(self, body: &[u8], plain: &[u8]) -> bool {
        match self {
            Format::Zlib => body.ends_with(&adler32(plain).to_be_bytes()),
            Format::Gzip => {
                // ISIZE is the length modulo 2^32 by definition.
                let length = (plain.len() as u32).to_le_bytes();
                body.strip_suffix(&length)
                    .is_some_and(|rest| rest.ends_with(&crc32(plain).to_le_bytes()))
            }
        }
    }
}

/// Compresses with libdeflate, which allocates once, when it is made.
pub struct LibdeflateEncoder {
    format: Format,
    level: u8,
    compressor: Compressor,
}

impl LibdeflateEncoder {
    /// An encoder of this level, 1 to 9.
    ///
    /// # Errors
    /// [`CodecError::Level`] for a level that libdeflate does not have; [`CodecError::NoMemory`].
    pub fn new(format: Format, level: u8) -> Result<LibdeflateEncoder, CodecError> {
        let given = CompressionLvl::new(i32::from(level)).map_err(|_| CodecError::Level {
            method: format.method(),
            given: level,
            lowest: *format.method().levels().start(),
            highest: *format.method().levels().end(),
        })?;
        Ok(LibdeflateEncoder {
            format,
            level,
            compressor: fits(COMPRESSOR, format).map(|()| Compressor::new(given))?,
        })
    }
}

impl fmt::Debug for LibdeflateEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LibdeflateEncoder")
            .field("format", &self.format)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Encoder for LibdeflateEncoder {
    fn encode(&mut self, plain: &[u8], out: &mut [u8]) -> Result<Encoded, CodecError> {
        let written = match self.format {
            Format::Zlib => self.compressor.zlib_compress(plain, out),
            Format::Gzip => self.compressor.gzip_compress(plain, out),
        };
        Ok(match written {
            Ok(length) => Encoded::Done(length),
            Err(CompressionError::InsufficientSpace) => Encoded::WouldGrow,
        })
    }
}

/// Compresses with zlib-rs. Its state is made once and reset for each batch.
#[derive(Debug)]
pub struct ZlibRsEncoder {
    format: Format,
    state: Compress,
}

impl ZlibRsEncoder {
    /// An encoder of this level, 1 to 9.
    pub fn new(format: Format, level: u8) -> ZlibRsEncoder {
        let level = Compression::new(u32::from(level.min(9)));
        /// The largest window that the format has, 32 KiB.
        const WINDOW_BITS: u8 = 15;
        let state = match format {
            Format::Zlib => Compress::new(level, true),
            Format::Gzip => Compress::new_gzip(level, WINDOW_BITS),
        };
        ZlibRsEncoder { format, state }
    }
}

impl ZlibRsEncoder {
    /// Feeds the rest of a batch that did not fit, and drops the output.
    ///
    /// A reset in the middle of a stream is not enough: zlib-rs 0.6.8 at level 1 then mistakes the
    /// open block for the next stream's, whose first bytes are missing. A stream that has ended
    /// leaves no such block. The rest is short, because callers make `out` nearly as long as the
    /// batch.
    fn drain(&mut self, plain: &[u8]) -> Result<(), flate2::CompressError> {
        let mut dropped = [0; 4096];
        loop {
            let before = (self.state.total_in(), self.state.total_out());
            // Lossless: it is at most the length of `plain`.
            let rest = plain.get(before.0 as usize..).unwrap_or_default();
            let status = self
                .state
                .compress(rest, &mut dropped, FlushCompress::Finish)?;
            let after = (self.state.total_in(), self.state.total_out());
            // Guards against an endless loop, which is not known to happen.
            if status == Status::StreamEnd || before == after {
                return Ok(());
            }
        }
    }
}

impl Encoder for ZlibRsEncoder {
    fn encode(&mut self, plain: &[u8], out: &mut [u8]) -> Result<Encoded, CodecError> {
        let method = self.format.method();
        let failed = |error: flate2::CompressError| CodecError::Compress {
            method,
            given: plain.len(),
            reason: error.to_string(),
        };
        self.state.reset();
        let status = self
            .state
            .compress(plain, out, FlushCompress::Finish)
            .map_err(failed)?;
        match (status, usize::try_from(self.state.total_out())) {
            (Status::StreamEnd, Ok(length)) => Ok(Encoded::Done(length)),
            _ => {
                self.drain(plain).map_err(failed)?;
                Ok(Encoded::WouldGrow)
            }
        }
    }
}

/// Decompresses with libdeflate, whichever engine compressed.
pub struct DeflateDecoder {
    format: Format,
    /// Made with the first body, so that a lack of memory is an error of that.
    decompressor: Option<Decompressor>,
}

impl DeflateDecoder {
    /// A decoder of this format.
    pub fn new(format: Format) -> DeflateDecoder {
        DeflateDecoder {
            format,
            decompressor: None,
        }
    }
}

impl fmt::Debug for DeflateDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeflateDecoder")
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl Decoder for DeflateDecoder {
    fn decode(&mut self, body: &[u8], plain: &mut [u8]) -> Result<(), CodecError> {
        let (method, given, expected) = (self.format.method(), body.len(), plain.len());
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            none => {
                fits(DECOMPRESSOR, self.format)?;
                none.insert(Decompressor::new())
            }
        };
        let made = match self.format {
            Format::Zlib => decompressor.zlib_decompress(body, plain),
            Format::Gzip => decompressor.gzip_decompress(body, plain),
        }
        .map_err(|error| match error {
            DecompressionError::BadData => CodecError::Damaged {
                method,
                given,
                expected,
                reason: "no such stream, cut short, or its check value differs".to_owned(),
            },
            DecompressionError::InsufficientSpace => CodecError::TooLong {
                method,
                given,
                expected,
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
        if !self.format.ends_in_trailer_of(body, plain) {
            return Err(CodecError::Trailing {
                method,
                given,
                expected,
            });
        }
        Ok(())
    }
}
