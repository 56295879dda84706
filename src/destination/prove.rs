//! What the output really holds, read back while later rounds run: at the end little is left.
//!
//! A migration of one round reads everything back at its end, and keeps nothing for it. With more
//! rounds to come, from round 1's end on:
//!
//! ```text
//! touch       decoders    a page that a round places or clears is touched
//! end_round   barrier     what was touched is due; after round 1 everything is
//! run         x 1         takes pages that are due, reads them back, notes their hashes
//! finish      x N         rounds are over, the first thread has ended: whatever is still due
//! ```
//!
//! A page that a later round touches is due again when that round is over, and its hash replaces
//! the one before. So it does no harm if its read-back meets a page half written, or does not
//! happen at all because the page has been touched meanwhile. Only one of `run` and `finish` reads
//! at a time, and `finish` only what nobody writes any more. A hole is not read: it is zero.
//!
//! In the end every page's hash is that of what was read from the file after its last placement,
//! and their sum must be the digest of what was sent. As with one walk at the end, a page that the
//! file does not hold as it was placed is found. What is not found is a change that somebody else
//! makes to the file *after* the page was read back: here that may be several rounds before the
//! end, in one walk it is moments.
//!
//! Memory: two bits a page, and 16 bytes for each page that holds data ([`PageHashes`]). What is
//! only announced costs no more than the bits, and a guest of more than [`MAX_PAGES`], for which
//! they would be many, is read back at the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rayon::prelude::*;

use crate::dirty::{Bitmap, PageHashes};
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::{Block, ImageError, Output};
use crate::page::{Digest, PAGE_SIZE, PageIndex, PageRange};
use crate::pool::analysis_pool;
use crate::session::Context;
use crate::stats::Stage;
use crate::sync;
use crate::sys::thread_cpu_time;

/// 4 TiB of RAM: 128 MiB for each bitmap.
const MAX_PAGES: u64 = 1 << 30;
/// Pages that are taken together. Few, so that many of those that are touched again soon are not
/// read in vain; enough for threads to share out. Tests have many windows in little RAM.
const WINDOW: u64 = if cfg!(test) { 50 } else { 1 << 13 };
/// Pages that are read by one call: still in a core's caches when they are hashed.
const STEP: u64 = 32;
/// Fewer neighbours are read without asking whether they lie in a hole.
const ASK: u64 = 16;
/// So few pages are read before other threads have been started.
const FEW: u64 = 256;

/// One block's pages that are still to be read back.
#[derive(Debug)]
struct Marks {
    /// Touched by the round in hand.
    touched: Bitmap,
    /// To be read back now.
    due: Bitmap,
}

/// What the files were found to hold.
#[derive(Debug)]
struct Held {
    /// Of every page, 0 for one that is zero or was never read.
    hashes: PageHashes,
    /// Of each block, over its pages.
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

    /// Takes in what was read.
    fn note(&mut self, blocks: &[Block], (number, range): Stretch, hashes: &[u128]) {
        for (page, &hash) in range.pages().zip(hashes) {
            self.replace(blocks, number, page, hash);
        }
    }

    /// The range is a hole.
    fn clear(&mut self, blocks: &[Block], (number, range): Stretch) {
        for page in range.pages() {
            self.replace(blocks, number, page, 0);
        }
    }
}

/// Neighbouring pages of the block with this number.
type Stretch = (usize, PageRange);

/// From where to look for pages that are due: a block's number, and a page's within it.
type Cursor = (usize, u64);

/// The proof of one migration. See the module's description.
#[derive(Debug)]
pub(super) struct Proof {
    /// Of each block; from the end of a round 1 that is not the last.
    marks: OnceLock<Vec<Mutex<Marks>>>,
    /// From then on too. Whoever reads back has the lock.
    held: Mutex<Held>,
    /// Something is due, or it is over.
    news: (Sender<()>, Receiver<()>),
    over: AtomicBool,
}

impl Default for Proof {
    /// One that has not begun, and will not in a migration of one round.
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

    /// The pages of a block that the round in hand is about to place or to clear.
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
                    let Marks { touched, due } = &mut *sync::lock(marks);
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

    /// Everything is due.
    fn begin(&self, output: &Output) {
        *sync::lock(&self.held) = Held::new(output.pages(), output.blocks().len());
        self.marks.get_or_init(|| {
            let pages = output.blocks().iter().map(Block::pages);
            pages
                .map(|pages| {
                    let (touched, mut due) = (Bitmap::new(pages), Bitmap::new(pages));
                    due.insert(PageRange::between(0, pages));
                    Mutex::new(Marks { touched, due })
                })
                .collect()
        });
    }

    fn wake(&self) {
        // If it is full, whoever waits is awake already.
        let _ = self.news.0.try_send(());
    }

    /// What a thread of its own does while rounds run, until [`Proof::stop`].
    ///
    /// # Errors
    /// The system's reason; the file having become shorter is one.
    pub(super) fn run(&self, output: &Output, context: &Context) -> Result<()> {
        let mut held = sync::lock(&self.held);
        let (mut cursor, mut reader) = (Cursor::default(), Reader::default());
        let is_over = || self.over.load(Ordering::Acquire) || context.abort.is_raised();
        while !is_over() {
            context.faults.check(Site::Prove)?;
            let window = self.take(&mut cursor);
            if window.is_empty() {
                // One of the senders is ours, so this ends with news and with nothing else.
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

    /// Rounds are over, or the session is: [`Proof::run`] returns soon.
    pub(super) fn stop(&self) {
        self.over.store(true, Ordering::Release);
        self.wake();
    }

    /// Reads back whatever is still due, and returns the digest of what each block holds. To be
    /// called when the last round is over and [`Proof::run`] has returned.
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
        let (mut cursor, mut reader) = (Cursor::default(), Reader::default());
        loop {
            context.faults.check(Site::Prove)?;
            if context.abort.is_raised() {
                return Err(Error::interrupted());
            }
            let window = self.take(&mut cursor);
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

    /// Takes up to [`WINDOW`] pages that are due. None: there are no more.
    fn take(&self, cursor: &mut Cursor) -> Vec<Stretch> {
        let blocks = self.marks.get().map_or(&[][..], Vec::as_slice);
        let mut taken = Vec::new();
        // What became due behind the cursor is found by a second pass.
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
                        return taken;
                    }
                }
                *cursor = (cursor.0 + 1, 0);
            }
            if !taken.is_empty() {
                break;
            }
        }
        taken
    }

    /// What was taken and not read is due.
    fn give_back(&self, stretches: impl Iterator<Item = Stretch>) {
        let blocks = self.marks.get().map_or(&[][..], Vec::as_slice);
        for (block, range) in stretches {
            if let Some(marks) = blocks.get(block) {
                sync::lock(marks).due.insert(range);
            }
        }
    }

    /// How many pages are due.
    fn due(&self) -> u64 {
        let blocks = self.marks.get().into_iter().flatten();
        blocks.map(|marks| sync::lock(marks).due.count()).sum()
    }
}

/// Cuts a window into what one call reads each. What lies in a hole is noted as zero instead.
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

/// Reads back on rayon's threads: each step's hashes, and the CPU time that they took.
fn read_all(steps: &[Stretch], blocks: &[Block]) -> Result<Vec<(Vec<u128>, Duration)>, ImageError> {
    steps
        .par_iter()
        // Pieces large enough for their buffers to pay.
        .with_min_len(8)
        .map_init(Reader::default, |reader, &step| {
            let start = thread_cpu_time();
            let hashes = reader.read(blocks, step)?.to_vec();
            Ok((hashes, thread_cpu_time().saturating_sub(start)))
        })
        .collect()
}

/// Reads back and hashes. Its buffers live as long as its thread.
#[derive(Debug)]
struct Reader {
    bytes: Vec<u8>,
    hashes: Vec<u128>,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            bytes: vec![0; STEP as usize * PAGE_SIZE],
            hashes: Vec::with_capacity(STEP as usize),
        }
    }
}

impl Reader {
    /// The hashes of at most [`STEP`] pages, as the file holds them now.
    fn read(&mut self, blocks: &[Block], (number, range): Stretch) -> Result<&[u128], ImageError> {
        self.hashes.clear();
        if let Some(block) = blocks.get(number) {
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
