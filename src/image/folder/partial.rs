//! `OUTPUT.partial` for guest folders, as [`crate::partial`] is for files: locked while it is written,
//! removed unless it becomes OUTPUT, and replaced if a killed process left one.

use std::fs::Permissions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::super::ImageError;
use super::{Directory, FolderError, GuestJson};
use crate::partial::{
    Access, Commit, MARK, OutputError, PRIVATE_FOLDER, UnsyncedName, create_private, folder_of,
    is_marked, mark, partial_path, random_name, remove_left_behind, rename_noreplace, replaced,
};

/// Removes the folder that a killed process left at `OUTPUT.partial`, unless it is locked, has no mark
/// or contains a file that such a process did not create.
pub(crate) fn clear_folder(output: &Path) -> Result<(), ImageError> {
    let partial = partial_path(output);
    if !std::fs::symlink_metadata(&partial).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    let folder = Directory::open(&partial, false)?;
    folder.lock()?;
    if !is_marked(&folder.metadata()?) {
        return Err(OutputError::Foreign { path: partial }.into());
    }
    let files = folder.accounted(true)?;
    let removed = folder.remove(&partial, &files);
    removed.map_err(ImageError::io("remove", &partial))
}

/// Checks that the file system can exchange two names, as a guest folder and its successor are.
pub(crate) fn check_exchange(output: &Path) -> Result<(), ImageError> {
    let try_it = || {
        let folder = folder_of(output);
        let (one, other) = (folder.join(random_name()?), folder.join(random_name()?));
        create_private(&one)?;
        let exchanged = create_private(&other).and_then(|_| {
            let flags = RenameFlags::EXCHANGE;
            Ok(rustix::fs::renameat_with(CWD, &one, CWD, &other, flags)?)
        });
        // The first error is the one to report.
        let _ = std::fs::remove_file(&other);
        let _ = std::fs::remove_file(&one);
        exchanged
    };
    try_it().map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => ImageError::Folder {
            path: output.to_owned(),
            source: FolderError::NoExchange,
        },
        _ => ImageError::io("replace", output)(error),
    })
}

/// Creates a folder at `OUTPUT.partial`, in place of what a killed process left there.
fn make_folder(output: &Path, partial: &Path) -> Result<(), ImageError> {
    let create = || {
        let mode = PRIVATE_FOLDER | MARK;
        std::fs::DirBuilder::new().mode(mode).create(partial)
    };
    match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            clear_folder(output)?;
            if std::fs::symlink_metadata(partial).is_ok() {
                remove_left_behind(partial)?;
            }
            create()
        }
        other => other,
    }
    .map_err(ImageError::io("create", partial))
}

/// Gives the owner the rights to the new folder that the umask may have removed. A link that another
/// process has put in its place is not followed.
fn open_own(partial: &Path) -> Result<(), ImageError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let change = || {
        let folder = rustix::fs::open(partial, flags, Mode::empty())?;
        // A descriptor that was opened without the right to read has a mode to change only by this name.
        let name = format!("/proc/self/fd/{}", folder.as_raw_fd());
        std::fs::set_permissions(name, Permissions::from_mode(PRIVATE_FOLDER | MARK))
    };
    change().map_err(ImageError::io("set the mode of", partial))
}

/// A folder that is to become OUTPUT.
#[derive(Debug)]
pub(crate) struct PartialFolder {
    path: PathBuf,
    folder: Directory,
    /// What it is to replace has it.
    access: Option<Access>,
    committed: bool,
}

impl PartialFolder {
    /// Makes it, and in it a `guest.json` that accounts for what will come.
    pub(crate) fn create(output: &Path, contents: &GuestJson) -> Result<PartialFolder, ImageError> {
        let path = partial_path(output);
        make_folder(output, &path)?;
        let folder = open_own(&path).and_then(|()| Directory::open(&path, false));
        let folder = folder.inspect_err(|_| {
            // Only if it is empty: then it is the one that was just made, or as good.
            let _ = std::fs::remove_dir(&path);
        })?;
        folder.lock()?;
        if !folder.is_at(&path) {
            return Err(OutputError::Busy { path }.into());
        }
        let partial = PartialFolder {
            path,
            folder,
            access: Access::of(output),
            committed: false,
        };
        partial.folder.write_contents(contents)?;
        Ok(partial)
    }

    pub(crate) fn folder(&self) -> &Directory {
        &self.folder
    }

    /// Makes it OUTPUT. An old guest folder is exchanged with it and then removed.
    pub(crate) fn commit(
        &mut self,
        output: &Path,
        how: Commit,
        contents: &GuestJson,
    ) -> Result<Option<UnsyncedName>, ImageError> {
        let renaming = || ImageError::io("rename the partial folder onto", output);
        if !self.folder.is_at(&self.path) {
            return Err(renaming()(replaced()));
        }
        self.folder.write_contents(contents)?;
        if how.sync {
            self.folder.sync()?;
        }
        if how.replace && std::fs::symlink_metadata(output).is_ok() {
            let old = Directory::open(output, false)?;
            let files = old.accounted(false)?;
            if let Some(access) = self.access.filter(|access| access.is_of(output)) {
                let kept = self.folder.keep_access(access, output, &files);
                kept.map_err(renaming())?;
            }
            rustix::fs::renameat_with(CWD, &self.path, CWD, output, RenameFlags::EXCHANGE)
                .map_err(|error| renaming()(error.into()))?;
            self.committed = true;
            // From here on the old one is what a kill may leave.
            let _ = mark(old.file());
            let unsynced = how.finish(self.folder.file(), output);
            // If another process has just created a file in it, that file and the folder stay.
            let _ = old.remove(&self.path, &files);
            return Ok(unsynced);
        }
        // The system renames a folder onto nothing or an empty folder only.
        rename_noreplace(&self.path, output).map_err(renaming())?;
        self.committed = true;
        Ok(how.finish(self.folder.file(), output))
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        if !self.committed && self.folder.is_at(&self.path) {
            // Nothing can be done about a failure here, and the next attempt replaces the folder.
            if let Ok(files) = self.folder.accounted(true) {
                let _ = self.folder.remove(&self.path, &files);
            }
        }
    }
}
