//! What to receive, and what to make of it.

use std::path::PathBuf;

use crate::transport::Address;

/// From where to receive a guest, and what to make of it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// From where. Which wire the source speaks shows in its first bytes.
    pub(crate) address: Address,
    /// What is written: a raw image or, if the source has one, a guest folder.
    pub(crate) output: PathBuf,
    /// The one block that is kept, as a raw image; the others are received, proven and dropped.
    pub(crate) block: Option<String>,
    /// Whether an output that exists already is replaced.
    pub(crate) force: bool,
    /// Whether the output is on disk before it counts as proven.
    pub(crate) sync: bool,
}

impl Request {
    /// All of a guest, with everything that may be used.
    pub(crate) fn new(address: Address, output: impl Into<PathBuf>) -> Request {
        Request {
            address,
            output: output.into(),
            block: None,
            force: false,
            sync: true,
        }
    }
}
