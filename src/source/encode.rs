//! One batch: from ranges of pages to a packet.
//!
//! What every wire needs: pages are copied out of the image, zero pages found, the others hashed.
//! How they are written is up to the wire's [`Encode`].

use crate::codec::{self, CodecError, CodecSettings, Encoded, Encoder};
use crate::error::{Error, Kind, Result};
use crate::image::Block;
use crate::page::{PAGE_SIZE, PageIndex, is_zero};
use crate::stats::Tally;

use super::job::{Job, SendState};

/// How a page of a batch travels, as far as that is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// As a number: all of its bytes are 0.
    Zero,
    /// In full.
    Whole,
    /// In full, and not compressed because that would not make it shorter.
    Stored,
    /// As a delta from what the destination holds.
    Delta,
    /// Not at all: the destination holds it already.
    Unchanged,
}

/// A page of the batch in hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    pub(super) page: PageIndex,
    /// 0 for a zero page.
    pub(super) hash: u128,
    pub(super) fate: Fate,
}

/// Copies the pages out of the image and packs those that are not zero into `packed`. Returns how
/// many bytes they are.
pub(super) fn read(job: &Job, pages: &mut Vec<Copied>, packed: &mut [u8]) -> Result<usize> {
    let block = job.block();
    pages.clear();
    let mut filled = 0;
    for &range in &job.ranges {
        filled += block.read_some(range, &mut packed[filled..], |page, bytes| {
            let zero = is_zero(bytes);
            pages.push(Copied {
                page,
                hash: 0,
                fate: if zero { Fate::Zero } else { Fate::Whole },
            });
            !zero
        })?;
    }
    Ok(filled)
}

/// Hashes the packed pages and adds the change of the digest to `tally`.
pub(super) fn hash(
    state: &SendState<'_>,
    block: &Block,
    pages: &mut [Copied],
    packed: &[u8],
    tally: &mut Tally,
) {
    let mut packed = packed.chunks_exact(PAGE_SIZE);
    for copied in pages {
        if copied.fate == Fate::Whole {
            copied.hash = packed
                .next()
                .map_or(0, |bytes| block.seed().hash(copied.page, bytes));
        }
        let before = match &state.sent {
            Some(sent) => sent.replace(block.key(copied.page), copied.hash),
            None => 0,
        };
        count(tally, copied.page, before, copied.hash);
    }
}

/// Adds to the sums that the page's hash is another one now.
fn count(tally: &mut Tally, page: PageIndex, before: u128, now: u128) {
    tally.hashes = tally.hashes.wrapping_add(now).wrapping_sub(before);
    if page.is_sampled() {
        tally.sample = tally.sample.wrapping_add(now).wrapping_sub(before);
    }
}

/// As [`hash`], of pages that lie in a hole.
pub(super) fn hash_holes(state: &SendState<'_>, job: &Job, tally: &mut Tally) {
    let Some(sent) = &state.sent else { return };
    let block = job.block();
    for page in job.pages() {
        let before = sent.replace(block.key(page), 0);
        count(tally, page, before, 0);
    }
}

/// A thread's compressor, with the settings that it was made for.
#[derive(Default)]
pub(super) struct CodecSlot(Option<(CodecSettings, Box<dyn Encoder>)>);

impl CodecSlot {
    /// Compresses `plain` into `out`, with the compressor in hand if it has these settings.
    pub(super) fn encode(
        &mut self,
        settings: CodecSettings,
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<Encoded> {
        let encoder = match &mut self.0 {
            Some((made_for, encoder)) if *made_for == settings => encoder,
            slot => {
                let encoder = codec::encoder(settings).map_err(|error| {
                    let kind = match error {
                        CodecError::Level { .. } => Kind::Usage,
                        _ => Kind::Failed,
                    };
                    Error::new(kind, error)
                })?;
                &mut slot.insert((settings, encoder)).1
            }
        };
        encoder
            .encode(plain, out)
            .map_err(|error| Error::new(Kind::Failed, error))
    }
}
