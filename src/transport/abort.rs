//! Ends every wait of a session at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::sync::atomic::{AtomicU8, Ordering};

/// Nothing is to end.
const CALM: u8 = 0;
/// Every wait ends.
const RAISED: u8 = 1;
/// Raising it waits until [`Held`] is dropped.
const HELD: u8 = 2;
/// It was raised while it was held.
const DUE: u8 = 3;

/// A flag that ends waits: once raised it stays raised, and every `poll` sees it.
#[derive(Debug)]
pub struct Abort {
    state: AtomicU8,
    event: OwnedFd,
}

/// While this exists, nothing is aborted; a flag raised meanwhile takes effect when it is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Abort);

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The descriptor is ready.
    Ready,
    /// The time is up.
    TimedOut,
    /// The session was aborted.
    Aborted,
}

impl Abort {
    /// A flag that is not raised.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Abort> {
        Ok(Abort {
            state: AtomicU8::new(CALM),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Raises the flag and wakes every thread that waits.
    pub fn raise(&self) {
        if self.step([(CALM, RAISED), (HELD, DUE)]) == Ok(CALM) {
            self.wake();
        }
    }

    /// Goes from one state to another, by the pair that begins with the present one, which is returned.
    fn step<const N: usize>(&self, pairs: [(u8, u8); N]) -> Result<u8, u8> {
        let next = |now| pairs.iter().find(|pair| pair.0 == now).map(|pair| pair.1);
        let (won, lost) = (Ordering::AcqRel, Ordering::Acquire);
        self.state.fetch_update(won, lost, next)
    }

    fn wake(&self) {
        // This fails only if the counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        #[cfg(all(test, shuttle))]
        crate::sync::channel::step();
    }

    /// Whether it has been raised.
    pub fn is_raised(&self) -> bool {
        self.state.load(Ordering::Acquire) == RAISED
    }

    /// Whether it has been raised, even if that has no effect yet.
    pub(crate) fn is_asked_for(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire), RAISED | DUE)
    }

    /// Keeps it from being raised. `None`: it is raised already. One thread at a time.
    pub(crate) fn hold(&self) -> Option<Held<'_>> {
        self.step([(CALM, HELD)]).is_ok().then(|| Held(self))
    }

    /// Waits until `fd` has one of `events`, `limit` has passed (`None`: no limit), or the flag is raised.
    pub(crate) fn wait_for(
        &self,
        fd: BorrowedFd<'_>,
        events: PollFlags,
        limit: Option<Duration>,
    ) -> io::Result<Woken> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.event.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(fd, events),
        ];
        wait(&mut fds, limit)
    }

    /// Waits until one of `fds` can be read, `limit` has passed (`None`: no limit), or the flag is
    /// raised.
    pub(crate) fn wait_for_any<'fd>(
        &self,
        fds: impl IntoIterator<Item = BorrowedFd<'fd>>,
        limit: Option<Duration>,
    ) -> io::Result<Woken> {
        let mut polled = vec![PollFd::from_borrowed_fd(self.event.as_fd(), PollFlags::IN)];
        polled.extend(
            fds.into_iter()
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        wait(&mut polled, limit)
    }

    /// Waits until `limit` has passed or the flag is raised.
    pub(crate) fn wait(&self, limit: Duration) -> io::Result<Woken> {
        wait(&mut [PollFd::new(&self.event, PollFlags::IN)], Some(limit))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.0.step([(HELD, CALM), (DUE, RAISED)]) == Ok(DUE) {
            self.0.wake();
        }
    }
}

impl AsFd for Abort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// The first of `fds` is the abort's.
fn wait(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<Woken> {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let left = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(fds, left.as_ref()) {
            Ok(0) => return Ok(Woken::TimedOut),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(Woken::Aborted),
            Ok(_) => return Ok(Woken::Ready),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_raised_while_it_is_held_takes_effect_afterwards() {
        let abort = Abort::new().unwrap();
        let woken = || abort.wait(Duration::ZERO).unwrap();
        drop(abort.hold().unwrap());
        let held = abort.hold().unwrap();
        abort.raise();
        assert!(!abort.is_raised() && abort.is_asked_for());
        assert_eq!(woken(), Woken::TimedOut);
        drop(held);
        assert!(abort.is_raised());
        assert_eq!(woken(), Woken::Aborted);
        assert!(abort.hold().is_none());
    }
}
