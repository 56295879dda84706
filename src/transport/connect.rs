//! How a source opens its connections, or the file or command that takes its stream.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::OFlags;
use socket2::{Domain, Socket, Type};

use super::abort::{Abort, Woken};
use super::address::{ALL_SCHEMES, Address};
use super::child::{Direction, ShellCommand};
use super::error::TransportError;
use super::sockets::{connect_unix, each_address};
use super::stream::Stream;
use crate::partial::{
    Commit, OutputError, PartialFile, UnsyncedName, check_file_system, check_replaceable,
};
use crate::special;
use crate::sys::{is_listening, take_fd};

/// How long to wait between attempts while the destination is not listening yet.
const RETRY: Duration = Duration::from_millis(20);

/// How a source reaches its destination.
#[derive(Debug, Clone)]
pub struct Connector {
    /// The destination's address.
    pub address: Address,
    /// How long to keep retrying until the destination is listening.
    pub connect_timeout: Duration,
    /// How long the peer may be silent.
    pub silence: Duration,
    /// Whether an existing stored stream is replaced.
    pub force: bool,
    /// Whether such a file is on disk when it gets its name.
    pub sync: bool,
}

/// A stream's file, which gets its name when the stream is complete.
#[derive(Debug)]
pub struct Stored {
    partial: PartialFile,
    path: PathBuf,
    how: Commit,
}

impl Stored {
    /// Gives the file its name. Returns what there is to say of it, though it worked.
    ///
    /// # Errors
    /// The system's reason.
    pub fn commit(mut self) -> Result<Option<UnsyncedName>, TransportError> {
        Ok(self.partial.commit(&self.path, self.how)?)
    }
}

/// A link that is open.
#[derive(Debug)]
pub struct Connected {
    /// Where to write.
    pub stream: Stream,
    /// The file that is written, if it is one.
    pub stored: Option<Stored>,
}

impl Connector {
    /// Opens one connection.
    ///
    /// # Errors
    /// The system's reason; [`TransportError::ConnectTimeout`] if the destination was not listening
    /// in time.
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
                why: "a destination cannot listen on port 0".into(),
                allowed: ALL_SCHEMES,
            }),
            Address::Tcp { host, port } => {
                let deadline = Instant::now() + self.connect_timeout;
                let socket = self.retry(abort, || {
                    each_address(host, *port, |address| tcp(address, deadline, abort))
                })?;
                let _ = socket.set_tcp_nodelay(true);
                Ok(plain(stream(socket.into())?))
            }
            Address::Unix(path) => {
                let socket = self.retry(abort, || connect_unix(path))?;
                Ok(plain(stream(socket)?))
            }
            Address::File(path) => {
                let (fd, stored) = self.create(path, abort)?;
                Ok(Connected {
                    stream: stream(fd)?.named(&self.address),
                    stored,
                })
            }
            Address::Fd(fd) => {
                let refused = |why| failed("write a stream to")(io::Error::other(why));
                if is_listening(*fd) {
                    return Err(refused("it is a socket that listens"));
                }
                let fd = take_fd(*fd).map_err(failed("use"))?;
                if fd.is_terminal() {
                    return Err(refused("it is a terminal"));
                }
                let flags = rustix::fs::fcntl_getfl(&fd);
                if flags.is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDONLY) {
                    return Err(refused("it is open for reading only"));
                }
                Ok(plain(stream(fd)?.named(&self.address)))
            }
            Address::Exec(command) => {
                let (command, pipe) = ShellCommand::start(command, Direction::ToCommand)?;
                Ok(plain(stream(pipe)?.with_command(command)))
            }
        }
    }

    fn create(
        &self,
        path: &Path,
        abort: &Abort,
    ) -> Result<(OwnedFd, Option<Stored>), TransportError> {
        let refused = |why: String| TransportError::Io {
            what: "store a stream in",
            address: self.address.to_string(),
            source: io::Error::other(why),
        };
        match std::fs::metadata(path) {
            // Its old content could not be kept until the stream is complete.
            Ok(metadata) if special::is_device(&metadata) => {
                return Err(refused(format!(
                    "it is a block device: use 'exec:dd of={} bs=1M' to overwrite it",
                    path.display()
                )));
            }
            Ok(metadata) if metadata.is_dir() || metadata.file_type().is_socket() => {
                return Err(refused(format!(
                    "it is {}",
                    special::sort(metadata.file_type())
                )));
            }
            // A named pipe, a terminal, /dev/null: written as they are.
            Ok(metadata) if !metadata.is_file() => {
                let open = || {
                    OpenOptions::new()
                        .write(true)
                        .custom_flags(libc::O_NONBLOCK)
                        .open(path)
                };
                return Ok((self.retry(abort, open)?.into(), None));
            }
            _ if std::fs::symlink_metadata(path).is_err() => {}
            _ if self.force => check_replaceable(path)?,
            _ => {
                return Err(OutputError::Exists {
                    path: path.to_owned(),
                }
                .into());
            }
        }
        check_file_system(path)?;
        let partial = PartialFile::create(path)?;
        partial.try_write()?;
        let file = partial.file()?;
        let stored = Stored {
            partial,
            path: path.to_owned(),
            how: Commit {
                replace: self.force,
                sync: self.sync,
            },
        };
        Ok((file.into(), Some(stored)))
    }

    /// Retries until the destination is listening, up to the time limit.
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
            ) || error.raw_os_error() == Some(libc::ENXIO);
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
                    source: match error.raw_os_error() {
                        // Only a named pipe that is opened for writing gives this.
                        Some(libc::ENXIO) => io::Error::other("no program reads this pipe"),
                        _ => error,
                    },
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

/// Connects to one address, until `deadline`.
fn tcp(address: SocketAddr, deadline: Instant, abort: &Abort) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        connected => return connected.map(|()| socket),
    }
    let left = deadline.saturating_duration_since(Instant::now());
    match abort.wait_for(socket.as_fd(), PollFlags::OUT, Some(left))? {
        Woken::Ready => match socket.take_error()? {
            None => Ok(socket),
            Some(error) => Err(error),
        },
        Woken::TimedOut => Err(io::ErrorKind::TimedOut.into()),
        // The next look at the session finds it aborted.
        Woken::Aborted => Err(io::ErrorKind::WouldBlock.into()),
    }
}
