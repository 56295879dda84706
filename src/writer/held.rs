//! A process that is signalled and examined without mistaking a later one with its PID for it.
//!
//! It is held by a pidfd, so that a signal never reaches another process that got the PID later.
//! What is read from `/proc/PID` is believed only if the pidfd says afterwards that the process is
//! still there: until then no other process can have its PID.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};

use super::WriterError;

/// A PID, and what distinguishes the process from a later one with that PID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) pid: u32,
    pub(super) started: u64,
}

impl Target {
    /// Reads `PID:STARTED`.
    pub(super) fn parse(text: &str) -> Option<Target> {
        let (pid, started) = text.split_once(':')?;
        Some(Target {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }
}

/// A process, held by a pidfd.
#[derive(Debug)]
pub(super) struct HeldProcess {
    pub(super) pid: u32,
    fd: OwnedFd,
}

impl HeldProcess {
    /// A process that is to be signalled.
    pub(super) fn open(pid: u32) -> Result<HeldProcess, WriterError> {
        if pid == std::process::id() {
            let why = "it is this process itself";
            return Err(WriterError::NoProcess { pid, why });
        }
        let process = HeldProcess::find(pid)?;
        // Its PID was checked.
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let allowed = raw.map_or(Err(Errno::SRCH), test_kill_process);
        if process.has_ended() {
            return Err(WriterError::Gone { pid });
        }
        match allowed {
            Ok(()) => Ok(process),
            Err(error) => Err(process.refused(error)),
        }
    }

    /// A process that is only to be examined, which may be another user's.
    pub(super) fn find(pid: u32) -> Result<HeldProcess, WriterError> {
        let no = |why| WriterError::NoProcess { pid, why };
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| no("0 and numbers as large are not PIDs"))?;
        let fd = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Err(no("there is no process with this PID")),
            Err(Errno::INVAL | Errno::NOENT) => {
                return Err(no("it is a thread of another process"));
            }
            Err(error) => return Err(failed(format!("open process {pid}"), error)),
        };
        Ok(HeldProcess { pid, fd })
    }

    /// Its PID and start time.
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

    /// Whether it has ended, even if its parent has not waited for it yet.
    pub(super) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&at_once)), Ok(1..))
    }

    /// A thread that has not stopped. `None` if all have.
    pub(super) fn running(&self) -> Result<Option<Thread>, WriterError> {
        let before = self.threads()?;
        if let Some(running) = first_running(&before) {
            return Ok(Some(running));
        }
        // The pidfd reports its end a moment later.
        if before
            .iter()
            .all(|thread| matches!(thread.state, 'Z' | 'X'))
        {
            return Err(WriterError::Gone { pid: self.pid });
        }
        // A thread that was started after the list was read was started by one that had not
        // stopped.
        let after = self.threads()?;
        let is_new = |thread: &&Thread| before.iter().all(|known| known.id != thread.id);
        Ok(first_running(&after).or_else(|| after.iter().find(is_new).copied()))
    }

    /// What its threads have done up to now, if all of them have stopped and left their processors;
    /// see [`Rest`]. Otherwise the first one that has not.
    pub(super) fn rest(&self) -> Result<Result<Rest, Thread>, WriterError> {
        let before = self.threads()?;
        let waits = |thread: &Thread| match thread.state {
            'T' => waits_off_processor(self.pid, thread.id),
            _ => true,
        };
        let off = before.iter().all(waits);
        let threads = self.threads()?;
        if let Some(running) = first_running(&threads) {
            return Ok(Err(running));
        }
        let settled = off && before == threads;
        Ok(Ok(Rest { threads, settled }))
    }

    /// The states of all threads. Refuses a process with a tracer, which stops and resumes its threads as
    /// it likes: they are in state t then, whatever signals they got.
    fn threads(&self) -> Result<Vec<Thread>, WriterError> {
        let pid = self.pid;
        let threads = read_threads(pid);
        if self.has_ended() {
            return Err(WriterError::Gone { pid });
        }
        let threads = threads.map_err(|source| WriterError::Io {
            what: format!("examine the threads of process {pid}"),
            source,
        })?;
        match threads.iter().find(|thread| thread.tracer != 0) {
            Some(&Thread { tracer, .. }) => Err(WriterError::Traced { pid, tracer }),
            None => Ok(threads),
        }
    }
}

/// A thread, as `/proc/PID/task/TID/status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) id: u32,
    pub(super) state: char,
    /// The PID of its tracer, ptrace(2). 0: none, or one in an outer PID namespace.
    tracer: u32,
    /// How often it left a processor: to wait, which includes stopping, and to make room for others.
    switches: [u64; 2],
}

/// What stopped threads had done. A thread that is resumed has to leave its processor when it stops
/// again: its numbers of switches are then others.
///
/// It leaves its processor a moment after its state is T, and both may be seen in between. `settled` is
/// false where that cannot be excluded, and one switch then proves nothing.
#[derive(Debug)]
pub(super) struct Rest {
    threads: Vec<Thread>,
    pub(super) settled: bool,
}

impl Rest {
    /// A thread that has run since, in a process that rests `now`.
    pub(super) fn ran_before(&self, now: &Rest) -> Option<u32> {
        let ran = |thread: &&Thread| {
            let before = self.threads.iter().find(|before| before.id == thread.id);
            let Some(before) = before else {
                return true;
            };
            let waited = thread.switches[0].abs_diff(before.switches[0]);
            waited > u64::from(!self.settled)
                || (self.settled && thread.switches != before.switches)
        };
        now.threads.iter().find(ran).map(|thread| thread.id)
    }
}

fn failed(what: String, error: Errno) -> WriterError {
    WriterError::Io {
        what,
        source: error.into(),
    }
}

fn read_threads(pid: u32) -> io::Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        let status = match std::fs::read(entry.path().join("status")) {
            Ok(status) => status,
            // It has ended: ENOENT before the file is open, ESRCH after.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => continue,
            Err(error) => return Err(error),
        };
        let status = String::from_utf8_lossy(&status);
        let thread = id.and_then(|id| thread(id, &status)).ok_or(Errno::PROTO)?;
        threads.push(thread);
    }
    Ok(threads)
}

/// Reads proc_pid_status(5). The name in its first line may hold anything but a line's end.
fn thread(id: u32, status: &str) -> Option<Thread> {
    let value = |name| status.lines().find_map(|line| line.strip_prefix(name));
    let number = |name| value(name)?.trim().parse().ok();
    Some(Thread {
        id,
        state: value("State:")?.trim_start().chars().next()?,
        tracer: value("TracerPid:")?.trim().parse().ok()?,
        switches: [
            number("voluntary_ctxt_switches:")?,
            number("nonvoluntary_ctxt_switches:")?,
        ],
    })
}

/// Whether a thread waits in the kernel and has left its processor: only then it has a place where it
/// waits, proc_pid_wchan(5). `false` also where the kernel does not say so.
fn waits_off_processor(pid: u32, thread: u32) -> bool {
    let place = std::fs::read(format!("/proc/{pid}/task/{thread}/wchan"));
    place.is_ok_and(|place| !matches!(&place[..], b"" | b"0"))
}

/// The first thread that may still write. Those that have ended (a main thread stays as a zombie
/// until all others have ended, too) do not.
fn first_running(threads: &[Thread]) -> Option<Thread> {
    threads
        .iter()
        .find(|thread| !matches!(thread.state, 'T' | 'Z' | 'X'))
        .copied()
}

/// What follows the name in `/proc/PID/stat`. The name may hold anything, brackets included.
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest.trim_start())
}

/// When the process that has this PID now was started, as [`Target::started`].
pub(super) fn start_of(pid: u32) -> Option<u64> {
    start_time(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of `/proc/PID/stat`: when the process started, in clock ticks since boot.
fn start_time(stat: &str) -> Option<u64> {
    after_name(stat)?.split(' ').nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_stat_are_found_after_any_name() {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        for name in ["sleep", "a b", "x) T (y", ")", ""] {
            let stat = format!("42 ({name}) S {}\n", fields.join(" "));
            assert_eq!(start_time(&stat), Some(22), "{name}");
        }
        for stat in ["", "42", "42 (x", "42 (x)", "42 (x) S 1 2"] {
            assert_eq!(start_time(stat), None);
        }
    }

    fn threads(of: &[(u32, char, [u64; 2])]) -> Vec<Thread> {
        let thread = |&(id, state, switches)| Thread {
            id,
            state,
            tracer: 0,
            switches,
        };
        of.iter().map(thread).collect()
    }

    #[test]
    fn threads_that_may_still_write_are_found() {
        let all = |states: &[char]| {
            let numbered = (1..).zip(states);
            let threads: Vec<_> = numbered.map(|(id, &state)| (id, state, [0, 0])).collect();
            first_running(&self::threads(&threads)).map(|thread| thread.id)
        };
        assert_eq!(all(&['T', 'T']), None);
        assert_eq!(all(&['Z', 'T']), None);
        for state in ['R', 'S', 'D', 'I', 'W', 'P', 't'] {
            assert_eq!(all(&['T', state]), Some(2));
        }
    }

    #[test]
    fn the_fields_of_status_are_found_after_any_name() {
        let status = "Name:\tState:\\nState:R\nUmask:\t0022\nState:\tT (stopped)\nTgid:\t7\nTracerPid:\t9\n\
                      voluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        let found = thread(7, status).unwrap();
        assert_eq!((found.id, found.state, found.switches), (7, 'T', [12, 3]));
        assert_eq!(found.tracer, 9);
        for status in [
            "",
            "State:\tT",
            "voluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t1",
        ] {
            assert_eq!(thread(7, status), None);
        }
    }

    #[test]
    fn a_thread_that_ran_meanwhile_is_found_by_its_switches() {
        let rest = |settled, of: &[_]| Rest {
            threads: threads(of),
            settled,
        };
        let before = [(1, 'T', [5, 2]), (2, 'T', [7, 0])];
        let settled = rest(true, &before);
        assert_eq!(settled.ran_before(&rest(true, &before)), None);
        for (ran, now) in [
            (2, [(1, 'T', [5, 2]), (2, 'T', [8, 0])]),
            (1, [(1, 'T', [5, 3]), (2, 'T', [7, 0])]),
            (3, [(1, 'T', [5, 2]), (3, 'T', [1, 0])]),
        ] {
            assert_eq!(settled.ran_before(&rest(true, &now)), Some(ran));
        }
        // One switch may be that of its stopping.
        let unsettled = rest(false, &before);
        let once = rest(true, &[(1, 'T', [6, 4]), (2, 'T', [8, 0])]);
        assert_eq!(unsettled.ran_before(&once), None);
        let twice = rest(true, &[(1, 'T', [7, 2]), (2, 'T', [8, 0])]);
        assert_eq!(unsettled.ran_before(&twice), Some(1));
    }

    #[test]
    fn what_is_not_another_process_is_refused() {
        for (pid, why) in [
            (0, "not PIDs"),
            (u32::MAX, "not PIDs"),
            (std::process::id(), "this process itself"),
            (i32::MAX as u32, "no process with this PID"),
        ] {
            let error = HeldProcess::open(pid).expect_err("refused").to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
