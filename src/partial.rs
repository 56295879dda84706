//! Files that get their name only when they are whole: `OUTPUT.partial`, locked while it is written,
//! removed unless it becomes OUTPUT, and made anew if a killed process left one behind.
//!
//! Guest RAM is secret: such a file can be read by its owner alone, from its first byte on and
//! whatever the umask. One that replaces another gets that one's owner and mode with its name.
//!
//! For raw images and stored streams; `image/partial.rs` does the same for guest folders.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use crate::sys::{same_file, try_lock};

/// The mode of a file that holds guest RAM.
pub(crate) const PRIVATE: u32 = 0o600;

/// Why an output cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// It exists, and may not be replaced.
    #[error("'{}' already exists; --force replaces it", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Another process is writing the same output.
    #[error("'{}' is being written by another process", path.display())]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// The system's reason.
    #[error("cannot {what} '{}'", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The partial file, or the output.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl OutputError {
    /// An error of the system's while trying to do this to `path`.
    pub(crate) fn io(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> OutputError + use<> {
        let path = path.to_owned();
        move |source| OutputError::Io { what, path, source }
    }
}

/// A file that is to become OUTPUT.
#[derive(Debug)]
pub(crate) struct PartialFile {
    path: PathBuf,
    /// Held for its lock until the file has its name.
    file: File,
    committed: bool,
}

impl PartialFile {
    /// Makes it, empty and locked.
    ///
    /// # Errors
    /// [`OutputError::Busy`], and the system's reasons.
    pub(crate) fn create(output: &Path) -> Result<PartialFile, OutputError> {
        let path = partial_path(output);
        let create = || create_private(&path);
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                remove_left_behind(&path)?;
                create()
            }
            other => other,
        };
        // From here on the file is ours to remove.
        let partial = PartialFile {
            file: file.map_err(OutputError::io("create", &path))?,
            path,
            committed: false,
        };
        // Between the two, another process may have taken ours for one that was left behind.
        if !try_lock(&partial.file) || !same_file(&partial.file, &partial.path) {
            return Err(OutputError::Busy {
                path: partial.path.clone(),
            });
        }
        Ok(partial)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Another descriptor of the file.
    ///
    /// # Errors
    /// The system's reason.
    pub(crate) fn file(&self) -> Result<File, OutputError> {
        let file = self.file.try_clone();
        file.map_err(OutputError::io("open", &self.path))
    }

    /// Renames it onto `output`. Without `replace`, an output that another process made in the
    /// meantime is left alone where the file system can do that.
    ///
    /// # Errors
    /// The system's reason.
    pub(crate) fn commit(&mut self, output: &Path, replace: bool) -> Result<(), OutputError> {
        let rename = || {
            if !same_file(&self.file, &self.path) {
                return Err(replaced());
            }
            if replace {
                keep_access(&self.file, output)?;
                return std::fs::rename(&self.path, output);
            }
            rename_noreplace(&self.path, output)
        };
        rename().map_err(OutputError::io("rename the partial file onto", output))?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.committed && same_file(&self.file, &self.path) {
            // Nothing can be done about a failure here, and the next attempt replaces the file.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes a file that its owner alone can read and write.
///
/// # Errors
/// The system's reason; that it exists is one.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(path)?;
    // The umask may have taken even the owner's part.
    file.set_permissions(Permissions::from_mode(PRIVATE))?;
    Ok(file)
}

/// Gives `new` the owner and the mode of the file or folder at `old`, which it is about to replace.
/// Where the owner cannot be kept, others get no access: the mode was not meant for them.
///
/// # Errors
/// The system's reason.
pub(crate) fn keep_access(new: &File, old: &Path) -> io::Result<()> {
    let Ok(old) = std::fs::symlink_metadata(old) else {
        return Ok(());
    };
    if old.is_symlink() {
        return Ok(());
    }
    let now = new.metadata()?;
    let is_kept = (old.uid(), old.gid()) == (now.uid(), now.gid())
        || std::os::unix::fs::fchown(new, Some(old.uid()), Some(old.gid())).is_ok();
    let allowed = if is_kept { 0o777 } else { 0o700 };
    // The owner must be able to use it, whatever the old mode was.
    let owner = if now.is_dir() { 0o700 } else { PRIVATE };
    new.set_permissions(Permissions::from_mode(old.mode() & allowed | owner))
}

/// Where OUTPUT is built.
pub(crate) fn partial_path(output: &Path) -> PathBuf {
    let mut partial = output.as_os_str().to_owned();
    partial.push(".partial");
    PathBuf::from(partial)
}

/// Removes the file that a killed process left behind, unless it is locked.
///
/// # Errors
/// [`OutputError::Busy`], and the system's reasons: it may be a folder.
pub(crate) fn remove_left_behind(partial: &Path) -> Result<(), OutputError> {
    let left_behind = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(partial)
        .map_err(OutputError::io("open", partial))?;
    if !try_lock(&left_behind) {
        return Err(OutputError::Busy {
            path: partial.to_owned(),
        });
    }
    std::fs::remove_file(partial).map_err(OutputError::io("remove", partial))
}

/// Renames without replacing, or by replacing where the file system knows no other way.
///
/// # Errors
/// The system's reason; `to` exists is one.
pub(crate) fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => std::fs::rename(from, to),
        other => Ok(other?),
    }
}

/// Why what is at a path may not be touched.
pub(crate) fn replaced() -> io::Error {
    io::Error::other("another process has replaced it")
}
