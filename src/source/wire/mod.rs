//! What is said on the links: one folder for each wire format, behind the traits of `seam.rs`.
//!
//! This file alone knows which wires there are.

mod native;
mod qemu;
mod seam;

use crate::error::Result;
use crate::image::Guest;
use crate::session::Context;
use crate::wire::Format;

use super::request::Request;

pub use qemu::DEFAULT_MACHINE;
#[cfg(all(test, shuttle))]
pub(super) use seam::KeepAlive;
pub(super) use seam::{AllSent, Batches, Channel, Encode, Listener, Opened, Wire};

/// Opens the connections of the request's format.
pub(super) fn open(request: &Request, guest: &Guest, context: &Context) -> Result<Opened> {
    match request.format {
        Format::Native => native::open(request, guest, context),
        Format::Qemu => qemu::open(request, guest, context),
    }
}
