//! Why a command got no answer.

use std::io;
use std::time::Duration;

use crate::error::{Error, Kind};
use crate::units::format_duration;

/// Why a command got no answer, or the error that it got. Each is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The connection failed.
    #[error("cannot connect to the monitor at {address}")]
    Connect {
        /// The monitor's address.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Monitors have no such address.
    #[error("invalid monitor address {address}: allowed are a path, unix:PATH and tcp:HOST:PORT")]
    Address {
        /// The address that was given.
        address: String,
    },
    /// No answer within the time limit.
    #[error(
        "the monitor at {address} gave no {awaited} within {}{hint}", format_duration(*.limit)
    )]
    Silent {
        /// The monitor's address.
        address: String,
        /// What was awaited from it.
        awaited: String,
        /// The time limit.
        limit: Duration,
        /// A possible reason, which follows the sentence.
        hint: &'static str,
    },
    /// It closed the connection.
    #[error("the monitor at {address} hung up before its {awaited}")]
    HungUp {
        /// The monitor's address.
        address: String,
        /// What was awaited from it.
        awaited: String,
    },
    /// The connection broke.
    #[error("the connection to the monitor at {address} broke")]
    Broken {
        /// The monitor's address.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// What it sent is not QMP.
    #[error("{address} does not speak QMP: {why}")]
    NotQmp {
        /// The monitor's address.
        address: String,
        /// What is wrong with its message.
        why: String,
    },
    /// The wait was ended from elsewhere.
    #[error("interrupted")]
    Interrupted,
    /// It answered with an error, in its own words.
    #[error("{desc}")]
    Declined {
        /// QMP's class, such as `GenericError`.
        class: String,
        /// The error message.
        desc: String,
    },
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Error {
        let kind = match error {
            ClientError::Address { .. } => Kind::Usage,
            ClientError::Interrupted => return Error::interrupted(),
            _ => Kind::Failed,
        };
        Error::new(kind, error)
    }
}
