//! What is being received: `OUTPUT.partial`, which becomes OUTPUT when everything is proven.
//!
//! Dropped without [`Output::commit`], the partial file or folder is removed and an older OUTPUT
//! stays as it was.

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
use crate::partial::{OutputError, PartialFile, create_private};
use crate::sync;

/// A guest that is being received: its blocks, and what becomes of them.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    ram: Arc<Ram>,
    /// Of each block alone, once they have been computed.
    digests: Vec<Digest>,
    description: Description,
    device_state: Mutex<DeviceStateWriter>,
    /// Whether an OUTPUT that is there may be replaced.
    replace: bool,
    target: Partial,
}

/// What OUTPUT becomes.
#[derive(Debug)]
enum Partial {
    File(PartialFile),
    Folder(PartialFolder),
}

/// What is at OUTPUT now.
enum Existing {
    Nothing,
    File,
    GuestFolder,
}

impl Output {
    /// Whether OUTPUT may be made at all: to be asked before a peer is kept waiting.
    ///
    /// # Errors
    /// It exists and `force` is off, or it is something that neither a file nor a guest folder can
    /// replace.
    pub fn check(path: &Path, force: bool) -> Result<(), ImageError> {
        examine(&tidy(path), force).map(drop)
    }

    /// OUTPUT becomes the raw image of a guest with this one block: its name and its size in bytes.
    ///
    /// A partial file that a killed process left behind is replaced; one that is locked is not.
    ///
    /// # Errors
    /// A guest with several blocks, [`OutputError::Busy`], [`OutputError::Exists`], or
    /// the system's reason.
    pub fn image(path: &Path, blocks: &[(String, u64)], force: bool) -> Result<Output, ImageError> {
        let [(name, _)] = blocks else {
            return Err(ImageError::ManyBlocks {
                count: blocks.len(),
                names: names(blocks),
            });
        };
        Output::only(path, blocks, name, force)
    }

    /// OUTPUT becomes the raw image of the block `keep`. The others are received into files without
    /// a name, so that they can be proven too, and are gone when this is dropped.
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
    /// As [`Output::image`], and blocks that a guest cannot have.
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
        target: Partial,
    ) -> Output {
        Output {
            path: path.to_owned(),
            ram: Arc::new(ram),
            digests: Vec::new(),
            description: Description::default(),
            device_state: Mutex::new(device_state),
            replace,
            target,
        }
    }

    /// The RAM that is being received.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// The blocks, in the order in which they were announced.
    pub fn blocks(&self) -> &[Block] {
        self.ram.blocks()
    }

    /// The pages of all blocks together.
    pub fn pages(&self) -> u64 {
        self.ram.pages()
    }

    /// The sum of the hashes of what the blocks really hold, read back on rayon's threads, and the
    /// CPU time that it took.
    ///
    /// # Errors
    /// The system's reason; a file having become shorter is one.
    pub fn sum_hashes(&mut self) -> Result<(u128, Duration), ImageError> {
        let (digests, time) = self.ram.digests()?;
        let mut whole = Digest::default();
        digests.iter().for_each(|digest| whole.add(digest.0));
        self.digests = digests;
        Ok((whole.0, time))
    }

    /// Notes each block's digest, in the blocks' order, instead of having [`Output::sum_hashes`]
    /// find it: for whoever has read back all of it already.
    pub fn set_digests(&mut self, digests: Vec<Digest>) {
        self.digests = digests;
    }

    /// Takes in the next bytes of the device state. Only a guest folder keeps them; otherwise they
    /// are counted and hashed.
    ///
    /// # Errors
    /// More than [`MAX_DEVICE_STATE`](crate::description::MAX_DEVICE_STATE) bytes, or the system's reason.
    pub fn append_device_state(&self, bytes: &[u8]) -> Result<(), ImageError> {
        self.appended().append(bytes)
    }

    /// How many bytes of device state there are so far, and their xxh3-128.
    pub fn device_state_sum(&self) -> (u64, u128) {
        self.appended().sum()
    }

    /// The device state so far, read back and compared with what was appended; `None` if OUTPUT
    /// does not become a guest folder.
    ///
    /// # Errors
    /// The file does not hold what was appended, or the system's reason.
    pub fn device_state(&self) -> Result<Option<DeviceState>, ImageError> {
        self.appended().read_back()
    }

    fn appended(&self) -> std::sync::MutexGuard<'_, DeviceStateWriter> {
        sync::lock(&self.device_state)
    }

    /// What is to stand in the guest folder besides RAM and device state. To be said before
    /// [`Output::commit`], which checks it.
    pub fn describe(&mut self, description: Description) {
        self.description = description;
    }

    /// Makes it OUTPUT. To be called once.
    ///
    /// # Errors
    /// The system's reason, a device state that was not kept as it came, a description that is out
    /// of bounds, an old folder that is no longer ours to replace. OUTPUT is then as it was.
    pub fn commit(&mut self) -> Result<(), ImageError> {
        if matches!(self.target, Partial::Folder(_)) && self.digests.is_empty() {
            self.sum_hashes()?;
        }
        let sum = self
            .device_state()?
            .map_or((0, 0), |state| (state.bytes(), state.hash()));
        match &mut self.target {
            Partial::File(partial) => Ok(partial.commit(&self.path, self.replace)?),
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
                partial.commit(&self.path, self.replace, &contents)
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

/// Opens a file for each block.
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

/// The path without a slash at its end, which would put what is built beside OUTPUT into it.
fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}

/// What is at OUTPUT, if it may be replaced.
fn examine(path: &Path, force: bool) -> Result<Existing, ImageError> {
    // A folder that has no name to be exchanged under: `.`, `..`, `/`.
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

/// A file beside OUTPUT that has no name.
fn nameless_file(output: &Path) -> Result<File, ImageError> {
    let folder = folder_of(output);
    let failed = |source| ImageError::Io {
        what: "make a temporary file beside",
        path: output.to_owned(),
        source,
    };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => return Ok(file.into()),
        // A file system, or a kernel, without the flag.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
        }
        Err(error) => return Err(failed(error.into())),
    }
    named_and_unlinked(folder).map_err(failed)
}

/// What does where files cannot be made without a name.
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
