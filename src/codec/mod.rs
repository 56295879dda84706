//! Compresses page bytes to payload bytes and back. No I/O and no threads.
//!
//! One file per codec, encoder beside decoder:
//! [`deflate`] (the methods `zlib` and `gzip`, two engines), [`lz4`], [`zstd`].
//! The method `none` has no file: a batch that is not compressed is sent as it is,
//! which is also what happens to one that would grow.
//!
//! Whether a batch is compressed at all is not decided here but in `source/choose.rs`.
//!
//! [`encoder`] and [`decoder`] make the boxed codec of a method. Each belongs to one thread and
//! holds all the memory that it needs, so that nothing is allocated or set up per batch.

pub mod deflate;
pub mod lz4;
mod worth;
pub mod zstd;

#[cfg(test)]
mod tests;

pub(crate) use worth::{looks_random, sets_aside};

use std::fmt;
use std::ops::RangeInclusive;

/// A compression method. XBZRLE is not one but an encoding of its own, see [`crate::delta`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Method {
    /// Pages are sent as they are.
    None = 0,
    /// RFC 1950, what QEMU's `compress` capability used.
    Zlib = 1,
    /// RFC 1952, zlib's data in another frame.
    Gzip = 2,
    /// The LZ4 block format, without a frame.
    Lz4 = 3,
    /// RFC 8878, one frame per batch.
    Zstd = 4,
}

names!(
    "method",
    Method {
        None: "none",
        Zlib: "zlib",
        Gzip: "gzip",
        Lz4: "lz4",
        Zstd: "zstd"
    }
);

impl Method {
    /// The method with this number in a frame header.
    pub fn from_wire(number: u8) -> Option<Method> {
        Method::ALL.get(usize::from(number)).copied()
    }

    /// The levels that the method supports. 0 is its default level.
    pub fn levels(self) -> RangeInclusive<u8> {
        match self {
            Method::None => 0..=1,
            Method::Zlib | Method::Gzip => 0..=9,
            Method::Lz4 => 0..=1,
            Method::Zstd => 0..=19,
        }
    }

    /// The level that 0 means: zlib's and zstd's own defaults, 6 and 3.
    pub fn default_level(self) -> u8 {
        match self {
            Method::None => 0,
            Method::Zlib | Method::Gzip => 6,
            Method::Lz4 => 1,
            Method::Zstd => 3,
        }
    }
}

/// Which library compresses for `zlib` and `gzip`. Both write and read the same formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ZlibEngine {
    /// libdeflate: whole buffers, 2.6 times as fast as stock zlib at level 1.
    #[default]
    Libdeflate,
    /// zlib-rs by way of flate2: pure Rust.
    ZlibRs,
}

names!(
    "zlib engine",
    ZlibEngine {
        Libdeflate: "libdeflate",
        ZlibRs: "zlib-rs"
    }
);

/// How batches are compressed. Read for each batch, so it can change during a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodecSettings {
    /// The method, or `none`.
    pub method: Method,
    /// 0 for the method's own default, else within [`Method::levels`].
    pub level: u8,
    /// The library for `zlib` and `gzip`.
    pub zlib_engine: ZlibEngine,
}

/// The outcome of compressing a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoded {
    /// The payload is this many bytes of `out`.
    Done(usize),
    /// The payload does not fit into `out`, which then holds nothing useful.
    WouldGrow,
}

/// Compresses batches. Lives as long as its thread, so that nothing is allocated or set up per page.
pub trait Encoder: Send + fmt::Debug {
    /// Compresses all of `plain` into `out`.
    ///
    /// The caller gives an `out` no longer than what it is willing to send, commonly one byte
    /// less than `plain`; a payload that does not fit is [`Encoded::WouldGrow`], not an error.
    ///
    /// # Errors
    /// Only when the library itself fails.
    fn encode(&mut self, plain: &[u8], out: &mut [u8]) -> Result<Encoded, CodecError>;
}

/// Decompresses batches; the mirror of [`Encoder`].
pub trait Decoder: Send + fmt::Debug {
    /// Fills `plain` exactly from all of `body`.
    ///
    /// # Errors
    /// A body that is damaged, that decodes to less or more than `plain` holds, or that has bytes
    /// left over. `plain` then holds nothing useful.
    fn decode(&mut self, body: &[u8], plain: &mut [u8]) -> Result<(), CodecError>;
}

/// Why a codec could not be created, or a batch not be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The method does not have this level, see [`Method::levels`].
    #[error(
        "invalid level {given}: {method} supports levels {lowest} to {highest}; 0 is its default"
    )]
    Level {
        /// The method asked for.
        method: Method,
        /// The level asked for.
        given: u8,
        /// The lowest level allowed.
        lowest: u8,
        /// The highest level allowed.
        highest: u8,
    },
    /// The library found no memory for its context.
    #[error("{method}: out of memory")]
    NoMemory {
        /// The method asked for.
        method: Method,
    },
    /// The library failed to compress, which no input should cause.
    #[error("{method}: compressing {given} bytes failed: {reason}")]
    Compress {
        /// The method of the body.
        method: Method,
        /// The number of bytes to compress.
        given: usize,
        /// What the library says.
        reason: String,
    },
    /// The body is truncated or not a stream of this method.
    #[error(
        "{method}: a body of {given} bytes, which should decode to {expected} bytes, is damaged: {reason}"
    )]
    Damaged {
        /// The method of the body.
        method: Method,
        /// The size of the body in bytes.
        given: usize,
        /// The announced number of decoded bytes.
        expected: usize,
        /// What the library says.
        reason: String,
    },
    /// The body decodes to fewer bytes than announced.
    #[error("{method}: a body of {given} bytes decodes to {made} bytes, not {expected}")]
    TooShort {
        /// The method of the body.
        method: Method,
        /// The size of the body in bytes.
        given: usize,
        /// The number of decoded bytes.
        made: usize,
        /// The announced number of decoded bytes.
        expected: usize,
    },
    /// The body decodes to more bytes than announced; how many is unknown.
    #[error("{method}: a body of {given} bytes decodes to more than {expected} bytes")]
    TooLong {
        /// The method of the body.
        method: Method,
        /// The size of the body in bytes.
        given: usize,
        /// The announced number of decoded bytes.
        expected: usize,
    },
    /// The stream ends before the body does.
    #[error(
        "{method}: a body of {given} bytes has extra bytes after the stream that decodes to {expected} bytes"
    )]
    Trailing {
        /// The method of the body.
        method: Method,
        /// The size of the body in bytes.
        given: usize,
        /// The announced number of decoded bytes.
        expected: usize,
    },
}

/// Makes the encoder for these settings.
///
/// That of [`Method::None`] answers every batch with [`Encoded::WouldGrow`], so its pages are sent
/// as they are.
///
/// # Errors
/// [`CodecError::Level`] for a level outside of [`Method::levels`], [`CodecError::NoMemory`] or
/// [`CodecError::Compress`] if the library refuses a context or its level.
pub fn encoder(settings: CodecSettings) -> Result<Box<dyn Encoder>, CodecError> {
    let CodecSettings {
        method,
        level,
        zlib_engine,
    } = settings;
    let levels = method.levels();
    if !levels.contains(&level) {
        return Err(CodecError::Level {
            method,
            given: level,
            lowest: *levels.start(),
            highest: *levels.end(),
        });
    }
    let level = match level {
        0 => method.default_level(),
        level => level,
    };
    Ok(match (method, zlib_engine) {
        (Method::None, _) => Box::new(Store),
        (Method::Zlib, ZlibEngine::Libdeflate) => Box::new(deflate::LibdeflateEncoder::new(
            deflate::Format::Zlib,
            level,
        )?),
        (Method::Gzip, ZlibEngine::Libdeflate) => Box::new(deflate::LibdeflateEncoder::new(
            deflate::Format::Gzip,
            level,
        )?),
        (Method::Zlib, ZlibEngine::ZlibRs) => {
            Box::new(deflate::ZlibRsEncoder::new(deflate::Format::Zlib, level))
        }
        (Method::Gzip, ZlibEngine::ZlibRs) => {
            Box::new(deflate::ZlibRsEncoder::new(deflate::Format::Gzip, level))
        }
        (Method::Lz4, _) => Box::new(lz4::Lz4Encoder::new()),
        (Method::Zstd, _) => Box::new(zstd::ZstdEncoder::new(level)?),
    })
}

/// Makes the decoder of a method. It reads every level and what either engine writes; that of
/// [`Method::None`] copies.
///
/// The library's context is made with the first batch: only then can a lack of memory be reported.
pub fn decoder(method: Method) -> Box<dyn Decoder> {
    match method {
        Method::None => Box::new(Store),
        Method::Zlib => Box::new(deflate::DeflateDecoder::new(deflate::Format::Zlib)),
        Method::Gzip => Box::new(deflate::DeflateDecoder::new(deflate::Format::Gzip)),
        Method::Lz4 => Box::new(lz4::Lz4Decoder),
        Method::Zstd => Box::new(zstd::ZstdDecoder::default()),
    }
}

/// The decoders that a thread has needed so far: the frames decide which.
#[derive(Debug, Default)]
pub struct Decoders(Vec<(Method, Box<dyn Decoder>)>);

impl Decoders {
    /// The body as it was before compression, `len` bytes: itself with [`Method::None`], or in
    /// `plain`, which only ever grows.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn decode<'a>(
        &mut self,
        (method, body): (Method, &'a [u8]),
        len: usize,
        plain: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], CodecError> {
        if method == Method::None && body.len() == len {
            return Ok(body);
        }
        let at = self.0.iter().position(|(of, _)| *of == method);
        let at = at.unwrap_or_else(|| {
            self.0.push((method, decoder(method)));
            self.0.len() - 1
        });
        if plain.len() < len {
            grow(plain, len, method)?;
        }
        self.0[at].1.decode(body, &mut plain[..len])?;
        Ok(&plain[..len])
    }
}

/// Makes `room` at least `len` bytes long.
fn grow(room: &mut Vec<u8>, len: usize, method: Method) -> Result<(), CodecError> {
    (room.try_reserve_exact(len.saturating_sub(room.len())))
        .map_err(|_| CodecError::NoMemory { method })?;
    room.resize(len, 0);
    Ok(())
}

/// At most what a thread needs to compress or to decompress batches of 1 MiB, besides the batch.
pub fn memory(settings: CodecSettings) -> usize {
    const MIB: usize = 1 << 20;
    match (settings.method, settings.level) {
        (Method::None, _) => 0,
        (Method::Zlib | Method::Gzip | Method::Lz4, _) => 2 * MIB,
        (Method::Zstd, 0..=3) => 2 * MIB,
        (Method::Zstd, 4..=6) => 4 * MIB,
        (Method::Zstd, 7..=9) => 12 * MIB,
        (Method::Zstd, _) => 20 * MIB,
    }
}

/// The method `none`.
#[derive(Debug, Clone, Copy)]
struct Store;

impl Encoder for Store {
    fn encode(&mut self, _plain: &[u8], _out: &mut [u8]) -> Result<Encoded, CodecError> {
        Ok(Encoded::WouldGrow)
    }
}

impl Decoder for Store {
    fn decode(&mut self, body: &[u8], plain: &mut [u8]) -> Result<(), CodecError> {
        let (method, given, expected) = (Method::None, body.len(), plain.len());
        if given < expected {
            return Err(CodecError::TooShort {
                method,
                given,
                made: given,
                expected,
            });
        }
        if given > expected {
            return Err(CodecError::TooLong {
                method,
                given,
                expected,
            });
        }
        plain.copy_from_slice(body);
        Ok(())
    }
}
