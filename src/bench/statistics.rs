//! Statistics of some measured numbers: summary, outliers, whether two samples differ.
//!
//! Pure functions. Medians and the median absolute deviation, because other work on the machine makes
//! a few runs much slower and no run faster.

use serde::Serialize;

use crate::advice::AS_GOOD;

/// The least, the middle and the greatest of some numbers, and how far they are apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The minimum.
    pub min: f64,
    /// The middle one; of an even count the mean of the middle two.
    pub median: f64,
    /// The maximum.
    pub max: f64,
    /// The median absolute deviation: the median of the distances from the median.
    pub mad: f64,
}

impl Summary {
    /// `None` without numbers.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let values: Vec<f64> = values.into_iter().collect();
        let median = median(&values)?;
        let distances: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
        Some(Summary {
            min: values.iter().copied().min_by(f64::total_cmp)?,
            median,
            max: values.iter().copied().max_by(f64::total_cmp)?,
            mad: self::median(&distances)?,
        })
    }

    /// Whether two medians differ by more than their noise: by more than 2 %, by more than their
    /// deviations together, and each outside the range of the other's runs. Cruder than a rank test,
    /// but it also gives an answer for one run against one.
    pub fn differs_from(&self, other: &Summary) -> bool {
        let difference = (self.median - other.median).abs();
        let noise = MAD_TO_SIGMA * self.mad.hypot(other.mad);
        let within = |value: f64, range: &Summary| range.min <= value && value <= range.max;
        difference > AS_GOOD * self.median.min(other.median)
            && difference > noise
            && !within(self.median, other)
            && !within(other.median, self)
    }
}

/// The middle of some numbers; of an even count the mean of the middle two. `None` without numbers.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(*upper);
    }
    let lower = sorted.get((sorted.len() / 2).checked_sub(1)?)?;
    Some(f64::midpoint(*lower, *upper))
}

/// The standard deviation of a normal distribution, in median absolute deviations.
pub const MAD_TO_SIGMA: f64 = 1.4826;
/// A modified z-score beyond this is an outlier: ten standard deviations, as in hyperfine's
/// `src/outlier_detection.rs`, after Iglewicz and Hoaglin (1993), "How to Detect and Handle Outliers".
pub const OUTLIER: f64 = MAD_TO_SIGMA * 10.0;
/// A deviation counts as at least this part of the median: two of three runs are often close to each
/// other, and would make an outlier of the third.
const RESOLUTION: f64 = 1e-2;

/// The distance of each number from the median, in median absolute deviations.
pub fn modified_z_scores(values: &[f64]) -> Vec<f64> {
    let Some(summary) = Summary::of(values.iter().copied()) else {
        return Vec::new();
    };
    let unit = summary.mad.max(summary.median.abs() * RESOLUTION);
    let unit = unit.max(f64::MIN_POSITIVE);
    values
        .iter()
        .map(|value| (value - summary.median) / unit)
        .collect()
}

/// Suspicious times among some runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Suspicion {
    /// Whether the first run was much slower than the rest, as if caches were still cold.
    pub slow_first_run: bool,
    /// The indexes of the runs whose time is an outlier.
    pub outliers: Vec<usize>,
}

impl Suspicion {
    /// Examines the times of some runs, in the order of measurement.
    pub fn of(times: &[f64]) -> Suspicion {
        let scores = modified_z_scores(times);
        Suspicion {
            slow_first_run: scores.first().is_some_and(|score| *score > OUTLIER),
            outliers: (0..)
                .zip(&scores)
                .filter(|(_, score)| score.abs() > OUTLIER)
                .map(|(index, _)| index)
                .collect(),
        }
    }

    /// The warning, if there is one.
    pub fn words(&self) -> Option<&'static str> {
        if self.slow_first_run {
            Some(
                "the first run was significantly slower than the rest: caches may not have been \
                 filled until after it",
            )
        } else if !self.outliers.is_empty() {
            Some(
                "statistical outliers were detected: consider measuring again on a quiet system, \
                 without interference from other programs",
            )
        } else {
            None
        }
    }
}

/// Beyond this many pairs the rank-sum test is approximated.
const EXACT_PAIRS: usize = 400;

/// The p-value of the one-sided rank-sum test (Mann and Whitney, 1947): the chance that two samples of
/// the same thing show the second as greater at least as clearly as these do. Exact for small samples;
/// 1 if one of them is empty. Three runs against three give 0.05 at best.
pub fn chance_of_greater(first: &[f64], second: &[f64]) -> f64 {
    let (n, m) = (first.len(), second.len());
    if n == 0 || m == 0 {
        return 1.0;
    }
    // Ties count half, rounded down to be on the safe side.
    let halves: usize = first
        .iter()
        .flat_map(|a| second.iter().map(move |b| b.total_cmp(a)))
        .map(|order| match order {
            std::cmp::Ordering::Greater => 2,
            std::cmp::Ordering::Equal => 1,
            std::cmp::Ordering::Less => 0,
        })
        .sum();
    let won = halves / 2;
    if n * m > EXACT_PAIRS {
        let (n, m) = (n as f64, m as f64);
        let sigma = (n * m * (n + m + 1.0) / 12.0).sqrt();
        return upper_tail((won as f64 - 0.5 - n * m / 2.0) / sigma);
    }
    let ways = ways_to_win(n, m);
    let all: f64 = ways.iter().sum();
    ways.iter().skip(won).sum::<f64>() / all
}

/// The least that [`chance_of_greater`] can give for samples of these sizes: all of one beyond all of
/// the other. Without a sample nothing is known.
pub fn least_chance(n: usize, m: usize) -> f64 {
    if n == 0 || m == 0 {
        return 1.0;
    }
    // One over the binomial coefficient; its factors shrink it step by step, so it cannot overflow.
    (1..=n).fold(1.0, |chance, i| chance * i as f64 / (m + i) as f64)
}

/// The number of orders of `n` and `m` different numbers in which the latter win 0, 1, 2 ... of all
/// pairs.
fn ways_to_win(n: usize, m: usize) -> Vec<f64> {
    // rows[j] holds the ways for i of the first and j of the second.
    let size = n * m + 1;
    let mut rows = vec![vec![0.0; size]; m + 1];
    for row in &mut rows {
        // None of the first: no pair to win.
        row[0] = 1.0;
    }
    for _ in 1..=n {
        let mut next = vec![vec![0.0; size]; m + 1];
        next[0][0] = 1.0;
        for j in 1..=m {
            // The greatest of all is one of the first, and loses to none of the rest; or one of the
            // second, and wins over all of the first. Counted from the other side, which is the same
            // by symmetry.
            let (before, now) = next.split_at_mut(j);
            let (one_less, this) = (&before[j - 1], &mut now[0]);
            for (won, ways) in this.iter_mut().enumerate() {
                let shifted = won.checked_sub(j).map_or(0.0, |rest| rows[j][rest]);
                *ways = shifted + one_less[won];
            }
        }
        rows = next;
    }
    rows.pop().unwrap_or_default()
}

/// The part of the standard normal distribution above `z`, to 1e-7 (Abramowitz and Stegun, 26.2.17).
fn upper_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - upper_tail(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [
        0.319_381_530,
        -0.356_563_782,
        1.781_477_937,
        -1.821_255_978,
        1.330_274_429,
    ];
    let sum = series.iter().rev().fold(0.0, |sum, next| (sum + next) * t);
    (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_summary_of_hand_made_numbers_whatever_the_order_and_the_count() {
        assert_eq!(Summary::of([]), None);
        let one = Summary::of([4.0]).expect("a number");
        assert_eq!(
            (one.min, one.median, one.max, one.mad),
            (4.0, 4.0, 4.0, 0.0)
        );
        let odd = Summary::of([3.0, 1.0, 9.0, 2.0, 4.0]).expect("numbers");
        assert_eq!(
            (odd.min, odd.median, odd.max, odd.mad),
            (1.0, 3.0, 9.0, 1.0)
        );
        let even = Summary::of([2.5, 3.0, 1.0, 1.5]).expect("numbers");
        assert_eq!((even.median, even.mad), (2.0, 0.75));
    }

    #[test]
    fn a_difference_is_measurable_beyond_the_noise_of_both() {
        let of = |values: [f64; 3]| Summary::of(values).expect("numbers");
        let (one, noisy) = (of([2190.0, 2250.0, 2320.0]), of([2110.0, 2280.0, 2450.0]));
        assert!(!one.differs_from(&noisy) && !noisy.differs_from(&one));
        assert!(one.differs_from(&of([900.0, 950.0, 1000.0])));
        assert!(!of([100.0; 3]).differs_from(&of([101.0; 3])), "1 %");
        let single = |value| Summary::of([value]).expect("a number");
        assert!(single(100.0).differs_from(&single(110.0)));
    }

    #[test]
    fn outliers_are_ten_deviations_off_and_a_slow_first_run_is_one_of_them() {
        let quiet = Suspicion::of(&[10.0, 10.4, 9.8]);
        assert_eq!((&quiet, quiet.words()), (&Suspicion::default(), None));
        let late = Suspicion::of(&[10.0, 10.1, 9.9, 30.0, 10.0]);
        assert_eq!((late.slow_first_run, &late.outliers[..]), (false, &[3][..]));
        assert!(late.words().is_some_and(|words| words.contains("outliers")));
        let first = Suspicion::of(&[30.0, 10.1, 9.9, 10.0]);
        assert_eq!(
            (first.slow_first_run, &first.outliers[..]),
            (true, &[0][..])
        );
        assert!(
            first
                .words()
                .is_some_and(|words| words.contains("first run"))
        );
        // A fast first run is an outlier but not slow.
        let fast = Suspicion::of(&[1.0, 10.1, 9.9, 10.0]);
        assert_eq!((fast.slow_first_run, fast.outliers.len()), (false, 1));
    }

    #[test]
    fn equal_times_have_no_outlier_and_neither_do_two_of_three_that_are_close() {
        assert_eq!(Suspicion::of(&[5.0; 4]), Suspicion::default());
        assert_eq!(Suspicion::of(&[546.1, 546.9, 566.5]), Suspicion::default());
        assert_eq!(modified_z_scores(&[]), Vec::<f64>::new());
        assert_eq!(Suspicion::of(&[0.0; 3]), Suspicion::default());
    }

    #[test]
    fn the_rank_sum_test_gives_the_textbook_chances() {
        let chance = |a: &[f64], b: &[f64]| chance_of_greater(a, b);
        // 1 of the 20 orders of three and three.
        assert!((chance(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]) - 0.05).abs() < 1e-12);
        // 2 of them.
        assert!((chance(&[1.0, 2.0, 4.0], &[3.0, 5.0, 6.0]) - 0.1).abs() < 1e-12);
        assert!((chance(&[4.0, 5.0, 6.0], &[1.0, 2.0, 3.0]) - 1.0).abs() < 1e-12);
        // 1 of the 252 orders of five and five.
        let (low, high) = ([1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]);
        assert!((chance(&low, &high) - 1.0 / 252.0).abs() < 1e-12);
        assert!(chance(&[1.0; 3], &[1.0; 3]) > 0.5);
        assert_eq!(chance(&[], &[1.0]), 1.0);
    }

    #[test]
    fn many_runs_are_approximated_and_the_approximation_fits() {
        assert!((upper_tail(1.644_853_6) - 0.05).abs() < 1e-6);
        assert!((upper_tail(-1.0) - 0.841_344_7).abs() < 1e-6);
        let low: Vec<f64> = (0..30).map(f64::from).collect();
        let high: Vec<f64> = low.iter().map(|value| value + 100.0).collect();
        assert!(chance_of_greater(&low, &high) < 1e-9);
        assert!((chance_of_greater(&low, &low) - 0.5).abs() < 0.01);
    }

    proptest! {
        #[test]
        fn the_median_is_within_and_independent_of_the_order(
            mut values in prop::collection::vec(-1e9..1e9_f64, 1..40)
        ) {
            let before = Summary::of(values.iter().copied()).expect("numbers");
            values.reverse();
            prop_assert_eq!(Summary::of(values.iter().copied()), Some(before));
            prop_assert!(before.min <= before.median && before.median <= before.max);
            prop_assert!(before.mad >= 0.0 && before.mad <= before.max - before.min);
            let half = values.len().div_ceil(2);
            prop_assert!(values.iter().filter(|value| **value <= before.median).count() >= half);
            prop_assert!(values.iter().filter(|value| **value >= before.median).count() >= half);
        }

        #[test]
        fn the_chances_of_both_directions_cover_everything(
            a in prop::collection::vec(0..50_i32, 1..7),
            b in prop::collection::vec(0..50_i32, 1..7),
        ) {
            let values = |of: &[i32]| of.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
            let (a, b) = (values(&a), values(&b));
            let (up, down) = (chance_of_greater(&a, &b), chance_of_greater(&b, &a));
            prop_assert!((0.0..=1.0 + 1e-9).contains(&up) && up + down >= 1.0 - 1e-9);
        }
    }
}
