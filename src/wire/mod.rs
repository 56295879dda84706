//! Bytes to typed records and back. No threads, sockets or files.
//!
//! [`native`] is our own format, [`qemu`] QEMU's migration stream; the specification of each is its
//! documentation.

pub mod native;
pub mod qemu;

use crate::error::{Error, Kind};

/// A block as a stream announces it before any page of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockInfo {
    /// Its name, at most 255 bytes.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Which of the two formats a source writes. A destination sees by itself what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// Our own.
    #[default]
    Native,
    /// QEMU's migration stream.
    Qemu,
}

names!(
    "wire format",
    Format {
        Native: "native",
        Qemu: "qemu"
    }
);

/// What can be wrong with bytes that a peer sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The stream does not begin as ours do.
    #[error("this is not a ramferry stream: it begins with {found:02x?}")]
    NotOurs {
        /// Its first bytes.
        found: [u8; 8],
    },
    /// A record is shorter than its own fields say.
    #[error("the {record} is truncated: {have} bytes are not enough")]
    Short {
        /// Which record.
        record: &'static str,
        /// How many bytes there are.
        have: usize,
    },
    /// A record holds more than its fields account for.
    #[error("the {record} has {extra} bytes too many")]
    Trailing {
        /// Which record.
        record: &'static str,
        /// How many are left over.
        extra: usize,
    },
    /// A number is outside of what is allowed for it.
    #[error("{field} is {given}, but at most {allowed} is allowed")]
    TooLarge {
        /// Which number.
        field: &'static str,
        /// What the peer said.
        given: u64,
        /// The most that is allowed.
        allowed: u64,
    },
    /// A number has no meaning.
    #[error("{field} {given} is unknown")]
    Unknown {
        /// Which number.
        field: &'static str,
        /// What the peer said.
        given: u64,
    },
    /// Two numbers contradict each other.
    #[error("{field} is {given}, but {expected} was expected")]
    Contradiction {
        /// Which number.
        field: &'static str,
        /// What the peer said.
        given: u64,
        /// What follows from what it said before.
        expected: u64,
    },
    /// The hash over a record does not fit its bytes.
    #[error("the {record} is damaged: its hash is {found:016x}, not {expected:016x}")]
    Damaged {
        /// Which record.
        record: &'static str,
        /// The hash of what arrived.
        found: u64,
        /// The hash that it should have.
        expected: u64,
    },
    /// A name is no UTF-8.
    #[error("{field} is not valid UTF-8")]
    NotText {
        /// Which name.
        field: &'static str,
    },
    /// A record stands where it may not.
    #[error("{record} is out of place: {why}")]
    OutOfPlace {
        /// Which record.
        record: &'static str,
        /// Why it may not stand there.
        why: &'static str,
    },
}

/// Whether a field has the value that it must have.
///
/// # Errors
/// [`WireError::Contradiction`].
pub(crate) fn must_be(field: &'static str, given: u64, expected: u64) -> Result<(), WireError> {
    if given == expected {
        return Ok(());
    }
    Err(WireError::Contradiction {
        field,
        given,
        expected,
    })
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Error {
        Error::new(Kind::Failed, error)
    }
}
