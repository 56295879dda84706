//! The rate on the wire as it is now, not on average.

use std::time::{Duration, Instant};

/// Shorter than this says more about when the counter moved than about the link.
const PERIOD: Duration = Duration::from_millis(500);

/// Bytes per second over the last half second or a little more.
#[derive(Debug, Clone, Copy)]
pub(super) struct WireRate {
    since: Instant,
    bytes: u64,
    rate: f64,
    /// Whether `rate` is of a whole period.
    known: bool,
}

impl WireRate {
    pub(super) fn new(now: Instant) -> WireRate {
        WireRate {
            since: now,
            bytes: 0,
            rate: 0.0,
            known: false,
        }
    }

    /// The number of bytes written by now. Also to be called when nothing was: a link that stalls has a
    /// rate too.
    pub(super) fn at(&mut self, bytes: u64, now: Instant) -> f64 {
        let time = now.saturating_duration_since(self.since);
        let rate = || (bytes.saturating_sub(self.bytes)) as f64 / time.as_secs_f64();
        if time >= PERIOD {
            let rate = rate();
            *self = WireRate {
                since: now,
                bytes,
                rate,
                known: true,
            };
        } else if !self.known && !time.is_zero() {
            return rate();
        }
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_of_the_last_period_and_of_what_there_is_before_the_first_is_over() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut rate = WireRate::new(start);
        assert_eq!(rate.at(0, start), 0.0);
        assert_eq!(rate.at(1000, at(100)), 10_000.0);
        assert_eq!(rate.at(10_000, at(1000)), 10_000.0);
        assert_eq!(rate.at(10_100, at(1100)), 10_000.0, "too soon to tell");
        assert_eq!(rate.at(110_000, at(2000)), 100_000.0);
        assert_eq!(rate.at(110_000, at(3000)), 0.0, "it stalls");
    }
}
