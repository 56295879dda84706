//! An open guest folder. Its files are reached through its descriptor and by plain names, no link is
//! followed, and only what `guest.json` accounts for is ever removed: another process may replace
//! the folder, or anything in it, at any time.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::ImageError;
use super::{FolderError, GUEST_JSON, GUEST_JSON_NEW, GuestJson, MAX_GUEST_JSON, file_name};
use crate::partial::{Access, OutputError, PRIVATE};
use crate::sys::{same_file, try_lock};

/// An open folder.
#[derive(Debug)]
pub(crate) struct Directory {
    file: File,
    path: PathBuf,
}

impl Directory {
    /// Opens a folder. `follow`: `path` itself may be a link.
    pub(crate) fn open(path: &Path, follow: bool) -> Result<Directory, ImageError> {
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        let file =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| ImageError::Io {
                what: "open the folder",
                path: path.to_owned(),
                source: error.into(),
            })?;
        Ok(Directory {
            file: file.into(),
            path: path.to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn metadata(&self) -> Result<Metadata, ImageError> {
        self.file.metadata().map_err(self.failed("examine", ""))
    }

    /// Locks it against other processes that would write it.
    pub(crate) fn lock(&self) -> Result<(), ImageError> {
        if try_lock(&self.file) {
            Ok(())
        } else {
            Err(OutputError::Busy {
                path: self.path.clone(),
            }
            .into())
        }
    }

    /// Whether `path` names this folder.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        same_file(&self.file, path)
    }

    /// Opens a regular file in it for reading.
    pub(crate) fn open_file(&self, name: &str) -> Result<File, ImageError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = match rustix::fs::openat(&self.file, name, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(Errno::NOENT) => {
                return Err(self.wrong(FolderError::Missing {
                    file: name.to_owned(),
                }));
            }
            Err(Errno::LOOP | Errno::NXIO) => {
                return Err(self.not_a_file(name));
            }
            Err(error) => return Err(self.failed("open", name)(error.into())),
        };
        let metadata = file.metadata().map_err(self.failed("examine", name))?;
        if metadata.is_file() {
            Ok(file)
        } else {
            Err(self.not_a_file(name))
        }
    }

    /// Creates a file in it. The file must not exist.
    pub(crate) fn create_file(&self, name: &str) -> Result<File, ImageError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(PRIVATE);
        let create = || {
            let file = rustix::fs::openat(&self.file, name, flags, mode)?;
            // The umask may have removed even the owner's rights.
            rustix::fs::fchmod(&file, mode)?;
            Ok(file.into())
        };
        create().map_err(|error: Errno| self.failed("create", name)(error.into()))
    }

    /// Checks that `name` still is the file with this device and inode.
    pub(crate) fn check_file(&self, name: &str, identity: (u64, u64)) -> Result<(), ImageError> {
        match rustix::fs::statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(now) if (now.st_dev, now.st_ino) == identity => Ok(()),
            Ok(_) | Err(Errno::NOENT) => Err(self.wrong(FolderError::Replaced {
                file: name.to_owned(),
            })),
            Err(error) => Err(self.failed("examine", name)(error.into())),
        }
    }

    /// Reads `guest.json`.
    pub(crate) fn contents(&self) -> Result<GuestJson, ImageError> {
        let file = match self.open_file(GUEST_JSON) {
            Err(ImageError::Folder {
                source: FolderError::Missing { .. },
                ..
            }) => return Err(self.wrong(FolderError::NoDescription)),
            other => other?,
        };
        let mut text = Vec::new();
        file.take(MAX_GUEST_JSON as u64 + 1)
            .read_to_end(&mut text)
            .map_err(self.failed("read", GUEST_JSON))?;
        if text.len() > MAX_GUEST_JSON {
            return Err(self.wrong(FolderError::TooLong));
        }
        GuestJson::parse(&text).map_err(|error| self.wrong(error))
    }

    /// Writes `guest.json`, atomically: a reader finds the old one or the new one, complete.
    pub(crate) fn write_contents(&self, contents: &GuestJson) -> Result<(), ImageError> {
        use std::io::Write;
        let text = contents.to_json().map_err(|error| self.wrong(error))?;
        self.create_file(GUEST_JSON_NEW)?
            .write_all(&text)
            .map_err(self.failed("write", GUEST_JSON_NEW))?;
        rustix::fs::renameat(&self.file, GUEST_JSON_NEW, &self.file, GUEST_JSON)
            .map_err(|error| self.failed("write", GUEST_JSON)(error.into()))
    }

    /// Writes `guest.json` and the names of all files to disk.
    pub(crate) fn sync(&self) -> Result<(), ImageError> {
        let json = self.open_file(GUEST_JSON)?;
        json.sync_all().map_err(self.failed("sync", GUEST_JSON))?;
        self.file.sync_all().map_err(self.failed("sync", ""))
    }

    /// The names of all files in it, if it is a guest folder and they are all part of it. With
    /// `partial`, it may be one that was not received completely.
    pub(crate) fn accounted(&self, partial: bool) -> Result<Vec<String>, ImageError> {
        let mut expected = vec![GUEST_JSON_NEW.to_owned()];
        match self.contents() {
            Ok(contents) if contents.complete || partial => {
                expected.push(GUEST_JSON.to_owned());
                expected.extend(contents.files());
            }
            Ok(_) => return Err(self.wrong(FolderError::Partial)),
            // A process that was killed right after creating the folder left nothing else in it.
            Err(ImageError::Folder {
                source: FolderError::NoDescription,
                ..
            }) if partial => {}
            Err(error) => return Err(error),
        }
        if !partial {
            expected.remove(0);
        }
        let entries =
            Dir::read_from(&self.file).map_err(|error| self.failed("list", "")(error.into()))?;
        let expected: std::collections::HashSet<String> = expected.into_iter().collect();
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| self.failed("list", "")(error.into()))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let known = std::str::from_utf8(name)
                .ok()
                .filter(|name| expected.contains(*name));
            let Some(name) = known else {
                let name = std::ffi::OsStr::from_bytes(name).to_string_lossy();
                return Err(self.wrong(FolderError::Foreign {
                    file: name.into_owned(),
                }));
            };
            let stat = rustix::fs::statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| self.failed("examine", name)(error.into()))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(self.not_a_file(name));
            }
            found.push(name.to_owned());
        }
        Ok(found)
    }

    /// Gives the folder, and each file that the older folder at `old` has too, the owner and the mode
    /// that they have there; `access` is the older folder's.
    pub(crate) fn keep_access(
        &self,
        access: Access,
        old: &Path,
        files: &[String],
    ) -> io::Result<()> {
        for name in files {
            let old = old.join(name);
            let Some(access) = Access::of(&old) else {
                continue;
            };
            match rustix::fs::openat(
                &self.file,
                name.as_str(),
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
                Mode::empty(),
            ) {
                Ok(file) => access.give(&file.into())?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        access.give(&self.file)
    }

    /// Removes these files and then the folder itself, if `path` still names it. It stops at the
    /// first that cannot be removed. `guest.json` goes last: without it, the next attempt would not
    /// recognise what a kill left here, and never remove it.
    pub(crate) fn remove(&self, path: &Path, files: &[String]) -> io::Result<()> {
        if !self.is_at(path) {
            return Err(io::Error::other("another process has replaced it"));
        }
        let is_json = |name: &&String| *name == GUEST_JSON;
        let others = files.iter().filter(|name| !is_json(name));
        for name in others.chain(files.iter().filter(is_json)) {
            match rustix::fs::unlinkat(&self.file, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        std::fs::remove_dir(path)
    }

    /// The path of a block's file, for messages.
    pub(crate) fn path_of_block(&self, block: &str) -> PathBuf {
        self.path.join(file_name(block))
    }

    pub(crate) fn wrong(&self, source: FolderError) -> ImageError {
        ImageError::Folder {
            path: self.path.clone(),
            source,
        }
    }

    fn not_a_file(&self, name: &str) -> ImageError {
        self.wrong(FolderError::NotAFile {
            file: name.to_owned(),
        })
    }

    fn failed(
        &self,
        what: &'static str,
        name: &str,
    ) -> impl FnOnce(io::Error) -> ImageError + use<> {
        let path = self.path.join(name);
        move |source| ImageError::Io { what, path, source }
    }
}
