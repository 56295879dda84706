//! Positions of values along an axis, and the values that are labelled.

/// Positions of values along an axis.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Scale {
    first: f64,
    last: f64,
    pub(super) from: f64,
    to: f64,
    log: bool,
    /// Whether only whole numbers are labelled.
    whole: bool,
}

impl Scale {
    /// From 0 to a round number of at least `most`, at `from` to `to`.
    pub(in super::super) fn linear(most: f64, from: f64, to: f64) -> Scale {
        let most = if most > 0.0 { most } else { 1.0 };
        let step = step(most);
        Scale {
            first: 0.0,
            last: (most / step).ceil() * step,
            from,
            to,
            log: false,
            whole: false,
        }
    }

    /// Logarithmic, from a round number at `first` or below to one at `last` or above.
    pub(in super::super) fn log(first: f64, last: f64, from: f64, to: f64) -> Scale {
        let first = first.max(1e-9);
        let last = last.max(first * 1.001);
        let power = |value: f64| value.log10().floor() as i32;
        let numbers: Vec<f64> = (power(first)..=power(last) + 1).flat_map(round).collect();
        let below = numbers
            .iter()
            .rev()
            .find(|number| **number <= first * 1.000_001);
        let above = numbers.iter().find(|number| **number >= last * 0.999_999);
        Scale {
            first: below.map_or(first, |number| *number).log10(),
            last: above.map_or(last, |number| *number).log10(),
            from,
            to,
            log: true,
            whole: false,
        }
    }

    /// From just below `first` to just above `last`: for values that have to be distinguished
    /// rather than compared with 0. Logarithmic if they differ much.
    pub(in super::super) fn zoomed(first: f64, last: f64, from: f64, to: f64) -> Scale {
        let first = first.max(1e-9);
        let last = last.max(first * 1.001);
        let log = last > 1.5 * first;
        let (first, last) = if log {
            let margin = (last / first).powf(0.08);
            ((first / margin).log10(), (last * margin).log10())
        } else {
            let margin = (last - first).max(first * 0.01) * 0.15;
            (first - margin, last + margin)
        };
        Scale {
            first,
            last,
            from,
            to,
            log,
            whole: false,
        }
    }

    /// Whether the axis is logarithmic.
    pub(in super::super) fn is_log(&self) -> bool {
        self.log
    }

    /// For things that are counted: from `least` to `most`, and only whole numbers are labelled.
    pub(in super::super) fn counts(least: f64, most: f64, from: f64, to: f64) -> Scale {
        Scale {
            first: least,
            last: most.max(least + 1.0),
            from,
            to,
            log: false,
            whole: true,
        }
    }

    /// The position of a value.
    pub(in super::super) fn at(&self, value: f64) -> f64 {
        let value = if self.log {
            value.max(f64::MIN_POSITIVE).log10()
        } else {
            value
        };
        let part = (value - self.first) / (self.last - self.first);
        self.from + part * (self.to - self.from)
    }

    /// The values that are labelled.
    pub(in super::super) fn ticks(&self) -> Vec<f64> {
        if self.log {
            return self.log_ticks();
        }
        if self.whole {
            let step = step(self.last - self.first).ceil();
            let count = ((self.last - self.first) / step).floor() as u32;
            return (0..=count)
                .map(|at| self.first + f64::from(at) * step)
                .collect();
        }
        let step = step(self.last - self.first);
        let (first, last) = (self.first / step, self.last / step);
        let (first, last) = ((first - 1e-6).ceil() as i64, (last + 1e-6).floor() as i64);
        (first..=last).map(|at| at as f64 * step).collect()
    }

    /// Over many powers of ten only these; over less than one, more than the usual round numbers.
    fn log_ticks(&self) -> Vec<f64> {
        let factors: &[f64] = match self.last - self.first {
            powers if powers > 3.0 => &[1.0],
            powers if powers > 1.0 => &[1.0, 2.0, 5.0],
            _ => &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        };
        let (low, high) = (self.first.floor() as i32, self.last.floor() as i32);
        let all = (low..=high).flat_map(|power| {
            factors
                .iter()
                .map(move |factor| factor * 10_f64.powi(power))
        });
        let within = |number: &f64| {
            let at = number.log10();
            at >= self.first - 1e-6 && at <= self.last + 1e-6
        };
        all.filter(within).collect()
    }
}

/// The round numbers of a power of ten.
fn round(power: i32) -> [f64; 3] {
    [1.0, 2.0, 5.0].map(|factor| factor * 10_f64.powi(power))
}

/// A round number that fits into `most` about five times.
fn step(most: f64) -> f64 {
    let rough = most / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= rough * 0.999)
        .unwrap_or(10.0);
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_begin_at_zero_and_end_at_a_round_number() {
        let scale = Scale::linear(930.0, 0.0, 100.0);
        assert_eq!(scale.ticks(), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!((scale.at(0.0), scale.at(500.0)), (0.0, 50.0));
        let log = Scale::log(700.0, 3e3, 100.0, 0.0);
        assert_eq!(
            log.ticks(),
            [
                500.0, 600.0, 700.0, 800.0, 900.0, 1e3, 1.5e3, 2e3, 2.5e3, 3e3, 4e3, 5e3
            ]
        );
        assert!((log.at(500.0) - 100.0).abs() < 1e-9 && log.at(5e3).abs() < 1e-9);
        let wide = Scale::log(1e2, 1e9, 0.0, 1.0);
        assert_eq!(wide.ticks().len(), 8);
        assert!(Scale::log(0.0, 0.0, 0.0, 1.0).ticks().len() >= 2);
        for most in [0.0, 1e-9, 3.0, 1e12] {
            assert!(Scale::linear(most, 0.0, 1.0).ticks().len() <= 12, "{most}");
        }
    }

    #[test]
    fn counts_have_whole_numbers_only() {
        assert_eq!(Scale::counts(1.0, 3.0, 0.0, 1.0).ticks(), [1.0, 2.0, 3.0]);
        assert_eq!(Scale::counts(1.0, 3.0, 0.0, 1.0).at(2.0), 0.5);
        assert_eq!(Scale::counts(4.0, 4.0, 0.0, 1.0).ticks(), [4.0, 5.0]);
        assert!(
            Scale::counts(1.0, 255.0, 0.0, 1.0)
                .ticks()
                .iter()
                .all(|tick| tick.fract() == 0.0)
        );
    }

    #[test]
    fn a_zoomed_scale_tells_close_values_apart() {
        let close = Scale::zoomed(64.0, 68.0, 0.0, 100.0);
        assert!(!close.is_log() && close.at(64.0) < 15.0 && close.at(68.0) > 85.0);
        let ticks = close.ticks();
        assert!(ticks.len() >= 3 && ticks.iter().all(|tick| (63.0..69.0).contains(tick)));
        let wide = Scale::zoomed(64.0, 250.0, 0.0, 100.0);
        assert!(wide.is_log() && wide.at(68.0) - wide.at(64.0) > 3.5);
        assert!(wide.ticks().len() >= 4, "{:?}", wide.ticks());
        assert!(!Scale::zoomed(5.0, 5.0, 0.0, 1.0).ticks().is_empty());
    }
}
