//! A guest to be sent or looked at: a raw image or a guest folder.

use std::path::Path;
use std::sync::Arc;

use super::folder::{DEVICE_STATE, Directory, FolderError, file_name};
use super::store::FlatFile;
use super::{Block, DeviceState, ImageError, Ram};
use crate::description::Description;
use crate::page::Digest;

/// A guest: its RAM and, if it is a guest folder, what comes with it.
#[derive(Debug)]
pub struct Guest {
    ram: Arc<Ram>,
    extras: Option<Arc<Extras>>,
    /// How its files are to be taken; later snapshots of it, too.
    format: ImageFormat,
}

/// What a file is taken for. A folder is always a guest folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ImageFormat {
    /// A raw image, unless it begins like something else.
    #[default]
    Detect,
    /// A raw image, whatever it begins with.
    Raw,
}

/// What a guest folder has besides RAM.
#[derive(Debug)]
struct Extras {
    description: Description,
    device_state: DeviceState,
}

/// The most bytes of a block's name: its length is one byte on the wire.
const MAX_NAME: usize = 255;

impl Guest {
    /// A raw image as a guest with one block, [`RAW_BLOCK_NAME`], or a guest folder.
    ///
    /// The device state of a folder is read and compared with its hash; its blocks are as large as
    /// `guest.json` says, what they hold is for [`Guest::digest`] to compare.
    ///
    /// # Errors
    /// [`ImageError::NotRam`]; a file that is missing, unreadable, empty, not a regular file, or not
    /// of whole pages; and [`ImageError::Folder`].
    pub fn open(path: &Path) -> Result<Guest, ImageError> {
        Guest::open_as(path, ImageFormat::Detect)
    }

    /// [`Guest::open`] that takes a file for what `format` says.
    ///
    /// # Errors
    /// As [`Guest::open`].
    pub fn open_as(path: &Path, format: ImageFormat) -> Result<Guest, ImageError> {
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            return Guest::open_folder(path, format);
        }
        Ok(Guest {
            ram: Arc::new(Ram::new(vec![Block::open(path, format)?])),
            extras: None,
            format,
        })
    }

    fn open_folder(path: &Path, format: ImageFormat) -> Result<Guest, ImageError> {
        let folder = Directory::open(path, true)?;
        let contents = folder.contents()?;
        if !contents.complete {
            return Err(folder.wrong(FolderError::Partial));
        }
        let mut blocks = Vec::new();
        for ((name, bytes), digest) in contents.blocks.into_iter().zip(contents.digests) {
            let file = folder.open_file(&file_name(&name))?;
            let path = folder.path_of_block(&name);
            let metadata = file.metadata().map_err(ImageError::io("examine", &path))?;
            if metadata.len() != bytes {
                return Err(folder.wrong(FolderError::Size {
                    file: file_name(&name),
                    size: metadata.len(),
                    expected: bytes,
                }));
            }
            let store = Arc::new(FlatFile::raw(file, &path)?);
            blocks.push(Block::new(&name, store, Some(digest)));
        }
        let device_state = DeviceState::new(
            folder.open_file(DEVICE_STATE)?,
            (path.to_owned(), DEVICE_STATE.to_owned()),
            contents.device_state,
        )?;
        Ok(Guest {
            ram: Arc::new(Ram::new(blocks)),
            extras: Some(Arc::new(Extras {
                description: contents.description,
                device_state,
            })),
            format,
        })
    }

    /// Calls the one block of a raw image by another name.
    ///
    /// # Errors
    /// [`ImageError::Named`] for a guest folder, whose blocks have names, and
    /// [`ImageError::BlockName`] for a name that no stream can carry.
    pub fn name_block(&mut self, name: &str) -> Result<(), ImageError> {
        match self.ram.blocks() {
            [block] if self.extras.is_none() => {
                if name.is_empty() || name.len() > MAX_NAME {
                    return Err(ImageError::BlockName {
                        given: name.to_owned(),
                    });
                }
                self.ram = Arc::new(Ram::new(vec![block.renamed(name)]));
                Ok(())
            }
            _ => Err(ImageError::Named),
        }
    }

    /// A later snapshot of this guest. A raw image is that of its largest block, and everything
    /// else is as it was; a guest folder has the same blocks, and its own device state.
    ///
    /// # Errors
    /// Whatever [`Guest::open`] finds, a size that is not the block's, blocks that are not this guest's.
    pub fn open_later(&self, path: &Path) -> Result<Guest, ImageError> {
        let later = Guest::open_as(path, self.format)?;
        if later.extras.is_some() {
            return self.same_blocks(&later, path).map(|()| later);
        }
        let mut blocks = self.ram.blocks().to_vec();
        let most = blocks.iter().map(Block::pages).max();
        let largest = blocks.iter_mut().find(|block| Some(block.pages()) == most);
        if let (Some(block), [now]) = (largest, later.ram.blocks()) {
            if now.pages() != block.pages() {
                return Err(ImageError::OtherSize {
                    path: path.to_owned(),
                    size: now.bytes(),
                    expected: block.bytes(),
                });
            }
            *block = block.with_pages_of(now);
        }
        Ok(Guest {
            ram: Arc::new(Ram::new(blocks)),
            extras: self.extras.clone(),
            format: self.format,
        })
    }

    fn same_blocks(&self, later: &Guest, path: &Path) -> Result<(), ImageError> {
        let other = |what| {
            Err(ImageError::OtherBlocks {
                path: path.to_owned(),
                what,
            })
        };
        if self.extras.is_none() {
            return other("the guest was a raw image, and this is a guest folder".to_owned());
        }
        let (before, now) = (self.ram.blocks(), later.ram.blocks());
        if before.len() != now.len() {
            let (is, was) = (now.len(), before.len());
            return other(format!("it has {is}, the guest {was}"));
        }
        for (was, is) in before.iter().zip(now) {
            if was.name() != is.name() {
                let (is, was) = (is.name(), was.name());
                return other(format!("'{is}' stands where '{was}' was"));
            }
            if was.pages() != is.pages() {
                let (name, is, was) = (is.name(), is.pages(), was.pages());
                return other(format!("'{name}' has {is} pages, and had {was}"));
            }
        }
        Ok(())
    }

    /// Its RAM.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// The blocks of its RAM.
    pub fn blocks(&self) -> &[Block] {
        self.ram.blocks()
    }

    /// The pages of all blocks together.
    pub fn pages(&self) -> u64 {
        self.ram.pages()
    }

    /// What a guest folder says of the guest; `None` for a raw image.
    pub fn description(&self) -> Option<&Description> {
        self.extras.as_deref().map(|extras| &extras.description)
    }

    /// A guest folder's device state; `None` for a raw image.
    pub fn device_state(&self) -> Option<&DeviceState> {
        self.extras.as_deref().map(|extras| &extras.device_state)
    }

    /// The RAM digest, computed on all cores over the data extents alone.
    ///
    /// # Errors
    /// When an image cannot be read, or a guest folder's block does not hold what `guest.json` says.
    pub fn digest(&self) -> Result<Digest, ImageError> {
        let (digests, _) = self.ram.digests()?;
        let mut whole = Digest::default();
        for (block, digest) in self.ram.blocks().iter().zip(digests) {
            match block.recorded_digest() {
                Some(recorded) if recorded != digest => {
                    return Err(damaged(block, digest, recorded));
                }
                _ => whole.add(digest.0),
            }
        }
        Ok(whole)
    }
}

/// A guest folder's block is not what `guest.json` says.
fn damaged(block: &Block, found: Digest, recorded: Digest) -> ImageError {
    let path = block.path();
    ImageError::Folder {
        path: path.parent().unwrap_or(path).to_owned(),
        source: FolderError::Damaged {
            file: file_name(block.name()),
            found: found.0,
            expected: recorded.0,
        },
    }
}
