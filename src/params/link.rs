//! What a link is like that is emulated: its rate, and how long a byte is under way.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::units::{UnitError, parse_bit_rate, parse_delay};

/// The rates that can be emulated, in bits a second.
const RATES: std::ops::RangeInclusive<u64> = 10_000..=100_000_000_000;
/// The longest delay that can be emulated.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// The most bytes that may be under way: the reader's side has to hold them.
const MOST_IN_FLIGHT: u64 = 128 << 20;

/// What [`LinkSpec`] is read from, to follow the words "is not".
const LINK_ALLOWED: &str = "RATE[/DELAY] with a rate from 10kbit to 100Gbit and a delay \
    of up to 10s, such as 200Mbit or 1Gbit/20ms, and no more than 128 MiB under way at once";
const FORM: &str = "RATE[/DELAY], such as 200Mbit or 1Gbit/20ms";

/// A link's rate and delay, written `RATE[/DELAY]`: `200Mbit`, `1Gbit/20ms`.
///
/// The rate counts the bytes of the stream: what TCP, IP and Ethernet add to them on a real link
/// is not emulated. (1 Gbit/s Ethernet carries 941 Mbit/s of a stream.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkSpec {
    bits_per_second: u64,
    delay: Duration,
}

impl LinkSpec {
    /// A link of this rate in bits a second, 10 000 to 10^11, and this delay in one direction, up
    /// to 10 s, in whole microseconds. `None` beyond, and if more than 128 MiB would be under way at once.
    pub fn new(bits_per_second: u64, delay: Duration) -> Option<LinkSpec> {
        let spec = LinkSpec {
            bits_per_second,
            // No finer than it is written.
            delay: Duration::from_micros(u64::try_from(delay.as_micros()).ok()?),
        };
        (RATES.contains(&bits_per_second)
            && spec.delay <= LONGEST_DELAY
            && spec.bytes_in(spec.delay) <= MOST_IN_FLIGHT)
            .then_some(spec)
    }

    /// Bits of the stream a second.
    pub fn bits_per_second(&self) -> u64 {
        self.bits_per_second
    }

    /// How long each byte is under way, in one direction.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// How many bytes the link carries in `time`.
    pub fn bytes_in(&self, time: Duration) -> u64 {
        let bytes = u128::from(self.bits_per_second) * time.as_nanos() / 8_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// How long the link takes to carry `bytes`.
    pub fn time_for(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 8_000_000_000 / u128::from(self.bits_per_second.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl FromStr for LinkSpec {
    type Err = String;

    /// Reads `RATE[/DELAY]`. The error is what is allowed, to follow the words "is not".
    fn from_str(text: &str) -> Result<LinkSpec, String> {
        // The `/s` of a rate is not the start of a delay.
        let unit_end = text.find("/s").map_or(0, |at| at + "/s".len());
        let (rate, delay) = match text[unit_end..].split_once('/') {
            Some((rate, delay)) => (&text[..unit_end + rate.len()], Some(delay)),
            None => (text, None),
        };
        let fault = |error: UnitError| format!("{FORM}: {error}");
        let rate = parse_bit_rate(rate).map_err(fault)?;
        let delay = delay
            .map_or(Ok(Duration::ZERO), parse_delay)
            .map_err(fault)?;
        LinkSpec::new(rate, delay).ok_or_else(|| LINK_ALLOWED.to_owned())
    }
}

impl fmt::Display for LinkSpec {
    /// In the largest units that make whole numbers; it is read back as it was.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |number: u64, units: [(u64, &'static str); 4]| {
            let fits = |&(size, _): &(u64, _)| number.is_multiple_of(size);
            let (size, name) = units.into_iter().find(fits).unwrap_or(units[3]);
            format!("{}{name}", number / size)
        };
        let rate = whole(
            self.bits_per_second,
            [
                (1_000_000_000, "Gbit"),
                (1_000_000, "Mbit"),
                (1000, "kbit"),
                (1, "bit"),
            ],
        );
        if self.delay.is_zero() {
            return f.pad(&rate);
        }
        let micros = u64::try_from(self.delay.as_micros()).unwrap_or(u64::MAX);
        let delay = whole(
            micros,
            [(1_000_000, "s"), (1000, "ms"), (1, "us"), (1, "us")],
        );
        f.pad(&format!("{rate}/{delay}"))
    }
}

impl Serialize for LinkSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_as_it_is_written() {
        for (text, bits, us) in [
            ("200Mbit", 200_000_000, 0),
            ("1Gbit/20ms", 1_000_000_000, 20_000),
            ("2500Mbit/500us", 2_500_000_000, 500),
            ("200kbit/1s", 200_000, 1_000_000),
            ("10001bit/10s", 10_001, 10_000_000),
            ("100Gbit/10ms", 100_000_000_000, 10_000),
        ] {
            let spec = LinkSpec::new(bits, Duration::from_micros(us)).expect("in range");
            assert_eq!(text.parse(), Ok(spec));
            assert_eq!(spec.to_string(), text);
        }
        let spec: LinkSpec = "2.5Gbit/0.5ms".parse().expect("a link");
        assert_eq!(spec.to_string(), "2500Mbit/500us");
        for same in ["1Gbit/0ms", "1gbit", "1Gbit/s", "1Gbit/s/0ms", "125MB/s"] {
            assert_eq!(same.parse(), "1Gbit".parse::<LinkSpec>(), "{same}");
        }
    }

    #[test]
    fn what_is_no_link_is_refused() {
        for text in [
            "",
            "/",
            "1Gbit/",
            "/20ms",
            "1Gbit/20",
            "1Gbit/20ms/20ms",
            "100MiB",
            "1000000",
            "9999bit",
            "101Gbit",
            "1Mbit/11s",
            // 1.25 GB under way.
            "10Gbit/1s",
            "unix",
        ] {
            let refused = text.parse::<LinkSpec>().expect_err(text);
            assert!(refused.starts_with("RATE[/DELAY]"), "{refused}");
        }
    }

    #[test]
    fn bytes_and_times_are_those_of_the_rate() {
        let spec: LinkSpec = "10Mbit".parse().expect("a link");
        assert_eq!(spec.bytes_in(Duration::from_millis(1)), 1250);
        assert_eq!(spec.time_for(1250), Duration::from_millis(1));
        assert_eq!(spec.time_for(u64::MAX), Duration::from_nanos(u64::MAX));
    }
}
