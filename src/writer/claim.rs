//! The images of a guest that is being migrated while it runs: locked, and marked once it was handed
//! over.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use super::lock::{lock_image, open_image};
use super::users::{User, Writers, has_async_io, maps_writable, writers_of};
use super::{QemuError, QemuWriter, WriterError, mark, still};
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::stats::Stats;

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
    /// Its mark when the migration began.
    found: mark::Found,
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
                stats.caution(format!(
                    "cannot lock {what}: {error}; make sure that this is its only migration"
                ));
            }
            let found = mark::Found::of(&file);
            let bytes = block.bytes();
            images.push(Image {
                path,
                bytes,
                file,
                found,
            });
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
        self.writers = writers_of(&self.links()).map_err(super::search_failed)?;
        Ok(())
    }

    /// Begins to look for processes that can write the guest now and could not at the beginning.
    pub(super) fn search_again(&self) -> Result<Search, WriterError> {
        Search::start(self.links()).map_err(super::search_failed)
    }

    /// Refuses a guest that another process can write than at the beginning. Waits for the search.
    ///
    /// # Errors
    /// [`WriterError::AnotherWriter`].
    pub(super) fn check_found(&self, search: Search) -> Result<(), WriterError> {
        let found = search.end().map_err(super::search_failed)?;
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
        self.check_shared(|user| pids.contains(&user.pid))?;
        for pid in unseen.iter().filter(|pid| pids.contains(pid)) {
            stats.caution(format!(
                "process {pid} cannot be examined by this user: make sure that it writes {}",
                self.first()
            ));
        }
        if let Some(pid) = pids.iter().find(|&&pid| has_async_io(pid)) {
            stats.caution(format!(
                "process {pid} uses asynchronous I/O (io_uring or aio), which goes on while its threads are \
                 stopped and may change RAM that has been sent: stop it by its monitor instead (--qmp for a \
                 QEMU, or --stop-command)"
            ));
        }
        let unseen = unseen.iter().filter(|pid| !pids.contains(pid)).count();
        if unseen > 0 {
            stats.caution(format!(
                "{unseen} processes cannot be examined by this user: make sure that none of them writes {}",
                self.first()
            ));
        }
        Ok(())
    }

    /// Refuses images that one of these processes maps privately.
    ///
    /// # Errors
    /// [`WriterError::MappedPrivately`].
    pub(super) fn check_shared(
        &self,
        is_writer: impl Fn(&User) -> bool,
    ) -> Result<(), WriterError> {
        for user in self.writers.users.iter().filter(|user| is_writer(user)) {
            for image in &self.images {
                still::check_shared(user, &image.path)?;
            }
        }
        Ok(())
    }

    /// Refuses images that are not the RAM of this QEMU's guest: those of another guest, or of a QEMU that
    /// got a copy of its own (`share=off`), in which nothing ever changes. Other processes that can write
    /// them are taken for devices of the guest (vhost-user): QEMU stops those as well. Refuses a part of
    /// its RAM, as of one of several memory-backend-files.
    ///
    /// # Errors
    /// [`QemuError::NotItsRam`], [`QemuError::Unexamined`] and [`QemuError::NotAllItsRam`].
    pub(super) fn check_ram_of(&self, qemu: &mut QemuWriter, stats: &Stats) -> Result<()> {
        let pid = qemu.pid();
        for Image { path, .. } in &self.images {
            match maps_writable(pid, path) {
                Ok(true) => {}
                Ok(false) => return Err(QemuError::not_its_ram(qemu, path).into()),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return Err(QemuError::unexamined(qemu, path).into());
                }
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
            stats.caution(format!(
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
        let mut images = self.images.iter();
        images.try_for_each(|image| mark::check(&image.path, &image.found, &self.writers))
    }

    /// A notice says where no mark can be set.
    pub(super) fn check_can_be_marked(&self, stats: &Stats) {
        for image in &self.images {
            if let Err(error) = image.found.put_back(&image.file) {
                stats.caution(format!(
                    "'{}' cannot be marked once it is handed over: {error}; never resume its writer then, \
                     and do not migrate it again",
                    image.path.display(),
                ));
            }
        }
    }

    /// Marks the guest as handed over.
    pub(super) fn mark(&self) {
        for image in &self.images {
            mark::set(&image.file, &self.to, &self.writers);
        }
    }

    /// The destination did not take over: the marks are again what they were.
    pub(super) fn unmark(&self) {
        for image in &self.images {
            // Where it cannot be set, that was said at the start.
            let _ = image.found.put_back(&image.file);
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
