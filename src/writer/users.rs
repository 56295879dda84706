//! Which processes can write a file, as `/proc` shows them: those that have it open for writing, and
//! those that map it shared and may write to the mapping.
//!
//! A write can also come from elsewhere (a device, another machine on a network file system), and a
//! process can open the file right after the look. An empty answer is therefore no proof; a process
//! that is found, however, can write.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use crate::sys::share_descriptors;

/// A process that can write one of the files that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its PID.
    pub pid: u32,
    /// Its command name, `/proc/PID/comm`: at most 15 bytes.
    pub name: String,
}

impl User {
    /// A process by its PID, whose name anyone may read.
    pub(super) fn named(pid: u32) -> User {
        User {
            pid,
            name: command_name(Path::new(&format!("/proc/{pid}"))),
        }
    }

    /// Whether it is a QEMU, by its name: `qemu-system-x86`, `qemu-kvm` and the like.
    pub(crate) fn is_qemu(&self) -> bool {
        self.name.starts_with("qemu")
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// The answer of [`writers_of`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writers {
    /// The processes that can write, by PID; this process is not among them.
    pub users: Vec<User>,
    /// The PIDs of processes that this user may not look into, and that the permissions of a file let
    /// write. Root's are left out: they may write everything, and there are some on every machine.
    pub unseen: Vec<u32>,
}

/// Which other processes can write one of these files.
///
/// It walks `/proc` once, whatever the number of files: about 10 µs for a process with few files and
/// mappings. A process that ends meanwhile is left out.
///
/// # Errors
/// When a file or `/proc` cannot be examined.
pub fn writers_of<P: AsRef<Path>>(files: &[P]) -> io::Result<Writers> {
    let wanted = files
        .iter()
        .map(|file| Wanted::of(file.as_ref()))
        .collect::<io::Result<Vec<_>>>()?;
    let mut writers = Writers::default();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|&pid| pid != std::process::id()) else {
            continue;
        };
        let process = PathBuf::from(format!("/proc/{pid}"));
        match can_write(&process, &wanted) {
            Ok(false) => {}
            Ok(true) => writers.users.push(User::named(pid)),
            Err(error) if has_ended(&error) => {}
            Err(_) if wanted.iter().any(|file| file.permits(&process)) => writers.unseen.push(pid),
            Err(_) => {}
        }
    }
    writers.users.sort_by_key(|user| user.pid);
    Ok(writers)
}

/// Whether a process maps this file shared and may write to the mapping.
///
/// # Errors
/// When the file or the process cannot be examined.
pub(super) fn maps_writable(pid: u32, file: &Path) -> io::Result<bool> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let maps = fs::read(process.join("maps"))?;
    finds_writable(&process, &maps, &[Wanted::of(file)?])
}

/// Whether what a process writes to its mapping of this file stays its own, as of a QEMU's RAM with
/// `share=off`: it maps the file private and writable, and not shared. `false` also if that cannot be
/// examined.
///
/// # Errors
/// When the file cannot be examined.
pub(super) fn maps_private(pid: u32, file: &Path) -> io::Result<bool> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let wanted = [Wanted::of(file)?];
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    let mut lines = maps.split(|&byte| byte == b'\n').filter_map(Mapping::parse);
    let is_private = lines.any(|mapping| {
        !mapping.is_shared() && mapping.is_writable() && mapping.is_of(&wanted[0], &process)
    });
    Ok(is_private && !finds_writable(&process, &maps, &wanted).unwrap_or(false))
}

/// Whether a process has the kernel do I/O for it while its threads do something else, or have stopped:
/// by io_uring(7) or io_setup(2). `false` also if that cannot be examined.
pub fn has_async_io(pid: u32) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let is_ring = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path());
        link.is_ok_and(|link| link.as_os_str() == "anon_inode:[io_uring]")
    };
    let has_ring = |thread: &PathBuf| {
        let files = fs::read_dir(thread.join("fd"));
        files.into_iter().flatten().flatten().any(is_ring)
    };
    if has_ring(&process)
        || others_with_own_files(&process).is_ok_and(|all| all.iter().any(has_ring))
    {
        return true;
    }
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    let mut lines = maps.split(|&byte| byte == b'\n').filter_map(Mapping::parse);
    lines.any(|mapping| mapping.path.starts_with(b"/[aio]"))
}

/// What distinguishes a file from all others, whatever its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// Its file system and inode.
    File(u64, u64),
    /// A block device, which has any number of nodes.
    Device(u64),
}

impl Identity {
    fn of(found: &fs::Metadata) -> Identity {
        match found.file_type().is_block_device() {
            true => Identity::Device(found.rdev()),
            false => Identity::File(found.dev(), found.ino()),
        }
    }

    fn of_stat(found: &Stat) -> Identity {
        match FileType::from_raw_mode(found.st_mode) {
            FileType::BlockDevice => Identity::Device(found.st_rdev),
            _ => Identity::File(found.st_dev, found.st_ino),
        }
    }
}

/// A file, as it is found again in another process.
struct Wanted {
    identity: Identity,
    owner: u32,
    /// Others than its owner may write; an access list shows in these bits, too.
    is_shared: bool,
    /// Device and inode as `/proc/PID/maps` prints them.
    mapped: String,
    inode: String,
    path: PathBuf,
}

impl Wanted {
    fn of(file: &Path) -> io::Result<Wanted> {
        let found = fs::metadata(file)?;
        let (major, minor) = (
            rustix::fs::major(found.dev()),
            rustix::fs::minor(found.dev()),
        );
        Ok(Wanted {
            identity: Identity::of(&found),
            owner: found.uid(),
            is_shared: Mode::from_raw_mode(found.mode()).intersects(Mode::WGRP | Mode::WOTH),
            mapped: format!("{major:02x}:{minor:02x}"),
            inode: found.ino().to_string(),
            // A descriptor's path leads to no name; it is then found by its numbers alone.
            path: file.canonicalize().unwrap_or_else(|_| file.to_owned()),
        })
    }

    /// Whether the permissions let the process write. A kernel thread is root's.
    fn permits(&self, process: &Path) -> bool {
        user_of(process).is_some_and(|user| user != 0 && (user == self.owner || self.is_shared))
    }
}

/// Whether the process with this folder in `/proc` can write one of the files.
fn can_write(process: &Path, wanted: &[Wanted]) -> io::Result<bool> {
    // All threads have the same mappings, but for a main thread that has ended, which has none.
    let Some((thread, maps)) = mappings(process)? else {
        return Ok(false);
    };
    if opens_for_writing(&thread, wanted)? || finds_writable(&thread, &maps, wanted)? {
        return Ok(true);
    }
    for other in others_with_own_files(&thread)? {
        match opens_for_writing(&other, wanted) {
            Ok(false) => {}
            Err(error) if has_ended(&error) => {}
            answer => return answer,
        }
    }
    Ok(false)
}

/// The mappings of a process, and the folder of a thread that has them. `None` for a kernel thread.
fn mappings(process: &Path) -> io::Result<Option<(PathBuf, Vec<u8>)>> {
    let mappings_of = |thread: PathBuf| match fs::read(thread.join("maps")) {
        Err(error) if !has_ended(&error) => Err(error),
        maps => Ok(maps
            .ok()
            .filter(|maps| !maps.is_empty())
            .map(|maps| (thread, maps))),
    };
    if let Some(found) = mappings_of(process.to_owned())? {
        return Ok(Some(found));
    }
    for thread in threads(process)? {
        if let Some(found) = mappings_of(thread)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The folders of the threads of a process, or of one of its threads.
fn threads(process: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(process.join("task"))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// The threads whose descriptors are not those of `thread`, or may be others: unshare(2) with
/// `CLONE_FILES`. To compare them takes a fraction of the time to look at all of them.
fn others_with_own_files(thread: &Path) -> io::Result<Vec<PathBuf>> {
    let id = |thread: &Path| thread.file_name()?.to_str()?.parse().ok();
    let Some(this) = id(thread) else {
        return Ok(Vec::new());
    };
    let has_own = |other: &PathBuf| {
        id(other).is_some_and(|other| other != this && share_descriptors(this, other) != Some(true))
    };
    // The folder of a thread has none of its own.
    let process = thread
        .ancestors()
        .find(|folder| folder.join("task").exists());
    let others = threads(process.unwrap_or(thread))?;
    Ok(others.into_iter().filter(has_own).collect())
}

/// The links in `/proc/PID/fd` have the permission w where the file is open for writing, proc_pid_fd(5).
fn opens_for_writing(process: &Path, wanted: &[Wanted]) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, process.join("fd"), flags, Mode::empty())?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let link = statat(folder.as_fd(), entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
        if !link.is_ok_and(|link| link.st_mode & Mode::WUSR.as_raw_mode() != 0) {
            continue;
        }
        // One that is closed meanwhile, or leads to a file system that does not answer, is not it.
        if let Ok(found) = statat(folder.as_fd(), entry.file_name(), AtFlags::empty())
            && wanted
                .iter()
                .any(|file| file.identity == Identity::of_stat(&found))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn finds_writable(process: &Path, maps: &[u8], wanted: &[Wanted]) -> io::Result<bool> {
    for line in maps.split(|&byte| byte == b'\n') {
        let Some(mapping) = Mapping::parse(line).filter(|mapping| mapping.is_shared()) else {
            continue;
        };
        if wanted.iter().any(|file| mapping.is_of(file, process))
            && (mapping.is_writable() || may_become_writable(process, mapping.range)?)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A line of `/proc/PID/maps`, proc_pid_maps(5).
struct Mapping<'a> {
    range: &'a str,
    permissions: &'a str,
    device: &'a str,
    inode: &'a str,
    path: &'a [u8],
}

impl Mapping<'_> {
    fn parse(line: &[u8]) -> Option<Mapping<'_>> {
        // Address, permissions, offset, device, inode; then spaces and a name that may hold anything.
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let mut next = || std::str::from_utf8(fields.next()?).ok();
        let (range, permissions, _, device, inode) = (next()?, next()?, next()?, next()?, next()?);
        let path = fields.next().unwrap_or_default().trim_ascii_start();
        Some(Mapping {
            range,
            permissions,
            device,
            inode,
            path,
        })
    }

    fn is_shared(&self) -> bool {
        self.permissions.ends_with('s')
    }

    fn is_writable(&self) -> bool {
        self.permissions.contains('w')
    }

    fn is_of(&self, file: &Wanted, process: &Path) -> bool {
        let is_device = matches!(file.identity, Identity::Device(_));
        if self.inode != file.inode && !is_device {
            return false;
        }
        // Some file systems (btrfs, overlayfs) show another device here than stat(2) does.
        (self.device == file.mapped && self.inode == file.inode)
            || self.path == file.path.as_os_str().as_bytes()
            // Only root may follow this one.
            || fs::metadata(process.join("map_files").join(self.range))
                .is_ok_and(|found| Identity::of(&found) == file.identity)
    }
}

/// Whether mprotect(2) can make a mapping writable: a writer that tracks its changes by page faults
/// takes the permission away for a while. `mw` is "may write", proc_pid_smaps(5).
fn may_become_writable(process: &Path, range: &str) -> io::Result<bool> {
    let details = fs::read(process.join("smaps"))?;
    let details = String::from_utf8_lossy(&details);
    let mut lines = details
        .lines()
        .skip_while(|line| line.split(' ').next() != Some(range));
    let flags = lines.find_map(|line| line.strip_prefix("VmFlags:"));
    Ok(flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "mw")))
}

fn command_name(process: &Path) -> String {
    let name = fs::read(process.join("comm")).unwrap_or_default();
    let name = OsStr::from_bytes(name.trim_ascii_end());
    // It may hold anything, and is printed.
    name.to_string_lossy().escape_debug().collect()
}

/// The effective user of a process, `/proc/PID/status`. The owner of its folder is root for a program
/// that gained rights when it was started.
fn user_of(process: &Path) -> Option<u32> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::{Child, Command, Stdio};

    /// A shell that has files open, until it is dropped.
    struct Shell(Child);

    impl Shell {
        fn start(script: &str, file: &Path) -> Shell {
            use std::io::Read;
            let mut child = Command::new("/bin/sh")
                .args(["-c", &format!("{script}; echo; read end"), "sh"])
                .arg(file)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // It has opened everything once it prints.
            let mut byte = [0];
            child
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut byte)
                .unwrap();
            Shell(child)
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_process_that_has_the_file_open_for_writing_is_found_and_a_reader_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a b\nc"), folder.path().join("other"));
        for file in [&file, &other] {
            fs::write(file, [1; 4096]).unwrap();
        }
        let link = folder.path().join("link");
        fs::hard_link(&file, &link).unwrap();
        let _reader = Shell::start("exec 3< \"$1\"", &file);
        // This process is not among them, even if it can write.
        let _own = File::options().write(true).open(&file).unwrap();
        assert_eq!(writers_of(&[&file, &other]).unwrap().users, []);
        let writer = Shell::start("exec 3<> \"$1\"", &file);
        let pid = writer.0.id();
        let name = "sh".to_owned();
        // Whatever name is used.
        assert_eq!(
            writers_of(&[&other, &link]).unwrap().users,
            [User { pid, name }]
        );
        assert_eq!(writers_of(&[&other]).unwrap().users, []);
        drop(writer);
        assert_eq!(writers_of(&[&file]).unwrap().users, []);
    }

    /// A Python with a context for asynchronous I/O, if there is a Python, until it is dropped.
    fn with_aio() -> Option<Shell> {
        let script = format!(
            "import ctypes\ncontext = ctypes.c_ulong()\n\
             assert ctypes.CDLL(None).syscall({}, 1, ctypes.byref(context)) == 0\n\
             print(flush=True)\ninput()",
            libc::SYS_io_setup
        );
        python(&script, Path::new("/dev/null"))
    }

    /// A Python that does this with a file, if there is a Python, until it is dropped.
    fn python(script: &str, file: &Path) -> Option<Shell> {
        let python = ["python3", "-c", "import ctypes"];
        let there = Command::new(python[0]).args(&python[1..]).status();
        let runs = there.is_ok_and(|status| status.success());
        runs.then(|| Shell::start(&format!("exec python3 -c '{script}' \"$1\""), file))
    }

    #[test]
    fn a_thread_that_has_the_file_open_in_a_table_of_its_own_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, [1; 4096]).unwrap();
        let script = "import ctypes, os, sys, threading\n\
                      def run():\n \
                        if ctypes.CDLL(None).unshare(0x400) == 0: os.open(sys.argv[1], os.O_RDWR)\n \
                        print(flush=True)\n \
                        threading.Event().wait()\n\
                      threading.Thread(target=run, daemon=True).start()\ninput()";
        match python(script, &file) {
            Some(writer) => {
                let name = "python3".to_owned();
                let pid = writer.0.id();
                assert_eq!(writers_of(&[&file]).unwrap().users, [User { pid, name }]);
            }
            None => eprintln!("SKIPPED: a thread with descriptors of its own: there is no python3"),
        }
    }

    #[test]
    fn a_process_whose_io_the_kernel_does_meanwhile_is_found() {
        let none = Shell::start("true", Path::new("/dev/null"));
        assert!(!has_async_io(none.0.id()));
        match with_aio() {
            Some(aio) => assert!(has_async_io(aio.0.id())),
            None => eprintln!("SKIPPED: asynchronous I/O: there is no python3"),
        }
    }

    #[test]
    fn a_file_that_does_not_exist_is_an_error() {
        writers_of(&["/nonexistent/file"]).unwrap_err();
    }

    #[test]
    fn mappings_are_told_apart_by_what_may_be_written() {
        let line = b"7f00-7f01 r--s 00001000 fe:01 42                  /a b  c";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!(mapping.path, b"/a b  c");
        assert!(mapping.is_shared() && !mapping.is_writable());
        assert_eq!((mapping.device, mapping.inode), ("fe:01", "42"));
        let anonymous = Mapping::parse(b"7f00-7f01 rw-p 00000000 00:00 0 ").unwrap();
        assert!(!anonymous.is_shared() && anonymous.path.is_empty());
        for line in [&b""[..], b"7f00-7f01 rw-s 0", b"\xff \xff \xff \xff \xff"] {
            assert!(Mapping::parse(line).is_none());
        }
    }
}
