//! The modes of migration that a QEMU of some version has, and the parameters for them.

use serde_json::{Value, json};

/// No limit, in QEMU's bytes a second.
const NO_LIMIT: u64 = 1 << 40;
/// The approximate speed of QEMU's compressors, in bytes per second and thread: it compresses page by
/// page, or in packets, with stock zlib.
const ZLIB_RATE: f64 = 50e6;
const ZSTD_RATE: f64 = 200e6;
/// The approximate speed without compression, for any number of threads.
const PLAIN_RATE: f64 = 500e6;
/// Seconds for starting and ending two QEMUs.
const AROUND: f64 = 0.7;

/// A QEMU's version: major, minor, micro.
pub(super) type Version = (u32, u32, u32);

/// A mode.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mode {
    /// A name that distinguishes it from the others.
    pub(super) name: String,
    /// The capability to turn on at both ends.
    pub(super) capability: Option<&'static str>,
    /// Parameters of the source.
    pub(super) source: Value,
    /// Parameters of the destination.
    pub(super) destination: Value,
    /// Whether QEMU counts the bytes that it writes.
    pub(super) counts_bytes: bool,
    /// Approximate bytes per second of each of `threads`.
    rate: f64,
    threads: u8,
}

impl Mode {
    /// The approximate seconds of a run.
    pub(super) fn expected(&self, data_bytes: f64, cores: usize) -> f64 {
        let threads = usize::from(self.threads).min(cores).max(1) as f64;
        AROUND + data_bytes / (self.rate * threads).min(PLAIN_RATE)
    }
}

/// Parses the output of `--version`: `QEMU emulator version 7.2.22 (Debian ...)`.
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

/// The modes of this version, those with threads once for each number of threads. Levels are 1, QEMU's
/// default: 7.2 takes no other for multifd through QMP.
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
            // Older versions count the bytes of pages before compression.
            counts_bytes: method == "none" || major >= 10,
            rate,
            threads: count,
        }));
    }
    modes
}
