//! Which pages must be sent again.
//!
//! [`PageHashes`] remembers the hash of every page as it was sent, in one place; [`compare`]
//! finds what differs from it now, whoever wrote it. The result is a [`Bitmap`], walked by runs.
//! While somebody writes, a [`Tracker`] says what changed; comparing is one, a log that the writer
//! fills another, and for memory of this process [`pagemap`] asks the kernel.

mod bitmap;
pub mod compare;
mod hashes;
pub mod pagemap;
mod tracker;

pub use bitmap::Bitmap;
pub use compare::Changed;
pub use hashes::PageHashes;
pub use pagemap::Pagemap;
pub use tracker::{Claim, Compare, DirtyLog, Tracker};
