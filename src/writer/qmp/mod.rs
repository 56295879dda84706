//! A QEMU that is stopped and resumed through its monitor.
//!
//! QEMU's `stop` does more than stopping its threads: it returns when the disk I/O under way has
//! finished. Until then the kernel may write to the guest's RAM, whatever the threads do.
//!
//! A QEMU's QMP socket serves one client at a time, and keeps this one until the migration is over.
//! Another monitor of the same QEMU may still resume the guest; its events and state say so.

mod error;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::guard::{Guard, Guarded};
use super::held::HeldProcess;
use super::lock::Lock;
use super::{Writer, WriterError};
use crate::error::{Error, Result};
use crate::qmp::{Client, ClientError};
use crate::sys::peer_pid;
use crate::transport::{Abort, Address};

pub use error::QemuError;

/// How long a QEMU may take to accept a client and greet it.
const GREETING_LIMIT: Duration = Duration::from_secs(5);

/// How long the [guard](super::guard) waits for a QEMU that hangs.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The guest of a QEMU, stopped with the QMP command `stop` and resumed with `cont`.
///
/// A guest that is paused when it is to be stopped stays paused. If this process is killed, a guard
/// process resumes the guest.
#[derive(Debug)]
pub struct QemuWriter {
    client: Client,
    socket: String,
    process: HeldProcess,
    guard: Option<Guard>,
    abort: Arc<Abort>,
    /// How long an answer may take, other than to `stop`.
    limit: Duration,
    state: State,
    /// How many events had been dropped when it was stopped.
    dropped_events: u64,
    /// Held until the migration is over.
    _lock: Option<Lock>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It is not stopped, or it is not this that decides about it.
    Running,
    /// Stopped by this.
    Stopped,
    /// In this state of QEMU's when it was to be stopped, and left so.
    Resting(String),
    Released,
}

/// What a state of QEMU's means for a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Runs,
    /// Nothing writes its RAM until it is resumed.
    Rests(&'static str),
    Refused(&'static str),
}

/// The states are `RunState` in QEMU's `qapi/run-state.json`, of 7.2 to 11.1.
fn meaning(state: &str) -> Meaning {
    use Meaning::{Refused, Rests, Runs};
    match state {
        "running" => Runs,
        "paused" => Rests("paused by a user or a program"),
        "prelaunch" => Rests("QEMU was started with -S, and the guest has not run yet"),
        "io-error" => Rests("paused by an I/O error of a disk"),
        "watchdog" => Rests("paused by a watchdog device"),
        "guest-panicked" => Rests("its kernel has panicked"),
        "postmigrate" => Refused("it was migrated by QEMU, and the destination may run it"),
        "finish-migrate" => Refused("QEMU is completing a migration of its own"),
        "inmigrate" => Refused("it waits for an incoming migration"),
        "colo" => Refused("it is replicated by COLO"),
        "save-vm" | "restore-vm" => Refused("QEMU saves or loads a snapshot; try again after that"),
        "suspended" => Refused("it sleeps and may wake up at any time; wake it up first"),
        "shutdown" => Refused("it has shut down"),
        "internal-error" => Refused("it cannot run on after an error; reset it first"),
        "debug" => Refused("a debugger controls it; detach it first"),
        "preconfig" => Refused("QEMU has not created its machine yet"),
        _ => Refused("the state is not known to ramferry"),
    }
}

/// A migration of QEMU's own that is under way, by its status in `query-migrate`.
fn is_migrating(status: &str) -> bool {
    !matches!(status, "none" | "completed" | "failed" | "cancelled")
}

impl QemuWriter {
    /// Connects to the QMP socket of a QEMU at this path, and starts the [guard](super::guard), if there is
    /// to be one, from `guard_program`. `limit` is how long QEMU may take to answer, and `abort` ends that
    /// wait. A guest that is paused is refused, since it may be one that was handed over to a destination
    /// and must never run again; with `paused_ok` it is taken as it is, and left paused.
    ///
    /// # Errors
    /// A socket that is not a QEMU's or has another client; [`QemuError::Paused`] and
    /// [`QemuError::WrongState`]; a QEMU that is migrating; [`WriterError::Busy`] while another migration
    /// has hold of it; a guard that does not start.
    pub fn open(
        socket: &Path,
        guard_program: Option<&Path>,
        paused_ok: bool,
        limit: Duration,
        abort: Arc<Abort>,
    ) -> Result<QemuWriter> {
        let mut writer = QemuWriter::connect(socket, limit, abort)?;
        writer.prepare(guard_program, paused_ok)?;
        Ok(writer)
    }

    /// The first half of [`QemuWriter::open`]: which process it is, is known.
    pub(super) fn connect(socket: &Path, limit: Duration, abort: Arc<Abort>) -> Result<QemuWriter> {
        let address = Address::Unix(socket.to_owned());
        let mut client = Client::connect(&address, limit.min(GREETING_LIMIT))?;
        client.wait_for(limit, Some(Arc::clone(&abort)));
        let socket = address.to_string();
        if client.greeting().is_ramferry() {
            let product = client.greeting().product();
            return Err(QemuError::NotQemu { socket, product }.into());
        }
        let process = HeldProcess::find(listener(&client, &socket)?)?;
        let lock = Lock::process(&process)?;
        Ok(QemuWriter {
            client,
            socket,
            process,
            guard: None,
            abort,
            limit,
            state: State::Running,
            dropped_events: 0,
            _lock: lock,
        })
    }

    /// The second half: its guest can be migrated, and is guarded.
    pub(super) fn prepare(&mut self, guard_program: Option<&Path>, paused_ok: bool) -> Result<()> {
        self.check_state(paused_ok)?;
        if let Some(program) = guard_program {
            let connection = self.client.as_fd().try_clone_to_owned();
            let connection = connection.map_err(|source| WriterError::Io {
                what: "duplicate the connection to QEMU".to_owned(),
                source,
            })?;
            let guarded = Guarded::Monitor(connection);
            self.guard = Some(Guard::start(program, guarded, &self.abort)?);
        }
        Ok(())
    }

    /// The PID of the QEMU.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// The address of its monitor.
    fn socket(&self) -> &str {
        &self.socket
    }

    /// Refuses a guest that is not to be migrated as it is now.
    fn check_state(&mut self, paused_ok: bool) -> Result<()> {
        let (state, socket) = (self.query_status()?, self.socket.clone());
        match meaning(&state) {
            Meaning::Rests(why) if !paused_ok => {
                let again = false;
                Err(QemuError::Paused {
                    socket,
                    state,
                    why,
                    again,
                }
                .into())
            }
            Meaning::Refused(why) => Err(QemuError::WrongState { socket, state, why }.into()),
            Meaning::Runs | Meaning::Rests(_) => self.check_migration(),
        }
    }

    /// Refuses a guest that QEMU itself migrates: another client may begin that at any time.
    fn check_migration(&mut self) -> Result<()> {
        let migration = self.execute("query-migrate")?;
        match migration["status"].as_str() {
            Some(status) if is_migrating(status) => {
                let (socket, status) = (self.socket.clone(), status.to_owned());
                Err(QemuError::Migrating { socket, status }.into())
            }
            _ => Ok(()),
        }
    }

    /// How much RAM its guest has: what it was started with, and what was plugged in.
    pub(super) fn ram_bytes(&mut self) -> Result<u64> {
        let summary = self.execute("query-memory-size-summary")?;
        let bytes = |name: &str| summary[name].as_u64().unwrap_or(0);
        Ok(bytes("base-memory").saturating_add(bytes("plugged-memory")))
    }

    fn query_status(&mut self) -> Result<String> {
        let status = self.execute("query-status")?;
        // What is missing is a state that is not known.
        let state = status["status"].as_str().unwrap_or_default();
        Ok(crate::text::printable(state).chars().take(80).collect())
    }

    fn execute(&mut self, command: &'static str) -> Result<Value> {
        let answer = self.client.execute(command, &Value::Null);
        answer.map_err(|error| match error {
            ClientError::HungUp { .. } | ClientError::Broken { .. } => QemuError::Lost {
                socket: self.socket.clone(),
                pid: self.process.pid,
                source: error,
            }
            .into(),
            ClientError::Declined { .. } => QemuError::Declined {
                socket: self.socket.clone(),
                command,
                source: error,
            }
            .into(),
            ClientError::Silent { limit, .. } if command == "stop" => QemuError::DidNotStop {
                socket: self.socket.clone(),
                limit,
            }
            .into(),
            error => error.into(),
        })
    }

    fn try_stop(&mut self, limit: Duration) -> Result<()> {
        let abort = Some(Arc::clone(&self.abort));
        self.client.wait_for(self.limit, abort.clone());
        self.check_migration()?;
        let state = self.query_status()?;
        let socket = self.socket.clone();
        match meaning(&state) {
            Meaning::Runs => {}
            // QEMU has completed its disk I/O already. The client that paused it decides when it runs again.
            Meaning::Rests(_) => {
                self.forget_events();
                self.state = State::Resting(state);
                return Ok(());
            }
            Meaning::Refused(why) => {
                return Err(QemuError::WrongState { socket, state, why }.into());
            }
        }
        if let Some(guard) = &mut self.guard
            && !(guard.is_there() && guard.arm())
        {
            return Err(WriterError::GuardGone.into());
        }
        // Before the command: whatever becomes of it, the guest may have to be resumed.
        self.state = State::Stopped;
        self.client.wait_for(limit, abort);
        self.execute("stop")?;
        // They were sent before its answer; a later one comes from another client.
        self.forget_events();
        let state = self.query_status()?;
        match meaning(&state) {
            _ if state == "paused" => Ok(()),
            Meaning::Runs => Err(QemuError::Resumed {
                socket,
                sign: format!("state {state}"),
            }
            .into()),
            Meaning::Rests(why) | Meaning::Refused(why) => {
                Err(QemuError::NotStopped { socket, state, why }.into())
            }
        }
    }

    /// Those that came until now are the consequence of what this has done.
    fn forget_events(&mut self) {
        while self.client.take_event().is_some() {}
        self.dropped_events = self.client.dropped_events();
    }

    /// Whether another client has resumed the guest since this stopped it, by the events that came.
    fn saw_resume(&mut self) -> bool {
        let events = std::iter::from_fn(|| self.client.take_event());
        events.filter(|event| event.name == "RESUME").count() > 0
    }

    /// Resumes a guest that this has stopped.
    fn run_on(&mut self) -> Result<()> {
        if self.state != State::Stopped {
            return Ok(());
        }
        self.state = State::Running;
        // An abort is a reason to resume.
        self.client.wait_for(self.limit, None);
        let state = self.query_status()?;
        // A guest that another client has resumed is that client's to pause and to resume.
        let is_ours = !self.saw_resume();
        if state == "paused" && is_ours {
            self.execute("cont")?;
        } else if let Meaning::Refused(why) = meaning(&state) {
            let socket = self.socket.clone();
            return Err(QemuError::NotStopped { socket, state, why }.into());
        }
        if let Some(guard) = &mut self.guard {
            guard.disarm();
        }
        Ok(())
    }

    /// What becomes of a guest that could not be resumed.
    fn hint(&mut self, error: &Error) -> &'static str {
        if is_lost(error) {
            return "; if it still runs, resume its guest with the QMP command cont";
        }
        let is_silent = matches!(error.cause(), Some(ClientError::Silent { .. }));
        if let (true, Some(guard)) = (is_silent, &mut self.guard)
            && guard.is_there()
        {
            guard.leave_to_it();
            "; a guard waits in the background, and resumes it once QEMU answers"
        } else {
            "; resume it with the QMP command cont"
        }
    }
}

impl Writer for QemuWriter {
    fn stop(&mut self, limit: Duration) -> Result<()> {
        if self.state != State::Running {
            return Ok(());
        }
        let Err(error) = self.try_stop(limit) else {
            return Ok(());
        };
        match self.run_on() {
            Ok(()) => Err(error),
            Err(why) => {
                let hint = self.hint(&why);
                if is_lost(&why) {
                    let line = format!("{}{hint}", error.one_line());
                    return Err(Error::new(error.kind(), line));
                }
                let paused = QemuError::StaysPaused {
                    error: error.one_line(),
                    why: why.one_line(),
                    hint,
                };
                Err(Error::new(error.kind(), paused))
            }
        }
    }

    fn resume(&mut self) -> Result<()> {
        if self.state == State::Released {
            return Err(WriterError::Released {
                who: self.describe(),
            }
            .into());
        }
        self.run_on().map_err(|error| {
            let hint = self.hint(&error);
            let line = format!("{}{hint}", error.one_line());
            Error::new(error.kind(), line)
        })
    }

    fn check_stopped(&mut self) -> Result<()> {
        let expected = match &self.state {
            State::Stopped => "paused".to_owned(),
            State::Resting(state) => state.clone(),
            State::Running | State::Released => return Ok(()),
        };
        self.client
            .wait_for(self.limit, Some(Arc::clone(&self.abort)));
        self.check_migration()?;
        let state = self.query_status()?;
        let saw_resume = self.saw_resume();
        let sign = if state != expected {
            format!("state {state}")
        } else if saw_resume {
            "event RESUME".to_owned()
        } else if self.client.dropped_events() != self.dropped_events {
            let socket = self.socket.clone();
            return Err(QemuError::EventsLost { socket }.into());
        } else {
            return Ok(());
        };
        // From now on it is that client's.
        self.state = State::Running;
        if let Some(guard) = &mut self.guard {
            guard.disarm();
        }
        let socket = self.socket.clone();
        Err(QemuError::Resumed { socket, sign }.into())
    }

    fn release(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.release();
        }
        if self.state == State::Running {
            self.client.wait_for(self.limit, None);
            // The destination must run the guest alone. An error means that the QEMU has ended or hangs.
            let _ = self.execute("stop");
        }
        self.state = State::Released;
    }

    fn throttle(&mut self, _percent: u8) -> Result<bool> {
        Ok(false)
    }

    fn describe(&self) -> String {
        format!("the guest of the QEMU at {}", self.socket)
    }
}

impl Drop for QemuWriter {
    fn drop(&mut self) {
        // A destructor cannot report an error.
        let _ = self.run_on();
    }
}

fn is_lost(error: &Error) -> bool {
    matches!(error.cause(), Some(QemuError::Lost { .. }))
}

/// The PID of the process that listens at the other end.
fn listener(client: &Client, socket: &str) -> Result<u32> {
    let pid = peer_pid(client.as_fd()).map_err(|source| WriterError::Io {
        what: format!("identify the process that listens at {socket}"),
        source,
    })?;
    pid.ok_or_else(|| {
        let socket = socket.to_owned();
        QemuError::Unidentified { socket }.into()
    })
}

/// For the [guard](super::guard): continues the guest once QEMU answers on this connection, whose
/// client has ended.
pub(super) fn resume_orphan(connection: OwnedFd) -> Result<()> {
    let mut client = Client::take_over(connection, "QEMU", FOR_EVER);
    let mut execute = |command| client.execute(command, &Value::Null);
    let outcome = execute("query-status").and_then(|status| {
        // Another state is not the work of the client that has ended.
        match status["status"] == "paused" {
            true => execute("cont"),
            false => Ok(status),
        }
    });
    match outcome {
        // Its guest has gone with it.
        Ok(_) | Err(ClientError::HungUp { .. } | ClientError::Broken { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of `RunState` in QEMU's `qapi/run-state.json`, and what is not in it.
    #[test]
    fn every_state_of_qemus_has_a_meaning() {
        assert_eq!(meaning("running"), Meaning::Runs);
        for state in [
            "paused",
            "prelaunch",
            "io-error",
            "watchdog",
            "guest-panicked",
        ] {
            assert!(matches!(meaning(state), Meaning::Rests(_)), "{state}");
        }
        for state in [
            "debug",
            "inmigrate",
            "internal-error",
            "postmigrate",
            "finish-migrate",
            "restore-vm",
            "save-vm",
            "shutdown",
            "suspended",
            "colo",
            "preconfig",
        ] {
            let Meaning::Refused(why) = meaning(state) else {
                panic!("{state}");
            };
            assert!(!why.contains("not known"), "{state}");
        }
        for state in ["", "RUNNING", "new-in-12"] {
            let Meaning::Refused(why) = meaning(state) else {
                panic!("{state}");
            };
            assert!(why.contains("not known"), "{state}");
        }
    }

    /// All of `MigrationStatus` in QEMU's `qapi/migration.json`.
    #[test]
    fn a_migration_that_has_ended_is_not_under_way() {
        for status in ["none", "completed", "failed", "cancelled"] {
            assert!(!is_migrating(status), "{status}");
        }
        for status in [
            "setup",
            "cancelling",
            "active",
            "postcopy-device",
            "postcopy-active",
            "postcopy-paused",
            "postcopy-recover-setup",
            "postcopy-recover",
            "failing",
            "colo",
            "pre-switchover",
            "device",
            "wait-unplug",
        ] {
            assert!(is_migrating(status), "{status}");
        }
    }
}
