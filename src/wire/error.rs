//! What can be wrong with bytes from a peer.

use crate::error::{Error, Kind};

/// What can be wrong with bytes from a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The stream does not begin with our magic.
    #[error("this is not a ramferry stream: it begins with {found:02x?}")]
    NotOurs {
        /// The stream's first bytes.
        found: [u8; 8],
    },
    /// A record is shorter than its fields need.
    #[error("the {record} is truncated: {have} bytes are not enough")]
    Short {
        /// The record's name, as in the format's documentation.
        record: &'static str,
        /// The bytes that there are.
        have: usize,
    },
    /// A record holds more than its fields account for.
    #[error("the {record} has {extra} bytes too many")]
    Trailing {
        /// The record's name, as in the format's documentation.
        record: &'static str,
        /// How many bytes are left over.
        extra: usize,
    },
    /// A number is too large.
    #[error("{field} is {given}, but at most {allowed} is allowed")]
    TooLarge {
        /// The number's name.
        field: &'static str,
        /// The peer's number.
        given: u64,
        /// The largest allowed number.
        allowed: u64,
    },
    /// A number has no known meaning.
    #[error("{field} {given} is unknown")]
    Unknown {
        /// The number's name.
        field: &'static str,
        /// The peer's number.
        given: u64,
    },
    /// Two numbers contradict each other.
    #[error("{field} is {given}, but {expected} was expected")]
    Contradiction {
        /// The number's name.
        field: &'static str,
        /// The peer's number.
        given: u64,
        /// What follows from what the peer sent before.
        expected: u64,
    },
    /// The hash over a record does not fit its bytes.
    #[error("the {record} is damaged: its hash is {found:016x}, not {expected:016x}")]
    Damaged {
        /// The record's name, as in the format's documentation.
        record: &'static str,
        /// The hash of what arrived.
        found: u64,
        /// The hash that it should have.
        expected: u64,
    },
    /// A name is not UTF-8.
    #[error("{field} is not valid UTF-8")]
    NotText {
        /// The kind of name.
        field: &'static str,
    },
    /// A record is not allowed at this point.
    #[error("{record} is out of place: {why}")]
    OutOfPlace {
        /// The record's name, as in the format's documentation.
        record: &'static str,
        /// Why it is not allowed.
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
