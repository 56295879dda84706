//! CPU time by what it was used for.

use std::ops::AddAssign;
use std::time::Duration;

/// The parts of the work whose CPU time is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Finding out what to send.
    Scan,
    /// Copying pages out of the image and looking for zeroes.
    Read,
    /// Hashing pages.
    Hash,
    /// XBZRLE, with its cache.
    Delta,
    /// Compressing or decompressing.
    Codec,
    /// Writing to or reading from the link.
    Socket,
    /// Putting pages in their place.
    Place,
    /// Reading back and hashing what arrived.
    Proof,
}

names!(Stage {
    Scan: "scan",
    Read: "read",
    Hash: "hash",
    Delta: "delta",
    Codec: "codec",
    Socket: "socket",
    Place: "place",
    Proof: "proof"
});

/// CPU time by stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageTimes([Duration; Stage::ALL.len()]);

impl StageTimes {
    /// The time of one stage.
    pub fn get(&self, stage: Stage) -> Duration {
        self.0[stage as usize]
    }

    /// Adds to a stage's time.
    pub fn add(&mut self, stage: Stage, time: Duration) {
        self.0[stage as usize] += time;
    }

    /// The time of all stages.
    pub fn sum(&self) -> Duration {
        self.0.iter().sum()
    }
}

impl AddAssign for StageTimes {
    fn add_assign(&mut self, other: StageTimes) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own += other;
        }
    }
}

/// Cuts a thread's CPU time into stages.
#[derive(Debug)]
pub(crate) struct StageClock(Duration);

impl StageClock {
    pub(crate) fn start() -> StageClock {
        StageClock(crate::sys::thread_cpu_time())
    }

    /// Gives the time since the last cut to `stage`.
    pub(crate) fn cut(&mut self, times: &mut StageTimes, stage: Stage) {
        let now = crate::sys::thread_cpu_time();
        times.add(stage, now.saturating_sub(self.0));
        self.0 = now;
    }
}
