//! One packet: from its bytes to pages in their place. What a decoder thread does all day.
//!
//! One file for each wire format.

mod native;
mod qemu;

pub(super) use native::{DecodeWorker, Packet};
pub(super) use qemu::{Batch, DecodeQemu, Entry, STRETCH};
