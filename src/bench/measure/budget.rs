//! How long a benchmark will take, and what to leave out if that is too long.
//!
//! The forecast follows from the codec alone and from the link. It is good enough to be printed and to
//! decide what to leave out, and as wrong as the machine is busy.

use std::time::Duration;

use crate::bench::measure::codec_speed::CodecRun;
use crate::bench::statistics::median;

/// The number of runs below which a setting is left out rather than measured less often.
pub const LEAST_RUNS: u32 = 3;

/// The speed of all stages but the codec, in bytes per CPU second: reading, hashing, sockets, placing,
/// proof. Measured on 2 cores of an EPYC virtual machine.
const REST: f64 = 600e6;
/// Seconds of a migration that has nothing to send.
const SET_UP: f64 = 0.02;

/// What the duration of a run depends on.
#[derive(Debug, Clone, Copy)]
pub struct RunWork {
    /// Bytes of pages that are not zero, in all rounds.
    pub data_bytes: f64,
    /// The codec alone; `None` without one.
    pub alone: Option<CodecRun>,
    /// The link's bits per second.
    pub bits_per_second: Option<f64>,
    /// The link's delay, in seconds.
    pub delay: f64,
    /// Compression threads.
    pub compress_threads: usize,
    /// Decompression threads.
    pub decompress_threads: usize,
    /// Cores that both ends share.
    pub cores: usize,
}

/// The expected duration of one run.
pub fn expected(work: &RunWork) -> Duration {
    let cores = work.cores.max(1) as f64;
    let per = |rate: f64| work.data_bytes / rate.max(1.0);
    let (pack, unpack, ratio) = work.alone.map_or((0.0, 0.0, 1.0), |alone| {
        let unpack = match alone.decompress_bytes_per_second {
            // No page of the sample could be compressed.
            0.0 => 0.0,
            rate => per(rate),
        };
        (per(alone.compress_bytes_per_second), unpack, alone.ratio)
    });
    let threads = |count: usize| (count.max(1) as f64).min(cores);
    let link = work
        .bits_per_second
        .map_or(0.0, |rate| per(rate / 8.0) / ratio.max(1e-3));
    let seconds = [
        (pack + unpack + per(REST)) / cores,
        pack / threads(work.compress_threads),
        unpack / threads(work.decompress_threads),
        link,
    ]
    .into_iter()
    .fold(0.0, f64::max);
    // Six delays: hello and its answer, the last round, the proof, and the commit and its answer.
    Duration::try_from_secs_f64(seconds + SET_UP + 6.0 * work.delay).unwrap_or(Duration::MAX)
}

/// What is measured, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Whether each setting is measured, in the order given.
    pub kept: Vec<bool>,
    /// Runs of each setting.
    pub runs: u32,
    /// The whole duration: the warm-up and every run, more where `min_time` requires it.
    pub expected: Duration,
}

/// The limits of a budget.
#[derive(Debug, Clone, Copy)]
pub struct BudgetLimits {
    /// Runs of each setting.
    pub runs: u32,
    /// Minimum time for each setting.
    pub min_time: Duration,
    /// Maximum time of everything.
    pub max_time: Option<Duration>,
    /// How much of the maximum has been used already.
    pub spent: Duration,
}

/// A matrix that does not fit into its time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("max-time is too short: {runs} {} of the fastest setting alone need {least} s", if *.runs == 1 { "run" } else { "runs" })]
pub struct TooLong {
    /// Seconds, rounded up.
    least: u64,
    runs: u32,
}

impl BudgetLimits {
    /// How long `runs` runs of a setting take.
    fn all_runs(&self, one: Duration, runs: u32) -> Duration {
        one.saturating_mul(runs).max(self.min_time)
    }

    /// How long the settings that are kept take, with a warm-up by the first of them.
    fn total(&self, each: &[Duration], kept: &[bool], runs: u32) -> Duration {
        let times = each.iter().zip(kept).filter(|(_, kept)| **kept);
        let warm_up = times.clone().next().map_or(Duration::ZERO, |(one, _)| *one);
        times.fold(warm_up, |sum, (one, _)| {
            sum.saturating_add(self.all_runs(*one, runs))
        })
    }
}

/// Fits settings, of which one run takes `each`, into the limits: with fewer runs, though not fewer
/// than [`LEAST_RUNS`], and then without the settings that take longest. `plain` are kept longest:
/// everything is compared with them. What `each` has beyond `plain` are modes of a peer, which are
/// worth nothing without a setting of ours.
///
/// # Errors
/// [`TooLong`] if not even one setting fits.
pub fn fit(each: &[Duration], plain: &[bool], limits: &BudgetLimits) -> Result<Budget, TooLong> {
    let kept = vec![true; each.len()];
    let mut budget = Budget {
        expected: limits.total(each, &kept, limits.runs),
        kept,
        runs: limits.runs,
    };
    let Some(max_time) = limits.max_time else {
        return Ok(budget);
    };
    let left = max_time.saturating_sub(limits.spent);
    while budget.expected > left && budget.runs > LEAST_RUNS {
        budget.runs -= 1;
        budget.expected = limits.total(each, &budget.kept, budget.runs);
    }
    let ours = plain.len().min(each.len());
    while budget.expected > left {
        let kept = (0..each.len()).filter(|index| budget.kept[*index]);
        let only_one = budget.kept[..ours].iter().filter(|kept| **kept).count() == 1;
        let rank = |index: usize| match plain.get(index) {
            Some(_) if only_one => 0,
            Some(true) => 1,
            _ => 2,
        };
        match kept.max_by_key(|index| (rank(*index), each[*index])) {
            Some(longest) => budget.kept[longest] = false,
            None => break,
        }
        budget.expected = limits.total(each, &budget.kept, budget.runs);
    }
    if budget.kept.iter().any(|kept| *kept) {
        return Ok(budget);
    }
    let least = each[..ours].iter().min().copied().unwrap_or_default();
    let least = limits.all_runs(least, budget.runs).saturating_add(least);
    Err(TooLong {
        least: least.saturating_add(limits.spent).as_secs() + 1,
        runs: budget.runs,
    })
}

/// Whether a setting needs another run: until it has `runs`, and `min_time` in total.
pub fn wants_more(times: &[f64], runs: u32, min_time: Duration) -> bool {
    if times.len() < runs as usize {
        return true;
    }
    let sum: f64 = times.iter().sum();
    // Runs that take no time would go on forever.
    times.len() < 10_000 && sum < min_time.as_secs_f64() * 1e3 && median(times) > Some(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    fn limits(runs: u32, min_time: Duration, max_seconds: Option<u64>) -> BudgetLimits {
        BudgetLimits {
            runs,
            min_time,
            max_time: max_seconds.map(Duration::from_secs),
            spent: NO_TIME,
        }
    }

    fn seconds(list: &[u64]) -> Vec<Duration> {
        list.iter().copied().map(Duration::from_secs).collect()
    }

    #[test]
    fn a_matrix_without_a_limit_is_measured_whole() {
        let plan =
            fit(&seconds(&[1, 2]), &[false; 2], &limits(5, NO_TIME, None)).expect("no limit");
        assert_eq!((plan.kept, plan.runs), (vec![true, true], 5));
        assert_eq!(plan.expected, Duration::from_secs(1 + 15));
        let at_least = Duration::from_secs(20);
        let plan =
            fit(&seconds(&[1, 2]), &[false; 2], &limits(5, at_least, None)).expect("no limit");
        assert_eq!(plan.expected, Duration::from_secs(1 + 40));
    }

    #[test]
    fn runs_are_dropped_first_and_then_what_takes_longest_but_plain_last() {
        let each = seconds(&[9, 1, 4, 2]);
        let plain = [true, false, false, false];
        let fitted = |limit| {
            fit(&each, &plain, &limits(5, NO_TIME, Some(limit))).map(|plan| (plan.runs, plan.kept))
        };
        assert_eq!(fitted(1000), Ok((5, vec![true; 4])));
        assert_eq!(fitted(80), Ok((4, vec![true; 4])));
        assert_eq!(fitted(50), Ok((3, vec![true, true, false, true])));
        assert_eq!(fitted(36), Ok((3, vec![true, false, false, false])));
        let error = fitted(3).expect_err("one run of 1 s, three times, and the warm-up");
        assert!(error.to_string().contains("alone need 5 s"), "{error}");
    }

    #[test]
    fn a_peer_is_dropped_when_it_takes_longest_and_before_the_last_setting_of_ours() {
        // One setting, and two modes of a peer.
        let each = seconds(&[4, 1, 9]);
        let kept =
            |limit| fit(&each, &[false], &limits(3, NO_TIME, Some(limit))).map(|plan| plan.kept);
        assert_eq!(kept(50), Ok(vec![true; 3]));
        assert_eq!(kept(19), Ok(vec![true, true, false]));
        assert_eq!(kept(18), Ok(vec![true, false, false]));
        let error = kept(15).expect_err("three runs and the warm-up are 16 s");
        assert!(error.to_string().contains("alone need 17 s"), "{error}");
    }

    #[test]
    fn the_slowest_of_cpu_threads_and_link_is_what_takes_the_time() {
        let work = RunWork {
            data_bytes: 600e6,
            alone: None,
            bits_per_second: None,
            delay: 0.0,
            compress_threads: 1,
            decompress_threads: 2,
            cores: 2,
        };
        let near = |work: &RunWork, seconds: f64| {
            let expected = expected(work).as_secs_f64();
            assert!((expected - seconds).abs() < 0.05, "{expected} {seconds}");
        };
        near(&work, 0.5);
        let packing = RunWork {
            alone: Some(CodecRun {
                sample_bytes: 1,
                ratio: 3.0,
                compress_bytes_per_second: 100e6,
                decompress_bytes_per_second: 600e6,
            }),
            ..work
        };
        near(&packing, 6.0);
        near(
            &RunWork {
                compress_threads: 8,
                ..packing
            },
            4.0,
        );
        near(
            &RunWork {
                bits_per_second: Some(80e6),
                ..packing
            },
            20.0,
        );
        near(
            &RunWork {
                bits_per_second: Some(80e6),
                ..work
            },
            60.0,
        );
        near(&RunWork { delay: 1.0, ..work }, 6.5);
    }

    #[test]
    fn a_setting_is_measured_until_it_has_its_runs_and_its_time() {
        let second = Duration::from_secs(1);
        assert!(wants_more(&[2000.0], 2, NO_TIME));
        assert!(!wants_more(&[1.0, 1.0], 2, NO_TIME));
        assert!(wants_more(&[300.0; 3], 2, second));
        assert!(!wants_more(&[300.0; 4], 2, second));
        assert!(!wants_more(&[0.0; 4], 2, second));
    }
}
