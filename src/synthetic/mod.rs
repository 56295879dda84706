//! A synthetic guest RAM image, for use without a real one.
//!
//! Measurements of it are useful only if it compresses like a guest. It therefore mixes the kinds of
//! pages of a running Linux guest, in runs as in a guest: page cache with text and machine code, kernel
//! slabs full of pointers, an interpreter's objects, almost unused pages, data that is already
//! compressed, copies of other pages, pages filled with one byte, and zero pages. The proportions are
//! its [`Mix`]:
//!
//! * `busy` models a real guest, a working Linux of 192 MiB of which little is free. Shares, runs and
//!   ratios of each class were tuned against measurements of it.
//! * `idle` has the same kinds of pages, but most memory was never used; `database` holds mostly tables.
//!   Neither was compared with a real guest.
//! * `random` does not compress, which is the worst case.
//!
//! # How close it is
//! The real guest, and each mix at 192 MiB with seed 1. Ratios are of the pages that are not zero, each
//! page of 4 KiB by itself, and in a migration with the default batches:
//!
//! | | real guest | `busy` | `idle` | `database` | `random` |
//! |---|---|---|---|---|---|
//! | zero, of all pages | 7.6 % | 7.7 % | 61.2 % | 5.0 % | 0 |
//! | one repeated byte, of the others | 3.5 % | 3.4 % | 4.4 % | 1.7 % | 0 |
//! | equal to an earlier page, of the others | 1.3 % | 1.1 % | 2.0 % | 0.7 % | 0 |
//! | page by page: zlib 1 | 2.58 | 2.56 | 2.62 | 2.47 | 1.00 |
//! | page by page: zlib 6 | 2.68 | 2.63 | 2.68 | 2.54 | 1.00 |
//! | page by page: zstd 1 | 2.62 | 2.55 | 2.61 | 2.52 | 1.00 |
//! | page by page: zstd 3 | 2.67 | 2.59 | 2.64 | 2.54 | 1.00 |
//! | page by page: lz4 | 2.05 | 2.04 | 2.02 | 1.90 | 1.00 |
//! | in the pipeline: zlib 1 | 2.71 | 2.68 | 2.78 | 2.70 | 1.00 |
//! | in the pipeline: zlib 6 | 2.87 | 2.82 | 2.93 | 2.81 | 1.00 |
//! | in the pipeline: zstd 1 | 2.73 | 2.61 | 2.68 | 2.70 | 1.00 |
//! | in the pipeline: zstd 3 | 2.82 | 2.70 | 2.80 | 2.79 | 1.00 |
//! | in the pipeline: lz4 | 2.18 | 2.12 | 2.12 | 2.05 | 1.00 |
//!
//! `cargo run --release --example synthetic_mixes -- guest.ram` measures this table again, with your own
//! guest. Other seeds of `busy` differ from it by 1 or 2 %.
//!
//! A synthetic guest does not show how a guest *changes*, and a real image is always better.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::page::PAGE_SIZE;

mod pages;
mod random;

use pages::Maker;
use random::Random;

/// Pages that are written at once: enough for few system calls, few enough to stay in the cache.
const CHUNK_PAGES: usize = 64;

/// Progress is reported each time that this many bytes are done.
const REPORT: u64 = 4 << 20;

/// A kind of page. The figures are the ratios of libdeflate and lz4 at level 1 for 4 KiB, here and for
/// such pages of the real guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PageKind {
    /// Never used, or freed and wiped.
    Zero,
    /// Page cache: files of words. 2.8, 1.6; real 2.7, 1.7.
    Text,
    /// Page cache: programs and libraries. 1.7, 1.4; real 1.7, 1.3.
    Code,
    /// Kernel slabs: records full of pointers, lists and unused fields. 4.8, 3.0; real 4.9, 3.2.
    Slab,
    /// An interpreter's heap. 4.2, 2.8; real 3.8, 2.7.
    Objects,
    /// Pages of a table. 2.5, 1.9.
    Rows,
    /// Almost unused. 16, 14; real 15, 11.
    Sparse,
    /// Compressed or encrypted data. 1, 1.
    Compressed,
    /// A copy of another page.
    Duplicate,
    /// One repeated byte, nearly always the same: the poison of freed memory.
    Fill,
}

/// How common a kind of page is and how it clusters.
#[derive(Debug, Clone, Copy)]
struct Share {
    class: PageKind,
    /// Pages per thousand.
    pages: u32,
    /// The average length of a run.
    run: u32,
}

const fn share(class: PageKind, pages: u32, run: u32) -> Share {
    Share { class, pages, run }
}

/// The proportions of a guest's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mix {
    /// Most memory was never used. Not compared with a real guest.
    Idle,
    /// Little memory is free. Modelled on a real guest.
    #[default]
    Busy,
    /// Most memory holds tables. Not compared with a real guest.
    Database,
    /// Nothing compresses.
    Random,
}

names!(
    "mix",
    Mix {
        Idle: "idle",
        Busy: "busy",
        Database: "database",
        Random: "random"
    }
);

const IDLE: [Share; 9] = [
    share(PageKind::Zero, 600, 48),
    share(PageKind::Text, 60, 8),
    share(PageKind::Code, 110, 12),
    share(PageKind::Slab, 90, 10),
    share(PageKind::Objects, 30, 8),
    share(PageKind::Sparse, 50, 3),
    share(PageKind::Compressed, 35, 13),
    share(PageKind::Duplicate, 8, 2),
    share(PageKind::Fill, 17, 16),
];
const BUSY: [Share; 9] = [
    share(PageKind::Zero, 76, 8),
    share(PageKind::Text, 105, 8),
    share(PageKind::Code, 185, 12),
    share(PageKind::Slab, 168, 10),
    share(PageKind::Objects, 159, 8),
    share(PageKind::Sparse, 137, 3),
    share(PageKind::Compressed, 125, 13),
    share(PageKind::Duplicate, 12, 2),
    share(PageKind::Fill, 33, 16),
];
const DATABASE: [Share; 10] = [
    share(PageKind::Zero, 50, 16),
    share(PageKind::Rows, 600, 32),
    share(PageKind::Text, 40, 8),
    share(PageKind::Code, 90, 12),
    share(PageKind::Slab, 70, 10),
    share(PageKind::Objects, 30, 8),
    share(PageKind::Sparse, 50, 3),
    share(PageKind::Compressed, 50, 13),
    share(PageKind::Duplicate, 8, 2),
    share(PageKind::Fill, 12, 16),
];
const RANDOM: [Share; 1] = [share(PageKind::Compressed, 1000, 16)];

impl Mix {
    fn shares(self) -> &'static [Share] {
        match self {
            Mix::Idle => &IDLE,
            Mix::Busy => &BUSY,
            Mix::Database => &DATABASE,
            Mix::Random => &RANDOM,
        }
    }

    /// Draws the class of the next pages and their number.
    fn run(self, random: &mut Random) -> (PageKind, u32) {
        // Shares count pages, but runs are drawn, so long runs must be drawn less often.
        let weight = |share: &Share| share.pages * 1000 / share.run;
        let mut drawn = random.below(self.shares().iter().map(weight).sum());
        let mut shares = self.shares().iter();
        // A number below the sum of all weights falls into one of them.
        let fallen_to = shares.find(|share| match drawn.checked_sub(weight(share)) {
            Some(rest) => {
                drawn = rest;
                false
            }
            None => true,
        });
        let share = fallen_to.unwrap_or(&self.shares()[0]);
        (share.class, 1 + random.below(2 * share.run - 1))
    }
}

/// Writes a new image of `bytes` bytes with the default mix to `path`: see [`write_mix`].
///
/// # Errors
/// As [`write_mix`].
pub fn write(path: &Path, bytes: u64, seed: u64) -> io::Result<()> {
    write_mix(path, bytes, Mix::default(), seed, &mut |_| true)
}

/// Writes a new image of `bytes` bytes to `path`. Equal sizes, mixes and seeds give equal images.
/// Zero pages are holes. Needs less than 1 MiB of memory. `go_on` is called regularly with the
/// bytes that are done, and returns false to stop: a large image takes a while.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if the file exists: an image is never overwritten.
/// [`io::ErrorKind::InvalidInput`] if `bytes` is 0 or not a multiple of the page size, 4096.
/// [`io::ErrorKind::Interrupted`] if `go_on` returned false. And every error of creating and writing
/// a file.
pub fn write_mix(
    path: &Path,
    bytes: u64,
    mix: Mix,
    seed: u64,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> io::Result<()> {
    if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE as u64) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the size of an image is a multiple of {PAGE_SIZE} bytes, which {bytes} is not"
            ),
        ));
    }
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    fill(&file, bytes, mix, seed, go_on).inspect_err(|_| {
        // Half an image is of no use and would make the next attempt fail. The first error is the
        // one to report.
        let _ = std::fs::remove_file(path);
    })
}

fn fill(
    file: &File,
    bytes: u64,
    mix: Mix,
    seed: u64,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> io::Result<()> {
    file.set_len(bytes)?;
    let mut maker = Maker::new(Random::new(seed));
    let mut chunk = Vec::with_capacity(CHUNK_PAGES * PAGE_SIZE);
    // The position of the chunk in the file.
    let mut offset = 0;
    let mut left = bytes / PAGE_SIZE as u64;
    let mut reported = 0;
    while left > 0 {
        let done = bytes - left * PAGE_SIZE as u64;
        if done >= reported {
            reported = done + REPORT;
            if !go_on(done) {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        let (class, run) = mix.run(maker.random());
        let run = u64::from(run).min(left);
        left -= run;
        if class == PageKind::Zero {
            flush(file, &mut chunk, &mut offset)?;
            offset += run * PAGE_SIZE as u64;
            continue;
        }
        maker.begin_run();
        for _ in 0..run {
            let end = chunk.len();
            chunk.resize(end + PAGE_SIZE, 0);
            maker.page(class, &mut chunk[end..]);
            if chunk.len() == CHUNK_PAGES * PAGE_SIZE {
                flush(file, &mut chunk, &mut offset)?;
            }
        }
    }
    flush(file, &mut chunk, &mut offset)
}

/// Writes the collected pages.
fn flush(file: &File, chunk: &mut Vec<u8>, offset: &mut u64) -> io::Result<()> {
    file.write_all_at(chunk, *offset)?;
    *offset += chunk.len() as u64;
    chunk.clear();
    Ok(())
}

#[cfg(test)]
mod tests;
