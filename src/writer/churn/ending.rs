//! What ends a churn from outside, also one that was stopped in between.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::transport::Abort;

/// Longer than a write takes and than threads are usually kept from running: after such a time
/// between two writes the process may have been stopped.
const GAP: Duration = Duration::from_millis(20);
/// What a signal that was pending while the process was stopped needs to reach its handler. The
/// kernel runs it first of all, but in whichever thread goes on first.
const HANDLER: Duration = Duration::from_millis(1);

/// Raised to end a churn.
#[derive(Debug)]
pub struct Ending {
    flag: Arc<AtomicBool>,
    wake: Abort,
}

impl Ending {
    /// Nothing ends it yet.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Ending> {
        Ok(Ending {
            flag: Arc::default(),
            wake: Abort::new()?,
        })
    }

    /// A flag that signal handlers set, so that no write follows the signal; [`Ending::raise`] is
    /// still needed to wake threads that wait.
    pub fn flag(&self) -> &Arc<AtomicBool> {
        &self.flag
    }

    /// Ends the churn.
    pub fn raise(&self) {
        self.flag.store(true, Ordering::Release);
        self.wake.raise();
    }

    pub(super) fn is_raised(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// What is woken by [`Ending::raise`].
    pub(super) fn wake(&self) -> &Abort {
        &self.wake
    }
}

/// Notices that the process may have been stopped since the last write.
///
/// What was copied while it was stopped is proven by its records only if it writes nothing more than
/// what was in flight. A SIGTERM that was sent meanwhile takes effect with the SIGCONT, at the same
/// time as the writing threads go on.
#[derive(Debug)]
pub(super) struct StopWatch {
    last: Duration,
}

impl StopWatch {
    pub(super) fn new() -> StopWatch {
        StopWatch { last: now() }
    }

    /// Whether the churn is to end and may have been stopped since this was last asked.
    pub(super) fn stopped_to_end(&mut self, ending: &Ending) -> bool {
        let now = now();
        if now - std::mem::replace(&mut self.last, now) <= GAP {
            return false;
        }
        thread::sleep(HANDLER);
        ending.is_raised()
    }
}

/// The coarse clock, which costs next to nothing beside a write.
fn now() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::MonotonicCoarse);
    Duration::new(tv_sec as u64, tv_nsec as u32)
}
