//! Where the pages of a block are, and how they lie there.
//!
//! A [`PageStore`] knows pages by their number and nothing of blocks, guests or wires. [`FlatFile`] is
//! for every format that holds pages as they are: a file, and which of its bytes are which pages.
//! A format of that sort is one function that reads its headers and returns a [`FlatFile`] with
//! their extents, as [`raw`] does for the simplest. A format that compresses pages implements
//! [`PageStore`] itself: what has a default here is optional.

mod flat;
mod raw;

pub(super) use flat::FlatFile;

use std::fmt::Debug;
use std::path::Path;

use super::ImageError;
use crate::page::{PAGE_SIZE, PageIndex, PageRange};

/// The pages of one block.
///
/// Ranges that reach beyond [`PageStore::pages`] are the caller's bug, and may panic.
pub(super) trait PageStore: Debug + Send + Sync {
    /// The file, as messages call it.
    fn path(&self) -> &Path;

    fn pages(&self) -> u64;

    /// The ranges that hold data, ascending and apart; everything between them is zero.
    ///
    /// # Errors
    /// When the file can no longer be examined.
    fn data_ranges(&self) -> Result<Vec<PageRange>, ImageError>;

    /// Where data begins, from this page on: the page itself if it holds data, or if that cannot
    /// be known; the block's end if no data follows.
    ///
    /// # Errors
    /// When the file can no longer be examined.
    fn next_data(&self, from: PageIndex) -> Result<PageIndex, ImageError> {
        Ok(from)
    }

    /// Reads the pages of `range`, which fill `out`.
    ///
    /// # Errors
    /// [`ImageError::Truncated`] when the file has become shorter, and the system's reasons.
    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), ImageError>;

    /// As [`PageStore::read`], by the cheaper way where pages are only looked at, one after another.
    ///
    /// # Errors
    /// As [`PageStore::read`].
    fn copy(&self, range: PageRange, out: &mut [u8]) -> Result<(), ImageError> {
        self.read(range, out)
    }

    /// Puts neighbouring pages in their place.
    ///
    /// # Errors
    /// The system's reason, a full disk among them; [`ImageError::ReadOnly`].
    fn place(&self, _first: PageIndex, _bytes: &[u8]) -> Result<(), ImageError> {
        Err(self.read_only())
    }

    /// Makes pages zero, and gives their space back where that is possible.
    ///
    /// # Errors
    /// As [`PageStore::place`].
    fn clear(&self, _range: PageRange) -> Result<(), ImageError> {
        Err(self.read_only())
    }

    /// Whether the file still holds all pages. A map does not notice a file that now ends within
    /// its last page.
    ///
    /// # Errors
    /// [`ImageError::Truncated`] when it does not.
    fn check_size(&self) -> Result<(), ImageError> {
        Ok(())
    }

    /// Why a page cannot be written.
    fn read_only(&self) -> ImageError {
        ImageError::ReadOnly {
            path: self.path().to_owned(),
        }
    }
}

/// How many bytes the pages of `range` are.
fn len(range: PageRange) -> usize {
    range.count as usize * PAGE_SIZE
}
