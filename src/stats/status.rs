//! The states of a migration, as QEMU names them, and which end has the guest.

use serde::Serialize;

/// The state of a migration, in QEMU's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Status {
    /// Not started.
    #[default]
    None,
    /// Connecting and agreeing.
    Setup,
    /// Rounds are under way.
    Active,
    /// The writer is stopped; the last round waits for `migrate-continue`.
    PreSwitchover,
    /// Everything is sent; the destination proves and commits.
    Device,
    /// Done.
    Completed,
    /// It did not work.
    Failed,
    /// It is being cancelled.
    Cancelling,
    /// It was cancelled.
    Cancelled,
}

names!(Status {
    None: "none",
    Setup: "setup",
    Active: "active",
    PreSwitchover: "pre-switchover",
    Device: "device",
    Completed: "completed",
    Failed: "failed",
    Cancelling: "cancelling",
    Cancelled: "cancelled"
});

impl Status {
    /// Whether there is a migration that goes on.
    pub fn is_running(self) -> bool {
        match self {
            Status::Setup
            | Status::Active
            | Status::PreSwitchover
            | Status::Device
            | Status::Cancelling => true,
            Status::None | Status::Completed | Status::Failed | Status::Cancelled => false,
        }
    }
}

/// Which end may run the guest, as far as this end knows. At every instant at most one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// The source. A destination that failed says so, too: it does not have the guest.
    Source,
    /// The destination, or what receives the stream that was stored.
    Destination,
    /// One of the two: the source handed over, and whether the destination took over is not known.
    Unknown,
}

names!(Owner {
    Source: "source",
    Destination: "destination",
    Unknown: "unknown"
});
