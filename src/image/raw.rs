//! Raw RAM images: a memory-backend-file, a pmemsave, a Firecracker memory file.
//!
//! The file is mapped and walked by its data extents only. Reading a hole through a shared map
//! of a tmpfs file would allocate it, so holes are never touched. What is only looked at (digest,
//! comparison) is copied out of the map page by page; what is to be sent is read in bulk.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use memmap2::Mmap;
use rayon::prelude::*;
use rustix::fs::SeekFrom;

use super::ImageError;
use super::sigbus::{SLOTS, Watch};
use crate::page::{BlockSeed, PAGE_SIZE, PageIndex, PageRange};
use crate::sys::thread_cpu_time;

/// A raw image, mapped for reading. Hands out copies.
#[derive(Debug)]
pub struct RawImage {
    path: PathBuf,
    file: File,
    // Dropped before `map`, so that no fault of a foreign mapping at the same place is ours.
    watch: Watch,
    map: Mmap,
}

impl RawImage {
    /// Opens and maps an image.
    ///
    /// # Errors
    /// A file that is missing, unreadable, empty, not a regular file, or not of whole pages.
    pub fn open(path: &Path) -> Result<RawImage, ImageError> {
        let failed = |what| {
            move |source| ImageError::Io {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let file = File::options()
            .read(true)
            // A named pipe is to be refused, not waited at until somebody writes to it.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(failed("open"))?;
        RawImage::of(file, path)
    }

    /// Maps an image that is open already; `path` is what messages call it.
    ///
    /// # Errors
    /// A file that is empty, not a regular file, or not of whole pages, and the system's reasons.
    pub fn of(file: File, path: &Path) -> Result<RawImage, ImageError> {
        let failed = |what| {
            move |source| ImageError::Io {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let metadata = file.metadata().map_err(failed("examine"))?;
        if !metadata.is_file() {
            return Err(ImageError::NotAFile {
                path: path.to_owned(),
            });
        }
        let size = metadata.len();
        if size == 0 {
            return Err(ImageError::Empty {
                path: path.to_owned(),
            });
        }
        if size % PAGE_SIZE as u64 != 0 {
            return Err(ImageError::NotWholePages {
                path: path.to_owned(),
                size,
            });
        }
        // SAFETY: the map is never handed out as a slice; `copy` reads it by raw pointer, so that
        // a writer in another process breaks no reference, and `watch` survives a truncation.
        let map = unsafe { Mmap::map(&file) }.map_err(failed("map"))?;
        let watch = Watch::new(map.as_ptr(), map.len())
            .map_err(failed("guard the map of"))?
            .ok_or(ImageError::TooManyMapped { limit: SLOTS })?;
        Ok(RawImage {
            path: path.to_owned(),
            file,
            watch,
            map,
        })
    }

    /// Where the image lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in pages.
    pub fn pages(&self) -> u64 {
        (self.map.len() / PAGE_SIZE) as u64
    }

    /// The ranges that hold data, ascending; everything between them is holes, that is zero.
    ///
    /// # Errors
    /// When the file can no longer be examined.
    pub fn data_ranges(&self) -> Result<Vec<PageRange>, ImageError> {
        data_ranges(&self.file, self.pages()).map_err(|source| ImageError::Io {
            what: "find the data of",
            path: self.path.clone(),
            source,
        })
    }

    /// Copies `range` out of the map into the front of `out`.
    ///
    /// # Errors
    /// [`ImageError::Truncated`] when the file has become shorter.
    ///
    /// # Panics
    /// When the range lies outside the image or `out` is shorter than the range: the caller's bug.
    pub fn copy(&self, range: PageRange, out: &mut [u8]) -> Result<(), ImageError> {
        self.guarded(range, |map, len| {
            assert!(len <= out.len());
            // SAFETY: `map` is valid for `len` bytes, as `guarded` says, `out` is as asserted, and
            // they do not overlap. Other processes may write the source meanwhile: the bytes are
            // then some mix of old and new, which is what copying live RAM means; no reference
            // to them exists.
            unsafe { std::ptr::copy_nonoverlapping(map, out.as_mut_ptr(), len) };
        })
    }

    /// Reads the pages of `range` from the file, packed into the front of `out` without those that
    /// `keep` declines. Returns how many bytes of `out` are filled.
    ///
    /// For large ranges whose bytes are all wanted: measured, reading costs the same 7 GB/s whatever
    /// the state of the page cache, where faults on a map that nobody else has filled cost
    /// between that and a third of it, and leave page tables to be taken down.
    ///
    /// # Errors
    /// [`ImageError::Truncated`] when the file has become shorter, and the system's reasons.
    ///
    /// # Panics
    /// When `out` is shorter than the range: the caller's bug.
    pub fn read_some(
        &self,
        range: PageRange,
        out: &mut [u8],
        mut keep: impl FnMut(PageIndex, &[u8]) -> bool,
    ) -> Result<usize, ImageError> {
        let len = range.count as usize * PAGE_SIZE;
        match self
            .file
            .read_exact_at(&mut out[..len], range.start.offset())
        {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.truncated());
            }
            Err(source) => {
                return Err(ImageError::Io {
                    what: "read",
                    path: self.path.clone(),
                    source,
                });
            }
        }
        let mut filled = 0;
        for (page, at) in range.pages().zip((0..len).step_by(PAGE_SIZE)) {
            if keep(page, &out[at..at + PAGE_SIZE]) {
                if at != filled {
                    out.copy_within(at..at + PAGE_SIZE, filled);
                }
                filled += PAGE_SIZE;
            }
        }
        Ok(filled)
    }

    /// Copies the pages of `range` out of the map, one behind the other into `out`, without those
    /// that `keep` declines. `keep` sees each page's copy, which is still in the first-level
    /// cache. Returns how many bytes of `out` are filled.
    ///
    /// # Errors
    /// [`ImageError::Truncated`] when the file has become shorter.
    ///
    /// # Panics
    /// When the range lies outside the image or `out` has no room for a page: the caller's bug.
    pub fn copy_some(
        &self,
        range: PageRange,
        out: &mut [u8],
        mut keep: impl FnMut(PageIndex, &[u8]) -> bool,
    ) -> Result<usize, ImageError> {
        let mut filled = 0;
        self.guarded(range, |map, len| {
            for (page, at) in range.pages().zip((0..len).step_by(PAGE_SIZE)) {
                let slot = &mut out[filled..filled + PAGE_SIZE];
                // SAFETY: as in `copy`; `at` is a page's beginning below `len`.
                unsafe {
                    std::ptr::copy_nonoverlapping(map.add(at), slot.as_mut_ptr(), PAGE_SIZE);
                }
                if keep(page, slot) {
                    filled += PAGE_SIZE;
                }
            }
        })?;
        Ok(filled)
    }

    /// Lets `read` at the map's bytes of `range`: a pointer that is valid for so many bytes.
    fn guarded(
        &self,
        range: PageRange,
        read: impl FnOnce(*const u8, usize),
    ) -> Result<(), ImageError> {
        let bytes = range.bytes();
        assert!(bytes.end <= self.map.len() as u64);
        let (start, len) = (bytes.start as usize, (bytes.end - bytes.start) as usize);
        let faults = self.watch.faults();
        // The page tables are left to be filled by faults, 16 pages each. Asking for a batch at a
        // time with MADV_POPULATE_READ cost a fifth more or a third less, by the page cache's state.
        // SAFETY: `start` lies inside the map or at its end, as asserted.
        read(unsafe { self.map.as_ptr().add(start) }, len);
        if self.watch.faults() == faults {
            Ok(())
        } else {
            Err(self.truncated())
        }
    }

    /// The sum of the hashes of all pages that are not zero, on rayon's threads, and the CPU time
    /// that it took. Holes are not touched.
    ///
    /// # Errors
    /// When the file can no longer be examined, or has become shorter.
    pub fn sum_hashes(&self, seed: BlockSeed) -> Result<(u128, Duration), ImageError> {
        // Small enough to share out, large enough for sharing to cost nothing.
        const STEP: usize = 128;
        let steps: Vec<PageRange> = self
            .data_ranges()?
            .iter()
            .flat_map(|range| {
                (range.start.0..range.end())
                    .step_by(STEP)
                    .map(|start| PageRange::between(start, range.end().min(start + STEP as u64)))
            })
            .collect();
        // Left to itself, rayon cuts this into a few large pieces, and one thread ends long after
        // the others.
        let sum = steps
            .par_iter()
            .with_max_len(1)
            .map(|range| {
                let start = thread_cpu_time();
                let mut sum = 0_u128;
                // Each page is copied over the one before, and never leaves the nearest cache.
                let mut copy = [0; PAGE_SIZE];
                self.copy_some(*range, &mut copy, |page, bytes| {
                    sum = sum.wrapping_add(seed.hash_or_zero(page, bytes));
                    false
                })?;
                Ok((sum, thread_cpu_time().saturating_sub(start)))
            })
            .try_reduce(
                || (0, Duration::ZERO),
                |a, b| Ok((a.0.wrapping_add(b.0), a.1 + b.1)),
            )?;
        self.check_size()?;
        Ok(sum)
    }

    /// Whether the file is still as long as it was: the last page's remainder faults for nobody.
    ///
    /// # Errors
    /// [`ImageError::Truncated`] when it has become shorter.
    pub fn check_size(&self) -> Result<(), ImageError> {
        match self.file.metadata() {
            Ok(metadata) if metadata.len() >= self.map.len() as u64 => Ok(()),
            _ => Err(self.truncated()),
        }
    }

    fn truncated(&self) -> ImageError {
        ImageError::Truncated {
            path: self.path.clone(),
            size: self.file.metadata().map_or(0, |metadata| metadata.len()),
            expected: self.map.len() as u64,
        }
    }
}

/// The data extents of `file`, rounded outwards to pages, joined, and cut at `pages`.
pub(super) fn data_ranges(file: &File, pages: u64) -> io::Result<Vec<PageRange>> {
    let end = pages * PAGE_SIZE as u64;
    let mut ranges: Vec<PageRange> = Vec::new();
    let mut at = 0;
    while at < end {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole from here on.
            Err(rustix::io::Errno::NXIO) => break,
            // A file system without extents: all of it is data.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) if at == 0 => {
                return Ok(vec![PageRange::between(0, pages)]);
            }
            Err(error) => return Err(error.into()),
        };
        if data >= end {
            break;
        }
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data))?.clamp(data + 1, end);
        let range = PageRange::between(
            data / PAGE_SIZE as u64,
            hole.div_ceil(PAGE_SIZE as u64).min(pages),
        );
        match ranges.last_mut() {
            Some(last) if last.end() >= range.start.0 => {
                *last = PageRange::between(last.start.0, range.end());
            }
            _ => ranges.push(range),
        }
        at = hole;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(pages: u64, data: &[(u64, u8)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ram");
        let file = File::create(&path).unwrap();
        file.set_len(pages * PAGE_SIZE as u64).unwrap();
        for &(page, byte) in data {
            file.write_all_at(&[byte; PAGE_SIZE], page * PAGE_SIZE as u64)
                .unwrap();
        }
        (folder, path)
    }

    #[test]
    fn holes_are_not_data_and_neighbours_are_joined() {
        let (_folder, path) = image(4096, &[(0, 1), (1, 2), (100, 3), (4095, 4)]);
        let image = RawImage::open(&path).unwrap();
        let ranges = image.data_ranges().unwrap();
        for page in [0, 1, 100, 4095] {
            assert!(
                ranges
                    .iter()
                    .any(|range| range.start.0 <= page && page < range.end())
            );
        }
        let total: u64 = ranges.iter().map(|range| range.count).sum();
        assert!(total < 200, "holes were counted as data: {ranges:?}");
        assert!(
            ranges
                .windows(2)
                .all(|pair| pair[0].end() < pair[1].start.0)
        );
    }

    #[test]
    fn an_image_truncated_under_the_map_is_an_error_and_no_crash() {
        let (_folder, path) = image(64, &[(0, 1), (63, 2)]);
        let image = RawImage::open(&path).unwrap();
        let mut out = vec![0; 64 * PAGE_SIZE];
        image.copy(PageRange::between(0, 64), &mut out).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(PAGE_SIZE as u64)
            .unwrap();
        let error = image.copy(PageRange::between(0, 64), &mut out).unwrap_err();
        assert!(
            matches!(
                error,
                ImageError::Truncated {
                    size: 4096,
                    expected: 262_144,
                    ..
                }
            ),
            "{error}"
        );
    }

    /// A read behind the end must come back as zeroes and be counted.
    #[test]
    fn a_fault_inside_a_watched_map_reads_zeroes_and_is_counted() {
        let (_folder, path) = image(4, &[(3, 7)]);
        let image = RawImage::open(&path).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        // SAFETY: inside the map; the handler makes the read well defined.
        let byte = unsafe { std::ptr::read_volatile(image.map.as_ptr().add(3 * PAGE_SIZE)) };
        assert_eq!((byte, image.watch.faults()), (0, 1));
    }

    #[test]
    fn what_is_no_image_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        assert!(matches!(RawImage::open(&path), Err(ImageError::Io { .. })));
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(
            RawImage::open(&path),
            Err(ImageError::Empty { .. })
        ));
        std::fs::write(&path, vec![1; PAGE_SIZE + 1]).unwrap();
        assert!(matches!(
            RawImage::open(&path),
            Err(ImageError::NotWholePages { size: 4097, .. })
        ));
        assert!(matches!(
            RawImage::open(folder.path()),
            Err(ImageError::NotAFile { .. })
        ));
        // Nobody ever writes to it.
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(
            RawImage::open(&pipe),
            Err(ImageError::NotAFile { .. })
        ));
    }
}
