//! One block's file at the destination: pages are placed, cleared and read back by their number.
//!
//! Never mapped for writing: placing runs of pages by `pwrite` costs a third of what faults on a
//! fresh map cost, and a full disk is an error value instead of a signal.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::{ImageError, RawImage};
use crate::page::{BlockSeed, PAGE_SIZE, PageIndex, PageRange};
use crate::sync;

/// A named stretch of guest RAM that is being received.
#[derive(Debug)]
pub struct BlockFile {
    name: String,
    seed: BlockSeed,
    /// What messages call the file.
    path: PathBuf,
    file: File,
    pages: u64,
    /// The pages of all blocks before this one.
    first_key: u64,
    /// Writers of one file exclude each other in the kernel, which makes them spin; here they sleep
    /// and leave the core to somebody with work.
    writing: Mutex<()>,
    /// Taking a map down takes as long as half of the proof, so it is kept until nobody waits.
    read_back: Option<RawImage>,
}

impl BlockFile {
    /// Makes `file` as long as the block, all holes.
    pub(super) fn new(
        (name, bytes): &(String, u64),
        first_key: u64,
        file: File,
        path: PathBuf,
    ) -> Result<BlockFile, ImageError> {
        let block = BlockFile {
            name: name.clone(),
            seed: BlockSeed::new(name),
            path,
            file,
            pages: bytes / PAGE_SIZE as u64,
            first_key,
            writing: Mutex::new(()),
            read_back: None,
        };
        block
            .file
            .set_len(block.pages.saturating_mul(PAGE_SIZE as u64))
            .map_err(block.failed("set the size of"))?;
        Ok(block)
    }

    /// The block's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its page hashes are seeded with.
    pub fn seed(&self) -> BlockSeed {
        self.seed
    }

    /// Its size in pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE as u64
    }

    /// The page's number within the whole guest, as that of
    /// [`Block::key`](super::Block::key) at the source.
    pub fn key(&self, page: PageIndex) -> u64 {
        self.first_key + page.0
    }

    /// Puts neighbouring pages in their place.
    ///
    /// # Errors
    /// The system's reason, a full disk among them.
    pub fn place(&self, first: PageIndex, bytes: &[u8]) -> Result<(), ImageError> {
        let _turn = sync::lock(&self.writing);
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
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
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

    /// Where the file's data begins, from this page on: the page itself if it holds data. Behind
    /// the last data it is the block's end; where the file system knows no holes, all is data.
    ///
    /// # Errors
    /// The system's reason.
    pub fn next_data(&self, from: PageIndex) -> Result<PageIndex, ImageError> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(from.offset())) {
            Ok(at) => Ok(PageIndex((at / PAGE_SIZE as u64).max(from.0))),
            Err(Errno::NXIO) => Ok(PageIndex(self.pages.max(from.0))),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(from),
            Err(error) => Err(self.failed("find the data of")(error.into())),
        }
    }

    /// Whether the file is still as long as the block.
    ///
    /// # Errors
    /// [`ImageError::Truncated`] when it has become shorter, or the system's reason.
    pub fn check_size(&self) -> Result<(), ImageError> {
        let size = self.file.metadata().map_err(self.failed("examine"))?.len();
        if size >= self.bytes() {
            return Ok(());
        }
        Err(ImageError::Truncated {
            path: self.path.clone(),
            size,
            expected: self.bytes(),
        })
    }

    /// The sum of the hashes of what the file really holds, read back on rayon's threads, and the
    /// CPU time that it took.
    pub(super) fn sum_hashes(&mut self) -> Result<(u128, Duration), ImageError> {
        let file = self.file.try_clone().map_err(self.failed("read back"))?;
        let map = RawImage::of(file, &self.path)?;
        self.read_back.insert(map).sum_hashes(self.seed)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> ImageError + use<> {
        let path = self.path.clone();
        move |source| ImageError::Io { what, path, source }
    }
}
