//! What can go wrong with a QEMU as a writer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::QemuWriter;
use crate::error::{Error, Kind};
use crate::qmp::ClientError;
use crate::units::{format_bytes, format_duration};
use crate::writer::maybe_elsewhere;

/// What can go wrong with a QEMU as a writer, besides its [monitor](ClientError).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QemuError {
    /// The monitor is another program's.
    #[error(
        "the monitor at {socket} is {product}, not a QEMU: pass the QMP socket of the QEMU that runs the guest"
    )]
    NotQemu {
        /// The monitor's address.
        socket: String,
        /// What it calls itself.
        product: String,
    },
    /// The listener's PID is not known here.
    #[error(
        "cannot identify the process that listens at {socket}: it is in another PID namespace; run \
         ramferry where the QEMU runs"
    )]
    Unidentified {
        /// The monitor's address.
        socket: String,
    },
    /// The guest is paused.
    #[error(
        "the guest of the QEMU at {socket} is not running (state {state}: {why}): {}resume it first (QMP \
         command cont), or pass --paused-ok to migrate it as a paused guest, which stays paused",
        // It has not run yet.
        maybe_elsewhere(*again || state == "prelaunch")
    )]
    Paused {
        /// The monitor's address.
        socket: String,
        /// QEMU's name of the state.
        state: String,
        /// What it means.
        why: &'static str,
        /// Whether the user knows that no destination runs the guest.
        again: bool,
    },
    /// A guest in this state is not migrated.
    #[error("the guest of the QEMU at {socket} cannot be migrated in state {state}: {why}")]
    WrongState {
        /// The monitor's address.
        socket: String,
        /// QEMU's name of the state.
        state: String,
        /// What it means.
        why: &'static str,
    },
    /// QEMU itself migrates the guest.
    #[error(
        "the QEMU at {socket} migrates its guest itself (status {status}): wait for that migration to end, \
         or cancel it"
    )]
    Migrating {
        /// The monitor's address.
        socket: String,
        /// QEMU's name of the migration's status.
        status: String,
    },
    /// The image is not what the guest's RAM is in.
    #[error(
        "'{}' is not the RAM of the QEMU at {socket}: process {pid} does not map it shared and writable; \
         pass the file of its memory-backend-file, which needs share=on", image.display()
    )]
    NotItsRam {
        /// The monitor's address.
        socket: String,
        /// The QEMU's PID.
        pid: u32,
        /// The image.
        image: PathBuf,
    },
    /// The guest has more RAM than what is to be sent.
    #[error(
        "the guest of the QEMU at {socket} has {} of RAM, and what is sent is {} of it: give the QEMU one \
         memory-backend-file for all of it, or use QEMU's own migration", format_bytes(*all), format_bytes(*held)
    )]
    NotAllItsRam {
        /// The monitor's address.
        socket: String,
        /// The bytes of its RAM.
        all: u64,
        /// The bytes of the images.
        held: u64,
    },
    /// Whether the image is what the guest's RAM is in cannot be found out.
    #[error(
        "cannot tell whether '{}' is the RAM of the QEMU at {socket}: process {pid} cannot be examined by this \
         user; run ramferry as the user that runs the QEMU, or as root", image.display()
    )]
    Unexamined {
        /// The monitor's address.
        socket: String,
        /// The QEMU's PID.
        pid: u32,
        /// The image.
        image: PathBuf,
    },
    /// QEMU has no result for `stop`.
    #[error(
        "the guest of the QEMU at {socket} did not stop within {}: QEMU first completes the guest's disk \
         I/O; raise timeout if its disks are slow",
        format_duration(*limit)
    )]
    DidNotStop {
        /// The monitor's address.
        socket: String,
        /// How long it had.
        limit: Duration,
    },
    /// The guest's state is none that `stop` leads to.
    #[error("the guest of the QEMU at {socket} is in state {state} after it was stopped: {why}")]
    NotStopped {
        /// The monitor's address.
        socket: String,
        /// QEMU's name of the state.
        state: String,
        /// What it means.
        why: &'static str,
    },
    /// It was stopped for the last round, and runs or ran again.
    #[error(
        "the guest of the QEMU at {socket} was resumed by another client while its last pages were sent \
         ({sign}): what arrived is no longer its RAM"
    )]
    Resumed {
        /// The monitor's address.
        socket: String,
        /// What says so.
        sign: String,
    },
    /// Events were dropped, of which one may have said that the guest was resumed.
    #[error(
        "cannot tell whether the guest of the QEMU at {socket} was resumed while its last pages were sent: \
         it sent too many events to keep them"
    )]
    EventsLost {
        /// The monitor's address.
        socket: String,
    },
    /// QEMU declines a command.
    #[error("the QEMU at {socket} refuses {command}")]
    Declined {
        /// The monitor's address.
        socket: String,
        /// The command.
        command: &'static str,
        /// Its words.
        source: ClientError,
    },
    /// The connection has ended. (Its process may not show as ended yet when that is why.)
    #[error("the QEMU at {socket} (process {pid}) has ended, or closed its monitor")]
    Lost {
        /// The monitor's address.
        socket: String,
        /// The QEMU's PID.
        pid: u32,
        /// How the connection ended.
        source: ClientError,
    },
    /// The guest was not resumed, after something else went wrong.
    #[error("{error}; and its guest stays paused: {why}{hint}")]
    StaysPaused {
        /// What went wrong first.
        error: String,
        /// Why the guest is not resumed.
        why: String,
        /// What happens next, or what to do.
        hint: &'static str,
    },
}

impl QemuError {
    pub(in crate::writer) fn not_its_ram(qemu: &QemuWriter, image: &Path) -> QemuError {
        QemuError::NotItsRam {
            socket: qemu.socket().to_owned(),
            pid: qemu.pid(),
            image: image.to_owned(),
        }
    }

    pub(in crate::writer) fn not_all_its_ram(qemu: &QemuWriter, all: u64, held: u64) -> QemuError {
        QemuError::NotAllItsRam {
            socket: qemu.socket().to_owned(),
            all,
            held,
        }
    }

    pub(in crate::writer) fn unexamined(qemu: &QemuWriter, image: &Path) -> QemuError {
        QemuError::Unexamined {
            socket: qemu.socket().to_owned(),
            pid: qemu.pid(),
            image: image.to_owned(),
        }
    }
}

impl From<QemuError> for Error {
    fn from(error: QemuError) -> Error {
        let kind = match error {
            QemuError::NotQemu { .. }
            | QemuError::NotItsRam { .. }
            | QemuError::NotAllItsRam { .. } => Kind::Usage,
            _ => Kind::Failed,
        };
        Error::new(kind, error)
    }
}
