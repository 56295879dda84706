//! Which pages of each block have had a record, and whether that is a guest.
//!
//! A stream does not say how many pages it will bring. It is whole by its framing even if most of the
//! guest's RAM went elsewhere: with machine types up to 8.0, the main connection of a multifd migration
//! holds every section and all devices, but of the pages only zeros. On the other hand a source may
//! leave pages out: those that a guest's balloon reports as free (`free-page-hint`), whose contents do
//! not matter.
//!
//! Memory: 80 bytes for each stretch of [`STRETCH`] pages that had a record, whatever size a block is
//! said to have: 40 MiB for a guest of 1 TiB.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Record, RecordKind};
use crate::error::{Error, Kind};
use crate::page::PAGE_SIZE;
use crate::wire::BlockInfo;

/// Pages whose bits are allocated together.
const STRETCH: u64 = 512;

/// The pages that came, by block.
#[derive(Debug, Default)]
pub struct Arrivals {
    blocks: Vec<BlockArrivals>,
}

/// The pages of a block that came.
#[derive(Debug)]
struct BlockArrivals {
    name: String,
    pages: u64,
    records: u64,
    /// Records other than of zero pages.
    data: u64,
    distinct: u64,
    /// The stretch in hand, whose bits are not in `stretches`: neighbours mostly come one after the
    /// other.
    current: (u64, Bits),
    stretches: BTreeMap<u64, Bits>,
}

/// A bit for each page of a stretch.
type Bits = [u64; (STRETCH / 64) as usize];

/// The pages of a block that never came. They are zero at the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct MissingPages {
    /// The block's name.
    pub block: String,
    /// How many of its pages never came.
    pub missing: u64,
    /// How many it has.
    pub pages: u64,
}

/// The stream does not hold the guest's RAM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: this looks like the main connection of a multifd migration, recorded or forwarded alone; switch the \
     capability 'multifd' off at the source",
    self.what()
)]
pub struct NoRam {
    /// The block of which the most is missing.
    pub of: MissingPages,
}

impl NoRam {
    fn what(&self) -> String {
        let MissingPages {
            block,
            missing,
            pages,
        } = &self.of;
        if missing == pages {
            return format!("none of the {pages} pages of the block '{block}' came");
        }
        format!(
            "{missing} of the {pages} pages of the block '{block}' never came, and all that did are zero"
        )
    }
}

impl Arrivals {
    /// No page of these blocks has come.
    pub fn new(blocks: &[BlockInfo]) -> Arrivals {
        let block = |block: &BlockInfo| BlockArrivals {
            name: block.name.clone(),
            pages: block.bytes / PAGE_SIZE as u64,
            records: 0,
            data: 0,
            distinct: 0,
            current: (0, Bits::default()),
            stretches: BTreeMap::new(),
        };
        Arrivals {
            blocks: blocks.iter().map(block).collect(),
        }
    }

    /// A record has come.
    pub fn note(&mut self, record: &Record) {
        if let Some(block) = self.blocks.get_mut(usize::from(record.block)) {
            block.note(record);
        }
    }

    /// The number of records of a block, and of different pages in them.
    pub fn counts(&self, block: usize) -> (u64, u64) {
        self.blocks
            .get(block)
            .map_or((0, 0), |block| (block.records, block.distinct))
    }

    /// The blocks of which pages never came.
    pub fn missing(&self) -> Vec<MissingPages> {
        let all = self.blocks.iter().map(BlockArrivals::missing);
        all.filter(|block| block.missing > 0).collect()
    }

    /// Whether the stream, which is over, can be a guest. `virtio_mem`: it has such a device, of whose
    /// block only what is plugged comes.
    ///
    /// # Errors
    /// A block of which no page came, without `virtio_mem`; or pages are missing, and all that came are
    /// zero.
    pub fn check(&self, virtio_mem: bool) -> Result<(), NoRam> {
        let no_data = self.blocks.iter().all(|block| block.data == 0);
        let worst = self
            .blocks
            .iter()
            .filter(|block| no_data || (block.distinct == 0 && !virtio_mem))
            .map(BlockArrivals::missing)
            .filter(|block| block.missing > 0)
            .max_by_key(|block| block.missing);
        worst.map_or(Ok(()), |of| Err(NoRam { of }))
    }
}

impl BlockArrivals {
    fn note(&mut self, record: &Record) {
        self.records += 1;
        if record.kind != RecordKind::Zero {
            self.data += 1;
        }
        let stretch = record.page.0 / STRETCH;
        if self.current.0 != stretch {
            let next = self.stretches.remove(&stretch).unwrap_or_default();
            let (number, bits) = std::mem::replace(&mut self.current, (stretch, next));
            self.stretches.insert(number, bits);
        }
        let at = record.page.0 % STRETCH;
        let (word, bit) = (&mut self.current.1[(at / 64) as usize], 1 << (at % 64));
        if *word & bit == 0 {
            *word |= bit;
            self.distinct += 1;
        }
    }

    fn missing(&self) -> MissingPages {
        MissingPages {
            block: self.name.clone(),
            missing: self.pages - self.distinct,
            pages: self.pages,
        }
    }
}

impl From<NoRam> for Error {
    fn from(error: NoRam) -> Error {
        Error::new(Kind::Refused, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PageIndex;

    fn arrivals(blocks: &[(&str, u64)], records: &[(u16, u64, RecordKind)]) -> Arrivals {
        let blocks: Vec<BlockInfo> = (blocks.iter())
            .map(|&(name, pages)| BlockInfo {
                name: name.to_owned(),
                bytes: pages * PAGE_SIZE as u64,
            })
            .collect();
        let mut arrivals = Arrivals::new(&blocks);
        for &(block, page, kind) in records {
            arrivals.note(&Record {
                block,
                page: PageIndex(page),
                kind,
                payload: 1,
                continued: false,
            });
        }
        arrivals
    }

    #[test]
    fn a_page_counts_once_wherever_it_lies() {
        let pages = [0, 511, 512, 0, 1 << 40, 513, 511, 1 << 40];
        let records = pages.map(|page| (0, page, RecordKind::Page));
        let found = arrivals(&[("ram", 1 << 41)], &records);
        assert_eq!(found.counts(0), (8, 5));
        assert_eq!(found.missing()[0].missing, (1 << 41) - 5);
        assert_eq!(found.blocks[0].stretches.len(), 2, "and the one in hand");
    }

    #[test]
    fn what_a_balloon_leaves_out_is_missing_and_a_guest_all_the_same() {
        let records = [
            (0, 0, RecordKind::Page),
            (0, 1, RecordKind::Zero),
            (1, 0, RecordKind::Zero),
        ];
        let found = arrivals(&[("ram", 4), ("rom", 1)], &records);
        found.check(false).unwrap();
        let missing = found.missing();
        assert_eq!(missing.len(), 1);
        assert_eq!((missing[0].missing, missing[0].pages), (2, 4));
        // An idle guest: all of it is zero, and all of it came.
        let idle = arrivals(&[("ram", 1)], &[(0, 0, RecordKind::Zero)]);
        idle.check(false).unwrap();
        assert!(idle.missing().is_empty());
    }

    #[test]
    fn a_block_that_never_came_and_a_guest_of_zeros_alone_are_refused() {
        let whole = arrivals(&[("ram", 1), ("rom", 2)], &[(0, 0, RecordKind::Page)]);
        let error = whole.check(false).unwrap_err();
        assert_eq!((error.of.block.as_str(), error.of.missing), ("rom", 2));
        whole.check(true).unwrap();
        let zeros = [(0, 3, RecordKind::Zero), (1, 0, RecordKind::Zero)];
        let main = arrivals(&[("ram", 9), ("rom", 1)], &zeros);
        let error = main.check(false).unwrap_err();
        assert_eq!((error.of.block.as_str(), error.of.missing), ("ram", 8));
    }
}
