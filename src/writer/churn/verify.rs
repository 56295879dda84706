//! Whether an image holds exactly what a churn left: the writes are replayed over what was there
//! before, and compared.

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::ChurnError;
use super::plan::Spot;
use super::records::{CHUNK, HASH_LEN, Kept, Progress};
use crate::error::{Error, Kind, Result};
use crate::image::{Block, ImageError, ImageFormat, RAW_BLOCK_NAME};
use crate::page::{BlockSeed, PAGE_SIZE, PageRange};

/// What an image was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verified {
    /// The pages that were compared: all of them.
    pub pages: u64,
    /// The writes that must be there.
    pub writes: u64,
    /// The writes of which any part may be there, at most one per thread.
    pub in_flight: u64,
    /// The pages that are not as they must be.
    pub differing: u64,
    /// The first of them.
    pub first_differing: Option<u64>,
}

impl Verified {
    /// Nothing, if the image is as it must be.
    ///
    /// # Errors
    /// Of [`Kind::Differs`], naming the first page that is not and how many are not.
    pub fn into_result(self, image: &Path) -> Result<()> {
        match self.first_differing {
            None => Ok(()),
            Some(first) => Err(ChurnError::Differs {
                path: image.to_owned(),
                pages: self.differing,
                first,
            }
            .into()),
        }
    }
}

/// What a thread's pages must hold.
struct Expected {
    /// Its pages, one after the other.
    pages: Vec<u8>,
    /// The write of which each byte may be there or not.
    in_flight: Option<(Spot, Vec<u8>)>,
}

/// Compares an image with what the records say it must hold. Needs as much memory as the working
/// set and a 256th of the rest.
///
/// # Errors
/// When a file cannot be read, is not what it should be, or is written meanwhile. A difference is a
/// result, not an error.
pub fn verify(image: &Path, records: &Path) -> Result<Verified> {
    let kept = Kept::open(records)?;
    let before = kept.progress()?;
    let raw = Block::open(image, ImageFormat::Raw)?;
    if raw.pages() != kept.pages {
        let other = ImageError::OtherSize {
            path: image.to_owned(),
            size: raw.pages() * PAGE_SIZE as u64,
            expected: kept.pages.saturating_mul(PAGE_SIZE as u64),
        };
        return Err(Error::new(Kind::Differs, other));
    }
    let expected: Vec<Expected> = (0..kept.plan.threads)
        .into_par_iter()
        .zip(&before)
        .map(|(thread, progress)| replay(&kept, thread, *progress))
        .collect::<Result<_>>()?;
    let hashes = kept.hashes()?;
    let whole = PageRange::between(0, kept.pages);
    let (differing, first_differing) = whole
        .steps(CHUNK)
        .par_bridge()
        .map(|chunk| compare(&raw, chunk, &expected, (&kept, &hashes)))
        .try_reduce(
            || (0, None),
            |a, b| Ok((a.0 + b.0, a.1.into_iter().chain(b.1).min())),
        )?;
    raw.check_size()?;
    unmoved(&kept, &before)?;
    Ok(Verified {
        pages: kept.pages,
        writes: before.iter().map(|progress| progress.done).sum(),
        in_flight: before.iter().filter(|progress| progress.in_flight).count() as u64,
        differing,
        first_differing,
    })
}

/// The comparison is only valid if nothing was written meanwhile.
pub(super) fn unmoved(kept: &Kept, before: &[Progress]) -> Result<()> {
    if kept.progress()? == before {
        Ok(())
    } else {
        Err(ChurnError::StillWriting { path: kept.path() }.into())
    }
}

fn replay(kept: &Kept, thread: u32, progress: Progress) -> Result<Expected> {
    let (plan, threads) = (&kept.plan, u64::from(kept.plan.threads));
    // Untouched zero pages take no memory: a sparse working set stays sparse.
    let mut pages = vec![0; plan.own_pages(thread) as usize * PAGE_SIZE];
    let mut buffer = vec![0; super::records::CHUNK as usize * PAGE_SIZE];
    for chunk in kept
        .base_ranges()?
        .into_iter()
        .flat_map(|range| range.steps(CHUNK))
    {
        kept.base(chunk, &mut buffer)?;
        for (page, bytes) in chunk.pages().zip(buffer.chunks_exact(PAGE_SIZE)) {
            if page.0 % threads == u64::from(thread) {
                let at = (page.0 / threads) as usize * PAGE_SIZE;
                pages[at..at + PAGE_SIZE].copy_from_slice(bytes);
            }
        }
    }
    let mut bytes = vec![0; plan.bytes_per_write as usize];
    for number in 1..=progress.done {
        let spot = plan.write(thread, number, &mut bytes);
        let at = spot.slot as usize * PAGE_SIZE + spot.offset;
        pages[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    let in_flight = progress
        .in_flight
        .then(|| (plan.write(thread, progress.done + 1, &mut bytes), bytes));
    Ok(Expected { pages, in_flight })
}

/// How many pages of a chunk are not as they must be, and the first of them.
fn compare(
    image: &Block,
    chunk: PageRange,
    expected: &[Expected],
    (kept, hashes): (&Kept, &[u8]),
) -> Result<(u64, Option<u64>)> {
    let seed = BlockSeed::new(RAW_BLOCK_NAME);
    let threads = expected.len() as u64;
    let (mut count, mut first) = (0, None);
    let mut buffer = vec![0; chunk.count as usize * PAGE_SIZE];
    image.read_some(chunk, &mut buffer, |page, found| {
        let same = match page.0.checked_sub(kept.plan.working_set) {
            None => {
                let lane = &expected[(page.0 % threads) as usize];
                let slot = page.0 / threads;
                let at = slot as usize * PAGE_SIZE;
                let must = &lane.pages[at..at + PAGE_SIZE];
                found == must || in_flight(found, must, slot, lane.in_flight.as_ref())
            }
            Some(after) => {
                let at = after as usize * HASH_LEN;
                hashes[at..at + HASH_LEN] == seed.hash_or_zero(page, found).to_le_bytes()
            }
        };
        if !same {
            count += 1;
            first.get_or_insert(page.0);
        }
        false
    })?;
    Ok((count, first))
}

/// Whether the page differs from what it must hold only in that some bytes of the write in flight
/// are there already: a store of many bytes can be stopped between any two.
fn in_flight(found: &[u8], must: &[u8], slot: u64, write: Option<&(Spot, Vec<u8>)>) -> bool {
    let Some((spot, bytes)) = write.filter(|(spot, _)| spot.slot == slot) else {
        return false;
    };
    let (start, end) = (spot.offset, spot.offset + bytes.len());
    found[..start] == must[..start]
        && found[end..] == must[end..]
        && (start..end).all(|at| found[at] == must[at] || found[at] == bytes[at - start])
}
