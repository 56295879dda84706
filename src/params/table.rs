//! The rows of [`TABLE`]: every parameter's name, type, default, range and words, how it is read
//! and how it is given back.

use super::compression::{self, Compression};
use super::read::{cache_size, downtime, integer, limit, name, rate, switch};
use super::{Kind, Parameter, Side, Value};

/// Every parameter, in the order in which they are listed.
///
/// This is the one place to add a parameter: a row here, with a field of [`Params`](super::Params) that its `set`
/// and `get` go to. Setting it from text and from a typed list, its option on the command line and
/// the help for it, `ramferry parameters`, a monitor's queries and the table that stands in this
/// documentation all follow from the row. Once that is done,
/// `RAMFERRY_BLESS=1 cargo test --lib params` writes `docs/parameters.md` anew, and
/// everything that reads the table is tested with the new row, too.
pub static TABLE: &[Parameter] = &[
    Parameter {
        name: "compress-method",
        kind: Kind::String,
        default: "zlib",
        range: "none, zlib, gzip, lz4 or zstd",
        unit: None,
        meaning: "What compresses batches of pages",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.compress_method = name(given)?;
            Ok(())
        },
        get: |params| Value::Word(params.compress_method.name()),
    },
    Parameter {
        name: compression::NAME,
        kind: Kind::String,
        default: "zlib xbzrle",
        range: compression::RANGE,
        unit: None,
        meaning: "All that makes the stream smaller, given once for each: at most one method, which \
                  becomes compress-method, and xbzrle. The capabilities compress and xbzrle are \
                  switched to just what is named",
        side: Side::Source,
        runtime: false,
        since: "0.1.0",
        repeatable: true,
        unset: None,
        set: |params, given| {
            let named = Compression::of_one(given.word().unwrap_or_default())?;
            named.without_caps()?.set_method(params);
            Ok(())
        },
        // What it was can be seen in what it sets.
        get: |_| Value::Unset("unset"),
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            // The method may be set after the level: which levels it has is for validate().
            params.compress_level = integer(given, 0, HIGHEST_LEVEL)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.compress_threads = integer(given, 1, u8::MAX)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.decompress_threads = integer(given, 1, u8::MAX)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.compress_wait_thread = switch(given)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.xbzrle_cache_size = cache_size(given)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.max_bandwidth = rate(given)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.connections = integer(given, 1, MOST_CONNECTIONS)?;
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
        repeatable: false,
        unset: Some(AUTO),
        set: |params, given| {
            params.batch_pages = match given {
                _ if given.is(AUTO) => None,
                _ => Some(
                    integer(given, 1, MOST_BATCH_PAGES)
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.zlib_engine = name(given)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.delta_compress = switch(given)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.downtime_limit = downtime(given)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.max_rounds = integer(given, 1, MOST_ROUNDS)?;
            Ok(())
        },
        get: |params| Value::Number(params.max_rounds.into()),
    },
    Parameter {
        name: "max-time",
        kind: Kind::Double,
        default: NO_LIMIT,
        range: "more than 0, up to 1 day, such as 30, 500ms or 2min; or none: no limit",
        unit: Some("seconds"),
        meaning: "How long the rounds of a live migration may take before the last",
        side: Side::Source,
        runtime: true,
        since: "0.1.0",
        repeatable: false,
        unset: Some(NO_LIMIT),
        set: |params, given| {
            params.max_time = match given {
                _ if given.is(NO_LIMIT) => None,
                _ => Some(limit(given).map_err(|what| format!("{NO_LIMIT} or {what}"))?),
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.timeout_action = name(given)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.throttle_trigger_threshold = integer(given, 1, 100)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.cpu_throttle_initial = integer(given, 1, 99)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.cpu_throttle_increment = integer(given, 1, 99)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.max_cpu_throttle = integer(given, 1, 99)?;
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
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.timeout = limit(given)?;
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
        meaning: "How long to try to connect: where nobody listens yet is tried again until then",
        side: Side::Source,
        runtime: false,
        since: "0.1.0",
        repeatable: false,
        unset: None,
        set: |params, given| {
            params.connect_timeout = limit(given)?;
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
        repeatable: false,
        unset: Some(NO_LIMIT),
        set: |params, given| {
            params.accept_timeout = match given {
                _ if given.is(NO_LIMIT) => None,
                _ => Some(limit(given).map_err(|what| format!("{NO_LIMIT} or {what}"))?),
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
        repeatable: false,
        unset: Some(NO_LINK),
        set: |params, given| {
            params.link = match given {
                _ if given.is(NO_LINK) => None,
                _ => Some(
                    (given.word().unwrap_or_default().parse())
                        .map_err(|what| format!("{NO_LINK} or {what}"))?,
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
/// The wire's limit of pages in a batch.
const MOST_BATCH_PAGES: u16 = 256;
const CACHE_RANGE: &str = "a power of two no less than 4096, such as 64MiB";
const TIMEOUT_RANGE: &str = "more than 0, up to 1 day, such as 30, 500ms or 2min";
