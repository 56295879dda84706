//! Files that get their name when they are complete: `OUTPUT.partial` is locked while it is written,
//! removed unless it becomes OUTPUT, and replaced if a killed process left one. Any other file of that
//! name is refused: `partial/access.rs` says how they are told apart.
//!
//! Guest RAM is secret: only its owner can read such a file, from its first byte on and whatever the
//! umask. If it replaces another file, it gets that file's owner and mode along with its name, unless
//! another user may have put that file there.
//!
//! This is for raw images and stored streams; `image/folder/partial.rs` does it for guest folders.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, StatxAttributes, StatxFlags, statx};

use crate::page::PAGE_SIZE;
use crate::special;
use crate::sys::{same_file, try_lock};
use access::unmark;
pub(crate) use access::{Access, MARK, PRIVATE, PRIVATE_FOLDER, is_marked, loses_access, mark};

mod access;

/// Why an output cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
// The fields are what the messages say of them.
#[allow(missing_docs)]
pub enum OutputError {
    #[error("'{}' already exists; --force replaces it", path.display())]
    Exists { path: PathBuf },
    #[error("'{}' is being written by another process", path.display())]
    Busy { path: PathBuf },
    /// It has the name of a partial output, and no mark.
    #[error(
        "'{}' is not a partial output of ramferry's: rename or remove it, or choose another output",
        path.display()
    )]
    Foreign { path: PathBuf },
    /// A file system of the kernel's, or one whose files can only be mapped.
    #[error("cannot write '{}': it lies on {file_system}; choose a folder on another file system", path.display())]
    FileSystem {
        path: PathBuf,
        file_system: &'static str,
    },
    /// The system would not let it be renamed over.
    #[error("cannot replace '{}': {why}", path.display())]
    Kept { path: PathBuf, why: &'static str },
    #[error("cannot {what} '{}'", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl OutputError {
    /// For an I/O error while trying to do `what` to `path`.
    pub(crate) fn io(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> OutputError + use<> {
        let path = path.to_owned();
        move |source| OutputError::Io { what, path, source }
    }
}

/// OUTPUT has its name, which cannot be taken back, so it is committed; but the name is not known to be
/// on disk.
#[derive(Debug, thiserror::Error)]
#[error(
    "a power loss may still take away the name of '{}', because its folder cannot be synced: {source}; \
     run 'sync'",
    path.display()
)]
pub struct UnsyncedName {
    path: PathBuf,
    source: io::Error,
}

/// How a partial file or folder becomes OUTPUT.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    /// Whether it may replace an existing OUTPUT.
    pub(crate) replace: bool,
    /// Whether the commit must write its contents and its name to disk.
    pub(crate) sync: bool,
}

/// A file that is to become OUTPUT.
#[derive(Debug)]
pub(crate) struct PartialFile {
    path: PathBuf,
    /// Held for its lock until the file has its name.
    file: File,
    /// What it is to replace has it.
    access: Option<Access>,
    committed: bool,
}

impl PartialFile {
    /// Creates it, empty and locked.
    ///
    /// # Errors
    /// [`OutputError::Busy`], [`OutputError::Foreign`], and I/O errors.
    pub(crate) fn create(output: &Path) -> Result<PartialFile, OutputError> {
        let path = partial_path(output);
        let create = || create_with(&path, PRIVATE | MARK);
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
            access: Access::of(output),
            committed: false,
        };
        // Between creating and locking, another process may have taken it for one that was left.
        if !try_lock(&partial.file) || !same_file(&partial.file, &partial.path) {
            return Err(OutputError::Busy {
                path: partial.path.clone(),
            });
        }
        Ok(partial)
    }

    /// Writes a page and removes it again: there are file systems on which files can be created but
    /// not written, or that are full.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn try_write(&self) -> Result<(), OutputError> {
        let written = self.file.write_all_at(&[0; PAGE_SIZE], 0);
        let emptied = written.and_then(|()| self.file.set_len(0));
        emptied.map_err(OutputError::io("write", &self.path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Another descriptor of the file.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn file(&self) -> Result<File, OutputError> {
        let file = self.file.try_clone();
        file.map_err(OutputError::io("open", &self.path))
    }

    /// Renames it to `output`. Unless it may replace, an output that another process created in
    /// the meantime is not replaced, if the file system can do that.
    ///
    /// # Errors
    /// I/O errors. It does not have the name then.
    pub(crate) fn commit(
        &mut self,
        output: &Path,
        how: Commit,
    ) -> Result<Option<UnsyncedName>, OutputError> {
        if how.sync {
            let synced = self.file.sync_data();
            synced.map_err(OutputError::io("sync", &self.path))?;
        }
        let rename = || {
            if !same_file(&self.file, &self.path) {
                return Err(replaced());
            }
            if how.replace {
                if let Some(access) = self.access.filter(|access| access.is_of(output)) {
                    access.give(&self.file)?;
                }
                return std::fs::rename(&self.path, output);
            }
            rename_noreplace(&self.path, output)
        };
        rename().map_err(OutputError::io("rename the partial file onto", output))?;
        self.committed = true;
        Ok(how.finish(&self.file, output))
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

/// Creates a file that only its owner can read and write.
///
/// # Errors
/// I/O errors; one is that it exists.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    create_with(path, PRIVATE)
}

fn create_with(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // The umask may have removed even the owner's rights.
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

impl Commit {
    /// Ends the commit of `new`, which is at `path` now: it is no longer partial, and its name is written
    /// to disk if that was asked for. A failure is not one of the commit, which can no longer be
    /// undone: another process may have opened the file by its name.
    pub(crate) fn finish(self, new: &File, path: &Path) -> Option<UnsyncedName> {
        unmark(new);
        if !self.sync {
            return None;
        }
        let synced = File::open(folder_of(path)).and_then(|folder| folder.sync_all());
        let path = path.to_owned();
        synced.err().map(|source| UnsyncedName { path, source })
    }
}

/// The folder that a path lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A name for a file that lives for moments.
///
/// # Errors
/// The system has no random numbers.
pub(crate) fn random_name() -> io::Result<String> {
    let mut number = [0; 8];
    rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(".ramferry-{:016x}", u64::from_ne_bytes(number)))
}

/// Checks that the file system of `output` can hold it, as far as its kind tells.
///
/// # Errors
/// [`OutputError::FileSystem`], and a folder from which nothing can be removed.
pub(crate) fn check_file_system(output: &Path) -> Result<(), OutputError> {
    let folder = folder_of(output);
    if let Some(file_system) = special::unwritable_file_system(folder) {
        return Err(OutputError::FileSystem {
            path: output.to_owned(),
            file_system,
        });
    }
    if attributes(folder).intersects(StatxAttributes::APPEND) {
        return Err(OutputError::Kept {
            path: output.to_owned(),
            why: "its folder is append-only (chattr +a)",
        });
    }
    Ok(())
}

/// Checks that the file or folder at `old` can be renamed over.
///
/// # Errors
/// [`OutputError::Kept`].
pub(crate) fn check_replaceable(old: &Path) -> Result<(), OutputError> {
    let attributes = attributes(old);
    let why = if attributes.intersects(StatxAttributes::IMMUTABLE) {
        "it is immutable (chattr +i)"
    } else if attributes.intersects(StatxAttributes::APPEND) {
        "it is append-only (chattr +a)"
    } else if attributes.intersects(StatxAttributes::MOUNT_ROOT) {
        "it is a mount point"
    } else if is_anothers(old) {
        "it belongs to another user, in a folder where only owners may remove files"
    } else {
        return Ok(());
    };
    Err(OutputError::Kept {
        path: old.to_owned(),
        why,
    })
}

/// Of a file or folder itself, not of what a link leads to. A system that does not report an attribute
/// will say no to the rename.
fn attributes(path: &Path) -> StatxAttributes {
    let about = statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS,
    );
    about.map_or(StatxAttributes::empty(), |about| about.stx_attributes)
}

/// Whether it lies in a sticky folder, and neither belongs to this user.
fn is_anothers(path: &Path) -> bool {
    const STICKY: u32 = 0o1000;
    let user = rustix::process::geteuid();
    let is_own = |metadata: &std::fs::Metadata| user.is_root() || metadata.uid() == user.as_raw();
    let folder = std::fs::metadata(folder_of(path));
    let file = std::fs::symlink_metadata(path);
    match (folder, file) {
        (Ok(folder), Ok(file)) => folder.mode() & STICKY != 0 && !is_own(&folder) && !is_own(&file),
        _ => false,
    }
}

/// The path where OUTPUT is written.
pub(crate) fn partial_path(output: &Path) -> PathBuf {
    let mut partial = output.as_os_str().to_owned();
    partial.push(".partial");
    PathBuf::from(partial)
}

/// Removes the file that a killed process left, unless it is locked or not one of ours.
///
/// # Errors
/// [`OutputError::Busy`], [`OutputError::Foreign`], and I/O errors.
pub(crate) fn remove_left_behind(partial: &Path) -> Result<(), OutputError> {
    let foreign = || OutputError::Foreign {
        path: partial.to_owned(),
    };
    let busy = || OutputError::Busy {
        path: partial.to_owned(),
    };
    let found = std::fs::symlink_metadata(partial).map_err(OutputError::io("examine", partial))?;
    if !found.is_file() {
        return Err(foreign());
    }
    let left_behind = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(partial)
        .map_err(OutputError::io("open", partial))?;
    if !try_lock(&left_behind) {
        return Err(busy());
    }
    // What the lock was got for may have become OUTPUT meanwhile, or be another file.
    if !same_file(&left_behind, partial) {
        return Err(busy());
    }
    let found = left_behind.metadata();
    if !is_marked(&found.map_err(OutputError::io("examine", partial))?) {
        return Err(foreign());
    }
    std::fs::remove_file(partial).map_err(OutputError::io("remove", partial))
}

/// Renames without replacing or, if the file system cannot do that, with replacing.
///
/// # Errors
/// I/O errors; one is that `to` exists.
pub(crate) fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => std::fs::rename(from, to),
        other => Ok(other?),
    }
}

/// Why the file or folder at a path may not be touched.
pub(crate) fn replaced() -> io::Error {
    io::Error::other("another process has replaced it")
}
