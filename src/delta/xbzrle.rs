//! XBZRLE: a page as runs of unchanged and of new bytes.
//!
//! # The encoding
//! Pairs of runs, from the page's start: the length of a run of equal bytes, the length of a run of
//! different bytes, and those bytes' new values. Lengths are ULEB128: one byte below 128, else the
//! low 7 bits with bit 7 set and then the rest. Runs are maximal, so a single equal byte ends a run
//! of different ones. A page that begins with a difference begins with a run of 0 equal bytes.
//! Equal bytes at the end are not sent.
//!
//! [`encode`] writes exactly what QEMU's scalar encoder writes and gives up exactly where it gives
//! up; [`decode`] refuses what QEMU's decoder refuses.
//!
//! # Speed
//! Most of a page is equal, or most of it differs. So whole chunks are compared first, by loops
//! without an exit that the compiler turns into vector instructions, then words, whose lowest
//! differing (or equal) byte is found by counting zero bits.

use crate::page::PAGE_SIZE;

/// Bytes compared at once while looking for a difference.
const CHUNK: usize = 128;

/// Bytes compared at once in a run of different bytes: shorter, because most such runs are short.
const NEW_CHUNK: usize = 64;

/// Bytes in the words that chunks are searched by.
const WORD: usize = size_of::<u64>();

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// What encoding a page gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta {
    /// Both pages are equal; there is nothing to send.
    Unchanged,
    /// The delta is this many bytes of the output.
    Encoded(usize),
    /// The delta does not fit; the output holds nothing useful.
    Overflow,
}

/// Why a delta cannot be applied. Every `at` is an offset in the delta, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// The delta is longer than a page.
    #[error("invalid delta of {given} bytes: at most {PAGE_SIZE} are allowed")]
    TooLong {
        /// Bytes of the delta.
        given: usize,
    },
    /// Fewer bytes remain than the 2 that the shortest run takes.
    #[error("delta byte {at}: {left} bytes are left, a run takes at least 2")]
    Truncated {
        /// Where the run's length would be.
        at: usize,
        /// How many bytes are left.
        left: usize,
    },
    /// A run's length has more than 2 bytes.
    #[error("delta byte {at}: a run's length takes more than 2 bytes")]
    BadLength {
        /// Where the run's length begins.
        at: usize,
    },
    /// A run of 0 bytes. Only the very first run, of equal bytes, may be one.
    #[error("delta byte {at}: a run of 0 bytes")]
    EmptyRun {
        /// Where the run's length begins.
        at: usize,
    },
    /// A run passes the end of the page.
    #[error("delta byte {at}: the run ends at byte {end} of a page of {PAGE_SIZE} bytes")]
    PastPage {
        /// Where the run's length begins.
        at: usize,
        /// Where in the page the run would end.
        end: usize,
    },
    /// A run of new bytes passes the end of the delta.
    #[error("delta byte {at}: a run of {run} new bytes, but {left} are left")]
    PastDelta {
        /// Where the run's length begins.
        at: usize,
        /// Bytes in the run.
        run: usize,
        /// Bytes left after the length.
        left: usize,
    },
}

/// Writes to `out` the delta that turns `old` into `new`.
///
/// The delta may take as many bytes as `out` has, and never more than a page. It is
/// [`Delta::Overflow`] as soon as fewer than 2 bytes remain before any run, even before one that
/// would not be sent, and when a run of new bytes does not fit.
pub fn encode(old: &[u8; PAGE_SIZE], new: &[u8; PAGE_SIZE], out: &mut [u8]) -> Delta {
    let limit = out.len().min(PAGE_SIZE);
    let mut used = 0;
    let mut at = 0;
    while at < PAGE_SIZE {
        if used + 2 > limit {
            return Delta::Overflow;
        }
        let start = first_difference(old, new, at);
        if start == PAGE_SIZE {
            break;
        }
        used = put_length(out, used, start - at);
        if used + 2 > limit {
            return Delta::Overflow;
        }
        at = first_equal(old, new, start + 1);
        let run = &new[start..at];
        used = put_length(out, used, run.len());
        if used + run.len() > limit {
            return Delta::Overflow;
        }
        copy_run(&mut out[used..], new, start, run.len());
        used += run.len();
    }
    if used == 0 {
        Delta::Unchanged
    } else {
        Delta::Encoded(used)
    }
}

/// Applies a delta to the page that it was made from.
///
/// A delta need not reach the page's end, and an empty one changes nothing.
///
/// # Errors
/// Everything that QEMU's decoder refuses, with its place. Runs before that place have been
/// applied, so the page is no longer valid.
pub fn decode(delta: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<(), DeltaError> {
    if delta.len() > PAGE_SIZE {
        return Err(DeltaError::TooLong { given: delta.len() });
    }
    let mut read = 0;
    let mut at = 0;
    while read < delta.len() {
        let (equal, after) = length(delta, read)?;
        if equal == 0 && read != 0 {
            return Err(DeltaError::EmptyRun { at: read });
        }
        let start = at + equal;
        if start > PAGE_SIZE {
            return Err(DeltaError::PastPage {
                at: read,
                end: start,
            });
        }
        read = after;

        let (changed, after) = length(delta, read)?;
        if changed == 0 {
            return Err(DeltaError::EmptyRun { at: read });
        }
        let end = start + changed;
        let run = delta
            .get(after..after + changed)
            .ok_or(DeltaError::PastDelta {
                at: read,
                run: changed,
                left: delta.len() - after,
            })?;
        page.get_mut(start..end)
            .ok_or(DeltaError::PastPage { at: read, end })?
            .copy_from_slice(run);
        read = after + changed;
        at = end;
    }
    Ok(())
}

/// A run's length at `at`, and where what follows it begins.
fn length(delta: &[u8], at: usize) -> Result<(usize, usize), DeltaError> {
    let &[low, high, ..] = &delta[at..] else {
        return Err(DeltaError::Truncated {
            at,
            left: delta.len() - at,
        });
    };
    if low < 0x80 {
        Ok((usize::from(low), at + 1))
    } else if high < 0x80 {
        Ok((usize::from(low & 0x7f) | usize::from(high) << 7, at + 2))
    } else {
        Err(DeltaError::BadLength { at })
    }
}

/// Writes a run's length at `used`, where the caller has seen 2 bytes of room, and returns where
/// it ends.
#[inline]
fn put_length(out: &mut [u8], used: usize, length: usize) -> usize {
    // Lossless: a run is at most a page.
    if length < 0x80 {
        out[used] = length as u8;
        used + 1
    } else {
        out[used] = length as u8 | 0x80;
        out[used + 1] = (length >> 7) as u8;
        used + 2
    }
}

/// Copies `length` bytes of `new` at `start` to the front of `out`. Bytes of `out` after them may
/// be overwritten: the next run goes there anyway.
#[inline]
fn copy_run(out: &mut [u8], new: &[u8; PAGE_SIZE], start: usize, length: usize) {
    // A copy of unknown length is a call; most runs are short enough for one word.
    if length <= WORD
        && let Some(from) = new[start..].first_chunk::<WORD>()
        && let Some(to) = out.first_chunk_mut::<WORD>()
    {
        *to = *from;
    } else {
        out[..length].copy_from_slice(&new[start..start + length]);
    }
}

/// The XOR of the words at `at` of both pages, lowest address in the lowest bits.
#[inline]
fn xor_word(old: &[u8; PAGE_SIZE], new: &[u8; PAGE_SIZE], at: usize) -> Option<u64> {
    let old = old.get(at..)?.first_chunk::<WORD>()?;
    let new = new.get(at..)?.first_chunk::<WORD>()?;
    Some(u64::from_le_bytes(*old) ^ u64::from_le_bytes(*new))
}

/// The position of the first byte from `at` that differs; the page's size if there is none.
#[inline]
fn first_difference(old: &[u8; PAGE_SIZE], new: &[u8; PAGE_SIZE], at: usize) -> usize {
    let mut at = at;
    // The next difference is usually near, so begin with a few words, unless at the very start.
    let chunked = if at == 0 {
        0
    } else {
        (at + 2 * WORD).next_multiple_of(CHUNK)
    };
    while at < chunked {
        let Some(differing) = xor_word(old, new, at) else {
            break;
        };
        if differing != 0 {
            return at + differing.trailing_zeros() as usize / 8;
        }
        at += WORD;
    }
    while let (Some(old_chunk), Some(new_chunk)) =
        (old.get(at..at + CHUNK), new.get(at..at + CHUNK))
    {
        let differing = old_chunk
            .iter()
            .zip(new_chunk)
            .fold(0, |seen, (old, new)| seen | (old ^ new));
        if differing != 0 {
            break;
        }
        at += CHUNK;
    }
    while let Some(differing) = xor_word(old, new, at) {
        if differing != 0 {
            return at + differing.trailing_zeros() as usize / 8;
        }
        at += WORD;
    }
    (at.min(PAGE_SIZE)..PAGE_SIZE)
        .find(|&at| old[at] != new[at])
        .unwrap_or(PAGE_SIZE)
}

/// The position of the first byte from `at` that is equal; the page's size if there is none.
#[inline]
fn first_equal(old: &[u8; PAGE_SIZE], new: &[u8; PAGE_SIZE], at: usize) -> usize {
    // The lowest byte that is zero: the borrow disturbs only the bytes above it.
    let equal_bytes = |xor: u64| xor.wrapping_sub(ONES) & !xor & HIGH_BITS;
    let mut at = at;
    let chunked = (at + WORD).next_multiple_of(NEW_CHUNK);
    while at < chunked {
        let Some(equal) = xor_word(old, new, at).map(equal_bytes) else {
            break;
        };
        if equal != 0 {
            return at + equal.trailing_zeros() as usize / 8;
        }
        at += WORD;
    }
    while let (Some(old_chunk), Some(new_chunk)) =
        (old.get(at..at + NEW_CHUNK), new.get(at..at + NEW_CHUNK))
    {
        let equal = old_chunk
            .iter()
            .zip(new_chunk)
            .fold(0, |seen, (old, new)| seen | u8::from(old == new));
        if equal != 0 {
            break;
        }
        at += NEW_CHUNK;
    }
    while let Some(equal) = xor_word(old, new, at).map(equal_bytes) {
        if equal != 0 {
            return at + equal.trailing_zeros() as usize / 8;
        }
        at += WORD;
    }
    (at.min(PAGE_SIZE)..PAGE_SIZE)
        .find(|&at| old[at] == new[at])
        .unwrap_or(PAGE_SIZE)
}

#[cfg(test)]
mod tests;
