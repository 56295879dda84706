//! Which pages must be sent again.
//!
//! [`PageHashes`] remembers the hash of every page as it was sent, in one place; [`compare`]
//! finds what differs from it now, whoever wrote it. The result is a [`Bitmap`], walked by runs.

mod bitmap;
pub mod compare;
mod hashes;

pub use bitmap::Bitmap;
pub use compare::Changed;
pub use hashes::PageHashes;
