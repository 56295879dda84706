//! Which pages must be sent again.
//!
//! [`PageHashes`] keeps the hash of every page as it was sent; [`compare`] finds the pages that differ
//! from it now, whatever wrote them. The result is a [`Bitmap`].
//!
//! During a live migration a [`Tracker`] reports what changed: [`Compare`] compares, [`DirtyLog`] is
//! filled by the writer, and [`Pagemap`] asks the kernel about memory of this process.

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
