//! Files that hold the pages of a block, by format.
//!
//! [`FlatFile`] serves every format that stores pages uncompressed: a file, and which of its bytes are
//! which pages. To add such a format, write a function that reads its headers and returns a
//! [`FlatFile`] with its extents, as [`raw`] does for the simplest. A format that compresses pages
//! implements [`PageStore`] itself, of which only four methods have no default.

mod flat;
mod patched;
mod raw;

pub(super) use flat::FlatFile;
pub(super) use patched::Patched;

use std::fmt::Debug;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::ImageError;
use crate::page::{PAGE_SIZE, PageIndex, PageRange};

/// What shows that a file is another one, or that it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileState {
    /// Device and inode.
    pub(crate) identity: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl FileState {
    pub(super) fn of(metadata: &Metadata) -> FileState {
        FileState {
            identity: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// The pages of one block.
///
/// A range that reaches beyond [`PageStore::pages`] is the caller's bug, and may panic.
pub(super) trait PageStore: Debug + Send + Sync {
    /// The file, for messages.
    fn path(&self) -> &Path;

    fn pages(&self) -> u64;

    /// The ranges that may hold data, ascending and not adjacent. Everything else is zero.
    ///
    /// # Errors
    /// I/O errors.
    fn data_ranges(&self) -> Result<Vec<PageRange>, ImageError>;

    /// The first page at or after `from` that may hold data; the block's end if there is none.
    ///
    /// # Errors
    /// I/O errors.
    fn next_data(&self, from: PageIndex) -> Result<PageIndex, ImageError> {
        Ok(from)
    }

    /// Reads the pages of `range`, which exactly fill `out`.
    ///
    /// # Errors
    /// [`ImageError::Truncated`], and I/O errors.
    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), ImageError>;

    /// [`PageStore::read`] in the way that is cheapest for few pages that stay in the cache.
    ///
    /// # Errors
    /// As [`PageStore::read`].
    fn copy(&self, range: PageRange, out: &mut [u8]) -> Result<(), ImageError> {
        self.read(range, out)
    }

    /// Writes pages from `first` on.
    ///
    /// # Errors
    /// [`ImageError::ReadOnly`], and I/O errors such as a full disk.
    fn place(&self, _first: PageIndex, _bytes: &[u8]) -> Result<(), ImageError> {
        Err(self.read_only())
    }

    /// Makes pages zero, and frees their space where the file system can.
    ///
    /// # Errors
    /// As [`PageStore::place`].
    fn clear(&self, _range: PageRange) -> Result<(), ImageError> {
        Err(self.read_only())
    }

    /// Writes everything that was placed to disk.
    ///
    /// # Errors
    /// I/O errors.
    fn sync(&self) -> Result<(), ImageError> {
        Ok(())
    }

    /// The file as it is now.
    ///
    /// # Errors
    /// I/O errors.
    fn file_state(&self) -> Result<FileState, ImageError>;

    /// Checks that the file still has all pages. Reading through a map does not notice if the file
    /// now ends within a page.
    ///
    /// # Errors
    /// [`ImageError::Truncated`], and I/O errors.
    fn check_size(&self) -> Result<(), ImageError> {
        Ok(())
    }

    /// The error for a page that cannot be written.
    fn read_only(&self) -> ImageError {
        ImageError::ReadOnly {
            path: self.path().to_owned(),
        }
    }
}

/// The size of the pages of `range`, in bytes.
fn len(range: PageRange) -> usize {
    range.count as usize * PAGE_SIZE
}
