//! What a guest folder has besides RAM: description and device state, between the last round and
//! `Finish`.

use crate::description::Description;
use crate::error::{Error, Kind, Result};
use crate::image::Output;
use crate::wire::WireError;
use crate::wire::native::{FolderParts, Message};

/// Description and device state, as far as they have arrived.
#[derive(Debug)]
pub(super) struct FolderIntake {
    parts: FolderParts,
    description: Option<Description>,
}

impl FolderIntake {
    /// `expected`: both ends have the capability `guest-folder`.
    pub(super) fn new(expected: bool) -> FolderIntake {
        FolderIntake {
            parts: FolderParts::new(expected),
            description: None,
        }
    }

    /// Takes a message that came after the last round.
    pub(super) fn take(&mut self, message: Message, output: &Output) -> Result<()> {
        let (so_far, found) = output.device_state_sum();
        self.parts.check(&message, so_far)?;
        match message {
            Message::Description(description) => self.description = Some(description),
            Message::DeviceState { bytes, .. } => output.append_device_state(&bytes)?,
            Message::DeviceStateEnd { hash, .. } if hash != found => {
                return Err(Error::new(
                    Kind::Differs,
                    format!(
                        "the device state that arrived is not what was sent: its hash is \
                         {found:032x}, not {hash:032x}"
                    ),
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// `Finish` has arrived: checks that it may, and returns the guest's description.
    pub(super) fn end(&mut self) -> Result<Option<Description>> {
        if self.parts.is_whole() {
            return Ok(self.description.take());
        }
        Err(WireError::OutOfPlace {
            record: "Finish",
            why: "the device state is not complete",
        }
        .into())
    }
}
