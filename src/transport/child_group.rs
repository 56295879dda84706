//! A child process in a process group of its own, which ends with everything that it started.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::abort::{Abort, Woken};

/// A child that leads a process group: a Ctrl-C on the terminal does not reach it, and what a shell
/// starts ends with it. Dropping it kills the group.
#[derive(Debug)]
pub(crate) struct ChildGroup {
    child: Child,
    /// Once it was waited for, its PID may be another process's.
    status: Option<ExitStatus>,
}

impl ChildGroup {
    /// `/bin/sh -c line`.
    pub(crate) fn shell(line: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(line);
        shell
    }

    /// Our standard error as a child's standard output, so that what it prints does not get between
    /// our own lines.
    pub(crate) fn to_stderr() -> io::Result<Stdio> {
        Ok(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    pub(crate) fn start(command: &mut Command) -> io::Result<ChildGroup> {
        let child = command.process_group(0).spawn()?;
        Ok(ChildGroup {
            child,
            status: None,
        })
    }

    /// For its standard streams.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until it has ended, `limit` is over or `abort` is raised.
    pub(crate) fn wait(
        &mut self,
        abort: &Abort,
        limit: Option<Duration>,
    ) -> io::Result<Result<ExitStatus, Woken>> {
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty())?;
        match abort.wait_for(pidfd.as_fd(), PollFlags::IN, limit)? {
            Woken::Ready => {
                let status = self.child.wait()?;
                self.status = Some(status);
                Ok(Ok(status))
            }
            woken @ (Woken::TimedOut | Woken::Aborted) => Ok(Err(woken)),
        }
    }

    /// How it ended, if it has.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Whether it has ended, or does within `limit`. It is not waited for yet, so its group can still
    /// be signalled.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        if self.status.is_some() {
            return true;
        }
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty());
        let (Ok(pidfd), Ok(timeout)) = (pidfd, limit.try_into()) else {
            return false;
        };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timeout)), Ok(1..))
    }

    /// Signals the group, unless its leader was waited for.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // It may have ended by itself: then there is no group, and that is fine.
            let _ = kill_process_group(self.pid(), signal);
        }
    }

    /// Kills the group, and says how the leader ended.
    pub(crate) fn kill(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::KILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
        self.status
    }
}

impl Drop for ChildGroup {
    fn drop(&mut self) {
        self.kill();
    }
}
