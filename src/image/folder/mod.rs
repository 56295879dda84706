//! The guest folder: a guest with any number of RAM blocks, and all else that a hypervisor needs to
//! run it.
//!
//! # Format, version 1
//! ```text
//! guest/
//!   guest.json       what the guest consists of
//!   pc.ram           a block's RAM: a sparse raw image, which every command accepts by itself
//!   0000%3A00%3A02.0%2Fvga.vram
//!   device-state     the rest of the stream: opaque bytes, possibly none
//! ```
//! `guest.json` is at most [`MAX_GUEST_JSON`] bytes of JSON with exactly these fields:
//!
//! | field | value |
//! |---|---|
//! | `format` | `"ramferry-guest-folder"`; until all is received, `"ramferry-guest-partial"` |
//! | `version` | 1 |
//! | `machine` | the machine type from QEMU's configuration section; may be empty |
//! | `page-size` | 4096 |
//! | `configuration` | the sub-sections of QEMU's configuration section, in hexadecimal |
//! | `commands` | the commands between the rounds: a list of `code` (a number) and `data` (hexadecimal) |
//! | `ram-section-id` | the number of the section that RAM came in |
//! | `blocks` | a list, in the order in which they are sent, of `name`, `bytes`, and `digest`: the [digest](crate::page::Digest) of this block alone, 32 hexadecimal digits |
//! | `device-state` | `bytes` and `xxh3-128`, 32 hexadecimal digits; and, if some of its first bytes precede RAM's pages in QEMU's stream, `early`: how many `before-blocks` and then `after-blocks`, the list of RAM blocks |
//!
//! # File names
//! They are derived from the blocks' names (`file_name`) and never read from `guest.json`, so that a
//! hostile folder cannot name a file outside itself. Every byte but `A-Z a-z 0-9 . _ @ -` becomes `%`
//! and two hexadecimal digits; so does a leading `.`, and the first byte of a name that the format
//! itself uses. A result longer than [`MAX_FILE_NAME`] is cut, and ends in `%%` and the xxh3-128 of
//! the block's name.
//!
//! Reading a folder follows no links in it. Replacing one removes only what its `guest.json` accounts
//! for.

mod device_state;
mod directory;
mod json;
mod partial;

pub use device_state::DeviceState;
pub(super) use device_state::DeviceStateWriter;
pub(super) use directory::Directory;
pub(crate) use json::GuestJson;
pub(super) use partial::{PartialFolder, check_exchange, clear_folder};

use xxhash_rust::xxh3::xxh3_128;

use crate::description::OutOfBounds;
use crate::page::PAGE_SIZE;
use json::FORMAT;

pub(super) const GUEST_JSON: &str = "guest.json";
/// `guest.json` while it is being written.
const GUEST_JSON_NEW: &str = "guest.json.new";
pub(super) const DEVICE_STATE: &str = "device-state";

/// The maximum number of blocks.
pub const MAX_BLOCKS: usize = 1024;
/// The maximum size of `guest.json`, in bytes.
pub const MAX_GUEST_JSON: usize = 1 << 20;
/// The maximum length of a block's name, in bytes: one byte on the wire holds it.
pub const MAX_BLOCK_NAME: usize = 255;
/// The length in bytes beyond which a file name is cut.
pub const MAX_FILE_NAME: usize = 200;
/// The maximum size of all blocks together, as on the wire.
const MAX_RAM: u64 = 1 << 50;

/// What can be wrong with a guest folder, or with what is to become one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
// The fields are what the messages say of them.
#[allow(missing_docs)]
pub enum FolderError {
    #[error("it has no {GUEST_JSON}, so it is not one")]
    NoDescription,
    /// Or it would be, once written.
    #[error("{GUEST_JSON} is longer than {MAX_GUEST_JSON} bytes")]
    TooLong,
    #[error("invalid {GUEST_JSON}")]
    Json(#[source] serde_json::Error),
    #[error("{GUEST_JSON} has the format '{found}', not '{FORMAT}'")]
    Format { found: String },
    #[error("it was not received completely")]
    Partial,
    #[error("{field} is {given}, but only {allowed} is supported")]
    Unsupported {
        field: &'static str,
        given: u64,
        allowed: u64,
    },
    /// A number exceeds its bound.
    #[error(transparent)]
    TooMany(#[from] OutOfBounds),
    #[error("the guest has no blocks")]
    NoBlocks,
    #[error("a block's name has {len} bytes, but 1 to {MAX_BLOCK_NAME} are allowed")]
    BlockName { len: usize },
    #[error(
        "block '{name}' has {bytes} bytes: a block has whole pages of {PAGE_SIZE} bytes, and all blocks \
         together at most 1 PiB"
    )]
    BlockSize { name: String, bytes: u64 },
    /// Two blocks have the same name, or names with the same file name.
    #[error("block '{name}' occurs twice")]
    Twice { name: String },
    #[error("{field} is not hexadecimal, or of the wrong length")]
    NotHex { field: &'static str },
    #[error("'{file}' is missing")]
    Missing { file: String },
    /// A link, a folder, a pipe.
    #[error("'{file}' is not a regular file")]
    NotAFile { file: String },
    /// So what was proven is not in the folder.
    #[error("'{file}' was replaced or removed by another process while the guest was received")]
    Replaced { file: String },
    /// Its file system has no `RENAME_EXCHANGE`.
    #[error(
        "its file system cannot exchange it for another: remove it first, or choose another output"
    )]
    NoExchange,
    #[error("'{file}' has {size} bytes, but {GUEST_JSON} says {expected}")]
    Size {
        file: String,
        size: u64,
        expected: u64,
    },
    /// A file's hash or digest is not the recorded one.
    #[error("'{file}' is damaged: its hash is {found:032x}, but {GUEST_JSON} says {expected:032x}")]
    Damaged {
        file: String,
        found: u128,
        expected: u128,
    },
    /// So the folder is not ours to replace.
    #[error("it contains '{file}', which is not part of a guest folder; nothing was removed")]
    Foreign { file: String },
}

/// The file name of the block `block`.
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
            // Writing to a string cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    if name.len() > MAX_FILE_NAME {
        // All of it is ASCII, so any place is a character boundary; no other name has "%%".
        name.truncate(MAX_FILE_NAME - 34);
        let _ = write!(name, "%%{:032x}", xxh3_128(block.as_bytes()));
    }
    name
}

/// Checks that a guest may have these blocks: their names and sizes in bytes.
pub(super) fn check_blocks(blocks: &[(String, u64)]) -> Result<(), FolderError> {
    if blocks.is_empty() {
        return Err(FolderError::NoBlocks);
    }
    if blocks.len() > MAX_BLOCKS {
        return Err(FolderError::TooMany(OutOfBounds {
            what: "blocks",
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
