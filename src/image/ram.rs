//! A guest's RAM: named blocks of pages, which are read, placed, cleared and hashed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;

use super::store::{FileState, FlatFile, PageStore};
use super::{ImageError, ImageFormat, RAW_BLOCK_NAME};
use crate::page::{BlockSeed, Digest, PAGE_SIZE, PageIndex, PageRange};
use crate::pool::evenly;
use crate::sys::thread_cpu_time;

/// Pages that a thread hashes at a time: few enough to spread evenly, enough for spreading to cost
/// nothing.
const STEP: u64 = 128;

/// A guest's RAM.
///
/// Any number of threads may read and write it at once. A reader of a page that is being written sees
/// a mix of old and new bytes.
#[derive(Debug)]
pub struct Ram {
    blocks: Vec<Block>,
}

/// A named stretch of guest RAM.
#[derive(Debug, Clone)]
pub struct Block {
    name: String,
    seed: BlockSeed,
    /// The pages of all blocks before this one.
    first_key: u64,
    /// From `guest.json`.
    recorded: Option<Digest>,
    store: Arc<dyn PageStore>,
}

impl Ram {
    /// RAM with these blocks, whose order decides their pages' keys.
    pub(super) fn new(mut blocks: Vec<Block>) -> Ram {
        let mut first_key = 0;
        for block in &mut blocks {
            block.first_key = first_key;
            first_key += block.pages();
        }
        Ram { blocks }
    }

    /// The blocks, in the order in which they are sent.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The pages of all blocks together.
    pub fn pages(&self) -> u64 {
        self.blocks.iter().map(Block::pages).sum()
    }

    /// The bytes of all blocks together.
    pub fn bytes(&self) -> u64 {
        self.pages().saturating_mul(PAGE_SIZE as u64)
    }

    /// The data ranges of all blocks, cut into steps of at most `pages` pages.
    ///
    /// # Errors
    /// As [`Block::data_ranges`].
    pub(crate) fn data_steps(&self, pages: u64) -> Result<Vec<(&Block, PageRange)>, ImageError> {
        let mut all = Vec::new();
        for block in &self.blocks {
            let ranges = block.data_ranges()?;
            let steps = ranges.iter().flat_map(|range| range.steps(pages));
            all.extend(steps.map(|step| (block, step)));
        }
        Ok(all)
    }

    /// Checks that the files still have all pages.
    ///
    /// # Errors
    /// As [`Block::check_size`].
    pub fn check_size(&self) -> Result<(), ImageError> {
        self.blocks.iter().try_for_each(Block::check_size)
    }

    /// How many pages that may hold data here are holes in `later`, which has blocks of the same sizes.
    ///
    /// # Errors
    /// As [`Block::data_ranges`].
    pub(crate) fn pages_lost_in(&self, later: &Ram) -> Result<u64, ImageError> {
        let mut lost = 0;
        for (was, is) in self.blocks.iter().zip(&later.blocks) {
            if Arc::ptr_eq(&was.store, &is.store) {
                continue;
            }
            let is = is.data_ranges()?;
            for range in was.data_ranges()? {
                let after = is.partition_point(|data| data.end() <= range.start.0);
                let kept: u64 = is[after..]
                    .iter()
                    .take_while(|data| data.start.0 < range.end())
                    .map(|data| data.end().min(range.end()) - data.start.0.max(range.start.0))
                    .sum();
                lost += range.count - kept;
            }
        }
        Ok(lost)
    }

    /// Checks that the blocks' paths still lead to the files that are open. One that is gone has not been
    /// replaced.
    ///
    /// # Errors
    /// [`ImageError::Replaced`], and I/O errors.
    pub(crate) fn check_paths(&self) -> Result<(), ImageError> {
        for block in &self.blocks {
            let path = block.path();
            let Ok(now) = std::fs::metadata(path) else {
                continue;
            };
            if (now.dev(), now.ino()) != block.file_state()?.identity {
                return Err(ImageError::Replaced {
                    path: path.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The sum of the hashes of the sampled pages of all blocks, computed on rayon's threads.
    ///
    /// # Errors
    /// As [`Block::read`].
    pub(crate) fn sample(&self) -> Result<Digest, ImageError> {
        let mut all = Digest::default();
        for block in &self.blocks {
            all.add(block.sample()?);
        }
        Ok(all)
    }

    /// The digest of each block, computed on rayon's threads, and the CPU time that this took.
    ///
    /// # Errors
    /// As [`Block::read`].
    pub fn digests(&self) -> Result<(Vec<Digest>, Duration), ImageError> {
        let mut time = Duration::ZERO;
        let digests = self.blocks.iter().map(|block| {
            let (digest, spent) = block.digest()?;
            time += spent;
            Ok(digest)
        });
        Ok((digests.collect::<Result<_, ImageError>>()?, time))
    }
}

impl Block {
    /// A block whose place among others [`Ram::new`] decides.
    pub(super) fn new(name: &str, store: Arc<dyn PageStore>, recorded: Option<Digest>) -> Block {
        Block {
            name: name.to_owned(),
            seed: BlockSeed::new(name),
            first_key: 0,
            recorded,
            store,
        }
    }

    /// The image at `path` as the block [`RAW_BLOCK_NAME`].
    ///
    /// # Errors
    /// As [`Guest::open_as`](super::Guest::open_as).
    pub(crate) fn open(path: &Path, format: ImageFormat) -> Result<Block, ImageError> {
        let store = FlatFile::open(path, format)?;
        Ok(Block::new(RAW_BLOCK_NAME, Arc::new(store), None))
    }

    /// This block with another name.
    pub(super) fn renamed(&self, name: &str) -> Block {
        Block {
            first_key: self.first_key,
            ..Block::new(name, Arc::clone(&self.store), self.recorded)
        }
    }

    /// What holds its pages.
    pub(super) fn store(&self) -> Arc<dyn PageStore> {
        Arc::clone(&self.store)
    }

    /// This block with other pages, as many as it has.
    pub(super) fn with_store(&self, store: Arc<dyn PageStore>) -> Block {
        Block {
            recorded: None,
            store,
            ..self.clone()
        }
    }

    /// The name on the wire and in `guest.json`, with which hashes are seeded.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The seed of its pages' hashes.
    pub fn seed(&self) -> BlockSeed {
        self.seed
    }

    /// Its size in pages.
    pub fn pages(&self) -> u64 {
        self.store.pages()
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.pages().saturating_mul(PAGE_SIZE as u64)
    }

    /// All of its pages.
    pub fn range(&self) -> PageRange {
        PageRange::between(0, self.pages())
    }

    /// The page's number within the guest; the same at both ends of a migration.
    pub fn key(&self, page: PageIndex) -> u64 {
        self.first_key + page.0
    }

    /// The file that contains it.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// The block's digest in `guest.json`; `None` for a raw image, and while a guest is received.
    pub fn recorded_digest(&self) -> Option<Digest> {
        self.recorded
    }

    /// The ranges that may hold data, ascending and not adjacent. Everything else is zero.
    ///
    /// # Errors
    /// I/O errors.
    pub fn data_ranges(&self) -> Result<Vec<PageRange>, ImageError> {
        self.store.data_ranges()
    }

    /// The first page at or after `from` that may hold data; the block's end if there is none.
    ///
    /// # Errors
    /// I/O errors.
    pub fn next_data(&self, from: PageIndex) -> Result<PageIndex, ImageError> {
        self.store.next_data(from)
    }

    /// Reads the pages from `first` on that fill `out`.
    ///
    /// # Errors
    /// [`ImageError::Truncated`], and I/O errors.
    ///
    /// # Panics
    /// If they reach beyond the block, or `out` is not whole pages, which is the caller's bug.
    pub fn read(&self, first: PageIndex, out: &mut [u8]) -> Result<(), ImageError> {
        let end = first.0 + (out.len() / PAGE_SIZE) as u64;
        self.store.read(PageRange::between(first.0, end), out)
    }

    /// Reads the pages of `range`, and packs those that `keep` accepts into the front of `out`.
    /// Returns the number of bytes packed. This is for pages to be sent; [`Block::scan`] is cheaper if
    /// they are only looked at.
    ///
    /// # Errors
    /// As [`Block::read`].
    ///
    /// # Panics
    /// If the range reaches beyond the block, or `out` is shorter than it, which is the caller's bug.
    pub fn read_some(
        &self,
        range: PageRange,
        out: &mut [u8],
        mut keep: impl FnMut(PageIndex, &[u8]) -> bool,
    ) -> Result<usize, ImageError> {
        let len = range.count as usize * PAGE_SIZE;
        self.store.read(range, &mut out[..len])?;
        let mut filled = 0;
        for (page, at) in range.pages().zip((0..len).step_by(PAGE_SIZE)) {
            if keep(page, &out[at..at + PAGE_SIZE]) {
                if at != filled {
                    out.copy_within(at..at + PAGE_SIZE, filled);
                }
                filled += PAGE_SIZE;
            }
        }
        Ok(filled)
    }

    /// Copies the pages of `range` into the front of `out`, through a map if the format allows it.
    ///
    /// # Errors
    /// As [`Block::read`].
    ///
    /// # Panics
    /// If the range reaches beyond the block, or `out` is shorter than it, which is the caller's bug.
    pub fn copy(&self, range: PageRange, out: &mut [u8]) -> Result<(), ImageError> {
        let len = range.count as usize * PAGE_SIZE;
        self.store.copy(range, &mut out[..len])
    }

    /// Calls `look` with a copy of each page of `range`.
    ///
    /// # Errors
    /// As [`Block::read`].
    ///
    /// # Panics
    /// If the range reaches beyond the block, which is the caller's bug.
    pub fn scan(
        &self,
        range: PageRange,
        mut look: impl FnMut(PageIndex, &[u8]),
    ) -> Result<(), ImageError> {
        // Each page is copied over the one before, and never leaves the nearest cache. Hashing it in
        // the map would be faster still, but needs a slice of memory that others may be writing.
        let mut copy = [0; PAGE_SIZE];
        for page in range.pages() {
            self.store
                .copy(PageRange::between(page.0, page.0 + 1), &mut copy)?;
            look(page, &copy);
        }
        Ok(())
    }

    /// Writes pages from `first` on.
    ///
    /// # Errors
    /// [`ImageError::ReadOnly`], and I/O errors such as a full disk.
    ///
    /// # Panics
    /// If they reach beyond the block, or are not whole, which is the caller's bug.
    pub fn place(&self, first: PageIndex, bytes: &[u8]) -> Result<(), ImageError> {
        self.store.place(first, bytes)
    }

    /// Makes the pages zero, and frees their space where the file system can.
    ///
    /// # Errors
    /// As [`Block::place`].
    ///
    /// # Panics
    /// If they reach beyond the block, which is the caller's bug.
    pub fn clear(&self, range: PageRange) -> Result<(), ImageError> {
        self.store.clear(range)
    }

    /// Writes everything that was placed to disk.
    ///
    /// # Errors
    /// I/O errors.
    pub fn sync(&self) -> Result<(), ImageError> {
        self.store.sync()
    }

    /// Checks that the file still has all pages. Reading through a map does not notice if the file now
    /// ends within a page.
    ///
    /// # Errors
    /// [`ImageError::Truncated`], and I/O errors.
    pub fn check_size(&self) -> Result<(), ImageError> {
        self.store.check_size()
    }

    /// The block's digest, computed on rayon's threads, and the CPU time that this took. Holes are not
    /// read.
    ///
    /// # Errors
    /// As [`Block::read`].
    pub fn digest(&self) -> Result<(Digest, Duration), ImageError> {
        let (digest, _, time) = self.digest_and_sample()?;
        Ok((digest, time))
    }

    /// [`Block::digest`], and the part of it that the sampled pages have.
    pub(super) fn digest_and_sample(&self) -> Result<(Digest, Digest, Duration), ImageError> {
        let ranges = self.data_ranges()?;
        let steps: Vec<PageRange> = ranges.iter().flat_map(|range| range.steps(STEP)).collect();
        let (sum, sample, time) = evenly(&steps)
            .map(|step| {
                let start = thread_cpu_time();
                let (mut sum, mut sample) = (0_u128, 0_u128);
                self.scan(*step, |page, bytes| {
                    let hash = self.seed.hash_or_zero(page, bytes);
                    sum = sum.wrapping_add(hash);
                    if page.is_sampled() {
                        sample = sample.wrapping_add(hash);
                    }
                })?;
                Ok::<_, ImageError>((sum, sample, thread_cpu_time().saturating_sub(start)))
            })
            .try_reduce(
                || (0, 0, Duration::ZERO),
                |a, b| Ok((a.0.wrapping_add(b.0), a.1.wrapping_add(b.1), a.2 + b.2)),
            )?;
        self.check_size()?;
        Ok((Digest(sum), Digest(sample), time))
    }

    /// The sum of the hashes of the sampled pages, computed on rayon's threads. Holes are not read.
    fn sample(&self) -> Result<u128, ImageError> {
        let ranges = self.data_ranges()?;
        let steps: Vec<PageRange> = (ranges.iter())
            .flat_map(|range| range.steps(32 * STEP))
            .collect();
        evenly(&steps)
            .map(|step| {
                let (mut sum, mut bytes) = (0_u128, [0; PAGE_SIZE]);
                for page in step.pages().filter(|page| page.is_sampled()) {
                    self.read(page, &mut bytes)?;
                    sum = sum.wrapping_add(self.seed.hash_or_zero(page, &bytes));
                }
                Ok(sum)
            })
            .try_reduce(|| 0, |a, b| Ok(a.wrapping_add(b)))
    }

    /// The file as it is now.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn file_state(&self) -> Result<FileState, ImageError> {
        self.store.file_state()
    }
}
