//! The guest folder: a guest with any number of RAM blocks, and what a hypervisor needs besides.
//!
//! # Format, version 1
//! ```text
//! guest/
//!   guest.json       what the guest consists of
//!   pc.ram           a block's RAM: a raw image, sparse, as every command takes it
//!   0000%3A00%3A02.0%2Fvga.vram
//!   device-state     what else stood in the stream: opaque bytes, maybe none
//! ```
//! `guest.json` is at most [`MAX_GUEST_JSON`] bytes of JSON with exactly these fields:
//!
//! | field | value |
//! |---|---|
//! | `format` | `"ramferry-guest-folder"`; while it is still being received `"ramferry-guest-partial"` |
//! | `version` | 1 |
//! | `machine` | the machine type, as QEMU's configuration section has it; may be empty |
//! | `page-size` | 4096 |
//! | `configuration` | the sub-sections of QEMU's configuration section, in hexadecimal |
//! | `commands` | the commands that stood between RAM's rounds: a list of `code` (a number) and `data` (hexadecimal) |
//! | `ram-section-id` | the number of the section that RAM came in |
//! | `blocks` | a list, in the order in which they are sent, of `name`, `bytes`, and `digest`: the [digest](crate::page::Digest) of this block alone, 32 hexadecimal digits |
//! | `device-state` | `bytes` and `xxh3-128`, 32 hexadecimal digits |
//!
//! # Names of files
//! They follow from the blocks' names (`file_name`) and are never read from `guest.json`: every
//! byte but `A-Z a-z 0-9 . _ @ -` becomes `%` and two hexadecimal digits, so does a `.` in front,
//! and so does the first byte of a name that the format itself uses. A name that is longer than
//! [`MAX_FILE_NAME`] then is cut and ends in `%%` and the xxh3-128 of the block's name.
//!
//! Whoever reads a folder follows no link in it, and whoever replaces one removes nothing that its
//! `guest.json` does not account for.

mod device_state;
mod directory;
mod json;
mod partial;

pub use device_state::DeviceState;
pub(super) use device_state::DeviceStateWriter;
pub(super) use directory::Directory;
pub(super) use json::GuestJson;
pub(super) use partial::{PartialFolder, clear_folder};

use xxhash_rust::xxh3::xxh3_128;

use crate::description::OutOfBounds;
use crate::page::PAGE_SIZE;
use json::FORMAT;

/// The file that says what a guest folder consists of.
pub(super) const GUEST_JSON: &str = "guest.json";
/// It, while it is being written.
pub(super) const GUEST_JSON_NEW: &str = "guest.json.new";
/// The file with the device state.
pub(super) const DEVICE_STATE: &str = "device-state";

/// The most blocks of a guest.
pub const MAX_BLOCKS: usize = 1024;
/// The most bytes of a `guest.json`.
pub const MAX_GUEST_JSON: usize = 1 << 20;
/// The most bytes of a block's name.
pub const MAX_BLOCK_NAME: usize = 255;
/// The most bytes of a file's name before it is cut.
pub const MAX_FILE_NAME: usize = 200;
/// The most bytes of all blocks together, as on the wire.
const MAX_RAM: u64 = 1 << 50;

/// What can be wrong with a guest folder, or with what is to become one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It has no `guest.json`.
    #[error("it has no {GUEST_JSON}, so it is none")]
    NoDescription,
    /// `guest.json` is too long, or would be.
    #[error("{GUEST_JSON} has more than {MAX_GUEST_JSON} bytes")]
    TooLong,
    /// `guest.json` does not have the fields that it must have.
    #[error("{GUEST_JSON} cannot be understood")]
    Json(#[source] serde_json::Error),
    /// `guest.json` says that it is something else.
    #[error("{GUEST_JSON} has the format '{found}', not '{FORMAT}'")]
    Format {
        /// What it says.
        found: String,
    },
    /// It was never received to its end.
    #[error("it was not received to its end")]
    Partial,
    /// A number has a value that is not supported.
    #[error("{field} is {given}, but only {allowed} is supported")]
    Unsupported {
        /// Which number.
        field: &'static str,
        /// What was given.
        given: u64,
        /// What would do.
        allowed: u64,
    },
    /// Something is larger than it may be.
    #[error(transparent)]
    TooMany(#[from] OutOfBounds),
    /// There is no block.
    #[error("the guest has no block")]
    NoBlocks,
    /// A block's name is empty or too long.
    #[error("a block's name has {len} bytes, but 1 to {MAX_BLOCK_NAME} are allowed")]
    BlockName {
        /// Its length.
        len: usize,
    },
    /// A block's size makes no sense.
    #[error(
        "block '{name}' has {bytes} bytes: a block has whole pages of {PAGE_SIZE} bytes, and all blocks \
         at most 1 PiB"
    )]
    BlockSize {
        /// The block.
        name: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// Two blocks have one name, or names that lead to one file.
    #[error("block '{name}' occurs twice")]
    Twice {
        /// The block.
        name: String,
    },
    /// Digits that are none.
    #[error("{field} is not in hexadecimal, or not as long as it must be")]
    NotHex {
        /// Where.
        field: &'static str,
    },
    /// A file is missing.
    #[error("'{file}' is missing")]
    Missing {
        /// The file.
        file: String,
    },
    /// A file is a link, a folder, a pipe.
    #[error("'{file}' is not a regular file")]
    NotAFile {
        /// The file.
        file: String,
    },
    /// A file does not have the size that `guest.json` gives.
    #[error("'{file}' has {size} bytes, but {GUEST_JSON} says {expected}")]
    Size {
        /// The file.
        file: String,
        /// Its size.
        size: u64,
        /// What it should be.
        expected: u64,
    },
    /// A file does not hold what `guest.json` says.
    #[error("'{file}' is damaged: its hash is {found:032x}, but {GUEST_JSON} says {expected:032x}")]
    Damaged {
        /// The file.
        file: String,
        /// The hash, or digest, of what it holds.
        found: u128,
        /// What it should be.
        expected: u128,
    },
    /// There is a file that is none of the format's, so that the folder is not ours to replace.
    #[error("it holds '{file}', which does not belong to a guest folder, and is left alone")]
    Foreign {
        /// The file.
        file: String,
    },
}

/// The file of the block with this name.
pub(super) fn file_name(block: &str) -> String {
    use std::fmt::Write;
    let mut name = String::new();
    let reserved = [GUEST_JSON, GUEST_JSON_NEW, DEVICE_STATE].contains(&block);
    for (index, byte) in block.bytes().enumerate() {
        let plain =
            byte.is_ascii_alphanumeric() || b"_@-".contains(&byte) || (byte == b'.' && index > 0);
        if plain && !(reserved && index == 0) {
            name.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    if name.len() > MAX_FILE_NAME {
        // All ASCII, so that any place is a character's end; "%%" occurs in no other name.
        name.truncate(MAX_FILE_NAME - 34);
        let _ = write!(name, "%%{:032x}", xxh3_128(block.as_bytes()));
    }
    name
}

/// Whether a guest may consist of these blocks.
pub(super) fn check_blocks(blocks: &[(String, u64)]) -> Result<(), FolderError> {
    if blocks.is_empty() {
        return Err(FolderError::NoBlocks);
    }
    if blocks.len() > MAX_BLOCKS {
        return Err(FolderError::TooMany(OutOfBounds {
            what: "the guest's blocks",
            given: blocks.len() as u64,
            allowed: MAX_BLOCKS as u64,
        }));
    }
    let mut total = 0_u64;
    let mut files = std::collections::HashSet::new();
    for (name, bytes) in blocks {
        if name.is_empty() || name.len() > MAX_BLOCK_NAME {
            return Err(FolderError::BlockName { len: name.len() });
        }
        total = total.saturating_add(*bytes);
        if *bytes == 0 || bytes % PAGE_SIZE as u64 != 0 || total > MAX_RAM {
            return Err(FolderError::BlockSize {
                name: name.clone(),
                bytes: *bytes,
            });
        }
        if !files.insert(file_name(name)) {
            return Err(FolderError::Twice { name: name.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
