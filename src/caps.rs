//! Capabilities: what a migration may make use of, switched on or off by name.
//!
//! The names are QEMU's. A parameter says *how much* or *how* ([`crate::params`]), a capability
//! says *whether*. Both ends must agree on them before a page moves.

use crate::names::UnknownName;
use crate::text::Quoted;
use crate::units::parse_switch;

/// A feature that a migration may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// Batches of pages are compressed with the method of `compress-method`.
    Compress,
    /// After the bulk stage, pages that changed travel as XBZRLE deltas.
    Xbzrle,
    /// On the qemu wire, the destination confirms that it has loaded the guest.
    ReturnPath,
    /// A writer that outruns the link is slowed down.
    AutoConverge,
    /// A monitor reports a migration's states and rounds as events.
    Events,
    /// Before the last round, with the writer stopped, a migration waits for `migrate-continue`.
    PauseBeforeSwitchover,
    /// For QEMU compatibility: storage is not migrated here.
    ZeroBlocks,
    /// For QEMU compatibility: RDMA is not supported here.
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
                "On the qemu wire, wait for the destination to confirm that it has loaded the guest"
            }
            Capability::AutoConverge => {
                "In a live migration, slow down a writer that changes more than the link carries"
            }
            Capability::Events => "Report each state and each round as an event on the monitor",
            Capability::PauseBeforeSwitchover => {
                "Before the last round, with the writer stopped, wait for migrate-continue"
            }
            Capability::ZeroBlocks => {
                "Accepted for QEMU compatibility; no effect, because storage is not migrated"
            }
            Capability::RdmaPinAll => {
                "Known for QEMU compatibility; never available, because RDMA is not supported"
            }
        }
    }

    /// Whether it is on by default.
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
            Capability::RdmaPinAll => Some("RDMA is not supported"),
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
    /// The defaults for a stream that a QEMU reads: `compress` is off, as it is there, because a QEMU
    /// that has it off, or no longer has it, cannot load such a stream.
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

    /// Why this set of capabilities cannot be used, in a sentence; `None` if it can.
    ///
    /// This is the one place for rules between capabilities. So far none excludes another: one that
    /// needs something else (a writer, a way back, a monitor) has no effect without it, or the command
    /// refuses it.
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
