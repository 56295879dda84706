//! A sparse diff over another image: its data replaces pages, its holes leave them as they were.

use std::path::Path;
use std::sync::Arc;

use super::super::ImageError;
use super::{FileState, FlatFile, PageStore};
use crate::page::{PAGE_SIZE, PageIndex, PageRange};

/// The pages of a base, with those of a diff in their place.
#[derive(Debug)]
pub(in crate::image) struct Patched {
    base: Arc<dyn PageStore>,
    diff: FlatFile,
    /// What the diff replaces: ascending and not adjacent.
    ranges: Vec<PageRange>,
}

impl Patched {
    /// `diff` has as many pages as `base`. What is a hole is decided now.
    ///
    /// # Errors
    /// [`ImageError::NotADiff`] if the file system keeps holes in other units than pages, and I/O
    /// errors.
    pub(in crate::image) fn new(
        base: Arc<dyn PageStore>,
        diff: FlatFile,
    ) -> Result<Patched, ImageError> {
        diff.check_granularity()?;
        let ranges = diff.data_ranges()?;
        Ok(Patched { base, diff, ranges })
    }

    /// Cuts `range` at the borders of what the diff replaces: the pieces, and whether it does.
    fn pieces(&self, range: PageRange) -> impl Iterator<Item = (PageRange, bool)> {
        let mut at = range.start.0;
        std::iter::from_fn(move || {
            if at >= range.end() {
                return None;
            }
            let passed = self.ranges.partition_point(|data| data.end() <= at);
            let (end, replaced) = match self.ranges.get(passed) {
                Some(data) if data.start.0 <= at => (data.end(), true),
                Some(data) => (data.start.0, false),
                None => (range.end(), false),
            };
            let piece = PageRange::between(at, end.min(range.end()));
            at = piece.end();
            Some((piece, replaced))
        })
    }

    fn each(
        &self,
        range: PageRange,
        mut out: &mut [u8],
        read: impl Fn(&dyn PageStore, PageRange, &mut [u8]) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        for (piece, replaced) in self.pieces(range) {
            let (now, rest) = out.split_at_mut(piece.count as usize * PAGE_SIZE);
            out = rest;
            let store: &dyn PageStore = if replaced { &self.diff } else { &*self.base };
            read(store, piece, now)?;
        }
        Ok(())
    }
}

impl PageStore for Patched {
    fn path(&self) -> &Path {
        self.diff.path()
    }

    fn pages(&self) -> u64 {
        self.base.pages()
    }

    fn data_ranges(&self) -> Result<Vec<PageRange>, ImageError> {
        let mut all = self.base.data_ranges()?;
        all.extend(&self.ranges);
        all.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<PageRange> = Vec::new();
        for range in all {
            match joined.last_mut() {
                Some(last) if last.end() >= range.start.0 => {
                    *last = PageRange::between(last.start.0, last.end().max(range.end()));
                }
                _ => joined.push(range),
            }
        }
        Ok(joined)
    }

    fn next_data(&self, from: PageIndex) -> Result<PageIndex, ImageError> {
        let passed = self.ranges.partition_point(|data| data.end() <= from.0);
        let base = self.base.next_data(from)?;
        Ok(match self.ranges.get(passed) {
            Some(data) => base.min(data.start.max(from)),
            None => base,
        })
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), ImageError> {
        self.each(range, out, |store, piece, out| store.read(piece, out))
    }

    fn copy(&self, range: PageRange, out: &mut [u8]) -> Result<(), ImageError> {
        self.each(range, out, |store, piece, out| store.copy(piece, out))
    }

    fn file_state(&self) -> Result<FileState, ImageError> {
        self.diff.file_state()
    }

    fn check_size(&self) -> Result<(), ImageError> {
        self.base.check_size()?;
        self.diff.check_size()
    }
}
