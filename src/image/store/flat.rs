//! A file with uncompressed pages: flat RAM, in one piece or several.
//!
//! There are two ways to read, and both are needed. For a digest or a comparison, pages are copied out
//! of a map one by one, and never leave the nearest cache. Pages to be sent are read in bulk: that runs
//! at 7 GB/s (measured) whatever the state of the page cache, while faults on a fresh map run at a
//! third of that to all of it, and leave page tables to tear down. Neither touches a hole: reading a
//! hole of a tmpfs file through a shared map would allocate it.
//!
//! On overlayfs a map shows a file as it was before its first write, even after another process has
//! written it, which copies it to the upper layer: there, pages are read for both purposes.
//!
//! Pages are written by `pwrite`, never through a map: for runs of pages it costs a third of the faults
//! on a fresh map, and a full disk is an error value instead of a signal.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::super::ImageError;
use super::super::map::ReadMap;
use super::{FileState, PageStore, len};
use crate::page::{PAGE_SIZE, PageIndex, PageRange};
use crate::{special, sync};

/// The type that statfs reports for overlayfs, `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAYFS: rustix::fs::FsWord = 0x794c_7630;

/// `TMPFS_MAGIC`, likewise.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// Pages that are contiguous in a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) pages: PageRange,
    /// Where they begin in the file, in bytes, aligned or not.
    pub(super) offset: u64,
}

impl Extent {
    /// Where this page of the extent begins in the file.
    fn offset_of(&self, page: u64) -> u64 {
        self.offset + (page - self.pages.start.0) * PAGE_SIZE as u64
    }

    fn end_offset(&self) -> u64 {
        self.offset_of(self.pages.end())
    }

    /// The pages to which these bytes of the file belong.
    fn pages_of(&self, bytes: Range<u64>) -> PageRange {
        let first = self.pages.start.0;
        PageRange::between(
            first + (bytes.start - self.offset) / PAGE_SIZE as u64,
            first + (bytes.end - self.offset).div_ceil(PAGE_SIZE as u64),
        )
    }
}

/// A file, and which of its bytes are which pages. Pages outside its extents are zero and read-only.
#[derive(Debug)]
pub(crate) struct FlatFile {
    path: PathBuf,
    file: File,
    pages: u64,
    /// Ascending by pages, without overlaps.
    extents: Vec<Extent>,
    /// Whether a map may show an older file than reading does.
    is_overlay: bool,
    /// Made on first use, and kept to the end: unmapping takes half as long as reading all of it, so
    /// it must not happen while a peer waits.
    map: OnceLock<ReadMap>,
    /// The kernel lets one thread at a time write to a file, and the others spin. On this lock they
    /// sleep instead, and leave the core to a thread with work.
    writing: Mutex<()>,
}

impl FlatFile {
    /// `extents` are ascending by pages, without overlaps.
    pub(super) fn new(file: File, path: PathBuf, extents: Vec<Extent>) -> FlatFile {
        FlatFile {
            path,
            pages: extents.last().map_or(0, |extent| extent.pages.end()),
            extents,
            is_overlay: rustix::fs::fstatfs(&file).is_ok_and(|about| about.f_type == OVERLAYFS),
            file,
            map: OnceLock::new(),
            writing: Mutex::new(()),
        }
    }

    /// The map, which is made on first use.
    pub(super) fn map(&self) -> Result<&ReadMap, ImageError> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        self.check_size()?;
        let map = ReadMap::of(&self.file, &self.path, self.file_len() as usize)?;
        // If another thread was faster, this one is unmapped again.
        Ok(self.map.get_or_init(|| map))
    }

    /// How long the file must be, in bytes.
    fn file_len(&self) -> u64 {
        let ends = self.extents.iter().map(Extent::end_offset);
        ends.max().unwrap_or(0)
    }

    /// Cuts `range` at the borders of extents. Each piece is its bytes within the range, and their
    /// offset in the file; `None` outside all extents.
    fn pieces(&self, range: PageRange) -> impl Iterator<Item = (Range<usize>, Option<u64>)> {
        assert!(range.end() <= self.pages);
        let mut at = range.start.0;
        let mut extents = self.extents.as_slice();
        std::iter::from_fn(move || {
            if at >= range.end() {
                return None;
            }
            let passed = extents.partition_point(|extent| extent.pages.end() <= at);
            extents = &extents[passed..];
            let (end, offset) = match extents.first() {
                Some(extent) if extent.pages.start.0 <= at => {
                    (extent.pages.end(), Some(extent.offset_of(at)))
                }
                Some(extent) => (extent.pages.start.0, None),
                None => (range.end(), None),
            };
            let start = at;
            at = end.min(range.end());
            let byte = |page: u64| (page - range.start.0) as usize * PAGE_SIZE;
            Some((byte(start)..byte(at), offset))
        })
    }

    /// [`FlatFile::pieces`] that must all lie in extents.
    fn pieces_to_write(
        &self,
        range: PageRange,
    ) -> impl Iterator<Item = Result<(Range<usize>, u64), ImageError>> {
        self.pieces(range)
            .map(|(bytes, offset)| Ok((bytes, offset.ok_or_else(|| self.read_only())?)))
    }

    /// Checks that the file's holes can be pages that have not changed.
    ///
    /// # Errors
    /// [`ImageError::NotADiff`], and I/O errors.
    pub(super) fn check_granularity(&self) -> Result<(), ImageError> {
        let refuse = |why: String| ImageError::NotADiff {
            path: self.path.clone(),
            why,
        };
        let about = rustix::fs::fstatfs(&self.file)
            .map_err(|error| self.failed("examine the file system of")(error.into()))?;
        let block = u64::try_from(about.f_bsize).unwrap_or(u64::MAX);
        if !holes_are_pages(about.f_type, block) {
            return Err(refuse(format!(
                "its file system has blocks of {block} bytes, larger than a page"
            )));
        }
        // With huge pages (`huge=` of the mount) the blocks stay small, and statfs says so; only the size
        // for I/O tells.
        let metadata = (self.file.metadata()).map_err(self.failed("examine"))?;
        let huge = metadata.blksize();
        if about.f_type == TMPFS && huge > PAGE_SIZE as u64 {
            return Err(refuse(format!(
                "it lies on a tmpfs with huge pages of {huge} bytes"
            )));
        }
        let (mut at, end) = (0, self.file_len());
        while let Some(data) =
            next_data(&self.file, at, end).map_err(self.failed("find the data of"))?
        {
            for edge in [data.start, data.end] {
                if edge % PAGE_SIZE as u64 != 0 {
                    return Err(refuse(format!(
                        "its data begins or ends within a page, at byte {edge}"
                    )));
                }
            }
            at = data.end;
        }
        Ok(())
    }

    fn truncated(&self) -> ImageError {
        ImageError::Truncated {
            path: self.path.clone(),
            size: special::size(&self.file).unwrap_or(0),
            expected: self.file_len(),
        }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> ImageError + use<> {
        ImageError::io(what, &self.path)
    }
}

impl PageStore for FlatFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn pages(&self) -> u64 {
        self.pages
    }

    fn data_ranges(&self) -> Result<Vec<PageRange>, ImageError> {
        let mut ranges: Vec<PageRange> = Vec::new();
        for extent in &self.extents {
            let (mut at, end) = (extent.offset, extent.end_offset());
            while at < end
                && let Some(data) =
                    next_data(&self.file, at, end).map_err(self.failed("find the data of"))?
            {
                at = data.end;
                let range = extent.pages_of(data);
                match ranges.last_mut() {
                    Some(last) if last.end() >= range.start.0 => {
                        *last = PageRange::between(last.start.0, range.end());
                    }
                    _ => ranges.push(range),
                }
            }
        }
        Ok(ranges)
    }

    fn next_data(&self, from: PageIndex) -> Result<PageIndex, ImageError> {
        for extent in &self.extents {
            let (first, end) = (extent.pages.start.0.max(from.0), extent.pages.end());
            if first < end {
                let offset = extent.offset_of(first);
                match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
                    Ok(at) if at < extent.end_offset() => {
                        return Ok(extent.pages_of(at..at + 1).start.max(PageIndex(first)));
                    }
                    Ok(_) | Err(Errno::NXIO) => {}
                    Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(PageIndex(first)),
                    Err(error) => return Err(self.failed("find the data of")(error.into())),
                }
            }
        }
        Ok(PageIndex(self.pages.max(from.0)))
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), ImageError> {
        assert_eq!(out.len(), len(range));
        for (bytes, offset) in self.pieces(range) {
            let out = &mut out[bytes];
            let Some(offset) = offset else {
                out.fill(0);
                continue;
            };
            self.file.read_exact_at(out, offset).map_err(|error| {
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    self.truncated()
                } else {
                    self.failed("read")(error)
                }
            })?;
        }
        Ok(())
    }

    fn copy(&self, range: PageRange, out: &mut [u8]) -> Result<(), ImageError> {
        if self.is_overlay {
            return self.read(range, out);
        }
        assert_eq!(out.len(), len(range));
        let map = self.map()?;
        for (bytes, offset) in self.pieces(range) {
            let out = &mut out[bytes];
            match offset {
                None => out.fill(0),
                Some(offset) if map.copy(offset as usize, out) => {}
                Some(_) => return Err(self.truncated()),
            }
        }
        Ok(())
    }

    fn place(&self, first: PageIndex, bytes: &[u8]) -> Result<(), ImageError> {
        assert!(bytes.len().is_multiple_of(PAGE_SIZE));
        let end = first.0 + (bytes.len() / PAGE_SIZE) as u64;
        let _turn = sync::lock(&self.writing);
        for piece in self.pieces_to_write(PageRange::between(first.0, end)) {
            let (piece, offset) = piece?;
            self.file
                .write_all_at(&bytes[piece], offset)
                .map_err(self.failed("write"))?;
        }
        Ok(())
    }

    fn clear(&self, range: PageRange) -> Result<(), ImageError> {
        for piece in self.pieces_to_write(range) {
            let (piece, offset) = piece?;
            make_zero(&self.file, offset, piece.len() as u64)
                .map_err(self.failed("punch a hole into"))?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), ImageError> {
        self.file.sync_data().map_err(self.failed("sync"))
    }

    fn file_state(&self) -> Result<FileState, ImageError> {
        let metadata = self.file.metadata().map_err(self.failed("examine"))?;
        Ok(FileState::of(&metadata))
    }

    fn check_size(&self) -> Result<(), ImageError> {
        let size = special::size(&self.file).map_err(self.failed("examine"))?;
        if size >= self.file_len() {
            Ok(())
        } else {
            Err(self.truncated())
        }
    }
}

/// The first range of data within `at..end`; `None`: all of it is a hole.
fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data,
        // The rest of the file is a hole.
        Err(Errno::NXIO) => return Ok(None),
        // A file system without holes: all of it is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(at..end)),
        Err(error) => return Err(error.into()),
    };
    if data >= end {
        return Ok(None);
    }
    let hole = rustix::fs::seek(file, SeekFrom::Hole(data))?;
    Ok(Some(data..hole.clamp(data + 1, end)))
}

/// Punches a hole, or writes zeros where the file system has no holes.
fn make_zero(file: &File, mut at: u64, len: u64) -> io::Result<()> {
    static ZEROS: [u8; 16 * PAGE_SIZE] = [0; 16 * PAGE_SIZE];
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, at, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let end = at + len;
            while at < end {
                let len = (end - at).min(ZEROS.len() as u64);
                file.write_all_at(&ZEROS[..len as usize], at)?;
                at += len;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Whether a hole in a file system of this type, with blocks of `block` bytes, may be a single page. If
/// not, one page of data makes its neighbours data too, and their zeros would replace pages. Overlayfs
/// reports a size that is not its layers'.
fn holes_are_pages(f_type: rustix::fs::FsWord, block: u64) -> bool {
    f_type == OVERLAYFS || block <= PAGE_SIZE as u64
}

#[cfg(test)]
mod tests {
    use super::super::super::ImageFormat;
    use super::*;

    /// A raw image of which only these pages are data.
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
        let ranges = FlatFile::open(&path, ImageFormat::Raw)
            .unwrap()
            .data_ranges()
            .unwrap();
        for page in [0, 1, 100, 4095] {
            let holds = |range: &PageRange| range.start.0 <= page && page < range.end();
            assert!(ranges.iter().any(holds));
        }
        let total: u64 = ranges.iter().map(|range| range.count).sum();
        assert!(total < 200, "holes were counted as data: {ranges:?}");
        let apart = |pair: &[PageRange]| pair[0].end() < pair[1].start.0;
        assert!(ranges.windows(2).all(apart));
    }

    #[test]
    fn an_image_truncated_under_the_map_is_an_error_and_no_crash() {
        let (_folder, path) = image(64, &[(0, 1), (63, 2)]);
        let image = FlatFile::open(&path, ImageFormat::Raw).unwrap();
        let all = PageRange::between(0, 64);
        let mut out = vec![0; 64 * PAGE_SIZE];
        image.copy(all, &mut out).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(PAGE_SIZE as u64).unwrap();
        for error in [
            image.copy(all, &mut out).unwrap_err(),
            image.read(all, &mut out).unwrap_err(),
            image.check_size().unwrap_err(),
        ] {
            let ImageError::Truncated { size, expected, .. } = error else {
                panic!("{error}");
            };
            assert_eq!((size, expected), (4096, 262_144));
        }
    }

    /// After a header of 100 bytes page 4, then pages 2 and 3; pages 0 and 1 are not in the file.
    fn in_pieces(file: File, path: PathBuf) -> FlatFile {
        let at = |pages: Range<u64>, offset| Extent {
            pages: PageRange::between(pages.start, pages.end),
            offset,
        };
        let extents = vec![at(2..4, 100 + 4096), at(4..5, 100)];
        FlatFile::new(file, path, extents)
    }

    #[test]
    fn pages_are_found_at_any_offset_and_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ram");
        let header = [9; 100];
        let pages = [4, 2, 3].map(|byte| [byte; PAGE_SIZE]).concat();
        std::fs::write(&path, [&header[..], &pages].concat()).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let flat = in_pieces(file, path.clone());
        assert_eq!(flat.pages(), 5);
        assert_eq!(flat.data_ranges().unwrap(), [PageRange::between(2, 5)]);
        assert_eq!(flat.next_data(PageIndex(0)).unwrap(), PageIndex(2));
        assert_eq!(flat.next_data(PageIndex(4)).unwrap(), PageIndex(4));

        let expected = [0, 0, 2, 3, 4].map(|byte| [byte; PAGE_SIZE]).concat();
        for first in 0..5 {
            let (range, expected) = (
                PageRange::between(first, 5),
                &expected[first as usize * PAGE_SIZE..],
            );
            let mut out = vec![7; len(range)];
            flat.read(range, &mut out).unwrap();
            assert!(out == expected, "read from page {first} on");
            out.fill(7);
            flat.copy(range, &mut out).unwrap();
            assert!(out == expected, "copied from page {first} on");
        }

        flat.place(PageIndex(3), &[8; 2 * PAGE_SIZE]).unwrap();
        flat.clear(PageRange::between(2, 3)).unwrap();
        let expected = [8, 0, 8].map(|byte| [byte; PAGE_SIZE]).concat();
        assert!(std::fs::read(&path).unwrap() == [&header[..], &expected].concat());
        let refused = flat.place(PageIndex(1), &[8; 2 * PAGE_SIZE]).unwrap_err();
        assert!(matches!(refused, ImageError::ReadOnly { .. }), "{refused}");
    }

    #[test]
    fn diffs_need_blocks_of_at_most_a_page() {
        const EXT4: rustix::fs::FsWord = 0xef53;
        assert!(holes_are_pages(EXT4, 1024) && holes_are_pages(EXT4, 4096));
        assert!(!holes_are_pages(EXT4, 8192) && !holes_are_pages(EXT4, u64::MAX));
        assert!(holes_are_pages(OVERLAYFS, 1 << 20));
    }
}
