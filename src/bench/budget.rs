//! How long a comparison will take, and what is dropped when that is too long.
//!
//! The expectation comes from the codec alone and from the link; it is there to be told to people
//! and to choose what to leave out, and it is off by as much as the machine is.

use std::time::Duration;

use super::alone::Alone;
use super::statistics::median;

/// Every setting has so many counted runs at least, unless it was asked for fewer.
pub const LEAST_RUNS: u32 = 3;

/// What all stages but the codec do to a byte of data, in bytes for each CPU second: reading,
/// hashing, sockets, placing, proof. Measured on the machine in README's table.
const REST: f64 = 600e6;
/// What a migration takes that has nothing to do. Seconds.
const SET_UP: f64 = 0.02;

/// What the expectation depends on.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Bytes of pages that are not zero, in all rounds.
    pub data_bytes: f64,
    /// What the codec does alone; `None` without one.
    pub alone: Option<Alone>,
    /// The link's bits a second.
    pub bits_per_second: Option<f64>,
    /// How long a byte is under way, in seconds.
    pub delay: f64,
    /// Compressing threads.
    pub compress_threads: usize,
    /// Decompressing threads.
    pub decompress_threads: usize,
    /// Cores that both ends share.
    pub cores: usize,
}

/// How long one run will take.
pub fn expected(work: &Work) -> Duration {
    let cores = work.cores.max(1) as f64;
    let per = |rate: f64| work.data_bytes / rate.max(1.0);
    let (pack, unpack, ratio) = work.alone.map_or((0.0, 0.0, 1.0), |alone| {
        let unpack = match alone.decompress_bytes_per_second {
            // Nothing of the sample could be compressed.
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
    // Hello and its answer, the last round, the proof and the commit.
    Duration::try_from_secs_f64(seconds + SET_UP + 6.0 * work.delay).unwrap_or(Duration::MAX)
}

/// What is measured, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of each setting whether it is measured.
    pub kept: Vec<bool>,
    /// Runs of each.
    pub runs: u32,
    /// How long all of it takes: the warm-up and every run, more where `min_time` asks for it.
    pub expected: Duration,
}

/// A matrix that does not fit into its time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("max-time is too short: the quickest setting alone takes {least} s for {LEAST_RUNS} runs")]
pub struct TooLong {
    /// Seconds, rounded up.
    least: u64,
}

/// How long so many runs of this setting take.
fn all_runs(one: Duration, runs: u32, min_time: Duration) -> Duration {
    one.saturating_mul(runs).max(min_time)
}

/// Fits settings, of which one run takes `each`, into `max_time`: with fewer runs, though no fewer
/// than [`LEAST_RUNS`], and then without the settings that take longest. `plain` are kept longest:
/// everything is compared with them. What `each` has beyond `plain` are ways of a peer: they are
/// nothing without a setting of ours.
///
/// # Errors
/// [`TooLong`] when not even one setting fits.
pub fn fit(
    each: &[Duration],
    plain: &[bool],
    runs: u32,
    min_time: Duration,
    max_time: Option<Duration>,
) -> Result<Plan, TooLong> {
    let total = |kept: &[bool], runs| {
        let times = each.iter().zip(kept).filter(|(_, kept)| **kept);
        let warm_up = times.clone().next().map_or(Duration::ZERO, |(one, _)| *one);
        times.fold(warm_up, |sum, (one, _)| {
            sum.saturating_add(all_runs(*one, runs, min_time))
        })
    };
    let mut plan = Plan {
        kept: vec![true; each.len()],
        runs,
        expected: total(&vec![true; each.len()], runs),
    };
    let Some(max_time) = max_time else {
        return Ok(plan);
    };
    while plan.expected > max_time && plan.runs > LEAST_RUNS {
        plan.runs -= 1;
        plan.expected = total(&plan.kept, plan.runs);
    }
    let ours = plain.len().min(each.len());
    while plan.expected > max_time {
        let kept = (0..each.len()).filter(|index| plan.kept[*index]);
        let only_one = plan.kept[..ours].iter().filter(|kept| **kept).count() == 1;
        let rank = |index: usize| match plain.get(index) {
            Some(_) if only_one => 0,
            Some(true) => 1,
            _ => 2,
        };
        match kept.max_by_key(|index| (rank(*index), each[*index])) {
            Some(longest) => plan.kept[longest] = false,
            None => break,
        }
        plan.expected = total(&plan.kept, plan.runs);
    }
    if plan.kept.iter().any(|kept| *kept) {
        return Ok(plan);
    }
    let least = each[..ours].iter().min().copied().unwrap_or_default();
    let least = all_runs(least, plan.runs, min_time).saturating_add(least);
    Err(TooLong {
        least: least.as_secs() + 1,
    })
}

/// Whether a setting needs another run: until it has `runs`, and `min_time` in all.
pub fn wants_more(times: &[f64], runs: u32, min_time: Duration) -> bool {
    if times.len() < runs as usize {
        return true;
    }
    let sum: f64 = times.iter().sum();
    // A setting that takes no time would never be done.
    times.len() < 10_000 && sum < min_time.as_secs_f64() * 1e3 && median(times) > Some(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    fn seconds(list: &[u64]) -> Vec<Duration> {
        list.iter().copied().map(Duration::from_secs).collect()
    }

    #[test]
    fn a_matrix_without_a_limit_is_measured_whole() {
        let plan = fit(&seconds(&[1, 2]), &[false; 2], 5, NO_TIME, None).expect("no limit");
        assert_eq!((plan.kept, plan.runs), (vec![true, true], 5));
        assert_eq!(plan.expected, Duration::from_secs(1 + 15));
        let at_least = Duration::from_secs(20);
        let plan = fit(&seconds(&[1, 2]), &[false; 2], 5, at_least, None).expect("no limit");
        assert_eq!(plan.expected, Duration::from_secs(1 + 40));
    }

    #[test]
    fn runs_are_dropped_first_and_then_what_takes_longest_but_plain_last() {
        let each = seconds(&[9, 1, 4, 2]);
        let plain = [true, false, false, false];
        let fitted = |limit| {
            fit(&each, &plain, 5, NO_TIME, Some(Duration::from_secs(limit)))
                .map(|plan| (plan.runs, plan.kept))
        };
        assert_eq!(fitted(1000), Ok((5, vec![true; 4])));
        assert_eq!(fitted(80), Ok((4, vec![true; 4])));
        assert_eq!(fitted(50), Ok((3, vec![true, true, false, true])));
        assert_eq!(fitted(36), Ok((3, vec![true, false, false, false])));
        let error = fitted(3).expect_err("one run of 1 s, three times, and the warm-up");
        assert!(error.to_string().contains("alone takes 5 s"), "{error}");
    }

    #[test]
    fn a_peer_is_dropped_when_it_takes_longest_and_before_the_last_setting_of_ours() {
        // One setting, and two ways of a peer.
        let each = seconds(&[4, 1, 9]);
        let kept = |limit| {
            let limit = Some(Duration::from_secs(limit));
            fit(&each, &[false], 3, NO_TIME, limit).map(|plan| plan.kept)
        };
        assert_eq!(kept(50), Ok(vec![true; 3]));
        assert_eq!(kept(19), Ok(vec![true, true, false]));
        assert_eq!(kept(18), Ok(vec![true, false, false]));
        let error = kept(15).expect_err("three runs and the warm-up are 16 s");
        assert!(error.to_string().contains("alone takes 17 s"), "{error}");
    }

    #[test]
    fn the_slowest_of_cpu_threads_and_link_is_what_takes_the_time() {
        let work = Work {
            data_bytes: 600e6,
            alone: None,
            bits_per_second: None,
            delay: 0.0,
            compress_threads: 1,
            decompress_threads: 2,
            cores: 2,
        };
        let near = |work: &Work, seconds: f64| {
            let expected = expected(work).as_secs_f64();
            assert!((expected - seconds).abs() < 0.05, "{expected} {seconds}");
        };
        near(&work, 0.5);
        let packing = Work {
            alone: Some(Alone {
                sample_bytes: 1,
                ratio: 3.0,
                compress_bytes_per_second: 100e6,
                decompress_bytes_per_second: 600e6,
            }),
            ..work
        };
        near(&packing, 6.0);
        near(
            &Work {
                compress_threads: 8,
                ..packing
            },
            4.0,
        );
        near(
            &Work {
                bits_per_second: Some(80e6),
                ..packing
            },
            20.0,
        );
        near(
            &Work {
                bits_per_second: Some(80e6),
                ..work
            },
            60.0,
        );
        near(&Work { delay: 1.0, ..work }, 6.5);
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
