//! Guest images: where RAM is read from and where it is put.
//!
//! ```text
//! Guest   a guest to be sent      ┐ each holds  Ram   named blocks of pages
//! Output  a guest being received  ┘              └ Store  where a block's pages are: a file, and
//!                                                         in which way (store/)
//! ```
//!
//! [`Ram`] knows neither which of the two it is for nor what its blocks are stored in: it reads,
//! places, clears and hashes pages. A [`Guest`] is a raw image, which is one block, or a
//! [guest folder](folder). An [`Output`] is written as `OUTPUT.partial`, which becomes OUTPUT only
//! when everything is proven.
//!
//! Memory that another process may write at any time is never lent out as a slice, only copied.
//! `map.rs` is the only home of `mmap`.

mod error;
pub mod folder;
mod guest;
mod map;
mod output;
mod ram;
mod sigbus;
mod store;

pub use error::ImageError;
pub use folder::{DeviceState, FolderError};
pub use guest::{Guest, ImageFormat};
pub(crate) use map::{MappedWords, WriteLane};
pub use output::Output;
pub use ram::{Block, Ram};

/// The block name of a raw image: what QEMU calls a PC's main memory.
pub const RAW_BLOCK_NAME: &str = "pc.ram";
