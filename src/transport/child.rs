//! The command of an `exec:` address.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::abort::{Abort, Woken};
use super::error::TransportError;

/// How long a command may take to clean up after itself when it is no longer needed.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// A shell command in its own process group. If it outlives the session, the group is killed.
#[derive(Debug)]
pub(super) struct ShellCommand {
    command: String,
    child: Child,
    ended: bool,
}

/// Which of the command's standard streams is the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// We write what the command reads.
    ToCommand,
    /// We read what the command writes.
    FromCommand,
}

impl ShellCommand {
    /// Starts `command` and returns our end of its pipe.
    pub(super) fn start(
        command: &str,
        direction: Direction,
    ) -> Result<(ShellCommand, OwnedFd), TransportError> {
        use std::os::unix::process::CommandExt;
        let failed = |source| TransportError::Io {
            what: "run",
            address: format!("exec:{command}"),
            source,
        };
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command).process_group(0);
        match direction {
            // What the command prints must not be mixed into our own standard output.
            Direction::ToCommand => shell.stdin(Stdio::piped()).stdout(Stdio::from(
                io::stderr().as_fd().try_clone_to_owned().map_err(failed)?,
            )),
            Direction::FromCommand => shell.stdin(Stdio::null()).stdout(Stdio::piped()),
        };
        let mut child = shell.spawn().map_err(failed)?;
        let pipe = match direction {
            Direction::ToCommand => child.stdin.take().map(OwnedFd::from),
            Direction::FromCommand => child.stdout.take().map(OwnedFd::from),
        }
        .ok_or_else(|| failed(io::Error::other("it has no pipe")))?;
        let command = ShellCommand {
            command: command.to_owned(),
            child,
            ended: false,
        };
        Ok((command, pipe))
    }

    /// Waits for the command's end; our end of the pipe must be closed by now.
    pub(super) fn finish(mut self, abort: &Abort) -> Result<(), TransportError> {
        let failed = |what, command: &str, source| TransportError::Io {
            what,
            address: format!("exec:{command}"),
            source,
        };
        let pid = Pid::from_child(&self.child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| failed("wait for", &self.command, error.into()))?;
        match abort
            .wait_for(pidfd.as_fd(), PollFlags::IN, None)
            .map_err(|source| failed("wait for", &self.command, source))?
        {
            Woken::Ready | Woken::TimedOut => {}
            Woken::Aborted => return Err(TransportError::Aborted),
        }
        let status = self
            .child
            .wait()
            .map_err(|source| failed("wait for", &self.command, source))?;
        self.ended = true;
        if status.success() {
            Ok(())
        } else {
            Err(TransportError::Command {
                command: std::mem::take(&mut self.command),
                status,
            })
        }
    }
}

impl ShellCommand {
    /// How the command failed, if it has ended or ends within two seconds.
    pub(super) fn failure(mut self) -> Option<TransportError> {
        self.ends_within(LAST_BREATH);
        let status = self.child.try_wait().ok()??;
        self.ended = true;
        (!status.success()).then(|| TransportError::Command {
            command: std::mem::take(&mut self.command),
            status,
        })
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let Ok(pidfd) = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()) else {
            return false;
        };
        let Ok(timeout) = limit.try_into() else {
            return false;
        };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timeout)), Ok(1..))
    }
}

impl Drop for ShellCommand {
    fn drop(&mut self) {
        if !self.ended {
            // If it has ended by itself, there is no group to signal.
            let group = Pid::from_child(&self.child);
            let _ = kill_process_group(group, Signal::TERM);
            if !self.ends_within(LAST_BREATH) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}
