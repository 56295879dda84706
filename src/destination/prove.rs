//! The proof: reads back what the output holds, mostly while later rounds run, so that little is left
//! for the end.
//!
//! A migration of one round reads everything back at its end, and needs no memory for that. With
//! more rounds to come, from the end of round 1 on:
//!
//! ```text
//! touch       decoders    marks pages that a round places or clears as touched
//! end_round   barrier     touched pages become due; after round 1 every page is, in its order
//! run         x 1         reads back pages that are due, and notes their hashes
//! finish      x N         after the rounds, when `run` has ended: reads back what is still due
//! ```
//!
//! A page that a later round touches becomes due again when that round is over, and its new hash
//! replaces the old one. So it does no harm if `run` reads a page that is half written, or skips it
//! because it has been touched meanwhile. `run` and `finish` never read at the same time, and `finish`
//! reads only pages that are no longer written. Holes are not read: they are zero.
//!
//! At the end, every page's hash is that of what was read from the file after the page was last
//! placed, and the sum of the hashes must be the digest of what was sent. As with a single pass at the
//! end, a page that the file does not hold as it was placed is found. A change that another process
//! makes to the file *after* the page was read back is not found: here that may be several rounds
//! before the end, in a single pass it is moments.
//!
//! The size of the guest is a number that a peer sent, so what was only announced costs nothing: pages
//! that have not been looked at yet are due without a mark, the first pass goes from data to data, and a
//! hole is passed over where no hash is noted.
//!
//! Memory: 16 bytes for each page that holds data ([`PageHashes`]), and up to two bits for each page that
//! was placed, cleared or read; they lie in maps that the system fills as they are written. A guest of more than [`MAX_PAGES`], whose bits alone
//! would take too much, is read back at the end.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::BytesMut;
use rayon::prelude::*;

use crate::dirty::{Bitmap, PageHashes};
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::{Block, ImageError, Output};
use crate::page::{Digest, PAGE_SIZE, PageIndex, PageRange};
use crate::pool::{analysis_pool, page_aligned};
use crate::session::Context;
use crate::stats::Stage;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::{self, Mutex};
use crate::sys::thread_cpu_time;

/// 4 TiB of RAM: 128 MiB for each bitmap.
const MAX_PAGES: u64 = 1 << 30;
/// Pages that are taken together. Few, so that not many are read in vain because they are touched
/// again soon; enough for threads to share. Small in tests, so that little RAM has many windows.
const WINDOW: u64 = if cfg!(test) { 50 } else { 1 << 13 };
/// Pages read by one call: few enough to be in the core's cache when they are hashed.
const STEP: u64 = 32;
/// Fewer neighbouring pages are read without checking for a hole first.
const ASK: u64 = 16;
/// Up to this many pages, reading them is faster than starting threads.
const FEW: u64 = 256;

/// The pages of one block that are still to be read back.
#[derive(Debug)]
struct Marks {
    /// Touched by the current round.
    touched: Bitmap,
    /// To be read back.
    due: Bitmap,
    /// From this page on, all that are not touched are to be read back, too: the first pass has not come
    /// to them.
    first_pass: u64,
}

impl Marks {
    /// The first pass goes on: its next pages that hold data, at most [`WINDOW`], become due.
    fn advance(&mut self, block: &Block) -> Result<(), ImageError> {
        let pages = self.due.pages();
        let start = block.next_data(PageIndex(self.first_pass))?.0.min(pages);
        let end = pages.min(start + WINDOW);
        self.due.insert(PageRange::between(start, end));
        let mut at = start;
        while let Some(range) = self.touched.next_run(at, end - at) {
            if range.start.0 >= end {
                break;
            }
            self.due
                .remove(PageRange::between(range.start.0, end.min(range.end())));
            at = range.end().min(end);
        }
        self.first_pass = end;
        Ok(())
    }

    fn is_seen(&self) -> bool {
        self.first_pass >= self.due.pages()
    }
}

/// What has been read back.
#[derive(Debug)]
struct Held {
    /// Of every page; 0 if it is zero or was never read.
    hashes: PageHashes,
    /// The sum of each block's hashes.
    sums: Vec<u128>,
}

impl Held {
    fn new(pages: u64, blocks: usize) -> Held {
        Held {
            hashes: PageHashes::new(pages),
            sums: vec![0; blocks],
        }
    }

    fn replace(&mut self, blocks: &[Block], number: usize, page: PageIndex, hash: u128) {
        if let (Some(block), Some(sum)) = (blocks.get(number), self.sums.get_mut(number)) {
            let before = self.hashes.replace(block.key(page), hash);
            *sum = sum.wrapping_sub(before).wrapping_add(hash);
        }
    }

    /// Notes the hashes of pages that were read.
    fn note(&mut self, blocks: &[Block], (number, range): Stretch, hashes: &[u128]) {
        for (page, &hash) in range.pages().zip(hashes) {
            self.replace(blocks, number, page, hash);
        }
    }

    /// Notes that a range is a hole.
    fn clear(&mut self, blocks: &[Block], (number, range): Stretch) {
        let Some(block) = blocks.get(number) else {
            return;
        };
        let first = block.key(range.start);
        let keys: Vec<u64> = (self.hashes.held_in(first, first + range.count)).collect();
        for key in keys {
            let page = PageIndex(range.start.0 + (key - first));
            self.replace(blocks, number, page, 0);
        }
    }
}

/// Neighbouring pages of the block with this number.
type Stretch = (usize, PageRange);

/// Where to look for due pages next: a block's number and a page within it.
type Cursor = (usize, u64);

/// The proof of one migration; see the module's documentation.
#[derive(Debug)]
pub(super) struct Proof {
    /// Of each block, from the end of round 1 on, unless that is the last.
    marks: OnceLock<Vec<Mutex<Marks>>>,
    /// Likewise. Locked by the thread that reads back.
    held: Mutex<Held>,
    /// Signals that something is due, or that it is over.
    news: (Sender<()>, Receiver<()>),
    over: AtomicBool,
}

impl Default for Proof {
    /// A proof that has not begun. In a migration of one round it never does.
    fn default() -> Proof {
        Proof {
            marks: OnceLock::new(),
            held: Mutex::new(Held::new(0, 0)),
            news: bounded(1),
            over: AtomicBool::new(false),
        }
    }
}

impl Proof {
    /// Whether pages are read back before the end.
    pub(super) fn is_begun(&self) -> bool {
        self.marks.get().is_some()
    }

    /// The current round is about to place or clear these pages of a block.
    pub(super) fn touch(&self, block: usize, ranges: impl Iterator<Item = PageRange>) {
        let Some(marks) = self.marks.get().and_then(|marks| marks.get(block)) else {
            return;
        };
        let mut marks = sync::lock(marks);
        for range in ranges {
            marks.touched.insert(range);
            marks.due.remove(range);
        }
    }

    /// To be called at a round's end, while nothing is placed. Returns whether the proof begins:
    /// then [`Proof::run`] is to be called by a thread of its own.
    pub(super) fn end_round(&self, last: bool, output: &Output) -> bool {
        let begins = match self.marks.get() {
            Some(marks) => {
                for marks in marks {
                    let Marks { touched, due, .. } = &mut *sync::lock(marks);
                    due.absorb(touched);
                }
                false
            }
            None if last || output.pages() > MAX_PAGES => return false,
            None => {
                self.begin(output);
                true
            }
        };
        self.wake();
        begins
    }

    /// Makes every page due.
    fn begin(&self, output: &Output) {
        *sync::lock(&self.held) = Held::new(output.pages(), output.blocks().len());
        self.marks.get_or_init(|| {
            let pages = output.blocks().iter().map(Block::pages);
            pages
                .map(|pages| {
                    Mutex::new(Marks {
                        touched: Bitmap::new(pages),
                        due: Bitmap::new(pages),
                        first_pass: 0,
                    })
                })
                .collect()
        });
    }

    fn wake(&self) {
        // If it is full, the thread is awake already.
        let _ = self.news.0.try_send(());
    }

    /// Reads back while rounds run, in a thread of its own, until [`Proof::stop`].
    ///
    /// # Errors
    /// The system's reason; the file having become shorter is one.
    pub(super) fn run(&self, output: &Output, context: &Context) -> Result<()> {
        let mut held = sync::lock(&self.held);
        let (mut cursor, mut reader) = (Cursor::default(), ReadBack::default());
        let is_over = || self.over.load(Ordering::Acquire) || context.abort.is_raised();
        while !is_over() {
            context.faults.check(Site::Prove)?;
            let window = self.take(&mut cursor, output.blocks())?;
            if window.is_empty() {
                // We hold a sender ourselves, so this ends only with a signal.
                let _ = self.news.1.recv();
                continue;
            }
            let start = thread_cpu_time();
            let mut steps = steps(&window, output.blocks(), &mut held)?.into_iter();
            while !is_over()
                && let Some(step) = steps.next()
            {
                let hashes = reader.read(output.blocks(), step)?;
                held.note(output.blocks(), step, hashes);
            }
            self.give_back(steps);
            let time = thread_cpu_time().saturating_sub(start);
            context.stats.add_cpu(Stage::Proof, time);
        }
        Ok(())
    }

    /// The rounds or the session are over: makes [`Proof::run`] return soon.
    pub(super) fn stop(&self) {
        self.over.store(true, Ordering::Release);
        self.wake();
    }

    /// Reads back what is still due, and returns the digest of each block. To be called when the last
    /// round is over and [`Proof::run`] has returned.
    ///
    /// # Errors
    /// The system's reason; the file having become shorter is one. [`Kind::Interrupted`] on an abort.
    pub(super) fn finish(self, output: &Output, context: &Context) -> Result<Vec<Digest>> {
        let blocks = output.blocks();
        let mut held = sync::lock(&self.held);
        let pool = if self.due() <= FEW {
            None
        } else {
            let threads = context.tuning.get().decompress_threads;
            Some(analysis_pool(threads).map_err(|error| Error::new(Kind::Failed, error))?)
        };
        let (mut cursor, mut reader) = (Cursor::default(), ReadBack::default());
        loop {
            context.faults.check(Site::Prove)?;
            if context.abort.is_raised() {
                return Err(Error::interrupted());
            }
            let window = self.take(&mut cursor, blocks)?;
            if window.is_empty() {
                break;
            }
            let start = thread_cpu_time();
            let mut of_the_pool = Duration::ZERO;
            let steps = steps(&window, blocks, &mut held)?;
            if let Some(pool) = &pool {
                let found = pool.install(|| read_all(&steps, blocks))?;
                for (&step, (hashes, time)) in steps.iter().zip(&found) {
                    held.note(blocks, step, hashes);
                    of_the_pool += *time;
                }
            } else {
                for step in steps {
                    held.note(blocks, step, reader.read(blocks, step)?);
                }
            }
            let own = thread_cpu_time().saturating_sub(start);
            context.stats.add_cpu(Stage::Proof, own + of_the_pool);
        }
        for block in blocks {
            block.check_size()?;
        }
        Ok(held.sums.iter().copied().map(Digest).collect())
    }

    /// The first pass goes on until something of it is due, or it is over.
    fn advance(&self, blocks: &[Block]) -> Result<(), ImageError> {
        let marks = self.marks.get().into_iter().flatten();
        for (marks, block) in marks.zip(blocks) {
            let mut marks = sync::lock(marks);
            while !marks.is_seen() {
                let from = marks.first_pass;
                marks.advance(block)?;
                if marks.due.next_run(from, 1).is_some() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes up to [`WINDOW`] pages that are due. Empty: there are no more.
    fn take(&self, cursor: &mut Cursor, of: &[Block]) -> Result<Vec<Stretch>, ImageError> {
        self.advance(of)?;
        let blocks = self.marks.get().map_or(&[][..], Vec::as_slice);
        let mut taken = Vec::new();
        // A second pass finds what became due before the cursor.
        for from in [*cursor, Cursor::default()] {
            *cursor = from;
            let mut left = WINDOW;
            while let Some(marks) = blocks.get(cursor.0) {
                let due = &mut sync::lock(marks).due;
                while let Some(range) = due.next_run(cursor.1, left) {
                    due.remove(range);
                    taken.push((cursor.0, range));
                    cursor.1 = range.end();
                    left -= range.count;
                    if left == 0 {
                        return Ok(taken);
                    }
                }
                *cursor = (cursor.0 + 1, 0);
            }
            if !taken.is_empty() {
                break;
            }
        }
        Ok(taken)
    }

    /// Marks pages that were taken and not read as due again.
    fn give_back(&self, stretches: impl Iterator<Item = Stretch>) {
        let blocks = self.marks.get().map_or(&[][..], Vec::as_slice);
        for (block, range) in stretches {
            if let Some(marks) = blocks.get(block) {
                sync::lock(marks).due.insert(range);
            }
        }
    }

    /// The number of pages that are due, at most.
    fn due(&self) -> u64 {
        let blocks = self.marks.get().into_iter().flatten();
        blocks
            .map(|marks| {
                let marks = sync::lock(marks);
                marks.due.count() + (marks.due.pages() - marks.first_pass)
            })
            .sum()
    }
}

/// Cuts a window into steps, each for one call to read. Holes are noted as zero instead.
fn steps(
    window: &[Stretch],
    blocks: &[Block],
    held: &mut Held,
) -> Result<Vec<Stretch>, ImageError> {
    let mut steps = Vec::new();
    for &(number, range) in window {
        let Some(block) = blocks.get(number) else {
            continue;
        };
        let mut at = range.start.0;
        while at < range.end() {
            let mut end = range.end().min(at + STEP);
            let data = if end - at < ASK {
                at
            } else {
                block.next_data(PageIndex(at))?.0.min(range.end())
            };
            if data > at {
                end = data;
                held.clear(blocks, (number, PageRange::between(at, end)));
            } else {
                steps.push((number, PageRange::between(at, end)));
            }
            at = end;
        }
    }
    Ok(steps)
}

/// Reads back on rayon's threads. Returns each step's hashes and the CPU time that they took.
fn read_all(steps: &[Stretch], blocks: &[Block]) -> Result<Vec<(Vec<u128>, Duration)>, ImageError> {
    steps
        .par_iter()
        // Pieces large enough to be worth their buffers.
        .with_min_len(8)
        .map_init(ReadBack::default, |reader, &step| {
            let start = thread_cpu_time();
            let hashes = reader.read(blocks, step)?.to_vec();
            Ok((hashes, thread_cpu_time().saturating_sub(start)))
        })
        .collect()
}

/// Reads back and hashes. Its buffers live as long as its thread.
#[derive(Debug)]
struct ReadBack {
    bytes: BytesMut,
    hashes: Vec<u128>,
}

impl Default for ReadBack {
    fn default() -> ReadBack {
        ReadBack {
            bytes: BytesMut::new(),
            hashes: Vec::with_capacity(STEP as usize),
        }
    }
}

impl ReadBack {
    /// The hashes of at most [`STEP`] pages, as the file holds them now.
    fn read(&mut self, blocks: &[Block], (number, range): Stretch) -> Result<&[u128], ImageError> {
        self.hashes.clear();
        if let Some(block) = blocks.get(number) {
            if self.bytes.is_empty() {
                self.bytes = page_aligned(STEP as usize * PAGE_SIZE)
                    .map_err(ImageError::io("read back", block.path()))?;
            }
            let bytes = &mut self.bytes[..range.count as usize * PAGE_SIZE];
            block.read(range.start, bytes)?;
            let pages = range.pages().zip(bytes.chunks_exact(PAGE_SIZE));
            let hashes = pages.map(|(page, bytes)| block.seed().hash_or_zero(page, bytes));
            self.hashes.extend(hashes);
        }
        Ok(&self.hashes)
    }
}

#[cfg(test)]
mod tests;
