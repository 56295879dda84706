//! Later images of a guest's RAM, for delta rounds.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;

/// A later image of the same guest's RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Later {
    /// The file, or a guest folder.
    pub path: PathBuf,
    /// What its holes mean: pages that have not changed, as in Firecracker's diff snapshots; otherwise
    /// they are zero, as everywhere else.
    pub is_diff: bool,
}

impl Later {
    /// A whole image, or a guest folder.
    pub fn image(path: impl Into<PathBuf>) -> Later {
        Later {
            path: path.into(),
            is_diff: false,
        }
    }

    /// A sparse file of the image's size, whose data replaces pages of the image before, and whose
    /// holes leave them as they were.
    pub fn diff(path: impl Into<PathBuf>) -> Later {
        Later {
            path: path.into(),
            is_diff: true,
        }
    }

    /// Whether all of a file is data, so that a diff replaces every page. `false` also if that cannot be
    /// found out.
    pub(crate) fn has_no_holes(&self) -> bool {
        let hole = File::open(&self.path).and_then(|file| {
            let hole = rustix::fs::seek(&file, SeekFrom::Hole(0))?;
            Ok(hole == file.metadata()?.len())
        });
        hole.unwrap_or(false)
    }
}

impl From<PathBuf> for Later {
    fn from(path: PathBuf) -> Later {
        Later::image(path)
    }
}

impl From<&PathBuf> for Later {
    fn from(path: &PathBuf) -> Later {
        Later::image(path)
    }
}

impl From<&Path> for Later {
    fn from(path: &Path) -> Later {
        Later::image(path)
    }
}

impl From<&str> for Later {
    fn from(path: &str) -> Later {
        Later::image(path)
    }
}

impl From<String> for Later {
    fn from(path: String) -> Later {
        Later::image(path)
    }
}

impl From<&Later> for Later {
    fn from(later: &Later) -> Later {
        later.clone()
    }
}
