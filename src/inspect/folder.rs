//! What a stream of ours holds of a guest folder besides RAM: whether it comes in order, complete,
//! and undamaged.

use xxhash_rust::xxh3::Xxh3;

use crate::description::MAX_DEVICE_STATE;
use crate::wire::WireError;
use crate::wire::native::Message;

/// Description and device state, as far as they have come.
pub(super) struct Rest {
    /// Whether the hello has the capability for it.
    pub(super) announced: bool,
    described: bool,
    bytes: u64,
    hasher: Box<Xxh3>,
    complete: bool,
}

impl Default for Rest {
    fn default() -> Rest {
        Rest {
            announced: false,
            described: false,
            bytes: 0,
            hasher: Box::new(Xxh3::new()),
            complete: false,
        }
    }
}

impl Rest {
    /// Takes one of the three messages.
    pub(super) fn take(&mut self, message: &Message) -> Result<(), WireError> {
        let record = message.kind().name();
        let out_of_place = |why| Err(WireError::OutOfPlace { record, why });
        if !self.announced {
            return out_of_place("the capability guest-folder was not offered");
        }
        if self.complete {
            return out_of_place("the device state is complete");
        }
        match message {
            Message::Description(_) if self.described => {
                out_of_place("the guest is described already")
            }
            Message::Description(_) => {
                self.described = true;
                Ok(())
            }
            _ if !self.described => out_of_place("the guest is not yet described"),
            Message::DeviceState { offset, bytes } => {
                let field = "the place of a piece of device state";
                super::native::contradicts(field, *offset, self.bytes)?;
                self.bytes += bytes.len() as u64;
                self.hasher.update(bytes);
                if self.bytes > MAX_DEVICE_STATE {
                    return Err(WireError::TooLarge {
                        field: "the length of the device state",
                        given: self.bytes,
                        allowed: MAX_DEVICE_STATE,
                    });
                }
                Ok(())
            }
            Message::DeviceStateEnd { total, hash } => {
                let field = "the length of the device state";
                super::native::contradicts(field, self.bytes, *total)?;
                self.complete = true;
                let found = self.hasher.digest128();
                if found == *hash {
                    return Ok(());
                }
                // The lower half tells them apart as well as all of it.
                Err(WireError::Damaged {
                    record: "device state",
                    found: found as u64,
                    expected: *hash as u64,
                })
            }
            _ => out_of_place("it is no part of a guest folder"),
        }
    }

    /// Whether nothing is missing of it.
    pub(super) fn is_whole(&self) -> bool {
        self.complete || !self.announced
    }
}
