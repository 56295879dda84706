//! The records of a churn: what an image was before, and how far each thread has come.
//!
//! All numbers are little endian, all parts begin at a page.
//!
//! | part | pages | what it holds |
//! |---|---|---|
//! | header | 1 | see below |
//! | progress | 64 bytes a thread, rounded up | u64 the number of the write that was begun last, u64 that of the write that was done last, 48 bytes of zeroes |
//! | base | those of the working set | what the image held there before |
//! | hashes | 16 bytes a page after the working set, rounded up | [`BlockSeed::hash_or_zero`] of what the image held there, in a block named [`RAW_BLOCK_NAME`] |
//!
//! | at | header |
//! |---|---|
//! | 0 | `ramchurn` |
//! | 8 | u32 version, 1 |
//! | 12 | u32 pattern: 1 random, 2 sequential, 3 hotset, 4 counter |
//! | 16 | u64 pages of the image |
//! | 24 | u64 pages of the working set |
//! | 32 | u64 seed |
//! | 40 | u32 bytes per write |
//! | 44 | u32 threads |
//! | 48 | xxh3-64 of the 48 bytes before |
//! | 56 | u32 1 when all else is there, else 0 |
//!
//! Base and hashes are as sparse as the image. A thread notes a write as begun before it stores
//! its bytes and as done after it, so at most one write a thread is in flight whenever it stops.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use xxhash_rust::xxh3::xxh3_64;

use super::ChurnError;
use super::plan::{Pattern, Plan};
use crate::error::{Error, Result};
use crate::image::{Block, ImageError, ImageFormat, MappedWords, RAW_BLOCK_NAME};
use crate::page::{BlockSeed, PAGE_SIZE, PageIndex, PageRange, is_zero};
use crate::partial::create_private;
use crate::special::open_to_read;
use crate::sys::same_file;

const MAGIC: [u8; 8] = *b"ramchurn";
const VERSION: u32 = 1;
/// A cache line a thread, so that they do not slow each other down.
const PROGRESS_LEN: usize = 64;
pub(super) const HASH_LEN: usize = 16;
/// Pages that are read or written at once.
pub(super) const CHUNK: u64 = 64;
/// More writes than any run performs. Replaying what a damaged file claims beyond that would take
/// years.
const MOST_WRITES: u64 = 1 << 40;

/// Where the parts lie, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    base: u64,
    hashes: u64,
    end: u64,
}

impl Layout {
    /// `None` if no file can be that large.
    fn of(plan: &Plan, pages: u64) -> Option<Layout> {
        let progress = (plan.threads as usize * PROGRESS_LEN).div_ceil(PAGE_SIZE) as u64;
        let base = 1 + progress;
        let hashes = base.checked_add(plan.working_set)?;
        let hash_pages = pages
            .checked_sub(plan.working_set)?
            .checked_mul(HASH_LEN as u64)?
            .div_ceil(PAGE_SIZE as u64);
        let end = hashes.checked_add(hash_pages)?;
        end.checked_mul(PAGE_SIZE as u64)?;
        Some(Layout { base, hashes, end })
    }
}

/// How far a thread has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Whether write number `done + 1` was begun.
    pub(super) in_flight: bool,
    /// The number of the last write that was done; 0: none.
    pub(super) done: u64,
}

/// Records that are being kept.
#[derive(Debug)]
pub(super) struct Records {
    words: MappedWords,
    // Holds the lock that keeps another churn away.
    _file: File,
}

impl Records {
    /// Notes what the image holds now. Replaces older records, but no other file.
    pub(super) fn create(path: &Path, plan: &Plan, image: &Block) -> Result<Records> {
        let file = create(path)?;
        let made = fill(&file, path, plan, image);
        if made.is_err() && same_file(&file, path) {
            // An unfinished file is useless; the next churn replaces it if it stays.
            let _ = std::fs::remove_file(path);
        }
        Ok(Records {
            words: made?,
            _file: file,
        })
    }

    /// Notes that the thread begins this write.
    pub(super) fn begin(&self, thread: u32, number: u64) -> Result<(), ImageError> {
        self.words.set(word(thread), number)
    }

    /// Notes that the thread has done this write.
    pub(super) fn done(&self, thread: u32, number: u64) -> Result<(), ImageError> {
        self.words.set(word(thread) + 1, number)
    }
}

fn word(thread: u32) -> usize {
    (PAGE_SIZE + thread as usize * PROGRESS_LEN) / 8
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io { what, path, source }
}

/// Whether the file holds records, finished or not.
pub(super) fn are_kept_in(path: &Path) -> bool {
    open_to_read(path).is_ok_and(|file| holds_magic(&file))
}

fn holds_magic(file: &File) -> bool {
    let mut magic = [0; MAGIC.len()];
    file.read_exact_at(&mut magic, 0).is_ok() && magic == MAGIC
}

/// Makes the file and locks it.
fn create(path: &Path) -> Result<File> {
    let new = || create_private(path);
    let no_place = |why| ChurnError::NoPlace {
        path: path.into(),
        why,
    };
    let file = match new() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let older = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(path)
                .map_err(failed("open", path))?;
            if !holds_magic(&older) {
                return Err(ChurnError::InTheWay { path: path.into() }.into());
            }
            lock(&older, path)?;
            std::fs::remove_file(path).map_err(failed("remove", path))?;
            new().map_err(no_place)?
        }
        other => other.map_err(no_place)?,
    };
    lock(&file, path)?;
    Ok(file)
}

/// Keeps another churn away for as long as the file is open.
pub(super) fn lock(file: &File, path: &Path) -> Result<()> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| ChurnError::Busy { path: path.into() }.into())
}

fn header(plan: &Plan, pages: u64) -> [u8; 56] {
    let mut header = [0; 56];
    header[0..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&plan.pattern.code().to_le_bytes());
    header[16..24].copy_from_slice(&pages.to_le_bytes());
    header[24..32].copy_from_slice(&plan.working_set.to_le_bytes());
    header[32..40].copy_from_slice(&plan.seed.to_le_bytes());
    header[40..44].copy_from_slice(&plan.bytes_per_write.to_le_bytes());
    header[44..48].copy_from_slice(&plan.threads.to_le_bytes());
    let hash = xxh3_64(&header[..48]);
    header[48..56].copy_from_slice(&hash.to_le_bytes());
    header
}

fn fill(file: &File, path: &Path, plan: &Plan, image: &Block) -> Result<MappedWords> {
    let write = |bytes: &[u8], at: u64| {
        file.write_all_at(bytes, at)
            .map_err(failed("write", path))
            .map_err(Error::from)
    };
    // The header comes first, so that the file can be replaced if this process ends here.
    write(&header(plan, image.pages()), 0)?;
    let layout = Layout::of(plan, image.pages())
        .ok_or_else(|| failed("make", path)(io::Error::from(io::ErrorKind::FileTooLarge)))?;
    file.set_len(layout.end * PAGE_SIZE as u64)
        .map_err(failed("set the size of", path))?;
    let zeroes = vec![0; plan.threads as usize * PROGRESS_LEN];
    write(&zeroes, PAGE_SIZE as u64)?;

    let seed = BlockSeed::new(RAW_BLOCK_NAME);
    let mut buffer = vec![0; CHUNK as usize * PAGE_SIZE];
    let mut hashes = Vec::new();
    for chunk in image
        .data_ranges()?
        .into_iter()
        .flat_map(|range| range.steps(CHUNK))
    {
        // A chunk that lies on both sides of the working set's end is read twice.
        let inside = PageRange::between(chunk.start.0, chunk.end().min(plan.working_set));
        if inside.count > 0 {
            let len = image.read_some(inside, &mut buffer, |_, _| true)?;
            if !is_zero(&buffer[..len]) {
                let at = PageIndex(layout.base + inside.start.0).offset();
                write(&buffer[..len], at)?;
            }
        }
        let outside = PageRange::between(chunk.start.0.max(plan.working_set), chunk.end());
        if outside.count > 0 {
            hashes.clear();
            image.read_some(outside, &mut buffer, |page, bytes| {
                hashes.extend_from_slice(&seed.hash_or_zero(page, bytes).to_le_bytes());
                false
            })?;
            let at = (outside.start.0 - plan.working_set) * HASH_LEN as u64;
            write(&hashes, PageIndex(layout.hashes).offset() + at)?;
        }
    }
    image.check_size()?;
    let progress_end = layout.base as usize * PAGE_SIZE;
    let words = MappedWords::of(file, path, progress_end)?;
    write(&1_u32.to_le_bytes(), 56)?;
    Ok(words)
}

/// Records that were kept, to be read.
#[derive(Debug)]
pub(super) struct Kept {
    file: Block,
    layout: Layout,
    /// What was written.
    pub(super) plan: Plan,
    /// The pages of the image.
    pub(super) pages: u64,
}

impl Kept {
    /// Opens records and checks everything in their header.
    pub(super) fn open(path: &Path) -> Result<Kept> {
        let bad = |why| ChurnError::NoRecords {
            path: path.into(),
            why,
        };
        if !path.exists() {
            return Err(bad("it does not exist; name them with --records").into());
        }
        let file = match Block::open(path, ImageFormat::Raw) {
            Err(ImageError::Empty { .. } | ImageError::NotWholePages { .. }) => {
                return Err(bad("its size is not valid").into());
            }
            other => other?,
        };
        let mut head = [0; PAGE_SIZE];
        file.copy(PageRange::between(0, 1), &mut head)?;
        let u32_at =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if head[..8] != MAGIC {
            return Err(bad("it does not begin with the header of one").into());
        }
        if u32_at(8) != VERSION {
            return Err(bad("its version is unknown").into());
        }
        if u64_at(48) != xxh3_64(&head[..48]) {
            return Err(bad("its header is damaged").into());
        }
        if u32_at(56) != 1 {
            return Err(bad("it was never finished").into());
        }
        let pattern =
            Pattern::from_code(u32_at(12)).ok_or_else(|| bad("its pattern is invalid"))?;
        let plan = Plan {
            pattern,
            working_set: u64_at(24),
            bytes_per_write: u32_at(40),
            threads: u32_at(44),
            seed: u64_at(32),
        };
        let pages = u64_at(16);
        plan.check(pages)?;
        let layout = Layout::of(&plan, pages)
            .filter(|layout| layout.end == file.pages())
            .ok_or_else(|| bad("its size is not what its header says"))?;
        Ok(Kept {
            file,
            layout,
            plan,
            pages,
        })
    }

    /// How far each thread had come.
    pub(super) fn progress(&self) -> Result<Vec<Progress>> {
        let range = PageRange::between(1, self.layout.base);
        let mut bytes = vec![0; range.count as usize * PAGE_SIZE];
        self.file.copy(range, &mut bytes)?;
        bytes
            .chunks_exact(PROGRESS_LEN)
            .take(self.plan.threads as usize)
            .map(|slot| {
                let (words, _) = slot.as_chunks::<8>();
                let [begun, done] = [words[0], words[1]].map(u64::from_le_bytes);
                let in_flight = begun.checked_sub(done).filter(|&ahead| ahead <= 1);
                match in_flight {
                    Some(ahead) if done <= MOST_WRITES => Ok(Progress {
                        in_flight: ahead == 1,
                        done,
                    }),
                    _ => Err(ChurnError::NoRecords {
                        path: self.path(),
                        why: "its progress makes no sense",
                    }
                    .into()),
                }
            })
            .collect()
    }

    /// The ranges of the working set that were not holes.
    pub(super) fn base_ranges(&self) -> Result<Vec<PageRange>> {
        let (start, end) = (self.layout.base, self.layout.hashes);
        Ok(self
            .file
            .data_ranges()?
            .into_iter()
            .map(|data| {
                let range = PageRange::between(data.start.0.max(start), data.end().min(end));
                PageRange {
                    start: PageIndex(range.start.0 - start),
                    count: range.count,
                }
            })
            .filter(|range| range.count > 0)
            .collect())
    }

    /// What a chunk of the working set held before, into the front of `out`.
    pub(super) fn base(&self, chunk: PageRange, out: &mut [u8]) -> Result<(), ImageError> {
        let shifted = PageRange {
            start: PageIndex(chunk.start.0 + self.layout.base),
            count: chunk.count,
        };
        self.file.read_some(shifted, out, |_, _| true).map(drop)
    }

    /// The hashes of all pages after the working set.
    pub(super) fn hashes(&self) -> Result<Vec<u8>, ImageError> {
        let range = PageRange::between(self.layout.hashes, self.layout.end);
        // A 256th of the size of the file.
        let mut out = vec![0; range.count as usize * PAGE_SIZE];
        self.file.read_some(range, &mut out, |_, _| true)?;
        Ok(out)
    }

    /// Where they lie.
    pub(super) fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }
}
