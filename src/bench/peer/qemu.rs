//! A QEMU as a child process, with its monitor. Nothing here waits without a limit.

use std::fmt::Display;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use rustix::process::Pid;
use serde_json::Value;

use super::process::Process;
use crate::error::{Error, Kind, Result};
use crate::qmp::{Client, ClientError};
use crate::sys::cpu_time_of;

/// How long QEMU may take to open its monitor, and to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// A running QEMU whose guest is stopped. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Qemu {
    process: Process,
    monitor: Client,
    /// The process that opened the monitor: a wrapper script may have started it.
    pid: Pid,
}

fn failed(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Failed, what)
}

impl Qemu {
    /// Starts QEMU, with its monitor at this path.
    pub(super) fn start(mut command: Command, monitor: &Path) -> Result<Qemu> {
        let _ = std::fs::remove_file(monitor);
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::start(command).map_err(failed)?;
        let stream = connect(&mut process, monitor)?;
        let pid = socket_peercred(&stream).map_err(failed)?.pid;
        match Client::over(stream, monitor.display().to_string(), PATIENCE) {
            Ok(monitor) => Ok(Qemu {
                process,
                monitor,
                pid,
            }),
            Err(error) => Err(lost(&mut process, &error)),
        }
    }

    /// Executes a command, and gives its answer. Events are passed over.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let answer = self.monitor.execute(command, arguments);
        while self.monitor.take_event().is_some() {}
        answer.map_err(|error| match error {
            ClientError::Declined { desc, .. } => failed(format!("QEMU refuses {command}: {desc}")),
            error => lost(&mut self.process, &error),
        })
    }

    /// Why it has ended, if it has.
    pub(super) fn end_of(&mut self) -> Option<Error> {
        self.process.has_ended().then(|| {
            let words = self.process.last_words();
            failed(format!("the destination's QEMU has ended{words}"))
        })
    }

    /// The CPU time used so far, in seconds.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let time = cpu_time_of(self.pid).map_err(failed)?;
        Ok(time.as_secs_f64())
    }

    /// Ends it.
    pub(super) fn quit(mut self) {
        let _ = self.execute("quit", &Value::Null);
    }
}

/// The error of a QEMU that does not answer any more, with its last words.
fn lost(process: &mut Process, error: &dyn Display) -> Error {
    let words = process.last_words();
    failed(format!("QEMU's monitor failed: {error}{words}"))
}

/// Waits for the monitor.
fn connect(process: &mut Process, monitor: &Path) -> Result<UnixStream> {
    let begin = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(monitor) {
            return Ok(stream);
        }
        if process.has_ended() {
            let status = process.end();
            let status = status.map_or_else(String::new, |status| format!(" with {status}"));
            let words = process.last_words();
            return Err(failed(format!("QEMU ended{status}{words}")));
        }
        if begin.elapsed() > PATIENCE {
            return Err(failed("QEMU does not open its monitor"));
        }
        thread::sleep(POLL);
    }
}
