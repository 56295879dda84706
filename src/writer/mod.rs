//! What writes the guest's RAM, and how to stop it.
//!
//! A migration sends the last changes while nothing writes. [`Writer`] is how it gets there:
//! [`QemuWriter`] asks a QEMU to stop its guest, [`Processes`] stops processes by their PIDs, [`Commands`]
//! runs commands of the user's. A stopped
//! writer is resumed whatever goes wrong: by [`Stopped`] on every way out, and by a [`guard`]
//! process if this one is killed. Only [`Writer::release`] ends that.
//!
//! [`churn`] is a writer of our own, for tests and measurements.

mod choice;
pub mod churn;
mod claim;
mod command;
pub mod guard;
mod held;
mod lock;
mod mark;
mod process;
mod qmp;
mod still;
pub mod users;

pub use choice::WriterChoice;
pub use command::Commands;
pub use process::Processes;
pub use qmp::{QemuError, QemuWriter};
#[cfg(feature = "cli")]
pub(crate) use still::note_of_writers;
pub(crate) use still::{Still, digest};

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::units::format_duration;

/// Something that writes the guest's RAM and can be stopped.
pub trait Writer: Send {
    /// Stops it. Returns only when nothing writes any more.
    ///
    /// # Errors
    /// When it cannot be stopped within `limit`. It is then resumed already.
    fn stop(&mut self, limit: Duration) -> Result<()>;

    /// Resumes it at full speed. Harmless if it is running already.
    ///
    /// # Errors
    /// When it is gone, cannot be resumed, or was released.
    fn resume(&mut self) -> Result<()>;

    /// Looks again at a writer that [`Writer::stop`] stopped: it must not have run on meanwhile.
    /// Called once everything is proven, right before [`Writer::release`]. A writer that cannot be
    /// looked at is taken at its word, which is the default.
    ///
    /// # Errors
    /// When it runs: something else has resumed it, and what was proven is not its RAM any more.
    fn check_stopped(&mut self) -> Result<()> {
        Ok(())
    }

    /// Leaves it stopped for good, because the destination takes the guest over. From now on
    /// nothing in this process, and no guard, resumes it.
    ///
    /// To be called right before Commit is written and not after it: if this process were killed
    /// between the two, a guard that is still there would let the guest run in two places.
    fn release(&mut self);

    /// Reports that the destination, after Commit, refused to take over: the writer stays stopped, and
    /// may be resumed by its owner. Called after [`Writer::release`], if at all.
    fn declined(&mut self) {}

    /// Slows it down by `percent`, 1 to 99; 0 is full speed. Returns `false` if that is not
    /// possible.
    ///
    /// # Errors
    /// When it is gone.
    fn throttle(&mut self, percent: u8) -> Result<bool>;

    /// A name for messages.
    fn describe(&self) -> String;
}

/// A writer that is stopped, and is resumed when this is dropped.
pub struct Stopped<'a> {
    /// `None` once it was resumed or released.
    writer: Option<&'a mut dyn Writer>,
}

impl<'a> Stopped<'a> {
    /// Stops a writer.
    ///
    /// # Errors
    /// When it does not stop within `limit`; it is then resumed.
    pub fn stop(writer: &'a mut dyn Writer, limit: Duration) -> Result<Stopped<'a>> {
        // Made first: whatever happens in `stop`, a panic included, the writer is resumed.
        let mut stopped = Stopped {
            writer: Some(writer),
        };
        if let Some(writer) = &mut stopped.writer {
            writer.stop(limit)?;
        }
        Ok(stopped)
    }

    /// Whether it still is stopped.
    ///
    /// # Errors
    /// Those of [`Writer::check_stopped`].
    pub fn check(&mut self) -> Result<()> {
        self.writer
            .as_mut()
            .map_or(Ok(()), |writer| writer.check_stopped())
    }

    /// Lets it write again.
    ///
    /// # Errors
    /// Those of [`Writer::resume`].
    pub fn resume(mut self) -> Result<()> {
        self.writer.take().map_or(Ok(()), Writer::resume)
    }

    /// Leaves it stopped for good; see [`Writer::release`] for when.
    pub fn release(mut self) {
        if let Some(writer) = self.writer.take() {
            writer.release();
        }
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // The error that led here says more than another one.
            let _ = writer.resume();
        }
    }
}

impl fmt::Debug for Stopped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = self.writer.as_ref().map(|writer| writer.describe());
        f.debug_tuple("Stopped").field(&who).finish()
    }
}

/// What can go wrong with a writer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriterError {
    /// The PID is not that of a process that can be stopped.
    #[error("cannot stop process {pid}: {why}")]
    NoProcess {
        /// The PID as given.
        pid: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It belongs to another user.
    #[error("cannot stop process {pid}: not permitted; run as its user or as root")]
    Denied {
        /// Its PID.
        pid: u32,
    },
    /// A debugger holds it.
    #[error(
        "process {pid} is traced by process {tracer} (strace, a debugger), which may let it run at any time: \
         detach that first"
    )]
    Traced {
        /// Its PID.
        pid: u32,
        /// The tracer's PID.
        tracer: u32,
    },
    /// It has ended.
    #[error("process {pid}, which writes the guest's RAM, has ended")]
    Gone {
        /// Its PID.
        pid: u32,
    },
    /// It was stopped before the migration began.
    #[error(
        "process {pid}, which writes the image, is stopped already: {}resume it first (kill -CONT {pid}), \
         or pass --paused-ok to migrate it as a paused guest, which stays stopped", maybe_elsewhere(*again)
    )]
    AlreadyStopped {
        /// Its PID.
        pid: u32,
        /// Whether the user knows that no destination runs the guest.
        again: bool,
    },
    /// It was handed over to a destination before.
    #[error(
        "'{}' was handed over to {to} {} ago, and may run there: {}; if it does not run there, {}",
        image.display(), format_duration(*ago), leave(writer.as_ref()), retry(writer.as_ref(), *live)
    )]
    HandedOver {
        /// The image.
        image: PathBuf,
        /// Where to.
        to: String,
        /// How long ago.
        ago: Duration,
        /// A process that wrote it then, and still could.
        writer: Option<users::User>,
        /// Whether it was to be migrated as a live guest.
        live: bool,
    },
    /// Another migration is moving the same guest.
    #[error("{what} is being migrated already: wait for that migration to end, or cancel it")]
    Busy {
        /// The process or the image.
        what: String,
    },
    /// Another process than those to be stopped can write the guest's RAM.
    #[error(
        "{who} can write {image}, too, and would not be stopped: pass it as another --pid, or end it first"
    )]
    AnotherWriter {
        /// Its PID and command name.
        who: String,
        /// The image, in quotes.
        image: String,
    },
    /// What a process writes does not get into the image.
    #[error(
        "{image} is mapped privately by {user}, so the RAM of its guest is not in the file: start a QEMU with \
         share=on, or end the process if it is not the guest's"
    )]
    MappedPrivately {
        /// The process.
        user: users::User,
        /// The image, in quotes.
        image: String,
    },
    /// A process can write an image that is to be read as RAM at rest.
    #[error(
        "{user} may write to {image} while it is read, so the result would mix different moments: {}",
        instead(user, *can_be_live)
    )]
    Written {
        /// The process.
        user: users::User,
        /// The image, in quotes.
        image: String,
        /// Whether it is read to be sent, which a live migration could do.
        can_be_live: bool,
    },
    /// An image was written while it was read as RAM at rest.
    #[error(
        "'{}' was written while it was being read, so the result would mix different moments: stop what \
         writes it, use a copy, or move the guest with send --live", image.display()
    )]
    Changed {
        /// The image.
        image: PathBuf,
    },
    /// It was stopped for the last round, and runs again.
    #[error(
        "process {pid} was resumed by another program while its last pages were sent (thread {thread} is in \
         state {state}): what arrived is no longer its RAM"
    )]
    Continued {
        /// Its PID.
        pid: u32,
        /// The first thread that runs.
        thread: u32,
        /// The thread's state as in `/proc/PID/stat`.
        state: char,
    },
    /// It was stopped for the last round, ran again, and is stopped now.
    #[error(
        "process {pid} was resumed by another program while its last pages were sent, and stopped again (its \
         thread {thread} ran): what arrived is no longer its RAM"
    )]
    ContinuedForAWhile {
        /// Its PID.
        pid: u32,
        /// The first thread that ran.
        thread: u32,
    },
    /// It did not stop in time.
    #[error(
        "process {pid} did not stop within {}: its thread {thread} is in state {state}{}",
        format_duration(*limit), explain(*state)
    )]
    DidNotStop {
        /// Its PID.
        pid: u32,
        /// The first thread that did not stop.
        thread: u32,
        /// The thread's state as in `/proc/PID/stat`.
        state: char,
        /// How long it had.
        limit: Duration,
    },
    /// It stays stopped: the destination has the guest.
    #[error("{who} was handed over and is not resumed: the destination may run the guest")]
    Released {
        /// The writer's description.
        who: String,
    },
    /// The guard process cannot be started.
    #[error("cannot start '{}' as the guard that resumes the writer if this process is killed: {why}", program.display())]
    Guard {
        /// The program.
        program: PathBuf,
        /// What is wrong with it.
        why: &'static str,
        /// The system's reason, if there is one.
        #[source]
        source: Option<io::Error>,
    },
    /// The guard process has ended.
    #[error("the guard that would resume the writer if this process were killed has ended")]
    GuardGone,
    /// A stop or resume command failed.
    #[error("the {what} command '{command}' failed: {status}")]
    Command {
        /// `stop` or `resume`.
        what: &'static str,
        /// Its command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A stop or resume command did not end in time.
    #[error("the {what} command '{command}' did not end within {}", format_duration(*limit))]
    CommandTimeout {
        /// `stop` or `resume`.
        what: &'static str,
        /// Its text.
        command: String,
        /// How long was waited.
        limit: Duration,
    },
    /// A system call failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// What a stopped guest may mean, unless the user knows better.
fn maybe_elsewhere(again: bool) -> &'static str {
    match again {
        true => "",
        false => {
            "it may have been handed over to a destination that runs the guest now; if it has not, "
        }
    }
}

/// What to do with the writer of a guest that may run elsewhere.
fn leave(writer: Option<&users::User>) -> String {
    match writer {
        None => "leave it stopped here".to_owned(),
        Some(qemu) if qemu.is_qemu() => {
            format!("leave the guest of {qemu} paused, or end it (QMP command quit)")
        }
        Some(user) => format!("leave {user} stopped, or end it (kill -KILL {})", user.pid),
    }
}

/// How to migrate a guest all the same.
fn retry(writer: Option<&users::User>, live: bool) -> String {
    if !live {
        return "send it with --live, --again and --paused-ok".to_owned();
    }
    let how = match writer {
        None => String::new(),
        Some(qemu) if qemu.is_qemu() => " (QMP command cont)".to_owned(),
        Some(user) => format!(" (kill -CONT {})", user.pid),
    };
    format!(
        "resume it{how} and pass --again, or pass --again --paused-ok to migrate it as a paused guest"
    )
}

fn search_failed(source: io::Error) -> WriterError {
    WriterError::Io {
        what: "find out which processes can write the image".to_owned(),
        source,
    }
}

impl WriterError {
    /// The same of a guest that was to be sent as RAM at rest.
    fn at_rest(mut self) -> WriterError {
        if let WriterError::HandedOver { live, .. } = &mut self {
            *live = false;
        }
        self
    }
}

/// What to do about a process that may write to an image while it is read.
fn instead(user: &users::User, can_be_live: bool) -> String {
    match (user.is_qemu(), can_be_live) {
        (true, true) => "move its guest with --live --qmp SOCKET (and --paused-ok if the guest is paused), or copy \
                         a paused guest's RAM with --paused"
            .to_owned(),
        (true, false) => {
            "pause its guest (QMP command stop) and pass --paused, or use a copy".to_owned()
        }
        (false, true) => format!(
            "stop it (kill -STOP {0}), use a copy, move the guest with --live --pid {0}, or pass --paused if its \
             guest is paused",
            user.pid
        ),
        (false, false) => format!(
            "stop it (kill -STOP {}), use a copy, or pass --paused if its guest is paused",
            user.pid
        ),
    }
}

fn explain(state: char) -> &'static str {
    match state {
        'D' => " (waiting for a device or the kernel, which cannot be interrupted)",
        't' => " (held by a tracer, a debugger say, in another PID namespace: detach that first)",
        _ => "",
    }
}

impl From<WriterError> for Error {
    fn from(error: WriterError) -> Error {
        let kind = match error {
            WriterError::NoProcess { .. } => Kind::Usage,
            _ => Kind::Failed,
        };
        Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes what is done to it.
    #[derive(Default)]
    struct Fake {
        log: Vec<&'static str>,
        fails: bool,
    }

    impl Writer for Fake {
        fn stop(&mut self, _limit: Duration) -> Result<()> {
            self.log.push("stop");
            if self.fails {
                return Err(WriterError::Gone { pid: 7 }.into());
            }
            Ok(())
        }
        fn resume(&mut self) -> Result<()> {
            self.log.push("resume");
            Ok(())
        }
        fn release(&mut self) {
            self.log.push("release");
        }
        fn throttle(&mut self, _percent: u8) -> Result<bool> {
            Ok(false)
        }
        fn describe(&self) -> String {
            "a fake".to_owned()
        }
    }

    #[test]
    fn a_stopped_writer_is_resumed_exactly_once_on_every_way_out_but_release() {
        let mut writer = Fake::default();
        drop(Stopped::stop(&mut writer, Duration::ZERO).unwrap());
        let stopped = Stopped::stop(&mut writer, Duration::ZERO).unwrap();
        stopped.resume().unwrap();
        let stopped = Stopped::stop(&mut writer, Duration::ZERO).unwrap();
        stopped.release();
        assert_eq!(
            writer.log,
            ["stop", "resume", "stop", "resume", "stop", "release"]
        );

        let mut writer = Fake {
            fails: true,
            ..Fake::default()
        };
        Stopped::stop(&mut writer, Duration::ZERO).unwrap_err();
        assert_eq!(writer.log, ["stop", "resume"]);

        let mut writer = Fake::default();
        Error::catch("test", || {
            let _stopped = Stopped::stop(&mut writer, Duration::ZERO)?;
            panic!("on purpose");
            #[expect(unreachable_code)]
            Ok(())
        })
        .unwrap_err();
        assert_eq!(writer.log, ["stop", "resume"]);
    }
}
