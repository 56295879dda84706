//! The command of an `exec:` address.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use super::abort::{Abort, Woken};
use super::child_group::ChildGroup;
use super::error::TransportError;

/// How long a command may take to clean up after itself when it is no longer needed.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// A shell command in its own process group. If it outlives the session, the group is killed.
#[derive(Debug)]
pub(super) struct ShellCommand {
    command: String,
    group: ChildGroup,
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
        let failed = |source| TransportError::Io {
            what: "run",
            address: format!("exec:{command}"),
            source,
        };
        let mut shell = ChildGroup::shell(command);
        match direction {
            Direction::ToCommand => shell
                .stdin(Stdio::piped())
                .stdout(ChildGroup::to_stderr().map_err(failed)?),
            Direction::FromCommand => shell.stdin(Stdio::null()).stdout(Stdio::piped()),
        };
        let mut group = ChildGroup::start(&mut shell).map_err(failed)?;
        let pipe = match direction {
            Direction::ToCommand => group.child().stdin.take().map(OwnedFd::from),
            Direction::FromCommand => group.child().stdout.take().map(OwnedFd::from),
        }
        .ok_or_else(|| failed(io::Error::other("it has no pipe")))?;
        let command = ShellCommand {
            command: command.to_owned(),
            group,
        };
        Ok((command, pipe))
    }

    /// Waits for the command's end; our end of the pipe must be closed by now.
    pub(super) fn finish(mut self, abort: &Abort) -> Result<(), TransportError> {
        match self.group.wait(abort, None) {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(TransportError::Command {
                command: std::mem::take(&mut self.command),
                status,
            }),
            Ok(Err(Woken::Ready | Woken::TimedOut | Woken::Aborted)) => {
                Err(TransportError::Aborted)
            }
            Err(source) => Err(TransportError::Io {
                what: "wait for",
                address: format!("exec:{}", self.command),
                source,
            }),
        }
    }

    /// How the command failed, if it has ended or does so at once.
    pub(super) fn failure(mut self) -> Option<TransportError> {
        self.group.ends_within(LAST_BREATH);
        let status = self.group.status()?;
        (!status.success()).then(|| TransportError::Command {
            command: std::mem::take(&mut self.command),
            status,
        })
    }
}

impl Drop for ShellCommand {
    fn drop(&mut self) {
        self.group.signal(Signal::TERM);
        if self.group.ends_within(LAST_BREATH) {
            // What else is in the group was asked to end, too; it is not killed.
            self.group.status();
        }
    }
}
