//! Files that are not regular ones, and file systems that hold no user's files: what a path may turn
//! out to be.
//!
//! Opening never waits for another program: a named pipe without a writer, or a device that is not
//! ready, would make a command hang.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a named pipe may have no writer.
const PATIENCE: Duration = Duration::from_secs(5);

/// By `statfs`'s magic numbers (linux/magic.h): file systems whose files are the kernel's.
const PSEUDO: [(u32, &str); 14] = [
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6265_6570, "configfs"),
    (0xcafe_4a11, "bpf"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0x0000_1cd1, "devpts"),
    (0x1980_0202, "mqueue"),
    (0x6e73_6673, "nsfs"),
];

/// Files on it can be mapped, but not written to by system calls.
const HUGETLBFS: u32 = 0x9584_58f6;

/// What a file is, to follow "is".
pub(crate) fn sort(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else {
        "a regular file"
    }
}

/// Opens a file for reading, without waiting for the other end of a named pipe.
///
/// # Errors
/// The system's reason.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// Whether it is a block device.
pub(crate) fn is_device(metadata: &Metadata) -> bool {
    metadata.file_type().is_block_device()
}

/// The bytes of a regular file or of a block device. This moves the descriptor's offset.
///
/// # Errors
/// The system's reason.
pub(crate) fn size(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if is_device(&metadata) {
        return (&*file).seek(SeekFrom::End(0));
    }
    Ok(metadata.len())
}

/// The node of a block device that the system made itself, whatever node this path names.
pub(crate) fn system_node(path: &Path) -> Option<PathBuf> {
    let device = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        is_device(&metadata).then(|| metadata.rdev())
    };
    let id = device(path)?;
    let (major, minor) = (rustix::fs::major(id), rustix::fs::minor(id));
    let event = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
    let name = event
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    let node = Path::new("/dev").join(name);
    (device(&node) == Some(id)).then_some(node)
}

/// Opens a block device to write to it. It must be in use by no file system, and by no other program
/// that asks for the same.
///
/// # Errors
/// The system's reason; [`io::ErrorKind::ResourceBusy`] if it is in use.
pub(crate) fn open_device(path: &Path) -> io::Result<File> {
    let flags = libc::O_EXCL | libc::O_NONBLOCK;
    let mut options = File::options();
    options
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
}

/// The name of the file system that a path lies on, if its files are not a user's.
pub(crate) fn pseudo_file_system(path: &Path) -> Option<&'static str> {
    name_of(rustix::fs::statfs(path).ok()?.f_type as u32, &PSEUDO)
}

/// As [`pseudo_file_system`], or the name of one whose files cannot be written to.
pub(crate) fn unwritable_file_system(path: &Path) -> Option<&'static str> {
    let magic = rustix::fs::statfs(path).ok()?.f_type as u32;
    name_of(magic, &PSEUDO).or_else(|| name_of(magic, &[(HUGETLBFS, "hugetlbfs")]))
}

fn name_of(magic: u32, known: &[(u32, &'static str)]) -> Option<&'static str> {
    let found = known.iter().find(|(known, _)| *known == magic)?;
    Some(found.1)
}

/// Reads a file that was opened by [`open_to_read`]: waits for what a writer writes, but only for a
/// while for a writer.
#[derive(Debug)]
pub(crate) struct PatientReader {
    file: File,
    /// Whether a writer has been there. A file that is not a pipe needs none.
    heard: bool,
    patience: Option<Duration>,
}

impl PatientReader {
    pub(crate) fn new(file: File) -> PatientReader {
        PatientReader {
            file,
            heard: false,
            patience: Some(PATIENCE),
        }
    }

    /// Waits until there is something to read, or the end. `false`: neither within the time.
    fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut files = [PollFd::new(&self.file, PollFlags::IN)];
        match poll(&mut files, limit.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

impl Read for PatientReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(out) {
                // There is a writer.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.heard = true;
                    self.wait(None)?;
                }
                // A pipe that never had one seems to be at its end.
                Ok(0) if !self.heard && !out.is_empty() => match self.patience.take() {
                    Some(limit) => {
                        self.wait(Some(limit))?;
                    }
                    None if self.wait(Some(Duration::ZERO))? => return Ok(0),
                    None => {
                        let what = "no program writes to this pipe";
                        return Err(io::Error::new(io::ErrorKind::TimedOut, what));
                    }
                },
                other => {
                    self.heard = true;
                    return other;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_pipe_is_read_once_it_has_a_writer_and_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        let reader = |patience| PatientReader {
            patience: Some(patience),
            ..PatientReader::new(open_to_read(&path).unwrap())
        };
        let mut text = String::new();
        let mut lonely = reader(Duration::from_millis(1));
        let error = lonely.read_to_string(&mut text).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(lonely);

        let mut reader = reader(PATIENCE);
        let mut writer = File::options().write(true).open(&path).unwrap();
        writer.write_all(b"one").unwrap();
        let mut start = [0; 3];
        reader.read_exact(&mut start).unwrap();
        let writing = std::thread::spawn(move || writer.write_all(b" two"));
        reader.read_to_string(&mut text).unwrap();
        writing.join().unwrap().unwrap();
        assert_eq!((&start[..], &text[..]), (&b"one"[..], " two"));
    }

    #[test]
    fn the_end_of_a_file_that_is_no_pipe_needs_no_writer() {
        let mut text = String::new();
        for path in ["/dev/null", "/proc/self/comm"] {
            let file = open_to_read(Path::new(path)).unwrap();
            PatientReader::new(file).read_to_string(&mut text).unwrap();
        }
        assert!(!text.is_empty(), "of /proc/self/comm");
    }

    #[test]
    fn file_systems_that_hold_no_users_files_are_named() {
        assert_eq!(
            pseudo_file_system(Path::new("/proc/self/mem")),
            Some("proc")
        );
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(pseudo_file_system(folder.path()), None);
        assert_eq!(unwritable_file_system(folder.path()), None);
    }
}
