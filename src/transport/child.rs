//! The command behind an `exec:` address.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::abort::Woken;
use super::{Abort, TransportError};

/// A shell command in a process group of its own, ended with the session if it does not end by itself.
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
            // What the command prints must not get between our own lines on standard output.
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

impl Drop for ShellCommand {
    fn drop(&mut self) {
        if !self.ended {
            // It may have ended by itself: then there is no group to signal, and that is fine.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}
