//! Folders for files that are needed only while something is measured.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::error::{Error, Kind, Result};
use crate::session::session_id;
use crate::sync;

/// Where files are memory, if there is such a place: a disk would be measured as well elsewhere.
const MEMORY: &str = "/dev/shm";

/// The folders that there are, for [`remove_all`].
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn folders() -> MutexGuard<'static, Vec<PathBuf>> {
    sync::lock(&FOLDERS)
}

/// A folder of its own, which goes with all that it holds when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

/// There is no place for temporary files.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a folder in '{}'", parent.display())]
struct NoFolder {
    parent: PathBuf,
    #[source]
    source: io::Error,
}

impl Scratch {
    /// Makes a folder in `parent`, which nobody else may look into.
    ///
    /// # Errors
    /// Of kind [`Kind::Failed`] when the system declines.
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

    /// Makes a folder in memory (`/dev/shm`) if `bytes` bytes have room there, else in the
    /// system's folder for temporary files.
    ///
    /// # Errors
    /// As [`Scratch::new_in`].
    pub fn with_room_for(bytes: u64) -> Result<Scratch> {
        let memory = Path::new(MEMORY);
        if has_room(memory, bytes)
            && let Ok(scratch) = Scratch::new_in(memory)
        {
            return Ok(scratch);
        }
        Scratch::new_in(&std::env::temp_dir())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that it lies in.
    pub fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about what cannot be removed, and nobody is there to be told.
        let _ = std::fs::remove_dir_all(&self.path);
        folders().retain(|path| *path != self.path);
    }
}

/// Removes every folder of this process: for a process that is about to end without dropping
/// them. From then on no new one can be made; whoever tries waits for the end.
pub fn remove_all() {
    let folders = folders();
    for path in folders.iter() {
        let _ = std::fs::remove_dir_all(path);
    }
    std::mem::forget(folders);
}

/// Whether a file system in memory takes `bytes` more and leaves as much again to everyone else.
fn has_room(folder: &Path, bytes: u64) -> bool {
    let wanted = bytes.saturating_mul(2);
    let free = rustix::fs::statvfs(folder)
        .is_ok_and(|about| about.f_bavail.saturating_mul(about.f_frsize) >= wanted);
    // What it may hold by its own limit may be more than the machine has left.
    free && memory_available().is_none_or(|available| available >= wanted)
}

/// Bytes of memory that can be had without swapping, if the system tells.
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
    fn a_folder_goes_with_all_that_it_holds() {
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
    fn a_place_without_room_or_that_is_not_there_is_not_chosen() {
        assert!(!has_room(Path::new("/"), u64::MAX));
        assert!(!has_room(Path::new("/no/such/folder"), 0));
        let error = Scratch::new_in(Path::new("/no/such/folder")).expect_err("no folder");
        assert!(error.one_line().contains("'/no/such/folder'"));
    }
}
