//! What can go wrong with a link.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use crate::error::{Error, Kind};
use crate::partial::OutputError;

/// What can go wrong with a link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
// The messages say what the fields are.
#[allow(missing_docs)]
pub enum TransportError {
    /// An address that cannot be read, or not be used like this.
    #[error("invalid address '{given}': {why}; allowed are {allowed}")]
    Address {
        given: String,
        why: Cow<'static, str>,
        allowed: &'static str,
    },
    /// A system call failed.
    #[error("cannot {what} {address}")]
    Io {
        what: &'static str,
        address: String,
        #[source]
        source: io::Error,
    },
    /// The connection was not accepted in time.
    #[error("cannot connect to {address} within {} s", limit.as_secs_f32())]
    ConnectTimeout {
        address: String,
        limit: Duration,
        #[source]
        source: io::Error,
    },
    /// No connection came in time.
    #[error("no source connected within {} s", limit.as_secs_f32())]
    AcceptTimeout { limit: Duration },
    /// The peer has sent or taken nothing for too long.
    #[error("the peer has been silent for {} s", limit.as_secs_f32())]
    Silent { limit: Duration },
    /// The peer has taken nothing for too long, on any connection, though it was heard.
    #[error(
        "the peer has taken nothing for {} s, though it keeps answering; if it only needs longer, raise --timeout",
        limit.as_secs_f32()
    )]
    TakesNothing { limit: Duration },
    /// The peer closed the link before the end.
    #[error("the peer closed the connection")]
    Closed,
    /// A file or a pipe holds the beginning of a stream only.
    #[error("{address} ends before the stream does")]
    Ended { address: String },
    /// Reading or writing failed.
    #[error("the connection failed")]
    Link(#[source] io::Error),
    /// The file of a stored stream cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Another process listens at the address.
    #[error("{address} is already in use")]
    InUse { address: String },
    /// A link without a way back carries one connection only.
    #[error("{address} carries one connection, not {connections}")]
    OneConnection { address: String, connections: u16 },
    /// The command at the other end failed.
    #[error("the command '{command}' failed: {status}")]
    Command {
        command: String,
        status: std::process::ExitStatus,
    },
    /// The session was aborted during a wait.
    #[error("interrupted")]
    Aborted,
}

impl TransportError {
    /// The error of an address where only some schemes are allowed.
    #[must_use]
    pub(crate) fn allowing(self, allowed: &'static str) -> TransportError {
        match self {
            TransportError::Address { given, why, .. } => TransportError::Address {
                given,
                why,
                allowed,
            },
            other => other,
        }
    }
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
