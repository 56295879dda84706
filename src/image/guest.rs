//! A guest's RAM, to be read: from a raw image or from a guest folder.

use std::path::Path;
use std::sync::Arc;

use super::directory::Directory;
use super::folder::{DEVICE_STATE, FolderError, file_name};
use super::{DeviceState, ImageError, RAW_BLOCK_NAME, RawImage};
use crate::description::Description;
use crate::page::{BlockSeed, Digest, PAGE_SIZE, PageIndex, PageRange};

/// A guest's RAM, to be read.
#[derive(Debug)]
pub struct Guest {
    blocks: Vec<Block>,
    /// What a guest folder has besides.
    folder: Option<Arc<Rest>>,
}

/// What a guest folder has besides RAM.
#[derive(Debug)]
struct Rest {
    description: Description,
    device_state: DeviceState,
}

/// A named stretch of guest RAM, to be read.
#[derive(Debug, Clone)]
pub struct Block {
    name: String,
    seed: BlockSeed,
    image: Arc<RawImage>,
    /// The pages of all blocks before this one.
    first_key: u64,
    /// What `guest.json` says of it.
    recorded: Option<Digest>,
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
    /// Whatever [`RawImage::open`] finds, and [`ImageError::Folder`].
    pub fn open(path: &Path) -> Result<Guest, ImageError> {
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            return Guest::open_folder(path);
        }
        let image = RawImage::open(path)?;
        Ok(Guest {
            blocks: vec![Block {
                name: RAW_BLOCK_NAME.to_owned(),
                seed: BlockSeed::new(RAW_BLOCK_NAME),
                image: Arc::new(image),
                first_key: 0,
                recorded: None,
            }],
            folder: None,
        })
    }

    fn open_folder(path: &Path) -> Result<Guest, ImageError> {
        let folder = Directory::open(path, true)?;
        let contents = folder.contents()?;
        if !contents.complete {
            return Err(folder.wrong(FolderError::Partial));
        }
        let mut blocks = Vec::new();
        let mut first_key = 0;
        for ((name, bytes), digest) in contents.blocks.into_iter().zip(contents.digests) {
            let file = folder.open_file(&file_name(&name))?;
            let path = folder.path_of_block(&name);
            let size = file
                .metadata()
                .map_err(|source| ImageError::Io {
                    what: "examine",
                    path: path.clone(),
                    source,
                })?
                .len();
            if size != bytes {
                return Err(folder.wrong(FolderError::Size {
                    file: file_name(&name),
                    size,
                    expected: bytes,
                }));
            }
            let image = RawImage::of(file, &path)?;
            let pages = image.pages();
            blocks.push(Block {
                seed: BlockSeed::new(&name),
                name,
                image: Arc::new(image),
                first_key,
                recorded: Some(digest),
            });
            first_key += pages;
        }
        let device_state = DeviceState::new(
            folder.open_file(DEVICE_STATE)?,
            (path.to_owned(), DEVICE_STATE.to_owned()),
            contents.device_state,
        )?;
        Ok(Guest {
            blocks,
            folder: Some(Arc::new(Rest {
                description: contents.description,
                device_state,
            })),
        })
    }

    /// Calls the one block of a raw image by another name.
    ///
    /// # Errors
    /// [`ImageError::Named`] for a guest folder, whose blocks have names, and
    /// [`ImageError::BlockName`] for a name that no stream can carry.
    pub fn name_block(&mut self, name: &str) -> Result<(), ImageError> {
        match &mut self.blocks[..] {
            [block] if self.folder.is_none() => {
                if name.is_empty() || name.len() > MAX_NAME {
                    return Err(ImageError::BlockName {
                        given: name.to_owned(),
                    });
                }
                name.clone_into(&mut block.name);
                block.seed = BlockSeed::new(name);
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
        let later = Guest::open(path)?;
        if later.folder.is_some() {
            return self.same_blocks(&later, path).map(|()| later);
        }
        let mut guest = Guest {
            blocks: self.blocks.clone(),
            folder: self.folder.clone(),
        };
        let most = guest.blocks.iter().map(|block| block.image.pages()).max();
        let largest = guest
            .blocks
            .iter_mut()
            .find(|block| Some(block.image.pages()) == most);
        if let (Some(block), Some(now)) = (largest, later.blocks.into_iter().next()) {
            let (size, expected) = (now.image.pages(), block.image.pages());
            if size != expected {
                return Err(ImageError::OtherSize {
                    path: path.to_owned(),
                    size: size * PAGE_SIZE as u64,
                    expected: expected * PAGE_SIZE as u64,
                });
            }
            block.image = now.image;
            block.recorded = None;
        }
        Ok(guest)
    }

    fn same_blocks(&self, later: &Guest, path: &Path) -> Result<(), ImageError> {
        let other = |what| {
            Err(ImageError::OtherBlocks {
                path: path.to_owned(),
                what,
            })
        };
        if self.folder.is_none() {
            return other("the guest was a raw image, and this is a guest folder".to_owned());
        }
        if self.blocks.len() != later.blocks.len() {
            let (is, was) = (later.blocks.len(), self.blocks.len());
            return other(format!("it has {is}, the guest {was}"));
        }
        for (was, is) in self.blocks.iter().zip(&later.blocks) {
            if was.name != is.name {
                return other(format!("'{}' stands where '{}' was", is.name, was.name));
            }
            if was.image.pages() != is.image.pages() {
                return other(format!(
                    "'{}' has {} pages, and had {}",
                    is.name,
                    is.image.pages(),
                    was.image.pages()
                ));
            }
        }
        Ok(())
    }

    /// The blocks, in the order in which they are sent.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The pages of all blocks together.
    pub fn pages(&self) -> u64 {
        self.blocks.iter().map(|block| block.image.pages()).sum()
    }

    /// What a guest folder says of the guest; `None` for a raw image.
    pub fn description(&self) -> Option<&Description> {
        self.folder.as_deref().map(|rest| &rest.description)
    }

    /// A guest folder's device state; `None` for a raw image.
    pub fn device_state(&self) -> Option<&DeviceState> {
        self.folder.as_deref().map(|rest| &rest.device_state)
    }

    /// The RAM digest, computed on all cores over the data extents alone.
    ///
    /// # Errors
    /// When an image cannot be read, or a guest folder's block does not hold what `guest.json` says.
    pub fn digest(&self) -> Result<Digest, ImageError> {
        let mut digest = Digest::default();
        for block in &self.blocks {
            let (sum, _) = block.image.sum_hashes(block.seed)?;
            if let Some(Digest(expected)) = block.recorded.filter(|recorded| recorded.0 != sum) {
                return Err(block.damaged(sum, expected));
            }
            digest.add(sum);
        }
        Ok(digest)
    }
}

impl Block {
    /// The block's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its page hashes are seeded with.
    pub fn seed(&self) -> BlockSeed {
        self.seed
    }

    /// Its bytes.
    pub fn image(&self) -> &RawImage {
        &self.image
    }

    /// The page's number within the whole guest.
    pub fn key(&self, page: PageIndex) -> u64 {
        self.first_key + page.0
    }

    /// The digest of this block alone that `guest.json` gives; `None` for a raw image.
    pub fn recorded_digest(&self) -> Option<Digest> {
        self.recorded
    }

    /// All of its pages.
    pub fn range(&self) -> PageRange {
        PageRange::between(0, self.image.pages())
    }

    fn damaged(&self, found: u128, expected: u128) -> ImageError {
        let path = self.image.path();
        ImageError::Folder {
            path: path.parent().unwrap_or(path).to_owned(),
            source: FolderError::Damaged {
                file: file_name(&self.name),
                found,
                expected,
            },
        }
    }
}
