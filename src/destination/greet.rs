//! The first words of a session: which wire a source speaks, and what is agreed on the native one.

use std::time::Duration;

use crate::caps::Caps;
use crate::error::{Error, Kind, Result};
use crate::image::Output;
use crate::session::{self, Agreed};
use crate::sniff::{Content, NotAStream};
use crate::transport::{Stream, TransportError};
use crate::wire::native::Hello;

use super::request::Request;

/// Whether a stream that begins like this is QEMU's, or one of QEMU's further connections. If not,
/// it should be one of ours; what is known to be neither is refused by name.
pub(super) fn is_qemu(head: &[u8]) -> Result<bool> {
    match Content::of_stream(head) {
        Some(Content::QemuStream | Content::QemuChannel) => Ok(true),
        Some(Content::NativeStream) | None => Ok(false),
        Some(content) => Err(Error::new(Kind::Failed, NotAStream { content })),
    }
}

/// Answers a hello.
pub(super) fn answer(
    stream: &Stream,
    outcome: Result<&Agreed, &Error>,
    silence: Duration,
) -> Result<(), TransportError> {
    let outcome = outcome.cloned().map_err(Error::one_line);
    stream.write(&session::answer(&outcome, silence).to_bytes(), &[])
}

/// Agrees to a hello and makes the output, or refuses with the reason.
pub(super) fn welcome(hello: &Hello, request: &Request, caps: &Caps) -> Result<(Agreed, Output)> {
    let refused = |why| Error::new(Kind::Refused, why);
    let agreed = session::negotiate(hello, caps).map_err(refused)?;
    let blocks: Vec<(String, u64)> = hello
        .blocks
        .iter()
        .map(|block| (block.name.clone(), block.bytes))
        .collect();
    let (path, force) = (&request.output, request.force);
    let output = match &request.block {
        Some(keep) => Output::only(path, &blocks, keep, force)?,
        None if agreed
            .capabilities
            .contains(session::CAPABILITY_GUEST_FOLDER) =>
        {
            Output::folder(path, &blocks, force)?
        }
        None => Output::image(path, &blocks, force)?,
    };
    Ok((agreed, output))
}
