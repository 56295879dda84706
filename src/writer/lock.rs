//! Keeps two live migrations from stopping and resuming one guest under each other.
//!
//! Every program that may signal the writer has to see a lock, in whatever namespaces it runs; it has to
//! be free the moment its owner ends, killed or not; and no user who may not touch the guest may take it.
//! What was tried on Linux 6.18:
//!
//! | lock | seen from other namespaces | taken by other users |
//! |---|---|---|
//! | a socket with an abstract name | network: no | yes |
//! | a file in /run | mount: no | by its permissions |
//! | flock(2) of a pidfd (from 6.9; a file of its own for each process) | yes | yes |
//! | flock(2) of `/proc/PID` | a container's mount of /proc: no | yes |
//! | flock(2) of `/proc/PID/personality`, mode 0400 | a container's mount of /proc: no | no |
//! | flock(2) of the image | yes | by who may read it; and writers use it for themselves |
//! | an OFD lock of a range of the image | yes | by who may write it |
//!
//! The image has the last one, on bytes far beyond any end of a file, and the process the one of
//! `personality`. So two migrations of one image exclude each other everywhere. Two of different images
//! of one process do where they see the same mount of /proc.

use std::fs::File;
use std::io;

use super::WriterError;
use super::held::HeldProcess;
use crate::sys::{self, RangeLock};

/// The bytes of an image that are locked: no file is as long, and locks of a writer's own end before.
const RANGE: (u64, u64) = (0x72_616d_6665_7272, 8);

/// A process that is being migrated, for as long as this lives.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    /// Locks a process that writes a guest. `None` for one that may be signalled but not looked into.
    ///
    /// # Errors
    /// [`WriterError::Busy`], the end of the process, and the system's reasons.
    pub(super) fn process(process: &HeldProcess) -> Result<Option<Lock>, WriterError> {
        let pid = process.pid;
        // A held file keeps its inode, and with it the lock, in the mount's cache.
        let file = File::open(format!("/proc/{pid}/personality"));
        if process.has_ended() {
            return Err(WriterError::Gone { pid });
        }
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            file => file.map_err(|source| WriterError::Io {
                what: format!("lock process {pid}"),
                source,
            })?,
        };
        if sys::try_lock(&file) {
            Ok(Some(Lock(file)))
        } else {
            let what = format!("process {pid}");
            Err(WriterError::Busy { what })
        }
    }
}

/// Locks an image until `file` is closed.
///
/// # Errors
/// [`WriterError::Busy`], with `what` as the image's name; and within that, why it cannot be locked.
pub(super) fn lock_image(file: &File, what: &str) -> Result<io::Result<()>, WriterError> {
    match sys::try_lock_range(file, RANGE) {
        Ok(RangeLock::Taken) => Ok(Ok(())),
        Ok(RangeLock::HeldByAnother(range)) if range == RANGE => Err(WriterError::Busy {
            what: what.to_owned(),
        }),
        Ok(RangeLock::HeldByAnother(_)) => Ok(Err(io::Error::other(
            "another program has locked all of it for itself",
        ))),
        Err(error) => Ok(Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_locked_once_whatever_a_writer_locks_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, [1; 4096]).unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let (one, two) = (open(), open());
        assert!(sys::try_lock(&two), "a writer's own flock");
        lock_image(&one, "it").unwrap().unwrap();
        let busy = lock_image(&two, "it").unwrap_err().to_string();
        assert!(busy.starts_with("it is being migrated"), "{busy}");
        drop(one);
        lock_image(&open(), "it").unwrap().unwrap();

        let all = sys::try_lock_range(&two, (0, 0)).unwrap();
        assert_eq!(all, RangeLock::Taken);
        let why = lock_image(&open(), "it").unwrap().unwrap_err();
        assert!(why.to_string().contains("another program"), "{why}");
        // For writing only: without the permission to write there is no lock.
        lock_image(&File::open(&path).unwrap(), "it")
            .unwrap()
            .unwrap_err();
    }

    #[test]
    fn a_process_is_locked_once() {
        let mut sleep = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let process = HeldProcess::open(sleep.id()).unwrap();
        let lock = Lock::process(&process).unwrap();
        let again = Lock::process(&process).map(drop).unwrap_err();
        assert!(matches!(again, WriterError::Busy { .. }), "{again}");
        drop(lock);
        drop(Lock::process(&process).unwrap());
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        let gone = Lock::process(&process).map(drop).unwrap_err();
        assert!(matches!(gone, WriterError::Gone { .. }), "{gone}");
    }
}
