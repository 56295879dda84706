//! One connection: bytes in and out, counted, with a time limit on the peer's silence.
//!
//! Descriptors are non-blocking; where one is not ready, `poll` waits for it, for the session's
//! abort, and for the time limit, all at once. A [link](EmulatedLink) may be emulated on top.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::abort::{Abort, Woken};
use super::address::Address;
use super::child::ShellCommand;
use super::error::TransportError;
use super::link::{EmulatedLink, Incoming};
use crate::sync;

/// So many times as long as it may be silent, a peer that is heard may take nothing, or not take a step
/// that is its to take.
pub(crate) const PATIENCE: u32 = 4;

/// A connection. One thread may read while another writes.
#[derive(Debug)]
pub struct Stream {
    fd: Option<OwnedFd>,
    /// The descriptor's flags as they were, restored at the end: other processes may share it.
    flags: Option<OFlags>,
    two_way: bool,
    /// Of a file or a descriptor that the user named, for messages.
    address: Option<String>,
    abort: Arc<Abort>,
    silence: Duration,
    /// When the peer was last heard, also by other threads and on its other connections.
    heard: Arc<Mutex<Instant>>,
    /// When the peer last took something, likewise.
    taken: Arc<Mutex<Instant>>,
    sent: AtomicU64,
    received: AtomicU64,
    command: Option<ShellCommand>,
    /// The emulated link that paces writes.
    link: Option<Arc<EmulatedLink>>,
    /// The emulated link's delay of reads.
    incoming: Option<Incoming>,
}

impl Stream {
    /// Takes over a descriptor. Only sockets have a way back.
    ///
    /// # Errors
    /// The system's, if it is not an open descriptor.
    pub fn new(fd: OwnedFd, abort: Arc<Abort>, silence: Duration) -> io::Result<Stream> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        let two_way = kind == FileType::Socket;
        if two_way {
            // More bytes in flight mean fewer switches between threads. The kernel caps the request
            // at its own limit; nothing depends on it.
            let socket = socket2::SockRef::from(&fd);
            let _ = socket.set_send_buffer_size(4 << 20);
            let _ = socket.set_recv_buffer_size(4 << 20);
        }
        Ok(Stream {
            fd: Some(fd),
            flags: Some(flags),
            two_way,
            address: None,
            abort,
            silence,
            heard: Arc::new(Mutex::new(Instant::now())),
            taken: Arc::new(Mutex::new(Instant::now())),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            command: None,
            link: None,
            incoming: None,
        })
    }

    /// From now on errors name `address`, unless it is a socket, whose errors are its peer's.
    pub(super) fn named(mut self, address: &Address) -> Stream {
        self.address = (!self.two_way).then(|| address.to_string());
        self
    }

    pub(super) fn with_command(mut self, command: ShellCommand) -> Stream {
        self.command = Some(command);
        self
    }

    /// From now on writes share `link` with the session's other connections, and reads are delayed.
    /// Neither wait counts as the peer's silence.
    ///
    /// # Errors
    /// If the system has no thread or descriptor left.
    pub fn emulate(&mut self, link: &Arc<EmulatedLink>) -> Result<(), TransportError> {
        let write_only = self
            .flags
            .is_some_and(|flags| flags & OFlags::RWMODE == OFlags::WRONLY);
        self.incoming = match link.delay() {
            Duration::ZERO => None,
            _ if write_only => None,
            delay => {
                let window = link.window();
                Some(Incoming::start(self.fd()?, delay, window, &self.abort)?)
            }
        };
        self.link = Some(Arc::clone(link));
        Ok(())
    }

    /// Whether the peer can answer.
    pub fn is_two_way(&self) -> bool {
        self.two_way
    }

    /// Bytes written so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes read so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How long the peer may be silent.
    pub fn silence(&self) -> Duration {
        self.silence
    }

    /// From now on, hearing the peer on `other` counts here as well: it is the same peer.
    pub fn hear_through(&mut self, other: &Stream) {
        self.heard = Arc::clone(&other.heard);
        self.taken = Arc::clone(&other.taken);
    }

    fn fd(&self) -> Result<BorrowedFd<'_>, TransportError> {
        self.fd
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or(TransportError::Closed)
    }

    /// The error for the end of what can be read.
    fn ended(&self) -> TransportError {
        match &self.address {
            Some(address) => TransportError::Ended {
                address: address.clone(),
            },
            None => TransportError::Closed,
        }
    }

    fn failed(&self, what: &'static str, error: Errno) -> TransportError {
        match (error, &self.address) {
            (Errno::PIPE | Errno::CONNRESET, _) => TransportError::Closed,
            (error, Some(address)) => TransportError::Io {
                what,
                address: address.clone(),
                source: error.into(),
            },
            (error, None) => TransportError::Link(error.into()),
        }
    }

    /// Writes all of `head` and then all of `body`.
    ///
    /// # Errors
    /// The peer closed the link, or took and sent nothing for too long, or the session was aborted.
    pub fn write(&self, head: &[u8], body: &[u8]) -> Result<(), TransportError> {
        let Some(link) = &self.link else {
            return self.write_at_once(head, body);
        };
        let (mut head, mut body) = (head, body);
        while !head.is_empty() || !body.is_empty() {
            let slice = link.slice();
            let (head_now, head_later) = head.split_at(slice.min(head.len()));
            let of_body = (slice - head_now.len()).min(body.len());
            let (body_now, body_later) = body.split_at(of_body);
            link.wait_for_turn(head_now.len() + body_now.len(), &self.abort)?;
            self.write_at_once(head_now, body_now)?;
            (head, body) = (head_later, body_later);
        }
        Ok(())
    }

    fn write_at_once(&self, head: &[u8], body: &[u8]) -> Result<(), TransportError> {
        let fd = self.fd()?;
        let (mut head, mut body) = (head, body);
        let mut waiting_since = None;
        while !head.is_empty() || !body.is_empty() {
            if self.abort.is_raised() {
                return Err(TransportError::Aborted);
            }
            match rustix::io::writev(fd, &[IoSlice::new(head), IoSlice::new(body)]) {
                Ok(0) => return Err(TransportError::Closed),
                Ok(written) => {
                    self.sent.fetch_add(written as u64, Ordering::Relaxed);
                    let of_head = written.min(head.len());
                    head = &head[of_head..];
                    body = &body[written - of_head..];
                    *sync::lock(&self.taken) = Instant::now();
                    waiting_since = None;
                }
                Err(Errno::AGAIN) => {
                    let since = *waiting_since.get_or_insert_with(Instant::now);
                    self.wait(fd, PollFlags::OUT, since)?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("write to", error)),
            }
        }
        Ok(())
    }

    /// Fills `out`. `Ok(false)`: the stream ended before its first byte.
    ///
    /// # Errors
    /// The stream ended in the middle of `out`, the peer was silent for too long, or the session was
    /// aborted.
    pub fn read_or_end(&self, out: &mut [u8]) -> Result<bool, TransportError> {
        let mut filled = 0;
        let mut waiting_since = None;
        while filled < out.len() {
            if self.abort.is_raised() {
                return Err(TransportError::Aborted);
            }
            match self.read_now(&mut out[filled..])? {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.ended()),
                Ok(read) => {
                    self.received.fetch_add(read as u64, Ordering::Relaxed);
                    filled += read;
                    if let Some(_waited) = waiting_since.take() {
                        *sync::lock(&self.heard) = Instant::now();
                    }
                }
                Err(Errno::AGAIN) => {
                    let since = *waiting_since.get_or_insert_with(Instant::now);
                    self.wait_to_read(since)?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("read", error)),
            }
        }
        Ok(true)
    }

    /// Fills `out`.
    ///
    /// # Errors
    /// As [`Stream::read_or_end`], and the end of the stream.
    pub fn read(&self, out: &mut [u8]) -> Result<(), TransportError> {
        if self.read_or_end(out)? {
            Ok(())
        } else {
            Err(self.ended())
        }
    }

    /// As the system's `read`, of bytes that have arrived and, on an emulated link, are due.
    fn read_now(&self, out: &mut [u8]) -> Result<Result<usize, Errno>, TransportError> {
        let fd = self.fd()?;
        Ok(match &self.incoming {
            Some(incoming) => incoming.read(out),
            None => rustix::io::read(fd, out),
        })
    }

    /// Waits for something to read.
    fn wait_to_read(&self, since: Instant) -> Result<(), TransportError> {
        let Some(incoming) = &self.incoming else {
            return self.wait(self.fd()?, PollFlags::IN, since);
        };
        match incoming.due_in() {
            // Bytes under way are not silence.
            Some(wait) => incoming.wait_until_due(wait),
            None => self.wait(incoming.arrived(), PollFlags::IN, since),
        }
    }

    /// Reads what has arrived, without waiting, not even for an emulated delay. `Ok(None)`: nothing
    /// yet.
    ///
    /// # Errors
    /// The end of the stream, and the system's reason.
    pub fn try_read(&self, out: &mut [u8]) -> Result<Option<usize>, TransportError> {
        let fd = self.fd()?;
        let read = match &self.incoming {
            Some(incoming) => incoming.read_early(out),
            None => rustix::io::read(fd, out),
        };
        match read {
            Ok(0) => Err(TransportError::Closed),
            Ok(read) => {
                self.received.fetch_add(read as u64, Ordering::Relaxed);
                Ok(Some(read))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(self.failed("read", error)),
        }
    }

    /// Reads what has arrived, after waiting for something if there is nothing. 0: the end.
    ///
    /// # Errors
    /// As [`Stream::read_or_end`].
    pub fn read_some(&self, out: &mut [u8]) -> Result<usize, TransportError> {
        let since = Instant::now();
        loop {
            if self.abort.is_raised() {
                return Err(TransportError::Aborted);
            }
            match self.read_now(out)? {
                Ok(read) => {
                    self.received.fetch_add(read as u64, Ordering::Relaxed);
                    return Ok(read);
                }
                Err(Errno::AGAIN) => self.wait_to_read(since)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("read", error)),
            }
        }
    }

    /// Whether everything that has arrived is read.
    pub fn is_idle(&self) -> bool {
        let Ok(fd) = self.fd() else { return true };
        if let Some(incoming) = &self.incoming {
            return incoming.is_empty();
        }
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(0))
    }

    /// Ends the way out, and on a link with a way back waits for the peer to hang up. A peer that
    /// falls silent instead counts as having taken everything, as nothing shows otherwise. Anything
    /// that it sends is discarded and does not prolong the wait.
    ///
    /// # Errors
    /// The peer broke the link with bytes unread, or the session was aborted.
    pub fn end_of_writing(&self) -> Result<(), TransportError> {
        if !self.two_way {
            return Ok(());
        }
        rustix::net::shutdown(self.fd()?, rustix::net::Shutdown::Write)
            .map_err(|error| self.failed("write to", error))?;
        let mut waste = [0; 4096];
        let since = Instant::now();
        loop {
            match self.read_some(&mut waste) {
                Ok(0) | Err(TransportError::Silent { .. }) => return Ok(()),
                Ok(_) if since.elapsed() < self.silence => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// A descriptor to `poll`. On an emulated link with a delay it is readable too early.
    ///
    /// # Errors
    /// If the stream is closed already.
    pub fn pollable(&self) -> Result<BorrowedFd<'_>, TransportError> {
        let fd = self.fd()?;
        Ok(self.incoming.as_ref().map_or(fd, Incoming::arrived))
    }

    /// Waits for readiness. A peer that another thread hears is not silent, even if it does not take
    /// what is being written; but to say that it is there does not prolong that for ever.
    fn wait(
        &self,
        fd: BorrowedFd<'_>,
        events: PollFlags,
        since: Instant,
    ) -> Result<(), TransportError> {
        let limit = match events {
            PollFlags::OUT => self.silence.saturating_mul(PATIENCE),
            _ => Duration::MAX,
        };
        let left = |last: &Mutex<Instant>, limit: Duration| {
            let last = since.max(*sync::lock(last));
            limit.saturating_sub(last.elapsed())
        };
        loop {
            let until_silent = left(&self.heard, self.silence);
            let until_stuck = left(&self.taken, limit);
            if until_silent.is_zero() {
                return Err(TransportError::Silent {
                    limit: self.silence,
                });
            }
            if until_stuck.is_zero() {
                return Err(TransportError::TakesNothing { limit });
            }
            match self
                .abort
                .wait_for(fd, events, Some(until_silent.min(until_stuck)))
                .map_err(TransportError::Link)?
            {
                Woken::Ready => return Ok(()),
                Woken::Aborted => return Err(TransportError::Aborted),
                Woken::TimedOut => {}
            }
        }
    }

    /// Writes a last message on a connection that is about to be given up, and waits for the peer to
    /// hang up, all within `limit`. Without the wait, closing with unread bytes would make the kernel
    /// discard the message. Works on an aborted session, too. Nothing depends on its success.
    pub fn last_word(&self, bytes: &[u8], limit: Duration) {
        let Ok(fd) = self.fd() else { return };
        if !self.two_way {
            return;
        }
        let deadline = Instant::now() + limit;
        let ready = |events| {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(timeout) = rustix::event::Timespec::try_from(left) else {
                return false;
            };
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, events)];
            !left.is_zero() && matches!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1..))
        };
        let mut left = bytes;
        while !left.is_empty() {
            match rustix::io::write(fd, left) {
                Ok(written) => {
                    self.sent.fetch_add(written as u64, Ordering::Relaxed);
                    left = &left[written..];
                }
                Err(Errno::AGAIN) if ready(PollFlags::OUT) => {}
                Err(_) => return,
            }
        }
        let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Write);
        let mut waste = vec![0; 64 << 10];
        loop {
            match rustix::io::read(fd, &mut waste) {
                Ok(0) => return,
                Ok(_) if Instant::now() < deadline => {}
                Err(Errno::AGAIN) if ready(PollFlags::IN) => {}
                _ => return,
            }
        }
    }

    /// Closes the link and, if a command is at the other end, waits for it to exit.
    ///
    /// # Errors
    /// A command that fails.
    pub fn finish(&mut self) -> Result<(), TransportError> {
        self.close();
        match self.command.take() {
            Some(command) => command.finish(&self.abort),
            None => Ok(()),
        }
    }

    /// After the peer has closed the link: how the command at the other end failed, if there is one
    /// and it did.
    pub fn why_closed(&mut self) -> Option<TransportError> {
        self.close();
        self.command.take()?.failure()
    }

    fn close(&mut self) {
        // Its thread holds the descriptor, too.
        self.incoming = None;
        if let (Some(fd), Some(flags)) = (self.fd.take(), self.flags.take()) {
            let _ = rustix::fs::fcntl_setfl(&fd, flags);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}
