//! From what a wire carries to pages in their place: what a decoder thread does all day.
//!
//! One file for each wire.

pub(super) mod native;
pub(super) mod qemu;
