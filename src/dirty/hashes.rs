//! The hash of every page as it was sent: 16 bytes a page, 0 for a zero page.

use std::sync::atomic::{AtomicU64, Ordering};

/// One 128-bit hash a page of the whole guest, by the page's key.
///
/// Within a round each page is handled by one worker, and a round's end orders its stores before
/// the next round's loads. So the two halves need no lock, nor any ordering of their own.
#[derive(Debug)]
pub struct PageHashes {
    halves: Box<[[AtomicU64; 2]]>,
}

impl PageHashes {
    /// A table for `pages` pages, all of them zero: what a fresh destination holds.
    pub fn new(pages: u64) -> PageHashes {
        PageHashes {
            halves: (0..pages).map(|_| Default::default()).collect(),
        }
    }

    /// The hash of the page as it was last sent.
    pub fn get(&self, key: u64) -> u128 {
        let [low, high] = &self.halves[key as usize];
        u128::from(low.load(Ordering::Relaxed)) | u128::from(high.load(Ordering::Relaxed)) << 64
    }

    /// Notes the hash of the page as it is sent now, and returns the one before.
    pub fn replace(&self, key: u64, hash: u128) -> u128 {
        let before = self.get(key);
        let [low, high] = &self.halves[key as usize];
        low.store(hash as u64, Ordering::Relaxed);
        high.store((hash >> 64) as u64, Ordering::Relaxed);
        before
    }
}
