//! The images of a guest that is being migrated while it runs: locked, and marked once it was handed
//! over.
//!
//! The mark is the extended attribute [`ATTRIBUTE`] of each image, in lines of `name value`: `boot` (the
//! boot's id), `time` (seconds since 1970), `to` (the destination's address), `seen-from` (the time and PID
//! namespaces, as readlink(2) of `/proc/self/ns` has them) and any number of `writer` (`PID:STARTED`, as
//! field 22 of `/proc/PID/stat`). A second migration is refused as long as a process that could write the
//! guest then still can: it was left stopped, and the destination may run the guest. A mark is stale after
//! a reboot and once those processes are gone, as another guest in the same file has other writers. In
//! other namespaces processes have other start times, or do not show: there it is stale after a reboot
//! only.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};

use super::held::{Target, start_of};
use super::lock::{lock_image, open_image};
use super::users::{User, Writers, has_async_io, maps_writable, writers_of};
use super::{QemuError, QemuWriter, WriterError};
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::stats::Stats;
use crate::text::printable;

/// Where the mark is.
const ATTRIBUTE: &str = "user.ramferry.handed-over";

/// A mark takes at most this; an ext4 inode has room for about half of a block.
const MOST: usize = 1500;

/// A guest whose images this migration alone moves, for as long as it lives.
#[derive(Debug)]
pub(super) struct Claim {
    images: Vec<Image>,
    /// What could write them when it began.
    writers: Writers,
    /// Where the guest goes.
    to: String,
}

/// An image that is held open: whatever becomes of its name, the lock and the mark are this file's.
#[derive(Debug)]
struct Image {
    path: PathBuf,
    bytes: u64,
    file: File,
}

impl Claim {
    /// Locks the images of all blocks of a guest that goes to `to`. A notice says if one cannot be
    /// locked.
    ///
    /// # Errors
    /// [`WriterError::Busy`], which names the image, and the system's reasons.
    pub(super) fn take(guest: &Guest, to: String, stats: &Stats) -> Result<Claim, WriterError> {
        let mut images = Vec::new();
        for block in guest.blocks() {
            let path = block.path().to_owned();
            let what = format!("image '{}'", path.display());
            let (file, locked) = match open_image(&path) {
                Ok(file) => {
                    let locked = lock_image(&file, &what)?;
                    (file, locked)
                }
                Err(error) => {
                    let file = File::open(&path).map_err(|source| WriterError::Io {
                        what: format!("open {what}"),
                        source,
                    })?;
                    (file, Err(error))
                }
            };
            if let Err(error) = locked {
                stats.notice(format!(
                    "cannot lock {what}: {error}; make sure that this is its only migration"
                ));
            }
            let bytes = block.bytes();
            images.push(Image { path, bytes, file });
        }
        Ok(Claim {
            images,
            writers: Writers::default(),
            to,
        })
    }

    /// Finds out what can write the guest now.
    ///
    /// # Errors
    /// [`WriterError::Io`].
    pub(super) fn find_writers(&mut self) -> Result<(), WriterError> {
        self.writers = writers_of(&self.links()).map_err(search_failed)?;
        Ok(())
    }

    /// Begins to look for processes that can write the guest now and could not at the beginning.
    pub(super) fn search_again(&self) -> Result<Search, WriterError> {
        Search::start(self.links()).map_err(search_failed)
    }

    /// Refuses a guest that another process can write than at the beginning. Waits for the search.
    ///
    /// # Errors
    /// [`WriterError::AnotherWriter`].
    pub(super) fn check_found(&self, search: Search) -> Result<(), WriterError> {
        let found = search.end().map_err(search_failed)?;
        let is_new = |user: &&User| self.writers.users.iter().all(|known| known.pid != user.pid);
        match found.users.iter().find(is_new) {
            None => Ok(()),
            Some(other) => Err(WriterError::AnotherWriter {
                who: other.to_string(),
                image: self.first(),
            }),
        }
    }

    /// Names of the files that are open, whatever has become of their paths.
    fn links(&self) -> Vec<PathBuf> {
        let link = |image: &Image| format!("/proc/self/fd/{}", image.file.as_raw_fd()).into();
        self.images.iter().map(link).collect()
    }

    /// The first image, for messages.
    fn first(&self) -> String {
        let first = self.images.first().map(|image| image.path.display());
        first.map_or_else(String::new, |path| format!("'{path}'"))
    }

    /// Refuses processes that cannot write the guest's image: the shell, timeout or sudo in front of the
    /// writer, or a program that reads it, is stopped as easily, but that does not stop the writer.
    /// Refuses a guest that other processes can write, because they would go on.
    ///
    /// # Errors
    /// [`Kind::Usage`], and [`WriterError::AnotherWriter`].
    pub(super) fn check_use(&self, pids: &[u32], stats: &Stats) -> Result<()> {
        let Writers { users, unseen } = &self.writers;
        let can_write =
            |pid: &u32| users.iter().any(|user| user.pid == *pid) || unseen.contains(pid);
        if let Some(pid) = pids.iter().find(|&pid| !can_write(pid)) {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "process {pid} cannot write {}: it neither maps it shared and writable nor has it open \
                     for writing; pass the process that writes it, not one that started it or reads it",
                    self.first()
                ),
            ));
        }
        if let Some(other) = users.iter().find(|user| !pids.contains(&user.pid)) {
            return Err(WriterError::AnotherWriter {
                who: other.to_string(),
                image: self.first(),
            }
            .into());
        }
        if let Some(pid) = pids.iter().find(|&&pid| has_async_io(pid)) {
            stats.notice(format!(
                "process {pid} uses asynchronous I/O (io_uring or aio), which goes on while its threads are \
                 stopped and may change RAM that has been sent: stop it by its monitor instead (--qmp for a \
                 QEMU, or --stop-command)"
            ));
        }
        let unseen = unseen.iter().filter(|pid| !pids.contains(pid)).count();
        if unseen > 0 {
            stats.notice(format!(
                "{unseen} processes cannot be examined by this user: make sure that none of them writes {}",
                self.first()
            ));
        }
        Ok(())
    }

    /// Refuses images that are not the RAM of this QEMU's guest: those of another guest, or of a QEMU that
    /// got a copy of its own (`share=off`), in which nothing ever changes. Other processes that can write
    /// them are taken for devices of the guest (vhost-user): QEMU stops those as well. Refuses a part of
    /// its RAM, as of one of several memory-backend-files.
    ///
    /// # Errors
    /// [`QemuError::NotItsRam`] and [`QemuError::NotAllItsRam`].
    pub(super) fn check_ram_of(&self, qemu: &mut QemuWriter, stats: &Stats) -> Result<()> {
        let pid = qemu.pid();
        for Image { path, .. } in &self.images {
            match maps_writable(pid, path) {
                Ok(true) => {}
                Ok(false) => return Err(QemuError::not_its_ram(qemu, path).into()),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => stats.notice(format!(
                    "process {pid} cannot be examined by this user: make sure that '{}' is the RAM of its \
                     guest",
                    path.display()
                )),
                Err(source) => {
                    let what = format!("find out what process {pid} maps");
                    return Err(WriterError::Io { what, source }.into());
                }
            }
        }
        let held = self.images.iter().map(|image| image.bytes).sum();
        let all = qemu.ram_bytes()?;
        if held < all {
            return Err(QemuError::not_all_its_ram(qemu, all, held).into());
        }
        for other in self.writers.users.iter().filter(|user| user.pid != pid) {
            stats.notice(format!(
                "{other} can write the image, too: make sure that it is a device of the guest (vhost-user), \
                 which QEMU stops as well"
            ));
        }
        Ok(())
    }

    /// Refuses a guest that was handed over.
    ///
    /// # Errors
    /// [`WriterError::HandedOver`].
    pub(super) fn check_mark(&self) -> Result<(), WriterError> {
        for image in &self.images {
            let Some(mark) = Mark::read(&image.file) else {
                continue;
            };
            let lives = |writer: &&Target| {
                let users = &mut self.writers.users.iter().map(|user| user.pid);
                let unseen = &mut self.writers.unseen.iter().copied();
                users
                    .chain(unseen)
                    .any(|pid| start_of(pid) == Some(writer.started))
            };
            let writer = mark.writers.iter().find(lives);
            let pid = writer.map(|writer| writer.pid);
            let cannot_tell = mark.writers.is_empty() || mark.seen_from != namespaces();
            if mark.boot == boot() && (pid.is_some() || cannot_tell) {
                return Err(WriterError::HandedOver {
                    image: image.path.clone(),
                    ago: mark.ago(),
                    to: mark.to,
                    pid,
                });
            }
        }
        Ok(())
    }

    /// Removes stale marks. A notice says where none can be set.
    pub(super) fn clear_marks(&self, stats: &Stats) {
        for image in &self.images {
            let can_be_set = fsetxattr(&image.file, ATTRIBUTE, &[], XattrFlags::empty());
            if let Err(error) = can_be_set {
                stats.notice(format!(
                    "'{}' cannot be marked once it is handed over: {}; never resume its writer then, and do \
                     not migrate it again",
                    image.path.display(),
                    io::Error::from(error)
                ));
            }
        }
        self.unmark();
    }

    /// Marks the guest as handed over.
    pub(super) fn mark(&self) {
        let mark = Mark::now(&self.to, &self.writers).text();
        for image in &self.images {
            // If it cannot be set, that was said at the start.
            let _ = fsetxattr(&image.file, ATTRIBUTE, mark.as_bytes(), XattrFlags::empty());
        }
    }

    /// The destination did not take over.
    pub(super) fn unmark(&self) {
        for image in &self.images {
            // There is none if it could not be set.
            let _ = fremovexattr(&image.file, ATTRIBUTE);
        }
    }
}

/// A search for what can write files, in a thread of its own: where many processes run it takes a while,
/// and the downtime has begun.
#[derive(Debug)]
pub(super) struct Search(JoinHandle<io::Result<Writers>>);

impl Search {
    fn start(files: Vec<PathBuf>) -> io::Result<Search> {
        let thread = thread::Builder::new().name("writers".into());
        thread.spawn(move || writers_of(&files)).map(Search)
    }

    fn end(self) -> io::Result<Writers> {
        self.0
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("it panicked")))
    }
}

fn search_failed(source: io::Error) -> WriterError {
    WriterError::Io {
        what: "find out which processes can write the image".to_owned(),
        source,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    boot: String,
    time: u64,
    to: String,
    seen_from: String,
    writers: Vec<Target>,
}

impl Mark {
    fn now(to: &str, writers: &Writers) -> Mark {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let target = |pid| {
            let started = start_of(pid)?;
            Some(Target { pid, started })
        };
        Mark {
            boot: boot(),
            time: since.map_or(0, |since| since.as_secs()),
            to: printable(to).chars().take(MOST / 4).collect(),
            seen_from: namespaces(),
            writers: (writers.users.iter())
                .filter_map(|user| target(user.pid))
                .collect(),
        }
    }

    fn text(&self) -> String {
        let Mark {
            boot,
            time,
            to,
            seen_from,
            ..
        } = self;
        let mut text = format!("boot {boot}\ntime {time}\nto {to}\nseen-from {seen_from}\n");
        for Target { pid, started } in &self.writers {
            let line = format!("writer {pid}:{started}\n");
            if text.len() + line.len() > MOST {
                break;
            }
            text.push_str(&line);
        }
        text
    }

    fn read(file: &File) -> Option<Mark> {
        let mut bytes = [0; MOST];
        let len = fgetxattr(file, ATTRIBUTE, &mut bytes[..]).ok()?;
        Mark::parse(&String::from_utf8_lossy(&bytes[..len]))
    }

    /// Another program may have written it: what is not understood is left out.
    fn parse(text: &str) -> Option<Mark> {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let value = |name| move |line: &(&str, &str)| line.0 == name;
        let boot = lines.clone().find(value("boot"))?.1.to_owned();
        let to = lines.clone().find(value("to"))?.1;
        let time = lines.clone().find(value("time"))?.1.parse().ok()?;
        let seen_from = lines.clone().find(value("seen-from"));
        let mut writers = Vec::new();
        for (_, text) in lines.by_ref().filter(value("writer")) {
            writers.extend(Target::parse(text));
        }
        Some(Mark {
            boot,
            time,
            to: printable(to),
            seen_from: seen_from.map_or_else(String::new, |line| line.1.to_owned()),
            writers,
        })
    }

    fn ago(&self) -> Duration {
        let then = UNIX_EPOCH.checked_add(Duration::from_secs(self.time));
        then.and_then(|then| SystemTime::now().duration_since(then).ok())
            .unwrap_or_default()
    }
}

/// Differs after each boot: PIDs and start times begin anew. Random(4).
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// What start times and PIDs are relative to: time_namespaces(7) and pid_namespaces(7). Kernels without
/// them have one of each.
fn namespaces() -> String {
    ["time", "pid"]
        .map(|kind| {
            let link = std::fs::read_link(format!("/proc/self/ns/{kind}"));
            link.map_or_else(|_| format!("{kind}:"), |link| link.display().to_string())
        })
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_nonsense_is_not() {
        let mark = Mark {
            boot: "b-1".to_owned(),
            time: 1_795_403_519,
            to: "tcp:host:4444".to_owned(),
            seen_from: "time:[1] pid:[2]".to_owned(),
            writers: [(7, 99), (8, 100)]
                .map(|(pid, started)| Target { pid, started })
                .to_vec(),
        };
        let text = mark.text();
        assert_eq!(
            text,
            "boot b-1\ntime 1795403519\nto tcp:host:4444\nseen-from time:[1] pid:[2]\nwriter 7:99\nwriter 8:100\n"
        );
        assert_eq!(Mark::parse(&text), Some(mark.clone()));
        for text in ["", "boot b\n", "boot b\ntime x\nto y", "\u{0}\u{1b}"] {
            assert_eq!(Mark::parse(text), None);
        }
        let hostile = Mark::parse("boot b\ntime 18446744073709551615\nto a\u{1b}[2J\nwriter 7\n");
        let hostile = hostile.unwrap();
        assert_eq!(hostile.to, "a [2J");
        assert_eq!((hostile.writers.len(), hostile.ago()), (0, Duration::ZERO));
    }

    #[test]
    fn a_mark_has_a_limit() {
        let mark = Mark {
            boot: String::new(),
            time: 0,
            to: String::new(),
            seen_from: String::new(),
            writers: vec![
                Target {
                    pid: u32::MAX,
                    started: u64::MAX
                };
                1000
            ],
        };
        assert!(mark.text().len() <= MOST);
        assert!(Mark::parse(&mark.text()).unwrap().writers.len() > 30);
    }
}
