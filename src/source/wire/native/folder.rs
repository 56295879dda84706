//! What a guest folder has besides RAM, sent after RAM.

use crate::error::{Error, Result};
use crate::image::Guest;
use crate::wire::native::Message;

use crate::source::links::Links;

/// Sends the description and device state of a guest that has them.
pub(super) fn send(guest: &Guest, links: &Links) -> Result<()> {
    let (Some(description), Some(state)) = (guest.description(), guest.device_state()) else {
        return Ok(());
    };
    say(links, &Message::Description(description.clone()))?;
    let mut offset = 0;
    state.for_each(|piece| {
        let bytes = piece.to_vec();
        say(links, &Message::DeviceState { offset, bytes })?;
        offset += piece.len() as u64;
        Ok::<(), Error>(())
    })?;
    let (total, hash) = (state.bytes(), state.hash());
    say(links, &Message::DeviceStateEnd { total, hash })
}

fn say(links: &Links, message: &Message) -> Result<()> {
    let bytes = message.to_bytes();
    links
        .in_frame(0, [&bytes, &[]], |stream| stream.write(&bytes, &[]))
        .map_err(|error| Error::from(error).in_stage("while sending the device state"))
}
