//! The hash of every page as it was sent: 16 bytes a page, 0 for a zero page.
//!
//! A guest's size is what a peer says it is, so no memory is taken for pages that were never other
//! than zero: the table is a tree whose parts are made when a first hash goes there. A page that is
//! not zero costs at most 4 KiB, which is what it takes in the output, and a whole guest 17 bytes a page.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages of a leaf, which takes 1 KiB.
const LEAF: usize = 64;
/// Leaves of a branch, which takes 3 KiB and stands for 32 MiB of RAM.
const BRANCH: usize = 128;
/// Branches of a limb, which takes 192 KiB and stands for 256 GiB of RAM.
const LIMB: usize = 8192;

/// The two halves of a hash.
type Halves = [AtomicU64; 2];
/// So many, made once one of them is needed.
type Lazy<T> = OnceLock<Box<[T]>>;

/// One 128-bit hash a page of the whole guest, by the page's key.
///
/// Within a round each page is handled by one worker, and a round's end orders its stores before
/// the next round's loads. So the two halves need no lock, nor any ordering of their own.
#[derive(Debug)]
pub struct PageHashes {
    limbs: Box<[Lazy<Lazy<Lazy<Halves>>>]>,
}

fn empty<T: Default>(count: usize) -> Box<[T]> {
    (0..count).map(|_| T::default()).collect()
}

impl PageHashes {
    /// A table for `pages` pages, all of them zero: what a fresh destination holds.
    pub fn new(pages: u64) -> PageHashes {
        PageHashes {
            limbs: empty(pages.div_ceil((LIMB * BRANCH * LEAF) as u64) as usize),
        }
    }

    /// The page's leaf's number within all, and its place there.
    fn place(key: u64) -> (usize, usize) {
        let key = key as usize;
        (key / LEAF, key % LEAF)
    }

    /// The hash of the page as it was last sent.
    pub fn get(&self, key: u64) -> u128 {
        let (leaf, at) = PageHashes::place(key);
        let found = self
            .limbs
            .get(leaf / BRANCH / LIMB)
            .and_then(OnceLock::get)
            .and_then(|limb| limb[leaf / BRANCH % LIMB].get())
            .and_then(|branch| branch[leaf % BRANCH].get());
        let Some(leaf) = found else { return 0 };
        let [low, high] = &leaf[at];
        u128::from(low.load(Ordering::Relaxed)) | u128::from(high.load(Ordering::Relaxed)) << 64
    }

    /// Notes the hash of the page as it is sent now, and returns the one before. The page must be one
    /// of those that the table was made for.
    pub fn replace(&self, key: u64, hash: u128) -> u128 {
        let before = self.get(key);
        if hash == before {
            return before;
        }
        let (leaf, at) = PageHashes::place(key);
        let limb = self.limbs[leaf / BRANCH / LIMB].get_or_init(|| empty(LIMB));
        let branch = limb[leaf / BRANCH % LIMB].get_or_init(|| empty(BRANCH));
        let [low, high] = &branch[leaf % BRANCH].get_or_init(|| empty(LEAF))[at];
        low.store(hash as u64, Ordering::Relaxed);
        high.store((hash >> 64) as u64, Ordering::Relaxed);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_a_place_of_its_own() {
        // The ends of leaves, branches and limbs, of the largest guest there can be.
        let pages = 1_u64 << 38;
        let hashes = PageHashes::new(pages);
        let keys: Vec<u64> = [1, LEAF, LEAF * BRANCH, LEAF * BRANCH * LIMB]
            .into_iter()
            .flat_map(|step| [step as u64 - 1, step as u64, step as u64 + 1])
            .chain([pages - 1])
            .collect::<std::collections::BTreeSet<u64>>()
            .into_iter()
            .collect();
        let hash = |key: u64| u128::from(key + 1) << 64 | u128::from(!key);
        for key in &keys {
            assert_eq!(hashes.replace(*key, hash(*key)), 0);
        }
        for key in &keys {
            assert_eq!(hashes.get(*key), hash(*key));
            assert_eq!(hashes.replace(*key, 0), hash(*key));
            assert_eq!(hashes.get(*key), 0);
        }
    }

    #[test]
    fn zero_pages_take_no_memory() {
        let hashes = PageHashes::new(1 << 38);
        for key in 0..1000 {
            assert_eq!(hashes.replace(key << 28, 0), 0);
        }
        assert!(hashes.limbs.iter().all(|limb| limb.get().is_none()));
    }
}
