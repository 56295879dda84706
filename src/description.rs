//! What is known of a guest besides its RAM: its description as QEMU's stream has it, and the bounds
//! of its device state.
//!
//! On the ground floor, because the wires carry it and guest folders store it.

/// The most bytes of a machine type's name.
pub const MAX_MACHINE: usize = 255;
/// The most bytes of a configuration section's sub-sections, and of all commands' data together.
pub const MAX_CONFIGURATION: usize = 64 << 10;
/// The most commands between RAM's rounds.
pub const MAX_COMMANDS: usize = 256;
/// The most bytes of device state.
pub const MAX_DEVICE_STATE: u64 = 1 << 30;

/// A part of a description that exceeds its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} are {given}, but at most {allowed} are allowed")]
pub struct OutOfBounds {
    /// The part.
    pub what: &'static str,
    /// Its size.
    pub given: u64,
    /// The bound.
    pub allowed: u64,
}

/// What else is known of a guest: as QEMU's stream has it, kept as it came so that it can be
/// written again. All of it may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// The machine type, such as `pc-i440fx-7.2`; at most [`MAX_MACHINE`] bytes.
    pub machine: String,
    /// The raw sub-sections of QEMU's configuration section; at most [`MAX_CONFIGURATION`] bytes.
    pub configuration: Vec<u8>,
    /// Number and data of the commands that stood between RAM's rounds, such as 11, the start of
    /// the switchover; at most [`MAX_COMMANDS`], with [`MAX_CONFIGURATION`] bytes together.
    pub commands: Vec<(u16, Vec<u8>)>,
    /// The number of the section that RAM came in.
    pub ram_section_id: u32,
}

impl Description {
    /// Whether all of it is within its bounds.
    ///
    /// # Errors
    /// [`OutOfBounds`], which names the first part that is not.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let data: usize = self.commands.iter().map(|(_, data)| data.len()).sum();
        for (what, given, allowed) in [
            (
                "the bytes of the machine type",
                self.machine.len(),
                MAX_MACHINE,
            ),
            (
                "the bytes of the configuration",
                self.configuration.len(),
                MAX_CONFIGURATION,
            ),
            ("the commands", self.commands.len(), MAX_COMMANDS),
            ("the bytes of the commands", data, MAX_CONFIGURATION),
        ] {
            if given > allowed {
                return Err(OutOfBounds {
                    what,
                    given: given as u64,
                    allowed: allowed as u64,
                });
            }
        }
        Ok(())
    }
}
