//! Finds changed pages by comparing RAM with the hashes of what was sent.
//!
//! It works for every image, writer and kernel. The hashes are those of the copies that were sent, so
//! a page that was written while it was being sent is found too.

use std::time::Duration;

use rayon::prelude::*;

use super::{Bitmap, PageHashes};
use crate::image::{Block, ImageError, Ram};
use crate::page::{PageIndex, PageRange};
use crate::pool::evenly;
use crate::sys::thread_cpu_time;

/// The pages of a block that must be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Pages in data extents.
    pub data: Bitmap,
    /// Pages that were not zero and are in holes now. They must not be read: reading a hole through a
    /// map may allocate it.
    pub holes: Bitmap,
}

impl Changed {
    /// All of them, ascending, with whether they are in holes.
    pub fn runs(&self) -> impl Iterator<Item = (PageRange, bool)> {
        let data = self.data.runs().map(|range| (range, false));
        let holes = self.holes.runs().map(|range| (range, true));
        let (mut data, mut holes) = (data.peekable(), holes.peekable());
        std::iter::from_fn(move || match (data.peek(), holes.peek()) {
            (Some((first, _)), Some((other, _))) if first.start < other.start => data.next(),
            (_, Some(_)) => holes.next(),
            (_, None) => data.next(),
        })
    }

    /// The number of all of them.
    pub fn count(&self) -> u64 {
        self.data.count() + self.holes.count()
    }
}

/// The pages of each block of `ram` whose hashes differ from those in `sent`, computed on rayon's
/// threads, and the CPU time that this took.
///
/// Only data extents are read. A page in a hole is dirty if it was not zero when it was sent.
///
/// # Errors
/// When an image cannot be read.
pub fn changed(ram: &Ram, sent: &PageHashes) -> Result<(Vec<Changed>, Duration), ImageError> {
    let mut time = Duration::ZERO;
    let blocks = ram
        .blocks()
        .iter()
        .map(|block| {
            let (changed, spent) = changed_in(block, sent)?;
            time += spent;
            Ok(changed)
        })
        .collect::<Result<_, ImageError>>()?;
    Ok((blocks, time))
}

fn changed_in(block: &Block, sent: &PageHashes) -> Result<(Changed, Duration), ImageError> {
    // Few enough pages to spread evenly, enough for spreading and the clock to cost nothing.
    const STEP: u64 = 128;
    let data = block.data_ranges()?;
    let steps: Vec<(PageRange, bool)> = with_holes(&data, block.range())
        .flat_map(|(range, is_data)| range.steps(STEP).map(move |step| (step, is_data)))
        .collect();
    let differs = |page: PageIndex, hash: u128| sent.get(block.key(page)) != hash;
    let found: Vec<(bool, Vec<PageIndex>, Duration)> = evenly(&steps)
        .map(|&(range, is_data)| {
            let start = thread_cpu_time();
            let mut pages = Vec::new();
            if is_data {
                block.scan(range, |page, bytes| {
                    if differs(page, block.seed().hash_or_zero(page, bytes)) {
                        pages.push(page);
                    }
                })?;
            } else {
                pages.extend(range.pages().filter(|page| differs(*page, 0)));
            }
            Ok((is_data, pages, thread_cpu_time().saturating_sub(start)))
        })
        .collect::<Result<_, ImageError>>()?;

    let mut changed = Changed {
        data: Bitmap::new(block.pages()),
        holes: Bitmap::new(block.pages()),
    };
    let mut time = Duration::ZERO;
    for (is_data, pages, spent) in found {
        let bitmap = if is_data {
            &mut changed.data
        } else {
            &mut changed.holes
        };
        pages.into_iter().for_each(|page| bitmap.set(page));
        time += spent;
    }
    Ok((changed, time))
}

/// `whole` in order, cut into ranges of data and ranges of holes. `data` is ascending and within it.
pub fn with_holes(data: &[PageRange], whole: PageRange) -> impl Iterator<Item = (PageRange, bool)> {
    let ends = data.iter().map(|range| range.end());
    let starts = data.iter().map(|range| range.start.0);
    let hole_starts = std::iter::once(whole.start.0).chain(ends);
    let hole_ends = starts.chain(std::iter::once(whole.end()));
    let holes = hole_starts
        .zip(hole_ends)
        .map(|(start, end)| (PageRange::between(start, end), false));
    let data = data.iter().map(|&range| Some((range, true))).chain([None]);
    holes
        .zip(data)
        .flat_map(|(hole, data)| [Some(hole), data])
        .flatten()
        .filter(|(range, _)| range.count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Guest;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    #[test]
    fn data_and_holes_together_cover_everything() {
        let whole = PageRange::between(0, 10);
        let data = [PageRange::between(2, 4), PageRange::between(9, 10)];
        let parts: Vec<_> = with_holes(&data, whole)
            .map(|(range, data)| (range.start.0, range.end(), data))
            .collect();
        assert_eq!(
            parts,
            [(0, 2, false), (2, 4, true), (4, 9, false), (9, 10, true)]
        );
        assert_eq!(with_holes(&[whole], whole).count(), 1);
        assert_eq!(with_holes(&[], whole).count(), 1);
    }

    #[test]
    fn exactly_the_changed_pages_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ram");
        let file = File::create(&path).unwrap();
        file.set_len(1000 * 4096).unwrap();
        for page in [0, 5, 70, 999] {
            file.write_all_at(&[page as u8 + 1; 4096], page * 4096)
                .unwrap();
        }
        let guest = Guest::open(&path).unwrap();
        let block = &guest.blocks()[0];
        let sent = PageHashes::new(guest.pages());
        for page in [0, 5, 70, 999] {
            sent.replace(
                page,
                block.seed().hash(PageIndex(page), &[page as u8 + 1; 4096]),
            );
        }
        assert_eq!(changed(guest.ram(), &sent).unwrap().0[0].count(), 0);

        file.write_all_at(&[1], 70 * 4096 + 17).unwrap(); // changed
        file.write_all_at(&[0; 4096], 5 * 4096).unwrap(); // has become zero
        file.write_all_at(&[1], 300 * 4096).unwrap(); // was a hole
        sent.replace(800, 1); // is a hole now
        let found = &changed(guest.ram(), &sent).unwrap().0[0];
        let pages = |bitmap: &Bitmap| -> Vec<u64> {
            bitmap
                .runs()
                .flat_map(PageRange::pages)
                .map(|page| page.0)
                .collect()
        };
        assert_eq!(pages(&found.data), [5, 70, 300]);
        assert_eq!(pages(&found.holes), [800]);
    }
}
