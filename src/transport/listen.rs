//! The destination's side of a link coming about.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::connect::is_stale;
use super::{Abort, Address, Stream, TransportError};

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A socket that waits for sources. A unix socket's path goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
}

impl Listener {
    /// Listens on `address`; a socket path that nobody listens on is taken over.
    ///
    /// # Errors
    /// What the system says, [`TransportError::InUse`], and an address that cannot be listened on.
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
                let socket = TcpListener::bind((host.as_str(), *port)).map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                let port = socket.local_addr().map_err(failed)?.port();
                Ok(Listener {
                    socket: Socket::Tcp(socket),
                    address: Address::Tcp {
                        host: host.clone(),
                        port,
                    },
                })
            }
            Address::Unix(path) => {
                if is_stale(path) {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                if std::fs::symlink_metadata(path)
                    .is_ok_and(|metadata| !metadata.file_type().is_socket())
                {
                    return Err(failed(io::Error::other("it exists and is not a socket")));
                }
                let socket = UnixListener::bind(path).map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                Ok(Listener {
                    socket: Socket::Unix(socket, path.clone()),
                    address: address.clone(),
                })
            }
            Address::File(_) | Address::Fd(_) | Address::Exec(_) => Err(TransportError::Address {
                given: address.to_string(),
                why: "it cannot be listened on",
            }),
        }
    }

    /// The address with the port that was picked.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection that waits, if one does, and who it is from.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_accept(
        &self,
        abort: &Arc<Abort>,
        silence: Duration,
    ) -> Result<Option<(Stream, String)>, TransportError> {
        let accepted: io::Result<(OwnedFd, String)> = match &self.socket {
            Socket::Tcp(listener) => listener.accept().map(|(socket, from)| {
                let _ = socket.set_nodelay(true);
                (socket.into(), from.to_string())
            }),
            Socket::Unix(listener, path) => listener
                .accept()
                .map(|(socket, _)| (socket.into(), path.display().to_string())),
        };
        match accepted {
            Ok((fd, from)) => {
                let stream =
                    Stream::new(fd, Arc::clone(abort), silence).map_err(TransportError::Link)?;
                Ok(Some((stream, from)))
            }
            // Nobody is there, or was gone before it was accepted.
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

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}
