//! Shared maps of files, which other processes may write or truncate at any time. The only home of
//! `mmap`, and the reason why no slice of a map ever exists.
//!
//! [`ReadMap`] hands out copies. The other two are for the program that plays a guest and writes
//! its RAM as one does: [`WriteLane`]s share out an image's pages among threads, so that a store is
//! exclusive by ownership; [`MappedWords`] are numbers that another process may read at any time.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use memmap2::{MmapOptions, MmapRaw};

use super::ImageError;
use super::sigbus::{FaultWatch, SLOTS};
use crate::page::{PAGE_SIZE, PageIndex};

/// A shared map of a file's beginning.
#[derive(Debug)]
struct Map {
    path: PathBuf,
    // Dropped before `map`, so that no fault of another mapping at the same place counts as ours.
    watch: FaultWatch,
    map: MmapRaw,
}

impl Map {
    fn of(file: &File, path: &Path, len: usize, writable: bool) -> Result<Map, ImageError> {
        let mut options = MmapOptions::new();
        options.len(len);
        let map = if writable {
            options.map_raw(file)
        } else {
            options.map_raw_read_only(file)
        };
        let map = map.map_err(ImageError::io("map", path))?;
        let watch = FaultWatch::new(map.as_ptr(), map.len())
            .map_err(ImageError::io("guard the map of", path))?
            .ok_or(ImageError::TooManyMapped { limit: SLOTS })?;
        Ok(Map {
            path: path.to_owned(),
            watch,
            map,
        })
    }

    /// A store beyond the file's end, or into a hole when the disk is full, went nowhere.
    fn check_stores(&self) -> Result<(), ImageError> {
        if self.watch.faults() == 0 {
            Ok(())
        } else {
            Err(ImageError::StoreLost {
                path: self.path.clone(),
            })
        }
    }
}

/// A shared map of a file's beginning, which copies are made from.
#[derive(Debug)]
pub(super) struct ReadMap(Map);

impl ReadMap {
    /// Maps the first `len` bytes of a file that has as many.
    ///
    /// # Errors
    /// The system's reasons.
    pub(super) fn of(file: &File, path: &Path, len: usize) -> Result<ReadMap, ImageError> {
        Map::of(file, path, len, false).map(ReadMap)
    }

    /// Fills `out` with what is mapped from byte `at` on. `false`: the file has become shorter, now
    /// or at an earlier copy, and what it no longer has is zero in `out`.
    ///
    /// # Panics
    /// When that reaches beyond the map: the caller's bug.
    #[must_use]
    pub(super) fn copy(&self, at: usize, out: &mut [u8]) -> bool {
        let Map { watch, map, .. } = &self.0;
        assert!(at <= map.len() && out.len() <= map.len() - at);
        // The page tables are left to be filled by faults, 16 pages each. Asking for a batch at a
        // time with MADV_POPULATE_READ cost a fifth more or a third less, by the page cache's state.
        // SAFETY: the source lies inside the map, as asserted, `out` is as long, and they do not
        // overlap. Other processes may write the source meanwhile: the bytes are then some mix of
        // old and new, which is what copying live RAM means; no reference to them exists.
        unsafe {
            std::ptr::copy_nonoverlapping(map.as_ptr().add(at), out.as_mut_ptr(), out.len());
        }
        watch.faults() == 0
    }
}

/// Every so many-th page of an image, for one thread to store into.
#[derive(Debug)]
pub(crate) struct WriteLane {
    map: Arc<Map>,
    first: u64,
    step: u64,
}

impl WriteLane {
    /// Maps the first `pages` pages of an image and shares them out: of the `count` lanes, number N
    /// owns the pages whose index leaves N when divided by `count`.
    ///
    /// # Errors
    /// The system's reasons.
    pub(crate) fn share_out(
        file: &File,
        path: &Path,
        pages: u64,
        count: u32,
    ) -> Result<Vec<WriteLane>, ImageError> {
        let map = Arc::new(Map::of(file, path, pages as usize * PAGE_SIZE, true)?);
        let step = u64::from(count);
        Ok((0..step)
            .map(|first| WriteLane {
                map: Arc::clone(&map),
                first,
                step,
            })
            .collect())
    }

    /// Where all lanes lie in this process's memory, and how many bytes they are.
    #[cfg(test)]
    pub(crate) fn mapping(&self) -> (*const u8, usize) {
        (self.map.map.as_ptr(), self.map.map.len())
    }

    /// Stores `bytes` from byte `offset` of the `slot`-th page of this lane on.
    ///
    /// # Errors
    /// [`ImageError::StoreLost`] when the file has become shorter or the disk is full.
    ///
    /// # Panics
    /// When they reach beyond the page or the image: the caller's bug.
    pub(crate) fn store(
        &mut self,
        slot: u64,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let page = PageIndex(slot * self.step + self.first);
        assert!(offset <= PAGE_SIZE && bytes.len() <= PAGE_SIZE - offset);
        assert!(page.0 < (self.map.map.len() / PAGE_SIZE) as u64);
        let at = page.offset() as usize + offset;
        // SAFETY: the destination lies inside the map, as asserted, which lives as long as the
        // lane. No other thread touches it: each page belongs to one lane, which `&mut self` lends
        // to one thread, and no reference into the map exists. Other processes may read or write
        // it: that is what a guest's RAM is like.
        unsafe {
            let to = self.map.map.as_mut_ptr().add(at);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        self.map.check_stores()
    }
}

/// Numbers of 64 bits at the beginning of a file, each written as a whole.
#[derive(Debug)]
pub(crate) struct MappedWords {
    map: Map,
}

impl MappedWords {
    /// Maps the first `len` bytes of a file that has so many.
    ///
    /// # Errors
    /// The system's reasons.
    pub(crate) fn of(file: &File, path: &Path, len: usize) -> Result<MappedWords, ImageError> {
        Ok(MappedWords {
            map: Map::of(file, path, len, true)?,
        })
    }

    /// Sets the `index`-th word, little endian. Whatever this thread stored before is in its map
    /// before the word is, and what it stores later is there after it: whoever finds the thread
    /// stopped finds them in that order.
    ///
    /// # Errors
    /// [`ImageError::StoreLost`] when the file has become shorter.
    ///
    /// # Panics
    /// When there is no such word: the caller's bug.
    pub(crate) fn set(&self, index: usize, value: u64) -> Result<(), ImageError> {
        assert!(index < self.map.map.len() / 8);
        // A thread stops at one point of its program, and all that comes before has happened by
        // then: only the compiler could put stores into another order.
        compiler_fence(Ordering::SeqCst);
        // SAFETY: inside the map, as asserted, and aligned: a map begins at a page, and a word
        // every 8 bytes. This process touches it by atomic stores alone.
        let word =
            unsafe { AtomicU64::from_ptr(self.map.map.as_mut_ptr().cast::<u64>().add(index)) };
        word.store(value.to_le(), Ordering::Release);
        compiler_fence(Ordering::SeqCst);
        self.map.check_stores()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(pages: usize) -> (tempfile::TempDir, PathBuf, File) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ram");
        std::fs::write(&path, vec![0; pages * PAGE_SIZE]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        (folder, path, file)
    }

    #[test]
    fn a_read_beyond_the_end_of_a_file_that_shrank_is_zero_and_noticed() {
        let (_folder, path, file) = file(4);
        std::fs::write(&path, [7; 4 * PAGE_SIZE]).unwrap();
        let map = ReadMap::of(&file, &path, 4 * PAGE_SIZE).unwrap();
        let mut byte = [1];
        assert!(map.copy(3 * PAGE_SIZE, &mut byte) && byte == [7]);
        file.set_len(0).unwrap();
        // The second time there is no fault any more.
        for _ in 0..2 {
            assert!(!map.copy(3 * PAGE_SIZE, &mut byte) && byte == [0]);
        }
    }

    #[test]
    fn lanes_store_into_the_pages_that_are_theirs() {
        let (_folder, path, file) = file(5);
        let mut lanes = WriteLane::share_out(&file, &path, 5, 2).unwrap();
        lanes[0].store(2, PAGE_SIZE - 3, b"abc").unwrap();
        lanes[1].store(1, 7, b"de").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[5 * PAGE_SIZE - 3..], b"abc");
        assert_eq!(&bytes[3 * PAGE_SIZE + 7..][..2], b"de");
        assert_eq!(bytes.iter().filter(|&&byte| byte != 0).count(), 5);
    }

    #[test]
    fn a_store_behind_the_end_of_a_file_that_shrank_is_an_error_and_no_crash() {
        let (_folder, path, file) = file(4);
        let mut lanes = WriteLane::share_out(&file, &path, 4, 1).unwrap();
        file.set_len(PAGE_SIZE as u64).unwrap();
        lanes[0].store(0, 0, b"x").unwrap();
        for slot in [3, 3, 0] {
            let error = lanes[0].store(slot, 0, b"x").unwrap_err();
            assert!(matches!(error, ImageError::StoreLost { .. }), "{error}");
        }
        assert_eq!(file.metadata().unwrap().len(), PAGE_SIZE as u64);
    }

    #[test]
    fn words_are_little_endian_and_in_their_place() {
        let (_folder, path, file) = file(1);
        let words = MappedWords::of(&file, &path, PAGE_SIZE).unwrap();
        words.set(3, 0x0102_0304).unwrap();
        words.set(511, u64::MAX).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[24..32], [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[4088..], [255; 8]);
    }
}
