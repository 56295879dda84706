//! Links between source and destination: where to ([`Address`]), how they come about
//! ([`connect`], [`listen`]), bytes with a time limit on silence ([`Stream`]), and a slower link
//! than there is ([`link`](mod@link)).
//!
//! Every wait in here ends when the session is aborted ([`Abort`]).

mod abort;
mod address;
mod child;
pub mod connect;
pub mod link;
pub mod listen;
mod stream;

pub use abort::Abort;
pub(crate) use abort::Woken;
pub use address::Address;
pub use link::EmulatedLink;
pub use stream::Stream;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Kind};

/// What can go wrong with a link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address is none.
    #[error(
        "'{given}' is no address: {why}; allowed are tcp:HOST:PORT, unix:PATH, file:PATH, fd:N and exec:COMMAND"
    )]
    Address {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The system declined.
    #[error("cannot {what} {address}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which address.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nobody took the connection in time.
    #[error("cannot connect to {address} within {} s", limit.as_secs_f32())]
    ConnectTimeout {
        /// Where to.
        address: String,
        /// How long it was tried.
        limit: Duration,
        /// What the last attempt met.
        #[source]
        source: io::Error,
    },
    /// Nobody came in time.
    #[error("nobody connected within {} s", limit.as_secs_f32())]
    AcceptTimeout {
        /// How long it was waited.
        limit: Duration,
    },
    /// The peer has not been heard for too long.
    #[error("the peer has been silent for {} s", limit.as_secs_f32())]
    Silent {
        /// The time limit.
        limit: Duration,
    },
    /// The peer closed the link where it may not.
    #[error("the peer closed the connection in the middle of the migration")]
    Closed,
    /// Reading or writing failed.
    #[error("the connection failed")]
    Link(#[source] io::Error),
    /// A stored stream is there already.
    #[error("'{}' exists already (--force replaces it)", path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// Another process is writing the same stored stream.
    #[error("'{}' is being written by another process", path.display())]
    FileBusy {
        /// The partial file.
        path: PathBuf,
    },
    /// Another session listens there.
    #[error("somebody is listening on {address} already")]
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
        /// What was run.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The session was aborted while this was waiting.
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
