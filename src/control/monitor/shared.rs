//! What reaches a monitor's thread from other threads: events, and the request to end.
//!
//! Events arrive from threads that hold a migration's counters: nothing here waits.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use rustix::event::{EventfdFlags, eventfd};

use super::Farewell;
use crate::stats::Event;
use crate::sync;

/// Events that are queued. The monitor's thread does not wait either, so this many mean
/// that the machine is overloaded.
const MOST_EVENTS: usize = 4096;

/// How and until when to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    pub(super) farewell: Farewell,
    pub(super) deadline: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<(Event, SystemTime)>,
    lost: bool,
    closing: Option<Closing>,
}

#[derive(Debug)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    wake: OwnedFd,
}

/// The events since the last call.
#[derive(Debug, Default)]
pub(super) struct Happened {
    pub(super) events: VecDeque<(Event, SystemTime)>,
    /// Whether some were dropped.
    pub(super) lost: bool,
}

impl Shared {
    pub(super) fn new() -> io::Result<Shared> {
        Ok(Shared {
            inner: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Queues an event.
    pub(super) fn notify(&self, event: Event) {
        let at = SystemTime::now();
        let mut inner = sync::lock(&self.inner);
        if inner.events.len() < MOST_EVENTS {
            inner.events.push_back((event, at));
        } else {
            inner.lost = true;
        }
        drop(inner);
        self.wake();
    }

    /// Asks the monitor to end.
    pub(super) fn close(&self, closing: Closing) {
        sync::lock(&self.inner).closing = Some(closing);
        self.wake();
    }

    pub(super) fn closing(&self) -> Option<Closing> {
        sync::lock(&self.inner).closing
    }

    /// Takes the events since the last call.
    pub(super) fn take(&self) -> Happened {
        let mut inner = sync::lock(&self.inner);
        Happened {
            events: std::mem::take(&mut inner.events),
            lost: std::mem::take(&mut inner.lost),
        }
    }

    fn wake(&self) {
        // This fails only if the counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Clears the wake-up: the thread is about to look at everything.
    pub(super) fn is_awake(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
