//! Processes that write the guest's RAM, stopped and resumed by signals.
//!
//! Each is held by a pidfd, so that a signal never reaches another process that got the PID later.
//! What is read from `/proc/PID` is believed only if the pidfd says afterwards that the process is still
//! there: until then nobody else can have its PID.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal, test_kill_process,
};

use super::guard::{Guard, Target};
use super::lock::Lock;
use super::{Writer, WriterError};
use crate::error::{Error, Kind, Result};
use crate::transport::{Abort, Woken};

/// Between the first two looks at whether all threads have stopped; doubled each time. Nothing tells
/// of it: a pidfd tells only of a process's end, and waiting for a stop is for parents and tracers. A
/// thread mostly stops within microseconds, and the downtime has begun.
const LOOK: Duration = Duration::from_micros(100);

/// Between two looks at most: one that takes longer to stop is waiting for something slow.
const LONGEST_LOOK: Duration = Duration::from_millis(5);

/// How long a throttled process runs between two pauses, as QEMU's vCPUs do.
const SLICE: Duration = Duration::from_millis(10);

/// The most by which a process can be slowed down: it must get somewhere.
const MOST_PERCENT: u8 = 99;

/// One or several processes, stopped with SIGSTOP and resumed with SIGCONT.
///
/// Each gets back the state that it had when it was opened. Dropped without [`Writer::release`],
/// those that this stopped are resumed. If this process is killed, a guard process resumes them; if
/// the guard is killed as well, they stay stopped.
#[derive(Debug)]
pub struct Processes {
    all: Arc<Vec<Process>>,
    /// Those that were stopped when they were opened, and stay so.
    paused: Vec<Process>,
    guard: Option<Guard>,
    throttle: Option<Throttle>,
    abort: Arc<Abort>,
    state: State,
    /// Held until the migration is over.
    _locks: Vec<Lock>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
    Released,
}

impl Processes {
    /// Gets hold of the processes with these PIDs, and starts the [guard](super::guard), if there is
    /// to be one, from `guard_program`. `abort` ends the wait for them to stop. A process that is
    /// stopped already is refused, since it may be one that was handed over to a destination and
    /// must never run again; with `paused_ok` it is taken as it is, and left stopped.
    ///
    /// # Errors
    /// PIDs of no process, of this one, or of one that must not be stopped by this user;
    /// [`WriterError::AlreadyStopped`]; [`WriterError::Busy`] while another migration has hold of
    /// one of them; a guard that does not start.
    pub fn open(
        pids: &[u32],
        guard_program: Option<&Path>,
        paused_ok: bool,
        abort: Arc<Abort>,
    ) -> Result<Processes> {
        let mut pids = pids.to_vec();
        pids.sort_unstable();
        pids.dedup();
        let all = pids
            .into_iter()
            .map(Process::open)
            .collect::<Result<Vec<_>, _>>()?;
        let mut locks = Vec::new();
        for process in &all {
            locks.push(Lock::process(process.target()?)?);
        }
        // Only now: another migration may stop a process for a moment, but not while this has it.
        let (mut running, mut paused) = (Vec::new(), Vec::new());
        for process in all {
            if process.running()?.is_some() {
                running.push(process);
            } else if paused_ok {
                paused.push(process);
            } else {
                return Err(WriterError::AlreadyStopped { pid: process.pid }.into());
            }
        }
        let all = running;
        let targets: Vec<Target> = all.iter().map(Process::target).collect::<Result<_, _>>()?;
        let guard = guard_program
            .map(|program| Guard::start(program, &targets, &abort))
            .transpose()?;
        Ok(Processes {
            all: Arc::new(all),
            paused,
            _locks: locks,
            guard,
            throttle: None,
            abort,
            state: State::Running,
        })
    }

    fn try_stop(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now().checked_add(limit);
        // Before the first signal: from then on there is something to resume.
        self.arm_guard()?;
        for process in self.all.iter() {
            process.signal(Signal::STOP)?;
        }
        // One that was paused may have been resumed since.
        first_continued(&self.paused)?;
        let mut look = LOOK;
        for process in self.all.iter() {
            while let Some((thread, state)) = process.running()? {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Err(WriterError::DidNotStop {
                        pid: process.pid,
                        thread,
                        state,
                        limit,
                    }
                    .into());
                }
                let wait = look;
                look = (look * 2).min(LONGEST_LOOK);
                match self.abort.wait(wait) {
                    Ok(Woken::Aborted) => return Err(Error::interrupted()),
                    Ok(_) => {}
                    Err(error) => return Err(Error::new(Kind::Failed, error).in_stage("wait")),
                }
            }
        }
        Ok(())
    }

    /// From now on the guard resumes the processes if this one is killed.
    fn arm_guard(&mut self) -> Result<(), WriterError> {
        let armed = self
            .guard
            .as_mut()
            .is_none_or(|guard| guard.is_there() && guard.arm());
        if armed {
            Ok(())
        } else {
            Err(WriterError::GuardGone)
        }
    }

    /// Resumes all that were running, whatever happens to one of them.
    fn continue_all(&self) -> Result<(), WriterError> {
        let mut outcome = Ok(());
        for process in self.all.iter() {
            outcome = outcome.and(process.signal(Signal::CONT));
        }
        outcome
    }
}

/// Whether the process maps the file or has it open: only then can it write it. `None` if that
/// cannot be told.
pub fn uses(pid: u32, file: &Path) -> Option<bool> {
    let wanted = std::fs::metadata(file).ok()?;
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let is_open = open.flatten().any(|entry| {
        std::fs::metadata(entry.path())
            .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    });
    if is_open {
        return Some(true);
    }
    let device = format!(
        "{:02x}:{:02x}",
        rustix::fs::major(wanted.dev()),
        rustix::fs::minor(wanted.dev())
    );
    let inode = wanted.ino().to_string();
    let path = file.canonicalize().ok()?;
    // Names in there may be any bytes.
    let maps = std::fs::read(format!("/proc/{pid}/maps")).ok()?;
    let maps = String::from_utf8_lossy(&maps);
    // Address, permissions, offset, device, inode, path. Some file systems show another device
    // there than they tell elsewhere.
    Some(maps.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(3);
        let found = (fields.next(), fields.next());
        found == (Some(&device), Some(&inode)) || path.to_str().is_some_and(|p| line.ends_with(p))
    }))
}

impl Writer for Processes {
    fn stop(&mut self, limit: Duration) -> Result<()> {
        if self.state == State::Released {
            return Ok(());
        }
        self.throttle = None;
        self.state = State::Stopped;
        self.try_stop(limit).inspect_err(|_| {
            self.state = State::Running;
            // The error that led here says more.
            let _ = self.continue_all();
        })
    }

    fn resume(&mut self) -> Result<()> {
        if self.state == State::Released {
            return Err(WriterError::Released {
                who: self.describe(),
            }
            .into());
        }
        self.throttle = None;
        self.state = State::Running;
        Ok(self.continue_all()?)
    }

    fn check_stopped(&mut self) -> Result<()> {
        first_continued(&self.all)?;
        Ok(first_continued(&self.paused)?)
    }

    fn release(&mut self) {
        self.throttle = None;
        if let Some(guard) = self.guard.take() {
            guard.release();
        }
        if self.state == State::Running {
            for process in self.all.iter() {
                // Whoever takes the guest over must be alone, and one that has ended is no rival.
                let _ = process.signal(Signal::STOP);
            }
        }
        self.state = State::Released;
    }

    fn throttle(&mut self, percent: u8) -> Result<bool> {
        if self.state != State::Running {
            return Ok(false);
        }
        self.throttle = None;
        for process in self.all.iter() {
            if process.has_ended() {
                return Err(WriterError::Gone { pid: process.pid }.into());
            }
        }
        if percent > 0 {
            self.arm_guard()?;
            self.throttle = Some(Throttle::start(Arc::clone(&self.all), percent)?);
        }
        Ok(true)
    }

    fn describe(&self) -> String {
        let pids: Vec<String> = self
            .all
            .iter()
            .chain(&self.paused)
            .map(|process| process.pid.to_string())
            .collect();
        match &pids[..] {
            [pid] => format!("process {pid}"),
            _ => format!("processes {}", pids.join(", ")),
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.throttle = None;
        if self.state == State::Stopped {
            // Nobody to tell.
            let _ = self.continue_all();
        }
    }
}

/// The first of them that is not stopped, as an error.
fn first_continued(processes: &[Process]) -> Result<(), WriterError> {
    for process in processes {
        if let Some((thread, state)) = process.running()? {
            let pid = process.pid;
            return Err(WriterError::Continued { pid, thread, state });
        }
    }
    Ok(())
}

/// A process that is still the one that it was when it was opened.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    fd: OwnedFd,
}

impl Process {
    pub(super) fn open(pid: u32) -> Result<Process, WriterError> {
        let no = |why| WriterError::NoProcess { pid, why };
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| no("no PID is 0 or as large"))?;
        if raw == getpid() {
            return Err(no("it is this process itself"));
        }
        let fd = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Err(no("there is none with this PID")),
            Err(Errno::INVAL | Errno::NOENT) => return Err(no("it is a thread of another")),
            Err(error) => return Err(failed(format!("open process {pid}"), error)),
        };
        let process = Process { pid, fd };
        let allowed = test_kill_process(raw);
        if process.has_ended() {
            return Err(WriterError::Gone { pid });
        }
        match allowed {
            Ok(()) => Ok(process),
            Err(error) => Err(process.refused(error)),
        }
    }

    /// What tells the process from a later one with its PID.
    pub(super) fn target(&self) -> Result<Target, WriterError> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
        if self.has_ended() {
            return Err(WriterError::Gone { pid: self.pid });
        }
        let what = || format!("examine process {}", self.pid);
        let stat = stat.map_err(|source| WriterError::Io {
            what: what(),
            source,
        })?;
        let started = start_time(&stat).ok_or_else(|| failed(what(), Errno::PROTO))?;
        Ok(Target {
            pid: self.pid,
            started,
        })
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), WriterError> {
        pidfd_send_signal(&self.fd, signal).map_err(|error| self.refused(error))
    }

    fn refused(&self, error: Errno) -> WriterError {
        let pid = self.pid;
        match error {
            Errno::PERM => WriterError::Denied { pid },
            Errno::SRCH => WriterError::Gone { pid },
            error => failed(format!("signal process {pid}"), error),
        }
    }

    /// Whether it has ended, be it waited for by its parent or not.
    fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&at_once)), Ok(1..))
    }

    /// A thread that has not stopped, and its state. `None`: all have.
    fn running(&self) -> Result<Option<(u32, char)>, WriterError> {
        let before = self.threads()?;
        if let Some(running) = first_running(&before) {
            return Ok(Some(running));
        }
        // The pidfd tells of its end a moment later.
        if before.iter().all(|(_, state)| matches!(state, 'Z' | 'X')) {
            return Err(WriterError::Gone { pid: self.pid });
        }
        // A thread that was made after the list was read is made by one that had not stopped then.
        let after = self.threads()?;
        Ok(first_running(&after).or_else(|| {
            after
                .iter()
                .find(|thread| !before.contains(thread))
                .copied()
        }))
    }

    /// The states of all threads.
    fn threads(&self) -> Result<Vec<(u32, char)>, WriterError> {
        let threads = read_threads(self.pid);
        if self.has_ended() {
            return Err(WriterError::Gone { pid: self.pid });
        }
        threads.map_err(|source| WriterError::Io {
            what: format!("examine the threads of process {}", self.pid),
            source,
        })
    }
}

fn failed(what: String, error: Errno) -> WriterError {
    WriterError::Io {
        what,
        source: error.into(),
    }
}

fn read_threads(pid: u32) -> io::Result<Vec<(u32, char)>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        let stat = match std::fs::read_to_string(entry.path().join("stat")) {
            Ok(stat) => stat,
            // It ended in between: ENOENT before the file is open, ESRCH after.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => continue,
            Err(error) => return Err(error),
        };
        let (Some(id), Some(state)) = (id, state(&stat)) else {
            return Err(Errno::PROTO.into());
        };
        threads.push((id, state));
    }
    Ok(threads)
}

/// The first thread that may still write. Those that have ended (a main thread stays as a zombie
/// until all others have ended, too) do not.
fn first_running(threads: &[(u32, char)]) -> Option<(u32, char)> {
    threads
        .iter()
        .find(|(_, state)| !matches!(state, 'T' | 't' | 'Z' | 'X'))
        .copied()
}

/// What follows the name in `/proc/PID/stat`. The name may hold anything, brackets included.
fn behind_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest.trim_start())
}

/// Field 3 of `/proc/PID/stat`, proc_pid_stat(5).
fn state(stat: &str) -> Option<char> {
    behind_name(stat)?.chars().next()
}

/// Field 22 of `/proc/PID/stat`: when the process started, in clock ticks since boot.
fn start_time(stat: &str) -> Option<u64> {
    behind_name(stat)?.split(' ').nth(22 - 3)?.parse().ok()
}

/// A thread that stops processes again and again for a part of the time.
#[derive(Debug)]
struct Throttle {
    end: Arc<Abort>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    fn start(all: Arc<Vec<Process>>, percent: u8) -> Result<Throttle> {
        let failed = |error| Error::new(Kind::Failed, error).in_stage("throttle");
        let end = Arc::new(Abort::new().map_err(failed)?);
        let ended = Arc::clone(&end);
        let pause = pause(percent);
        let thread = thread::Builder::new()
            .name("throttle".into())
            .spawn(move || {
                // One that has ended is noticed by whoever stops or resumes it next.
                let signal = |signal| all.iter().for_each(|one| drop(one.signal(signal)));
                for (sent, time) in [(Signal::STOP, pause), (Signal::CONT, SLICE)]
                    .into_iter()
                    .cycle()
                {
                    signal(sent);
                    if !matches!(ended.wait(time), Ok(Woken::TimedOut)) {
                        break;
                    }
                }
                signal(Signal::CONT);
            })
            .map_err(failed)?;
        Ok(Throttle {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.end.raise();
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did there would be nobody to tell.
            let _ = thread.join();
        }
    }
}

/// How long to pause after each slice: the pause is so many percent of both together.
fn pause(percent: u8) -> Duration {
    let percent = u32::from(percent.min(MOST_PERCENT));
    SLICE * percent / (100 - percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_stat_are_found_behind_any_name() {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        for name in ["sleep", "a b", "x) T (y", ")", ""] {
            let stat = format!("42 ({name}) S {}\n", fields.join(" "));
            assert_eq!(state(&stat), Some('S'), "{name}");
            assert_eq!(start_time(&stat), Some(22), "{name}");
        }
        for stat in ["", "42", "42 (x", "42 (x)", "42 (x) S 1 2"] {
            assert_eq!(start_time(stat), None);
        }
    }

    #[test]
    fn threads_that_may_still_write_are_found() {
        assert_eq!(first_running(&[(1, 'T'), (2, 't'), (3, 'T')]), None);
        assert_eq!(first_running(&[(1, 'Z'), (2, 'T')]), None);
        for state in ['R', 'S', 'D', 'I', 'W', 'P'] {
            assert_eq!(first_running(&[(1, 'T'), (2, state)]), Some((2, state)));
        }
    }

    #[test]
    fn a_pause_is_its_share_of_the_time() {
        assert_eq!(pause(20), Duration::from_micros(2500));
        assert_eq!(pause(50), SLICE);
        assert_eq!(pause(99), Duration::from_millis(990));
        assert_eq!(pause(255), pause(99));
    }

    #[test]
    fn what_is_no_process_of_somebody_else_is_refused() {
        for (pid, why) in [
            (0, "no PID is 0"),
            (u32::MAX, "no PID is 0"),
            (std::process::id(), "this process itself"),
            (i32::MAX as u32, "none with this PID"),
        ] {
            let error = Process::open(pid).expect_err("refused").to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
