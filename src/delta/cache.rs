//! Copies of what the destination holds: the bases of deltas.
//!
//! # The invariant
//! An entry equals what the destination holds for its page once everything sent so far has arrived.
//! A caller that sends a page other than as the delta from [`Cache::delta`], as zero or in full,
//! must [`Cache::remember`] or [`Cache::forget`] it. The entry of a page that is not sent is left
//! alone. In a round each page is sent by one thread, so lookups of one key do not race; different
//! keys may come from any number of threads.
//!
//! # Shape
//! Direct-mapped, like QEMU's: the slot is the key's low bits, the key is the tag. A page's
//! storage is allocated when its slot is first used, and then kept for whatever else goes there.
//! Neighbouring slots are in different shards, each under a lock that is held for one page's lookup,
//! encoding and copy, less than a microsecond.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::xbzrle::{self, Delta};
use crate::page::PAGE_SIZE;
use crate::round::Round;
use crate::sync;

/// The number of shards, unless there are fewer slots.
const MAX_SHARDS: u64 = 64;

/// For how many rounds after its last use an entry is safe from other keys.
const PROTECTED: u64 = 2;

/// Why a cache cannot have this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The size is not valid for a cache.
    #[error("invalid cache size {given}: it must be a power of two of at least {PAGE_SIZE} bytes")]
    Size {
        /// The size asked for, in bytes.
        given: u64,
    },
}

/// The outcome of looking a page up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The page is not cached, and the cache is unchanged.
    Miss,
    /// The destination already holds this page; there is nothing to send.
    Unchanged,
    /// This many bytes were appended. The cache holds the new page, so the delta must be sent.
    Delta(usize),
    /// The delta would be longer than a page. The cache holds the new page, so it must be sent in
    /// full.
    Overflow,
}

/// A slot. Empty unless `valid`, though it may have storage.
#[derive(Default)]
struct Entry {
    key: u64,
    /// The round that last used it.
    generation: u32,
    valid: bool,
    page: Option<Box<[u8; PAGE_SIZE]>>,
}

#[derive(Default)]
struct Shard {
    /// Only as long as the highest used slot needs, so an empty cache of any size costs nothing.
    entries: Vec<Entry>,
    /// Scratch space for a delta whose length is not known yet.
    scratch: Vec<u8>,
}

impl Shard {
    /// Makes the slot exist. Returns `false` if there is no memory for it.
    fn reach(&mut self, slot: usize) -> bool {
        if slot >= self.entries.len() {
            let missing = slot + 1 - self.entries.len();
            if self.entries.try_reserve(missing).is_err() {
                return false;
            }
            self.entries.resize_with(slot + 1, Entry::default);
        }
        true
    }
}

/// A direct-mapped cache of pages as they were sent. The module's documentation says what callers
/// must do.
pub struct Cache {
    shards: Box<[Mutex<Shard>]>,
    slots: u64,
    shard_bits: u32,
    used: AtomicU64,
}

impl Cache {
    /// An empty cache for at most `bytes` bytes of pages.
    ///
    /// # Errors
    /// [`CacheError::Size`] unless `bytes` is a power of two and at least [`PAGE_SIZE`].
    pub fn new(bytes: u64) -> Result<Cache, CacheError> {
        if !bytes.is_power_of_two() || bytes < PAGE_SIZE as u64 {
            return Err(CacheError::Size { given: bytes });
        }
        let slots = bytes / PAGE_SIZE as u64;
        let shards = slots.min(MAX_SHARDS);
        Ok(Cache {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            slots,
            shard_bits: shards.trailing_zeros(),
            used: AtomicU64::new(0),
        })
    }

    /// Remembers a page that is sent in full, or as zero. `generation` is the number of the round.
    ///
    /// Returns `false` if the cache does not hold the page afterwards: because its slot holds
    /// another one that was used in this round or the one before (not counting the bulk stage, in
    /// which every page is used), or because there is no memory for it. Also returns `false`, and
    /// forgets the page, if `page` is not one page long.
    pub fn remember(&self, key: u64, page: &[u8], generation: u32) -> bool {
        let Ok(page) = <&[u8; PAGE_SIZE]>::try_from(page) else {
            self.forget(key);
            return false;
        };
        let (mut shard, slot) = self.shard(key);
        if !shard.reach(slot) {
            return false;
        }
        let entry = &mut shard.entries[slot];
        if entry.valid && entry.key != key && entry.is_protected_in(generation) {
            return false;
        }
        // Not valid while it is half one page and half the other: see `shard`.
        entry.valid = false;
        match &mut entry.page {
            Some(held) => held.copy_from_slice(page),
            none => {
                // From a vector, because a boxed array would be built on the stack and copied.
                *none = page.to_vec().try_into().ok();
                self.used.fetch_add(PAGE_SIZE as u64, Ordering::Relaxed);
            }
        }
        entry.key = key;
        entry.generation = generation;
        entry.valid = true;
        true
    }

    /// Appends to `out` the delta that turns the page that the destination holds into `page`, and
    /// remembers `page`. Unless it returns [`Lookup::Miss`], the page must be sent as the
    /// [`Lookup`] says.
    ///
    /// A `page` that is not one page long is always a miss.
    pub fn delta(&self, key: u64, page: &[u8], generation: u32, out: &mut Vec<u8>) -> Lookup {
        let Ok(page) = <&[u8; PAGE_SIZE]>::try_from(page) else {
            return Lookup::Miss;
        };
        let (mut shard, slot) = self.shard(key);
        let Shard { entries, scratch } = &mut *shard;
        let Some(entry) = entries.get_mut(slot) else {
            return Lookup::Miss;
        };
        if !entry.valid || entry.key != key {
            return Lookup::Miss;
        }
        let Some(held) = &mut entry.page else {
            return Lookup::Miss;
        };
        entry.generation = generation;
        scratch.resize(PAGE_SIZE, 0);
        let lookup = match xbzrle::encode(held, page, scratch) {
            Delta::Unchanged => return Lookup::Unchanged,
            Delta::Encoded(length) => {
                out.extend_from_slice(&scratch[..length]);
                Lookup::Delta(length)
            }
            Delta::Overflow => Lookup::Overflow,
        };
        entry.valid = false;
        held.copy_from_slice(page);
        entry.valid = true;
        lookup
    }

    /// Empties the slot of a page that is sent but not remembered.
    pub fn forget(&self, key: u64) {
        let (mut shard, slot) = self.shard(key);
        if let Some(entry) = shard.entries.get_mut(slot)
            && entry.key == key
        {
            entry.valid = false;
        }
    }

    /// Changes the size to `bytes` and keeps what fits: of two pages that now share a slot, the one
    /// used last.
    ///
    /// # Errors
    /// Those of [`Cache::new`]; the cache is then unchanged.
    pub fn resize(&mut self, bytes: u64) -> Result<(), CacheError> {
        let mut resized = Cache::new(bytes)?;
        for shard in &mut self.shards {
            let shard = sync::ignore_poison(shard.get_mut());
            for entry in std::mem::take(&mut shard.entries) {
                resized.take_in(entry);
            }
        }
        *self = resized;
        Ok(())
    }

    /// Takes over another cache's entry, unless a newer one is in its place.
    fn take_in(&mut self, entry: Entry) {
        if !entry.valid {
            return;
        }
        let (mut shard, slot) = self.shard(entry.key);
        if !shard.reach(slot) {
            return;
        }
        let place = &mut shard.entries[slot];
        if place.valid && place.generation >= entry.generation {
            return;
        }
        if place.page.is_none() {
            self.used.fetch_add(PAGE_SIZE as u64, Ordering::Relaxed);
        }
        *place = entry;
    }

    /// Bytes allocated for pages. Never shrinks by itself: a forgotten page's storage is used again.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The size of the cache: the most bytes of pages that it may hold.
    pub fn capacity(&self) -> u64 {
        self.slots * PAGE_SIZE as u64
    }

    /// The shard of a key, locked, and the slot within it.
    ///
    /// A poisoned lock is taken like any other. That is sound: an entry is marked invalid before
    /// its page is overwritten and valid only afterwards, so an interrupted change is at worst a
    /// miss.
    fn shard(&self, key: u64) -> (MutexGuard<'_, Shard>, usize) {
        let slot = key & (self.slots - 1);
        // Lossless: there are at most MAX_SHARDS shards.
        let shard = (slot % self.shards.len() as u64) as usize;
        let guard = sync::lock(&self.shards[shard]);
        // Only in a cache larger than the address space a slot does not fit; `remember` finds no
        // memory for it.
        let slot = usize::try_from(slot >> self.shard_bits).unwrap_or(usize::MAX - 1);
        (guard, slot)
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("capacity", &self.capacity())
            .field("used_bytes", &self.used_bytes())
            .field("shards", &self.shards.len())
            .finish_non_exhaustive()
    }
}

impl Entry {
    /// Whether another key must leave it alone in this round.
    fn is_protected_in(&self, generation: u32) -> bool {
        self.generation > Round::FIRST.0
            && u64::from(self.generation) + PROTECTED > u64::from(generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fill: u8) -> Vec<u8> {
        vec![fill; PAGE_SIZE]
    }

    /// A cache with `slots` slots.
    fn cache(slots: usize) -> Cache {
        Cache::new((slots * PAGE_SIZE) as u64).expect("a power of two")
    }

    /// Whether the cache holds exactly this page for the key.
    fn holds(cache: &Cache, key: u64, fill: u8, generation: u32) -> bool {
        cache.delta(key, &page(fill), generation, &mut Vec::new()) == Lookup::Unchanged
    }

    #[test]
    fn sizes_are_powers_of_two_and_the_error_says_so() {
        for bytes in [4096, 8192, 64 << 20, 1 << 40, 1 << 63] {
            let cache = Cache::new(bytes).expect("allowed");
            assert_eq!(cache.capacity(), bytes);
            assert_eq!(cache.used_bytes(), 0);
        }
        for given in [0, 1, 2048, 4095, 4097, 3 * 4096, u64::MAX] {
            let error = Cache::new(given).expect_err("refused");
            assert_eq!(error, CacheError::Size { given });
            let text = error.to_string();
            assert!(
                text.contains(&given.to_string()) && text.contains("4096"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_empty_cache_misses_and_appends_nothing() {
        let cache = cache(16);
        let mut out = vec![1, 2];
        for key in [0, 15, 16, u64::MAX] {
            assert_eq!(cache.delta(key, &page(0), 2, &mut out), Lookup::Miss);
            cache.forget(key);
        }
        assert_eq!(out, [1, 2]);
        assert_eq!(cache.used_bytes(), 0);
    }

    #[test]
    fn a_delta_leads_from_the_page_last_sent_to_the_new_one() {
        let cache = cache(128);
        let mut held: [u8; PAGE_SIZE] = [0xff; PAGE_SIZE];
        assert!(cache.remember(77, &held, 1));
        let mut out = vec![0xaa];
        for round in 2..50_u32 {
            let mut new = held;
            new[round as usize * 7] = round as u8;
            let start = out.len();
            let Lookup::Delta(length) = cache.delta(77, &new, round, &mut out) else {
                panic!("a delta");
            };
            assert_eq!(out.len(), start + length);
            xbzrle::decode(&out[start..], &mut held).expect("a delta");
            assert_eq!(held, new);
            assert_eq!(cache.delta(77, &new, round, &mut out), Lookup::Unchanged);
        }
        assert_eq!(out[0], 0xaa);
        assert_eq!(cache.used_bytes(), PAGE_SIZE as u64);
    }

    #[test]
    fn an_overflow_appends_nothing_but_takes_in_the_page() {
        let cache = cache(1);
        assert!(cache.remember(0, &page(1), 1));
        let mut out = Vec::new();
        assert_eq!(cache.delta(0, &page(2), 2, &mut out), Lookup::Overflow);
        assert!(out.is_empty());
        assert!(holds(&cache, 0, 2, 2));
    }

    #[test]
    fn another_page_of_the_same_slot_is_a_miss() {
        let cache = cache(64);
        assert!(cache.remember(5, &page(1), 1));
        assert_eq!(
            cache.delta(5 + 64, &page(1), 2, &mut Vec::new()),
            Lookup::Miss
        );
        assert_eq!(
            cache.delta(5 + (1 << 40), &page(1), 2, &mut Vec::new()),
            Lookup::Miss
        );
        cache.forget(5 + 64);
        assert!(
            holds(&cache, 5, 1, 2),
            "forgetting another key leaves it alone"
        );
    }

    #[test]
    fn pages_used_in_this_round_or_the_one_before_are_not_replaced() {
        let cache = cache(4);
        assert!(cache.remember(0, &page(1), 5));
        assert!(!cache.remember(4, &page(2), 5));
        assert!(!cache.remember(4, &page(2), 6));
        assert!(holds(&cache, 0, 1, 5));
        assert!(cache.remember(4, &page(2), 7));
        assert!(!holds(&cache, 0, 1, 7));
        assert!(holds(&cache, 4, 2, 9));
        // The lookup was a use.
        assert!(!cache.remember(0, &page(1), 10));
        assert!(cache.remember(0, &page(1), 11));
        assert_eq!(cache.used_bytes(), PAGE_SIZE as u64);
    }

    #[test]
    fn pages_of_the_bulk_stage_are_replaced_in_every_round() {
        for round in [1, 2, 3] {
            let cache = cache(4);
            assert!(cache.remember(0, &page(1), 1));
            assert!(cache.remember(4, &page(2), round));
            assert!(holds(&cache, 4, 2, round));
        }
    }

    #[test]
    fn the_same_page_is_always_replaced() {
        let cache = cache(4);
        assert!(cache.remember(2, &page(1), 5));
        assert!(cache.remember(2, &page(2), 5));
        assert!(holds(&cache, 2, 2, u32::MAX));
        assert!(!cache.remember(6, &page(2), u32::MAX));
    }

    #[test]
    fn a_forgotten_page_is_a_miss_and_gives_its_slot_away() {
        let cache = cache(4);
        assert!(cache.remember(3, &page(1), 8));
        cache.forget(3);
        assert_eq!(cache.delta(3, &page(1), 8, &mut Vec::new()), Lookup::Miss);
        assert!(cache.remember(7, &page(2), 8));
        assert!(holds(&cache, 7, 2, 8));
    }

    #[test]
    fn a_resized_cache_keeps_what_finds_room_and_of_two_the_younger() {
        let mut cache = cache(8);
        for key in 0..8 {
            assert!(cache.remember(key, &page(key as u8), 2 + key as u32));
        }
        cache.resize(4 * PAGE_SIZE as u64).expect("a power of two");
        assert_eq!(cache.capacity(), 4 * PAGE_SIZE as u64);
        assert_eq!(cache.used_bytes(), 4 * PAGE_SIZE as u64);
        for key in 0..4 {
            assert!(!holds(&cache, key, key as u8, 9));
            assert!(holds(&cache, key + 4, key as u8 + 4, 9));
        }
        cache
            .resize(256 * PAGE_SIZE as u64)
            .expect("a power of two");
        for key in 4..8 {
            assert!(holds(&cache, key, key as u8, 10));
        }
        assert!(cache.remember(0, &page(9), 10), "there is room again");
        assert_eq!(cache.used_bytes(), 5 * PAGE_SIZE as u64);
        let refused = cache.resize(3 * PAGE_SIZE as u64);
        assert_eq!(
            refused,
            Err(CacheError::Size {
                given: 3 * PAGE_SIZE as u64
            })
        );
        assert!(holds(&cache, 4, 4, 10));
    }

    #[test]
    fn a_page_of_a_wrong_length_is_never_kept() {
        let cache = cache(4);
        assert!(cache.remember(3, &page(1), 1));
        assert_eq!(cache.delta(3, &[1; 100], 2, &mut Vec::new()), Lookup::Miss);
        assert!(holds(&cache, 3, 1, 2));
        assert!(!cache.remember(3, &[2; PAGE_SIZE + 1], 2));
        assert!(
            !holds(&cache, 3, 1, 2),
            "forgotten: something else was sent"
        );
    }

    #[test]
    fn a_cache_too_large_for_memory_refuses_instead_of_failing() {
        let cache = Cache::new(1 << 63).expect("a power of two");
        let last = (1 << 51) - 1;
        assert!(!cache.remember(last, &page(1), 1));
        assert_eq!(
            cache.delta(last, &page(1), 1, &mut Vec::new()),
            Lookup::Miss
        );
        assert!(cache.remember(63, &page(1), 1));
    }

    #[test]
    fn a_thread_that_panics_under_a_lock_costs_nothing() {
        let cache = cache(1);
        assert!(cache.remember(0, &page(1), 2));
        std::thread::scope(|scope| {
            let panicking = scope.spawn(|| {
                let _guard = cache.shard(0);
                panic!("on purpose");
            });
            assert!(panicking.join().is_err());
        });
        assert!(cache.shards[0].is_poisoned());
        assert!(holds(&cache, 0, 1, 2));
        assert!(cache.remember(0, &page(2), 2));
    }

    #[test]
    fn threads_see_each_page_as_it_was_sent() {
        const THREADS: u64 = 4;
        const KEYS: u64 = 100;
        let cache = cache(64);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let cache = &cache;
                scope.spawn(move || {
                    // Keys of all threads share slots. Each thread owns its keys, as in a round.
                    let mut held = vec![None; KEYS as usize];
                    let mut out = Vec::new();
                    for round in 1..60_u32 {
                        for (key, held) in (0..).map(|key| key * THREADS + thread).zip(&mut held) {
                            let mut new = held.unwrap_or([thread as u8; PAGE_SIZE]);
                            new[(key * 31 % 4096) as usize] = round as u8;
                            out.clear();
                            match (cache.delta(key, &new, round, &mut out), &mut *held) {
                                (Lookup::Delta(_), Some(held)) => {
                                    xbzrle::decode(&out, held).expect("a delta");
                                }
                                (Lookup::Miss, held) => {
                                    *held = Some(new);
                                    cache.remember(key, &new, round);
                                }
                                (lookup, _) => panic!("{lookup:?} for key {key}"),
                            }
                            assert_eq!(*held, Some(new), "key {key}");
                        }
                    }
                });
            }
        });
        assert_eq!(cache.used_bytes(), cache.capacity());
    }
}
