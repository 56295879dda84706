//! The list of blocks, which both formats have.

/// A block of RAM, as a stream announces it before its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockInfo {
    /// The name, at most 255 bytes.
    pub name: String,
    /// The size in bytes.
    pub bytes: u64,
}
