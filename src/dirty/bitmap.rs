//! A set of dirty pages, one bit each, walked by runs of neighbours.

use crate::page::{PageIndex, PageRange};

/// The dirty pages of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    pages: u64,
}

impl Bitmap {
    /// A bitmap over `pages` pages, all of them clean.
    pub fn new(pages: u64) -> Bitmap {
        Bitmap {
            words: vec![0; pages.div_ceil(64) as usize],
            pages,
        }
    }

    /// Marks a page as dirty.
    ///
    /// # Panics
    /// When the page lies outside the block.
    pub fn set(&mut self, page: PageIndex) {
        assert!(page.0 < self.pages);
        self.words[(page.0 / 64) as usize] |= 1 << (page.0 % 64);
    }

    /// How many pages it is over.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many pages are dirty.
    pub fn count(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// The dirty pages as runs of neighbours, ascending.
    pub fn runs(&self) -> impl Iterator<Item = PageRange> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, true)?;
            let end = self.next(start, false).unwrap_or(self.pages);
            at = end;
            Some(PageRange::between(start, end))
        })
    }

    /// The first page from `from` on that is dirty, or is not.
    fn next(&self, from: u64, dirty: bool) -> Option<u64> {
        let mut index = (from / 64) as usize;
        let mut mask = u64::MAX << (from % 64);
        while let Some(&word) = self.words.get(index) {
            let wanted = if dirty { word } else { !word } & mask;
            if wanted != 0 {
                let page = index as u64 * 64 + u64::from(wanted.trailing_zeros());
                return (page < self.pages).then_some(page);
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
    }
}
