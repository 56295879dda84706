//! A QEMU as a child process, and its monitor. Nothing here waits without a limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use rustix::process::Pid;
use serde_json::{Value, json};

use super::process::Process;
use crate::error::{Error, Kind, Result};
use crate::sys::cpu_time_of;
use crate::text::printable;

/// How long QEMU may take to begin to listen, and to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// The longest answer; QEMU's own are far shorter.
const MOST_BYTES: u64 = 1 << 20;

/// A QEMU that runs, stopped. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Qemu {
    process: Process,
    monitor: BufReader<UnixStream>,
    /// Who really listens: a wrapper script may have started it.
    pid: Pid,
}

fn failed(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Failed, what)
}

impl Qemu {
    /// Starts it, with its monitor at this path.
    pub(super) fn start(mut command: Command, monitor: &Path) -> Result<Qemu> {
        let _ = std::fs::remove_file(monitor);
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::start(command).map_err(failed)?;
        let stream = connect(&mut process, monitor)?;
        let pid = socket_peercred(&stream).map_err(failed)?.pid;
        let mut qemu = Qemu {
            process,
            monitor: BufReader::new(stream),
            pid,
        };
        qemu.line()?;
        qemu.ask("qmp_capabilities", &json!({}))?;
        Ok(qemu)
    }

    /// Has a command executed, and gives its answer. Events are passed over.
    pub(super) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let message = json!({"execute": command, "arguments": arguments});
        writeln!(self.monitor.get_mut(), "{message}")
            .map_err(|error| self.lost(command, &error))?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let mut answer = self.line()?;
            if let Some(why) = answer["error"]["desc"].as_str() {
                return Err(failed(format!(
                    "QEMU declines {command}: {}",
                    printable(why)
                )));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
        Err(failed(format!("QEMU does not answer to {command}")))
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        let read = (&mut self.monitor)
            .take(MOST_BYTES)
            .read_until(b'\n', &mut line);
        match read {
            Ok(0) => Err(self.lost("its monitor", &"it has ended")),
            Ok(_) => serde_json::from_slice(&line)
                .map_err(|error| failed(format!("QEMU's answer makes no sense: {error}"))),
            Err(error) => Err(self.lost("its monitor", &error)),
        }
    }

    /// Why it does not answer any more, with what it said last.
    fn lost(&mut self, what: &str, error: &dyn std::fmt::Display) -> Error {
        let said = self.process.last_words();
        failed(format!("QEMU does not answer to {what}: {error}{said}"))
    }

    /// Why it has ended, if it has.
    pub(super) fn end_of(&mut self) -> Option<Error> {
        self.process.has_ended().then(|| {
            let said = self.process.last_words();
            failed(format!("the destination's QEMU has ended{said}"))
        })
    }

    /// The CPU time that it has used so far, in seconds.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let time = cpu_time_of(self.pid).map_err(failed)?;
        Ok(time.as_secs_f64())
    }

    /// Ends it.
    pub(super) fn quit(mut self) {
        let _ = self.ask("quit", &json!({}));
    }
}

/// Waits for the monitor.
fn connect(process: &mut Process, monitor: &Path) -> Result<UnixStream> {
    let begin = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(monitor) {
            stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
            stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
            return Ok(stream);
        }
        if process.has_ended() {
            let status = process.end();
            let status = status.map_or_else(String::new, |status| format!(" with {status}"));
            let said = process.last_words();
            return Err(failed(format!("QEMU ended{status}{said}")));
        }
        if begin.elapsed() > PATIENCE {
            return Err(failed("QEMU does not open its monitor"));
        }
        thread::sleep(POLL);
    }
}
