//! Sizes, rates and times as people write and read them.
//!
//! Reading is exact: decimal arithmetic on integers, no floating point, so `1.5GiB` is
//! exactly 1 610 612 736 bytes. Writing is for people and rounds to two decimals;
//! documents for programs (`--json`) carry plain numbers instead.

use std::time::Duration;

use crate::text::Quoted;

/// A text that is not a size, rate or time. The message names it and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not {allowed}", Quoted(.value))]
pub struct UnitError {
    /// The refused text.
    pub value: String,
    /// What is allowed, to follow the words "is not".
    pub allowed: &'static str,
}

/// What [`parse_size`] takes.
pub const SIZE_ALLOWED: &str = "a size in bytes below 16 EiB, such as 4096, 64MiB, 64M or 1.5GB";

/// What [`parse_rate`] takes.
pub const RATE_ALLOWED: &str =
    "a rate in bytes per second, such as 1000000, 100MiB, 100MB/s, or in bits: 1.5Gbit";

/// What [`parse_duration`] takes.
pub const DURATION_ALLOWED: &str = "a time in seconds or with its unit, such as 30, 500ms or 2min";

/// What [`parse_bit_rate`] takes.
pub const BIT_RATE_ALLOWED: &str = "a rate such as 200kbit, 10Mbit, 2.5Gbit or 125MB/s";

/// What [`parse_delay`] takes.
pub const DELAY_ALLOWED: &str = "a time with its unit, such as 500us, 20ms or 1s";

/// What a unit multiplies by: `multiply / divide` of the result's unit.
#[derive(Debug, Clone, Copy)]
struct Unit {
    name: &'static str,
    multiply: u64,
    divide: u64,
    /// Half a byte is not allowed, but half a second is.
    fractions: bool,
}

const fn unit(name: &'static str, multiply: u64) -> Unit {
    Unit {
        name,
        multiply,
        divide: 1,
        fractions: true,
    }
}

const fn bits(name: &'static str, multiply: u64) -> Unit {
    Unit {
        name,
        multiply,
        divide: 8,
        fractions: true,
    }
}

const fn whole(name: &'static str) -> Unit {
    Unit {
        name,
        multiply: 1,
        divide: 1,
        fractions: false,
    }
}

/// A single letter is binary, as QEMU has it.
const BYTES: &[Unit] = &[
    whole(""),
    whole("B"),
    unit("k", 1 << 10),
    unit("K", 1 << 10),
    unit("KiB", 1 << 10),
    unit("m", 1 << 20),
    unit("M", 1 << 20),
    unit("MiB", 1 << 20),
    unit("g", 1 << 30),
    unit("G", 1 << 30),
    unit("GiB", 1 << 30),
    unit("t", 1 << 40),
    unit("T", 1 << 40),
    unit("TiB", 1 << 40),
    // As far as sizes are printed.
    unit("PiB", 1 << 50),
    unit("EiB", 1 << 60),
    unit("kB", 1000),
    unit("KB", 1000),
    unit("MB", 1_000_000),
    unit("GB", 1_000_000_000),
    unit("TB", 1_000_000_000_000),
];

const BITS: &[Unit] = &[
    bits("kbit", 1000),
    bits("Kbit", 1000),
    bits("mbit", 1_000_000),
    bits("Mbit", 1_000_000),
    bits("Mbps", 1_000_000),
    bits("gbit", 1_000_000_000),
    bits("Gbit", 1_000_000_000),
    bits("Gbps", 1_000_000_000),
];

/// The same counted in bits. `Mbps` is megabits nearly everywhere; `mbps`, which tc takes for
/// megabytes, is refused.
const BIT_RATES: &[Unit] = &[
    whole("bit"),
    unit("kbit", 1000),
    unit("Kbit", 1000),
    unit("mbit", 1_000_000),
    unit("Mbit", 1_000_000),
    unit("Mbps", 1_000_000),
    unit("gbit", 1_000_000_000),
    unit("Gbit", 1_000_000_000),
    unit("Gbps", 1_000_000_000),
];

/// In microseconds. A bare number would be seconds elsewhere and is milliseconds to most people.
const DELAYS: &[Unit] = &[whole("us"), unit("ms", 1000), unit("s", 1_000_000)];

/// In milliseconds.
const TIMES: &[Unit] = &[
    unit("", 1000),
    unit("ms", 1),
    unit("s", 1000),
    unit("min", 60_000),
    unit("h", 3_600_000),
];

/// Reads a size.
///
/// A bare number is bytes. `K`, `M`, `G` and `T` (of either case) and `KiB` to `EiB` are powers
/// of 1024, `kB` to `TB` powers of 1000. A number with a unit may have a fraction; the result is
/// rounded down to whole bytes. One space before the unit is allowed.
///
/// # Errors
/// Anything else: empty, negative, a fraction of a byte, an unknown unit, 2^64 bytes or more, and
/// what is not zero but would be rounded to it.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    scaled(text, &[BYTES]).ok_or_else(|| refusal(text, SIZE_ALLOWED))
}

/// Reads a rate and gives bytes per second.
///
/// Takes every size of [`parse_size`], and `kbit`, `Mbit` (or `mbit`, `Mbps`) and `Gbit` (or `gbit`,
/// `Gbps`), which are powers of 1000 bits. `/s` may follow the unit.
///
/// # Errors
/// As [`parse_size`].
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    scaled(text.strip_suffix("/s").unwrap_or(text), &[BYTES, BITS])
        .ok_or_else(|| refusal(text, RATE_ALLOWED))
}

/// Reads a time.
///
/// A bare number is seconds; the units are `ms`, `s`, `min` and `h`. Fractions are allowed; the
/// result is rounded down to whole milliseconds.
///
/// # Errors
/// Anything else: empty, negative, an unknown unit, more than 2^64 milliseconds, and what is not
/// zero but shorter than a millisecond.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    scaled(text, &[TIMES])
        .map(Duration::from_millis)
        .ok_or_else(|| refusal(text, DURATION_ALLOWED))
}

/// Reads the rate of a link and gives bits per second.
///
/// The units are `bit`, `kbit`, `Mbit` (or `mbit`, `Mbps`) and `Gbit` (or `gbit`, `Gbps`), powers of
/// 1000, and one of them must be there; `/s` may follow. Bytes are taken only as a rate, such as
/// `125MB/s`. Fractions are allowed; the result is rounded down to whole bits.
///
/// # Errors
/// Anything else: empty, negative, an unknown unit or none, 2^64 bits or more, and what is not
/// zero but would be rounded to it.
pub fn parse_bit_rate(text: &str) -> Result<u64, UnitError> {
    let rate = match text.strip_suffix("/s") {
        None => scaled(text, &[BIT_RATES]),
        Some(amount) => scaled(amount, &[BIT_RATES]).or_else(|| {
            let bytes = scaled(amount, &[&BYTES[1..]])?;
            bytes.checked_mul(8)
        }),
    };
    rate.ok_or_else(|| refusal(text, BIT_RATE_ALLOWED))
}

/// Reads the delay of a link.
///
/// The units are `us`, `ms` and `s`, and one of them must be there. Fractions are allowed; the
/// result is rounded down to whole microseconds.
///
/// # Errors
/// Anything else: empty, negative, an unknown unit or none, 2^64 microseconds or more, and what
/// is not zero but shorter than a microsecond.
pub fn parse_delay(text: &str) -> Result<Duration, UnitError> {
    scaled(text, &[DELAYS])
        .map(Duration::from_micros)
        .ok_or_else(|| refusal(text, DELAY_ALLOWED))
}

/// Reads a switch: `on`, `true`, `yes` or `1`, and `off`, `false`, `no` or `0`. `None` for any
/// other text.
pub fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

fn refusal(text: &str, allowed: &'static str) -> UnitError {
    UnitError {
        value: text.to_owned(),
        allowed,
    }
}

/// The whole of `text` as a number with one of the units.
fn scaled(text: &str, units: &[&[Unit]]) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, name) = text.split_at(end);
    let name = match name.strip_prefix(' ') {
        // `64 MiB` is what this program itself prints; `64 ` is a slip.
        Some(name) if !name.is_empty() => name,
        Some(_) => return None,
        None => name,
    };
    let unit = units.iter().copied().flatten().find(|u| u.name == name)?;

    let (integer, fraction) = match number.split_once('.') {
        Some((integer, fraction)) if unit.fractions && !fraction.is_empty() => (integer, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    // u64::from_str would take a plus sign, but only digits and points are left here; it refuses
    // the empty text, a second point and whatever is too large.
    let integer = u128::from(integer.parse::<u64>().ok()?);
    // 18 digits are finer than any unit here; the rest cannot count.
    let digits = fraction.get(..18).unwrap_or(fraction);
    let (numerator, denominator) = match digits {
        "" => (0, 1),
        // 18 digits fit in a u64, and so does their power of ten.
        _ => (
            u128::from(digits.parse::<u64>().ok()?),
            10_u128.pow(digits.len() as u32),
        ),
    };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }

    // The sum is within 2^64 x 10^18. What the multiplication takes beyond 2^128 does not fit anyway.
    let value = (integer * denominator + numerator).checked_mul(u128::from(unit.multiply))?
        / (denominator * u128::from(unit.divide));
    let is_zero = integer == 0 && fraction.bytes().all(|byte| byte == b'0');
    if value == 0 && !is_zero {
        // 0 means "no limit" in places: a tiny number must not turn into it.
        return None;
    }
    u64::try_from(value).ok()
}

/// A size for people: `512 B`, `1.50 MiB`.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut name = "";
    let mut hundredths = 0;
    for (power, unit) in (1..).zip(UNITS) {
        let size = 1_u128 << (10 * power);
        hundredths = (u128::from(bytes) * 100 + size / 2) / size;
        name = unit;
        // What rounds up to 1024.00 reads better as 1.00 of the next unit.
        if hundredths < 1024 * 100 {
            break;
        }
    }
    format!("{}.{:02} {name}", hundredths / 100, hundredths % 100)
}

/// A rate in bytes per second for people: `1.50 MiB/s`.
pub fn format_rate(bytes_per_second: u64) -> String {
    format!("{}/s", format_bytes(bytes_per_second))
}

/// A length of time for people: `850 µs`, `12.50 ms`, `1.50 s`, `2 min 05 s`, `1 h 02 min`.
pub fn format_duration(time: Duration) -> String {
    let micros = time.as_micros();
    let hundredths = |unit: u128| {
        let rounded = (micros * 100 + unit / 2) / unit;
        (rounded / 100, rounded % 100)
    };
    // Each bound is where the next line's rounding would show one whole larger unit.
    if micros < 1000 {
        return format!("{micros} µs");
    }
    if micros < 999_995 {
        let (whole, part) = hundredths(1000);
        return format!("{whole}.{part:02} ms");
    }
    if micros < 59_995_000 {
        let (whole, part) = hundredths(1_000_000);
        return format!("{whole}.{part:02} s");
    }
    let seconds = (micros + 500_000) / 1_000_000;
    if seconds < 3600 {
        return format!("{} min {:02} s", seconds / 60, seconds % 60);
    }
    let minutes = (seconds + 30) / 60;
    format!("{} h {:02} min", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("64K", 64 << 10),
            ("64M", 64 << 20),
            ("64m", 64 << 20),
            ("64G", 64 << 30),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("2TiB", 2 << 40),
            ("64kB", 64_000),
            ("64MB", 64_000_000),
            ("1.5GB", 1_500_000_000),
            ("1.5GiB", 3 << 29),
            ("0.000000KiB", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn rates_are_bytes_or_decimal_bits_a_second() {
        for (text, rate) in [
            ("0", 0),
            ("1000000", 1_000_000),
            ("100MiB/s", 100 << 20),
            ("100M", 100 << 20),
            ("8kbit", 1000),
            ("1Mbit/s", 125_000),
            ("1Gbit", 125_000_000),
            ("1.5Gbit", 187_500_000),
            ("1.5 Gbit/s", 187_500_000),
            ("1gbit", 125_000_000),
            ("10Gbps", 1_250_000_000),
            ("0.00000001Gbit", 1),
        ] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
    }

    #[test]
    fn times_are_seconds_unless_they_say_otherwise() {
        for (text, ms) in [
            ("30", 30_000),
            ("30s", 30_000),
            ("0.25", 250),
            ("500ms", 500),
            ("2min", 120_000),
            ("2 min", 120_000),
            ("1.5h", 5_400_000),
            ("0", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
    }

    #[test]
    fn links_have_rates_in_bits_and_delays_with_units() {
        for (text, bits) in [
            ("200kbit", 200_000),
            ("10Mbit", 10_000_000),
            ("2.5Gbit", 2_500_000_000),
            ("1 Gbit", 1_000_000_000),
            ("12345bit", 12_345),
            ("1gbit", 1_000_000_000),
            ("1Gbit/s", 1_000_000_000),
            ("10Gbps", 10_000_000_000),
            ("1000Mbps", 1_000_000_000),
            ("125MB/s", 1_000_000_000),
            ("1MiB/s", 8 << 20),
        ] {
            assert_eq!(parse_bit_rate(text), Ok(bits), "{text}");
        }
        for (text, us) in [
            ("500us", 500),
            ("20ms", 20_000),
            ("0.25ms", 250),
            ("1s", 1_000_000),
            ("0ms", 0),
        ] {
            assert_eq!(parse_delay(text), Ok(Duration::from_micros(us)), "{text}");
        }
        for text in [
            "", "10", "10/s", "10M", "10MiB", "10Mb", "10mbps", "1.5bit", "-1Gbit", "125MB",
        ] {
            assert!(parse_bit_rate(text).is_err(), "{text}");
        }
        for text in [
            "",
            "20",
            "1min",
            "0.5us",
            "-1ms",
            "20ms ",
            "99999999999999999s",
        ] {
            assert!(parse_delay(text).is_err(), "{text}");
        }
    }

    #[test]
    fn whatever_is_not_a_size_a_rate_or_a_time_is_refused() {
        let never = [
            "",
            " ",
            "-1",
            "+1",
            "1e3",
            "0x10",
            "NaN",
            "inf",
            "M",
            ".5M",
            "1.M",
            "1..5M",
            "1.5.5M",
            "1,5M",
            "1MiBx",
            "1 ",
            " 1",
            "1  MiB",
            "1\u{a0}MiB",
            "18446744073709551616",
            "99999999999999999999999999999999999999999999",
            "16777216TiB",
            "18446744073709551615.999999999999999999Gbit",
            "18446744073709551615.999999999999999999TiB",
            "1.5\u{661}M",
            "/s",
        ];
        for text in never {
            assert!(parse_size(text).is_err(), "{text} as a size");
            assert!(parse_rate(text).is_err(), "{text} as a rate");
            assert!(parse_duration(text).is_err(), "{text} as a time");
        }
        for text in ["1.5", "1.0B", "1Gbit", "1MiB/s", "1Mb", "1mib", "0.0001KiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["0.0000000001Gbit", "1/s/s", "1Gb", "1gbps"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        for text in ["0.0001", "0.5ms", "1m", "1d", "99999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_refusal_names_the_value_and_what_is_allowed_in_one_line() {
        let words = parse_size("64 mib\n").map_err(|error| error.to_string());
        assert_eq!(
            words,
            Err(format!(r#""64 mib\n" is not {SIZE_ALLOWED}"#)),
            "blanks and control characters are shown, not printed"
        );
        let words = parse_duration("soon").map_err(|error| error.to_string());
        assert_eq!(words, Err(format!("soon is not {DURATION_ALLOWED}")));
    }

    #[test]
    fn what_people_read_has_three_or_so_digits_and_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (3 << 19, "1.50 MiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (64 << 20, "64.00 MiB"),
            (u64::MAX, "16.00 EiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
        assert_eq!(format_rate(3 << 19), "1.50 MiB/s");
        for (micros, text) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (12_500, "12.50 ms"),
            (999_994, "999.99 ms"),
            (999_995, "1.00 s"),
            (59_994_999, "59.99 s"),
            (59_995_000, "1 min 00 s"),
            (125_000_000, "2 min 05 s"),
            (3_599_500_000, "1 h 00 min"),
            (3_720_000_000, "1 h 02 min"),
        ] {
            assert_eq!(format_duration(Duration::from_micros(micros)), text);
        }
        assert!(format_duration(Duration::MAX).ends_with("min"));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(
            wild in any::<String>(),
            near in "[0-9.]{0,40} ?[kKmMgGtTiBbs/nh]{0,5}",
        ) {
            for text in [wild, near] {
                let _ = parse_size(&text);
                let _ = parse_rate(&text);
                let _ = parse_duration(&text);
                let _ = parse_bit_rate(&text);
                let _ = parse_delay(&text);
                let _ = parse_switch(&text);
            }
        }

        #[test]
        fn plain_numbers_are_read_back_exactly(number in any::<u64>()) {
            prop_assert_eq!(parse_size(&number.to_string()), Ok(number));
            prop_assert_eq!(parse_rate(&number.to_string()), Ok(number));
            let time = Duration::from_millis(number);
            prop_assert_eq!(parse_duration(&format!("{number}ms")), Ok(time));
        }

        #[test]
        fn what_is_printed_reads_back_within_half_a_hundredth(number in 0_u64..1 << 50) {
            // A GiB figure such as 1023.99 is off by half of 0.01 of at least 1.00.
            let text = format_bytes(number);
            let back = parse_size(&text).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(back.abs_diff(number) <= number / 200 + 1, "{} read as {}", text, back);
            let text = format_rate(number);
            let back = parse_rate(&text).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(back.abs_diff(number) <= number / 200 + 1, "{} read as {}", text, back);
        }

        #[test]
        fn times_never_print_a_full_unit_of_the_next(micros in 0_u64..10_000_000_000) {
            let text = format_duration(Duration::from_micros(micros));
            prop_assert!(!text.starts_with("1000"), "{}", text);
            prop_assert!(!text.starts_with("60."), "{}", text);
            // The second of two numbers: 59 is its largest.
            prop_assert!(!text.contains(" 60 "), "{}", text);
        }
    }
}
