//! Bytes that are still under way: read off a descriptor as they arrive, handed out when due.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::sync;
use crate::transport::abort::Woken;
use crate::transport::{Abort, TransportError};

/// The most that is read at once, with the lock held.
const READ: usize = 256 << 10;
/// Bytes that arrive within this time share a due time, so that a peer that sends single bytes does
/// not make for endless due times. With a short delay it is a hundredth of that instead.
const TOGETHER: Duration = Duration::from_micros(50);

/// The reader's end of a link with a delay, and the thread that fills it.
#[derive(Debug)]
pub(in crate::transport) struct Incoming {
    shared: Arc<Delayed>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Delayed {
    fd: OwnedFd,
    delay: Duration,
    together: Duration,
    pipe: Mutex<Pipe>,
    /// Readable if something has come since nothing was there.
    arrived: OwnedFd,
    /// Wakes the thread: there is room again, or it is to stop.
    wake: OwnedFd,
    abort: Arc<Abort>,
}

/// Bytes under way: a ring, and from when on they may be handed out.
#[derive(Debug)]
struct Pipe {
    ring: Vec<u8>,
    head: usize,
    filled: usize,
    /// Due times and how many bytes each is for, in order.
    marks: VecDeque<(Instant, usize)>,
    /// The end of the stream or what ended it, and from when on that shows.
    end: Option<(Instant, Result<(), Errno>)>,
    /// The thread waits for room.
    full: bool,
    stopped: bool,
}

/// What reading off the descriptor met.
enum Met {
    Bytes,
    Nothing,
    NoRoom,
    End,
}

impl Pipe {
    fn new(window: usize) -> Pipe {
        Pipe {
            // Memory that is never touched costs nothing.
            ring: vec![0; window.max(1)],
            head: 0,
            filled: 0,
            marks: VecDeque::new(),
            end: None,
            full: false,
            stopped: false,
        }
    }

    /// The room after what is filled, up to the ring's end.
    fn room(&mut self) -> &mut [u8] {
        if self.filled == 0 {
            // What is written at the ring's start again is still in the processor's cache.
            self.head = 0;
        }
        let size = self.ring.len();
        let tail = (self.head + self.filled) % size;
        let room = (size - self.filled).min(size - tail).min(READ);
        &mut self.ring[tail..tail + room]
    }

    fn push(&mut self, due: Instant, bytes: usize, together: Duration) {
        self.filled += bytes;
        match self.marks.back_mut() {
            Some((last, count)) if due.saturating_duration_since(*last) < together => {
                *count += bytes;
            }
            _ => self.marks.push_back((due, bytes)),
        }
    }

    /// Moves what is due at `now` to `out`, and returns how much it was.
    fn take(&mut self, out: &mut [u8], now: Instant) -> usize {
        let mut taken = 0;
        while taken < out.len() {
            let Some((due, count)) = self.marks.front_mut() else {
                break;
            };
            if *due > now {
                break;
            }
            let bytes = (out.len() - taken)
                .min(*count)
                .min(self.ring.len() - self.head);
            out[taken..taken + bytes].copy_from_slice(&self.ring[self.head..self.head + bytes]);
            taken += bytes;
            self.head = (self.head + bytes) % self.ring.len();
            self.filled -= bytes;
            *count -= bytes;
            if *count == 0 {
                self.marks.pop_front();
            }
        }
        taken
    }

    /// When there will be something to read, if anything is under way.
    fn due(&self) -> Option<Instant> {
        let bytes = self.marks.front().map(|&(due, _)| due);
        bytes.or(self.end.map(|(due, _)| due))
    }
}

impl Delayed {
    fn pipe(&self) -> MutexGuard<'_, Pipe> {
        sync::lock(&self.pipe)
    }

    /// Reads what has come. The lock is held meanwhile, so that no byte is ever nowhere.
    fn fill(&self, pipe: &mut Pipe) -> Met {
        if pipe.end.is_some() {
            return Met::End;
        }
        let was_empty = pipe.filled == 0;
        let room = pipe.room();
        if room.is_empty() {
            return Met::NoRoom;
        }
        let read = loop {
            match rustix::io::read(&self.fd, &mut *room) {
                Err(Errno::INTR) => {}
                read => break read,
            }
        };
        let due = Instant::now() + self.delay;
        let met = match read {
            Err(Errno::AGAIN) => return Met::Nothing,
            Ok(0) => {
                pipe.end = Some((due, Ok(())));
                Met::End
            }
            Ok(bytes) => {
                pipe.push(due, bytes, self.together);
                Met::Bytes
            }
            Err(error) => {
                pipe.end = Some((due, Err(error)));
                Met::End
            }
        };
        if was_empty || pipe.end.is_some() {
            signal(&self.arrived);
        }
        met
    }

    /// What the thread does.
    fn run(&self) {
        while !self.abort.is_raised() {
            let mut pipe = self.pipe();
            if pipe.stopped {
                return;
            }
            let readable = match self.fill(&mut pipe) {
                Met::Bytes => continue,
                Met::End => return,
                Met::Nothing => Some(self.fd.as_fd()),
                Met::NoRoom => {
                    pipe.full = true;
                    None
                }
            };
            drop(pipe);
            let waited = self
                .abort
                .wait_for_any([self.wake.as_fd()].into_iter().chain(readable), None);
            if let Err(error) = waited {
                let error = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                self.pipe().end = Some((Instant::now(), Err(error)));
                signal(&self.arrived);
                return;
            }
            reset(&self.wake);
        }
    }
}

impl Incoming {
    /// Starts to read `fd`, which does not block, and holds up to `window` bytes for `delay`.
    pub(in crate::transport) fn start(
        fd: BorrowedFd<'_>,
        delay: Duration,
        window: usize,
        abort: &Arc<Abort>,
    ) -> Result<Incoming, TransportError> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let failed = |error: Errno| TransportError::Link(error.into());
        let shared = Arc::new(Delayed {
            fd: fd.try_clone_to_owned().map_err(TransportError::Link)?,
            delay,
            together: TOGETHER.min(delay / 100),
            pipe: Mutex::new(Pipe::new(window)),
            arrived: event().map_err(failed)?,
            wake: event().map_err(failed)?,
            abort: Arc::clone(abort),
        });
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("link".into())
            .spawn(move || own.run())
            .map_err(TransportError::Link)?;
        Ok(Incoming {
            shared,
            thread: Some(thread),
        })
    }

    /// What is due, without waiting: as `read` on a descriptor that does not block.
    pub(in crate::transport) fn read(&self, out: &mut [u8]) -> Result<usize, Errno> {
        self.take(out, Instant::now())
    }

    /// What has arrived, whether or not it is due.
    pub(in crate::transport) fn read_early(&self, out: &mut [u8]) -> Result<usize, Errno> {
        self.shared.fill(&mut self.shared.pipe());
        self.take(out, Instant::now() + self.shared.delay)
    }

    fn take(&self, out: &mut [u8], now: Instant) -> Result<usize, Errno> {
        let mut pipe = self.shared.pipe();
        let taken = pipe.take(out, now);
        if taken > 0 || out.is_empty() {
            if pipe.full && pipe.ring.len() - pipe.filled >= READ.min(pipe.ring.len() / 2) {
                pipe.full = false;
                signal(&self.shared.wake);
            }
            return Ok(taken);
        }
        match pipe.end {
            Some((due, outcome)) if pipe.filled == 0 && due <= now => outcome.map(|()| 0),
            _ => {
                if pipe.due().is_none() {
                    reset(&self.shared.arrived);
                }
                Err(Errno::AGAIN)
            }
        }
    }

    /// Whether nothing is under way and nothing has come.
    pub(in crate::transport) fn is_empty(&self) -> bool {
        let mut pipe = self.shared.pipe();
        self.shared.fill(&mut pipe);
        pipe.due().is_none()
    }

    /// How long it takes until something that is under way is due. `None`: nothing is, and
    /// [`Incoming::arrived`] can be waited for.
    pub(in crate::transport) fn due_in(&self) -> Option<Duration> {
        let due = self.shared.pipe().due()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Becomes readable when something arrives, if [`Incoming::read`] found nothing under way.
    pub(in crate::transport) fn arrived(&self) -> BorrowedFd<'_> {
        self.shared.arrived.as_fd()
    }

    /// Waits until what is under way is due.
    pub(in crate::transport) fn wait_until_due(
        &self,
        wait: Duration,
    ) -> Result<(), TransportError> {
        match self.shared.abort.wait(wait).map_err(TransportError::Link)? {
            Woken::Aborted => Err(TransportError::Aborted),
            Woken::Ready | Woken::TimedOut => Ok(()),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.shared.pipe().stopped = true;
        signal(&self.shared.wake);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn signal(event: &OwnedFd) {
    // It fails if the counter is full: then it is readable already.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

fn reset(event: &OwnedFd) {
    // It fails if there was no signal.
    let _ = rustix::io::read(event, &mut [0; 8]);
}
