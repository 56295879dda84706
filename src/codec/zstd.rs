//! The method `zstd` (RFC 8878): one frame per batch.
//!
//! The frame carries no content size, no checksum and no dictionary number: the frame of the wire
//! around it announces the length and has a hash of its own.
//!
//! zstd decodes any number of frames in a row, and skips skippable frames. A body must be exactly
//! one frame with content, so the decoder measures the first frame before it decodes.
//!
//! # Memory
//! One encoder, for batches of 64 to 256 pages: 0.6 MiB at level 1, 1 to 1.3 MiB at level 3, 3 MiB
//! at level 6, 3 to 11 MiB at level 9, 5 to 17 MiB at level 19.

use std::fmt;

use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, ErrorCode, find_frame_compressed_size, get_error_name, is_error_kind,
    zstd_sys::ZSTD_ErrorCode,
};

use super::{CodecError, Decoder, Encoded, Encoder, Method};

/// The first bytes of a frame with content; skippable frames begin with others.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Compresses with a context that is made once. zstd sizes it with the first batch, and anew only
/// for a longer one.
pub struct ZstdEncoder {
    level: u8,
    context: CCtx<'static>,
}

impl ZstdEncoder {
    /// An encoder of this level, 1 to 19.
    ///
    /// # Errors
    /// [`CodecError::NoMemory`] if zstd cannot allocate a context, [`CodecError::Compress`] if it
    /// refuses a parameter.
    pub fn new(level: u8) -> Result<ZstdEncoder, CodecError> {
        let method = Method::Zstd;
        let mut context = CCtx::try_create().ok_or(CodecError::NoMemory { method })?;
        for parameter in [
            CParameter::CompressionLevel(i32::from(level)),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ] {
            context
                .set_parameter(parameter)
                .map_err(|code| compress_error(0, code))?;
        }
        Ok(ZstdEncoder { level, context })
    }

    /// The size of the context in bytes. It grows with the first batches, see [`ZstdEncoder`].
    pub fn memory(&self) -> usize {
        self.context.sizeof()
    }
}

impl fmt::Debug for ZstdEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZstdEncoder")
            .field("level", &self.level)
            .field("memory", &self.memory())
            .finish_non_exhaustive()
    }
}

impl Encoder for ZstdEncoder {
    fn encode(&mut self, plain: &[u8], out: &mut [u8]) -> Result<Encoded, CodecError> {
        match self.context.compress2(out, plain) {
            Ok(length) => Ok(Encoded::Done(length)),
            Err(code) if is_error_kind(code, ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall) => {
                Ok(Encoded::WouldGrow)
            }
            Err(code) => Err(compress_error(plain.len(), code)),
        }
    }
}

fn compress_error(given: usize, code: ErrorCode) -> CodecError {
    CodecError::Compress {
        method: Method::Zstd,
        given,
        reason: get_error_name(code).to_owned(),
    }
}

/// Decompresses with a context that is made with the first batch, so that a lack of memory is an
/// error of that batch.
#[derive(Default)]
pub struct ZstdDecoder {
    context: Option<DCtx<'static>>,
}

impl fmt::Debug for ZstdDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZstdDecoder")
            .field("memory", &self.context.as_ref().map(DCtx::sizeof))
            .finish_non_exhaustive()
    }
}

impl Decoder for ZstdDecoder {
    fn decode(&mut self, body: &[u8], plain: &mut [u8]) -> Result<(), CodecError> {
        let (method, given, expected) = (Method::Zstd, body.len(), plain.len());
        let damaged = |reason: &str| CodecError::Damaged {
            method,
            given,
            expected,
            reason: reason.to_owned(),
        };
        if !body.starts_with(&MAGIC) {
            return Err(damaged("no zstd frame"));
        }
        let frame =
            find_frame_compressed_size(body).map_err(|code| damaged(get_error_name(code)))?;
        if frame != given {
            return Err(CodecError::Trailing {
                method,
                given,
                expected,
            });
        }
        let context = match &mut self.context {
            Some(context) => context,
            none => none.insert(DCtx::try_create().ok_or(CodecError::NoMemory { method })?),
        };
        let made = context.decompress(plain, body).map_err(|code| {
            if is_error_kind(code, ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall) {
                CodecError::TooLong {
                    method,
                    given,
                    expected,
                }
            } else {
                damaged(get_error_name(code))
            }
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
