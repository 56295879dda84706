//! Temporary folders for the files of a benchmark.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::error::{Error, Kind, Result};
use crate::session::session_id;
use crate::sync;
use crate::units::format_bytes;

/// Where files are memory, if there is such a folder. Elsewhere the disk would be measured as well.
const MEMORY: &str = "/dev/shm";

/// The existing folders, for [`remove_all`].
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn folders() -> MutexGuard<'static, Vec<PathBuf>> {
    sync::lock(&FOLDERS)
}

/// A new folder, removed with its contents when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

/// The folder for temporary files could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a folder in '{}'", parent.display())]
struct NoFolder {
    parent: PathBuf,
    #[source]
    source: io::Error,
}

/// The temporary files would not fit.
#[derive(Debug, thiserror::Error)]
#[error(
    "not enough space in '{}': up to {} needed, {} free; choose another folder with --scratch",
    folder.display(),
    format_bytes(*needed),
    format_bytes(*free)
)]
struct NoRoom {
    folder: PathBuf,
    needed: u64,
    free: u64,
}

impl Scratch {
    /// Makes a folder in `parent` that only this user can access.
    ///
    /// # Errors
    /// Of kind [`Kind::Failed`] if the system refuses.
    pub fn new_in(parent: &Path) -> Result<Scratch> {
        let make = || {
            let id = u128::from_le_bytes(session_id()?);
            let path = parent.join(format!("ramferry-bench-{:016x}", id as u64));
            let mut folders = folders();
            DirBuilder::new().mode(0o700).create(&path)?;
            folders.push(path.clone());
            Ok(Scratch { path })
        };
        make().map_err(|source| {
            let parent = parent.to_owned();
            Error::new(Kind::Failed, NoFolder { parent, source })
        })
    }

    /// Makes a folder with room for `bytes` bytes: in `parent`, or else in memory (`/dev/shm`), or
    /// else in the system's folder for temporary files.
    ///
    /// # Errors
    /// Of kind [`Kind::Failed`] if there is no room, before anything is written; and as
    /// [`Scratch::new_in`].
    pub fn with_room_for(bytes: u64, parent: Option<&Path>) -> Result<Scratch> {
        let memory = Path::new(MEMORY);
        if parent.is_none()
            && fits_in_memory(memory, bytes)
            && let Ok(scratch) = Scratch::new_in(memory)
        {
            return Ok(scratch);
        }
        let folder = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        match free_bytes(&folder) {
            Some(free) if free < bytes => Err(Error::new(
                Kind::Failed,
                NoRoom {
                    folder,
                    needed: bytes,
                    free,
                },
            )),
            _ => Scratch::new_in(&folder),
        }
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that contains it.
    pub fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about what cannot be removed.
        let _ = std::fs::remove_dir_all(&self.path);
        folders().retain(|path| *path != self.path);
    }
}

/// Removes every folder of this process, which is about to end without dropping them. From then on no
/// new one can be made: a thread that tries blocks until the process ends.
pub fn remove_all() {
    let folders = folders();
    for path in folders.iter() {
        let _ = std::fs::remove_dir_all(path);
    }
    std::mem::forget(folders);
}

/// Whether a file system in memory has room for `bytes` and leaves as much again to everything else.
fn fits_in_memory(folder: &Path, bytes: u64) -> bool {
    let wanted = bytes.saturating_mul(2);
    free_bytes(folder).is_some_and(|free| free >= wanted)
        // Its own limit may be more than the machine has left.
        && memory_available().is_none_or(|available| available >= wanted)
}

/// Bytes free for this user, if the file system reports them.
fn free_bytes(folder: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(folder).ok()?;
    (about.f_blocks > 0).then(|| about.f_bavail.saturating_mul(about.f_frsize))
}

/// Bytes of memory available without swapping, if the system reports them.
fn memory_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_removed_with_its_contents() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let scratch = Scratch::new_in(parent.path()).expect("a folder");
        let other = Scratch::new_in(parent.path()).expect("another folder");
        assert_ne!(scratch.path(), other.path());
        assert_eq!(scratch.parent(), parent.path());
        std::fs::create_dir(scratch.path().join("deep")).expect("a folder");
        std::fs::write(scratch.path().join("deep/file"), "data").expect("a file");
        drop((scratch, other));
        let left = std::fs::read_dir(parent.path()).expect("still there");
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn a_folder_without_room_is_refused_with_both_figures() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let error = Scratch::with_room_for(u64::MAX, Some(parent.path())).expect_err("no room");
        let line = error.one_line();
        assert!(
            line.contains("16.00 EiB needed") && line.contains(" free;"),
            "{line}"
        );
        let left = std::fs::read_dir(parent.path()).expect("still there");
        assert_eq!(left.count(), 0);
        assert!(Scratch::with_room_for(1, Some(parent.path())).is_ok());
    }

    #[test]
    fn a_place_without_room_or_that_is_missing_is_not_chosen() {
        assert!(!fits_in_memory(Path::new("/"), u64::MAX));
        assert!(!fits_in_memory(Path::new("/no/such/folder"), 0));
        let error = Scratch::new_in(Path::new("/no/such/folder")).expect_err("no folder");
        assert!(error.one_line().contains("'/no/such/folder'"));
    }
}
