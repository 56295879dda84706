//! Which pages must be sent again.
//!
//! [`PageHashes`] remembers the hash of every page as it was sent, in one place; [`compare`]
//! finds what differs from it now, whoever wrote it. The result is a [`Bitmap`], walked by runs.
//! While somebody writes, a [`Tracker`] says what changed; comparing is one.

mod bitmap;
pub mod compare;
mod hashes;
mod tracker;

pub use bitmap::Bitmap;
pub use compare::Changed;
pub use hashes::PageHashes;
pub use tracker::{Claim, Compare, DirtyLog, Tracker};
