//! A QEMU as a child process, and its monitor. Nothing here waits without a limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result, printable};

/// How long QEMU may take to begin to listen, and to answer.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// The longest answer; QEMU's own are far shorter.
const MOST_BYTES: u64 = 1 << 20;
/// The kernel's unit of processes' CPU time, in each second: fixed for programs.
const TICKS: f64 = 100.0;

/// Those that run, for [`kill_all`].
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A list of numbers is whole at any time, whoever panicked.
fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends every QEMU that was started here: for a process that is about to end without dropping them.
pub fn kill_all() {
    for pid in running().iter() {
        let _ = kill_process(*pid, Signal::KILL);
    }
}

/// A QEMU that runs, stopped. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Qemu {
    child: Child,
    monitor: BufReader<UnixStream>,
}

fn failed(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Failed, what).in_stage("peer")
}

impl Qemu {
    /// Starts it, with its monitor at this path.
    pub(super) fn start(mut command: Command, monitor: &Path) -> Result<Qemu> {
        let _ = std::fs::remove_file(monitor);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        running().extend(pid(&child));
        match connect(&mut child, monitor) {
            Ok(monitor) => {
                let mut qemu = Qemu { child, monitor };
                qemu.line()?;
                qemu.ask("qmp_capabilities", &json!({}))?;
                Ok(qemu)
            }
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Has a command executed, and gives its answer. Events are passed over.
    pub(super) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let message = json!({"execute": command, "arguments": arguments});
        writeln!(self.monitor.get_mut(), "{message}")
            .map_err(|error| self.lost(command, &error))?;
        loop {
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
        end(&mut self.child);
        let said = last_words(&mut self.child);
        failed(format!("QEMU does not answer to {what}: {error}{said}"))
    }

    /// The CPU seconds that it has used so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(path).map_err(failed)?;
        cpu_seconds(&text).ok_or_else(|| failed("the system does not tell QEMU's CPU time"))
    }

    /// Ends it.
    pub(super) fn quit(mut self) {
        let _ = self.ask("quit", &json!({}));
    }
}

/// User's and system's time out of `/proc/PID/stat`, whose second field may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user.checked_add(system)? as f64 / TICKS)
}

fn pid(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

/// Waits for the monitor.
fn connect(child: &mut Child, monitor: &Path) -> Result<BufReader<UnixStream>> {
    let begin = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(monitor) {
            stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
            stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
            return Ok(BufReader::new(stream));
        }
        if let Some(status) = child.try_wait().map_err(failed)? {
            let said = last_words(child);
            return Err(failed(format!("QEMU ended with {status}{said}")));
        }
        if begin.elapsed() > PATIENCE {
            return Err(failed("QEMU does not open its monitor"));
        }
        thread::sleep(POLL);
    }
}

/// The end of what a process that has ended wrote on standard error.
fn last_words(child: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(MOST_BYTES).read_to_end(&mut text);
    }
    match String::from_utf8_lossy(&text).trim().lines().last() {
        Some(line) => format!(": {}", printable(line)),
        None => String::new(),
    }
}

/// Ends a process, if it has not ended, and forgets it.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
    let pid = pid(child);
    running().retain(|other| Some(*other) != pid);
}

impl Drop for Qemu {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_whatever_a_process_calls_itself() {
        let stat = "7 (q) (x) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (q) S 1"), None);
        assert_eq!(cpu_seconds(""), None);
    }
}
