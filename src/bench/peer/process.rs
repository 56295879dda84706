//! A foreign program as a child process: it ends when it is killed, whatever it does, and nothing here
//! waits for it without a limit.

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

/// The most of its output that is read.
const MOST_BYTES: u64 = 1 << 16;

/// The running processes, for [`kill_all`].
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Pid>> {
    sync::lock(&RUNNING)
}

/// Kills every peer, for a process that is about to end without dropping them.
pub fn kill_all() {
    for pid in running().iter() {
        let _ = kill_process_group(*pid, Signal::KILL);
    }
}

/// A child in its own process group: a Ctrl-C on the terminal does not reach it, and the children of a
/// wrapper script end with it. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    group: ChildGroup,
}

impl Process {
    /// Starts the command, without standard input.
    pub(super) fn start(command: &mut Command) -> std::io::Result<Process> {
        let group = ChildGroup::start(command.stdin(Stdio::null()))?;
        running().push(group.pid());
        Ok(Process { group })
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.group.ends_within(Duration::ZERO)
    }

    /// Kills it and its children, if it has not ended.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        let pid = self.group.pid();
        // First, because afterwards the PID may be another process's.
        running().retain(|other| *other != pid);
        self.group.kill()
    }

    /// Kills it, and gives the last line of its standard error, as the end of a message.
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

    /// Its standard output until it ends; `None` if that takes longer than `patience`.
    pub(super) fn output(&mut self, patience: Duration) -> Option<String> {
        let stdout: ChildStdout = self.group.child().stdout.take()?;
        let (done, read) = mpsc::channel();
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.take(MOST_BYTES).read_to_end(&mut text);
            let _ = done.send(text);
        });
        let text = read.recv_timeout(patience);
        // This also ends the thread, if it still reads.
        self.end();
        match text {
            Ok(text) => Some(String::from_utf8_lossy(&text).into_owned()),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }
}

/// The output of a process that has ended. It does not wait for more: a child that escaped may still
/// hold the pipe open.
fn written(stderr: ChildStderr) -> Vec<u8> {
    let mut text = Vec::new();
    let flags = rustix::fs::fcntl_getfl(&stderr);
    let set = flags
        .and_then(|flags| rustix::fs::fcntl_setfl(&stderr, flags | rustix::fs::OFlags::NONBLOCK));
    if set.is_ok() {
        // It ends with an error where there is no more.
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
    fn its_last_words_are_known_though_its_child_lives_on() {
        let script = "tail -f /dev/null & echo first >&2; printf 'no such\\tthing\\n' >&2; exit 3";
        let mut process = shell(script);
        while !process.has_ended() {
            thread::yield_now();
        }
        assert_eq!(process.last_words(), ": no such thing");
        assert_eq!(process.end().and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn dropping_it_kills_it_with_its_children() {
        let mut process = shell("tail -f /dev/null & exec tail -f /dev/null");
        let pid = process.group.pid();
        assert!(!process.has_ended() && running().contains(&pid));
        let mut held = process.group.child().stdout.take().expect("a pipe");
        drop(process);
        assert!(!running().contains(&pid));
        // Everything that held the other end has ended.
        let mut nothing = Vec::new();
        held.read_to_end(&mut nothing).expect("the end");
    }
}
