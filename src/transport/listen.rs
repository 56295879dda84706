//! How a destination gets its connections: it listens, or opens a stored stream, a descriptor or a
//! command.

use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::OFlags;
use socket2::Socket;

use super::abort::{Abort, Woken};
use super::address::{ALL_SCHEMES, Address, LISTENING_SCHEMES};
use super::child::{Direction, ShellCommand};
use super::error::TransportError;
use super::sockets::{Access, UnixSocket, listen_tcp};
use super::stream::Stream;
use crate::special;
use crate::sys::{is_listening, take_fd};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

#[derive(Debug)]
enum Listening {
    /// Of TCP, or inherited.
    Socket(Socket),
    Unix(UnixSocket),
}

/// A socket that waits for sources. A unix socket's file is removed with it.
#[derive(Debug)]
pub struct Listener {
    socket: Listening,
    address: Address,
}

impl Listener {
    /// Listens on `address`; a stale unix socket there is taken over. A descriptor must be a socket
    /// that listens already, as a service manager hands it over.
    ///
    /// # Errors
    /// The system's reason, [`TransportError::InUse`], and an address that cannot be listened on.
    pub fn bind(address: &Address) -> Result<Listener, TransportError> {
        let failed = |source: io::Error| {
            if source.kind() == io::ErrorKind::AddrInUse {
                TransportError::InUse {
                    address: address.to_string(),
                }
            } else {
                TransportError::Io {
                    what: "listen on",
                    address: address.to_string(),
                    source,
                }
            }
        };
        match address {
            Address::Tcp { host, port } => {
                let socket = listen_tcp(host, *port, BACKLOG).map_err(failed)?;
                let own = socket.local_addr().map_err(failed)?.as_socket();
                let port = own.map_or(*port, |own| own.port());
                Ok(Listener {
                    socket: Listening::Socket(socket),
                    address: Address::Tcp {
                        host: host.clone(),
                        port,
                    },
                })
            }
            Address::Unix(path) => Ok(Listener {
                socket: Listening::Unix(UnixSocket::bind(path, Access::Umask, BACKLOG)?),
                address: address.clone(),
            }),
            Address::Fd(fd) if is_listening(*fd) => {
                let socket = Socket::from(take_fd(*fd).map_err(failed)?);
                socket.set_nonblocking(true).map_err(failed)?;
                Ok(Listener {
                    socket: Listening::Socket(socket),
                    address: address.clone(),
                })
            }
            Address::File(_) | Address::Fd(_) | Address::Exec(_) => Err(TransportError::Address {
                given: address.to_string(),
                why: "a destination cannot listen there".into(),
                allowed: LISTENING_SCHEMES,
            }),
        }
    }

    /// The address, with the port that the system picked.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next waiting connection, if there is one, and the address that it comes from.
    ///
    /// # Errors
    /// The system's reason.
    pub fn try_accept(
        &self,
        abort: &Arc<Abort>,
        silence: Duration,
    ) -> Result<Option<(Stream, String)>, TransportError> {
        let accepted: io::Result<(OwnedFd, String)> = match &self.socket {
            Listening::Socket(listener) => listener.accept().map(|(socket, from)| {
                let _ = socket.set_tcp_nodelay(true);
                // On a socket for both families, an IPv4 peer has a mapped address.
                let from = from.as_socket().map_or_else(
                    || self.address.to_string(),
                    |from| SocketAddr::new(from.ip().to_canonical(), from.port()).to_string(),
                );
                (socket.into(), from)
            }),
            Listening::Unix(socket) => socket
                .accept()
                .map(|stream| (stream.into(), socket.path().display().to_string())),
        };
        match accepted {
            Ok((fd, from)) => {
                let stream =
                    Stream::new(fd, Arc::clone(abort), silence).map_err(TransportError::Link)?;
                Ok(Some((stream, from)))
            }
            // No connection waits, or it was closed before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(source) => Err(TransportError::Io {
                what: "accept on",
                address: self.address.to_string(),
                source,
            }),
        }
    }
}

/// Whether a source comes to this address by itself: it is listened on, or handed over listening.
pub(crate) fn is_listened_on(address: &Address) -> bool {
    match address {
        Address::Fd(fd) => is_listening(*fd),
        other => other.is_listening(),
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Listening::Socket(listener) => listener.as_fd(),
            Listening::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Why what is at a path cannot hold a stream.
fn cannot_be_read(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    if special::is_device(&metadata) {
        return Some(format!(
            "it is a block device, which goes on where the stream ends: use 'exec:head -c BYTES {}'",
            path.display()
        ));
    }
    let kind = metadata.file_type();
    (kind.is_dir() || kind.is_socket()).then(|| format!("it is {}", special::sort(kind)))
}

/// Opens an address that a destination reads without listening: a stored stream, a descriptor, a
/// command.
///
/// # Errors
/// The system's reason, and an address that has to be listened on.
pub fn open_for_reading(
    address: &Address,
    abort: &Arc<Abort>,
    silence: Duration,
) -> Result<Stream, TransportError> {
    let failed = |source| TransportError::Io {
        what: "open",
        address: address.to_string(),
        source,
    };
    let fd = match address {
        Address::File(path) => {
            if let Some(why) = cannot_be_read(path) {
                return Err(failed(io::Error::other(why)));
            }
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)
                .map_err(failed)?;
            // Until a named pipe has a writer, reading it is like reading one at its end.
            match abort
                .wait_for(file.as_fd(), PollFlags::IN, Some(silence))
                .map_err(TransportError::Link)?
            {
                Woken::Ready => file.into(),
                Woken::TimedOut => return Err(TransportError::Silent { limit: silence }),
                Woken::Aborted => return Err(TransportError::Aborted),
            }
        }
        Address::Fd(fd) => {
            let fd = take_fd(*fd).map_err(failed)?;
            if rustix::fs::fcntl_getfl(&fd)
                .is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::WRONLY)
            {
                return Err(failed(io::Error::other("it is open for writing only")));
            }
            fd
        }
        Address::Exec(command) => {
            let (command, pipe) = ShellCommand::start(command, Direction::FromCommand)?;
            let stream = Stream::new(pipe, Arc::clone(abort), silence).map_err(failed)?;
            return Ok(stream.with_command(command));
        }
        Address::Tcp { .. } | Address::Unix(_) => {
            return Err(TransportError::Address {
                given: address.to_string(),
                why: "it has to be listened on".into(),
                allowed: ALL_SCHEMES,
            });
        }
    };
    let stream = Stream::new(fd, Arc::clone(abort), silence).map_err(failed)?;
    Ok(stream.named(address))
}
