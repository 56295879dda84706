//! Which pages each round sends.

use std::sync::Arc;

use crate::dirty::{self, compare};
use crate::error::{Error, Kind, Result};
use crate::image::{Guest, Later};
use crate::page::{Digest, PageRange};
use crate::pool::analysis_pool;
use crate::round::RoundMark;
use crate::stats::Stage;
use crate::writer::WriterError;

use super::job::Job;
use super::pipeline::Pipeline;

/// Sends a guest and then what has changed in each of its `later` snapshots. Returns the guest as it
/// is in the last.
pub(super) fn send_snapshots(
    pipeline: &mut Pipeline<'_, '_>,
    guest: &Arc<Guest>,
    later: &[Later],
) -> Result<Arc<Guest>> {
    let mut mark = RoundMark::first(later.is_empty());
    pipeline.begin_round(mark)?;
    send_everything(pipeline, guest, mark)?;
    check_sizes(guest)?;
    pipeline.end_round(mark)?;
    check_recorded(guest, pipeline.digest())?;

    let mut now = Arc::clone(guest);
    for (index, one) in later.iter().enumerate() {
        mark = mark.next(index + 1 == later.len());
        pipeline.begin_round(mark)?;
        now = Arc::new(now.open_later(one)?);
        send_changes(pipeline, &now, mark)
            .and_then(|()| check_sizes(&now))
            .map_err(|error| error.in_round(mark.round.0))?;
        pipeline.end_round(mark)?;
        check_recorded(&now, pipeline.digest())?;
        pipeline.note_cleared(one);
    }
    pipeline.wait_for_leave()?;
    Ok(now)
}

/// Fails if an image was truncated during the round, so that its missing pages were read as zeros.
pub(super) fn check_sizes(guest: &Guest) -> Result<()> {
    for block in guest.blocks() {
        block.check_size()?;
    }
    Ok(())
}

/// Fails if a guest folder's RAM, whose digest as it was read is `read`, is not what its `guest.json` says:
/// the destination would prove a damaged guest.
fn check_recorded(guest: &Guest, read: Digest) -> Result<()> {
    match guest.recorded_digest() {
        Some(recorded) if recorded != read => {
            // This names the file. If all are whole by now, they were written meanwhile.
            guest.digest()?;
            let image = guest.blocks().first().map(|block| block.path().to_owned());
            let image = image.unwrap_or_default();
            Err(WriterError::Changed { image }.into())
        }
        _ => Ok(()),
    }
}

/// The bulk stage: every page. Holes are sent as holes.
pub(super) fn send_everything(
    pipeline: &mut Pipeline<'_, '_>,
    guest: &Arc<Guest>,
    mark: RoundMark,
) -> Result<()> {
    pipeline.round_pages(guest.pages());
    for (number, block) in (0..).zip(guest.blocks()) {
        let data = block.data_ranges()?;
        let mut batch = Batch::new(pipeline, guest, number, mark);
        for (range, is_data) in compare::with_holes(&data, block.range()) {
            if is_data {
                batch.add(range)?;
            } else {
                batch.hole(range)?;
            }
        }
        batch.flush()?;
    }
    Ok(())
}

/// A later round: the pages whose hashes differ from what was sent.
fn send_changes(
    pipeline: &mut Pipeline<'_, '_>,
    guest: &Arc<Guest>,
    mark: RoundMark,
) -> Result<()> {
    let sent = pipeline.sent()?;
    let pool = analysis_pool(pipeline.params().compress_threads)
        .map_err(|error| Error::new(Kind::Failed, error).in_stage("while scanning"))?;
    let (changed, time) = pool.install(|| compare::changed(guest.ram(), sent))?;
    pipeline.add_cpu(Stage::Scan, time);
    send_changed(pipeline, guest, mark, &changed)
}

/// Sends what has changed in each block.
pub(super) fn send_changed(
    pipeline: &mut Pipeline<'_, '_>,
    guest: &Arc<Guest>,
    mark: RoundMark,
    changed: &[dirty::Changed],
) -> Result<()> {
    pipeline.round_pages(changed.iter().map(dirty::Changed::count).sum());
    for (number, changed) in (0..).zip(changed) {
        let mut batch = Batch::new(pipeline, guest, number, mark);
        for (range, is_hole) in changed.runs() {
            if is_hole {
                batch.hole(range)?;
            } else {
                batch.add(range)?;
            }
        }
        batch.flush()?;
    }
    Ok(())
}

/// Gathers ranges of pages into batches. In the bulk stage they are contiguous, later scattered.
struct Batch<'a, 'scope, 'env> {
    pipeline: &'a mut Pipeline<'scope, 'env>,
    guest: Arc<Guest>,
    block: u16,
    mark: RoundMark,
    most: u64,
    ranges: Vec<PageRange>,
    pages: u64,
}

impl<'a, 'scope, 'env> Batch<'a, 'scope, 'env> {
    fn new(
        pipeline: &'a mut Pipeline<'scope, 'env>,
        guest: &Arc<Guest>,
        block: u16,
        mark: RoundMark,
    ) -> Self {
        Batch {
            most: pipeline.batch_pages(),
            pipeline,
            guest: Arc::clone(guest),
            block,
            mark,
            ranges: Vec::new(),
            pages: 0,
        }
    }

    /// Adds pages that hold data.
    fn add(&mut self, mut range: PageRange) -> Result<()> {
        while range.count > 0 {
            let middle = range.end().min(range.start.0 + (self.most - self.pages));
            self.ranges.push(PageRange::between(range.start.0, middle));
            self.pages += middle - range.start.0;
            range = PageRange::between(middle, range.end());
            if self.pages == self.most {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Sends pages that lie in a hole and must not be touched.
    fn hole(&mut self, mut range: PageRange) -> Result<()> {
        if self.pipeline.batches().in_order {
            self.flush()?;
        }
        while range.count > 0 {
            let count = range.count.min(self.pipeline.batches().hole_pages);
            let middle = range.start.0 + count;
            self.pipeline.push(Job {
                guest: Arc::clone(&self.guest),
                block: self.block,
                mark: self.mark,
                hole: true,
                ranges: vec![PageRange::between(range.start.0, middle)],
            })?;
            range = PageRange::between(middle, range.end());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.ranges.is_empty() {
            return Ok(());
        }
        self.pages = 0;
        self.pipeline.push(Job {
            guest: Arc::clone(&self.guest),
            block: self.block,
            mark: self.mark,
            hole: false,
            ranges: std::mem::take(&mut self.ranges),
        })
    }
}
