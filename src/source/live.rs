//! Rounds of a guest whose RAM is being written, until what is left fits into the allowed downtime;
//! then the writer is stopped for the last one.
//!
//! ```text
//! bulk                       everything
//! scan, decide (converge.rs) what has changed; go on, switch over, or report that it does not converge
//! round 2, 3, ...            what the scan found; and scan again
//! stop the writer            from here to the proof is the downtime
//! last round                 what a last scan finds
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::caps::{Capability, Caps};
use crate::dirty::{Claim, Compare, Tracker};
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::page::PAGE_SIZE;
use crate::params::TimeoutAction;
use crate::pool::analysis_pool;
use crate::round::{Round, RoundMark};
use crate::session::Context;
use crate::stats::{LiveStats, Stage};
use crate::units::format_duration;
use crate::writer::{Stopped, Writer};

use super::converge::{AutoConverge, Decision, Limits, Measured, Totals, decide};
use super::pipeline::Pipeline;
use super::request::Live;
use super::rounds;

/// Bytes per second that a destination reads back, as an estimate: a third of what was measured.
const PROOF_RATE: f64 = 1e9;
/// What stopping the writer, the last message and its answer add, as an estimate.
const PROOF_OVERHEAD: Duration = Duration::from_millis(5);
/// The fewest bytes of a round from which the link's rate is estimated: less disappears in buffers.
const TELLING: u64 = 1 << 20;

/// It does not converge, and `timeout-action` is not to force it.
#[derive(Debug, thiserror::Error)]
#[error("{reason} (timeout-action is abort)")]
struct NotConverging {
    reason: String,
}

/// Sends a guest while it is written, and returns its stopped writer, which is resumed when that is
/// dropped.
pub(super) fn send_live<'w>(
    pipeline: &mut Pipeline<'_, '_>,
    guest: &Arc<Guest>,
    live: &Live,
    caps: Caps,
    mut writer: Option<&'w mut Box<dyn Writer>>,
    context: &Context,
) -> Result<Option<Stopped<'w>>> {
    let compare: &dyn Tracker = &Compare;
    let tracker = live.tracker.as_deref().unwrap_or(compare);
    let tracking = Tracking::begin(tracker, guest)?;
    let mut auto_converge = caps
        .has(Capability::AutoConverge)
        .then(AutoConverge::default);
    if auto_converge.is_some() && cannot_be_slowed(&mut writer, context)? {
        auto_converge = None;
    }
    let mut rounds = LiveRounds {
        pipeline,
        guest,
        tracker: tracking.0,
        context,
        started: Instant::now(),
        scanned: Instant::now(),
        between: Duration::ZERO,
        scan: Duration::ZERO,
        auto_converge,
        link_rate: 0.0,
        bytes_per_page: 0.0,
        dirtied: 0,
    };
    let last = rounds.until_it_fits(&mut writer)?;
    if writer.is_some() {
        context.stats.stopping();
    }
    let limit = context.tuning.get().timeout;
    let stopped = writer
        .map(|writer| Stopped::stop(writer.as_mut(), limit))
        .transpose()?;
    // A writer that opens it by its name now would write to another file.
    guest.ram().check_paths()?;
    rounds.pipeline.wait_for_leave()?;
    rounds.round(last, None)?;
    Ok(stopped)
}

/// Whether auto-converge has no effect, which a notice says then.
fn cannot_be_slowed(writer: &mut Option<&mut Box<dyn Writer>>, context: &Context) -> Result<bool> {
    let Some(writer) = writer else {
        return Ok(false);
    };
    let can_be = writer.throttle(0)?;
    if !can_be {
        context.stats.notice(format!(
            "{} cannot be slowed down: auto-converge has no effect",
            writer.describe()
        ));
    }
    Ok(!can_be)
}

/// A tracker that has begun, and ends when this is dropped.
struct Tracking<'a>(&'a dyn Tracker);

impl<'a> Tracking<'a> {
    fn begin(tracker: &'a dyn Tracker, guest: &Guest) -> Result<Tracking<'a>> {
        tracker.begin(guest.ram())?;
        Ok(Tracking(tracker))
    }
}

impl Drop for Tracking<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The rounds of one live guest, and what they measured.
struct LiveRounds<'a, 'scope, 'env> {
    pipeline: &'a mut Pipeline<'scope, 'env>,
    guest: &'a Arc<Guest>,
    tracker: &'a dyn Tracker,
    context: &'a Context,
    started: Instant,
    /// When the last scan began.
    scanned: Instant,
    /// The time between the start of the previous scan, or of the bulk stage, and of the last one.
    between: Duration,
    /// How long the last scan took.
    scan: Duration,
    auto_converge: Option<AutoConverge>,
    /// Bytes per second, as measured by the last round that had enough of them.
    link_rate: f64,
    /// Bytes on the wire for a page of the last round.
    bytes_per_page: f64,
    /// Bytes of pages that scans have found so far.
    dirtied: u64,
}

impl<'a> LiveRounds<'a, '_, '_> {
    /// Rounds until the rest fits into the downtime, or limits are reached. Returns the mark of the
    /// last round.
    fn until_it_fits(&mut self, writer: &mut Option<&mut Box<dyn Writer>>) -> Result<RoundMark> {
        let mut mark = RoundMark::first(false);
        self.pipeline.begin_round(mark)?;
        rounds::send_everything(self.pipeline, self.guest, mark)?;
        rounds::check_sizes(self.guest)?;
        self.end_round(mark, self.guest.pages())?;
        loop {
            let claim = self.scan()?;
            let measured = self.measure(mark.round, claim.count());
            let params = self.context.tuning.get();
            let limits = Limits {
                downtime: params.downtime_limit,
                max_rounds: params.max_rounds,
                max_time: params.max_time,
            };
            let decision = decide(&limits, &measured);
            self.report(&measured, &decision);
            if mark.round.is_first() && measured.scan > limits.downtime {
                self.context.stats.notice(format!(
                    "finding what changed takes {}, longer than the downtime limit of {}: the limit may not be kept",
                    format_duration(measured.scan),
                    format_duration(limits.downtime)
                ));
            }
            match decision {
                Decision::Continue => {}
                // Dropping the claim marks its pages dirty again: the last scan finds them.
                Decision::SwitchOver { .. } => return Ok(mark.next(true)),
                Decision::NotConverging { reason } => match params.timeout_action {
                    TimeoutAction::Abort => {
                        let error = Error::new(Kind::Failed, NotConverging { reason });
                        return Err(error.in_round(mark.round.0));
                    }
                    TimeoutAction::Suspend => {
                        self.context
                            .stats
                            .notice(format!("{reason}; stopping the writer all the same"));
                        return Ok(mark.next(true));
                    }
                },
            }
            self.slow_down(writer)?;
            mark = mark.next(false);
            self.round(mark, Some(claim))?;
        }
    }

    /// Sends the claimed pages, or scans now if there is no claim.
    fn round(&mut self, mark: RoundMark, claim: Option<Claim<'a>>) -> Result<()> {
        self.pipeline.begin_round(mark)?;
        let claim = match claim {
            Some(claim) => claim,
            None => self.scan()?,
        };
        let pages = claim.count();
        rounds::send_changed(self.pipeline, self.guest, mark, claim.changed())
            .and_then(|()| rounds::check_sizes(self.guest))
            .map_err(|error| error.in_round(mark.round.0))?;
        self.end_round(mark, pages)?;
        claim.commit();
        Ok(())
    }

    fn scan(&mut self) -> Result<Claim<'a>> {
        let sent = self.pipeline.sent()?;
        let pool = analysis_pool(self.context.tuning.get().compress_threads)
            .map_err(|error| Error::new(Kind::Failed, error).in_stage("while scanning"))?;
        let before = std::mem::replace(&mut self.scanned, Instant::now());
        self.between = self.scanned - before;
        let (tracker, guest) = (self.tracker, self.guest);
        let (claim, cpu) = pool
            .install(|| Claim::take(tracker, guest.ram(), sent))
            .map_err(|error| Error::from(error).in_stage("while scanning"))?;
        self.scan = self.scanned.elapsed();
        self.context.stats.add_cpu(Stage::Scan, cpu);
        self.dirtied += claim.count() * PAGE_SIZE as u64;
        Ok(claim)
    }

    fn end_round(&mut self, mark: RoundMark, pages: u64) -> Result<()> {
        self.pipeline.end_round(mark)?;
        let snapshot = self.context.stats.snapshot();
        let Some(ended) = snapshot.rounds.last() else {
            return Ok(());
        };
        let seconds = ended.time.as_secs_f64();
        if seconds > 0.0 && (ended.wire_bytes >= TELLING || self.link_rate == 0.0) {
            self.link_rate = ended.wire_bytes as f64 / seconds;
        }
        if pages > 0 {
            self.bytes_per_page = ended.wire_bytes as f64 / pages as f64;
        }
        Ok(())
    }

    fn measure(&mut self, round: Round, dirty_pages: u64) -> Measured {
        // Measured from scan to scan, because the round itself may have taken almost no time, and a
        // scan also finds what changed during the previous scan.
        let dirty_rate = match self.between.as_secs_f64() {
            0.0 => 0.0,
            seconds => dirty_pages as f64 / seconds,
        };
        let bytes = (dirty_pages * PAGE_SIZE as u64) as f64;
        Measured {
            round: round.0,
            elapsed: self.started.elapsed(),
            dirty_pages,
            dirty_rate,
            link_rate: self.link_rate,
            wire_bytes_per_page: self.bytes_per_page,
            scan: self.scan,
            proof: PROOF_OVERHEAD + Duration::from_secs_f64(bytes / PROOF_RATE),
        }
    }

    fn report(&self, measured: &Measured, decision: &Decision) {
        let expected_downtime = match decision {
            Decision::SwitchOver { expected_downtime } => Some(*expected_downtime),
            _ => super::converge::expected_downtime(measured),
        };
        self.context.stats.live(LiveStats {
            round: measured.round,
            expected_downtime,
            dirty_pages_rate: measured.dirty_rate as u64,
            cpu_throttle_percentage: self.auto_converge.map_or(0, |auto| auto.percent),
        });
    }

    /// Slows the writer down if it outruns the link.
    fn slow_down(&mut self, writer: &mut Option<&mut Box<dyn Writer>>) -> Result<()> {
        let totals = Totals {
            elapsed: self.started.elapsed(),
            dirtied_bytes: self.dirtied,
            sent_bytes: self.context.stats.snapshot().total.pages() * PAGE_SIZE as u64,
        };
        let (Some(auto), Some(writer)) = (&mut self.auto_converge, writer) else {
            return Ok(());
        };
        let params = self.context.tuning.get();
        auto.trigger_threshold = params.throttle_trigger_threshold;
        auto.initial = params.cpu_throttle_initial;
        auto.increment = params.cpu_throttle_increment;
        auto.max = params.max_cpu_throttle;
        if let Some(percent) = auto.after_scan(totals) {
            writer.throttle(percent)?;
        }
        Ok(())
    }
}
