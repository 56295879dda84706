//! Which bytes a churn writes where: a pure function of the plan, the thread and the number of the
//! write. So the number of writes says what an image must hold.

use super::ChurnError;
use crate::page::PAGE_SIZE;

/// The most threads that one churn has.
pub const MOST_THREADS: u32 = 256;

/// Where a churn writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Every page of the working set is as likely as any other.
    Random,
    /// The working set from its beginning to its end, over and over.
    Sequential,
    /// 90 of 100 writes go to the first tenth of the working set, the others to the rest.
    Hotset,
    /// As sequential, but what is written is the number of the sweep, little endian, at the page's
    /// beginning: small deltas.
    Counter,
}

names!(
    "pattern",
    Pattern {
        Random: "random",
        Sequential: "sequential",
        Hotset: "hotset",
        Counter: "counter"
    }
);

impl Pattern {
    /// The default number of bytes of a write.
    pub fn default_bytes_per_write(self) -> u32 {
        match self {
            Pattern::Counter => 8,
            _ => 64,
        }
    }

    /// The most bytes that a write can have. A counter is a number of at most 64 bits.
    pub fn most_bytes_per_write(self) -> u32 {
        match self {
            Pattern::Counter => 8,
            _ => PAGE_SIZE as u32,
        }
    }

    pub(super) fn code(self) -> u32 {
        match self {
            Pattern::Random => 1,
            Pattern::Sequential => 2,
            Pattern::Hotset => 3,
            Pattern::Counter => 4,
        }
    }

    pub(super) fn from_code(code: u32) -> Option<Pattern> {
        Pattern::ALL.into_iter().find(|known| known.code() == code)
    }
}

/// What a churn writes: equal plans write equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Which pages are written how often.
    pub pattern: Pattern,
    /// The pages that are written, from the image's beginning on.
    pub working_set: u64,
    /// How many bytes each write has, all within one page. See [`Pattern::most_bytes_per_write`].
    pub bytes_per_write: u32,
    /// How many threads write, 1 to [`MOST_THREADS`]. Thread T owns the pages of the working set
    /// whose index leaves T when divided by the number of threads.
    pub threads: u32,
    /// The random seed: the same seed repeats the same writes.
    pub seed: u64,
}

/// Where a write goes: the number of the page among those of its thread, and the byte within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) slot: u64,
    pub(super) offset: usize,
}

impl Plan {
    /// Whether it is valid for an image of `pages` pages.
    ///
    /// # Errors
    /// Names the first invalid value.
    pub fn check(&self, pages: u64) -> Result<(), ChurnError> {
        let most = self.pattern.most_bytes_per_write();
        if self.working_set == 0 || self.working_set > pages {
            return Err(ChurnError::WorkingSet {
                given: self.working_set,
                pages,
            });
        }
        if !(1..=most).contains(&self.bytes_per_write) {
            return Err(ChurnError::BytesPerWrite {
                given: self.bytes_per_write,
                pattern: self.pattern,
                most,
            });
        }
        let most = self.working_set.min(MOST_THREADS.into());
        if self.threads == 0 || u64::from(self.threads) > most {
            return Err(ChurnError::Threads {
                given: self.threads,
                most,
            });
        }
        Ok(())
    }

    /// How many pages the thread owns; at least one in a plan that was checked.
    pub(super) fn own_pages(&self, thread: u32) -> u64 {
        let threads = u64::from(self.threads);
        let rest = u64::from(u64::from(thread) < self.working_set % threads);
        self.working_set / threads + rest
    }

    /// The `number`-th write of the thread, from 1: fills `bytes`, which has
    /// [`Plan::bytes_per_write`] bytes, and says where they go.
    pub(super) fn write(&self, thread: u32, number: u64, bytes: &mut [u8]) -> Spot {
        let own = self.own_pages(thread).max(1);
        let before = number.saturating_sub(1);
        let (sweep, in_turn) = (before / own + 1, before % own);
        if self.pattern == Pattern::Counter {
            for (byte, value) in bytes.iter_mut().zip(sweep.to_le_bytes()) {
                *byte = value;
            }
            return Spot {
                slot: in_turn,
                offset: 0,
            };
        }
        let mut dice = Dice::new(self.seed, thread, number);
        let slot = match self.pattern {
            Pattern::Random => dice.below(own),
            Pattern::Hotset => {
                let hot = own.div_ceil(10);
                if hot == own || dice.below(10) != 0 {
                    dice.below(hot)
                } else {
                    hot + dice.below(own - hot)
                }
            }
            Pattern::Sequential | Pattern::Counter => in_turn,
        };
        let room = (PAGE_SIZE - bytes.len().min(PAGE_SIZE)) as u64 + 1;
        let offset = dice.below(room) as usize;
        for chunk in bytes.chunks_mut(8) {
            let random = dice.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        Spot { slot, offset }
    }
}

/// SplitMix64: a few operations a number, and every write begins a sequence of its own.
struct Dice(u64);

impl Dice {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    fn new(seed: u64, thread: u32, number: u64) -> Dice {
        // Mixed in one after the other, so that no two threads or writes share a sequence.
        let mut dice = Dice(seed);
        dice.0 = dice.next() ^ u64::from(thread);
        dice.0 = dice.next() ^ number;
        dice.0 = dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Dice::STEP);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(pattern: Pattern, working_set: u64, threads: u32) -> Plan {
        Plan {
            pattern,
            working_set,
            bytes_per_write: pattern.default_bytes_per_write(),
            threads,
            seed: 7,
        }
    }

    /// How many of the thread's first `writes` writes go to each of its pages.
    fn visits(plan: &Plan, thread: u32, writes: u64) -> Vec<u64> {
        let mut visits = vec![0; plan.own_pages(thread) as usize];
        let mut bytes = vec![0; plan.bytes_per_write as usize];
        for number in 1..=writes {
            visits[plan.write(thread, number, &mut bytes).slot as usize] += 1;
        }
        visits
    }

    #[test]
    fn each_pattern_goes_where_its_name_says() {
        let sweeps = visits(&plan(Pattern::Sequential, 100, 1), 0, 1000);
        assert!(sweeps.iter().all(|&count| count == 10));
        let random = visits(&plan(Pattern::Random, 100, 1), 0, 100_000);
        assert!(random.iter().all(|&count| (800..1200).contains(&count)));
        let hot = visits(&plan(Pattern::Hotset, 100, 1), 0, 100_000);
        assert!((89_000..91_000).contains(&hot[..10].iter().sum::<u64>()));
        assert!(hot[10..].iter().all(|&count| count > 50));
    }

    #[test]
    fn a_counter_counts_the_sweeps() {
        let plan = plan(Pattern::Counter, 3, 1);
        let mut bytes = [0; 8];
        for number in 1..=3000 {
            let spot = plan.write(0, number, &mut bytes);
            assert_eq!(spot.slot, (number - 1) % 3);
            assert_eq!(spot.offset, 0);
            assert_eq!(u64::from_le_bytes(bytes), (number - 1) / 3 + 1);
        }
    }

    /// Golden: records of one version must be readable by the next.
    #[test]
    fn what_is_written_stays_what_it_is() {
        let plan = plan(Pattern::Random, 1000, 4);
        let mut bytes = [0; 64];
        let spot = plan.write(3, 12345, &mut bytes);
        assert_eq!((spot.slot, spot.offset), (170, 67));
        assert_eq!(bytes[..8], [141, 151, 93, 156, 55, 30, 171, 147]);
    }

    proptest! {
        #[test]
        fn every_write_of_every_plan_stays_in_its_place(
            pattern in prop::sample::select(Pattern::ALL.to_vec()),
            working_set in 1_u64..5000,
            threads in 1_u32..=MOST_THREADS,
            bytes in 1_u32..=4096,
            seed in any::<u64>(),
            number in any::<u64>(),
        ) {
            let plan = Plan { pattern, working_set, threads, seed, bytes_per_write: bytes };
            prop_assume!(plan.check(5000).is_ok());
            let own: u64 = (0..threads).map(|thread| plan.own_pages(thread)).sum();
            prop_assert_eq!(own, working_set);
            let mut buffer = vec![0; bytes as usize];
            for thread in [0, threads - 1] {
                let spot = plan.write(thread, number, &mut buffer);
                prop_assert!(spot.slot < plan.own_pages(thread));
                prop_assert!(spot.offset + buffer.len() <= PAGE_SIZE);
            }
        }
    }
}
