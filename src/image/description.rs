//! What a guest consists of besides its RAM and its devices' state.

use super::folder::FolderError;

/// The most bytes of a machine type's name.
pub const MAX_MACHINE: usize = 255;
/// The most bytes of a configuration section's sub-sections, and of all commands' data together.
pub const MAX_CONFIGURATION: usize = 64 << 10;
/// The most commands between RAM's rounds.
pub const MAX_COMMANDS: usize = 256;

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
    /// [`FolderError::TooMany`], which names what is not.
    pub fn check(&self) -> Result<(), FolderError> {
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
                return Err(FolderError::TooMany {
                    what,
                    given: given as u64,
                    allowed: allowed as u64,
                });
            }
        }
        Ok(())
    }
}
