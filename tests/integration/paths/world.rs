//! A folder with one of every kind of thing that a path may name.

use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::devices::LoopDevice;
use crate::support::Folder;

/// What a path names. The text is for the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Empty,
    Odd,
    Link,
    Dangling,
    Loop,
    Dir,
    Slash,
    New,
    NewSlash,
    Nowhere,
    Fifo,
    Socket,
    Null,
    Zero,
    Full,
    Device,
    Mounted,
    Proc,
    ProcNew,
    SysNew,
    Inherited,
    Deleted,
    Memfd,
    Unreadable,
    Unwritable,
    ReadOnly,
    ReadOnlyNew,
    FullDisk,
    SmallDisk,
    Ext2,
    MountPoint,
    BoundFile,
    Immutable,
    AppendOnly,
    TakenPartial,
    Long,
    Newline,
    Dash,
}

impl Kind {
    pub(super) fn text(self) -> &'static str {
        match self {
            Kind::File => "a regular file",
            Kind::Empty => "an empty file",
            Kind::Odd => "a file of 5000 bytes",
            Kind::Link => "a symbolic link to a file",
            Kind::Dangling => "a symbolic link to nothing",
            Kind::Loop => "a symbolic link to itself",
            Kind::Dir => "a folder",
            Kind::Slash => "a file's name with a slash after it",
            Kind::New => "a new name",
            Kind::NewSlash => "a new name with a slash after it",
            Kind::Nowhere => "a name in a folder that does not exist",
            Kind::Fifo => "a named pipe without another end",
            Kind::Socket => "a socket",
            Kind::Null => "`/dev/null`",
            Kind::Zero => "`/dev/zero`",
            Kind::Full => "`/dev/full`",
            Kind::Device => "a block device",
            Kind::Mounted => "a block device that is mounted",
            Kind::Proc => "a file of `/proc`",
            Kind::ProcNew => "a new name in `/proc`",
            Kind::SysNew => "a new name in `/sys`",
            Kind::Inherited => "`/dev/fd/N` of an inherited file",
            Kind::Deleted => "`/proc/PID/fd/N` of a deleted file",
            Kind::Memfd => "`/proc/PID/fd/N` of a memfd",
            Kind::Unreadable => "a file that this user may not read",
            Kind::Unwritable => "a new name in a folder that this user may not write",
            Kind::ReadOnly => "a file on a read-only file system",
            Kind::ReadOnlyNew => "a new name on a read-only file system",
            Kind::FullDisk => "a new name on a full file system",
            Kind::SmallDisk => "a new name on a file system of 1 MiB",
            Kind::Ext2 => "a new name on a file system that cannot punch holes (ext2)",
            Kind::MountPoint => "a folder that is a mount point",
            Kind::BoundFile => "a file that is a mount point",
            Kind::Immutable => "an immutable file (`chattr +i`)",
            Kind::AppendOnly => "a new name in an append-only folder (`chattr +a`)",
            Kind::TakenPartial => "a new name, if `NAME.partial` is not a partial output",
            Kind::Long => "a name of 300 bytes",
            Kind::Newline => "a name with a line break",
            Kind::Dash => "`-`",
        }
    }

    /// Whether the program has to run as another user than root for this to mean anything.
    pub(super) fn needs_a_user(self) -> bool {
        matches!(self, Kind::Unreadable | Kind::Unwritable)
    }
}

/// The folder, and what goes with it.
pub(super) struct World {
    pub(super) folder: Folder,
    content: Vec<u8>,
    /// Loop devices, before the file system that they may hold is unmounted.
    devices: Vec<LoopDevice>,
    mounts: Vec<std::path::PathBuf>,
    attributes: Vec<(&'static str, std::path::PathBuf)>,
    open: Vec<File>,
}

impl World {
    /// Files of it hold `content`.
    pub(super) fn new(content: Vec<u8>) -> World {
        let folder = Folder::new();
        // Another user must be able to get here.
        std::fs::set_permissions(folder.path(""), Permissions::from_mode(0o755)).unwrap();
        World {
            folder,
            content,
            devices: Vec::new(),
            mounts: Vec::new(),
            attributes: Vec::new(),
            open: Vec::new(),
        }
    }

    /// Makes one of this kind. `None`, with a line about it, if this user cannot.
    pub(super) fn make(&mut self, kind: Kind) -> Option<String> {
        let path = self.folder.path("it");
        let text = |path: &Path| Some(path.to_str().unwrap().to_owned());
        let write = |path: &Path| std::fs::write(path, &self.content).unwrap();
        match kind {
            Kind::File | Kind::Unreadable => write(&path),
            Kind::Empty => std::fs::write(&path, b"").unwrap(),
            Kind::Odd => std::fs::write(&path, vec![7; 5000]).unwrap(),
            Kind::Link => {
                write(&self.folder.path("target"));
                symlink("target", &path).unwrap();
            }
            Kind::Dangling => symlink("nothing", &path).unwrap(),
            Kind::Loop => symlink("it", &path).unwrap(),
            Kind::Dir | Kind::Unwritable | Kind::AppendOnly | Kind::MountPoint => {
                std::fs::create_dir(&path).unwrap();
            }
            Kind::Slash => {
                write(&path);
                return text(&self.folder.path("it/"));
            }
            Kind::New => {}
            Kind::NewSlash => return text(&self.folder.path("it/")),
            Kind::Nowhere => return text(&self.folder.path("nowhere/it")),
            Kind::Fifo => {
                let mode = rustix::fs::Mode::RWXU;
                rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
            }
            Kind::Socket => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
            Kind::Null => return Some("/dev/null".to_owned()),
            Kind::Zero => return Some("/dev/zero".to_owned()),
            Kind::Full => return Some("/dev/full".to_owned()),
            Kind::Proc => return Some("/proc/version".to_owned()),
            Kind::ProcNew => return Some("/proc/it".to_owned()),
            Kind::SysNew => return Some("/sys/it".to_owned()),
            Kind::Inherited => {
                write(&path);
                return Some("/dev/fd/0".to_owned());
            }
            Kind::Device | Kind::Mounted => return self.device(kind == Kind::Mounted),
            Kind::Deleted => {
                write(&path);
                let file = File::open(&path).unwrap();
                std::fs::remove_file(&path).unwrap();
                return Some(self.held_open(file));
            }
            Kind::Memfd => {
                let flags = rustix::fs::MemfdFlags::CLOEXEC;
                let file: File = rustix::fs::memfd_create("it", flags).unwrap().into();
                std::io::Write::write_all(&mut &file, &self.content).unwrap();
                // A process that could still write it would be taken for its writer.
                let own = format!("/proc/self/fd/{}", file.as_raw_fd());
                return Some(self.held_open(File::open(own).unwrap()));
            }
            Kind::ReadOnly | Kind::ReadOnlyNew | Kind::FullDisk | Kind::SmallDisk | Kind::Ext2 => {
                return self.mounted(kind);
            }
            Kind::BoundFile => {
                write(&self.folder.path("other"));
                write(&path);
                let other = self.folder.path("other");
                return self
                    .mount(&["--bind", other.to_str()?], "it")
                    .then(|| text(&path))?;
            }
            Kind::Immutable => {
                write(&path);
                return self.chattr("i", &path).then(|| text(&path))?;
            }
            Kind::TakenPartial => {
                write(&self.folder.path("it.partial"));
                return text(&path);
            }
            Kind::Long => return text(&self.folder.path(&"x".repeat(300))),
            Kind::Newline => {
                let path = self.folder.path("it\nand more");
                write(&path);
                return text(&path);
            }
            Kind::Dash => return Some("-".to_owned()),
        }
        match kind {
            Kind::Unreadable => {
                std::fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
            }
            Kind::Unwritable => return text(&path.join("new")),
            Kind::AppendOnly => return self.chattr("a", &path).then(|| text(&path.join("new")))?,
            Kind::MountPoint if !self.mount(&["-t", "tmpfs", "tmpfs"], "it") => return None,
            _ => {}
        }
        text(&path)
    }

    /// Removes what was made, for the next one.
    pub(super) fn clear(&mut self) {
        for (flag, path) in self.attributes.drain(..) {
            let _ = Command::new("chattr")
                .arg(format!("-{flag}"))
                .arg(path)
                .status();
        }
        for mount in self.mounts.drain(..) {
            let _ = Command::new("umount").arg("--lazy").arg(mount).status();
        }
        self.devices.clear();
        self.open.clear();
        for name in self.folder.names() {
            let path = self.folder.path(&name);
            let is_dir = std::fs::symlink_metadata(&path).unwrap().is_dir();
            match is_dir {
                true => std::fs::remove_dir_all(path).unwrap(),
                false => std::fs::remove_file(path).unwrap(),
            }
        }
    }

    /// A descriptor of this process, by the path under which another one finds it.
    fn held_open(&mut self, file: File) -> String {
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        self.open.push(file);
        path
    }

    fn chattr(&mut self, flag: &'static str, path: &Path) -> bool {
        let done = Command::new("chattr")
            .arg(format!("+{flag}"))
            .arg(path)
            .output();
        let is_done = done.as_ref().is_ok_and(|ended| ended.status.success());
        if is_done {
            self.attributes.push((flag, path.to_owned()));
        } else {
            println!("NOT TRIED: chattr +{flag}: {done:?}");
        }
        is_done
    }

    fn mount(&mut self, args: &[&str], at: &str) -> bool {
        let at = self.folder.path(at);
        let done = Command::new("mount").args(args).arg(&at).output();
        let is_done = done.as_ref().is_ok_and(|ended| ended.status.success());
        if is_done {
            self.mounts.push(at);
        } else {
            println!("NOT TRIED: mount {args:?}: {done:?}");
        }
        is_done
    }

    fn device(&mut self, mounted: bool) -> Option<String> {
        let device = LoopDevice::new(&self.folder.path("disk"), 4 << 20)?;
        let name = device.name().to_owned();
        if mounted {
            let made = Command::new("mkfs.ext2").arg("-q").arg(&name).status();
            assert!(
                made.is_ok_and(|status| status.success()),
                "mkfs.ext2 {name}"
            );
            std::fs::create_dir(self.folder.path("mnt")).unwrap();
            self.devices.push(device);
            return self.mount(&[&name], "mnt").then_some(name);
        }
        let file = File::options().write(true).open(&name).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &self.content, 0).unwrap();
        self.devices.push(device);
        Some(name)
    }

    /// A file system of its own.
    fn mounted(&mut self, kind: Kind) -> Option<String> {
        let file = self.folder.path("mnt/it").to_str()?.to_owned();
        if kind == Kind::Ext2 {
            self.device(true)?;
            return Some(file);
        }
        std::fs::create_dir(self.folder.path("mnt")).unwrap();
        let size = match kind {
            Kind::SmallDisk => "size=1m",
            _ => "size=2m",
        };
        if !self.mount(&["-t", "tmpfs", "-o", size, "tmpfs"], "mnt") {
            return None;
        }
        match kind {
            Kind::SmallDisk => {}
            Kind::FullDisk => {
                let full = self.folder.path("mnt/full");
                std::fs::write(full, vec![1; 4 << 20]).unwrap_err();
            }
            _ => {
                if kind == Kind::ReadOnly {
                    std::fs::write(&file, &self.content).unwrap();
                }
                let at = self.folder.path("mnt");
                let again = Command::new("mount")
                    .args(["-o", "remount,ro"])
                    .arg(at)
                    .status();
                assert!(again.unwrap().success());
            }
        }
        Some(file)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Whether this process is root's.
pub(super) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
