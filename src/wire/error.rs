//! What can be wrong with bytes from a peer.

use crate::error::{Error, Kind};

/// What can be wrong with bytes from a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
// The messages say what the fields are.
#[allow(missing_docs)]
pub enum WireError {
    /// The stream does not begin with our magic.
    #[error("this is not a ramferry stream: it begins with {found:02x?}")]
    NotOurs { found: [u8; 8] },
    /// A record is shorter than its fields need.
    #[error("the {record} is truncated: {have} bytes are not enough")]
    Short { record: &'static str, have: usize },
    /// A record holds more than its fields account for.
    #[error("the {record} has {extra} bytes too many")]
    Trailing { record: &'static str, extra: usize },
    /// A number is too large.
    #[error("{field} is {given}, but at most {allowed} is allowed")]
    TooLarge {
        field: &'static str,
        given: u64,
        allowed: u64,
    },
    /// A number has no known meaning.
    #[error("{field} {given} is unknown")]
    Unknown { field: &'static str, given: u64 },
    /// Two numbers contradict each other.
    #[error("{field} is {given}, but {expected} was expected")]
    Contradiction {
        field: &'static str,
        given: u64,
        expected: u64,
    },
    /// The hash over a record does not fit its bytes.
    #[error("the {record} is damaged: its hash is {found:016x}, not {expected:016x}")]
    Damaged {
        record: &'static str,
        found: u64,
        expected: u64,
    },
    /// A name is not UTF-8.
    #[error("{field} is not valid UTF-8")]
    NotText { field: &'static str },
    /// A record is not allowed at this point.
    #[error("{record} is out of place: {why}")]
    OutOfPlace {
        record: &'static str,
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
