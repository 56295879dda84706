//! A set of dirty pages, one bit each, iterated as runs.

use crate::page::{PageIndex, PageRange};

/// The dirty pages of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    pages: u64,
}

impl Bitmap {
    /// A bitmap of `pages` pages, all clean.
    pub fn new(pages: u64) -> Bitmap {
        Bitmap {
            words: vec![0; pages.div_ceil(64) as usize],
            pages,
        }
    }

    /// Marks a page as dirty.
    ///
    /// # Panics
    /// If the page lies outside the block.
    pub fn set(&mut self, page: PageIndex) {
        assert!(page.0 < self.pages);
        self.words[(page.0 / 64) as usize] |= 1 << (page.0 % 64);
    }

    /// The size of the block in pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Marks all pages of the range as dirty. Pages outside the block are ignored.
    pub fn insert(&mut self, range: PageRange) {
        self.change(range, |word, mask| *word |= mask);
    }

    /// Marks all pages of the range as clean.
    pub fn remove(&mut self, range: PageRange) {
        self.change(range, |word, mask| {
            if *word & mask != 0 {
                *word &= !mask;
            }
        });
    }

    /// Moves all dirty pages of `other`, a bitmap of the same block, into this one.
    pub fn absorb(&mut self, other: &mut Bitmap) {
        for (word, other) in self.words.iter_mut().zip(&mut other.words) {
            // The system has no memory yet for what was never written.
            if *other != 0 {
                *word |= std::mem::take(other);
            }
        }
    }

    fn change(&mut self, range: PageRange, change: impl Fn(&mut u64, u64)) {
        let end = range.end().min(self.pages);
        let mut at = range.start.0;
        while at < end {
            let next = end.min((at / 64 + 1) * 64);
            let mask = u64::MAX >> (64 - (next - at)) << (at % 64);
            change(&mut self.words[(at / 64) as usize], mask);
            at = next;
        }
    }

    /// The number of dirty pages.
    pub fn count(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// The dirty pages as runs, ascending.
    pub fn runs(&self) -> impl Iterator<Item = PageRange> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let run = self.next_run(at, u64::MAX)?;
            at = run.end();
            Some(run)
        })
    }

    /// The first run of dirty pages at or after `from`, cut after `most` pages.
    pub fn next_run(&self, from: u64, most: u64) -> Option<PageRange> {
        let start = self.next(from, self.pages, true)?;
        let limit = start.saturating_add(most).min(self.pages);
        let end = self.next(start, limit, false).unwrap_or(limit);
        Some(PageRange::between(start, end))
    }

    /// The first page at or after `from`, and below `limit`, that is dirty, or that is not.
    fn next(&self, from: u64, limit: u64, dirty: bool) -> Option<u64> {
        let mut index = (from / 64) as usize;
        let mut mask = u64::MAX << (from % 64);
        while let Some(&word) = self.words.get(index)
            && (index as u64) * 64 < limit
        {
            let wanted = if dirty { word } else { !word } & mask;
            if wanted != 0 {
                let page = index as u64 * 64 + u64::from(wanted.trailing_zeros());
                return (page < limit).then_some(page);
            }
            mask = u64::MAX;
            index += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_exactly_the_pages_that_were_set(
            pages in 1_u64..300,
            set in proptest::collection::btree_set(0_u64..300, 0..200),
        ) {
            let set: Vec<u64> = set.into_iter().filter(|&page| page < pages).collect();
            let mut bitmap = Bitmap::new(pages);
            set.iter().for_each(|&page| bitmap.set(PageIndex(page)));
            let runs: Vec<PageRange> = bitmap.runs().collect();
            let back: Vec<u64> = runs.iter().flat_map(|run| run.pages()).map(|page| page.0).collect();
            prop_assert_eq!(&back, &set);
            prop_assert_eq!(bitmap.count(), set.len() as u64);
            prop_assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].start.0), "runs are maximal");
        }

        #[test]
        fn ranges_go_in_and_out_as_page_by_page(
            pages in 1_u64..300,
            changes in proptest::collection::vec((any::<bool>(), 0_u64..300, 0_u64..200), 0..20),
            most in 1_u64..100,
        ) {
            let mut bitmap = Bitmap::new(pages);
            let mut model = std::collections::BTreeSet::new();
            for (goes_in, start, count) in changes {
                let range = PageRange::between(start, start + count);
                let inside = range.pages().map(|page| page.0).filter(|&page| page < pages);
                if goes_in {
                    bitmap.insert(range);
                    model.extend(inside);
                } else {
                    bitmap.remove(range);
                    inside.for_each(|page| { model.remove(&page); });
                }
            }
            let mut other = Bitmap::new(pages);
            other.absorb(&mut bitmap);
            prop_assert_eq!(bitmap.count(), 0);
            let mut found = Vec::new();
            while let Some(run) = other.next_run(found.last().map_or(0, |last| last + 1), most) {
                prop_assert!((1..=most).contains(&run.count));
                found.extend(run.pages().map(|page| page.0));
            }
            prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
        }
    }
}
