//! Guest images: where RAM is read from, and where it is written.
//!
//! ```text
//! Guest   a guest to be sent      ┐ each has a  Ram        named blocks of pages
//! Output  a guest being received  ┘               └ PageStore  a block's file and its format (store/)
//! ```
//!
//! [`Ram`] reads, places, clears and hashes pages, whichever of the two it belongs to and however its
//! blocks are stored. A [`Guest`] is a raw image, which is one block, or a [guest folder](folder). An
//! [`Output`] is written as `OUTPUT.partial`, which becomes OUTPUT only when everything is proven.
//!
//! Another process may write or truncate an image at any time. So mapped memory is never borrowed as a
//! slice, only copied, and `map.rs` alone calls `mmap`.
//!
//! A new image format is one file in `store/`, whose page says how, and its magic in [`crate::sniff`].

mod error;
pub mod folder;
mod guest;
mod later;
mod map;
mod output;
mod ram;
mod sigbus;
mod store;

pub use error::ImageError;
pub use folder::{DeviceState, FolderError};
pub(crate) use guest::conflict_with_image;
pub use guest::{Guest, ImageFormat};
pub use later::Later;
pub(crate) use map::{MappedWords, WriteLane};
pub use output::Output;
pub use ram::{Block, Ram};
pub(crate) use store::FileState;

/// The block name of a raw image: QEMU's name for a PC's main memory.
pub const RAW_BLOCK_NAME: &str = "pc.ram";
