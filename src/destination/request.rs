//! What to receive, and what to make of it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::partial::partial_path;
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

    /// A stored stream may not be replaced by what it holds, not even by force.
    pub(super) fn keep_stream(&self) -> Result<()> {
        let identity = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        let output: PathBuf = self.output.components().collect();
        let written = [partial_path(&output), output];
        let written = written.map(|path| identity(&path));
        match &self.address {
            Address::File(stream)
                if identity(stream).is_some_and(|one| written.contains(&Some(one))) =>
            {
                let what = format!(
                    "'{}' is the stream to be received: choose another output",
                    stream.display()
                );
                Err(Error::new(Kind::Usage, what))
            }
            _ => Ok(()),
        }
    }
}
