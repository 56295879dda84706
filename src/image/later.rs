//! Later images of a guest's RAM, for delta rounds.

use std::path::{Path, PathBuf};

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
