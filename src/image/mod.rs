//! Guest images: where RAM is read from and where it is put. The only home of `mmap`.
//!
//! A [`Guest`] is one or more named blocks. Reading ([`RawImage`]) hands out copies, never slices of
//! the map: another process may write the memory at any time. Writing ([`Output`])
//! is by `pwrite` into `OUTPUT.partial`, which becomes OUTPUT only when all is proven.

mod output;
mod raw;
mod sigbus;

pub use output::Output;
pub(crate) use output::same_file;
pub use raw::RawImage;

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind};
use crate::page::{BlockSeed, Digest, PAGE_SIZE, PageRange};

/// The block name of a raw image: what QEMU calls a PC's main memory.
pub const RAW_BLOCK_NAME: &str = "pc.ram";

/// What can be wrong with an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It cannot be opened, read, mapped or written.
    #[error("cannot {what} '{}'", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The image.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a device, a pipe.
    #[error("'{}' is not a regular file", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// It has no bytes.
    #[error("'{}' is empty: a RAM image holds at least one page of {PAGE_SIZE} bytes", path.display())]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// Its size is not that of whole pages.
    #[error("'{}' has {size} bytes, which is no multiple of the page size of {PAGE_SIZE}", path.display())]
    NotWholePages {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// A later snapshot is not as large as the first.
    #[error("'{}' has {size} bytes, but the guest has {expected}", path.display())]
    OtherSize {
        /// The later snapshot.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The size of the first.
        expected: u64,
    },
    /// Somebody cut it short while it was being read.
    #[error("'{}' was truncated while it was being read: {size} of {expected} bytes are left", path.display())]
    Truncated {
        /// The image.
        path: PathBuf,
        /// Its size in bytes when this was noticed.
        size: u64,
        /// Its size when it was opened.
        expected: u64,
    },
    /// More images are mapped at once than there is room for.
    #[error("more than {limit} images are mapped at once")]
    TooManyMapped {
        /// How many there may be.
        limit: usize,
    },
    /// The output is there already.
    #[error("'{}' exists already (--force replaces it)", path.display())]
    OutputExists {
        /// The output.
        path: PathBuf,
    },
    /// Another process is writing the same output.
    #[error("'{}' is being written by another process", path.display())]
    OutputBusy {
        /// The partial file.
        path: PathBuf,
    },
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Error {
        Error::new(Kind::Failed, error)
    }
}

/// A guest's RAM, to be read.
#[derive(Debug)]
pub struct Guest {
    blocks: Vec<Block>,
}

/// A named stretch of guest RAM, to be read.
#[derive(Debug)]
pub struct Block {
    name: String,
    seed: BlockSeed,
    image: RawImage,
    /// The pages of all blocks before this one.
    first_key: u64,
}

impl Guest {
    /// A raw image as a guest with one block, [`RAW_BLOCK_NAME`].
    ///
    /// # Errors
    /// Whatever [`RawImage::open`] finds.
    pub fn open(path: &Path) -> Result<Guest, ImageError> {
        let image = RawImage::open(path)?;
        Ok(Guest {
            blocks: vec![Block {
                name: RAW_BLOCK_NAME.to_owned(),
                seed: BlockSeed::new(RAW_BLOCK_NAME),
                image,
                first_key: 0,
            }],
        })
    }

    /// A later snapshot of this guest.
    ///
    /// # Errors
    /// Whatever [`RawImage::open`] finds, and a size that is not this guest's.
    pub fn open_later(&self, path: &Path) -> Result<Guest, ImageError> {
        let later = Guest::open(path)?;
        let (size, expected) = (later.pages(), self.pages());
        if size == expected {
            Ok(later)
        } else {
            Err(ImageError::OtherSize {
                path: path.to_owned(),
                size: size * PAGE_SIZE as u64,
                expected: expected * PAGE_SIZE as u64,
            })
        }
    }

    /// The blocks, in the order in which they are sent.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The pages of all blocks together.
    pub fn pages(&self) -> u64 {
        self.blocks.iter().map(|block| block.image.pages()).sum()
    }

    /// The RAM digest, computed on all cores over the data extents alone.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn digest(&self) -> Result<Digest, ImageError> {
        let mut digest = Digest::default();
        for block in &self.blocks {
            let (sum, _) = block.image.sum_hashes(block.seed)?;
            digest.add(sum);
        }
        Ok(digest)
    }
}

impl Block {
    /// The block's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its page hashes are seeded with.
    pub fn seed(&self) -> BlockSeed {
        self.seed
    }

    /// Its bytes.
    pub fn image(&self) -> &RawImage {
        &self.image
    }

    /// The page's number within the whole guest.
    pub fn key(&self, page: crate::page::PageIndex) -> u64 {
        self.first_key + page.0
    }

    /// All of its pages.
    pub fn range(&self) -> PageRange {
        PageRange::between(0, self.image.pages())
    }
}
