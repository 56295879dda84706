//! What the tests of live migrations share: writers that can be watched, a relay that sees every
//! record and can hold or cut it, and the two ends of a live migration.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ramferry::page::PAGE_SIZE;
use ramferry::source::{Live, WriterChoice};
use ramferry::transport::Address;
use ramferry::wire::Format;
use ramferry::wire::native::{FrameKind, HEADER_LEN, HELLO_HEAD_LEN, Header};
use ramferry::writer::{Writer, churn};
use ramferry::{Caps, Error, Kind, Migration, Params, Settings};
use rustix::process::Signal;

use crate::support::{Dice, Page, Program, command, until};

// ---- a writer that is another process

/// `ramferry churn`, writing.
pub(crate) struct Churn {
    pub(crate) image: PathBuf,
    pub(crate) program: Program,
}

impl Churn {
    pub(crate) const THREADS: usize = 2;

    pub(crate) fn start(image: &Path, args: &[&str]) -> Churn {
        let path = image.to_str().unwrap();
        let args = [&["churn", "--in-place", path, "--threads", "2"], args].concat();
        let mut program = Program::start(command(&args));
        assert_eq!(program.out_line(), "writing");
        Churn {
            image: image.to_owned(),
            program,
        }
    }

    pub(crate) fn pid(&self) -> String {
        self.program.pid().to_string()
    }

    pub(crate) fn by_pid(&self) -> WriterChoice {
        WriterChoice::Processes {
            pids: vec![self.program.pid()],
            guard: Some(env!("CARGO_BIN_EXE_ramferry").into()),
            paused_ok: false,
        }
    }

    /// Stopped and resumed by commands. The signal alone does not do: it must have arrived.
    pub(crate) fn commands(&self) -> (String, String) {
        let pid = self.pid();
        (
            format!(
                "kill -STOP {pid} && while grep -qv ') T ' /proc/{pid}/task/*/stat; do :; done"
            ),
            format!("kill -CONT {pid}"),
        )
    }

    /// How far its threads have come.
    fn progress(&self) -> Vec<u8> {
        let mut progress = vec![0; 64 * Churn::THREADS];
        let records = File::open(churn::records_of(&self.image)).unwrap();
        records.read_exact_at(&mut progress, 4096).unwrap();
        progress
    }

    /// It runs, and really writes.
    pub(crate) fn writes_on(&self) {
        until(|| !self.program.is_stopped());
        let before = self.progress();
        until(|| self.progress() != before);
    }

    #[track_caller]
    pub(crate) fn stands_still(&self) {
        assert!(self.program.is_stopped(), "it runs");
    }

    pub(crate) fn resume(&self) {
        self.program.signal(Signal::CONT);
    }

    /// Whether this is what the writer has left.
    #[track_caller]
    pub(crate) fn verify(&self, copy: &Path) {
        let records = churn::records_of(&self.image);
        churn::verify(copy, &records)
            .and_then(|verified| verified.into_result(copy))
            .unwrap_or_else(|error| panic!("{}", error.one_line()));
    }
}

// ---- a writer in this process

/// What is done to a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Stop,
    Resume,
    Release,
    Throttle(u8),
}

type OnCall = Box<dyn FnMut(Call) -> Result<(), Error> + Send>;

struct OwnState {
    paused: bool,
    ended: bool,
    writes: u64,
    calls: Vec<Call>,
}

struct Shared {
    state: Mutex<OwnState>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, OwnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that writes to an image, and notes what is done to it.
pub(crate) struct Own {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Own {
    /// Writes pages of the image's first `pages`, one every `interval`.
    pub(crate) fn start(image: &Path, pages: u64, interval: Duration, seed: u64) -> Own {
        let shared = Arc::new(Shared {
            state: Mutex::new(OwnState {
                paused: false,
                ended: false,
                writes: 0,
                calls: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let file = File::options().write(true).open(image).unwrap();
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut dice = Dice::new(seed);
            let mut state = own.lock();
            while !state.ended {
                if state.paused {
                    state = own.changed.wait(state).unwrap();
                    continue;
                }
                write(&file, pages, &mut dice);
                state.writes += 1;
                state = own.changed.wait_timeout(state, interval).unwrap().0;
            }
        });
        Own {
            shared,
            thread: Some(thread),
        }
    }

    pub(crate) fn choice(&self) -> WriterChoice {
        self.choice_that(|_| Ok(()))
    }

    /// As a migration sees it. `on_call` is called first, and may fail.
    pub(crate) fn choice_that(
        &self,
        on_call: impl FnMut(Call) -> Result<(), Error> + Send + 'static,
    ) -> WriterChoice {
        WriterChoice::Own(Arc::new(Mutex::new(Remote {
            shared: Arc::clone(&self.shared),
            on_call: Box::new(on_call),
            released: false,
        })))
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.lock().calls.clone()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.shared.lock().paused
    }

    pub(crate) fn writes_on(&self) {
        assert!(!self.is_paused(), "it is stopped");
        let before = self.shared.lock().writes;
        until(|| self.shared.lock().writes > before + 1);
    }

    /// As if the destination that took the guest over were gone.
    pub(crate) fn start_again(&self) {
        let mut state = self.shared.lock();
        state.paused = false;
        state.calls.clear();
        self.shared.changed.notify_all();
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Whole pages, few bytes, and zeroes.
fn write(file: &File, pages: u64, dice: &mut Dice) {
    let at = dice.below(pages) * PAGE_SIZE as u64;
    match dice.below(8) {
        0 => file.write_all_at(&Page::Zero.bytes(), at).unwrap(),
        1 => file
            .write_all_at(&Page::Random(dice.next()).bytes(), at)
            .unwrap(),
        _ => {
            let inside = dice.below(PAGE_SIZE as u64 - 8);
            file.write_all_at(&dice.next().to_le_bytes(), at + inside)
                .unwrap();
        }
    }
}

struct Remote {
    shared: Arc<Shared>,
    on_call: OnCall,
    released: bool,
}

impl Remote {
    fn call(&mut self, call: Call) -> Result<(), Error> {
        let outcome = (self.on_call)(call);
        // Nothing is being written while this is locked.
        let mut state = self.shared.lock();
        state.calls.push(call);
        if outcome.is_ok() {
            state.paused = match call {
                Call::Stop | Call::Release => true,
                Call::Resume => false,
                Call::Throttle(_) => state.paused,
            };
        }
        self.shared.changed.notify_all();
        outcome
    }
}

impl Writer for Remote {
    fn stop(&mut self, _limit: Duration) -> Result<(), Error> {
        self.call(Call::Stop)
    }
    fn resume(&mut self) -> Result<(), Error> {
        if self.released {
            return Err(Error::new(Kind::Failed, "it was released"));
        }
        self.call(Call::Resume)
    }
    fn release(&mut self) {
        self.released = true;
        self.call(Call::Release).unwrap();
    }
    fn throttle(&mut self, percent: u8) -> Result<bool, Error> {
        self.call(Call::Throttle(percent)).map(|()| true)
    }
    fn describe(&self) -> String {
        "the writer of the test".to_owned()
    }
}

// ---- the source

/// A source of a live guest.
pub(crate) fn send_live(
    image: &Path,
    address: &Address,
    writer: WriterChoice,
    caps: Caps,
    params: Params,
) -> Migration {
    send_live_as(Format::Native, image, address, writer, caps, params)
}

pub(crate) fn send_live_as(
    format: Format,
    image: &Path,
    address: &Address,
    writer: WriterChoice,
    caps: Caps,
    params: Params,
) -> Migration {
    // Tests move one guest again and again, as if its destination were gone.
    let live = Live::new(writer).again(true);
    Migration::send(image)
        .to(address.clone())
        .format(format)
        .live(live)
        .settings(Settings::new(params, caps))
        .start()
        .unwrap()
}

// ---- a moment

/// Waits for a moment in another thread, and holds it.
pub(crate) struct Moment {
    reached: Receiver<()>,
    go_on: Sender<()>,
}

/// What is called at the moment, once: returns when [`Moment`] is dropped.
pub(crate) type Hold = Box<dyn FnMut() + Send>;

pub(crate) fn moment() -> (Hold, Moment) {
    let (arrived, reached) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let hold = move || {
        if arrived.send(()).is_ok() {
            let _ = may_go_on.recv();
        }
    };
    (Box::new(hold), Moment { reached, go_on })
}

impl Moment {
    /// Waits for the moment, acts, and lets go.
    #[track_caller]
    pub(crate) fn act(self, act: impl FnOnce()) {
        self.reached.recv().expect("the moment comes");
        act();
        drop(self.go_on);
    }

    /// As [`Moment::act`], for a moment that may never come.
    pub(crate) fn act_if_it_comes(self, act: impl FnOnce()) {
        if self.reached.recv().is_ok() {
            act();
        }
        drop(self.go_on);
    }
}

// ---- a relay

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Forth,
    Back,
}

/// A record that is about to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) way: Way,
    /// `None`: a greeting.
    pub(crate) kind: Option<FrameKind>,
    pub(crate) round: u32,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Pass,
    /// All connections break.
    Cut,
}

type OnRecord = Box<dyn FnMut(&Seen) -> Then + Send>;

struct Between {
    on_record: Mutex<OnRecord>,
    ends: Mutex<Vec<UnixStream>>,
    broken: AtomicBool,
    commits: AtomicUsize,
}

impl Between {
    fn cut(&self) {
        self.broken.store(true, Ordering::Release);
        for end in self.ends.lock().unwrap().iter() {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// A relay between the two ends, on any number of connections over unix sockets.
pub(crate) struct Relay {
    near: PathBuf,
    between: Arc<Between>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    pub(crate) fn start(
        near: &Path,
        far: &Path,
        on_record: impl FnMut(&Seen) -> Then + Send + 'static,
    ) -> Relay {
        let _ = std::fs::remove_file(near);
        let listener = UnixListener::bind(near).unwrap();
        let between = Arc::new(Between {
            on_record: Mutex::new(Box::new(on_record)),
            ends: Mutex::default(),
            broken: AtomicBool::new(false),
            commits: AtomicUsize::new(0),
        });
        let (own, far) = (Arc::clone(&between), far.to_owned());
        let thread = thread::spawn(move || {
            let mut pumps = Vec::new();
            while let Ok((near, _)) = listener.accept() {
                if own.broken.load(Ordering::Acquire) {
                    break;
                }
                let Ok(far) = UnixStream::connect(&far) else {
                    continue;
                };
                let copies = [near.try_clone().unwrap(), far.try_clone().unwrap()];
                own.ends.lock().unwrap().extend(copies);
                for (from, to, way) in [(&near, &far, Way::Forth), (&far, &near, Way::Back)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let between = Arc::clone(&own);
                    pumps.push(thread::spawn(move || pump(&from, &to, way, &between)));
                }
            }
            drop(listener);
            for pump in pumps {
                pump.join().unwrap();
            }
        });
        Relay {
            near: near.to_owned(),
            between,
            thread: Some(thread),
        }
    }

    /// One that does something at the first record of which `when` says so.
    pub(crate) fn at(
        near: &Path,
        far: &Path,
        mut when: impl FnMut(&Seen) -> bool + Send + 'static,
        mut act: impl FnMut() -> Then + Send + 'static,
    ) -> Relay {
        let mut done = false;
        Relay::start(near, far, move |seen| {
            if done || !when(seen) {
                return Then::Pass;
            }
            done = true;
            act()
        })
    }

    /// Whether Commit has left the source.
    pub(crate) fn saw_commit(&self) -> bool {
        self.between.commits.load(Ordering::Acquire) > 0
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.between.cut();
        // It waits for another connection.
        let _ = UnixStream::connect(&self.near);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn read_record(from: &mut impl Read, greeted: bool) -> std::io::Result<(Vec<u8>, Option<Header>)> {
    let mut bytes = vec![0; if greeted { HEADER_LEN } else { HELLO_HEAD_LEN }];
    from.read_exact(&mut bytes)?;
    let (rest, header) = if greeted {
        let head = bytes[..].try_into().unwrap();
        let header = Header::from_bytes(head).unwrap();
        (header.rest_len(), Some(header))
    } else {
        let body = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
        (body as usize + 8, None)
    };
    let head = bytes.len();
    bytes.resize(head + rest, 0);
    from.read_exact(&mut bytes[head..])?;
    Ok((bytes, header))
}

fn pump(mut from: &UnixStream, mut to: &UnixStream, way: Way, between: &Between) {
    let mut greeted = false;
    while let Ok((bytes, header)) = read_record(&mut from, greeted) {
        greeted = true;
        let kind = header.and_then(|header| header.kind);
        let seen = Seen {
            way,
            kind,
            round: header.map_or(0, |header| header.round.0),
        };
        if kind == Some(FrameKind::Commit) {
            between.commits.fetch_add(1, Ordering::AcqRel);
        }
        let then = (between.on_record.lock().unwrap())(&seen);
        if then == Then::Cut || to.write_all(&bytes).is_err() {
            between.cut();
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
