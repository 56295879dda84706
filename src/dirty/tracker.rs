//! One trait for the ways to find what a running writer has changed.
//!
//! Taking dirty pages from a tracker is an obligation to send them: it will not report them again. So
//! they are taken as a [`Claim`], which gives them back unless they were sent.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::compare::{self, Changed};
use super::{Bitmap, PageHashes};
use crate::image::{ImageError, Ram};
use crate::page::{PageIndex, PageRange};

/// Finds what has changed while the guest's RAM is being written.
///
/// A page that was written after [`Tracker::begin`] is in the result of the next
/// [`Tracker::take`] that begins after the write, or, if the two overlap, in that of a later one.
/// Once the writer has stopped, one more call finds all that is left.
///
/// [`Compare`] always works. [`DirtyLog`] is for programs that know what is written, and
/// [`super::Pagemap`] for writers in this process that do not cooperate.
/// `examples/live_memory.rs` is a VMM that migrates its own guest with a log.
pub trait Tracker: fmt::Debug + Send + Sync {
    /// Called before the first page is copied: from now on, writes must be found.
    ///
    /// # Errors
    /// If they cannot be.
    fn begin(&self, ram: &Ram) -> Result<(), ImageError>;

    /// What was written since the last call, for each block, and the CPU time that finding it took.
    /// `sent` has the hashes of the copies that were sent.
    ///
    /// # Errors
    /// If that cannot be found out. All dirty pages then stay dirty.
    fn take(&self, ram: &Ram, sent: &PageHashes) -> Result<(Vec<Changed>, Duration), ImageError>;

    /// These pages were taken but not sent: the next [`Tracker::take`] must find them again.
    fn give_back(&self, changed: &[Changed]);

    /// Writes no longer need to be found.
    fn end(&self) {}
}

/// Dirty pages taken from a tracker. Dropping it gives them back, unless [`Claim::commit`] says that
/// they were sent.
#[derive(Debug)]
pub struct Claim<'a> {
    tracker: &'a dyn Tracker,
    changed: Vec<Changed>,
}

impl<'a> Claim<'a> {
    /// Takes what is dirty, and returns the CPU time that this took.
    ///
    /// # Errors
    /// Those of [`Tracker::take`].
    pub fn take(
        tracker: &'a dyn Tracker,
        ram: &Ram,
        sent: &PageHashes,
    ) -> Result<(Claim<'a>, Duration), ImageError> {
        let (changed, time) = tracker.take(ram, sent)?;
        Ok((Claim { tracker, changed }, time))
    }

    /// The pages of each block.
    pub fn changed(&self) -> &[Changed] {
        &self.changed
    }

    /// The number of pages.
    pub fn count(&self) -> u64 {
        self.changed.iter().map(Changed::count).sum()
    }

    /// All of them were sent.
    pub fn commit(mut self) {
        self.changed.clear();
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.changed.is_empty() {
            self.tracker.give_back(&self.changed);
        }
    }
}

/// Finds changes by comparing RAM with what was sent: for every image, writer and kernel.
///
/// It runs on rayon's threads: call it in a pool of the right size.
#[derive(Debug, Clone, Copy, Default)]
pub struct Compare;

impl Tracker for Compare {
    fn begin(&self, _ram: &Ram) -> Result<(), ImageError> {
        Ok(())
    }

    fn take(&self, ram: &Ram, sent: &PageHashes) -> Result<(Vec<Changed>, Duration), ImageError> {
        compare::changed(ram, sent)
    }

    /// Nothing to do: the recorded hash of a page that was not sent is unchanged, so the next
    /// comparison finds it.
    fn give_back(&self, _changed: &[Changed]) {}
}

/// A log filled by whatever writes the guest's RAM: a VMM from KVM's dirty log, a device model, a
/// vhost back end.
///
/// Call [`DirtyLog::mark`] *after* writing the page, and before the writer counts as stopped: a page
/// that is marked first may be taken and copied before it is written.
#[derive(Debug)]
pub struct DirtyLog {
    blocks: Vec<(Box<[AtomicU64]>, u64)>,
}

impl DirtyLog {
    /// An empty log for blocks of these numbers of pages, in the guest's order.
    pub fn new(pages: &[u64]) -> DirtyLog {
        let block = |&pages: &u64| {
            let words = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0));
            (words.collect(), pages)
        };
        DirtyLog {
            blocks: pages.iter().map(block).collect(),
        }
    }

    /// Marks a page that was written, from any thread, by one atomic operation. `false`: there is no
    /// such page.
    pub fn mark(&self, block: usize, page: PageIndex) -> bool {
        match self.blocks.get(block) {
            Some((words, pages)) if page.0 < *pages => {
                // Release: the thread that takes the mark also sees what was written before it.
                words[(page.0 / 64) as usize].fetch_or(1 << (page.0 % 64), Ordering::Release);
                true
            }
            _ => false,
        }
    }

    /// Marks up to 64 pages from a bitmap such as KVM's: bit n of `bits` is page `64 * word + n` of the
    /// block. Bits beyond the block's end are ignored.
    pub fn mark_word(&self, block: usize, word: usize, bits: u64) {
        if let Some((words, pages)) = self.blocks.get(block)
            && let Some(slot) = words.get(word)
        {
            let left = pages - word as u64 * 64;
            let mask = if left < 64 { (1 << left) - 1 } else { u64::MAX };
            slot.fetch_or(bits & mask, Ordering::Release);
        }
    }
}

impl Tracker for DirtyLog {
    /// # Errors
    /// [`ImageError::OtherLog`] if the log was made for other blocks.
    fn begin(&self, ram: &Ram) -> Result<(), ImageError> {
        let log: u64 = self.blocks.iter().map(|(_, pages)| pages).sum();
        let fits = self.blocks.len() == ram.blocks().len()
            && (self.blocks.iter().zip(ram.blocks()))
                .all(|((_, pages), block)| *pages == block.pages());
        if !fits {
            return Err(ImageError::OtherLog {
                pages: log,
                expected: ram.pages(),
            });
        }
        // Every page is sent after this, marked or not.
        for (words, _) in &self.blocks {
            words
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
        }
        Ok(())
    }

    fn take(&self, ram: &Ram, _sent: &PageHashes) -> Result<(Vec<Changed>, Duration), ImageError> {
        let start = crate::sys::thread_cpu_time();
        let mut all = Vec::new();
        for (words, pages) in &self.blocks {
            let mut changed = Changed {
                data: Bitmap::new(*pages),
                holes: Bitmap::new(*pages),
            };
            for (index, word) in words.iter().enumerate() {
                let mut bits = match word.load(Ordering::Relaxed) {
                    0 => 0,
                    _ => word.swap(0, Ordering::Acquire),
                };
                while bits != 0 {
                    let page = index as u64 * 64 + u64::from(bits.trailing_zeros());
                    changed.data.set(PageIndex(page));
                    bits &= bits - 1;
                }
            }
            all.push(changed);
        }
        // After taking the marks: a marked page is data by now, unless it was discarded.
        for (index, block) in ram.blocks().iter().enumerate() {
            match block.data_ranges() {
                Ok(data) => split_holes(&mut all[index], &data),
                Err(error) => {
                    self.give_back(&all);
                    return Err(error);
                }
            }
        }
        let time = crate::sys::thread_cpu_time().saturating_sub(start);
        Ok((all, time))
    }

    fn give_back(&self, changed: &[Changed]) {
        for (block, changed) in changed.iter().enumerate() {
            for page in changed.runs().flat_map(|(range, _)| range.pages()) {
                self.mark(block, page);
            }
        }
    }
}

/// Moves pages outside `data` from `changed.data` to `changed.holes`.
fn split_holes(changed: &mut Changed, data: &[PageRange]) {
    let all = std::mem::replace(&mut changed.data, Bitmap::new(changed.holes.pages()));
    let mut data = data.iter().peekable();
    for page in all.runs().flat_map(PageRange::pages) {
        while data.next_if(|range| range.end() <= page.0).is_some() {}
        let is_data = data.peek().is_some_and(|range| range.start <= page);
        if is_data {
            changed.data.set(page);
        } else {
            changed.holes.set(page);
        }
    }
}

#[cfg(test)]
mod tests;
