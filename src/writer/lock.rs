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
//! `personality`. Where a writer has locked all of its image for itself, the image's flock(2) is taken
//! instead. The nodes of a block device have locks of their own: the one that the system made, in /dev, is
//! locked for all of them. So two migrations of one image exclude each other everywhere. Two of different images
//! of one process do where they see the same mount of /proc.

use std::fs::File;
use std::io;
use std::path::Path;

use super::WriterError;
use super::held::HeldProcess;
use crate::special;
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

/// Opens an image to lock it, for reading and writing.
///
/// # Errors
/// Those of the file system.
pub(super) fn open_image(path: &Path) -> io::Result<File> {
    let open = |path: &Path| File::options().read(true).write(true).open(path);
    match special::system_node(path) {
        Some(node) => open(&node).or_else(|_| open(path)),
        None => open(path),
    }
}

/// Locks an image until `file` is closed.
///
/// # Errors
/// [`WriterError::Busy`], with `what` as the image's name; and within that, why it cannot be locked.
pub(super) fn lock_image(file: &File, what: &str) -> Result<io::Result<()>, WriterError> {
    match sys::try_lock_range(file, RANGE) {
        Ok(RangeLock::Taken) => Ok(Ok(())),
        // By its writer, for itself.
        Ok(RangeLock::HeldByAnother(range)) if range != RANGE && sys::try_lock(file) => Ok(Ok(())),
        Ok(RangeLock::HeldByAnother(_)) => Err(WriterError::Busy {
            what: what.to_owned(),
        }),
        Err(error) => Ok(Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::users::writers_of;
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

        // All of it: the first migration goes on, and a second one is refused.
        drop(two);
        let writer = open();
        let all = sys::try_lock_range(&writer, (0, 0)).unwrap();
        assert_eq!(all, RangeLock::Taken);
        let one = open();
        lock_image(&one, "it").unwrap().unwrap();
        lock_image(&open(), "it").unwrap_err();
        drop((one, writer));
        // For writing only: without the permission to write there is no lock.
        lock_image(&File::open(&path).unwrap(), "it")
            .unwrap()
            .unwrap_err();
    }

    /// What a program prints, if it succeeds.
    fn output_of(program: &str, args: &[&str]) -> Option<String> {
        let output = std::process::Command::new(program).args(args).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    #[test]
    fn a_block_device_is_one_whatever_its_nodes() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, node) = (folder.path().join("disk"), folder.path().join("node"));
        std::fs::write(&disk, vec![1; 1 << 16]).unwrap();
        let Some(device) = output_of("losetup", &["--find", "--show", disk.to_str().unwrap()])
        else {
            eprintln!("SKIPPED: the nodes of a block device: losetup is not permitted here");
            return;
        };
        let numbers = std::fs::metadata(&device).unwrap().rdev();
        let numbers =
            [rustix::fs::major(numbers), rustix::fs::minor(numbers)].map(|n| n.to_string());
        let made = output_of(
            "mknod",
            &[node.to_str().unwrap(), "b", &numbers[0], &numbers[1]],
        );
        let outcomes = made.map(|_| {
            let device = Path::new(&device);
            let (one, two) = (open_image(device).unwrap(), open_image(&node).unwrap());
            lock_image(&one, "it").unwrap().unwrap();
            let busy = lock_image(&two, "it").is_err();
            // This shell has one node open, and is found by the other.
            let mut shell = std::process::Command::new("sh")
                .args(["-c", "exec sleep 1000"])
                .stdin(File::options().read(true).write(true).open(device).unwrap())
                .spawn()
                .unwrap();
            let found = writers_of(&[&node]).unwrap().users;
            shell.kill().unwrap();
            shell.wait().unwrap();
            (busy, found.iter().any(|user| user.pid == shell.id()))
        });
        output_of("losetup", &["-d", &device]).unwrap();
        match outcomes {
            Some(outcomes) => assert_eq!(outcomes, (true, true)),
            None => eprintln!("SKIPPED: the nodes of a block device: mknod is not permitted here"),
        }
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
