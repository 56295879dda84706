//! The hash of every page as it was sent: 16 bytes per page, 0 for a zero page.
//!
//! The guest's size is a number that a peer sent, so it must not decide how much memory is allocated:
//! the table is a tree whose parts are allocated when they receive their first hash. A lone page that
//! is not zero costs at most 4 KiB, which is what it costs in the output; a full guest costs 17 bytes
//! per page.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages per leaf, which takes 1 KiB.
const LEAF: usize = 64;
/// Leaves per branch, which takes 3 KiB and covers 32 MiB of RAM.
const BRANCH: usize = 128;
/// Branches per limb, which takes 192 KiB and covers 256 GiB of RAM.
const LIMB: usize = 8192;

/// The two halves of a hash.
type Halves = [AtomicU64; 2];
/// An array that is allocated when one of its entries is needed.
type Lazy<T> = OnceLock<Box<[T]>>;

/// A 128-bit hash for each page of the guest, by the page's key.
///
/// Within a round each page is handled by one worker, and the end of the round orders its stores
/// before the next round's loads. So the two halves of a hash need neither a lock nor an ordering of
/// their own.
#[derive(Debug)]
pub struct PageHashes {
    limbs: Box<[Lazy<Lazy<Lazy<Halves>>>]>,
}

fn empty<T: Default>(count: usize) -> Box<[T]> {
    (0..count).map(|_| T::default()).collect()
}

impl PageHashes {
    /// A table for `pages` pages, all zero, as a fresh destination is.
    pub fn new(pages: u64) -> PageHashes {
        PageHashes {
            limbs: empty(pages.div_ceil((LIMB * BRANCH * LEAF) as u64) as usize),
        }
    }

    /// The number of the page's leaf among all leaves, and the page's index in it.
    fn place(key: u64) -> (usize, usize) {
        let key = key as usize;
        (key / LEAF, key % LEAF)
    }

    /// The hash of the page as it was sent last.
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

    /// The pages from `start` on and before `end` that may have a hash, ascending; all others have none.
    /// It takes as long as there are such pages, and not as there are pages.
    pub fn held_in(&self, start: u64, end: u64) -> impl Iterator<Item = u64> {
        let mut at = start;
        std::iter::from_fn(move || {
            while at < end {
                let missing = self.missing_at(at);
                if missing == 0 {
                    at += 1;
                    return Some(at - 1);
                }
                at = (at / missing + 1) * missing;
            }
            None
        })
    }

    /// The size in pages of the largest part of the table around the page that is not there; 0 if its
    /// leaf is.
    fn missing_at(&self, key: u64) -> u64 {
        let leaf = PageHashes::place(key).0;
        let (branch_pages, limb_pages) = (LEAF * BRANCH, LEAF * BRANCH * LIMB);
        let limb = self.limbs.get(leaf / BRANCH / LIMB);
        let Some(limb) = limb.and_then(OnceLock::get) else {
            return limb_pages as u64;
        };
        let Some(branch) = limb[leaf / BRANCH % LIMB].get() else {
            return branch_pages as u64;
        };
        match branch[leaf % BRANCH].get() {
            Some(_) => 0,
            None => LEAF as u64,
        }
    }

    /// Sets the hash of the page as it is sent now, and returns the one before. The page must be
    /// within the table.
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
    fn every_page_has_its_own_place() {
        // The ends of leaves, branches and limbs, and of the largest possible guest.
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
    fn what_has_no_hash_is_passed_over() {
        let hashes = PageHashes::new(1 << 38);
        assert_eq!(hashes.held_in(0, 1 << 38).count(), 0);
        let keys = [70, (LEAF * BRANCH) as u64 + 1, (1 << 38) - 1];
        for key in keys {
            hashes.replace(key, 7);
        }
        // The leaves of these pages.
        let found: Vec<u64> = hashes.held_in(0, 1 << 38).collect();
        assert_eq!(found.len(), 3 * LEAF);
        assert!(keys.iter().all(|key| found.contains(key)));
        assert_eq!(hashes.held_in(71, 73).collect::<Vec<_>>(), [71, 72]);
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
