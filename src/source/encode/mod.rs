//! One batch: from ranges of pages to a packet. What an encoder thread does all day.
//!
//! Here is what both wire formats need: pages are copied out of the image, zero pages found, the
//! others hashed. What becomes of them is [`native`]'s and [`qemu`]'s.

mod native;
mod qemu;

use crate::codec::{self, CodecSettings, Encoder};
use crate::error::{Error, Kind, Result};
use crate::image::Block;
use crate::page::{PAGE_SIZE, PageIndex, is_zero};
use crate::stats::Tally;
use crate::wire::Format;
use crate::wire::native::Class;

use super::pipeline::{Job, Packet, Shared};

/// Turns jobs into packets. Its buffers and its compressor live as long as its thread.
pub(super) enum EncodeWorker<'a> {
    Native(Box<native::Encode<'a>>),
    Qemu(Box<qemu::Encode<'a>>),
}

impl<'a> EncodeWorker<'a> {
    pub(super) fn new(shared: &'a Shared<'a>) -> Self {
        match shared.format {
            Format::Native => EncodeWorker::Native(Box::new(native::Encode::new(shared))),
            Format::Qemu => EncodeWorker::Qemu(Box::new(qemu::Encode::new(shared))),
        }
    }

    /// Encodes one batch. `busy`: no compressor was free, so it goes plain.
    pub(super) fn encode(&mut self, job: &Job, busy: bool) -> Result<Packet> {
        let packet = match self {
            EncodeWorker::Native(worker) => worker.encode(job, busy),
            EncodeWorker::Qemu(worker) => worker.encode(job, busy),
        };
        packet.map_err(|error| {
            let first = job.ranges.first().map_or(0, |range| range.start.0);
            error
                .in_stage("encode")
                .in_round(job.mark.round.0)
                .at_page(first)
        })
    }
}

/// A page of the batch in hand.
#[derive(Debug, Clone, Copy)]
struct Copied {
    page: PageIndex,
    /// 0 for a zero page.
    hash: u128,
    /// How it travels; `None` if it turned out to be unchanged.
    class: Option<Class>,
}

/// Copies the pages out of the image and packs those that are not zero into `packed`. Returns how
/// many bytes they are.
fn read(block: &Block, job: &Job, pages: &mut Vec<Copied>, packed: &mut [u8]) -> Result<usize> {
    pages.clear();
    let mut filled = 0;
    for &range in &job.ranges {
        filled += block.read_some(range, &mut packed[filled..], |page, bytes| {
            let zero = is_zero(bytes);
            pages.push(Copied {
                page,
                hash: 0,
                class: Some(if zero { Class::Zero } else { Class::Whole }),
            });
            !zero
        })?;
    }
    Ok(filled)
}

/// Hashes the packed pages and keeps account of the digest.
fn hash(
    shared: &Shared<'_>,
    block: &Block,
    pages: &mut [Copied],
    packed: &[u8],
    tally: &mut Tally,
) {
    let mut packed = packed.chunks_exact(PAGE_SIZE);
    for copied in pages {
        if copied.class == Some(Class::Whole) {
            copied.hash = packed
                .next()
                .map_or(0, |bytes| block.seed().hash(copied.page, bytes));
        }
        let before = match &shared.sent {
            Some(sent) => sent.replace(block.key(copied.page), copied.hash),
            None => 0,
        };
        tally.hashes = tally.hashes.wrapping_add(copied.hash).wrapping_sub(before);
    }
}

/// Keeps account of pages that lie in a hole.
fn hash_holes(shared: &Shared<'_>, block: &Block, job: &Job, tally: &mut Tally) {
    let Some(sent) = &shared.sent else { return };
    for page in job.ranges.iter().flat_map(|range| range.pages()) {
        let before = sent.replace(block.key(page), 0);
        tally.hashes = tally.hashes.wrapping_sub(before);
    }
}

/// The compressor for these settings; the one in hand if it fits.
fn encoder(
    slot: &mut Option<(CodecSettings, Box<dyn Encoder>)>,
    settings: CodecSettings,
) -> Result<&mut dyn Encoder> {
    if slot
        .as_ref()
        .is_none_or(|(made_for, _)| *made_for != settings)
    {
        let encoder = codec::encoder(settings).map_err(|error| Error::new(Kind::Usage, error))?;
        *slot = Some((settings, encoder));
    }
    match slot {
        Some((_, encoder)) => Ok(encoder.as_mut()),
        None => Err(Error::new(Kind::Failed, "there is no compressor")),
    }
}
