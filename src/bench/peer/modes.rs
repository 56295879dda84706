//! The ways of migrating that a QEMU of some version has, and what has to be set for them.

use serde_json::{Value, json};

/// No limit, in QEMU's bytes a second.
const NO_LIMIT: u64 = 1 << 40;
/// What QEMU's compressors do, about, in bytes a second for each thread: it compresses page by
/// page, or in packets, with stock zlib.
const ZLIB_RATE: f64 = 50e6;
const ZSTD_RATE: f64 = 200e6;
/// What it moves without one, whatever the number of threads.
const PLAIN_RATE: f64 = 500e6;
/// Until two QEMUs have started and ended again.
const AROUND: f64 = 0.7;

/// A QEMU's version: major, minor, micro.
pub(super) type Version = (u32, u32, u32);

/// One way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mode {
    /// What tells it from the others, in words.
    pub(super) name: String,
    /// What has to be on, at both ends.
    pub(super) capability: Option<&'static str>,
    /// Parameters of the source.
    pub(super) source: Value,
    /// Parameters of the destination.
    pub(super) destination: Value,
    /// Whether it counts the bytes that it writes.
    pub(super) counts_bytes: bool,
    /// Bytes a second, about, for each of `threads`.
    rate: f64,
    threads: u8,
}

impl Mode {
    /// How long a run takes, about, in seconds.
    pub(super) fn expected(&self, data_bytes: f64, cores: usize) -> f64 {
        let threads = usize::from(self.threads).min(cores).max(1) as f64;
        AROUND + data_bytes / (self.rate * threads).min(PLAIN_RATE)
    }
}

/// What `--version` says: `QEMU emulator version 7.2.22 (Debian ...)`.
pub(super) fn version(text: &str) -> Option<Version> {
    let rest = text.split_once("QEMU emulator version ")?.1;
    let digits = rest
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?;
    let mut numbers = digits.split('.').map(|number| number.parse().ok());
    let major = numbers.next()??;
    let minor = numbers.next()??;
    Some((major, minor, numbers.next().flatten().unwrap_or(0)))
}

/// The ways that this version has, those with threads once for each number of them. Levels are 1,
/// QEMU's default: 7.2 takes no other for multifd through QMP.
pub(super) fn modes(
    (major, minor, _): Version,
    threads: &[u8],
    decompress_threads: u8,
) -> Vec<Mode> {
    let mut modes = vec![Mode {
        name: "plain".to_owned(),
        capability: None,
        source: json!({"max-bandwidth": NO_LIMIT}),
        destination: json!({}),
        counts_bytes: true,
        rate: PLAIN_RATE,
        threads: 1,
    }];
    let named = |name: &str, count: u8, what: &str| match threads.len() {
        1 => name.to_owned(),
        _ if count == 1 => format!("{name}, 1 {what}"),
        _ => format!("{name}, {count} {what}s"),
    };
    if (major, minor) < (9, 1) {
        modes.extend(threads.iter().map(|&count| Mode {
            name: named("compress zlib:1", count, "thread"),
            capability: Some("compress"),
            source: json!({
                "max-bandwidth": NO_LIMIT,
                "compress-level": 1,
                "compress-threads": count,
            }),
            destination: json!({"decompress-threads": decompress_threads}),
            counts_bytes: true,
            rate: ZLIB_RATE,
            threads: count,
        }));
    }
    for (name, method, rate) in [
        ("multifd none", "none", PLAIN_RATE),
        ("multifd zlib:1", "zlib", ZLIB_RATE),
        ("multifd zstd:1", "zstd", ZSTD_RATE),
    ] {
        modes.extend(threads.iter().map(|&count| Mode {
            name: named(name, count, "channel"),
            capability: Some("multifd"),
            source: json!({
                "max-bandwidth": NO_LIMIT,
                "multifd-channels": count,
                "multifd-compression": method,
            }),
            destination: json!({"multifd-channels": count, "multifd-compression": method}),
            // Older ones count the bytes of pages before they are compressed.
            counts_bytes: method == "none" || major >= 10,
            rate,
            threads: count,
        }));
    }
    modes
}
