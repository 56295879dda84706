//! A guest to send or to analyse: a raw image or a guest folder.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::folder::{DEVICE_STATE, Directory, FolderError, MAX_BLOCK_NAME, file_name};
use super::store::{FlatFile, PageStore, Patched};
use super::{Block, DeviceState, ImageError, Later, Ram};
use crate::description::Description;
use crate::page::{Digest, PAGE_SIZE};
use crate::partial::folder_of;

/// A guest: its RAM and, in a guest folder, its description and device state.
#[derive(Debug)]
pub struct Guest {
    ram: Arc<Ram>,
    extras: Option<Arc<Extras>>,
    /// How to interpret its file; applies to later snapshots too.
    format: ImageFormat,
}

/// How to interpret an image file. A folder is always a guest folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ImageFormat {
    /// As a raw image, unless it begins with the magic of another format.
    #[default]
    Detect,
    /// As a raw image, whatever it begins with.
    Raw,
}

/// What a guest folder has besides RAM.
#[derive(Debug)]
struct Extras {
    description: Description,
    device_state: DeviceState,
}

names!(
    "image format",
    ImageFormat {
        Detect: "detect",
        Raw: "raw"
    }
);

impl Guest {
    /// Opens a guest folder, or a raw image as a guest with one block,
    /// [`RAW_BLOCK_NAME`](super::RAW_BLOCK_NAME).
    ///
    /// A folder's device state is checked against its hash, its blocks against their sizes. What
    /// they hold is checked by [`Guest::digest`].
    ///
    /// # Errors
    /// [`ImageError::NotRam`]; a file that is missing, unreadable, empty, not a regular file, or not
    /// of whole pages; and [`ImageError::Folder`].
    pub fn open(path: &Path) -> Result<Guest, ImageError> {
        Guest::open_as(path, ImageFormat::Detect)
    }

    /// [`Guest::open`] that interprets a file as `format` says.
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

    /// Renames the one block of a raw image.
    ///
    /// # Errors
    /// [`ImageError::Named`] for a guest folder, and [`ImageError::BlockName`] for a name that a
    /// stream cannot carry.
    pub fn name_block(&mut self, name: &str) -> Result<(), ImageError> {
        match self.ram.blocks() {
            [block] if self.extras.is_none() => {
                if name.is_empty() || name.len() > MAX_BLOCK_NAME {
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

    /// Opens a later snapshot of this guest. A raw image replaces the largest block, and all else
    /// stays as it was. A guest folder must have the same blocks, and brings its own device state.
    ///
    /// A [diff](Later::diff) replaces pages of the largest block; its size must be the block's.
    ///
    /// # Errors
    /// As [`Guest::open`], and a snapshot whose blocks or their sizes differ from this guest's;
    /// [`ImageError::NotADiff`].
    pub fn open_later(&self, later: &Later) -> Result<Guest, ImageError> {
        let Later { path, is_diff } = later;
        if *is_diff {
            // Its first page is a hole more often than not, and its data may begin like anything.
            let diff = FlatFile::open(path, ImageFormat::Raw)?;
            return self.with_largest(path, diff.pages(), |block| {
                let patched = Patched::new(block.store(), diff)?;
                Ok(block.with_store(Arc::new(patched)))
            });
        }
        let later = Guest::open_as(path, self.format)?;
        if later.extras.is_some() {
            return self.same_blocks(&later, path).map(|()| later);
        }
        let [now] = later.ram.blocks() else {
            return Ok(later);
        };
        self.with_largest(path, now.pages(), |block| Ok(block.with_store(now.store())))
    }

    /// This guest with something else in place of its largest block: `path`, which has `pages`.
    fn with_largest(
        &self,
        path: &Path,
        pages: u64,
        replace: impl FnOnce(&Block) -> Result<Block, ImageError>,
    ) -> Result<Guest, ImageError> {
        let mut blocks = self.ram.blocks().to_vec();
        let most = blocks.iter().map(Block::pages).max();
        let largest = blocks.iter_mut().find(|block| Some(block.pages()) == most);
        if let Some(block) = largest {
            if pages != block.pages() {
                return Err(ImageError::OtherSize {
                    path: path.to_owned(),
                    size: pages.saturating_mul(PAGE_SIZE as u64),
                    expected: block.bytes(),
                });
            }
            *block = replace(block)?;
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
            return other("it is a guest folder, but the guest is a raw image".to_owned());
        }
        let (before, now) = (self.ram.blocks(), later.ram.blocks());
        if before.len() != now.len() {
            let (is, was) = (now.len(), before.len());
            return other(format!("it has {is}, but the guest has {was}"));
        }
        for (was, is) in before.iter().zip(now) {
            if was.name() != is.name() {
                let (is, was) = (is.name(), was.name());
                return other(format!("it has '{is}' in place of '{was}'"));
            }
            if was.pages() != is.pages() {
                let (name, is, was) = (is.name(), is.pages(), was.pages());
                return other(format!(
                    "'{name}' has {is} pages, but the guest's has {was}"
                ));
            }
        }
        Ok(())
    }

    /// The RAM, which may be shared with the threads of a migration.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// The blocks, in the order in which they are sent.
    pub fn blocks(&self) -> &[Block] {
        self.ram.blocks()
    }

    /// The pages of all blocks together.
    pub fn pages(&self) -> u64 {
        self.ram.pages()
    }

    /// The description in a guest folder; `None` for a raw image.
    pub fn description(&self) -> Option<&Description> {
        self.extras.as_deref().map(|extras| &extras.description)
    }

    /// The device state in a guest folder; `None` for a raw image.
    pub fn device_state(&self) -> Option<&DeviceState> {
        self.extras.as_deref().map(|extras| &extras.device_state)
    }

    /// The RAM digest, computed on all cores. Holes are not read.
    ///
    /// # Errors
    /// When an image cannot be read, or a block's digest is not the one in `guest.json`.
    pub fn digest(&self) -> Result<Digest, ImageError> {
        Ok(self.digest_and_sample()?.0)
    }

    /// What [`Guest::digest`] is by `guest.json`; `None` if a block is not from a guest folder.
    pub(crate) fn recorded_digest(&self) -> Option<Digest> {
        let mut whole = Digest::default();
        for block in self.ram.blocks() {
            whole.add(block.recorded_digest()?.0);
        }
        Some(whole)
    }

    /// [`Guest::digest`], and the part of it that the sampled pages have.
    pub(crate) fn digest_and_sample(&self) -> Result<(Digest, Digest), ImageError> {
        let (mut whole, mut sampled) = (Digest::default(), Digest::default());
        for block in self.ram.blocks() {
            let (digest, sample, _) = block.digest_and_sample()?;
            sampled.add(sample.0);
            match block.recorded_digest() {
                Some(recorded) if recorded != digest => {
                    return Err(damaged(block, digest, recorded));
                }
                _ => whole.add(digest.0),
            }
        }
        Ok((whole, sampled))
    }
}

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

/// Why no file may be written at `path` while the guest at `image` is read, to follow the path's name:
/// it would replace the guest, or lie among the files of its folder, which has a place for its own only.
pub(crate) fn conflict_with_image(path: &Path, image: &Path) -> Option<&'static str> {
    let identity = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let guest = identity(image)?;
    if !image.is_dir() {
        return (identity(path)? == guest).then_some("is an image that is to be sent");
    }
    // The file need not exist yet, and may be a link.
    let places = [path.canonicalize(), folder_of(path).canonicalize()];
    let lies_within = (places.iter().flatten())
        .any(|place| place.ancestors().any(|part| identity(part) == Some(guest)));
    lies_within.then_some("lies in a guest folder that is to be sent")
}
