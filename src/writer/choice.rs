//! Which writer a migration stops, as a caller chooses it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::session::Context;
use crate::stats::{Event, Notifier, Stats};
use crate::sync;

use super::users::writers_of;
use super::{Commands, Processes, Writer, WriterError};

/// How the writer of the guest's RAM is stopped for the last round.
#[derive(Clone)]
#[non_exhaustive]
pub enum WriterChoice {
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
    /// Gets hold of the writer; `None` if it is not to be stopped.
    pub(crate) fn open(&self, guest: &Guest, context: &Context) -> Result<Option<Box<dyn Writer>>> {
        let abort = Arc::clone(&context.abort);
        let writer: Box<dyn Writer> = match self {
            WriterChoice::Processes {
                pids,
                guard,
                paused_ok,
            } => {
                let processes = Processes::open(pids, guard.as_deref(), *paused_ok, abort)?;
                check_use(pids, guest, &context.stats)?;
                Box::new(processes)
            }
            WriterChoice::Commands { stop, resume } => {
                let limit = context.tuning.get().timeout;
                Box::new(Commands::new(stop.clone(), resume.clone(), limit, abort))
            }
            WriterChoice::Own(writer) => Box::new(Borrowed(Arc::clone(writer))),
            WriterChoice::Fuzzy => {
                context.stats.no_owner();
                return Ok(None);
            }
        };
        Ok(Some(Box::new(Announced {
            writer,
            notifier: context.stats.notifier(),
            stopped: false,
        })))
    }
}

/// Refuses processes that cannot write the guest's image: the shell, timeout or sudo in front of the
/// writer, or a program that reads it, is stopped as easily, but that does not stop the writer. Refuses
/// a guest that other processes can write, because they would go on.
fn check_use(pids: &[u32], guest: &Guest, stats: &Stats) -> Result<()> {
    let images: Vec<&Path> = guest.blocks().iter().map(|block| block.path()).collect();
    let Some(first) = images.first() else {
        return Ok(());
    };
    let image = || format!("'{}'", first.display());
    let writers = writers_of(&images).map_err(|source| WriterError::Io {
        what: format!("find out which processes can write {}", image()),
        source,
    })?;
    let can_write = |pid: &u32| {
        writers.users.iter().any(|user| user.pid == *pid) || writers.unseen.contains(pid)
    };
    if let Some(pid) = pids.iter().find(|&pid| !can_write(pid)) {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "process {pid} cannot write {}: it neither maps it shared and writable nor has it open \
                 for writing; pass the process that writes it, not one that started it or reads it",
                image()
            ),
        ));
    }
    if let Some(other) = writers.users.iter().find(|user| !pids.contains(&user.pid)) {
        return Err(WriterError::AnotherWriter {
            who: other.to_string(),
            image: image(),
        }
        .into());
    }
    let unseen = writers
        .unseen
        .iter()
        .filter(|pid| !pids.contains(pid))
        .count();
    if unseen > 0 {
        stats.notice(format!(
            "{unseen} processes cannot be examined by this user: make sure that none of them writes {}",
            image()
        ));
    }
    Ok(())
}

/// A writer whose stops and resumptions are reported as events.
struct Announced {
    writer: Box<dyn Writer>,
    notifier: Notifier,
    stopped: bool,
}

impl Writer for Announced {
    fn stop(&mut self, limit: Duration) -> Result<()> {
        self.writer.stop(limit)?;
        self.stopped = true;
        self.notifier.notify(Event::Stop);
        Ok(())
    }
    fn resume(&mut self) -> Result<()> {
        self.writer.resume()?;
        if std::mem::take(&mut self.stopped) {
            self.notifier.notify(Event::Resume);
        }
        Ok(())
    }
    fn check_stopped(&mut self) -> Result<()> {
        self.writer.check_stopped()
    }
    fn release(&mut self) {
        self.writer.release();
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
    fn throttle(&mut self, percent: u8) -> Result<bool> {
        sync::lock(&self.0).throttle(percent)
    }
    fn describe(&self) -> String {
        sync::lock(&self.0).describe()
    }
}
