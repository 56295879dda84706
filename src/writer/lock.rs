//! Keeps two live migrations from stopping and resuming one guest under each other.
//!
//! A lock is a socket with an abstract name (unix(7)): one process at a time can bind it, it leaves
//! nothing on disk, and it is free again the moment its owner ends, killed or not. The image's file
//! itself cannot be locked, as a writer may hold a lock on it.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

use super::WriterError;
use super::held::Target;
use crate::image::Guest;

/// Held for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not used")] OwnedFd);

impl Lock {
    /// Locks a process that writes a guest.
    ///
    /// # Errors
    /// [`WriterError::Busy`], and the system's reasons.
    pub(super) fn process(Target { pid, started }: Target) -> Result<Lock, WriterError> {
        let name = format!("ramferry-writer-{pid}-{started}");
        Lock::take(&name, || format!("process {pid}"))
    }

    /// Locks the images of all blocks of a guest.
    ///
    /// # Errors
    /// [`WriterError::Busy`], which names the image, and the system's reasons.
    pub(crate) fn images(guest: &Guest) -> Result<Vec<Lock>, WriterError> {
        let lock = |block: &crate::image::Block| {
            let what = || format!("image '{}'", block.path().display());
            let metadata = std::fs::metadata(block.path()).map_err(|source| WriterError::Io {
                what: format!("examine {}", what()),
                source,
            })?;
            let name = format!("ramferry-image-{}-{}", metadata.dev(), metadata.ino());
            Lock::take(&name, what)
        };
        guest.blocks().iter().map(lock).collect()
    }

    fn take(name: &str, what: impl Fn() -> String) -> Result<Lock, WriterError> {
        let failed = |error: Errno| WriterError::Io {
            what: format!("lock {}", what()),
            source: error.into(),
        };
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(failed)?;
        let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).map_err(failed)?;
        match bind(&socket, &address) {
            Ok(()) => Ok(Lock(socket)),
            Err(Errno::ADDRINUSE) => Err(WriterError::Busy { what: what() }),
            Err(error) => Err(failed(error)),
        }
    }
}
