//! Capabilities: what a migration may make use of, switched on or off by name.
//!
//! The names are QEMU's. A parameter says *how much* or *how* ([`crate::params`]), a capability
//! says *whether*. Both ends must agree on them before a page moves.

use crate::names::UnknownName;
use crate::text::Quoted;
use crate::units::parse_switch;

/// Something that a migration may make use of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// Batches of pages are compressed with the method of `compress-method`.
    Compress,
    /// After the bulk stage, pages that changed travel as XBZRLE deltas.
    Xbzrle,
    /// On the qemu wire, the destination says in the end that it has loaded the guest.
    ReturnPath,
    /// A writer that outruns the link is slowed down.
    AutoConverge,
    /// A monitor tells of a migration's states and rounds as they come.
    Events,
    /// Before the last round, with the writer standing still, a migration waits for leave.
    PauseBeforeSwitchover,
    /// QEMU's, for storage, which is not moved here.
    ZeroBlocks,
    /// QEMU's, for RDMA, which is not spoken here.
    RdmaPinAll,
}

names!(
    "capability",
    Capability {
        Compress: "compress",
        Xbzrle: "xbzrle",
        ReturnPath: "return-path",
        AutoConverge: "auto-converge",
        Events: "events",
        PauseBeforeSwitchover: "pause-before-switchover",
        ZeroBlocks: "zero-blocks",
        RdmaPinAll: "rdma-pin-all"
    }
);

impl Capability {
    /// What it does, in a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Capability::Compress => "Compress batches of pages, with the method of compress-method",
            Capability::Xbzrle => {
                "After the bulk stage, send only what changed within a page, as XBZRLE deltas"
            }
            Capability::ReturnPath => {
                "On the qemu wire, have the destination say in the end that it has loaded the guest"
            }
            Capability::AutoConverge => {
                "In a live migration, slow down a writer that changes more than the link carries"
            }
            Capability::Events => "Have a monitor tell of each state and each round as it comes",
            Capability::PauseBeforeSwitchover => {
                "Before the last round, with the writer standing still, wait for migrate-continue"
            }
            Capability::ZeroBlocks => {
                "Storage's, in QEMU: taken as it is given, and without effect, as only RAM is moved"
            }
            Capability::RdmaPinAll => "RDMA's, in QEMU: never available here",
        }
    }

    /// Whether it is on unless told otherwise.
    pub fn default_state(self) -> bool {
        match self {
            Capability::Compress | Capability::Xbzrle | Capability::ReturnPath => true,
            Capability::AutoConverge
            | Capability::Events
            | Capability::PauseBeforeSwitchover
            | Capability::ZeroBlocks
            | Capability::RdmaPinAll => false,
        }
    }

    /// Why this program cannot do it, to follow the words "not available here: "; `None` if it
    /// can.
    pub fn unavailable(self) -> Option<&'static str> {
        match self {
            Capability::Compress
            | Capability::Xbzrle
            | Capability::ReturnPath
            | Capability::AutoConverge
            | Capability::Events
            | Capability::PauseBeforeSwitchover
            | Capability::ZeroBlocks => None,
            Capability::RdmaPinAll => Some("there is no RDMA to pin memory for"),
        }
    }

    /// Whether this program can do it.
    pub fn available(self) -> bool {
        self.unavailable().is_none()
    }
}

/// Why a capability could not be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapError {
    /// No capability has this name.
    #[error(transparent)]
    Unknown(#[from] UnknownName),
    /// The text is not `NAME=on|off`.
    #[error("capability {} is not NAME=on or NAME=off, where NAME is one of {}", Quoted(.0), Capability::ALL.map(Capability::name).join(", "))]
    Malformed(String),
}

/// Which capabilities are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Indexed as [`Capability::ALL`] is.
    on: [bool; Capability::ALL.len()],
}

impl Default for Caps {
    fn default() -> Caps {
        Caps {
            on: Capability::ALL.map(Capability::default_state),
        }
    }
}

impl Caps {
    /// What is on unless told otherwise for a stream that a QEMU reads: `compress` is off, as it is
    /// there, because a QEMU that has it off, or no longer has it, cannot load such a stream.
    pub fn for_qemu() -> Caps {
        let mut caps = Caps::default();
        caps.on[Capability::Compress as usize] = false;
        caps
    }

    /// Whether the capability is on.
    pub fn has(&self, capability: Capability) -> bool {
        self.on[capability as usize]
    }

    /// Turns a capability on or off by its name.
    ///
    /// # Errors
    /// [`CapError::Unknown`], with the list of names.
    pub fn set(&mut self, name: &str, on: bool) -> Result<(), CapError> {
        self.switch(name.parse()?, on);
        Ok(())
    }

    /// Turns a capability on or off.
    pub fn switch(&mut self, capability: Capability, on: bool) {
        self.on[capability as usize] = on;
    }

    /// Sets from the text `NAME=on|off`, where `true`, `yes` and `1`, and `false`, `no` and `0`
    /// do as well.
    ///
    /// # Errors
    /// An unknown name, or a text of another form. Nothing is changed then.
    pub fn set_text(&mut self, text: &str) -> Result<(), CapError> {
        let malformed = || CapError::Malformed(text.to_owned());
        let (name, state) = text.split_once('=').ok_or_else(malformed)?;
        let capability: Capability = name.parse()?;
        let on = parse_switch(state).ok_or_else(malformed)?;
        self.set(capability.name(), on)
    }

    /// Says in a sentence why this set of capabilities cannot be used; `None` if it can.
    ///
    /// The one place for rules between capabilities, whoever switched them. None of those that
    /// there are excludes another: where one needs what only the request tells (a writer, a way
    /// back, somebody who gives leave), it is without effect otherwise, or the command that was
    /// given says so.
    pub fn conflicts(&self) -> Option<String> {
        let on = Capability::ALL.into_iter().filter(|&one| self.has(one));
        on.into_iter().find_map(|capability| {
            let reason = capability.unavailable()?;
            Some(format!(
                "capability {capability} is not available here: {reason}"
            ))
        })
    }
}

#[cfg(test)]
mod tests;
