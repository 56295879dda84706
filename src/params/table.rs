//! The rows of [`TABLE`]: every parameter's name, type, default, range and meaning, how it is read
//! and how it is given back.

use std::time::Duration;

use super::compression::{self, Compression};
use super::read::{Given, cache_size, downtime, integer, limit, name, or_unset, rate, switch};
use super::{BenchUse, Kind, Parameter, Side, Value};

/// What most rows have in common: a parameter of the source that can change during a migration.
const SOURCE: Parameter = Parameter {
    name: "",
    kind: Kind::Int,
    default: "",
    range: "",
    unit: None,
    meaning: "",
    side: Side::Source,
    runtime: true,
    since: "0.1.0",
    repeatable: false,
    unset: None,
    in_bench: BenchUse::Same,
    set: |_, _| Ok(()),
    get: |_| Value::Unset(""),
};

/// A parameter of live migrations.
const LIVE: Parameter = Parameter {
    in_bench: BenchUse::Unused,
    ..SOURCE
};

const DESTINATION: Parameter = Parameter {
    side: Side::Destination,
    ..SOURCE
};

const BOTH: Parameter = Parameter {
    side: Side::Both,
    ..SOURCE
};

/// Every parameter, in the order in which they are listed.
///
/// This is the one place to add a parameter: a row here, with a field of
/// [`Params`](super::Params) that its `set` and `get` use. Setting it from text and from a typed
/// list, its option on the command line with its help, `ramferry parameters`, a monitor's queries
/// and the table in this documentation all follow from the row. Then
/// `RAMFERRY_BLESS=1 cargo test --lib params` updates `docs/parameters.md`; every test that walks
/// the table covers the new row.
pub static TABLE: &[Parameter] = &[
    Parameter {
        name: "compress-method",
        kind: Kind::String,
        default: "zlib",
        range: "none, zlib, gzip, lz4 or zstd",
        meaning: "Compression method for batches of pages",
        in_bench: BenchUse::Varied,
        set: |params, given| name(given).map(|value| params.compress_method = value),
        get: |params| Value::Word(params.compress_method.name()),
        ..SOURCE
    },
    Parameter {
        name: compression::NAME,
        kind: Kind::String,
        default: "zlib xbzrle",
        range: compression::RANGE,
        meaning: "Everything that makes the stream smaller, given once for each: at most one method, which becomes compress-method, and xbzrle. The capabilities compress and xbzrle are switched to match",
        runtime: false,
        repeatable: true,
        set: |params, given| {
            let named = Compression::of_one(given.word().unwrap_or_default())?;
            named.without_caps()?.set_method(params);
            Ok(())
        },
        get: |_| Value::Unset("unset"),
        ..SOURCE
    },
    Parameter {
        name: "compress-level",
        kind: Kind::Int,
        default: "1",
        range: LEVELS,
        meaning: "Compression level: 1 is fastest, the highest level gives the best ratio",
        in_bench: BenchUse::Varied,
        // The method may be set after the level, so validate() checks which levels it has.
        set: |params, given| {
            integer(given, 0, HIGHEST_LEVEL)
                .map(|value| params.compress_level = value)
                .map_err(|_| LEVELS.to_owned())
        },
        get: |params| Value::Number(params.compress_level.into()),
        ..SOURCE
    },
    Parameter {
        name: "compress-threads",
        kind: Kind::Int,
        default: "8",
        range: "1 to 255",
        meaning: "Number of compression threads",
        in_bench: BenchUse::Varied,
        set: |params, given| {
            integer(given, 1, u8::MAX).map(|value| params.compress_threads = value)
        },
        get: |params| Value::Number(params.compress_threads.into()),
        ..SOURCE
    },
    Parameter {
        name: "decompress-threads",
        kind: Kind::Int,
        default: "2",
        range: "1 to 255",
        meaning: "Number of decompression threads",
        in_bench: BenchUse::Varied,
        set: |params, given| {
            integer(given, 1, u8::MAX).map(|value| params.decompress_threads = value)
        },
        get: |params| Value::Number(params.decompress_threads.into()),
        ..DESTINATION
    },
    Parameter {
        name: "compress-wait-thread",
        kind: Kind::Boolean,
        default: "on",
        range: "on or off",
        meaning: "Wait for a free compression thread when all are busy. When off, the batch is sent uncompressed instead, and counted as busy",
        runtime: false,
        set: |params, given| switch(given).map(|value| params.compress_wait_thread = value),
        get: |params| Value::Boolean(params.compress_wait_thread),
        ..SOURCE
    },
    Parameter {
        name: "xbzrle-cache-size",
        kind: Kind::Ullong,
        default: "64MiB",
        range: CACHE_RANGE,
        unit: Some("bytes"),
        meaning: "Memory for copies of sent pages, which deltas are computed against",
        in_bench: BenchUse::Varied,
        set: |params, given| cache_size(given).map(|value| params.xbzrle_cache_size = value),
        get: |params| Value::Number(params.xbzrle_cache_size),
        ..SOURCE
    },
    Parameter {
        name: "max-bandwidth",
        kind: Kind::Ullong,
        default: "0",
        range: "0 (no limit) or more, such as 100MiB or 1.5Gbit; a number without a unit is bytes",
        unit: Some("bytes per second"),
        meaning: "Maximum bytes sent per second, over all connections",
        set: |params, given| rate(given).map(|value| params.max_bandwidth = value),
        get: |params| Value::Number(params.max_bandwidth),
        ..SOURCE
    },
    Parameter {
        name: "connections",
        kind: Kind::Int,
        default: "1",
        range: "1 to 64",
        meaning: "Number of connections that carry pages",
        runtime: false,
        in_bench: BenchUse::Varied,
        set: |params, given| {
            integer(given, 1, MOST_CONNECTIONS).map(|value| params.connections = value)
        },
        get: |params| Value::Number(params.connections.into()),
        ..SOURCE
    },
    Parameter {
        name: "batch-pages",
        kind: Kind::Int,
        default: AUTO,
        range: "1 to 256, or auto: what suits the method",
        unit: Some("pages"),
        meaning: "Number of pages that are compressed and sent together",
        runtime: false,
        unset: Some(AUTO),
        in_bench: BenchUse::Varied,
        set: |params, given| {
            let read = |given| integer(given, 1, MOST_BATCH_PAGES);
            or_unset(given, AUTO, read).map(|value| params.batch_pages = value)
        },
        get: |params| match params.batch_pages {
            Some(pages) => Value::Number(pages.into()),
            None => Value::Unset(AUTO),
        },
        ..SOURCE
    },
    Parameter {
        name: "zlib-engine",
        kind: Kind::String,
        default: "libdeflate",
        range: "libdeflate or zlib-rs",
        meaning: "Library that compresses for the methods zlib and gzip",
        in_bench: BenchUse::Varied,
        set: |params, given| name(given).map(|value| params.zlib_engine = value),
        get: |params| Value::Word(params.zlib_engine.name()),
        ..SOURCE
    },
    Parameter {
        name: "delta-compress",
        kind: Kind::Boolean,
        default: "on",
        range: "on or off",
        meaning: "Compress the batches of delta rounds too, deltas and whole pages, with compress-method",
        set: |params, given| switch(given).map(|value| params.delta_compress = value),
        get: |params| Value::Boolean(params.delta_compress),
        ..SOURCE
    },
    Parameter {
        name: "downtime-limit",
        kind: Kind::Ullong,
        default: "300",
        range: "0 to 2000000, such as 300; or with a unit, such as 1.5s",
        unit: Some("milliseconds"),
        meaning: "How long the writer of a live guest may be stopped",
        set: |params, given| downtime(given).map(|value| params.downtime_limit = value),
        get: |params| Value::Number(params.downtime_limit.as_millis() as u64),
        ..LIVE
    },
    Parameter {
        name: "max-rounds",
        kind: Kind::Uint,
        default: "30",
        range: "1 to 65535",
        meaning: "Maximum number of rounds of a live migration before the last",
        set: |params, given| integer(given, 1, MOST_ROUNDS).map(|value| params.max_rounds = value),
        get: |params| Value::Number(params.max_rounds.into()),
        ..LIVE
    },
    Parameter {
        name: "max-time",
        kind: Kind::Double,
        default: NO_LIMIT,
        range: "more than 0, up to 1 day, such as 30, 500ms or 2min; or none: no limit",
        unit: Some("seconds"),
        meaning: "Maximum time that the rounds of a live migration may take before the last",
        unset: Some(NO_LIMIT),
        set: |params, given| or_unset(given, NO_LIMIT, limit).map(|value| params.max_time = value),
        get: |params| seconds_or_unset(params.max_time),
        ..LIVE
    },
    Parameter {
        name: "timeout-action",
        kind: Kind::String,
        default: "suspend",
        range: "suspend or abort",
        meaning: "What to do when a live migration does not converge: stop the writer and finish, or fail",
        set: |params, given| name(given).map(|value| params.timeout_action = value),
        get: |params| Value::Word(params.timeout_action.name()),
        ..LIVE
    },
    Parameter {
        name: "throttle-trigger-threshold",
        kind: Kind::Int,
        default: "50",
        range: "1 to 100",
        unit: Some("percent"),
        meaning: "With auto-converge: slow the writer down when it dirties more than this share of what is sent meanwhile",
        set: |params, given| {
            integer(given, 1, 100).map(|value| params.throttle_trigger_threshold = value)
        },
        get: |params| Value::Number(params.throttle_trigger_threshold.into()),
        ..LIVE
    },
    Parameter {
        name: "cpu-throttle-initial",
        kind: Kind::Int,
        default: "20",
        range: "1 to 99",
        unit: Some("percent"),
        meaning: "With auto-converge: how much to slow the writer down at first",
        set: |params, given| integer(given, 1, 99).map(|value| params.cpu_throttle_initial = value),
        get: |params| Value::Number(params.cpu_throttle_initial.into()),
        ..LIVE
    },
    Parameter {
        name: "cpu-throttle-increment",
        kind: Kind::Int,
        default: "10",
        range: "1 to 99",
        unit: Some("percent"),
        meaning: "With auto-converge: how much more to slow the writer down at each further step",
        set: |params, given| {
            integer(given, 1, 99).map(|value| params.cpu_throttle_increment = value)
        },
        get: |params| Value::Number(params.cpu_throttle_increment.into()),
        ..LIVE
    },
    Parameter {
        name: "max-cpu-throttle",
        kind: Kind::Int,
        default: "99",
        range: "cpu-throttle-initial to 99",
        unit: Some("percent"),
        meaning: "With auto-converge: how much to slow the writer down at most",
        set: |params, given| integer(given, 1, 99).map(|value| params.max_cpu_throttle = value),
        get: |params| Value::Number(params.max_cpu_throttle.into()),
        ..LIVE
    },
    Parameter {
        name: "timeout",
        kind: Kind::Double,
        default: "30s",
        range: TIMEOUT_RANGE,
        unit: Some("seconds"),
        meaning: "How long the peer may be silent before the migration fails. It does not limit how long a migration takes; only the answers at its end have to come within four times this, and at the source a second more for every 10 MiB of RAM",
        runtime: false,
        set: |params, given| limit(given).map(|value| params.timeout = value),
        get: |params| Value::Double(params.timeout.as_secs_f64()),
        ..BOTH
    },
    Parameter {
        name: "connect-timeout",
        kind: Kind::Double,
        default: "10s",
        range: TIMEOUT_RANGE,
        unit: Some("seconds"),
        meaning: "How long to keep retrying until the destination is listening",
        runtime: false,
        in_bench: BenchUse::Unused,
        set: |params, given| limit(given).map(|value| params.connect_timeout = value),
        get: |params| Value::Double(params.connect_timeout.as_secs_f64()),
        ..SOURCE
    },
    Parameter {
        name: "accept-timeout",
        kind: Kind::Double,
        default: NO_LIMIT,
        range: "more than 0, up to 1 day, such as 30, 500ms or 2min; or none: no limit",
        unit: Some("seconds"),
        meaning: "How long to wait for the source to connect",
        runtime: false,
        unset: Some(NO_LIMIT),
        in_bench: BenchUse::Unused,
        set: |params, given| {
            or_unset(given, NO_LIMIT, limit).map(|value| params.accept_timeout = value)
        },
        get: |params| seconds_or_unset(params.accept_timeout),
        ..DESTINATION
    },
    Parameter {
        name: "link",
        kind: Kind::String,
        default: NO_LINK,
        range: "RATE[/DELAY], such as 200Mbit or 1Gbit/20ms; or off: the link as it is",
        meaning: "Emulate a link, for tests and benchmarks: this end writes no faster than RATE, over all connections, and reads each byte DELAY after it arrived. Set it at both ends",
        runtime: false,
        unset: Some(NO_LINK),
        in_bench: BenchUse::Varied,
        set: |params, given| {
            let read = |given: Given<'_>| given.word().unwrap_or_default().parse();
            or_unset(given, NO_LINK, read).map(|value| params.link = value)
        },
        get: |params| params.link.map_or(Value::Unset(NO_LINK), Value::Link),
        ..BOTH
    },
];

/// A time limit that may be absent.
fn seconds_or_unset(time: Option<Duration>) -> Value {
    time.map_or(Value::Unset(NO_LIMIT), |time| {
        Value::Double(time.as_secs_f64())
    })
}

const LEVELS: &str = "0 to 9 for zlib and gzip, 0 to 19 for zstd, 0 or 1 for lz4; \
    0: the method's own default, which is 6 for zlib and gzip and 3 for zstd";
/// As suits the method.
pub(super) const AUTO: &str = "auto";
const NO_LIMIT: &str = "none";
const NO_LINK: &str = "off";
/// The highest level that any method has.
pub(super) const HIGHEST_LEVEL: u8 = 19;
/// More connections only cost memory and sockets.
const MOST_CONNECTIONS: u8 = 64;
/// The wire format's limit, without the last round.
const MOST_ROUNDS: u32 = 65_535;
/// The wire format's limit.
const MOST_BATCH_PAGES: u16 = 256;
const CACHE_RANGE: &str = "a power of two no less than 4096, such as 64MiB";
const TIMEOUT_RANGE: &str = "more than 0, up to 1 day, such as 30, 500ms or 2min";
