//! Makes faults happen.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{
    PidfdFlags, Resource, Rlimit, Signal, pidfd_open, pidfd_send_signal, prlimit,
};

use crate::child::{Process, as_pid, children, command_line};
use crate::plan::{End, Fault, What, When, socket};
use crate::relay::Seen;

/// What another program puts where an output is to be.
pub(crate) const OF_OTHERS: &[u8] = b"of another program";

/// What faults act on.
#[derive(Debug, Default)]
pub(crate) struct Actor {
    pub(crate) folder: PathBuf,
    pub(crate) image: PathBuf,
    pub(crate) source: OnceLock<Arc<Process>>,
    pub(crate) destination: OnceLock<Arc<Process>>,
    pub(crate) writer: Option<Arc<Process>>,
    pub(crate) seen: Arc<Seen>,
    /// The writer was resumed by others when the migration could no longer notice.
    resumed_late: AtomicBool,
    fired: Mutex<Vec<What>>,
    /// Those that end what they began after a while.
    later: Mutex<Vec<JoinHandle<()>>>,
    over: Mutex<bool>,
    ended: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Actor {
    pub(crate) fn new(
        folder: PathBuf,
        image: PathBuf,
        writer: Option<Arc<Process>>,
        seen: Arc<Seen>,
    ) -> Actor {
        Actor {
            folder,
            image,
            writer,
            seen,
            ..Actor::default()
        }
    }

    /// Makes those of the faults happen that depend on the time.
    pub(crate) fn start_timers(self: &Arc<Actor>, faults: &[Fault]) {
        for fault in faults {
            if let When::Time(milliseconds) = fault.when {
                self.in_a_while(Duration::from_millis(milliseconds), fault.what);
            }
        }
    }

    fn in_a_while(self: &Arc<Actor>, time: Duration, what: What) {
        let own = Arc::clone(self);
        let timer = thread::spawn(move || {
            if !own.is_over_within(time) {
                own.fire(what);
            }
        });
        lock(&self.later).push(timer);
    }

    /// At once, or in a while.
    pub(crate) fn fire_after(self: &Arc<Actor>, time: Duration, what: What) {
        match time.is_zero() {
            true => self.fire(what),
            false => self.in_a_while(time, what),
        }
    }

    /// Waits until nothing more happens; a process that is paused is continued first.
    pub(crate) fn finish(&self) -> Vec<What> {
        *lock(&self.over) = true;
        self.ended.notify_all();
        loop {
            let next = lock(&self.later).pop();
            let Some(next) = next else { break };
            let _ = next.join();
        }
        lock(&self.fired).clone()
    }

    /// `true`: the run was over before the time was.
    fn is_over_within(&self, time: Duration) -> bool {
        let over = lock(&self.over);
        let waited = self.ended.wait_timeout_while(over, time, |over| !*over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn end(&self, end: End) -> Option<&Arc<Process>> {
        match end {
            // A byte may pass before the thread that started it has noted that.
            End::Source => Some(self.source.wait()),
            End::Destination => self.destination.get(),
        }
    }

    pub(crate) fn fire(self: &Arc<Actor>, what: What) {
        let happened = match what {
            // The relay's, or the run's own.
            What::Cut | What::HalfClose | What::Flip(_) => true,
            What::Kill(end) => self.signal(self.end(end), Signal::KILL),
            What::Terminate(end) => self.signal(self.end(end), Signal::TERM),
            What::Interrupt(end) => self.signal(self.end(end), Signal::INT),
            What::Pause(end, time) => self.pause(self.end(end), time, false),
            What::PauseWriter(time) => self.pause(self.writer.as_ref(), time, true),
            What::ContinueWriter => {
                self.resumes_writer();
                self.signal(self.writer.as_ref(), Signal::CONT)
            }
            What::KillWriter => self.signal(self.writer.as_ref(), Signal::KILL),
            What::KillGuard => self.kill_guard(),
            What::FileLimit => self.limit_files(),
            What::Truncate => self.truncate(),
            What::Cancel(end) => self.cancel(end).is_some(),
            What::OutputAppears => {
                let output = self.folder.join("out");
                File::create_new(output).is_ok_and(|mut file| file.write_all(OF_OTHERS).is_ok())
            }
        };
        if happened {
            self.note(what);
        }
    }

    pub(crate) fn note(&self, what: What) {
        lock(&self.fired).push(what);
    }

    fn signal(&self, process: Option<&Arc<Process>>, signal: Signal) -> bool {
        process.is_some_and(|process| {
            let lives = !process.has_ended();
            process.signal(signal);
            lives
        })
    }

    fn pause(
        self: &Arc<Actor>,
        process: Option<&Arc<Process>>,
        milliseconds: u64,
        is_writer: bool,
    ) -> bool {
        let Some(process) = process else { return false };
        let paused = self.signal(Some(process), Signal::STOP);
        let (own, process) = (Arc::clone(self), Arc::clone(process));
        let rest = thread::spawn(move || {
            own.is_over_within(Duration::from_millis(milliseconds));
            if is_writer {
                own.resumes_writer();
            }
            process.signal(Signal::CONT);
        });
        lock(&self.later).push(rest);
        paused
    }

    /// Another program is about to resume the writer.
    fn resumes_writer(&self) {
        if self.seen.proven.load(Ordering::Acquire) {
            self.resumed_late.store(true, Ordering::Release);
        }
    }

    pub(crate) fn resumed_late(&self) -> bool {
        self.resumed_late.load(Ordering::Acquire)
    }

    fn kill_guard(&self) -> bool {
        let source = self.source.wait();
        let mut killed = false;
        for pid in children(source.pid) {
            if let Ok(pidfd) = pidfd_open(as_pid(pid), PidfdFlags::empty())
                && command_line(pid).contains("__resume-guard")
            {
                killed |= pidfd_send_signal(pidfd, Signal::KILL).is_ok();
            }
        }
        killed
    }

    /// What it prints must still find room.
    fn limit_files(&self) -> bool {
        let limit = Rlimit {
            current: Some(64 << 10),
            maximum: Some(64 << 10),
        };
        self.destination.get().is_some_and(|destination| {
            let lives = !destination.has_ended();
            lives && prlimit(Some(as_pid(destination.pid)), Resource::Fsize, limit).is_ok()
        })
    }

    fn truncate(&self) -> bool {
        let file = File::options().write(true).open(&self.image);
        file.and_then(|file| {
            let length = file.metadata()?.len();
            file.set_len(length / 2)
        })
        .is_ok()
    }

    fn cancel(&self, end: End) -> Option<()> {
        let mut client = Client::connect(&self.folder.join(socket(end)))?;
        client.ask(r#"{"execute": "migrate_cancel"}"#).map(drop)
    }
}

/// A client of a monitor that speaks QMP. Everything may fail at any time: the monitor ends with
/// its migration.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub(crate) fn connect(socket: &std::path::Path) -> Option<Client> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut client = Client {
            stream: BufReader::new(stream),
        };
        client.line()?;
        client.ask(r#"{"execute": "qmp_capabilities"}"#)?;
        Some(client)
    }

    /// Waits for the socket, as long as `lives` says that there is a point.
    pub(crate) fn wait_for(socket: &std::path::Path, lives: impl Fn() -> bool) -> Option<Client> {
        let started = Instant::now();
        while lives() && started.elapsed() < Duration::from_secs(10) {
            if let Some(client) = Client::connect(socket) {
                return Some(client);
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }

    pub(crate) fn send(&mut self, text: &str) -> Option<()> {
        self.stream.get_mut().write_all(text.as_bytes()).ok()
    }

    /// The answer to a request, after any events.
    pub(crate) fn ask(&mut self, request: &str) -> Option<String> {
        self.send(&format!("{request}\n"))?;
        loop {
            let line = self.line()?;
            if !line.contains("\"event\"") {
                return Some(line);
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).ok()?;
        (read > 0).then_some(line)
    }
}
