//! A monitor: a socket at which clients control migrations in QEMU's protocol (QMP).
//!
//! Any client of QMP can use it: qmp-shell, the Python package `qemu.qmp`, `socat`, or
//! `ramferry ctl`. A message is an object of JSON, one a line where the monitor writes; a client's
//! may be laid out in any way. The monitor sends a greeting, and accepts only `qmp_capabilities` until
//! it gets that:
//!
//! ```text
//! <- {"QMP": {"version": {...}, "capabilities": ["oob"]}}
//! -> {"execute": "qmp_capabilities"}
//! <- {"return": {}}
//! -> {"execute": "migrate", "arguments": {"uri": "tcp:192.0.2.7:4444", "image": "guest.ram"}, "id": 1}
//! <- {"return": {}, "id": 1}
//! ```
//!
//! # Commands
//! | command | arguments (* may be left out) |
//! |---|---|
//! | `qmp_capabilities` | *enable: `["oob"]` |
//! | `query-version`, `query-commands`, `query-status` | |
//! | `migrate` | uri, and as for `ramferry send`: *image, *format, *paused, *then (a list), *fallback, *force, *sync, *wire, *block, *machine, *live, *qmp, *pid (a list), *paused-ok, *again, *stop-command, *resume-command, *fuzzy; QEMU's *detach (without effect), *resume, *blk, *inc (all three: only false) |
//! | `migrate-incoming` | uri, and as for `ramferry receive`: *output, *block, *force, *sync |
//! | `migrate_cancel` | |
//! | `migrate-continue` | state: `pre-switchover` |
//! | `migrate-set-parameters` | any of [`TABLE`](crate::params::TABLE), each with a value of its type; null for none, where there can be none |
//! | `query-migrate-parameters` | |
//! | `migrate-set-capabilities` | capabilities: a list of {capability, state} |
//! | `query-migrate-capabilities` | |
//! | `query-migrate` | |
//! | `quit` | |
//!
//! Image and output are those of [`Defaults`] where they are left out, and paths are the program's.
//!
//! # Events
//! `STOP` and `RESUME` when the writer of a live guest is stopped and resumed; with the
//! capability `events` also `MIGRATION` (`status`) and `MIGRATION_PASS` (`pass`). Clients get events
//! from their `qmp_capabilities` on.
//!
//! # What is not as in QEMU
//! Error texts, classes and shapes are those of QEMU 7.2, except:
//! * `quit` sends no event `SHUTDOWN`, because no machine is shut down.
//! * Commands are executed in order, and none waits for anything. None needs to be executed out of
//!   band, so `exec-oob`, which can be enabled, is declined for each.
//! * A message has up to 1 MiB and 65536 tokens (QEMU: 64 MiB and 2 million). After one that exceeds
//!   this, or is nested deeper than 1024, the rest of the line is skipped; QEMU reads on in the middle of
//!   it, and declines every piece.
//! * Numbers that no double can hold are declined; QEMU takes them for infinity, and says `inf` in
//!   its answer, which is not JSON.
//! * A capability that is unknown to `qmp_capabilities` is declined as one of `enable`; QEMU 7.2
//!   calls it one of `null`.
//! * `migrate` and `migrate-incoming` decline an invalid address with a sentence that says what is
//!   wrong with it, unless it is the scheme. As in QEMU, a destination that is not there shows later,
//!   in the state `failed`; so does, unlike in QEMU, an address that cannot be listened on.
//! * `migrate-set-capabilities` declines `rdma-pin-all`, which QEMU takes at first.
//! * `query-migrate` returns more; what is not QEMU's has its name in
//!   [`Report`](crate::stats::Report). Of many rounds it returns the last 64.
//! * The state `device` occurs without `pause-before-switchover` too: the destination verifies what it
//!   holds. A destination reports rounds as well.
//! * A client with 4 MiB of unread output is disconnected; one with 64 KiB is not served until it has
//!   read it. No client delays another, nor a migration.

mod arguments;
mod client;
mod commands;
mod json;
mod message;
mod parameters;
mod query;
mod server;
mod shared;
#[cfg(test)]
mod tests;

#[cfg(any(test, fuzzing))]
pub(crate) use json::{Message as Parsed, Parser};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::server::Server;
use self::shared::{Closing, Shared};
use super::Control;
use crate::error::{Error, Kind, Result};
use crate::transport::{Access, UnixSocket};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// What a command that leaves them out means.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// The image that `migrate` sends.
    pub image: Option<PathBuf>,
    /// What `migrate-incoming` writes.
    pub output: Option<PathBuf>,
    /// The guard of `migrate` with `pid`: see
    /// [`WriterChoice::Processes`](crate::writer::WriterChoice::Processes).
    pub guard: Option<PathBuf>,
}

/// How a monitor ends, within a time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// Clients get the output that they have not read yet.
    Flush,
    /// They may also send commands until they hang up, such as to query the outcome.
    Linger,
}

/// A monitor at work. Dropped, it ends at once.
#[derive(Debug)]
pub struct Monitor {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Listens on a socket at `path`, to which only the user may connect that this process is of, and
    /// has `control` execute what clients send. A stale socket at that path is replaced.
    ///
    /// # Errors
    /// Of [`Kind::Usage`] for a path of more than 107 bytes; a socket that is in use,
    /// what else is there, and what the system says.
    pub fn bind(path: &Path, control: Arc<dyn Control>, defaults: Defaults) -> Result<Monitor> {
        let failed = |error| Error::new(Kind::Failed, error).in_stage("start");
        let shared = Arc::new(Shared::new().map_err(failed)?);
        let socket = UnixSocket::bind(path, Access::OwnerOnly, BACKLOG)?;
        // The control may call it after the monitor has ended; events are then dropped.
        let observer = Arc::downgrade(&shared);
        control.observe(Box::new(move |event| {
            if let Some(shared) = observer.upgrade() {
                shared.notify(event);
            }
        }));
        let server = Server {
            shared: Arc::clone(&shared),
            socket: Some(socket),
            control,
            defaults,
            clients: Vec::new(),
            no_room: None,
        };
        let thread = thread::Builder::new()
            .name("monitor".into())
            .spawn(move || server.run())
            .map_err(failed)?;
        Ok(Monitor {
            shared,
            path: path.to_owned(),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends it, within `limit`. No client is accepted from now on.
    pub fn close(mut self, farewell: Farewell, limit: Duration) {
        self.end(farewell, limit);
    }

    fn end(&mut self, farewell: Farewell, limit: Duration) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        let now = Instant::now();
        let deadline = now.checked_add(limit).unwrap_or(now);
        self.shared.close(Closing { farewell, deadline });
        // A thread that panicked has said so, and has closed everything.
        let _ = thread.join();
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.end(Farewell::Flush, Duration::ZERO);
    }
}
