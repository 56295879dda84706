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

    /// A thread that has not stopped, and its state. `None` if all have.
    pub(super) fn running(&self) -> Result<Option<(u32, char)>, WriterError> {
        let before = self.threads()?;
        if let Some(running) = first_running(&before) {
            return Ok(Some(running));
        }
        // The pidfd reports its end a moment later.
        if before.iter().all(|(_, state)| matches!(state, 'Z' | 'X')) {
            return Err(WriterError::Gone { pid: self.pid });
        }
        // A thread that was started after the list was read was started by one that had not
        // stopped.
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
            // It has ended: ENOENT before the file is open, ESRCH after.
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
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest.trim_start())
}

/// Field 3 of `/proc/PID/stat`, proc_pid_stat(5).
fn state(stat: &str) -> Option<char> {
    after_name(stat)?.chars().next()
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
