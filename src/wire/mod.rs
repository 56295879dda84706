//! Bytes to typed records and back. No threads, sockets or files.
//!
//! [`native`] is our own format, [`qemu`] QEMU's migration stream; the specification of each is its
//! documentation.

mod block;
mod error;
pub mod native;
pub mod qemu;

pub use block::BlockInfo;
pub use error::WireError;
pub(crate) use error::must_be;

/// The format that a source writes. A destination recognises it by the first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
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
