//! Shared maps of files, which other processes may write or truncate at any time: no slice of a map
//! may ever exist.
//!
//! [`ReadMap`] makes copies. The other two are for `churn`, which writes to RAM as a guest does:
//! [`WriteLane`]s divide an image's pages among threads, so that each store is exclusive by ownership;
//! [`MappedWords`] are numbers that another process may read at any time.
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
    // Dropped before `map`, so that a fault in a later mapping at the same addresses is not ours.
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

    /// Whether all stores arrived. One beyond the file's end, or into a hole on a full disk, does not.
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

/// A shared map of a file's beginning, to copy from.
#[derive(Debug)]
pub(super) struct ReadMap(Map);

impl ReadMap {
    /// Maps the first `len` bytes of a file that is at least as long.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn of(file: &File, path: &Path, len: usize) -> Result<ReadMap, ImageError> {
        Map::of(file, path, len, false).map(ReadMap)
    }

    /// Copies the bytes from `at` on into `out`. `false`: the file is shorter than the map, as this or
    /// an earlier copy found out, and the missing bytes are zero in `out`.
    ///
    /// # Panics
    /// If they reach beyond the map, which is the caller's bug.
    #[must_use]
    pub(super) fn copy(&self, at: usize, out: &mut [u8]) -> bool {
        let Map { watch, map, .. } = &self.0;
        assert!(at <= map.len() && out.len() <= map.len() - at);
        // Faults fill the page tables, 16 pages at a time. MADV_POPULATE_READ for a batch at a time
        // cost between a third less and a fifth more, depending on the page cache.
        // SAFETY: the source lies inside the map, as asserted, `out` is as long, and they do not
        // overlap. Other processes may write the source meanwhile: the bytes are then some mix of
        // old and new, which is what copying live RAM means; no reference to them exists.
        unsafe {
            std::ptr::copy_nonoverlapping(map.as_ptr().add(at), out.as_mut_ptr(), out.len());
        }
        watch.faults() == 0
    }
}

/// Every n-th page of an image, for one thread to store into.
#[derive(Debug)]
pub(crate) struct WriteLane {
    map: Arc<Map>,
    first: u64,
    step: u64,
}

impl WriteLane {
    /// Maps the first `pages` pages of an image and divides them among `count` lanes: lane N owns the
    /// pages whose index modulo `count` is N.
    ///
    /// # Errors
    /// I/O errors.
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

    /// The address and the length in bytes of the mapping that all lanes share.
    #[cfg(test)]
    pub(crate) fn mapping(&self) -> (*const u8, usize) {
        (self.map.map.as_ptr(), self.map.map.len())
    }

    /// Stores `bytes` at byte `offset` of the `slot`-th page of this lane.
    ///
    /// # Errors
    /// [`ImageError::StoreLost`] if the file has been truncated or the disk is full.
    ///
    /// # Panics
    /// If they reach beyond the page or the image, which is the caller's bug.
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
        // it, as with a guest's RAM.
        unsafe {
            let to = self.map.map.as_mut_ptr().add(at);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        self.map.check_stores()
    }
}

/// 64-bit numbers at the beginning of a file, each written atomically.
#[derive(Debug)]
pub(crate) struct MappedWords {
    map: Map,
}

impl MappedWords {
    /// Maps the first `len` bytes of a file that is at least as long.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn of(file: &File, path: &Path, len: usize) -> Result<MappedWords, ImageError> {
        Ok(MappedWords {
            map: Map::of(file, path, len, true)?,
        })
    }

    /// Sets the `index`-th word, in little endian. Stores that this thread made to other maps before
    /// come before it, later ones after it: a process that stops the thread at any point finds them
    /// in that order.
    ///
    /// # Errors
    /// [`ImageError::StoreLost`] if the file has been truncated.
    ///
    /// # Panics
    /// If there is no such word, which is the caller's bug.
    pub(crate) fn set(&self, index: usize, value: u64) -> Result<(), ImageError> {
        assert!(index < self.map.map.len() / 8);
        // A stopped thread has done everything before one point of its program, so only the compiler
        // could reorder stores.
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
    fn a_read_beyond_the_end_of_a_truncated_file_is_zero_and_noticed() {
        let (_folder, path, file) = file(4);
        std::fs::write(&path, [7; 4 * PAGE_SIZE]).unwrap();
        let map = ReadMap::of(&file, &path, 4 * PAGE_SIZE).unwrap();
        let mut byte = [1];
        assert!(map.copy(3 * PAGE_SIZE, &mut byte) && byte == [7]);
        file.set_len(0).unwrap();
        // The second read causes no fault.
        for _ in 0..2 {
            assert!(!map.copy(3 * PAGE_SIZE, &mut byte) && byte == [0]);
        }
    }

    #[test]
    fn each_lane_stores_into_its_own_pages() {
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
    fn a_store_beyond_the_end_of_a_truncated_file_is_an_error_not_a_crash() {
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
    fn words_are_little_endian_at_their_index() {
        let (_folder, path, file) = file(1);
        let words = MappedWords::of(&file, &path, PAGE_SIZE).unwrap();
        words.set(3, 0x0102_0304).unwrap();
        words.set(511, u64::MAX).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[24..32], [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[4088..], [255; 8]);
    }
}
