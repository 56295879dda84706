//! A relay between the two ends, which follows the native wire as bytes pass and makes faults happen
//! before a byte or a message does.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ramferry::wire::native::{FrameKind, HEADER_LEN, HELLO_HEAD_LEN, Header};
use rustix::net::{Shutdown, shutdown};

use crate::plan::{Fault, Way, What, When};

/// What makes a fault happen that is not one of the link, after a while.
type Fire = Box<dyn Fn(What, Duration) + Send + Sync>;

/// Where a relay listens and where it connects to.
#[derive(Debug, Clone)]
pub(crate) enum Between {
    Unix {
        near: PathBuf,
        far: PathBuf,
    },
    /// The port of the far end.
    Tcp(u16),
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// What has passed, or may have where that cannot be seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) proven: AtomicBool,
    pub(crate) commit: AtomicBool,
}

struct Shared {
    waiting: Mutex<Vec<Fault>>,
    fire: Fire,
    passed: [AtomicU64; 2],
    ends: Mutex<Vec<OwnedFd>>,
    broken: AtomicBool,
    seen: Arc<Seen>,
    is_native: bool,
    /// A damaged greeting may be one of no source.
    greets: bool,
}

pub(crate) struct Relay {
    between: Between,
    /// The address for the source.
    pub(crate) address: String,
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Makes those of the faults happen that depend on what passes.
    pub(crate) fn start(
        between: Between,
        is_native: bool,
        faults: &[Fault],
        seen: Arc<Seen>,
        fire: Fire,
    ) -> io::Result<Relay> {
        let mut port = 0;
        let (listener, address) = match &between {
            Between::Unix { near, .. } => {
                let name = near.file_name().unwrap_or_default().to_string_lossy();
                (
                    Listener::Unix(UnixListener::bind(near)?),
                    format!("unix:{name}"),
                )
            }
            Between::Tcp(_) => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                port = listener.local_addr()?.port();
                (Listener::Tcp(listener), format!("tcp:127.0.0.1:{port}"))
            }
        };
        let waiting = faults
            .iter()
            .filter(|fault| !matches!(fault.when, When::Time(_)));
        let shared = Arc::new(Shared {
            waiting: Mutex::new(waiting.copied().collect()),
            fire,
            passed: Default::default(),
            ends: Mutex::default(),
            broken: AtomicBool::new(false),
            seen,
            is_native,
            greets: !faults.iter().any(spoils_the_greeting),
        });
        let (own, way) = (Arc::clone(&shared), between.clone());
        let thread = thread::spawn(move || serve(&listener, &way, &own));
        Ok(Relay {
            between,
            address,
            port,
            shared,
            thread: Some(thread),
        })
    }

    pub(crate) fn cut(&self) {
        self.shared.cut();
    }

    /// Whether a source was greeted, so that the destination waits for no other one.
    pub(crate) fn reached(&self) -> bool {
        let [forth, back] = &self.shared.passed;
        let (forth, back) = (forth.load(Ordering::Acquire), back.load(Ordering::Acquire));
        self.shared.greets && forth > GREETING && (back > 0 || !self.shared.is_native)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.cut();
        // It waits for another connection.
        match &self.between {
            Between::Unix { near, .. } => drop(UnixStream::connect(near)),
            Between::Tcp(_) => drop(TcpStream::connect(("127.0.0.1", self.port))),
        }
        let _ = self.thread.take().map(JoinHandle::join);
        if let Between::Unix { near, .. } = &self.between {
            let _ = std::fs::remove_file(near);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No greeting is as long.
const GREETING: u64 = 1024;

fn spoils_the_greeting(fault: &Fault) -> bool {
    let is_early = match fault.when {
        When::Byte(_, at) => at <= GREETING,
        When::Message(..) | When::After(..) | When::Time(_) => false,
    };
    is_early && matches!(fault.what, What::Flip(_) | What::Cut | What::HalfClose)
}

fn serve(listener: &Listener, between: &Between, shared: &Arc<Shared>) {
    let mut pumps = Vec::new();
    loop {
        let near: io::Result<OwnedFd> = match listener {
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| stream.into()),
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| stream.into()),
        };
        let Ok(near) = near else { break };
        if shared.broken.load(Ordering::Acquire) {
            break;
        }
        let far: io::Result<OwnedFd> = match between {
            Between::Unix { far, .. } => UnixStream::connect(far).map(OwnedFd::from),
            Between::Tcp(port) => TcpStream::connect(("127.0.0.1", *port)).map(OwnedFd::from),
        };
        let Ok(far) = far else { continue };
        let copy = |fd: &OwnedFd| fd.try_clone().expect("a descriptor is free");
        lock(&shared.ends).extend([copy(&near), copy(&far)]);
        for (from, to, way) in [(&near, &far, Way::Forth), (&far, &near, Way::Back)] {
            let (from, to, shared) = (copy(from), copy(to), Arc::clone(shared));
            pumps.push(thread::spawn(move || pump(&from, &to, way, &shared)));
        }
    }
    for pump in pumps {
        let _ = pump.join();
    }
}

impl Shared {
    fn cut(&self) {
        self.broken.store(true, Ordering::Release);
        for end in lock(&self.ends).iter() {
            let _ = shutdown(end, Shutdown::Both);
        }
    }

    /// The faults that are due within the next bytes of a direction, and how many bytes pass before
    /// each.
    fn due(
        &self,
        way: Way,
        count: usize,
        starts: &[(usize, FrameKind)],
    ) -> Vec<(usize, What, Duration)> {
        let count = count as u64;
        let from = self.passed[way as usize].fetch_add(count, Ordering::AcqRel);
        let mut due = Vec::new();
        lock(&self.waiting).retain(|fault| {
            let at = match fault.when {
                When::Byte(side, byte) if side == way => {
                    (from..from + count).contains(&byte).then_some(byte - from)
                }
                When::Message(side, name) | When::After(side, name, _) if side == way => starts
                    .iter()
                    .find(|(_, kind)| kind.name() == name)
                    .map(|(at, _)| *at as u64),
                _ => None,
            };
            let later = match fault.when {
                When::After(_, _, time) => Duration::from_micros(time),
                _ => Duration::ZERO,
            };
            due.extend(at.map(|at| (at as usize, fault.what, later)));
            at.is_none()
        });
        due.sort_by_key(|(at, ..)| *at);
        due
    }

    fn note(&self, starts: &[(usize, FrameKind)], until: usize) {
        for (at, kind) in starts {
            match kind {
                FrameKind::Proven if *at < until => self.seen.proven.store(true, Ordering::Release),
                FrameKind::Commit if *at < until => self.seen.commit.store(true, Ordering::Release),
                _ => {}
            }
        }
    }
}

fn pump(from: &OwnedFd, to: &OwnedFd, way: Way, shared: &Shared) {
    let mut messages = Messages {
        lost: !shared.is_native,
        ..Messages::default()
    };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = rustix::io::read(from, &mut buffer[..]) {
        let bytes = &mut buffer[..read];
        let starts = messages.starts(bytes);
        let mut passed = 0;
        for (at, what, later) in shared.due(way, read, &starts) {
            // What is before the fault arrives first.
            if !write_all(to, &bytes[passed..at]) {
                return shared.cut();
            }
            passed = at;
            match what {
                What::Cut => {
                    shared.note(&starts, at);
                    (shared.fire)(what, later);
                    return shared.cut();
                }
                What::HalfClose => {
                    (shared.fire)(what, later);
                    let _ = shutdown(to, Shutdown::Write);
                    // The peer is not told: it goes on writing.
                    while let Ok(1..) = rustix::io::read(from, &mut buffer[..]) {}
                    return;
                }
                What::Flip(bit) => {
                    (shared.fire)(what, later);
                    bytes[at] ^= 1 << bit;
                }
                other => (shared.fire)(other, later),
            }
        }
        // Before it arrives: who reads it may end at once.
        shared.note(&starts, read);
        if !write_all(to, &bytes[passed..]) {
            return shared.cut();
        }
    }
    let _ = shutdown(to, Shutdown::Write);
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Finds where messages begin in one direction of a connection.
#[derive(Default)]
struct Messages {
    greeted: bool,
    /// What is known of the head of the current message.
    head: Vec<u8>,
    /// Bytes of the current message that are still to come after its head.
    rest: usize,
    /// What passes is not what we know.
    lost: bool,
}

impl Messages {
    fn starts(&mut self, mut bytes: &[u8]) -> Vec<(usize, FrameKind)> {
        let all = bytes.len();
        let mut starts = Vec::new();
        while !bytes.is_empty() && !self.lost {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = &bytes[skipped..];
            let Some(first) = bytes.first() else { break };
            if self.greeted && self.head.is_empty() {
                starts.extend(kind(*first).map(|kind| (all - bytes.len(), kind)));
            }
            let wanted = match self.greeted {
                true => HEADER_LEN,
                false => HELLO_HEAD_LEN,
            };
            let taken = (wanted - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.head.len() == wanted {
                self.end_head();
            }
        }
        starts
    }

    fn end_head(&mut self) {
        let rest = match self.greeted {
            true => {
                let head = self.head[..].try_into().ok();
                head.and_then(|head| Header::from_bytes(head).ok())
                    .map(|header| header.rest_len())
            }
            false => {
                let length = self.head[12..16].try_into().map(u32::from_le_bytes);
                length.ok().map(|length| length as usize + 8)
            }
        };
        self.head.clear();
        self.greeted = true;
        match rest {
            Some(rest) => self.rest = rest,
            None => self.lost = true,
        }
    }
}

fn kind(number: u8) -> Option<FrameKind> {
    [
        FrameKind::Pages,
        FrameKind::RoundEnd,
        FrameKind::Finish,
        FrameKind::Proven,
        FrameKind::Commit,
        FrameKind::Committed,
    ]
    .into_iter()
    .find(|kind| *kind as u8 == number)
}
