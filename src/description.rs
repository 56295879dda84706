//! A guest apart from its RAM: its description, which is QEMU's, and the bounds of its device state.
//!
//! It depends on nothing here, because the wires carry it and guest folders store it.

/// The maximum length of a machine type's name, in bytes.
pub const MAX_MACHINE: usize = 255;
/// The maximum size of the configuration section's sub-sections, and of all commands' data together,
/// in bytes.
pub const MAX_CONFIGURATION: usize = 64 << 10;
/// The maximum number of commands between the rounds.
pub const MAX_COMMANDS: usize = 256;
/// The maximum size of the device state, in bytes.
pub const MAX_DEVICE_STATE: u64 = 1 << 30;
/// The maximum size of the part of it that precedes RAM's pages, in bytes. It has one bit for each
/// 2 MiB of a virtio-mem device.
pub const MAX_EARLY_STATE: u64 = 16 << 20;

/// A part of a description that exceeds its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many {what}: {given}, but at most {allowed} are allowed")]
#[allow(missing_docs)] // The fields are what the message says of them.
pub struct OutOfBounds {
    pub what: &'static str,
    pub given: u64,
    pub allowed: u64,
}

/// The parts of QEMU's stream around RAM, kept unchanged so that they can be written again. Each may
/// be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// The machine type, such as `pc-i440fx-7.2`; at most [`MAX_MACHINE`] bytes.
    pub machine: String,
    /// The raw sub-sections of QEMU's configuration section; at most [`MAX_CONFIGURATION`] bytes.
    pub configuration: Vec<u8>,
    /// Number and data of the commands between the rounds, such as 11, the start of the switchover;
    /// at most [`MAX_COMMANDS`], with [`MAX_CONFIGURATION`] bytes of data together.
    pub commands: Vec<(u16, Vec<u8>)>,
    /// The number of the section that RAM came in.
    pub ram_section_id: u32,
    /// How much of the device state precedes RAM's pages.
    pub early: EarlyState,
}

/// How many of the device state's first bytes precede RAM's pages in QEMU's stream, where they have to
/// be again when it is written: a virtio-mem device says there which of its blocks are plugged. At most
/// [`MAX_EARLY_STATE`] bytes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EarlyState {
    /// Before the list of RAM blocks, as QEMU 11 has it.
    pub before_blocks: u64,
    /// After these, between the list of RAM blocks and the first pages, as QEMU 8 to 10 have it.
    pub after_blocks: u64,
}

impl EarlyState {
    /// Bytes in both places.
    pub fn bytes(self) -> u64 {
        self.before_blocks.saturating_add(self.after_blocks)
    }

    /// Checks that a device state of `bytes` contains it.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    pub fn check_within(self, bytes: u64) -> Result<(), OutOfBounds> {
        at_most("bytes of early device state", self.bytes(), bytes)
    }
}

impl Description {
    /// Checks that all of it is within its bounds.
    ///
    /// # Errors
    /// [`OutOfBounds`], which names the first part that is not.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let data: usize = self.commands.iter().map(|(_, data)| data.len()).sum();
        for (what, given, allowed) in [
            ("bytes of the machine type", self.machine.len(), MAX_MACHINE),
            (
                "bytes of the configuration",
                self.configuration.len(),
                MAX_CONFIGURATION,
            ),
            ("commands", self.commands.len(), MAX_COMMANDS),
            ("bytes of commands", data, MAX_CONFIGURATION),
        ] {
            at_most(what, given as u64, allowed as u64)?;
        }
        self.early.check_within(MAX_EARLY_STATE)
    }
}

fn at_most(what: &'static str, given: u64, allowed: u64) -> Result<(), OutOfBounds> {
    if given > allowed {
        return Err(OutOfBounds {
            what,
            given,
            allowed,
        });
    }
    Ok(())
}
