//! Which writer a migration stops, as a caller chooses it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::image::Guest;
use crate::session::Context;
use crate::stats::{Event, Owner, Stats};
use crate::sync;
use crate::transport::Address;

use super::claim::{Claim, Search};
use super::{Commands, Processes, QemuError, QemuWriter, Writer, WriterError};

/// How the writer of the guest's RAM is stopped for the last round.
#[derive(Clone)]
#[non_exhaustive]
pub enum WriterChoice {
    /// The guest of a QEMU, stopped and resumed through its monitor.
    Qmp {
        /// The path of its QMP socket, which no other client is connected to.
        socket: PathBuf,
        /// As for processes: the program to start as the guard.
        guard: Option<PathBuf>,
        /// Whether a guest that is paused already is taken, and left paused; otherwise it is refused.
        paused_ok: bool,
    },
    /// Processes, stopped by signals.
    Processes {
        /// Their PIDs.
        pids: Vec<u32>,
        /// The program to start as the [guard](super::guard) that resumes them if this process is
        /// killed: a ramferry, or one that calls [`super::guard::serve`]. Without one they would
        /// then stay stopped.
        guard: Option<PathBuf>,
        /// Whether processes that are stopped already are taken, as a paused guest, and left
        /// stopped; otherwise they are refused.
        paused_ok: bool,
    },
    /// A writer that shell commands stop and resume.
    Commands {
        /// The command that returns once the writer has stopped.
        stop: String,
        /// The command that resumes it.
        resume: String,
    },
    /// A writer supplied by the caller.
    Own(Arc<Mutex<dyn Writer>>),
    /// The writer is not stopped: the destination becomes equal to what was sent, which is not a
    /// point-in-time snapshot.
    Fuzzy,
}

impl fmt::Debug for WriterChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriterChoice::Qmp { socket, .. } => f.debug_tuple("Qmp").field(socket).finish(),
            WriterChoice::Processes { pids, .. } => f.debug_tuple("Processes").field(pids).finish(),
            WriterChoice::Commands { stop, resume } => {
                f.debug_tuple("Commands").field(stop).field(resume).finish()
            }
            WriterChoice::Own(_) => f.write_str("Own"),
            WriterChoice::Fuzzy => f.write_str("Fuzzy"),
        }
    }
}

impl WriterChoice {
    /// Gets hold of the guest and its writer; `None` if that is not to be stopped. `to` is where the
    /// guest goes. A guest that was handed over before is refused unless it is to move `again`.
    pub(crate) fn open(
        &self,
        guest: &Guest,
        (to, again): (&Address, bool),
        context: &Context,
    ) -> Result<Option<Box<dyn Writer>>> {
        let stats = &context.stats;
        let opened = self.try_open(guest, (to, again), context);
        opened.map_err(|error| {
            let error = if again { error_of_again(error) } else { error };
            if may_run_elsewhere(&error) {
                stats.set_owner(Some(Owner::Unknown));
            }
            error
        })
    }

    fn try_open(
        &self,
        guest: &Guest,
        (to, again): (&Address, bool),
        context: &Context,
    ) -> Result<Option<Box<dyn Writer>>> {
        let stats = &context.stats;
        if let WriterChoice::Fuzzy = self {
            stats.set_owner(None);
            return Ok(None);
        }
        // First of all, so that a second migration is refused for that reason and no other.
        let mut claim = Claim::take(guest, to.to_string(), stats)?;
        let is_own = matches!(self, WriterChoice::Own(_));
        if !is_own {
            claim.find_writers()?;
            if !again {
                claim.check_mark()?;
            }
            claim.check_can_be_marked(stats);
        }
        Ok(self.get_hold(&claim, context)?.map(|writer| {
            let writer = Announced {
                writer,
                stats: Arc::clone(stats),
                stopped: false,
                claim,
                // Its owner knows what it gave away.
                marks: !is_own,
                watches: matches!(self, WriterChoice::Processes { .. }),
                search: None,
            };
            Box::new(writer) as Box<dyn Writer>
        }))
    }

    fn get_hold(&self, claim: &Claim, context: &Context) -> Result<Option<Box<dyn Writer>>> {
        let abort = Arc::clone(&context.abort);
        Ok(Some(match self {
            WriterChoice::Processes {
                pids,
                guard,
                paused_ok,
            } => {
                let processes = Processes::open(pids, guard.as_deref(), *paused_ok, abort)?;
                claim
                    .check_use(pids, &context.stats)
                    .map_err(|error| processes.first_gone().map_or(error, Error::from))?;
                Box::new(processes)
            }
            WriterChoice::Qmp {
                socket,
                guard,
                paused_ok,
            } => {
                let limit = context.tuning.get().timeout;
                let mut qemu = QemuWriter::connect(socket, limit, abort)?;
                // First: the state of another guest says nothing.
                claim.check_ram_of(&mut qemu, &context.stats)?;
                qemu.prepare(guard.as_deref(), *paused_ok)?;
                Box::new(qemu)
            }
            WriterChoice::Commands { stop, resume } => {
                claim.check_shared(|_| true)?;
                let limit = context.tuning.get().timeout;
                Box::new(Commands::new(stop.clone(), resume.clone(), limit, abort))
            }
            WriterChoice::Own(writer) => Box::new(Borrowed(Arc::clone(writer))),
            WriterChoice::Fuzzy => return Ok(None),
        }))
    }
}

/// Whether a guest is refused because a destination may run it already.
fn may_run_elsewhere(error: &Error) -> bool {
    matches!(
        error.cause(),
        Some(WriterError::HandedOver { .. } | WriterError::AlreadyStopped { again: false, .. })
    ) || matches!(
        error.cause(),
        Some(
            QemuError::Paused { again: false, .. }
                | QemuError::WrongState { .. }
                | QemuError::Migrating { .. }
        )
    )
}

/// Why a guest is refused whose user knows that no destination runs it.
fn error_of_again(error: Error) -> Error {
    if let Some(&WriterError::AlreadyStopped { pid, .. }) = error.cause() {
        return WriterError::AlreadyStopped { pid, again: true }.into();
    }
    match error.cause() {
        Some(QemuError::Paused {
            socket, state, why, ..
        }) => QemuError::Paused {
            socket: socket.clone(),
            state: state.clone(),
            why,
            again: true,
        }
        .into(),
        _ => error,
    }
}

/// A writer whose stops and resumptions are reported as events, and whose guest is marked when it is
/// handed over.
struct Announced {
    writer: Box<dyn Writer>,
    stats: Arc<Stats>,
    stopped: bool,
    claim: Claim,
    /// Whether the guest is marked when it is handed over.
    marks: bool,
    /// Whether a process that can write the guest since the beginning is noticed.
    watches: bool,
    search: Option<Search>,
}

impl Writer for Announced {
    fn stop(&mut self, limit: Duration) -> Result<()> {
        self.writer.stop(limit)?;
        if self.watches {
            self.search = Some(self.claim.search_again()?);
        }
        self.stopped = true;
        self.stats.notifier().notify(Event::Stop);
        Ok(())
    }
    fn resume(&mut self) -> Result<()> {
        let was_stopped = std::mem::take(&mut self.stopped);
        self.writer.resume().inspect_err(|error| {
            // On most ways here another error is the one that is reported.
            if !matches!(error.cause(), Some(WriterError::Gone { .. })) {
                let (who, why) = (self.writer.describe(), error.one_line());
                self.stats.caution(format!("cannot resume {who}: {why}"));
            }
        })?;
        if was_stopped {
            self.stats.notifier().notify(Event::Resume);
        }
        Ok(())
    }
    fn check_stopped(&mut self) -> Result<()> {
        if let Some(search) = self.search.take() {
            self.claim.check_found(search)?;
        }
        self.writer.check_stopped()
    }
    fn release(&mut self) {
        // Before it may run elsewhere.
        if self.marks {
            self.claim.mark();
        }
        self.writer.release();
    }
    fn declined(&mut self) {
        if self.marks {
            self.claim.unmark();
        }
        self.writer.declined();
    }
    fn throttle(&mut self, percent: u8) -> Result<bool> {
        self.writer.throttle(percent)
    }
    fn describe(&self) -> String {
        self.writer.describe()
    }
}

/// A writer that its owner keeps.
struct Borrowed(Arc<Mutex<dyn Writer>>);

impl Writer for Borrowed {
    fn stop(&mut self, limit: Duration) -> Result<()> {
        sync::lock(&self.0).stop(limit)
    }
    fn resume(&mut self) -> Result<()> {
        sync::lock(&self.0).resume()
    }
    fn check_stopped(&mut self) -> Result<()> {
        sync::lock(&self.0).check_stopped()
    }
    fn release(&mut self) {
        sync::lock(&self.0).release();
    }
    fn declined(&mut self) {
        sync::lock(&self.0).declined();
    }
    fn throttle(&mut self, percent: u8) -> Result<bool> {
        sync::lock(&self.0).throttle(percent)
    }
    fn describe(&self) -> String {
        sync::lock(&self.0).describe()
    }
}
