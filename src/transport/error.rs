//! What can go wrong with a link.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use crate::error::{Error, Kind};
use crate::partial::OutputError;

/// What can go wrong with a link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// An address that cannot be read, or not be used like this.
    #[error(
        "invalid address '{given}': {why}; allowed are tcp:HOST:PORT, unix:PATH, file:PATH, fd:N and exec:COMMAND"
    )]
    Address {
        /// The address as it was given.
        given: String,
        /// What is wrong with it.
        why: Cow<'static, str>,
    },
    /// A system call failed.
    #[error("cannot {what} {address}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which address.
        address: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The connection was not accepted in time.
    #[error("cannot connect to {address} within {} s", limit.as_secs_f32())]
    ConnectTimeout {
        /// The destination's address.
        address: String,
        /// How long it was tried.
        limit: Duration,
        /// Why the last attempt failed.
        #[source]
        source: io::Error,
    },
    /// No connection came in time.
    #[error("no source connected within {} s", limit.as_secs_f32())]
    AcceptTimeout {
        /// How long the destination waited.
        limit: Duration,
    },
    /// The peer has sent or taken nothing for too long.
    #[error("the peer has been silent for {} s", limit.as_secs_f32())]
    Silent {
        /// The time limit.
        limit: Duration,
    },
    /// The peer closed the link before the end.
    #[error("the peer closed the connection in the middle of the migration")]
    Closed,
    /// Reading or writing failed.
    #[error("the connection failed")]
    Link(#[source] io::Error),
    /// The file of a stored stream cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Another process listens at the address.
    #[error("{address} is already in use")]
    InUse {
        /// The address.
        address: String,
    },
    /// A link without a way back carries one connection only.
    #[error("{address} carries one connection, not {connections}")]
    OneConnection {
        /// The address.
        address: String,
        /// How many were asked for.
        connections: u16,
    },
    /// The command at the other end failed.
    #[error("the command '{command}' failed: {status}")]
    Command {
        /// The shell command.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The session was aborted during a wait.
    #[error("interrupted")]
    Aborted,
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Error {
        let kind = match &error {
            TransportError::Address { .. } | TransportError::OneConnection { .. } => Kind::Usage,
            TransportError::Aborted => Kind::Interrupted,
            _ => Kind::Failed,
        };
        Error::new(kind, error)
    }
}
