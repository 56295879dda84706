//! The source's side of a link coming about.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::abort::Woken;
use super::child::{Direction, ShellCommand};
use super::{Abort, Address, Stream, TransportError};

/// How long to wait between attempts on a socket that is not there yet.
const RETRY: Duration = Duration::from_millis(20);

/// How a source reaches its destination.
#[derive(Debug, Clone)]
pub struct Connector {
    /// Where to.
    pub address: Address,
    /// For how long a refused connection, or a socket that is not there, is tried again.
    pub connect_timeout: Duration,
    /// How long the peer may be silent.
    pub silence: Duration,
    /// Whether a stored stream that is there already is replaced.
    pub force: bool,
}

/// A file that is being written under a name of its own until it is whole.
#[derive(Debug)]
pub struct Stored {
    partial: PathBuf,
    path: PathBuf,
    done: bool,
}

impl Stored {
    /// Gives the file its name.
    ///
    /// # Errors
    /// The system's reason.
    pub fn commit(mut self) -> Result<(), TransportError> {
        std::fs::rename(&self.partial, &self.path).map_err(|source| TransportError::Io {
            what: "rename the partial file onto",
            address: format!("file:{}", self.path.display()),
            source,
        })?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// What connecting yields.
#[derive(Debug)]
pub struct Connected {
    /// The link.
    pub stream: Stream,
    /// The file behind it, if it is one.
    pub stored: Option<Stored>,
}

impl Connector {
    /// Opens one connection.
    ///
    /// # Errors
    /// What the system says; [`TransportError::ConnectTimeout`] when nobody listened in time.
    pub fn connect(&self, abort: &Arc<Abort>) -> Result<Connected, TransportError> {
        let failed = |what| {
            let address = self.address.to_string();
            move |source| TransportError::Io {
                what,
                address,
                source,
            }
        };
        let stream =
            |fd: OwnedFd| Stream::new(fd, Arc::clone(abort), self.silence).map_err(failed("use"));
        let plain = |stream| Connected {
            stream,
            stored: None,
        };
        match &self.address {
            Address::Tcp { port: 0, .. } => Err(TransportError::Address {
                given: self.address.to_string(),
                why: "nobody can listen on port 0",
            }),
            Address::Tcp { host, port } => {
                let socket = self.retry(abort, || tcp(host, *port, self.connect_timeout))?;
                let _ = socket.set_nodelay(true);
                Ok(plain(stream(socket.into())?))
            }
            Address::Unix(path) => {
                let socket = self.retry(abort, || UnixStream::connect(path))?;
                Ok(plain(stream(socket.into())?))
            }
            Address::File(path) => {
                let (fd, stored) = self.create(path)?;
                Ok(Connected {
                    stream: stream(fd)?,
                    stored,
                })
            }
            Address::Fd(fd) => {
                let fd = crate::sys::take_fd(*fd).map_err(failed("use"))?;
                if fd.is_terminal() {
                    return Err(failed("write a stream to")(io::Error::other(
                        "it is a terminal",
                    )));
                }
                Ok(plain(stream(fd)?))
            }
            Address::Exec(command) => {
                let (command, pipe) = ShellCommand::start(command, Direction::ToCommand)?;
                Ok(plain(stream(pipe)?.with_command(command)))
            }
        }
    }

    fn create(&self, path: &Path) -> Result<(OwnedFd, Option<Stored>), TransportError> {
        let failed = |source| TransportError::Io {
            what: "create",
            address: self.address.to_string(),
            source,
        };
        match std::fs::metadata(path) {
            // A pipe with a name, a terminal, /dev/null: written as they are.
            Ok(metadata) if !metadata.is_file() => {
                let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
                return Ok((file.into(), None));
            }
            Ok(_) if !self.force => {
                return Err(TransportError::FileExists {
                    path: path.to_owned(),
                });
            }
            _ => {}
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        // What a killed process left behind is taken over, what another is writing is not.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&partial)
            .map_err(failed)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |_| TransportError::FileBusy {
                path: PathBuf::from(&partial),
            },
        )?;
        file.set_len(0).map_err(failed)?;
        let stored = Stored {
            partial: partial.into(),
            path: path.to_owned(),
            done: false,
        };
        Ok((file.into(), Some(stored)))
    }

    /// Tries again for as long as nobody listens, up to the time limit.
    fn retry<T>(
        &self,
        abort: &Abort,
        attempt: impl Fn() -> io::Result<T>,
    ) -> Result<T, TransportError> {
        let deadline = Instant::now() + self.connect_timeout;
        loop {
            let error = match attempt() {
                Ok(connected) => return Ok(connected),
                Err(error) => error,
            };
            let not_yet = matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::NotFound
                    | io::ErrorKind::WouldBlock
            );
            if !not_yet {
                return Err(TransportError::Io {
                    what: "connect to",
                    address: self.address.to_string(),
                    source: error,
                });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TransportError::ConnectTimeout {
                    address: self.address.to_string(),
                    limit: self.connect_timeout,
                    source: error,
                });
            }
            match abort.wait(left.min(RETRY)) {
                Ok(Woken::Aborted) => return Err(TransportError::Aborted),
                Ok(_) => {}
                Err(error) => return Err(TransportError::Link(error)),
            }
        }
    }
}

fn tcp(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit.max(Duration::from_millis(1))) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Opens what a destination reads without listening: a stored stream, a descriptor, a command.
///
/// # Errors
/// What the system says, and an address that has to be listened on.
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
        Address::File(path) => std::fs::File::open(path).map_err(failed)?.into(),
        Address::Fd(fd) => crate::sys::take_fd(*fd).map_err(failed)?,
        Address::Exec(command) => {
            let (command, pipe) = ShellCommand::start(command, Direction::FromCommand)?;
            let stream = Stream::new(pipe, Arc::clone(abort), silence).map_err(failed)?;
            return Ok(stream.with_command(command));
        }
        Address::Tcp { .. } | Address::Unix(_) => {
            return Err(TransportError::Address {
                given: address.to_string(),
                why: "it has to be listened on",
            });
        }
    };
    Stream::new(fd, Arc::clone(abort), silence).map_err(failed)
}

/// Whether somebody listens on a socket's path; if not, the path may be taken over.
pub(super) fn is_stale(path: &Path) -> bool {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
