//! The rows of [`TABLE`]: every parameter's name, type, default, range and words, how it is read
//! from text and how it is given back.

use std::fmt;
use std::time::Duration;

use super::{Kind, LONGEST_TIMEOUT, Parameter, Side, TimeoutAction, Value};
use crate::page::PAGE_SIZE;
use crate::units::{RATE_ALLOWED, parse_duration, parse_rate, parse_size, parse_switch};

/// Every parameter, in the order in which they are listed.
pub static TABLE: &[Parameter] = &[
    Parameter {
        name: "compress-method",
        kind: Kind::String,
        default: "zlib",
        range: "zlib, gzip, lz4, zstd or none",
        unit: None,
        meaning: "What compresses batches of pages",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.compress_method = text.parse()?;
            Ok(())
        },
        get: |params| Value::Word(params.compress_method.name()),
    },
    Parameter {
        name: "compress-level",
        kind: Kind::Int,
        default: "1",
        range: "0 to 9 for zlib and gzip, 0 to 19 for zstd, 0 or 1 for lz4; \
                0: the method's own default, which is 6 for zlib and gzip and 3 for zstd",
        unit: None,
        meaning: "How hard to compress: 1 is fastest, the highest level gives the best ratio",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            // The method may be set after the level: which levels it has is for validate().
            params.compress_level = integer(text, 0, HIGHEST_LEVEL)?;
            Ok(())
        },
        get: |params| Value::Number(params.compress_level.into()),
    },
    Parameter {
        name: "compress-threads",
        kind: Kind::Int,
        default: "8",
        range: "1 to 255",
        unit: None,
        meaning: "How many threads compress",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.compress_threads = integer(text, 1, u8::MAX)?;
            Ok(())
        },
        get: |params| Value::Number(params.compress_threads.into()),
    },
    Parameter {
        name: "decompress-threads",
        kind: Kind::Int,
        default: "2",
        range: "1 to 255",
        unit: None,
        meaning: "How many threads decompress",
        side: Side::Destination,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.decompress_threads = integer(text, 1, u8::MAX)?;
            Ok(())
        },
        get: |params| Value::Number(params.decompress_threads.into()),
    },
    Parameter {
        name: "compress-wait-thread",
        kind: Kind::Boolean,
        default: "on",
        range: "on or off",
        unit: None,
        meaning: "Wait for a compressing thread when all are busy. When off, the batch is sent \
                  uncompressed instead, and counted as busy",
        side: Side::Source,
        runtime: false,
        since: "0.1.0",
        set: |params, text| {
            params.compress_wait_thread = switch(text)?;
            Ok(())
        },
        get: |params| Value::Boolean(params.compress_wait_thread),
    },
    Parameter {
        name: "xbzrle-cache-size",
        kind: Kind::Ullong,
        default: "64MiB",
        range: CACHE_RANGE,
        unit: Some("bytes"),
        meaning: "Memory for copies of sent pages, which deltas are taken against",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.xbzrle_cache_size = parse_size(text)
                .ok()
                .filter(|&size| is_cache_size(size))
                .ok_or(CACHE_ALLOWED)?;
            Ok(())
        },
        get: |params| Value::Number(params.xbzrle_cache_size),
    },
    Parameter {
        name: "max-bandwidth",
        kind: Kind::Ullong,
        default: "0",
        range: "0 (no limit) or more, such as 100MiB or 1.5Gbit",
        unit: Some("bytes per second"),
        meaning: "The most that is sent in a second, over all connections",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.max_bandwidth = parse_rate(text).map_err(|_| RATE_ALLOWED)?;
            Ok(())
        },
        get: |params| Value::Number(params.max_bandwidth),
    },
    Parameter {
        name: "connections",
        kind: Kind::Int,
        default: "1",
        range: "1 to 64",
        unit: None,
        meaning: "How many connections carry the pages",
        side: Side::Source,
        runtime: false,
        since: "0.1.0",
        set: |params, text| {
            params.connections = integer(text, 1, MOST_CONNECTIONS)?;
            Ok(())
        },
        get: |params| Value::Number(params.connections.into()),
    },
    Parameter {
        name: "batch-pages",
        kind: Kind::Int,
        default: AUTO,
        range: "1 to 256, or auto: what suits the method",
        unit: Some("pages"),
        meaning: "How many pages are compressed and sent together",
        side: Side::Source,
        runtime: false,
        since: "0.1.0",
        set: |params, text| {
            params.batch_pages = match text {
                AUTO => None,
                _ => Some(
                    integer(text, 1, MOST_BATCH_PAGES)
                        .map_err(|what| format!("{AUTO} or {what}"))?,
                ),
            };
            Ok(())
        },
        get: |params| match params.batch_pages {
            Some(pages) => Value::Number(pages.into()),
            None => Value::Unset(AUTO),
        },
    },
    Parameter {
        name: "zlib-engine",
        kind: Kind::String,
        default: "libdeflate",
        range: "libdeflate or zlib-rs",
        unit: None,
        meaning: "Which library compresses for the methods zlib and gzip",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.zlib_engine = text.parse()?;
            Ok(())
        },
        get: |params| Value::Word(params.zlib_engine.name()),
    },
    Parameter {
        name: "delta-compress",
        kind: Kind::Boolean,
        default: "on",
        range: "on or off",
        unit: None,
        meaning: "Compress the batches of delta rounds too, deltas and whole pages, with compress-method",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.delta_compress = switch(text)?;
            Ok(())
        },
        get: |params| Value::Boolean(params.delta_compress),
    },
    Parameter {
        name: "downtime-limit",
        kind: Kind::Ullong,
        default: "300",
        range: "0 to 2000000, such as 300; or with a unit, such as 1.5s",
        unit: Some("milliseconds"),
        meaning: "How long the writer of a live guest may stand still",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.downtime_limit = downtime(text)?;
            Ok(())
        },
        get: |params| Value::Number(params.downtime_limit.as_millis() as u64),
    },
    Parameter {
        name: "max-rounds",
        kind: Kind::Uint,
        default: "30",
        range: "1 to 65535",
        unit: None,
        meaning: "How many rounds of a live migration there may be before the last",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.max_rounds = integer(text, 1, MOST_ROUNDS)?;
            Ok(())
        },
        get: |params| Value::Number(params.max_rounds.into()),
    },
    Parameter {
        name: "max-time",
        kind: Kind::Double,
        default: "none",
        range: "more than 0, up to 1 day, such as 30, 500ms or 2min; or none: no limit",
        unit: Some("seconds"),
        meaning: "How long the rounds of a live migration may take before the last",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.max_time = match text {
                NO_LIMIT => None,
                _ => Some(limit(text).map_err(|what| format!("{NO_LIMIT} or {what}"))?),
            };
            Ok(())
        },
        get: |params| match params.max_time {
            Some(time) => Value::Double(time.as_secs_f64()),
            None => Value::Unset(NO_LIMIT),
        },
    },
    Parameter {
        name: "timeout-action",
        kind: Kind::String,
        default: "suspend",
        range: "suspend or abort",
        unit: None,
        meaning: "What to do when a live migration does not converge: stop the writer and finish, or fail",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.timeout_action = match text {
                "suspend" => TimeoutAction::Suspend,
                "abort" => TimeoutAction::Abort,
                _ => return Err("suspend or abort".to_owned()),
            };
            Ok(())
        },
        get: |params| Value::Word(params.timeout_action.name()),
    },
    Parameter {
        name: "throttle-trigger-threshold",
        kind: Kind::Int,
        default: "50",
        range: "1 to 100",
        unit: Some("percent"),
        meaning: "With auto-converge: how many bytes may become dirty for each that is sent before the writer is slowed down",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.throttle_trigger_threshold = integer(text, 1, 100)?;
            Ok(())
        },
        get: |params| Value::Number(params.throttle_trigger_threshold.into()),
    },
    Parameter {
        name: "cpu-throttle-initial",
        kind: Kind::Int,
        default: "20",
        range: "1 to 99",
        unit: Some("percent"),
        meaning: "With auto-converge: how much the writer is slowed down at first",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.cpu_throttle_initial = integer(text, 1, 99)?;
            Ok(())
        },
        get: |params| Value::Number(params.cpu_throttle_initial.into()),
    },
    Parameter {
        name: "cpu-throttle-increment",
        kind: Kind::Int,
        default: "10",
        range: "1 to 99",
        unit: Some("percent"),
        meaning: "With auto-converge: how much more at each further step",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.cpu_throttle_increment = integer(text, 1, 99)?;
            Ok(())
        },
        get: |params| Value::Number(params.cpu_throttle_increment.into()),
    },
    Parameter {
        name: "max-cpu-throttle",
        kind: Kind::Int,
        default: "99",
        range: "cpu-throttle-initial to 99",
        unit: Some("percent"),
        meaning: "With auto-converge: how much at most",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        set: |params, text| {
            params.max_cpu_throttle = integer(text, 1, 99)?;
            Ok(())
        },
        get: |params| Value::Number(params.max_cpu_throttle.into()),
    },
    Parameter {
        name: "timeout",
        kind: Kind::Double,
        default: "30s",
        range: TIMEOUT_RANGE,
        unit: Some("seconds"),
        meaning: "How long the peer may be silent before the migration fails. It does not bound \
                  how long a migration takes",
        side: Side::Both,
        runtime: false,
        since: "0.1.0",
        set: |params, text| {
            params.timeout = limit(text)?;
            Ok(())
        },
        get: |params| Value::Double(params.timeout.as_secs_f64()),
    },
    Parameter {
        name: "connect-timeout",
        kind: Kind::Double,
        default: "10s",
        range: TIMEOUT_RANGE,
        unit: Some("seconds"),
        meaning: "How long a connection attempt may take",
        side: Side::Source,
        runtime: false,
        since: "0.1.0",
        set: |params, text| {
            params.connect_timeout = limit(text)?;
            Ok(())
        },
        get: |params| Value::Double(params.connect_timeout.as_secs_f64()),
    },
    Parameter {
        name: "accept-timeout",
        kind: Kind::Double,
        default: NO_LIMIT,
        range: "more than 0, up to 1 day, such as 30, 500ms or 2min; or none: no limit",
        unit: Some("seconds"),
        meaning: "How long to wait for the source to connect",
        side: Side::Destination,
        runtime: false,
        since: "0.1.0",
        set: |params, text| {
            params.accept_timeout = match text {
                NO_LIMIT => None,
                _ => Some(limit(text).map_err(|what| format!("{NO_LIMIT} or {what}"))?),
            };
            Ok(())
        },
        get: |params| match params.accept_timeout {
            Some(time) => Value::Double(time.as_secs_f64()),
            None => Value::Unset(NO_LIMIT),
        },
    },
    Parameter {
        name: "link",
        kind: Kind::String,
        default: NO_LINK,
        range: "RATE[/DELAY], such as 200Mbit or 1Gbit/20ms; or off: the link as it is",
        unit: None,
        meaning: "Emulate a link, for tests and benchmarks: this end writes no faster than RATE, over \
                  all connections, and reads each byte DELAY after it arrived. Give it to both ends",
        side: Side::Both,
        runtime: false,
        since: "0.1.0",
        set: |params, text| {
            params.link = match text {
                NO_LINK => None,
                _ => Some(
                    text.parse()
                        .map_err(|what: String| format!("{NO_LINK} or {what}"))?,
                ),
            };
            Ok(())
        },
        get: |params| params.link.map_or(Value::Unset(NO_LINK), Value::Link),
    },
];

/// The word for "as suits the method".
pub(super) const AUTO: &str = "auto";
/// The word for "waits for ever".
const NO_LIMIT: &str = "none";
/// The word for "nothing is emulated".
const NO_LINK: &str = "off";
/// The highest level that any method has.
pub(super) const HIGHEST_LEVEL: u8 = 19;
/// Connections beyond this many only cost memory and sockets.
const MOST_CONNECTIONS: u8 = 64;
/// The wire's limit of rounds, without the last.
const MOST_ROUNDS: u32 = 65_535;
/// The longest downtime that can be allowed, as QEMU has it.
const LONGEST_DOWNTIME: Duration = Duration::from_secs(2000);
/// The wire's limit of pages in a batch.
const MOST_BATCH_PAGES: u16 = 256;
const CACHE_RANGE: &str = "a power of two no less than 4096, such as 64MiB";
const CACHE_ALLOWED: &str = "a power of two no less than 4096 bytes, such as 64MiB";
const TIMEOUT_RANGE: &str = "more than 0, up to 1 day, such as 30, 500ms or 2min";

/// A decimal integer within bounds, digits only.
fn integer<T>(text: &str, lowest: T, highest: T) -> Result<T, String>
where
    T: Copy + fmt::Display + PartialOrd + std::str::FromStr,
{
    // The standard parser would also take a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| digits && (lowest..=highest).contains(number))
        .ok_or_else(|| format!("an integer from {lowest} to {highest}"))
}

fn switch(text: &str) -> Result<bool, String> {
    parse_switch(text).ok_or_else(|| "on or off".to_owned())
}

fn is_cache_size(size: u64) -> bool {
    size.is_power_of_two() && size >= PAGE_SIZE as u64
}

/// A downtime: a plain number is milliseconds, as it is in QEMU.
fn downtime(text: &str) -> Result<Duration, String> {
    let time = match text.parse() {
        Ok(number) => Some(Duration::from_millis(number)),
        // Fractions need a unit, so that nobody takes them for seconds.
        Err(_) if text.parse::<f64>().is_ok() => None,
        Err(_) => parse_duration(text).ok(),
    };
    time.filter(|time| *time <= LONGEST_DOWNTIME)
        .ok_or_else(|| {
            "0 to 2000000 milliseconds, such as 300, or a time with its unit, such as 1.5s"
                .to_owned()
        })
}

/// A time limit within its bounds.
fn limit(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok()
        .filter(|time| !time.is_zero() && *time <= LONGEST_TIMEOUT)
        .ok_or_else(|| {
            "a time of more than 0 and up to 1 day, such as 30 (seconds), 500ms or 2min".to_owned()
        })
}
