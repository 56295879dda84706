//! The options of a live migration, as the command line and a monitor take them.

use std::path::PathBuf;

use crate::source::Live;
use crate::writer::WriterChoice;

/// What was given about the writer of a live guest.
#[derive(Debug, Default)]
pub(crate) struct LiveOptions {
    /// Whether `live` itself was given, and how.
    pub(crate) live: Option<bool>,
    pub(crate) qmp: Option<PathBuf>,
    pub(crate) pids: Option<Vec<u32>>,
    pub(crate) stop: Option<String>,
    pub(crate) resume: Option<String>,
    pub(crate) fuzzy: bool,
    pub(crate) paused_ok: bool,
    pub(crate) again: bool,
}

/// Why the options do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LiveError {
    /// Nothing says how to stop the writer.
    NoWriter,
    /// More than one option does.
    SeveralWriters,
    /// A list without a process.
    NoProcess,
    /// One of the two commands is missing; its name.
    Missing(&'static str),
    /// `live` is off, and there are options for it.
    Off,
    /// `paused-ok`, and a writer whose state cannot be examined.
    PausedOk,
    /// `again`, and nothing that is handed over.
    Again,
}

impl LiveError {
    /// One line, with options named as `name` writes them.
    pub(crate) fn describe(self, name: impl Fn(&str) -> String) -> String {
        let [live, qmp, pid, fuzzy] = ["live", "qmp", "pid", "fuzzy"].map(&name);
        let [paused_ok, again] = ["paused-ok", "again"].map(&name);
        let [stop, resume] = ["stop-command", "resume-command"].map(&name);
        match self {
            LiveError::NoWriter => format!(
                "{live} needs to know how to stop the writer: give {qmp} (a QEMU), {pid}, or {stop} with \
                 {resume}; or {fuzzy}, for a copy that is not a point-in-time snapshot"
            ),
            LiveError::SeveralWriters => {
                format!("{qmp}, {pid}, {stop} and {fuzzy} exclude each other: give one of them")
            }
            LiveError::NoProcess => format!("{pid} needs at least one process"),
            LiveError::Missing(option) => format!("{} is missing", name(option)),
            LiveError::Off => format!(
                "{qmp}, {pid}, {stop}, {fuzzy}, {paused_ok} and {again} are for a live migration: give {live}, too"
            ),
            LiveError::PausedOk => format!("{paused_ok} is for {qmp} and {pid}: leave it out"),
            LiveError::Again => {
                format!("{again} is not for {fuzzy}, which hands no guest over: leave it out")
            }
        }
    }
}

impl LiveOptions {
    /// What the options say together; `None` if the guest is not live.
    pub(crate) fn into_live(self, guard: Option<PathBuf>) -> Result<Option<Live>, LiveError> {
        let for_live_alone = self.paused_ok || self.again;
        let writer = match (self.qmp, self.pids, self.stop, self.resume, self.fuzzy) {
            (None, None, None, None, false) if self.live == Some(true) => {
                return Err(LiveError::NoWriter);
            }
            (None, None, None, None, false) if for_live_alone => return Err(LiveError::Off),
            (None, None, None, None, false) => return Ok(None),
            (Some(socket), None, None, None, false) => WriterChoice::Qmp {
                socket,
                guard,
                paused_ok: self.paused_ok,
            },
            (None, Some(pids), None, None, false) if pids.is_empty() => {
                return Err(LiveError::NoProcess);
            }
            (None, Some(pids), None, None, false) => WriterChoice::Processes {
                pids,
                guard,
                paused_ok: self.paused_ok,
            },
            (None, None, Some(stop), Some(resume), false) => {
                WriterChoice::Commands { stop, resume }
            }
            (None, None, Some(_), None, false) => return Err(LiveError::Missing("resume-command")),
            (None, None, None, Some(_), false) => return Err(LiveError::Missing("stop-command")),
            (None, None, None, None, true) => WriterChoice::Fuzzy,
            _ => return Err(LiveError::SeveralWriters),
        };
        if self.live == Some(false) {
            return Err(LiveError::Off);
        }
        match writer {
            WriterChoice::Fuzzy if self.again => return Err(LiveError::Again),
            WriterChoice::Fuzzy | WriterChoice::Commands { .. } if self.paused_ok => {
                return Err(LiveError::PausedOk);
            }
            _ => {}
        }
        Ok(Some(Live::new(writer).again(self.again)))
    }
}
