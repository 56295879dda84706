//! The device state: opaque bytes, read in pieces and never trusted.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use xxhash_rust::xxh3::Xxh3;

use super::super::ImageError;
use super::{DEVICE_STATE, FolderError};
use crate::description::MAX_DEVICE_STATE;

/// Bytes per read.
const PIECE: usize = 256 << 10;

/// A guest's device state, for reading.
#[derive(Debug)]
pub struct DeviceState {
    file: File,
    /// For messages.
    name: String,
    folder: PathBuf,
    bytes: u64,
    hash: u128,
}

impl DeviceState {
    /// The file `name` in `folder`, checked to have this many bytes with this hash.
    pub(crate) fn new(
        file: File,
        (folder, name): (PathBuf, String),
        (bytes, hash): (u64, u128),
    ) -> Result<DeviceState, ImageError> {
        let state = DeviceState {
            file,
            name,
            folder,
            bytes,
            hash,
        };
        let size = state
            .file
            .metadata()
            .map_err(|error| state.unreadable(error))?
            .len();
        if size != bytes {
            return Err(state.wrong(FolderError::Size {
                file: state.name.clone(),
                size,
                expected: bytes,
            }));
        }
        state.for_each(|_| Ok::<(), ImageError>(()))?;
        Ok(state)
    }

    /// The size in bytes, at most [`MAX_DEVICE_STATE`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The xxh3-128 of all bytes.
    pub fn hash(&self) -> u128 {
        self.hash
    }

    /// Calls `piece` with one piece after another, each at most 256 KiB.
    ///
    /// # Errors
    /// Those of `piece`, I/O errors, and at the end, if the file has changed, that it has.
    pub fn for_each<E: From<ImageError>>(
        &self,
        mut piece: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0; PIECE.min(self.bytes as usize)];
        let mut hasher = Xxh3::new();
        let mut at = 0;
        while at < self.bytes {
            let len = (self.bytes - at).min(PIECE as u64) as usize;
            let bytes = &mut buffer[..len];
            self.file
                .read_exact_at(bytes, at)
                .map_err(|error| self.unreadable(error))?;
            hasher.update(bytes);
            piece(bytes)?;
            at += len as u64;
        }
        let found = hasher.digest128();
        if found == self.hash {
            Ok(())
        } else {
            let (file, expected) = (self.name.clone(), self.hash);
            Err(self
                .wrong(FolderError::Damaged {
                    file,
                    found,
                    expected,
                })
                .into())
        }
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// I/O errors, and that the file has changed.
    pub fn read(&self) -> Result<Vec<u8>, ImageError> {
        let mut all = Vec::with_capacity(self.bytes as usize);
        self.for_each(|piece| {
            all.extend_from_slice(piece);
            Ok::<(), ImageError>(())
        })?;
        Ok(all)
    }

    /// The first `len` bytes, or fewer if there are not that many. They are verified only with
    /// the others, by [`DeviceState::read`] or [`DeviceState::for_each`].
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn read_first(&self, len: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = vec![0; len.min(self.bytes) as usize];
        self.file
            .read_exact_at(&mut bytes, 0)
            .map_err(|error| self.unreadable(error))?;
        Ok(bytes)
    }

    fn wrong(&self, source: FolderError) -> ImageError {
        ImageError::Folder {
            path: self.folder.clone(),
            source,
        }
    }

    fn unreadable(&self, source: io::Error) -> ImageError {
        ImageError::Io {
            what: "read",
            path: self.folder.join(&self.name),
            source,
        }
    }
}

/// Device state that is being received: written to a file, or only counted and hashed.
pub(crate) struct DeviceStateWriter {
    file: Option<File>,
    path: PathBuf,
    bytes: u64,
    hasher: Box<Xxh3>,
}

impl fmt::Debug for DeviceStateWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceStateWriter")
            .field("path", &self.path)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl DeviceStateWriter {
    pub(crate) fn new(file: Option<File>, path: PathBuf) -> DeviceStateWriter {
        DeviceStateWriter {
            file,
            path,
            bytes: 0,
            hasher: Box::new(Xxh3::new()),
        }
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let total = self.bytes.saturating_add(bytes.len() as u64);
        if total > MAX_DEVICE_STATE {
            return Err(ImageError::DeviceStateTooLong {
                allowed: MAX_DEVICE_STATE,
            });
        }
        if let Some(file) = &self.file {
            file.write_all_at(bytes, self.bytes)
                .map_err(self.failed("write"))?;
        }
        self.hasher.update(bytes);
        self.bytes = total;
        Ok(())
    }

    /// The number of bytes so far, and their hash.
    pub(crate) fn sum(&self) -> (u64, u128) {
        (self.bytes, self.hasher.digest128())
    }

    /// Writes what was appended to disk.
    pub(crate) fn sync(&self) -> Result<(), ImageError> {
        match &self.file {
            Some(file) => file.sync_data().map_err(self.failed("sync")),
            None => Ok(()),
        }
    }

    /// The device and the inode of its file.
    pub(crate) fn identity(&self) -> Result<Option<(u64, u64)>, ImageError> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let metadata = file.metadata().map_err(self.failed("examine"))?;
        Ok(Some((metadata.dev(), metadata.ino())))
    }

    /// What the file really holds, checked against what was appended; `None` if there is no file.
    pub(crate) fn read_back(&self) -> Result<Option<DeviceState>, ImageError> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let file = file.try_clone().map_err(self.failed("read back"))?;
        let folder = self.path.parent().unwrap_or(&self.path).to_owned();
        let name = DEVICE_STATE.to_owned();
        DeviceState::new(file, (folder, name), self.sum()).map(Some)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> ImageError + use<> {
        let path = self.path.clone();
        move |source| ImageError::Io { what, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_device_state_than_is_allowed_is_refused() {
        let mut appended = DeviceStateWriter::new(None, "state".into());
        appended.bytes = MAX_DEVICE_STATE - 2;
        appended.append(b"ab").unwrap();
        assert!(matches!(
            appended.append(b"c"),
            Err(ImageError::DeviceStateTooLong { .. })
        ));
        assert_eq!(appended.sum().0, MAX_DEVICE_STATE);
    }

    #[test]
    fn device_state_that_another_process_changed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device-state");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let mut appended = DeviceStateWriter::new(Some(file), path.clone());
        appended.append(b"abc").unwrap();
        let state = appended.read_back().unwrap().unwrap();
        assert_eq!(state.read().unwrap(), b"abc");
        std::fs::write(&path, b"abd").unwrap();
        assert!(appended.read_back().is_err());
        assert!(state.read().is_err());
    }
}
