//! What is at OUTPUT, and whether a guest can be written there: everything that can be known before a
//! source connects.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::image::ImageError;
use crate::image::folder::{Directory, FolderError, check_exchange, clear_folder};
use crate::partial::{
    OutputError, PartialFile, check_file_system, check_replaceable, create_private, folder_of,
};
use crate::special;

/// What exists at OUTPUT, and may be replaced or overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Nothing,
    File,
    GuestFolder,
    Device,
}

/// The path without a trailing slash, with which OUTPUT.partial would lie inside OUTPUT.
pub(super) fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}

/// What exists at OUTPUT, if it may be replaced.
pub(super) fn examine(path: &Path, force: bool) -> Result<Existing, ImageError> {
    let not_an_output = |sort| ImageError::NotAnOutput {
        path: path.to_owned(),
        sort,
    };
    // `.`, `..` and `/` have no name to be exchanged under.
    if path.file_name().is_none() {
        return Err(not_an_output("a folder"));
    }
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return examine_folder(path, force),
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match std::fs::metadata(folder_of(path)) {
                Ok(_) => Ok(Existing::Nothing),
                Err(source) => Err(ImageError::io("use the folder of", path)(source)),
            };
        }
        Err(source) => return Err(ImageError::io("examine", path)(source)),
    };
    // A link is replaced, what it leads to stays. But the names of devices are links, too.
    let target = match found.is_symlink() {
        true => std::fs::metadata(path).ok(),
        false => Some(found),
    };
    match target {
        Some(target) if special::is_device(&target) => match force {
            true => Ok(Existing::Device),
            false => Err(ImageError::Overwrite {
                path: path.to_owned(),
            }),
        },
        Some(target) if !target.is_file() => Err(not_an_output(special::sort(target.file_type()))),
        _ if !force => Err(exists(path).into()),
        _ => Ok(Existing::File),
    }
}

fn examine_folder(path: &Path, force: bool) -> Result<Existing, ImageError> {
    let old = Directory::open(path, false)?;
    if !force && old.contents().is_ok() {
        return Err(exists(path).into());
    }
    match old.accounted(false) {
        Ok(_) => Ok(Existing::GuestFolder),
        Err(ImageError::Folder {
            source: FolderError::NoDescription,
            ..
        }) => Err(ImageError::NotAnOutput {
            path: path.to_owned(),
            sort: "a folder",
        }),
        Err(other) => Err(other),
    }
}

fn exists(path: &Path) -> OutputError {
    OutputError::Exists {
        path: path.to_owned(),
    }
}

/// Checks that OUTPUT can be written where it is, and replace what exists there.
pub(super) fn check_place(path: &Path, existing: Existing) -> Result<(), ImageError> {
    if existing == Existing::Device {
        return open_device(path).map(drop);
    }
    check_file_system(path)?;
    clear_folder(path)?;
    let partial = PartialFile::create(path)?;
    partial.try_write()?;
    match existing {
        Existing::File => check_replaceable(path)?,
        Existing::GuestFolder => {
            check_replaceable(path)?;
            check_exchange(path)?;
        }
        Existing::Nothing | Existing::Device => {}
    }
    Ok(())
}

/// Opens a block device that is in use by nothing else; also returns its size in bytes.
pub(super) fn open_device(path: &Path) -> Result<(File, u64), ImageError> {
    let device = special::open_device(path).map_err(|source| match source.kind() {
        io::ErrorKind::ResourceBusy => ImageError::DeviceInUse {
            path: path.to_owned(),
        },
        _ => ImageError::io("open for writing", path)(source),
    })?;
    let bytes = special::size(&device).map_err(ImageError::io("examine", path))?;
    Ok((device, bytes))
}

/// Bytes free for this user on OUTPUT's file system, if it reports them.
pub(super) fn free_bytes(output: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(folder_of(output)).ok()?;
    (about.f_blocks > 0).then(|| about.f_bavail.saturating_mul(about.f_frsize))
}

/// An unnamed file on OUTPUT's file system.
pub(super) fn nameless_file(output: &Path) -> Result<File, ImageError> {
    let folder = folder_of(output);
    let failed = |source| ImageError::Io {
        what: "create a temporary file beside",
        path: output.to_owned(),
        source,
    };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => return Ok(file.into()),
        // A file system or a kernel without O_TMPFILE.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
        }
        Err(error) => return Err(failed(error.into())),
    }
    named_and_unlinked(folder).map_err(failed)
}

/// For file systems without O_TMPFILE.
pub(super) fn named_and_unlinked(folder: &Path) -> io::Result<File> {
    let path = folder.join(crate::partial::random_name()?);
    let file = create_private(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
