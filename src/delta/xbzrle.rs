//! XBZRLE: a page as runs of bytes that are as before and of bytes that are new.
//!
//! # The encoding
//! Pairs of runs, from the page's start: the length of a run of equal bytes, the length of a run
//! of different bytes, and those bytes as they are now. Lengths are ULEB128: one byte below 128,
//! else the low 7 bits with bit 7 set and then the rest. Runs are maximal, so a single equal byte
//! ends a run of different ones. A page that begins with a difference begins with a run of 0 equal
//! bytes. Equal bytes at the end are not sent.
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

/// Bytes compared at once in a run of different bytes: shorter, as such runs mostly are.
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
    /// So many bytes of the output hold the delta.
    Encoded(usize),
    /// The delta does not fit; the output holds nothing of use.
    Overflow,
}

/// Why a delta cannot be applied. Every `at` is an offset in the delta, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// The delta is longer than a page.
    #[error("delta of {given} bytes: at most {PAGE_SIZE} are allowed")]
    TooLong {
        /// Bytes of the delta.
        given: usize,
    },
    /// Fewer than the 2 bytes remain that a run's length and what follows it take.
    #[error("delta byte {at}: {left} bytes are left, a run takes at least 2")]
    Truncated {
        /// Where the run's length would be.
        at: usize,
        /// Bytes left.
        left: usize,
    },
    /// A run's length goes on behind its second byte.
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
        /// Bytes left behind the length.
        left: usize,
    },
}

/// Writes to `out` what turns `old` into `new`.
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
/// Everything that QEMU's decoder refuses, with its place. Runs before that place are then
/// applied: the page is of no use any more.
pub fn decode(delta: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<(), DeltaError> {
    if delta.len() > PAGE_SIZE {
        return Err(DeltaError::TooLong { given: delta.len() });
    }
    let mut read = 0;
    let mut at = 0;
    while read < delta.len() {
        let (equal, behind) = length(delta, read)?;
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
        read = behind;

        let (changed, behind) = length(delta, read)?;
        if changed == 0 {
            return Err(DeltaError::EmptyRun { at: read });
        }
        let end = start + changed;
        let run = delta
            .get(behind..behind + changed)
            .ok_or(DeltaError::PastDelta {
                at: read,
                run: changed,
                left: delta.len() - behind,
            })?;
        page.get_mut(start..end)
            .ok_or(DeltaError::PastPage { at: read, end })?
            .copy_from_slice(run);
        read = behind + changed;
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

/// Copies `length` bytes of `new` at `start` to the front of `out`. Bytes of `out` behind them may
/// be overwritten: whatever comes next goes there anyway.
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

/// Where the first byte that differs is, from `at` on; the page's size if there is none.
#[inline]
fn first_difference(old: &[u8; PAGE_SIZE], new: &[u8; PAGE_SIZE], at: usize) -> usize {
    let mut at = at;
    // The next difference is mostly near, so begin with a few words, unless at the very start.
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

/// Where the first byte that is equal is, from `at` on; the page's size if there is none.
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Page = [u8; PAGE_SIZE];

    /// The encoding byte by byte, straight from its description.
    fn reference(old: &Page, new: &Page, limit: usize) -> Option<Vec<u8>> {
        fn put(out: &mut Vec<u8>, length: usize) {
            if length < 0x80 {
                out.push(length as u8);
            } else {
                out.extend([(length & 0x7f | 0x80) as u8, (length >> 7) as u8]);
            }
        }
        let limit = limit.min(PAGE_SIZE);
        let mut out = Vec::new();
        let mut at = 0;
        while at < PAGE_SIZE {
            if out.len() + 2 > limit {
                return None;
            }
            let start = at;
            while at < PAGE_SIZE && old[at] == new[at] {
                at += 1;
            }
            if at == PAGE_SIZE {
                break;
            }
            put(&mut out, at - start);
            if out.len() + 2 > limit {
                return None;
            }
            let start = at;
            while at < PAGE_SIZE && old[at] != new[at] {
                at += 1;
            }
            put(&mut out, at - start);
            if out.len() + (at - start) > limit {
                return None;
            }
            out.extend(&new[start..at]);
        }
        Some(out)
    }

    /// Encodes, compares with the reference, and decodes again what there is.
    fn check(old: &Page, new: &Page, limit: usize) -> Delta {
        let mut out = vec![0xee; limit];
        let delta = encode(old, new, &mut out);
        match (delta, reference(old, new, limit)) {
            (Delta::Unchanged, Some(expected)) => {
                assert!(expected.is_empty());
                assert_eq!(old, new);
            }
            (Delta::Encoded(length), Some(expected)) => {
                assert_eq!(&out[..length], expected);
                let mut page = *old;
                decode(&out[..length], &mut page).expect("what encode writes");
                assert_eq!(&page, new);
            }
            (Delta::Overflow, None) => {}
            (delta, expected) => panic!("{delta:?}, the reference gives {expected:?}"),
        }
        delta
    }

    fn encoded(old: &Page, new: &Page) -> Vec<u8> {
        let mut out = vec![0; PAGE_SIZE];
        match encode(old, new, &mut out) {
            Delta::Encoded(length) => out.truncate(length),
            delta => panic!("{delta:?}"),
        }
        out
    }

    #[test]
    fn an_equal_page_is_unchanged() {
        for fill in [0, 7] {
            let page = [fill; PAGE_SIZE];
            assert_eq!(check(&page, &page, PAGE_SIZE), Delta::Unchanged);
        }
    }

    #[test]
    fn known_pages_have_known_deltas() {
        let old = [0; PAGE_SIZE];
        let mut new = old;
        new[PAGE_SIZE - 1] = 1;
        assert_eq!(encoded(&old, &new), [0xff, 0x1f, 1, 1]);

        new[0] = 2;
        assert_eq!(encoded(&old, &new), [0, 1, 2, 0xfe, 0x1f, 1, 1]);

        let mut new = old;
        new[3..6].copy_from_slice(&[9, 8, 7]);
        new[7] = 6;
        assert_eq!(encoded(&old, &new), [3, 3, 9, 8, 7, 1, 1, 6]);

        let mut new = old;
        new[128..256].fill(5);
        let delta = encoded(&old, &new);
        assert_eq!(delta[..4], [0x80, 1, 0x80, 1]);
        assert_eq!(delta[4..], [5; 128]);
    }

    #[test]
    fn a_byte_changed_anywhere_is_found() {
        let old = [0x55; PAGE_SIZE];
        for at in 0..PAGE_SIZE {
            let mut new = old;
            new[at] ^= 0x80;
            assert!(matches!(
                check(&old, &new, PAGE_SIZE),
                Delta::Encoded(3 | 4)
            ));
        }
    }

    #[test]
    fn an_equal_byte_anywhere_ends_a_run() {
        let old = [0x55; PAGE_SIZE];
        for at in 0..PAGE_SIZE {
            let mut new = [0xaa; PAGE_SIZE];
            new[at] = 0x55;
            // 3 equal bytes more let it fit.
            new[at.saturating_sub(8)..at].fill(0x55);
            check(&old, &new, PAGE_SIZE);
        }
    }

    #[test]
    fn a_page_changed_throughout_overflows() {
        let (old, new) = ([0; PAGE_SIZE], [1; PAGE_SIZE]);
        assert_eq!(check(&old, &new, PAGE_SIZE), Delta::Overflow);
    }

    #[test]
    fn isolated_changes_overflow_where_qemu_gives_up() {
        let old = [0; PAGE_SIZE];
        let every_second = |count: usize| {
            let mut new = old;
            new.iter_mut()
                .step_by(2)
                .take(count)
                .for_each(|byte| *byte = 1);
            check(&old, &new, PAGE_SIZE)
        };
        assert_eq!(every_second(2047), Delta::Overflow);
        // 1365 changes are 4095 bytes: they fit, but not the test before the equal rest.
        assert_eq!(every_second(1365), Delta::Overflow);
        assert_eq!(every_second(1364), Delta::Encoded(4092));
    }

    #[test]
    fn a_delta_of_a_whole_page_is_accepted_when_nothing_remains() {
        // 4 bytes of lengths, 4092 of the page's last bytes.
        let old = [0; PAGE_SIZE];
        let mut new = [1; PAGE_SIZE];
        new[..4].fill(0);
        assert_eq!(check(&old, &new, PAGE_SIZE), Delta::Encoded(4095));
        new[3] = 1;
        assert_eq!(check(&old, &new, PAGE_SIZE), Delta::Encoded(PAGE_SIZE));
        new[2] = 1;
        assert_eq!(check(&old, &new, PAGE_SIZE), Delta::Overflow);
    }

    #[test]
    fn every_limit_is_kept() {
        let old = [0; PAGE_SIZE];
        let mut new = old;
        new[100..110].fill(1);
        new[300..310].fill(2);
        for limit in 0..64 {
            let delta = check(&old, &new, limit);
            assert_eq!(
                delta == Delta::Overflow,
                limit < 2 + 10 + 3 + 10 + 2,
                "{limit}"
            );
        }
        // Longer outputs allow no more than a page.
        let new = [1; PAGE_SIZE];
        assert_eq!(check(&old, &new, 3 * PAGE_SIZE), Delta::Overflow);
    }

    #[test]
    fn broken_deltas_are_errors_with_their_place() {
        use DeltaError::*;
        let refused = |delta: &[u8]| decode(delta, &mut [0; PAGE_SIZE]).expect_err("broken");
        assert_eq!(refused(&[0; PAGE_SIZE + 1]), TooLong { given: 4097 });
        assert_eq!(refused(&[5]), Truncated { at: 0, left: 1 });
        assert_eq!(refused(&[5, 1]), Truncated { at: 1, left: 1 });
        assert_eq!(refused(&[0x85, 1]), Truncated { at: 2, left: 0 });
        assert_eq!(refused(&[5, 1, 9, 5]), Truncated { at: 3, left: 1 });
        assert_eq!(refused(&[0x80, 0x80, 1, 1]), BadLength { at: 0 });
        assert_eq!(refused(&[1, 0x80, 0x81, 1]), BadLength { at: 1 });
        assert_eq!(refused(&[0, 1, 9, 0, 1, 9]), EmptyRun { at: 3 });
        assert_eq!(refused(&[1, 0, 9]), EmptyRun { at: 1 });
        assert_eq!(refused(&[0x81, 0x20, 1, 9]), PastPage { at: 0, end: 4097 });
        assert_eq!(refused(&[0x80, 0x20, 1, 9]), PastPage { at: 2, end: 4097 });
        let past_page = [0xff, 0x1f, 2, 9, 9];
        assert_eq!(refused(&past_page), PastPage { at: 2, end: 4097 });
        let past_delta = PastDelta {
            at: 1,
            run: 3,
            left: 2,
        };
        assert_eq!(refused(&[1, 3, 9, 9]), past_delta);
    }

    #[test]
    fn what_other_encoders_may_write_is_accepted() {
        // A run of new bytes may cover equal ones, lengths may be longer than need be, and an
        // empty delta changes nothing.
        let mut page = [0; PAGE_SIZE];
        decode(&[2, 3, 1, 0, 1], &mut page).expect("covers an equal byte");
        assert_eq!(page[..6], [0, 0, 1, 0, 1, 0]);
        decode(&[0x80, 0, 0x81, 0, 7], &mut page).expect("long form of 0 and 1");
        assert_eq!(page[..3], [7, 0, 1]);
        decode(&[], &mut page).expect("empty");
    }

    #[test]
    fn every_truncation_is_an_error_or_ends_between_pairs() {
        let old = [0; PAGE_SIZE];
        let mut new = old;
        new[10..20].fill(1);
        new[1000..1200].fill(2);
        let delta = encoded(&old, &new);
        for length in 1..delta.len() {
            let result = decode(&delta[..length], &mut old.clone());
            assert_eq!(result.is_ok(), length == 12, "{length}");
        }
    }

    /// Pages that differ in runs of all lengths and places, some of them in single bytes.
    fn pages() -> impl Strategy<Value = (Box<Page>, Box<Page>)> {
        let runs = prop::collection::vec(
            (
                0..PAGE_SIZE,
                prop_oneof![1..4_usize, 1..200_usize, 1..4096_usize],
                any::<u8>(),
                1..4_usize,
            ),
            0..40,
        );
        (any::<u64>(), runs).prop_map(|(seed, runs)| {
            let mut old = Box::new([0; PAGE_SIZE]);
            for (at, byte) in old.iter_mut().enumerate() {
                *byte = (seed.rotate_left((at % 64) as u32) >> 8) as u8;
            }
            let mut new = old.clone();
            for (start, length, byte, step) in runs {
                let end = (start + length).min(PAGE_SIZE);
                for byte_of_run in new[start..end].iter_mut().step_by(step) {
                    *byte_of_run = byte_of_run.wrapping_add(byte | 1);
                }
            }
            (old, new)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn encoding_equals_the_reference_and_decodes((old, new) in pages(), limit in prop_oneof![
            4 => Just(PAGE_SIZE), 1 => 0..PAGE_SIZE,
        ]) {
            check(&old, &new, limit);
        }

        #[test]
        fn scattered_changes_equal_the_reference(
            places in prop::collection::vec(0..PAGE_SIZE, 0..1500),
            fill in any::<u8>(),
        ) {
            let old = [fill; PAGE_SIZE];
            let mut new = old;
            for at in places {
                new[at] = new[at].wrapping_add(1 + (at % 3) as u8);
            }
            check(&old, &new, PAGE_SIZE);
        }

        #[test]
        fn decoding_arbitrary_bytes_never_panics(
            delta in prop::collection::vec(prop_oneof![any::<u8>(), 0..4_u8], 0..200),
        ) {
            let _ = decode(&delta, &mut [0; PAGE_SIZE]);
        }
    }
}
