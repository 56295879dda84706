//! What can be wrong with an image, a guest folder or an output.

use std::io;
use std::path::{Path, PathBuf};

use super::folder::FolderError;
use crate::error::{Error, Kind};
use crate::page::PAGE_SIZE;
use crate::partial::OutputError;
use crate::sniff::Content;

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
    /// It begins like something else than flat RAM.
    #[error("'{}' is {content}, not a raw RAM image: {} (--format raw takes it for RAM nevertheless)", path.display(), content.way_out())]
    NotRam {
        /// What was given.
        path: PathBuf,
        /// What it is.
        content: Content,
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
    /// The format cannot be written, or has no room for the page.
    #[error("'{}' cannot be written to in its format", path.display())]
    ReadOnly {
        /// The image.
        path: PathBuf,
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
    /// A store through a map went nowhere.
    #[error("'{}' could not take what was stored in it: it was truncated, or the disk is full", path.display())]
    StoreLost {
        /// The image.
        path: PathBuf,
    },
    /// More images are mapped at once than there is room for.
    #[error("more than {limit} images are mapped at once")]
    TooManyMapped {
        /// How many there may be.
        limit: usize,
    },
    /// A log of dirty pages is for another guest.
    #[error(
        "the log of dirty pages is for {pages} pages, and the guest has {expected}, or in other blocks"
    )]
    OtherLog {
        /// The pages of the log.
        pages: u64,
        /// The pages of the guest.
        expected: u64,
    },
    /// The blocks of a guest folder have names.
    #[error("the blocks of a guest folder have names of their own")]
    Named,
    /// A block cannot have this name.
    #[error("'{given}' is no name for a block: it has 1 to 255 bytes")]
    BlockName {
        /// What was given.
        given: String,
    },
    /// The output cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// It is no guest folder, or one that cannot be used, or cannot become one.
    #[error("guest folder '{}'", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: FolderError,
    },
    /// A later snapshot does not have the guest's blocks.
    #[error("'{}' does not have the guest's blocks: {what}", path.display())]
    OtherBlocks {
        /// The later snapshot.
        path: PathBuf,
        /// The first difference.
        what: String,
    },
    /// A guest with several blocks should become a raw image.
    #[error("the guest has {count} blocks, and an image is of one: name it with --block ({names})")]
    ManyBlocks {
        /// How many.
        count: usize,
        /// Their names.
        names: String,
    },
    /// The block that was asked for is none of the guest's.
    #[error("the guest has no block '{name}': its blocks are {names}")]
    NoSuchBlock {
        /// What was asked for.
        name: String,
        /// What there is.
        names: String,
    },
    /// A guest folder comes where a file is.
    #[error("'{}' is a file, and what is received is a guest folder: only a guest folder is replaced by one", path.display())]
    FileByFolder {
        /// The output.
        path: PathBuf,
    },
    /// A file comes where a guest folder is.
    #[error("'{}' is a guest folder, and what is received is a raw image: only a file is replaced by one", path.display())]
    FolderByFile {
        /// The output.
        path: PathBuf,
    },
    /// There is more device state than is allowed.
    #[error("the device state has more than the {allowed} bytes that are allowed")]
    DeviceStateTooLong {
        /// The most bytes.
        allowed: u64,
    },
}

impl ImageError {
    /// An error of the system's while trying to do this to `path`.
    pub(crate) fn io(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> ImageError + use<> {
        let path = path.to_owned();
        move |source| ImageError::Io { what, path, source }
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Error {
        let kind = match &error {
            ImageError::Folder {
                source: FolderError::Damaged { .. },
                ..
            } => Kind::Differs,
            _ => Kind::Failed,
        };
        Error::new(kind, error)
    }
}
