//! The destination's image: `OUTPUT.partial`, which becomes OUTPUT when everything is proven.
//!
//! Never mapped: placing runs of pages by `pwrite` costs a third of what faults on a fresh map
//! cost, and a full disk is an error value instead of a signal. Dropped without
//! [`Output::commit`], the partial file is removed and an older OUTPUT stays as it was.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FallocateFlags, FlockOperation, RenameFlags};

use super::{ImageError, RawImage};
use crate::page::{BlockSeed, PAGE_SIZE, PageIndex, PageRange};

/// An image that is being received.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    pages: u64,
    /// Writers of one file exclude each other in the kernel, which makes them spin; here they sleep
    /// and leave the core to somebody with work.
    writing: Mutex<()>,
    /// Taking a map down takes as long as half of the proof, so it is kept until nobody waits.
    read_back: Option<RawImage>,
    /// Whether an OUTPUT that is there may be replaced.
    replace: bool,
    committed: bool,
}

impl Output {
    /// Whether OUTPUT may be made at all: to be asked before a peer is kept waiting.
    ///
    /// # Errors
    /// It exists and `force` is off, or it is something that a file cannot replace.
    pub fn check(path: &Path, force: bool) -> Result<(), ImageError> {
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => Err(ImageError::NotAFile {
                path: path.to_owned(),
            }),
            Ok(_) if !force => Err(ImageError::OutputExists {
                path: path.to_owned(),
            }),
            Ok(metadata) if !metadata.is_file() && !metadata.is_symlink() => {
                Err(ImageError::NotAFile {
                    path: path.to_owned(),
                })
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = match path.parent() {
                    Some(folder) if !folder.as_os_str().is_empty() => folder,
                    _ => Path::new("."),
                };
                std::fs::metadata(folder)
                    .map(drop)
                    .map_err(|source| ImageError::Io {
                        what: "use the folder of",
                        path: path.to_owned(),
                        source,
                    })
            }
            Err(source) => Err(ImageError::Io {
                what: "examine",
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Makes the partial file, `pages` long, all holes.
    ///
    /// A partial file that a killed process left behind is replaced; one that is locked is not.
    ///
    /// # Errors
    /// [`ImageError::OutputBusy`], [`ImageError::OutputExists`], or the system's reason.
    pub fn create(path: &Path, pages: u64, force: bool) -> Result<Output, ImageError> {
        Output::check(path, force)?;
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let failed = |what| {
            let path = partial.clone();
            move |source| ImageError::Io { what, path, source }
        };
        let create = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&partial)
        };
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let left_behind = OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                    .open(&partial)
                    .map_err(failed("open"))?;
                lock(&left_behind, &partial)?;
                std::fs::remove_file(&partial).map_err(failed("remove"))?;
                create().map_err(failed("create"))?
            }
            other => other.map_err(failed("create"))?,
        };
        // From here on the file is ours to remove.
        let output = Output {
            path: path.to_owned(),
            partial: partial.clone(),
            file,
            pages,
            writing: Mutex::new(()),
            read_back: None,
            replace: force,
            committed: false,
        };
        lock(&output.file, &partial)?;
        // Between the two, another process may have taken ours for one that was left behind.
        if !output.is_ours() {
            return Err(ImageError::OutputBusy { path: partial });
        }
        let bytes = pages.saturating_mul(PAGE_SIZE as u64);
        output
            .file
            .set_len(bytes)
            .map_err(failed("set the size of"))?;
        Ok(output)
    }

    /// Puts neighbouring pages in their place.
    ///
    /// # Errors
    /// The system's reason, a full disk among them.
    pub fn place(&self, first: PageIndex, bytes: &[u8]) -> Result<(), ImageError> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.file
            .write_all_at(bytes, first.offset())
            .map_err(self.failed("write"))
    }

    /// Makes the pages zero, by giving their space back where the file system can.
    ///
    /// # Errors
    /// The system's reason.
    pub fn clear(&self, range: PageRange) -> Result<(), ImageError> {
        static ZEROES: [u8; 16 * PAGE_SIZE] = [0; 16 * PAGE_SIZE];
        let bytes = range.bytes();
        let punched = rustix::fs::fallocate(
            &self.file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            bytes.start,
            bytes.end - bytes.start,
        );
        match punched {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let mut at = bytes.start;
                while at < bytes.end {
                    let len = (bytes.end - at).min(ZEROES.len() as u64);
                    self.file
                        .write_all_at(&ZEROES[..len as usize], at)
                        .map_err(self.failed("write"))?;
                    at += len;
                }
                Ok(())
            }
            Err(error) => Err(self.failed("punch a hole into")(error.into())),
        }
    }

    /// Reads neighbouring pages back.
    ///
    /// # Errors
    /// The system's reason; the file having become shorter is one.
    pub fn read(&self, first: PageIndex, out: &mut [u8]) -> Result<(), ImageError> {
        self.file
            .read_exact_at(out, first.offset())
            .map_err(self.failed("read back"))
    }

    /// The sum of the hashes of what the file really holds, read back on rayon's threads, and the
    /// CPU time that it took.
    ///
    /// # Errors
    /// The system's reason; the file having become shorter is one.
    pub fn sum_hashes(&mut self, seed: BlockSeed) -> Result<(u128, Duration), ImageError> {
        let file = self.file.try_clone().map_err(self.failed("read back"))?;
        let map = RawImage::of(file, &self.partial)?;
        self.read_back.insert(map).sum_hashes(seed)
    }

    /// Its size in pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Renames the partial file onto OUTPUT.
    ///
    /// # Errors
    /// The system's reason; the partial file is then removed.
    pub fn commit(&mut self) -> Result<(), ImageError> {
        self.rename().map_err(|source| ImageError::Io {
            what: "rename the partial file onto",
            path: self.path.clone(),
            source,
        })?;
        self.committed = true;
        Ok(())
    }

    /// Whether the partial file's name still stands for the file that is open here.
    fn is_ours(&self) -> bool {
        same_file(&self.file, &self.partial)
    }

    fn rename(&self) -> io::Result<()> {
        if !self.is_ours() {
            return Err(io::Error::other("another process has replaced it"));
        }
        if !self.replace {
            // An OUTPUT that somebody else made in the meantime is not ours to replace.
            let here = rustix::fs::CWD;
            match rustix::fs::renameat_with(
                here,
                &self.partial,
                here,
                &self.path,
                RenameFlags::NOREPLACE,
            ) {
                // A file system without the flag.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
                other => return Ok(other?),
            }
        }
        std::fs::rename(&self.partial, &self.path)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> ImageError + use<> {
        let path = self.partial.clone();
        move |source| ImageError::Io { what, path, source }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.committed && self.is_ours() {
            // Nothing can be done about a failure here, and the next attempt replaces the file.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// Whether `path` names the file that is open as `file`.
pub(crate) fn same_file(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(file), Ok(path)) => identity(file) == identity(path),
        _ => false,
    }
}

fn lock(file: &File, path: &Path) -> Result<(), ImageError> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        ImageError::OutputBusy {
            path: path.to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_is_not_committed_leaves_nothing_and_the_old_one_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        std::fs::write(&path, b"old").unwrap();
        assert!(matches!(
            Output::create(&path, 4, false),
            Err(ImageError::OutputExists { .. })
        ));
        let output = Output::create(&path, 4, true).unwrap();
        output.place(PageIndex(1), &[7; PAGE_SIZE]).unwrap();
        drop(output);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_partial_file_in_use_is_left_alone_and_one_left_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut first = Output::create(&path, 4, false).unwrap();
        assert!(matches!(
            Output::create(&path, 4, false),
            Err(ImageError::OutputBusy { .. })
        ));
        first.commit().unwrap();
        drop(first);
        std::fs::write(folder.path().join("out.partial"), b"left behind").unwrap();
        Output::create(&path, 4, true).unwrap().commit().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4 * 4096);
    }

    #[test]
    fn cleared_pages_read_as_zeroes() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::create(&folder.path().join("out"), 40, false).unwrap();
        output.place(PageIndex(0), &[9; 40 * PAGE_SIZE]).unwrap();
        output.clear(PageRange::between(1, 39)).unwrap();
        let mut back = vec![1; 40 * PAGE_SIZE];
        output.read(PageIndex(0), &mut back).unwrap();
        assert!(
            back[PAGE_SIZE..39 * PAGE_SIZE]
                .iter()
                .all(|&byte| byte == 0)
        );
        assert!(back[39 * PAGE_SIZE..].iter().all(|&byte| byte == 9));
    }
}
