//! What a guest folder has besides RAM: taken when RAM is there, before the end.

use crate::description::Description;
use crate::error::{Error, Kind, Result};
use crate::image::Output;
use crate::session;
use crate::wire::WireError;
use crate::wire::native::Message;

/// Description and device state, as far as they have come.
#[derive(Debug)]
pub(super) struct FolderParts {
    /// Whether they must come at all.
    agreed: bool,
    description: Option<Description>,
    /// Whether the device state is complete.
    complete: bool,
}

impl FolderParts {
    pub(super) fn new(agreed: bool) -> FolderParts {
        FolderParts {
            agreed,
            description: None,
            complete: false,
        }
    }

    /// Takes one of the three messages, after the last round.
    pub(super) fn take(&mut self, message: Message, output: &Output) -> Result<()> {
        let wrong = |why| Err(session::out_of_place(&message, why));
        if !self.agreed {
            return wrong("the capability guest-folder was not agreed on");
        }
        if self.complete {
            return wrong("the device state is complete");
        }
        match (message, &self.description) {
            (Message::Description(description), None) => {
                self.description = Some(description);
                Ok(())
            }
            (message @ Message::Description(_), Some(_)) => Err(session::out_of_place(
                &message,
                "the guest is described already",
            )),
            (message, None) => Err(session::out_of_place(
                &message,
                "the guest is not yet described",
            )),
            (Message::DeviceState { offset, bytes }, Some(_)) => {
                let (so_far, _) = output.device_state_sum();
                same("the place of a piece of device state", offset, so_far)?;
                Ok(output.append_device_state(&bytes)?)
            }
            (Message::DeviceStateEnd { total, hash }, Some(_)) => {
                let (have, found) = output.device_state_sum();
                same("the length of the device state", have, total)?;
                self.complete = true;
                if found == hash {
                    return Ok(());
                }
                Err(Error::new(
                    Kind::Differs,
                    format!(
                        "the device state that arrived is not what was sent: its hash is \
                         {found:032x}, not {hash:032x}"
                    ),
                ))
            }
            (message, Some(_)) => Err(session::out_of_place(&message, "rounds are over")),
        }
    }

    /// `Finish` has come: whether it may, and what the guest's description is.
    pub(super) fn end(&mut self) -> Result<Option<Description>> {
        if self.complete || !self.agreed {
            return Ok(self.description.take());
        }
        Err(WireError::OutOfPlace {
            record: "Finish",
            why: "the device state is not complete",
        }
        .into())
    }
}

fn same(field: &'static str, given: u64, expected: u64) -> Result<()> {
    if given == expected {
        return Ok(());
    }
    Err(WireError::Contradiction {
        field,
        given,
        expected,
    }
    .into())
}
