//! The socket that a monitor listens on: a file that only its owner may connect to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::transport::{TransportError, connect::is_stale};

/// The longest path that a socket can have: what the system keeps it in has 108 bytes, one of which
/// ends it.
const MOST_BYTES: usize = 107;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
const OWNER_ONLY: Mode = Mode::from_raw_mode(0o600);

/// A socket that is listened on. Dropped, its file goes.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Which file it is: the path may be another's by the time that this one goes.
    identity: (u64, u64),
}

impl Socket {
    /// Listens at `path`; a socket that nobody listens on any more is taken over.
    pub(super) fn bind(path: &Path) -> Result<Socket, TransportError> {
        let address = || format!("unix:{}", path.display());
        if path.as_os_str().as_bytes().len() > MOST_BYTES {
            return Err(TransportError::Address {
                given: address(),
                why: "a socket's path has at most 107 bytes",
            });
        }
        Socket::bind_in_earnest(path).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => TransportError::InUse { address: address() },
            _ => TransportError::Io {
                what: "listen on",
                address: address(),
                source,
            },
        })
    }

    fn bind_in_earnest(path: &Path) -> io::Result<Socket> {
        if is_stale(path) {
            std::fs::remove_file(path)?;
        }
        if std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
            return Err(io::Error::other("it exists and is not a socket"));
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::STREAM;
        let fd: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        // The file inherits the socket's mode. Were it otherwise, there is still nobody who could
        // connect before it is listened on.
        rustix::fs::fchmod(&fd, OWNER_ONLY)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        let file = std::fs::symlink_metadata(path)?;
        let socket = Socket {
            listener: fd.into(),
            path: path.to_owned(),
            identity: (file.dev(), file.ino()),
        };
        if file.mode() & 0o777 != OWNER_ONLY.as_raw_mode() {
            rustix::fs::chmod(path, OWNER_ONLY)?;
        }
        rustix::net::listen(&socket.listener, BACKLOG)?;
        Ok(socket)
    }

    /// The next connection that waits; an error of the kind `WouldBlock` if none does.
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().map(|(stream, _)| stream)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let file = std::fs::symlink_metadata(&self.path);
        if file.is_ok_and(|file| (file.dev(), file.ino()) == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
