//! A synthetic guest RAM image, for people who have no real one at hand.
//!
//! Figures from it are only worth something if it compresses like a guest. It therefore mixes
//! kinds of pages as a running Linux guest has them, in runs, as a guest has them: page cache with
//! text and machine code, kernel slabs full of pointers, an interpreter's objects, pages that are
//! hardly in use, data that is compressed already, copies of pages from elsewhere, pages filled
//! with one byte, and zero pages. What the guest is about is its [`Mix`]:
//!
//! * `busy` stands for a real guest, a Linux of 192 MiB at work, of which little is free. Class by
//!   class, shares, runs and ratios were tuned by measurement against it.
//! * `idle` has the same kinds of pages, but most of its memory was never used; `database` holds
//!   tables for the most part. Both are models: no such guest was measured.
//! * `random` compresses nowhere, the worst that can be met.
//!
//! # How near it is
//! The real guest, and each mix at 192 MiB with the seed 1. Ratios are of the pages that are not
//! zero, at 4 KiB each by itself, and in a migration with batches as they are by default:
//!
//! | | real guest | `busy` | `idle` | `database` | `random` |
//! |---|---|---|---|---|---|
//! | zero, of all pages | 7.6 % | 7.7 % | 61.2 % | 5.0 % | 0 |
//! | one byte all over, of the others | 3.5 % | 3.4 % | 4.4 % | 1.7 % | 0 |
//! | else equal to an earlier page | 1.3 % | 1.1 % | 2.0 % | 0.7 % | 0 |
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
//! `cargo run --release --example synthetic_mixes -- guest.ram` makes it anew, with a guest of
//! yours. With other seeds `busy` differs by 1 or 2 % from this.
//!
//! It says nothing about how a guest *changes*, and a real image is always the better choice.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::page::PAGE_SIZE;

mod pages;
mod random;

use pages::Maker;
use random::Random;

/// Pages made before they are written: enough for few system calls, and it stays in the cache.
const CHUNK_PAGES: usize = 64;

/// Progress is reported each time that this many bytes are done.
const REPORT: u64 = 4 << 20;

/// A kind of page. Behind each: libdeflate's and lz4's ratio at level 1 and 4 KiB, and what they
/// were for such pages of the real guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
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
    /// Hardly in use. 16, 14; real 15, 11.
    Sparse,
    /// What is compressed or encrypted already. 1, 1.
    Compressed,
    /// A copy of a page elsewhere.
    Duplicate,
    /// One byte all over, nearly always the same: what freed memory is poisoned with.
    Fill,
}

/// How common a kind of page is and how it clusters.
#[derive(Debug, Clone, Copy)]
struct Share {
    class: Class,
    /// Of a thousand pages.
    pages: u32,
    /// How many such pages follow each other on average.
    run: u32,
}

const fn share(class: Class, pages: u32, run: u32) -> Share {
    Share { class, pages, run }
}

/// What a guest is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mix {
    /// Most of its memory was never used. A model.
    Idle,
    /// Little of its memory is free: the nearest to a real guest that was measured.
    #[default]
    Busy,
    /// Most of its memory holds tables. A model.
    Database,
    /// Nothing of it compresses.
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
    share(Class::Zero, 600, 48),
    share(Class::Text, 60, 8),
    share(Class::Code, 110, 12),
    share(Class::Slab, 90, 10),
    share(Class::Objects, 30, 8),
    share(Class::Sparse, 50, 3),
    share(Class::Compressed, 35, 13),
    share(Class::Duplicate, 8, 2),
    share(Class::Fill, 17, 16),
];
const BUSY: [Share; 9] = [
    share(Class::Zero, 76, 8),
    share(Class::Text, 105, 8),
    share(Class::Code, 185, 12),
    share(Class::Slab, 168, 10),
    share(Class::Objects, 159, 8),
    share(Class::Sparse, 137, 3),
    share(Class::Compressed, 125, 13),
    share(Class::Duplicate, 12, 2),
    share(Class::Fill, 33, 16),
];
const DATABASE: [Share; 10] = [
    share(Class::Zero, 50, 16),
    share(Class::Rows, 600, 32),
    share(Class::Text, 40, 8),
    share(Class::Code, 90, 12),
    share(Class::Slab, 70, 10),
    share(Class::Objects, 30, 8),
    share(Class::Sparse, 50, 3),
    share(Class::Compressed, 50, 13),
    share(Class::Duplicate, 8, 2),
    share(Class::Fill, 12, 16),
];
const RANDOM: [Share; 1] = [share(Class::Compressed, 1000, 16)];

impl Mix {
    fn shares(self) -> &'static [Share] {
        match self {
            Mix::Idle => &IDLE,
            Mix::Busy => &BUSY,
            Mix::Database => &DATABASE,
            Mix::Random => &RANDOM,
        }
    }

    /// The class of the next pages and how many of them come.
    fn run(self, random: &mut Random) -> (Class, u32) {
        // Shares are in pages, but runs are drawn: long runs are drawn less often.
        let weight = |share: &Share| share.pages * 1000 / share.run;
        let mut drawn = random.below(self.shares().iter().map(weight).sum());
        let mut shares = self.shares().iter();
        // A number below the sum of all weights falls to one of them.
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
/// Zero pages are holes. Needs less than 1 MiB of memory. `go_on` is called now and then with the
/// bytes that are done, and returns false to give up: a large image takes a while.
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
    // Where the chunk belongs in the file.
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
        if class == Class::Zero {
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

/// Writes the pages that have gathered.
fn flush(file: &File, chunk: &mut Vec<u8>, offset: &mut u64) -> io::Result<()> {
    file.write_all_at(chunk, *offset)?;
    *offset += chunk.len() as u64;
    chunk.clear();
    Ok(())
}

#[cfg(test)]
mod tests;
