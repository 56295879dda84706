//! A guest being received: written as `OUTPUT.partial`, which becomes OUTPUT when everything is proven.
//!
//! If it is dropped without [`Output::commit`], the partial file or folder is removed, and an older
//! OUTPUT stays as it was.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::folder::{
    DEVICE_STATE, DeviceStateWriter, Directory, FolderError, GuestJson, PartialFolder,
    check_blocks, clear_folder, file_name,
};
use super::store::FlatFile;
use super::{Block, DeviceState, ImageError, Ram};
use crate::description::Description;
use crate::page::{Digest, PAGE_SIZE};
use crate::partial::{Commit, OutputError, PartialFile, create_private};
use crate::sync;

/// A guest being received: its RAM, and what is to become OUTPUT.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    ram: Arc<Ram>,
    /// The blocks' digests, once they have been computed.
    digests: Vec<Digest>,
    description: Description,
    device_state: Mutex<DeviceStateWriter>,
    /// Whether an existing OUTPUT may be replaced.
    replace: bool,
    /// Whether it must be on disk; see [`Output::sync`].
    sync: bool,
    partial: Partial,
}

/// What becomes OUTPUT.
#[derive(Debug)]
enum Partial {
    File(PartialFile),
    Folder(PartialFolder),
}

/// What exists at OUTPUT.
enum Existing {
    Nothing,
    File,
    GuestFolder,
}

impl Output {
    /// Checks that OUTPUT can be created, so that no source connects in vain.
    ///
    /// # Errors
    /// It exists and `force` is off, or it is neither a file nor a guest folder, so that nothing may
    /// replace it.
    pub fn check(path: &Path, force: bool) -> Result<(), ImageError> {
        examine(&tidy(path), force).map(drop)
    }

    /// OUTPUT becomes the raw image of a guest with one block: its name and its size in bytes.
    ///
    /// A partial file that a killed process left is replaced; one that is locked is not.
    ///
    /// # Errors
    /// A guest with several blocks, [`OutputError::Busy`], [`OutputError::Exists`], and I/O errors.
    pub fn image(path: &Path, blocks: &[(String, u64)], force: bool) -> Result<Output, ImageError> {
        let [(name, _)] = blocks else {
            return Err(ImageError::ManyBlocks {
                count: blocks.len(),
                names: names(blocks),
            });
        };
        Output::only(path, blocks, name, force)
    }

    /// OUTPUT becomes the raw image of the block `keep`. The others go into unnamed files, so that
    /// they can be proven too, and are gone when this is dropped.
    ///
    /// # Errors
    /// As [`Output::image`], and a `keep` that is not among the blocks.
    pub fn only(
        path: &Path,
        blocks: &[(String, u64)],
        keep: &str,
        force: bool,
    ) -> Result<Output, ImageError> {
        let path = &tidy(path);
        check_blocks(blocks).map_err(|error| unfit(path, error))?;
        if !blocks.iter().any(|(name, _)| name == keep) {
            return Err(ImageError::NoSuchBlock {
                name: keep.to_owned(),
                names: names(blocks),
            });
        }
        if let Existing::GuestFolder = examine(path, force)? {
            return Err(ImageError::FolderByFile {
                path: path.to_owned(),
            });
        }
        clear_folder(path)?;
        let partial = PartialFile::create(path)?;
        let ram = open_blocks(blocks, |name| {
            let file = if name == keep {
                partial.file()?
            } else {
                nameless_file(path)?
            };
            Ok((file, partial.path().to_owned()))
        })?;
        let device_state = DeviceStateWriter::new(None, partial.path().to_owned());
        Ok(Output::new(
            path,
            ram,
            device_state,
            force,
            Partial::File(partial),
        ))
    }

    /// OUTPUT becomes a guest folder with these blocks: their names and sizes in bytes.
    ///
    /// # Errors
    /// As [`Output::image`], and blocks that no guest folder can have.
    pub fn folder(
        path: &Path,
        blocks: &[(String, u64)],
        force: bool,
    ) -> Result<Output, ImageError> {
        let path = &tidy(path);
        check_blocks(blocks).map_err(|error| unfit(path, error))?;
        if let Existing::File = examine(path, force)? {
            return Err(ImageError::FileByFolder {
                path: path.to_owned(),
            });
        }
        let contents = GuestJson {
            complete: false,
            description: Description::default(),
            blocks: blocks.to_vec(),
            digests: vec![Digest::default(); blocks.len()],
            device_state: (0, 0),
        };
        let partial = PartialFolder::create(path, &contents)?;
        let folder = partial.folder();
        let ram = open_blocks(blocks, |name| {
            let file = folder.create_file(&file_name(name))?;
            Ok((file, folder.path_of_block(name)))
        })?;
        let device_state = DeviceStateWriter::new(
            Some(folder.create_file(DEVICE_STATE)?),
            folder.path().join(DEVICE_STATE),
        );
        Ok(Output::new(
            path,
            ram,
            device_state,
            force,
            Partial::Folder(partial),
        ))
    }

    fn new(
        path: &Path,
        ram: Ram,
        device_state: DeviceStateWriter,
        replace: bool,
        partial: Partial,
    ) -> Output {
        Output {
            path: path.to_owned(),
            ram: Arc::new(ram),
            digests: Vec::new(),
            description: Description::default(),
            device_state: Mutex::new(device_state),
            replace,
            sync: true,
            partial,
        }
    }

    /// The RAM, which may be shared with the threads of a migration.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// The blocks, in the order in which the source announced them.
    pub fn blocks(&self) -> &[Block] {
        self.ram.blocks()
    }

    /// The pages of all blocks together.
    pub fn pages(&self) -> u64 {
        self.ram.pages()
    }

    /// Reads back all blocks on rayon's threads. Returns the sum of their hashes, and the CPU time
    /// that this took.
    ///
    /// # Errors
    /// I/O errors, and [`ImageError::Truncated`].
    pub fn sum_hashes(&mut self) -> Result<(u128, Duration), ImageError> {
        let (digests, time) = self.ram.digests()?;
        let mut whole = Digest::default();
        digests.iter().for_each(|digest| whole.add(digest.0));
        self.digests = digests;
        Ok((whole.0, time))
    }

    /// Sets the digest of each block, in the blocks' order, when the caller has read back all of them
    /// already and [`Output::sum_hashes`] would do so again.
    pub fn set_digests(&mut self, digests: Vec<Digest>) {
        self.digests = digests;
    }

    /// Appends bytes to the device state. Without a guest folder they are only counted and hashed.
    ///
    /// # Errors
    /// More than [`MAX_DEVICE_STATE`](crate::description::MAX_DEVICE_STATE) bytes, and I/O errors.
    pub fn append_device_state(&self, bytes: &[u8]) -> Result<(), ImageError> {
        self.appended().append(bytes)
    }

    /// The number of bytes of device state so far, and their xxh3-128.
    pub fn device_state_sum(&self) -> (u64, u128) {
        self.appended().sum()
    }

    /// The device state so far, read back and checked against what was appended; `None` without a
    /// guest folder.
    ///
    /// # Errors
    /// The file does not hold what was appended, and I/O errors.
    pub fn device_state(&self) -> Result<Option<DeviceState>, ImageError> {
        self.appended().read_back()
    }

    fn appended(&self) -> std::sync::MutexGuard<'_, DeviceStateWriter> {
        sync::lock(&self.device_state)
    }

    /// Sets the guest folder's description, which [`Output::commit`] checks and writes.
    pub fn describe(&mut self, description: Description) {
        self.description = description;
    }

    /// Sets whether [`Output::sync`] writes to disk, and whether [`Output::commit`] returns only when
    /// the new name is on disk. The default is that both do.
    pub fn set_sync(&mut self, sync: bool) {
        self.sync = sync;
    }

    /// Writes all RAM and the device state to disk. [`Output::commit`] then writes their name.
    ///
    /// # Errors
    /// I/O errors, such as those of a disk that fails after it has accepted the data.
    pub fn sync(&self) -> Result<(), ImageError> {
        if !self.sync {
            return Ok(());
        }
        self.ram.blocks().iter().try_for_each(Block::sync)?;
        self.appended().sync()
    }

    /// Makes it OUTPUT. Call it once.
    ///
    /// # Errors
    /// I/O errors, a device state that the file does not hold as it was appended, a description
    /// that is out of bounds, an old folder that is no longer ours to replace. OUTPUT is then as it
    /// was.
    pub fn commit(&mut self) -> Result<(), ImageError> {
        if matches!(self.partial, Partial::Folder(_)) && self.digests.is_empty() {
            self.sum_hashes()?;
        }
        let sum = self
            .device_state()?
            .map_or((0, 0), |state| (state.bytes(), state.hash()));
        let how = Commit {
            replace: self.replace,
            sync: self.sync,
        };
        match &mut self.partial {
            Partial::File(partial) => Ok(partial.commit(&self.path, how)?),
            Partial::Folder(partial) => {
                let contents = GuestJson {
                    complete: true,
                    description: self.description.clone(),
                    blocks: self
                        .ram
                        .blocks()
                        .iter()
                        .map(|block| (block.name().to_owned(), block.bytes()))
                        .collect(),
                    digests: self.digests.clone(),
                    device_state: sum,
                };
                partial.commit(&self.path, how, &contents)
            }
        }
    }
}

fn names(blocks: &[(String, u64)]) -> String {
    let mut names: Vec<&str> = blocks.iter().map(|(name, _)| name.as_str()).collect();
    let more = names.len().saturating_sub(32);
    names.truncate(32);
    let mut text = names.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn unfit(path: &Path, source: FolderError) -> ImageError {
    ImageError::Folder {
        path: path.to_owned(),
        source,
    }
}

/// Opens each block's file by `open`, which also returns its path for messages.
fn open_blocks(
    blocks: &[(String, u64)],
    mut open: impl FnMut(&str) -> Result<(File, PathBuf), ImageError>,
) -> Result<Ram, ImageError> {
    let blocks = blocks.iter().map(|(name, bytes)| {
        let (file, path) = open(name)?;
        let store = FlatFile::new_raw(file, &path, bytes / PAGE_SIZE as u64)?;
        Ok(Block::new(name, Arc::new(store), None))
    });
    Ok(Ram::new(blocks.collect::<Result<_, ImageError>>()?))
}

/// The path without a trailing slash, with which OUTPUT.partial would lie inside OUTPUT.
fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}

/// What exists at OUTPUT, if it may be replaced.
fn examine(path: &Path, force: bool) -> Result<Existing, ImageError> {
    // `.`, `..` and `/` have no name to be exchanged under.
    if path.file_name().is_none() {
        return Err(ImageError::NotAFile {
            path: path.to_owned(),
        });
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let old = Directory::open(path, false)?;
            if !force && old.contents().is_ok() {
                return Err(OutputError::Exists {
                    path: path.to_owned(),
                }
                .into());
            }
            old.accounted(false)
                .map(|_| Existing::GuestFolder)
                .map_err(|error| match error {
                    ImageError::Folder {
                        source: FolderError::NoDescription,
                        ..
                    } => ImageError::NotAFile {
                        path: path.to_owned(),
                    },
                    other => other,
                })
        }
        Ok(_) if !force => Err(OutputError::Exists {
            path: path.to_owned(),
        }
        .into()),
        Ok(metadata) if !metadata.is_file() && !metadata.is_symlink() => {
            Err(ImageError::NotAFile {
                path: path.to_owned(),
            })
        }
        Ok(_) => Ok(Existing::File),
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::metadata(folder_of(path))
            .map(|_| Existing::Nothing)
            .map_err(|source| ImageError::Io {
                what: "use the folder of",
                path: path.to_owned(),
                source,
            }),
        Err(source) => Err(ImageError::Io {
            what: "examine",
            path: path.to_owned(),
            source,
        }),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// An unnamed file on OUTPUT's file system.
fn nameless_file(output: &Path) -> Result<File, ImageError> {
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
fn named_and_unlinked(folder: &Path) -> io::Result<File> {
    let mut number = [0; 8];
    rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
    let path = folder.join(format!(".ramferry-{:016x}", u64::from_ne_bytes(number)));
    let file = create_private(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
