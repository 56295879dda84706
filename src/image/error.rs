//! Errors of images, guest folders and outputs.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use super::folder::FolderError;
use crate::error::{Error, Kind};
use crate::page::PAGE_SIZE;
use crate::partial::OutputError;
use crate::sniff::Content;
use crate::special;

/// What can be wrong with an image, a guest folder or an output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
// The fields are what the messages say of them.
#[allow(missing_docs)]
pub enum ImageError {
    /// An I/O error.
    #[error("cannot {what} '{}'", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A pipe, a socket, a character device.
    #[error("'{}' is {sort}: a RAM image is a regular file, a block device or a guest folder", path.display())]
    NotAnImage { path: PathBuf, sort: &'static str },
    /// A file of the kernel's.
    #[error("'{}' lies on {file_system}, which holds no RAM images: copy it to another file first", path.display())]
    Pseudo {
        path: PathBuf,
        file_system: &'static str,
    },
    /// A folder, a pipe, a socket, a character device.
    #[error("'{}' is {sort}, which cannot be replaced: choose another output", path.display())]
    NotAnOutput { path: PathBuf, sort: &'static str },
    #[error("'{}' is a block device; --force overwrites it", path.display())]
    Overwrite { path: PathBuf },
    #[error("'{}' is in use: unmount it, or end the program that has it open", path.display())]
    DeviceInUse { path: PathBuf },
    #[error("'{}' has {bytes} bytes, but the guest has {needed}", path.display())]
    SmallDevice {
        path: PathBuf,
        bytes: u64,
        needed: u64,
    },
    /// A migration that failed, to a block device.
    #[error("'{}' is partly overwritten", path.display())]
    PartlyWritten {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It begins like a file of another format.
    #[error("'{}' is {content}, not a raw RAM image: {}; --format raw takes it for RAM regardless", path.display(), content.way_out())]
    NotRam { path: PathBuf, content: Content },
    #[error("'{}' is empty: a RAM image has at least one page of {PAGE_SIZE} bytes", path.display())]
    Empty { path: PathBuf },
    #[error("'{}' is not a raw RAM image: {size} bytes is not a multiple of the page size, {PAGE_SIZE}", path.display())]
    NotWholePages { path: PathBuf, size: u64 },
    /// The format cannot be written, or has no room for the page.
    #[error("cannot write to '{}': its format does not allow it", path.display())]
    ReadOnly { path: PathBuf },
    /// A later snapshot and the first differ in size.
    #[error("'{}' has {size} bytes, but the guest has {expected}", path.display())]
    OtherSize {
        path: PathBuf,
        size: u64,
        expected: u64,
    },
    #[error("'{}' was truncated while it was being read: {size} of {expected} bytes are left", path.display())]
    Truncated {
        path: PathBuf,
        /// When this was noticed.
        size: u64,
        /// When the file was opened.
        expected: u64,
    },
    /// It cannot be known which of its pages are unchanged.
    #[error("cannot take '{}' for a diff, in which holes are unchanged pages: {why}; merge it into its base first", path.display())]
    NotADiff { path: PathBuf, why: String },
    /// Another file has its name now.
    #[error("'{}' was replaced by another file during the migration: what was sent is the old one", path.display())]
    Replaced { path: PathBuf },
    /// A store through a map was lost.
    #[error("cannot write to '{}': it was truncated, or the disk is full", path.display())]
    StoreLost { path: PathBuf },
    /// The SIGBUS handler walks a table of all maps, which has this many slots.
    #[error("cannot map more than {limit} images at once")]
    TooManyMapped { limit: usize },
    #[error(
        "the dirty log does not fit the guest: it has {pages} pages, the guest has {expected}, or their blocks \
         differ"
    )]
    OtherLog { pages: u64, expected: u64 },
    #[error("cannot name the block: the blocks of a guest folder have names already")]
    Named,
    #[error("invalid block name '{given}': a name has 1 to 255 bytes")]
    BlockName { given: String },
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A folder that is not a guest folder, cannot be used, or cannot become one.
    #[error("guest folder '{}'", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: FolderError,
    },
    /// A later snapshot and the guest differ in their blocks.
    #[error("'{}' does not have the guest's blocks: {what}", path.display())]
    OtherBlocks { path: PathBuf, what: String },
    /// A raw image has room for one block.
    #[error(
        "the guest has {count} blocks, but a raw image holds one: choose it with --block ({names})"
    )]
    ManyBlocks { count: usize, names: String },
    #[error("the guest has no block '{name}'; its blocks are {names}")]
    NoSuchBlock { name: String, names: String },
    #[error("cannot replace '{}': it is a file, and a guest folder is received", path.display())]
    FileByFolder { path: PathBuf },
    #[error("cannot write '{}': it is a block device, and a guest folder is received; --block keeps one block", path.display())]
    DeviceByFolder { path: PathBuf },
    #[error("cannot replace '{}': it is a guest folder, and a raw image is received", path.display())]
    FolderByFile { path: PathBuf },
    #[error("the device state is longer than the maximum of {allowed} bytes")]
    DeviceStateTooLong { allowed: u64 },
}

impl ImageError {
    pub(crate) fn not_an_image(path: &Path, metadata: &Metadata) -> ImageError {
        ImageError::NotAnImage {
            path: path.to_owned(),
            sort: special::sort(metadata.file_type()),
        }
    }

    /// Why an image could not be opened: what it is says more than the system's reason.
    pub(crate) fn cannot_open(path: &Path, error: io::Error) -> ImageError {
        match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() && !special::is_device(&metadata) => {
                ImageError::not_an_image(path, &metadata)
            }
            _ => ImageError::io("open", path)(error),
        }
    }

    /// For an I/O error while trying to do `what` to `path`.
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
