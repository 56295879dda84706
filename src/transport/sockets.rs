//! Sockets, as every part of the program makes them: connecting to a name, and listening on a path.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use socket2::{Domain, Socket, Type};

use super::address::ALL_SCHEMES;
use super::error::TransportError;

/// The longest path that a socket can have: what the system keeps it in has 108 bytes, one of which
/// ends it.
const MAX_PATH: usize = 107;
const OWNER_ONLY: Mode = Mode::from_raw_mode(0o600);

/// Listens on each address of a host's name in turn, until one can be listened on. An empty host is
/// every address of this one, IPv4 and IPv6; so is `::`, as in QEMU.
pub(super) fn listen_tcp(host: &str, port: u16, backlog: i32) -> io::Result<Socket> {
    let listen = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    if !host.is_empty() {
        return each_address(host, port, listen);
    }
    match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
        // A host without IPv6.
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            listen((Ipv4Addr::UNSPECIFIED, port).into())
        }
        listening => listening,
    }
}

/// Calls `connect` with each address of a host's name in turn, until one answers.
pub(crate) fn each_address<T>(
    host: &str,
    port: u16,
    mut connect: impl FnMut(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    // As in QEMU, a host that is not named is this one.
    let host = if host.is_empty() { "localhost" } else { host };
    for address in (host, port).to_socket_addrs()? {
        match connect(address) {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to a unix socket without waiting for room in the listener's queue.
pub(super) fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    let socket = unix_socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(socket)
}

/// Whether a path is a socket that no process listens on any more.
fn is_stale(path: &Path) -> bool {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket
        && connect_unix(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Who may connect to a [`UnixSocket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// As the process's umask has it.
    Umask,
    OwnerOnly,
}

/// A unix socket that is listened on, without blocking. Its file is removed with it.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Which file it is: the path may be another's by the time that this one goes.
    identity: (u64, u64),
}

impl UnixSocket {
    /// Listens at `path`; a stale socket there is taken over. At most `backlog` connections wait to
    /// be accepted.
    ///
    /// # Errors
    /// [`TransportError::InUse`], a path that is too long, and the system's reason.
    pub(crate) fn bind(
        path: &Path,
        access: Access,
        backlog: i32,
    ) -> Result<UnixSocket, TransportError> {
        let address = || format!("unix:{}", path.display());
        if path.as_os_str().as_bytes().len() > MAX_PATH {
            return Err(TransportError::Address {
                given: address(),
                why: "the path of a socket has at most 107 bytes".into(),
                allowed: ALL_SCHEMES,
            });
        }
        UnixSocket::listen(path, access, backlog).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => TransportError::InUse { address: address() },
            _ => TransportError::Io {
                what: "listen on",
                address: address(),
                source,
            },
        })
    }

    fn listen(path: &Path, access: Access, backlog: i32) -> io::Result<UnixSocket> {
        if is_stale(path) {
            std::fs::remove_file(path)?;
        }
        if std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
            return Err(io::Error::other("it exists and is not a socket"));
        }
        let fd = unix_socket()?;
        if access == Access::OwnerOnly {
            // The file inherits the socket's mode. Where it does not, it is changed below: no
            // connection can be made before it is listened on.
            rustix::fs::fchmod(&fd, OWNER_ONLY)?;
        }
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        let file = std::fs::symlink_metadata(path)?;
        let socket = UnixSocket {
            listener: fd.into(),
            path: path.to_owned(),
            identity: (file.dev(), file.ino()),
        };
        if access == Access::OwnerOnly && file.mode() & 0o777 != OWNER_ONLY.as_raw_mode() {
            rustix::fs::chmod(path, OWNER_ONLY)?;
        }
        rustix::net::listen(&socket.listener, backlog)?;
        Ok(socket)
    }

    /// The next connection that waits; an error of the kind `WouldBlock` if none does.
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().map(|(stream, _)| stream)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for UnixSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let file = std::fs::symlink_metadata(&self.path);
        if file.is_ok_and(|file| (file.dev(), file.ino()) == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
