//! One file of a report: whether it can be written, and writing it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Form;
use crate::error::{Error, Kind, Result};
use crate::partial::{
    Access, OutputError, check_file_system, check_replaceable, folder_of, random_name,
};
use crate::special;

/// Where a report is written in one format.
#[derive(Debug)]
pub(super) struct ExportTarget {
    pub(super) form: Form,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Replaced as a whole by each write.
    File {
        /// Without symbolic links, which a renamed file would replace.
        path: PathBuf,
        /// Whether a file with something in it was there before.
        older: bool,
    },
    /// A pipe or a character device, which is written to once. It stays open until then: a pipe's
    /// reader takes the first close for the end.
    Pipe { path: PathBuf, file: File },
}

/// A file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write '{}'", path.display())]
struct NotWritten {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl ExportTarget {
    /// Makes sure that it can be written. No file is made for it yet.
    ///
    /// # Errors
    /// Of kind [`Kind::Usage`].
    pub(super) fn open(form: Form, path: &Path) -> Result<ExportTarget> {
        let refused = |source| {
            let path = path.to_owned();
            Error::new(Kind::Usage, NotWritten { path, source })
        };
        let (path, older) = match std::fs::metadata(path) {
            Ok(about) => {
                let file = open_existing(path).map_err(refused)?;
                if !about.is_file() {
                    let path = path.to_owned();
                    let place = Place::Pipe { path, file };
                    return Ok(ExportTarget { form, place });
                }
                (path.canonicalize().map_err(refused)?, about.len() > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = folder_of(path).canonicalize().map_err(refused)?;
                let name = path.file_name().ok_or(error).map_err(refused)?;
                (folder.join(name), false)
            }
            Err(error) => return Err(refused(error)),
        };
        check_place(&path).map_err(|error| Error::new(Kind::Usage, error))?;
        let place = Place::File { path, older };
        Ok(ExportTarget { form, place })
    }

    pub(super) fn path(&self) -> &Path {
        match &self.place {
            Place::File { path, .. } | Place::Pipe { path, .. } => path,
        }
    }

    pub(super) fn is_pipe(&self) -> bool {
        matches!(self.place, Place::Pipe { .. })
    }

    /// Whether a file with something in it was there before the benchmark.
    pub(super) fn is_older(&self) -> bool {
        matches!(self.place, Place::File { older: true, .. })
    }

    pub(super) fn is_same_file(&self, other: &ExportTarget) -> bool {
        !self.is_pipe() && !other.is_pipe() && self.path() == other.path()
    }

    /// Writes the report. A reader finds the old or the new file at any time, never half of one.
    ///
    /// # Errors
    /// Of kind [`Kind::Failed`].
    pub(super) fn write(&self, text: &str) -> Result<()> {
        match &self.place {
            Place::File { path, .. } => replace(path, text),
            Place::Pipe { file, .. } => {
                let mut pipe = file;
                pipe.write_all(text.as_bytes())
            }
        }
        .map_err(|source| {
            let path = self.path().to_owned();
            Error::new(Kind::Failed, NotWritten { path, source })
        })
    }
}

/// Opens what exists to write to it. A named pipe must have its reader, so that it is not waited for.
fn open_existing(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = opened.map_err(|error| {
        let kind = std::fs::metadata(path).map(|about| special::sort(about.file_type()));
        match (error.raw_os_error(), kind) {
            (Some(libc::ENXIO), Ok("a named pipe")) => {
                io::Error::other("no program reads this pipe; start it first")
            }
            (Some(libc::ENXIO), Ok(kind)) => io::Error::other(format!("it is {kind}")),
            _ => error,
        }
    })?;
    if special::is_device(&file.metadata()?) {
        return Err(io::Error::other("it is a block device"));
    }
    // The reader may be slow.
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Tries all that a write does, except to give the file its name.
fn check_place(path: &Path) -> Result<(), OutputError> {
    check_file_system(path)?;
    check_replaceable(path)?;
    let written = with_new_file(path, |mut file, name| {
        file.write_all(b" ")?;
        std::fs::remove_file(name)
    });
    written.map_err(OutputError::io("write", path))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    with_new_file(path, |mut file, name| {
        // A new report gets the access that the umask gives any file, an older one keeps its own.
        if let Some(access) = Access::of(path) {
            access.give(file)?;
        }
        file.write_all(text.as_bytes())?;
        std::fs::rename(name, path)
    })
}

/// Calls `act` with a new file beside `path`, and its name. It is removed if that fails.
fn with_new_file(path: &Path, act: impl FnOnce(&File, &Path) -> io::Result<()>) -> io::Result<()> {
    let name = folder_of(path).join(random_name()?);
    let file = File::create_new(&name)?;
    act(&file, &name).inspect_err(|_| {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&name);
    })
}
