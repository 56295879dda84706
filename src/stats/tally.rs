//! Pages and bytes, by how they were sent.

use std::ops::AddAssign;

use super::StageTimes;

/// What was done for one batch, or for many; counted in pages unless stated otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Tally {
    /// Zero pages.
    pub zero: u64,
    /// Pages that were sent whole and compressed.
    pub compressed: u64,
    /// Pages that were sent as deltas.
    pub delta: u64,
    /// Pages that were sent whole and uncompressed.
    pub plain: u64,
    /// Pages that were dirty but the same as when they were last sent.
    pub unchanged: u64,
    /// Pages that were sent uncompressed because no compression thread was free.
    pub busy: u64,
    /// Bytes of compressed bodies.
    pub compressed_bytes: u64,
    /// Bytes that went into compressed bodies.
    pub compressed_input: u64,
    /// Bytes of deltas before compression.
    pub delta_bytes: u64,
    /// Pages that were not in the delta cache.
    pub cache_miss: u64,
    /// Pages whose delta would have been longer than a page.
    pub overflow: u64,
    /// Frames with pages.
    pub frames: u64,
    /// The change of the digest's sum.
    pub hashes: u128,
    /// The same of the sampled pages alone: one in 32.
    pub(crate) sample: u128,
    /// CPU time.
    pub cpu: StageTimes,
}

impl Tally {
    /// Pages that were handled, of every kind.
    pub fn pages(&self) -> u64 {
        self.zero + self.compressed + self.delta + self.plain + self.unchanged
    }

    /// Pages in page sets.
    pub fn pages_on_the_wire(&self) -> u64 {
        self.pages() - self.unchanged
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.zero += other.zero;
        self.compressed += other.compressed;
        self.delta += other.delta;
        self.plain += other.plain;
        self.unchanged += other.unchanged;
        self.busy += other.busy;
        self.compressed_bytes += other.compressed_bytes;
        self.compressed_input += other.compressed_input;
        self.delta_bytes += other.delta_bytes;
        self.cache_miss += other.cache_miss;
        self.overflow += other.overflow;
        self.frames += other.frames;
        self.hashes = self.hashes.wrapping_add(other.hashes);
        self.sample = self.sample.wrapping_add(other.sample);
        self.cpu += other.cpu;
    }
}
