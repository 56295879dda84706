//! `OUTPUT.partial`, a file or a folder: locked while it is written, removed unless it becomes
//! OUTPUT, and made anew if a process that was killed left one behind.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::ImageError;
use super::directory::Directory;
use super::folder::Contents;
use crate::sys::{same_file, try_lock};

/// Where OUTPUT is built.
fn partial_path(output: &Path) -> PathBuf {
    let mut partial = output.as_os_str().to_owned();
    partial.push(".partial");
    PathBuf::from(partial)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError + use<> {
    let path = path.to_owned();
    move |source| ImageError::Io { what, path, source }
}

/// Keeps other processes from writing what is at `path` and open as `file`.
fn lock(file: &File, path: &Path) -> Result<(), ImageError> {
    if try_lock(file) {
        Ok(())
    } else {
        Err(ImageError::OutputBusy {
            path: path.to_owned(),
        })
    }
}

/// Removes what a killed process left behind. What is locked is not, nor is a folder that holds
/// anything besides what such a process had put there.
fn clear_left_behind(partial: &Path) -> Result<(), ImageError> {
    let is_folder = std::fs::symlink_metadata(partial).is_ok_and(|metadata| metadata.is_dir());
    if is_folder {
        let folder = Directory::open(partial, false)?;
        folder.lock()?;
        let files = folder.accounted(true)?;
        return folder
            .remove(partial, &files)
            .map_err(failed("remove", partial));
    }
    let left_behind = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(partial)
        .map_err(failed("open", partial))?;
    lock(&left_behind, partial)?;
    std::fs::remove_file(partial).map_err(failed("remove", partial))
}

/// Makes something at `partial`, clearing its place first if need be.
fn make<T>(partial: &Path, create: impl Fn() -> io::Result<T>) -> Result<T, ImageError> {
    match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            clear_left_behind(partial)?;
            create().map_err(failed("create", partial))
        }
        other => other.map_err(failed("create", partial)),
    }
}

/// Renames without replacing. `None`: the file system cannot.
fn rename_noreplace(from: &Path, to: &Path) -> Option<io::Result<()>> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => None,
        other => Some(other.map_err(io::Error::from)),
    }
}

fn replaced() -> io::Error {
    io::Error::other("another process has replaced it")
}

/// A file that is to become OUTPUT.
#[derive(Debug)]
pub(super) struct PartialFile {
    path: PathBuf,
    file: File,
    committed: bool,
}

impl PartialFile {
    pub(super) fn create(output: &Path) -> Result<PartialFile, ImageError> {
        let path = partial_path(output);
        let file = make(&path, || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
        })?;
        // From here on the file is ours to remove.
        let partial = PartialFile {
            path,
            file,
            committed: false,
        };
        lock(&partial.file, &partial.path)?;
        // Between the two, another process may have taken ours for one that was left behind.
        if !same_file(&partial.file, &partial.path) {
            return Err(ImageError::OutputBusy {
                path: partial.path.clone(),
            });
        }
        Ok(partial)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Another descriptor of the file.
    pub(super) fn file(&self) -> Result<File, ImageError> {
        self.file.try_clone().map_err(failed("open", &self.path))
    }

    /// Renames it onto `output`.
    pub(super) fn commit(&mut self, output: &Path, replace: bool) -> io::Result<()> {
        if !same_file(&self.file, &self.path) {
            return Err(replaced());
        }
        // An OUTPUT that somebody else made in the meantime is not ours to replace.
        let renamed = if replace {
            None
        } else {
            rename_noreplace(&self.path, output)
        };
        renamed.unwrap_or_else(|| std::fs::rename(&self.path, output))?;
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

/// A folder that is to become OUTPUT.
#[derive(Debug)]
pub(super) struct PartialFolder {
    path: PathBuf,
    folder: Directory,
    committed: bool,
}

impl PartialFolder {
    /// Makes it, and in it a `guest.json` that accounts for what will come.
    pub(super) fn create(output: &Path, contents: &Contents) -> Result<PartialFolder, ImageError> {
        let path = partial_path(output);
        make(&path, || std::fs::create_dir(&path))?;
        let folder = Directory::open(&path, false)?;
        folder.lock()?;
        if !folder.is_at(&path) {
            return Err(ImageError::OutputBusy { path });
        }
        let partial = PartialFolder {
            path,
            folder,
            committed: false,
        };
        partial.folder.write_contents(contents)?;
        Ok(partial)
    }

    pub(super) fn folder(&self) -> &Directory {
        &self.folder
    }

    /// Makes it OUTPUT. An old guest folder is exchanged with it and then removed.
    pub(super) fn commit(
        &mut self,
        output: &Path,
        replace: bool,
        contents: &Contents,
    ) -> Result<(), ImageError> {
        let renaming = || failed("rename the partial folder onto", output);
        if !self.folder.is_at(&self.path) {
            return Err(renaming()(replaced()));
        }
        self.folder.write_contents(contents)?;
        if replace && std::fs::symlink_metadata(output).is_ok() {
            let old = Directory::open(output, false)?;
            let files = old.accounted(false)?;
            rustix::fs::renameat_with(CWD, &self.path, CWD, output, RenameFlags::EXCHANGE)
                .map_err(|error| renaming()(error.into()))?;
            self.committed = true;
            // What somebody has put there this very moment stays, and the folder around it.
            let _ = old.remove(&self.path, &files);
            return Ok(());
        }
        // The system renames a folder onto none but an empty one.
        rename_noreplace(&self.path, output)
            .unwrap_or_else(|| std::fs::rename(&self.path, output))
            .map_err(renaming())?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        if !self.committed && self.folder.is_at(&self.path) {
            // As above.
            if let Ok(files) = self.folder.accounted(true) {
                let _ = self.folder.remove(&self.path, &files);
            }
        }
    }
}
