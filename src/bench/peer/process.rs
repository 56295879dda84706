//! A program of somebody else's as a child: whatever it does, it ends when it is told to, and
//! nothing here waits for it without a limit.

use std::io::Read;
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::sync;
use crate::text::printable;
use crate::transport::child_group::ChildGroup;

/// The most of what it prints that is looked at.
const MOST_BYTES: u64 = 1 << 16;

/// Those that run, for [`kill_all`].
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Pid>> {
    sync::lock(&RUNNING)
}

/// Ends every peer that was started here: for a process that is about to end without dropping
/// them.
pub fn kill_all() {
    for pid in running().iter() {
        let _ = kill_process_group(*pid, Signal::KILL);
    }
}

/// A child with a process group of its own: a Ctrl-C on the terminal is not for it, and what a
/// wrapper script starts ends with it. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Process {
    group: ChildGroup,
}

impl Process {
    /// Starts it.
    pub(super) fn start(command: &mut Command) -> std::io::Result<Process> {
        let group = ChildGroup::start(command.stdin(Stdio::null()))?;
        running().push(group.pid());
        Ok(Process { group })
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.group.ends_within(Duration::ZERO)
    }

    /// Ends it with all that it has started, if it has not ended.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        let pid = self.group.pid();
        // First, for after this the PID may be another process's.
        running().retain(|other| *other != pid);
        self.group.kill()
    }

    /// Ends it, and gives the last line that it wrote on standard error, to follow other words.
    pub(super) fn last_words(&mut self) -> String {
        self.end();
        let text = self
            .group
            .child()
            .stderr
            .take()
            .map(written)
            .unwrap_or_default();
        match String::from_utf8_lossy(&text).trim().lines().last() {
            Some(line) => format!(": {}", printable(line)),
            None => String::new(),
        }
    }

    /// What it prints on standard output until it ends, or in so long.
    pub(super) fn output(&mut self, patience: Duration) -> Option<String> {
        let stdout: ChildStdout = self.group.child().stdout.take()?;
        let (done, read) = mpsc::channel();
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.take(MOST_BYTES).read_to_end(&mut text);
            let _ = done.send(text);
        });
        let text = read.recv_timeout(patience);
        // Which also ends the thread, if it still reads.
        self.end();
        match text {
            Ok(text) => Some(String::from_utf8_lossy(&text).into_owned()),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }
}

/// What a process that has ended has written: not more, for something that it started and that
/// got away may still hold the pipe open.
fn written(stderr: ChildStderr) -> Vec<u8> {
    let mut text = Vec::new();
    let flags = rustix::fs::fcntl_getfl(&stderr);
    let set = flags
        .and_then(|flags| rustix::fs::fcntl_setfl(&stderr, flags | rustix::fs::OFlags::NONBLOCK));
    if set.is_ok() {
        // It ends with an error where there is nothing more.
        let _ = stderr.take(MOST_BYTES).read_to_end(&mut text);
    }
    text
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped())).expect("a shell")
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn what_a_program_prints_is_read_with_a_limit_on_time_and_length() {
        assert_eq!(shell("echo one").output(LONG).as_deref(), Some("one\n"));
        let endless = shell("while :; do echo y; done").output(LONG);
        assert_eq!(endless.map(|text| text.len() as u64), Some(MOST_BYTES));
        assert_eq!(
            shell("exec cat /dev/zero > /dev/null").output(Duration::ZERO),
            None
        );
    }

    #[test]
    fn its_last_words_are_told_though_what_it_started_lives_on() {
        let script = "tail -f /dev/null & echo first >&2; printf 'no such\\tthing\\n' >&2; exit 3";
        let mut process = shell(script);
        while !process.has_ended() {
            thread::yield_now();
        }
        assert_eq!(process.last_words(), ": no such thing");
        assert_eq!(process.end().and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn dropping_it_ends_it_with_all_that_it_started() {
        let mut process = shell("tail -f /dev/null & exec tail -f /dev/null");
        let pid = process.group.pid();
        assert!(!process.has_ended() && running().contains(&pid));
        let mut held = process.group.child().stdout.take().expect("a pipe");
        drop(process);
        assert!(!running().contains(&pid));
        // Whoever holds the other end has ended.
        let mut nothing = Vec::new();
        held.read_to_end(&mut nothing).expect("the end");
    }
}
