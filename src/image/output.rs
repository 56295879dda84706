//! A guest being received: written as `OUTPUT.partial`, which becomes OUTPUT when everything is proven.
//!
//! If it is dropped without [`Output::commit`], the partial file or folder is removed, and an older
//! OUTPUT stays as it was.
//!
//! A block device is written in place, from [`Output::begin`] on: it has no other to exchange it with.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::folder::{
    DEVICE_STATE, DeviceStateWriter, FolderError, GuestJson, PartialFolder, check_blocks,
    clear_folder, file_name,
};
use super::store::FlatFile;
use super::{Block, DeviceState, ImageError, Ram};
use crate::description::Description;
use crate::page::{Digest, PAGE_SIZE};
use crate::partial::{Commit, PartialFile, UnsyncedName, loses_access};
use crate::sync;
use crate::units::format_bytes;
use place::{Existing, check_place, examine, nameless_file, open_device, tidy};

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
    /// OUTPUT itself, and the bytes that it has.
    Device {
        kept: String,
        bytes: u64,
    },
}

impl Output {
    /// Checks that OUTPUT can be created, so that no source connects in vain: a partial file is made
    /// and removed.
    ///
    /// # Errors
    /// It exists and `force` is off, it is neither a file, a guest folder nor a block device, or the
    /// system does not let it be written or replaced.
    pub fn check(path: &Path, force: bool) -> Result<(), ImageError> {
        let path = &tidy(path);
        let existing = examine(path, force)?;
        check_place(path, existing)
    }

    /// OUTPUT becomes the raw image of a guest with one block: its name and its size in bytes.
    ///
    /// A partial file that a killed process left is replaced; one that is locked is not.
    ///
    /// # Errors
    /// A guest with several blocks, an output that exists or that another receiver writes, and I/O
    /// errors.
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
    /// they can be proven too, and are gone when this is dropped. A block device must be at least as
    /// large as the block, and is in use by nothing else from now on.
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
        match examine(path, force)? {
            Existing::GuestFolder => {
                return Err(ImageError::FolderByFile {
                    path: path.to_owned(),
                });
            }
            Existing::Device => return Output::on_device(path, blocks, keep),
            Existing::Nothing | Existing::File => {}
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

    /// OUTPUT is a block device, to which the block `keep` is written in place.
    fn on_device(path: &Path, blocks: &[(String, u64)], keep: &str) -> Result<Output, ImageError> {
        let (device, bytes) = open_device(path)?;
        let kept = blocks.iter().find(|(name, _)| name == keep);
        let needed = kept.map_or(0, |(_, bytes)| *bytes);
        if bytes < needed {
            return Err(ImageError::SmallDevice {
                path: path.to_owned(),
                bytes,
                needed,
            });
        }
        let mut stores = Vec::new();
        for (name, bytes) in blocks {
            let pages = bytes / PAGE_SIZE as u64;
            let store = if name == keep {
                let device = device.try_clone().map_err(ImageError::io("open", path))?;
                FlatFile::front_of(device, path, pages)
            } else {
                // Beside the device there are only devices.
                let file = nameless_file(&std::env::temp_dir().join("block"))?;
                FlatFile::new_raw(file, path, pages)?
            };
            stores.push(Block::new(name, Arc::new(store), None));
        }
        let device_state = DeviceStateWriter::new(None, path.to_owned());
        let partial = Partial::Device {
            kept: keep.to_owned(),
            bytes,
        };
        Ok(Output::new(
            path,
            Ram::new(stores),
            device_state,
            true,
            partial,
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
        match examine(path, force)? {
            Existing::File => {
                return Err(ImageError::FileByFolder {
                    path: path.to_owned(),
                });
            }
            Existing::Device => {
                return Err(ImageError::DeviceByFolder {
                    path: path.to_owned(),
                });
            }
            Existing::Nothing | Existing::GuestFolder => {}
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

    /// Makes all RAM zero, which it must be before the first page is placed. Only a block device is
    /// not so yet: its old content is lost from here on. `go_on` is asked now and then.
    ///
    /// # Errors
    /// I/O errors, and those of `go_on`.
    pub(crate) fn begin<E: From<ImageError>>(
        &self,
        go_on: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        /// 64 MiB, which a slow disk takes a second for.
        const STEP: u64 = 1 << 14;
        let Partial::Device { kept, .. } = &self.partial else {
            return Ok(());
        };
        for block in self.blocks().iter().filter(|block| block.name() == kept) {
            for step in block.range().steps(STEP) {
                go_on()?;
                block.clear(step)?;
            }
        }
        Ok(())
    }

    /// The block device that is written in place, so that a failure leaves part of the old content
    /// and part of the new.
    pub(crate) fn device(&self) -> Option<&Path> {
        matches!(self.partial, Partial::Device { .. }).then_some(&self.path)
    }

    /// What a user should know of it before pages arrive.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let path = self.path.display();
        if self.replace && self.device().is_none() && loses_access(&self.path) {
            notes.push(format!(
                "'{path}' belongs to another user, in a folder where others may create files: the new one \
                 will be accessible to this user only"
            ));
        }
        if let Partial::Device { kept, bytes } = &self.partial {
            let block = self.blocks().iter().find(|block| block.name() == kept);
            let guest = block.map_or(0, Block::bytes);
            if guest < *bytes {
                notes.push(format!(
                    "'{path}' is {} larger than the guest; the rest is left as it is and is not part of the \
                     digest",
                    format_bytes(bytes - guest)
                ));
            }
        } else if let Some(free) = place::free_bytes(&self.path)
            && free < self.ram.bytes()
        {
            notes.push(format!(
                "'{path}' may take {}, and its file system has {} free; zero pages take none",
                format_bytes(self.ram.bytes()),
                format_bytes(free)
            ));
        }
        notes
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
        self.sync_ram()?;
        self.appended().sync()
    }

    /// Whether it must be on disk.
    pub(crate) fn is_synced(&self) -> bool {
        self.sync
    }

    /// Writes what RAM was placed so far to disk, while more is placed.
    pub(crate) fn sync_ram(&self) -> Result<(), ImageError> {
        self.ram.blocks().iter().try_for_each(Block::sync)
    }

    /// Checks that a folder still has the files that were proven, by the names that it will have them by.
    fn check_files(&self) -> Result<(), ImageError> {
        let Partial::Folder(partial) = &self.partial else {
            return Ok(());
        };
        for block in self.blocks() {
            let identity = block.file_state()?.identity;
            let name = file_name(block.name());
            partial.folder().check_file(&name, identity)?;
        }
        match self.appended().identity()? {
            Some(identity) => partial.folder().check_file(DEVICE_STATE, identity),
            None => Ok(()),
        }
    }

    /// Makes it OUTPUT. Call it once. Returns what there is to say of it, though it worked.
    ///
    /// # Errors
    /// I/O errors, a device state that the file does not hold as it was appended, a description
    /// that is out of bounds, an old folder that is no longer ours to replace. OUTPUT is then as it
    /// was.
    pub fn commit(&mut self) -> Result<Option<UnsyncedName>, ImageError> {
        if matches!(self.partial, Partial::Folder(_)) && self.digests.is_empty() {
            self.sum_hashes()?;
        }
        let sum = self
            .device_state()?
            .map_or((0, 0), |state| (state.bytes(), state.hash()));
        self.check_files()?;
        let how = Commit {
            replace: self.replace,
            sync: self.sync,
        };
        match &mut self.partial {
            // It has its name already.
            Partial::Device { .. } => Ok(None),
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

mod place;
#[cfg(test)]
mod tests;
