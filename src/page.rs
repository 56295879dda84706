//! Pages: their size, their numbers, what is zero, and how they are hashed.
//!
//! # The RAM digest
//! The digest of a guest's RAM is the sum, modulo 2^128, over all pages that are not zero of
//! xxh3-128(page, seed), where the seed comes from the block's name and the page's index
//! ([`BlockSeed`]). A zero page adds nothing. So neither order, threads, holes nor runs of zero
//! pages matter, and one page's change is one subtraction and one addition.
//!
//! It guards against accidents and our own bugs, not against malice.

use std::fmt;
use std::ops::Range;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// Bytes in a page, the unit that is dirty or clean.
pub const PAGE_SIZE: usize = 4096;

/// A page's number within its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

impl PageIndex {
    /// Where the page begins within its block, in bytes.
    pub fn offset(self) -> u64 {
        self.0 * PAGE_SIZE as u64
    }

    /// Whether the page is in the sample of one in 32 that shows whether an image is being written. The
    /// sample is spread evenly, and has no period that a guest's RAM could have.
    pub(crate) fn is_sampled(self) -> bool {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59 == 0
    }
}

impl fmt::Display for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Consecutive pages of one block. Never empty when passed to a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    /// The first page.
    pub start: PageIndex,
    /// The number of pages.
    pub count: u64,
}

impl PageRange {
    /// The pages from `start` up to but not including `end`.
    pub fn between(start: u64, end: u64) -> PageRange {
        PageRange {
            start: PageIndex(start),
            count: end.saturating_sub(start),
        }
    }

    /// The number of the first page after the range.
    pub fn end(self) -> u64 {
        self.start.0 + self.count
    }

    /// The bytes of the range within its block.
    pub fn bytes(self) -> Range<u64> {
        self.start.offset()..self.end() * PAGE_SIZE as u64
    }

    /// The range in steps of `pages` pages, of which the last may have fewer.
    pub(crate) fn steps(self, pages: u64) -> impl Iterator<Item = PageRange> + use<> {
        (self.start.0..self.end())
            .step_by(pages as usize)
            .map(move |start| PageRange::between(start, self.end().min(start + pages)))
    }

    /// Every page's index, in order.
    pub fn pages(self) -> impl Iterator<Item = PageIndex> {
        (self.start.0..self.end()).map(PageIndex)
    }
}

/// Whether every byte is zero. The first few words of a page usually decide.
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks_exact(128);
    chunks
        .by_ref()
        .all(|chunk| chunk.iter().fold(0, |seen, byte| seen | byte) == 0)
        && chunks.remainder().iter().all(|&byte| byte == 0)
}

/// What a block's page hashes are seeded with, so that equal pages in different places, or a
/// page that arrived in the wrong place, do not cancel out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSeed(u64);

impl BlockSeed {
    /// The seed of the block with this name.
    pub fn new(block_name: &str) -> BlockSeed {
        BlockSeed(xxh3_64(block_name.as_bytes()))
    }

    /// The hash of a page that is not zero. The hash of a zero page is 0 by definition; callers
    /// have already checked for that.
    pub fn hash(self, index: PageIndex, page: &[u8]) -> u128 {
        // An odd multiplier spreads neighbouring indices over all bits of the seed.
        let seed = self.0 ^ index.0.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        xxh3_128_with_seed(page, seed)
    }

    /// The hash of any page, zero or not.
    pub fn hash_or_zero(self, index: PageIndex, page: &[u8]) -> u128 {
        if is_zero(page) {
            0
        } else {
            self.hash(index, page)
        }
    }
}

/// The digest of a guest's RAM; see the module's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(pub u128);

impl Digest {
    /// Adds the hash of one page, or the sum of many.
    pub fn add(&mut self, hashes: u128) {
        self.0 = self.0.wrapping_add(hashes);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_anywhere_makes_a_page_not_zero() {
        let mut page = vec![0; PAGE_SIZE];
        assert!(is_zero(&page));
        for at in [0, 1, 127, 128, 2047, PAGE_SIZE - 1] {
            page[at] = 1;
            assert!(!is_zero(&page), "byte {at}");
            page[at] = 0;
        }
        page.push(1);
        assert!(!is_zero(&page), "a tail shorter than a chunk counts too");
    }

    #[test]
    fn the_digest_does_not_depend_on_order_but_on_place_and_block() {
        let (a, b) = (vec![1; PAGE_SIZE], vec![2; PAGE_SIZE]);
        let seed = BlockSeed::new("pc.ram");
        let sum = |hashes: [u128; 2]| {
            let mut digest = Digest::default();
            hashes.into_iter().for_each(|hash| digest.add(hash));
            digest
        };
        let one = sum([seed.hash(PageIndex(0), &a), seed.hash(PageIndex(1), &b)]);
        let other_order = sum([seed.hash(PageIndex(1), &b), seed.hash(PageIndex(0), &a)]);
        let swapped = sum([seed.hash(PageIndex(0), &b), seed.hash(PageIndex(1), &a)]);
        assert_eq!(one, other_order);
        assert_ne!(one, swapped);
        assert_ne!(
            seed.hash(PageIndex(0), &a),
            BlockSeed::new("pc.rom").hash(PageIndex(0), &a)
        );
    }

    /// Golden: the digest is compared between hosts and versions, so it may never change.
    #[test]
    fn the_hash_of_a_known_page_stays_what_it_is() {
        let page = vec![0xa5; PAGE_SIZE];
        let hash = BlockSeed::new("pc.ram").hash(PageIndex(7), &page);
        assert_eq!(
            format!("{}", Digest(hash)),
            "527ef9fd80afaf1204801e51a3deff64"
        );
    }
}
