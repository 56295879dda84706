//! Which pages a frame carries, and how.

use super::reader::{Reader, put_uleb};
use crate::page::{PageIndex, PageRange};
use crate::wire::WireError;

/// How the pages of a run are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// The page is zero, and not in the body.
    Zero = 0,
    /// The body holds the page.
    Whole = 1,
    /// The body holds an XBZRLE delta against what the destination holds.
    Delta = 2,
    /// The body holds the page uncompressed, after everything that is compressed.
    Stored = 3,
}

impl Class {
    fn from_wire(number: u64) -> Class {
        match number & 3 {
            0 => Class::Zero,
            1 => Class::Whole,
            2 => Class::Delta,
            _ => Class::Stored,
        }
    }
}

/// Neighbouring pages that are carried in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The pages.
    pub range: PageRange,
    /// How they are carried.
    pub class: Class,
}

/// Runs of pages of one block, ascending, without overlap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageSet {
    runs: Vec<Run>,
}

impl PageSet {
    /// Appends one page, which must come after all that are in the set.
    pub fn push(&mut self, page: PageIndex, class: Class) {
        self.push_range(
            PageRange {
                start: page,
                count: 1,
            },
            class,
        );
    }

    /// Appends neighbouring pages, which must come after all that are in the set.
    pub fn push_range(&mut self, range: PageRange, class: Class) {
        debug_assert!(
            self.runs
                .last()
                .is_none_or(|last| last.range.end() <= range.start.0)
        );
        match self.runs.last_mut() {
            Some(last) if last.class == class && last.range.end() == range.start.0 => {
                last.range.count += range.count;
            }
            _ => self.runs.push(Run { range, class }),
        }
    }

    /// Empties the set, but keeps its memory.
    pub fn clear(&mut self) {
        self.runs.clear();
    }

    /// The runs, ascending.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// How many pages there are, of all classes.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| run.range.count).sum()
    }

    /// How many pages of one class there are.
    pub fn count(&self, class: Class) -> u64 {
        self.of(class).map(|range| range.count).sum()
    }

    /// The runs of one class.
    pub fn of(&self, class: Class) -> impl Iterator<Item = PageRange> {
        self.runs
            .iter()
            .filter(move |run| run.class == class)
            .map(|run| run.range)
    }

    /// Appends the set in wire form.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut at = 0;
        for run in &self.runs {
            put_uleb(out, run.range.start.0 - at);
            put_uleb(out, (run.range.count - 1) << 2 | run.class as u64);
            at = run.range.end();
        }
    }

    /// Reads a set that fills `bytes`, of a block with `block_pages` pages.
    ///
    /// # Errors
    /// A page outside the block, and bytes that are missing or left over.
    pub fn read(&mut self, bytes: &[u8], block_pages: u64) -> Result<(), WireError> {
        self.clear();
        let mut reader = Reader::new("page set", bytes);
        let mut at = 0_u64;
        while !reader.is_empty() {
            let gap = reader.uleb()?;
            let run = reader.uleb()?;
            let class = Class::from_wire(run);
            let start = at.saturating_add(gap);
            let end = start.saturating_add((run >> 2) + 1);
            if end > block_pages {
                return Err(WireError::TooLarge {
                    field: "the end of a run of pages",
                    given: end,
                    allowed: block_pages,
                });
            }
            self.push_range(PageRange::between(start, end), class);
            at = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_set_has_these_bytes() {
        let mut set = PageSet::default();
        set.push(PageIndex(0), Class::Whole);
        set.push(PageIndex(1), Class::Whole);
        set.push(PageIndex(2), Class::Zero);
        set.push(PageIndex(300), Class::Delta);
        let mut bytes = Vec::new();
        set.write(&mut bytes);
        assert_eq!(bytes, [0, 0b101, 0, 0b000, 0xa9, 0x02, 0b010]);
    }

    #[test]
    fn a_page_outside_the_block_and_an_overlong_number_are_refused() {
        let mut set = PageSet::default();
        assert!(set.read(&[9, 0b01], 10).is_ok());
        assert!(matches!(
            set.read(&[10, 0b01], 10),
            Err(WireError::TooLarge {
                given: 11,
                allowed: 10,
                ..
            })
        ));
        assert!(matches!(set.read(&[0], 10), Err(WireError::Short { .. })));
        assert!(set.read(&[0xff; 10], u64::MAX).is_err());
        assert!(set.read(&[0xff; 11], u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn a_page_set_survives_the_wire(runs in proptest::collection::vec((0_u64..1000, 1_u64..1000, 0..4_u64), 0..50)) {
            let mut set = PageSet::default();
            let mut at = 0;
            for (gap, count, class) in runs {
                let class = Class::from_wire(class);
                set.push_range(PageRange::between(at + gap, at + gap + count), class);
                at += gap + count;
            }
            let mut bytes = Vec::new();
            set.write(&mut bytes);
            let mut back = PageSet::default();
            back.read(&bytes, at).unwrap();
            prop_assert_eq!(back, set);
        }

        #[test]
        fn any_bytes_are_a_set_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64), pages in any::<u64>()) {
            let mut set = PageSet::default();
            if set.read(&bytes, pages).is_ok() {
                prop_assert!(set.runs().iter().all(|run| run.range.end() <= pages));
            }
        }
    }
}
