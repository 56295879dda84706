//! Finding out that an image is written while it is read as if nothing wrote it.
//!
//! Without `--live` an image is taken for RAM at rest. If a process writes it meanwhile, the copy
//! mixes different moments, and both ends agree on it all the same. Three looks find that out:
//!
//! | when | what | what it misses |
//! |---|---|---|
//! | at the start and at the end | processes that can write it ([`writers_of`]) | those of other users, and of other hosts |
//! | at the end | the file's size and time of change | stores to pages that a process has mapped and written before: Linux marks the time at the first store only, on tmpfs for good, elsewhere until the page was written back |
//! | at the end | one page of 32, hashed again | a few writes |
//!
//! 1 000 writes to pages anywhere are missed by the sample once in 10^13.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::image::{FileState, Guest, Ram};
use crate::page::Digest;
use crate::stats::{Owner, Stats};

use super::held::HeldProcess;
use super::users::{User, writers_of};
use super::{WriterError, mark, search_failed, users};

/// Images that must not be written while they are read.
#[derive(Debug, Default)]
pub(crate) struct Still {
    files: Vec<(PathBuf, FileState)>,
    /// Processes that can write them are known not to, as a QEMU whose guest is paused.
    paused: bool,
    /// They are read to be sent, which a live migration could do, too.
    can_be_live: bool,
}

impl Still {
    /// No files yet. `paused`: the user knows that the processes that can write them will not.
    pub(crate) fn new(paused: bool) -> Still {
        Still {
            paused,
            ..Still::default()
        }
    }

    /// As [`Still::new`], of files that are sent.
    pub(crate) fn to_send(paused: bool) -> Still {
        Still {
            can_be_live: true,
            ..Still::new(paused)
        }
    }

    /// The files of these blocks are going to be read.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn add(&mut self, ram: &Ram) -> Result<()> {
        for block in ram.blocks() {
            let path = block.path();
            if !self.files.iter().any(|(known, _)| known == path) {
                self.files.push((path.to_owned(), block.file_state()?));
            }
        }
        Ok(())
    }

    /// Refuses files that do not hold the guest that is to move: it was handed over and may run elsewhere, or
    /// what its process writes does not get into them.
    ///
    /// # Errors
    /// [`WriterError::HandedOver`] and [`WriterError::MappedPrivately`], and I/O errors.
    pub(crate) fn check_owner(&self, stats: &Stats) -> Result<()> {
        let paths = self.paths();
        mark::check_at_rest(&paths).inspect_err(|_| stats.set_owner(Some(Owner::Unknown)))?;
        for path in paths {
            for user in &writers_of(&[path]).map_err(search_failed)?.users {
                check_shared(user, path)?;
            }
        }
        Ok(())
    }

    /// The files that other processes can find by a name.
    fn paths(&self) -> Vec<&Path> {
        let paths = self.files.iter().map(|(path, _)| path.as_path());
        paths.filter(|path| path.exists()).collect()
    }

    /// Reading is about to begin. `note` is called with what the user should know.
    ///
    /// # Errors
    /// [`WriterError::Written`] if a process that runs can write one of the files, unless they are paused.
    pub(crate) fn begin(&self, note: impl FnOnce(String)) -> Result<()> {
        if let Some((user, is_stopped)) = self.check_writers()?.first() {
            let image = self.name_of(user);
            let is_private = |(path, _): &(PathBuf, _)| check_shared(user, path).is_err();
            note(match is_stopped {
                _ if self.files.iter().any(is_private) => format!(
                    "{image} is mapped privately by {user}: what it writes there is not in the file"
                ),
                true => format!(
                    "{user} can write {image} and is stopped: it must stay so until this is done"
                ),
                false => format!(
                    "{user} can write {image} and runs: its guest must stay paused until this is done"
                ),
            });
        }
        Ok(())
    }

    /// All has been read: `read` is the guest as it was read last, `sample` the sum of the hashes of its
    /// sampled pages as they were read.
    ///
    /// # Errors
    /// [`WriterError::Changed`] if something wrote meanwhile, and as [`Still::begin`].
    pub(crate) fn end(&self, read: &Ram, sample: Digest) -> Result<()> {
        self.check_writers()?;
        for block in read.blocks() {
            let path = block.path();
            let now = block.file_state()?;
            if (self.files.iter()).any(|(known, before)| known == path && *before != now) {
                return Err(changed(path));
            }
        }
        if read.sample()? == sample {
            return Ok(());
        }
        Err(changed(
            read.blocks()
                .first()
                .map_or(Path::new(""), |block| block.path()),
        ))
    }

    /// The processes that can write the images, and whether each is stopped. One that runs is refused,
    /// unless its guest is paused.
    fn check_writers(&self) -> Result<Vec<(User, bool)>> {
        let found = writers_of(&self.paths()).map_err(search_failed)?;
        let is_stopped = |user: &User| {
            let process = HeldProcess::open(user.pid);
            process.and_then(|process| process.running())
        };
        let mut accepted = Vec::new();
        for user in found.users {
            match is_stopped(&user) {
                Ok(None) => accepted.push((user, true)),
                Err(WriterError::Gone { .. } | WriterError::NoProcess { .. }) => {}
                _ if self.paused => accepted.push((user, false)),
                _ => {
                    let image = self.name_of(&user);
                    let can_be_live = self.can_be_live;
                    let written = WriterError::Written {
                        user,
                        image,
                        can_be_live,
                    };
                    return Err(written.into());
                }
            }
        }
        Ok(accepted)
    }

    /// Which of the images the process can write, in quotes.
    fn name_of(&self, user: &User) -> String {
        let can_write =
            |path: &Path| users::writers_of(&[path]).is_ok_and(|found| found.users.contains(user));
        let mut files = self.files.iter().map(|(path, _)| path);
        let one = files.find(|path| can_write(path));
        let path = one.or(self.files.first().map(|(path, _)| path));
        path.map_or_else(String::new, |path| format!("'{}'", path.display()))
    }
}

/// Refuses a file that this process maps privately.
pub(super) fn check_shared(user: &User, file: &Path) -> Result<(), WriterError> {
    if !users::maps_private(user.pid, file).map_err(search_failed)? {
        return Ok(());
    }
    Err(WriterError::MappedPrivately {
        user: user.clone(),
        image: format!("'{}'", file.display()),
    })
}

/// The digest of a guest that nothing writes meanwhile; `paused` as for [`Still::new`].
///
/// # Errors
/// As [`Guest::digest`], and an image that is written.
pub(crate) fn digest(guest: &Guest, paused: bool, note: impl FnOnce(String)) -> Result<Digest> {
    let mut still = Still::new(paused);
    still.add(guest.ram())?;
    still.begin(note)?;
    let (digest, sample) = guest.digest_and_sample()?;
    still.end(guest.ram(), sample)?;
    Ok(digest)
}

/// What the user should know of figures that are taken from a guest without these checks.
///
/// # Errors
/// I/O errors.
#[cfg(feature = "cli")]
pub(crate) fn note_of_writers(guest: &Guest) -> Result<Option<String>> {
    let mut still = Still::new(true);
    still.add(guest.ram())?;
    let writers = still.check_writers()?;
    let running = writers.into_iter().find(|(_, is_stopped)| !is_stopped);
    Ok(running.map(|(user, _)| {
        let image = still.name_of(&user);
        format!("{user} may write to {image} while it is read, so these figures may mix different moments")
    }))
}

fn changed(path: &Path) -> Error {
    WriterError::Changed {
        image: path.to_owned(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::page::PAGE_SIZE;

    /// What a reader finds if this happens to the image between its look and the end.
    fn outcome(happens: impl FnOnce(&File, &Path)) -> Result<()> {
        outcome_of(Still::default(), happens)
    }

    fn outcome_of(mut still: Still, happens: impl FnOnce(&File, &Path)) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.ram");
        std::fs::write(&path, vec![7; 256 * PAGE_SIZE]).unwrap();
        let guest = Guest::open(&path).unwrap();
        still.add(guest.ram()).unwrap();
        still.begin(|note| panic!("{note}")).unwrap();
        let (_, sample) = guest.digest_and_sample().unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        happens(&file, &path);
        still.end(guest.ram(), sample)
    }

    #[test]
    fn an_image_at_rest_may_be_read_renamed_and_linked() {
        outcome(|_, path| {
            std::fs::read(path).unwrap();
            std::fs::hard_link(path, path.with_extension("link")).unwrap();
            std::fs::rename(path, path.with_extension("renamed")).unwrap();
        })
        .unwrap();
    }

    #[test]
    fn a_write_shows_in_the_files_time() {
        for paused in [false, true] {
            let write = |file: &File, _: &Path| file.write_all_at(&[1], 0).unwrap();
            let error = outcome_of(Still::new(paused), write).unwrap_err();
            let found = error.cause::<WriterError>();
            assert!(
                matches!(found, Some(WriterError::Changed { .. })),
                "{error}"
            );
        }
    }

    /// As with stores to pages that are mapped and dirty already.
    #[test]
    fn writes_that_leave_the_files_time_alone_show_in_the_sample() {
        let error = outcome(|file, path| {
            let modified = std::fs::metadata(path).unwrap().modified().unwrap();
            for page in 0..256 {
                file.write_all_at(&[1], page * PAGE_SIZE as u64).unwrap();
            }
            let times = FileTimes::new().set_modified(modified);
            file.set_times(times).unwrap();
        })
        .unwrap_err();
        let found = error.cause::<WriterError>();
        assert!(
            matches!(found, Some(WriterError::Changed { .. })),
            "{error}"
        );
    }

    #[test]
    fn one_page_of_32_is_sampled_wherever_one_looks() {
        for start in [0, 1 << 20, 1 << 40, 12_345] {
            let pages = start..start + 3200;
            let sampled = pages.filter(|&page| crate::page::PageIndex(page).is_sampled());
            let count = sampled.count();
            assert!((95..=105).contains(&count), "{count} from {start}");
        }
    }
}
