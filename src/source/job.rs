//! What goes down the pipeline, and what its threads share.

use std::sync::Arc;

use bytes::BytesMut;

use crate::caps::{Capability, Caps};
use crate::delta::Cache;
use crate::dirty::PageHashes;
use crate::error::{Error, Kind, Result};
use crate::image::{Block, Guest};
use crate::page::{PAGE_SIZE, PageIndex, PageRange};
use crate::pool::{Buffers, QUEUE, Workers};
use crate::round::RoundMark;
use crate::session::Context;
use crate::stats::Tally;
use crate::sync::{self, RwLock, RwLockReadGuard};

use super::links::Links;
use super::throttle::Throttle;

/// A batch of pages to be sent.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) guest: Arc<Guest>,
    /// Which of the guest's blocks the pages are of.
    pub(super) block: u16,
    pub(super) mark: RoundMark,
    /// The pages lie in a hole: they are zero, and reading them might allocate them.
    pub(super) hole: bool,
    /// Ascending; together at most a batch, unless they are a hole.
    pub(super) ranges: Vec<PageRange>,
}

impl Job {
    pub(super) fn block(&self) -> &Block {
        &self.guest.blocks()[usize::from(self.block)]
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = PageIndex> {
        self.ranges.iter().flat_map(|range| range.pages())
    }
}

/// A batch as it goes on the wire. Empty if none of its pages has to be sent.
#[derive(Debug, Default)]
pub(super) struct Packet {
    pub(super) head: Vec<u8>,
    pub(super) body: BytesMut,
    pub(super) body_len: usize,
    pub(super) tally: Tally,
}

impl Packet {
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body_len == 0
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body[..self.body_len]
    }
}

/// What all threads of the sending pipeline share.
#[derive(Debug)]
pub(super) struct SendState<'a> {
    pub(super) context: &'a Context,
    pub(super) links: &'a Links,
    /// The capabilities in use: those of the request, without what the destination lacks.
    pub(super) caps: Caps,
    /// Whether rounds may follow the first. If not, no hashes and no cache are kept.
    pub(super) later_rounds: bool,
    /// Copies of pages as they were sent. Read locks are for looking pages up, from many threads at
    /// once; the write lock is for a change of its size.
    cache: Option<RwLock<Cache>>,
    /// The hash of each page as it was sent, if later rounds may come.
    pub(super) sent: Option<PageHashes>,
    pub(super) buffers: Buffers,
    pub(super) batch_pages: usize,
    pub(super) throttle: Throttle,
    pub(super) encoders: Workers,
}

impl<'a> SendState<'a> {
    pub(super) fn new(
        context: &'a Context,
        links: &'a Links,
        caps: Caps,
        later_rounds: bool,
    ) -> Result<SendState<'a>> {
        let params = context.tuning.get();
        let pages = context.stats.snapshot().ram_bytes / PAGE_SIZE as u64;
        let batch_pages = usize::from(params.batch_pages());
        let spare = usize::from(params.compress_threads) + QUEUE + 2 * links.streams.len();
        let cache = (later_rounds && caps.has(Capability::Xbzrle))
            .then(|| Cache::new(params.xbzrle_cache_size).map(RwLock::new))
            .transpose()
            .map_err(|error| Error::new(Kind::Usage, error))?;
        Ok(SendState {
            context,
            links,
            caps,
            later_rounds,
            cache,
            sent: later_rounds.then(|| PageHashes::new(pages)),
            // Room for the worst case: every page a delta as long as a page, with its length; or
            // plain, with its header.
            buffers: Buffers::new(batch_pages * (PAGE_SIZE + 12), spare),
            batch_pages,
            throttle: Throttle::new(),
            encoders: Workers::default(),
        })
    }

    /// The cache, which does not change its size while this is held.
    pub(super) fn cache(&self) -> Option<RwLockReadGuard<'_, Cache>> {
        let cache = self.cache.as_ref()?;
        // After a panic under the lock, the entry is at worst a miss.
        Some(sync::ignore_poison(cache.read()))
    }

    /// Gives the cache the size of the parameters in force.
    pub(super) fn resize_cache(&self) -> Result<()> {
        let wanted = self.context.tuning.get().xbzrle_cache_size;
        let (Some(cache), Some(now)) = (&self.cache, self.cache()) else {
            return Ok(());
        };
        if now.capacity() == wanted {
            return Ok(());
        }
        drop(now);
        sync::ignore_poison(cache.write())
            .resize(wanted)
            .map_err(|error| Error::new(Kind::Usage, error))
    }

    /// Updates the counters of bytes on the links.
    pub(super) fn count_bytes(&self) {
        let (sent, received) = (self.links.sent(), self.links.received());
        self.context.stats.bytes(sent, received);
    }
}
