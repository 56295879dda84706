//! Sending a page as its difference from what the destination already holds.
//!
//! [`xbzrle`] is the encoding, byte for byte QEMU's; [`cache`] keeps the bases. No I/O, no threads.
//!
//! A delta is only correct on top of exactly the bytes that the destination holds. That is why the
//! [`Cache`] holds copies of what was *sent*, and is the only source of bases: the guest's own
//! memory may have changed since.

pub mod cache;
pub mod xbzrle;

pub use cache::{Cache, CacheError, Lookup};
pub use xbzrle::{Delta, DeltaError, decode, encode};
