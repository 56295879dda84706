//! Writes to disk while rounds run what they have placed, so that little is left for the sync at the
//! end: that is part of a live guest's downtime, and the source cannot know how long it takes.
//!
//! A page that a later round places again is written again. It is also how a disk that fails is
//! noticed while the source still has everything.

use crate::error::{Error, Result};
use crate::image::Output;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::channel::{Receiver, Sender, bounded};

use super::stage::RECEIVING;

/// Pages after which it is worth to begin: 16 MiB. Small in tests, so that little RAM has several.
const ENOUGH: u64 = if cfg!(test) { 50 } else { 1 << 12 };

/// The writing out of one migration's output, by [`WriteOut::run`] in a thread of its own.
#[derive(Debug)]
pub(super) struct WriteOut {
    /// Pages that were placed since the last time.
    placed: AtomicU64,
    /// Signals that there is enough to write, or that it is over.
    news: (Sender<()>, Receiver<()>),
    over: AtomicBool,
}

impl Default for WriteOut {
    fn default() -> WriteOut {
        WriteOut {
            placed: AtomicU64::new(0),
            news: bounded(1),
            over: AtomicBool::new(false),
        }
    }
}

impl WriteOut {
    /// Pages were placed.
    pub(super) fn placed(&self, pages: u64) {
        if self.placed.fetch_add(pages, Ordering::Relaxed) + pages >= ENOUGH {
            self.wake();
        }
    }

    /// A round is over, and another follows.
    pub(super) fn end_round(&self) {
        self.wake();
    }

    /// The rounds or the session are over: makes [`WriteOut::run`] return as soon as what it writes is
    /// written.
    pub(super) fn stop(&self) {
        self.over.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // If it is full, the thread is awake already.
        let _ = self.news.0.try_send(());
    }

    /// Writes out whenever there is enough, until [`WriteOut::stop`].
    ///
    /// # Errors
    /// Those of [`Output::sync`]. It must not be called again after one, which the system reports once.
    pub(super) fn run(&self, output: &Output) -> Result<()> {
        loop {
            // We hold a sender ourselves, so this ends only with a signal.
            let _ = self.news.1.recv();
            if self.over.load(Ordering::Acquire) {
                return Ok(());
            }
            if self.placed.swap(0, Ordering::Relaxed) > 0 {
                (output.sync_ram()).map_err(|error| Error::from(error).in_stage(RECEIVING))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_writes_out_when_there_is_enough_or_a_round_ends_and_ends_when_told() {
        let folder = tempfile::tempdir().unwrap();
        let blocks = [("ram".to_owned(), 1 << 20)];
        let output = Output::image(&folder.path().join("out"), &blocks, false).unwrap();
        let out = WriteOut::default();
        let written = || {
            while out.placed.load(Ordering::Relaxed) > 0 {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            let run = scope.spawn(|| out.run(&output));
            out.placed(ENOUGH - 1);
            assert!(!run.is_finished() && out.placed.load(Ordering::Relaxed) == ENOUGH - 1);
            out.placed(1);
            written();
            out.placed(1);
            out.end_round();
            written();
            out.stop();
            run.join().unwrap().unwrap();
        });
    }
}
