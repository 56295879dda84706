//! A guest's RAM: named blocks of pages, which are read, placed, cleared and hashed by number.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;

use super::store::{FlatFile, PageStore};
use super::{ImageError, ImageFormat, RAW_BLOCK_NAME};
use crate::page::{BlockSeed, Digest, PAGE_SIZE, PageIndex, PageRange};
use crate::pool::evenly;
use crate::sys::thread_cpu_time;

/// Pages that one thread hashes at a time: few enough to share out, enough for sharing to cost
/// nothing.
const STEP: u64 = 128;

/// A guest's RAM.
///
/// Pages may be read and written at once, by any number of threads: what a reader sees of a page
/// that is being written is some mix of old and new.
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
    /// Its digest by its guest folder's `guest.json`.
    recorded: Option<Digest>,
    store: Arc<dyn PageStore>,
}

impl Ram {
    /// The blocks in this order, which decides their pages' keys.
    pub(super) fn new(mut blocks: Vec<Block>) -> Ram {
        let mut first_key = 0;
        for block in &mut blocks {
            block.first_key = first_key;
            first_key += block.pages();
        }
        Ram { blocks }
    }

    /// The blocks, in the order in which they are sent and numbered.
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

    /// The data of all blocks in steps of at most `pages` pages.
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

    /// Whether the files still hold all pages.
    ///
    /// # Errors
    /// As [`Block::check_size`].
    pub fn check_size(&self) -> Result<(), ImageError> {
        self.blocks.iter().try_for_each(Block::check_size)
    }

    /// Each block's digest, computed on rayon's threads, and the CPU time that it took.
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
    /// A block that is the first until [`Ram::new`] gives it its place.
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

    /// This block with the pages of another, which is as large.
    pub(super) fn with_pages_of(&self, other: &Block) -> Block {
        Block {
            recorded: None,
            store: Arc::clone(&other.store),
            ..self.clone()
        }
    }

    /// The block's name: on the wire, in `guest.json`, and what its hashes are seeded with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its page hashes are seeded with.
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

    /// The page's number within the whole guest; the same at both ends of a migration.
    pub fn key(&self, page: PageIndex) -> u64 {
        self.first_key + page.0
    }

    /// The file that holds it.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// The digest of this block alone that `guest.json` gives; `None` for a raw image and for a
    /// guest that is being received.
    pub fn recorded_digest(&self) -> Option<Digest> {
        self.recorded
    }

    /// The ranges that hold data, ascending and apart; everything between them is zero.
    ///
    /// # Errors
    /// When the file can no longer be examined.
    pub fn data_ranges(&self) -> Result<Vec<PageRange>, ImageError> {
        self.store.data_ranges()
    }

    /// Where data begins, from this page on: the page itself if it holds data, or if that cannot be
    /// known; the block's end if no data follows.
    ///
    /// # Errors
    /// When the file can no longer be examined.
    pub fn next_data(&self, from: PageIndex) -> Result<PageIndex, ImageError> {
        self.store.next_data(from)
    }

    /// Reads neighbouring pages, as many as `out` has room for.
    ///
    /// # Errors
    /// [`ImageError::Truncated`] when the file has become shorter, and the system's reasons.
    ///
    /// # Panics
    /// When they reach beyond the block, or `out` is not of whole pages: the caller's bug.
    pub fn read(&self, first: PageIndex, out: &mut [u8]) -> Result<(), ImageError> {
        let end = first.0 + (out.len() / PAGE_SIZE) as u64;
        self.store.read(PageRange::between(first.0, end), out)
    }

    /// Reads the pages of `range`, packed into the front of `out` without those that `keep`
    /// declines. Returns how many bytes of `out` are filled. For many pages that are all wanted;
    /// to look at pages, see [`Block::scan`].
    ///
    /// # Errors
    /// As [`Block::read`].
    ///
    /// # Panics
    /// When the range reaches beyond the block, or `out` is shorter than it: the caller's bug.
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

    /// Copies the pages of `range` out of the map into the front of `out`.
    ///
    /// # Errors
    /// As [`Block::read`].
    ///
    /// # Panics
    /// When the range reaches beyond the block, or `out` is shorter than it: the caller's bug.
    pub fn copy(&self, range: PageRange, out: &mut [u8]) -> Result<(), ImageError> {
        let len = range.count as usize * PAGE_SIZE;
        self.store.copy(range, &mut out[..len])
    }

    /// Shows `look` a copy of each page of `range`.
    ///
    /// # Errors
    /// As [`Block::read`].
    ///
    /// # Panics
    /// When the range reaches beyond the block: the caller's bug.
    pub fn scan(
        &self,
        range: PageRange,
        mut look: impl FnMut(PageIndex, &[u8]),
    ) -> Result<(), ImageError> {
        // Each page is copied over the one before, and never leaves the nearest cache. Looking at
        // it without a copy would be faster still, and mean a slice of what others write meanwhile.
        let mut copy = [0; PAGE_SIZE];
        for page in range.pages() {
            self.store
                .copy(PageRange::between(page.0, page.0 + 1), &mut copy)?;
            look(page, &copy);
        }
        Ok(())
    }

    /// Puts neighbouring pages in their place.
    ///
    /// # Errors
    /// The system's reason, a full disk among them; [`ImageError::ReadOnly`].
    ///
    /// # Panics
    /// When they reach beyond the block, or are not whole: the caller's bug.
    pub fn place(&self, first: PageIndex, bytes: &[u8]) -> Result<(), ImageError> {
        self.store.place(first, bytes)
    }

    /// Makes the pages zero, by giving their space back where the file system can.
    ///
    /// # Errors
    /// As [`Block::place`].
    ///
    /// # Panics
    /// When they reach beyond the block: the caller's bug.
    pub fn clear(&self, range: PageRange) -> Result<(), ImageError> {
        self.store.clear(range)
    }

    /// Whether the file still holds all pages. Reading through a map does not notice a file that
    /// now ends within its last page.
    ///
    /// # Errors
    /// [`ImageError::Truncated`] when it does not, or the system's reason.
    pub fn check_size(&self) -> Result<(), ImageError> {
        self.store.check_size()
    }

    /// The block's digest, computed on rayon's threads over its data alone, and the CPU time that
    /// it took.
    ///
    /// # Errors
    /// As [`Block::read`].
    pub fn digest(&self) -> Result<(Digest, Duration), ImageError> {
        let ranges = self.data_ranges()?;
        let steps: Vec<PageRange> = ranges.iter().flat_map(|range| range.steps(STEP)).collect();
        let (sum, time) = evenly(&steps)
            .map(|step| {
                let start = thread_cpu_time();
                let mut sum = 0_u128;
                self.scan(*step, |page, bytes| {
                    sum = sum.wrapping_add(self.seed.hash_or_zero(page, bytes));
                })?;
                Ok::<_, ImageError>((sum, thread_cpu_time().saturating_sub(start)))
            })
            .try_reduce(
                || (0, Duration::ZERO),
                |a, b| Ok((a.0.wrapping_add(b.0), a.1 + b.1)),
            )?;
        self.check_size()?;
        Ok((Digest(sum), time))
    }
}
