//! In which order the parts of a guest folder besides RAM may come: one description, the pieces of
//! the device state one after another, and its end.

use super::Message;
use crate::description::MAX_DEVICE_STATE;
use crate::wire::{WireError, must_be};

/// How far they have come.
#[derive(Debug, Default)]
pub struct FolderParts {
    /// Whether they must come at all.
    expected: bool,
    described: bool,
    /// Bytes of the device state that precede RAM's pages in QEMU's stream.
    early: u64,
    complete: bool,
}

impl FolderParts {
    /// `expected`: both ends have the capability `guest-folder`.
    pub fn new(expected: bool) -> FolderParts {
        FolderParts {
            expected,
            described: false,
            early: 0,
            complete: false,
        }
    }

    /// Checks that a message that comes after the last round may come now, when `so_far` bytes of
    /// device state have come before it. The hash in its end is for the caller to compare.
    ///
    /// # Errors
    /// A message that is out of place, and a piece or an end that is not where it says.
    pub fn check(&mut self, message: &Message, so_far: u64) -> Result<(), WireError> {
        let out_of_place = |why| {
            Err(WireError::OutOfPlace {
                record: message.kind().name(),
                why,
            })
        };
        if !self.expected {
            return out_of_place("the capability guest-folder was not agreed on");
        }
        if self.complete {
            return out_of_place("the device state is complete");
        }
        match message {
            Message::Description(_) if self.described => {
                out_of_place("the guest has been described already")
            }
            Message::Description(description) => {
                self.described = true;
                self.early = description.early.bytes();
                Ok(())
            }
            _ if !self.described => out_of_place("the guest has not been described yet"),
            Message::DeviceState { offset, bytes } => {
                must_be("the place of a piece of device state", *offset, so_far)?;
                let given = so_far.saturating_add(bytes.len() as u64);
                if given > MAX_DEVICE_STATE {
                    return Err(WireError::TooLarge {
                        field: "the length of the device state",
                        given,
                        allowed: MAX_DEVICE_STATE,
                    });
                }
                Ok(())
            }
            Message::DeviceStateEnd { total, .. } => {
                must_be("the length of the device state", so_far, *total)?;
                if self.early > *total {
                    return Err(WireError::TooLarge {
                        field: "the length of the early device state",
                        given: self.early,
                        allowed: *total,
                    });
                }
                self.complete = true;
                Ok(())
            }
            _ => out_of_place("rounds are over"),
        }
    }

    /// Whether none of them is missing.
    pub fn is_whole(&self) -> bool {
        self.complete || !self.expected
    }
}
