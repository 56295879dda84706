//! The conditions of a measurement: the machine, its state, the codecs' versions.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::bench::measure::memcpy::copy_threads;

/// The names and versions of the crates that are built in.
const LOCK: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock"));

/// When and where something was measured.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BenchConditions {
    /// The beginning of the benchmark, UTC, as `2026-01-31 23:59 UTC`.
    pub started: Option<String>,
    /// The processor's name, if it has one.
    pub cpu_model: Option<String>,
    /// Cores that this process can use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The frequency governor of the first core, if the system reports it.
    pub governor: Option<String>,
    /// The load averages of the 1, 5 and 15 minutes before the first run.
    pub load: Option<[f64; 3]>,
    /// The compression libraries and their versions.
    pub codecs: BTreeMap<&'static str, String>,
}

impl BenchConditions {
    /// This machine now, according to `/proc` and `/sys`.
    pub fn now() -> BenchConditions {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let word = |path: &str| read(path).map(|text| text.trim().to_owned());
        BenchConditions {
            started: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .ok()
                .map(|time| date(time.as_secs())),
            cpu_model: read("/proc/cpuinfo").as_deref().and_then(cpu_model),
            cores: copy_threads(),
            kernel: word("/proc/sys/kernel/osrelease"),
            governor: word("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load: read("/proc/loadavg").as_deref().and_then(load),
            codecs: codecs(),
        }
    }
}

/// Seconds since the epoch as date and time, UTC. The calendar is Howard Hinnant's `civil_from_days`:
/// years begin in March, so that the leap day is the last one.
fn date(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute) = (of_day / 3600, of_day / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// The first processor's name.
fn cpu_model(cpu_info: &str) -> Option<String> {
    cpu_info
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")
        .map(|(_, name)| name.trim().to_owned())
}

/// The first three numbers of `/proc/loadavg`.
fn load(text: &str) -> Option<[f64; 3]> {
    let mut numbers = text.split_whitespace().map(|word| word.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

/// Each codec's library and its version.
fn codecs() -> BTreeMap<&'static str, String> {
    [
        ("libdeflate", "libdeflater"),
        ("zlib-rs", "zlib-rs"),
        ("lz4", "lz4_flex"),
        ("zstd", "zstd-sys"),
    ]
    .into_iter()
    .filter_map(|(codec, name)| Some((codec, format!("{name} {}", locked(LOCK, name)?))))
    .collect()
}

/// A crate's version in a lock file.
fn locked<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let wanted = format!("name = \"{name}\"");
    let mut lines = lock.lines();
    lines.find(|line| *line == wanted)?;
    let version = lines.next()?.strip_prefix("version = \"")?;
    version.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_dates_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400 - 1), "2000-02-28 23:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_795_951_800), "2026-11-29 11:30 UTC");
        assert_eq!(date(4_102_444_800), "2100-01-01 00:00 UTC");
    }

    #[test]
    fn the_processor_is_named_if_it_names_itself() {
        let text = "processor\t: 0\nmodel name\t: Fast: one\nprocessor\t: 1\nmodel name\t: B\n";
        assert_eq!(cpu_model(text).as_deref(), Some("Fast: one"));
        assert_eq!(cpu_model("processor\t: 0\n"), None);
    }

    #[test]
    fn loads_are_three_numbers() {
        assert_eq!(load("0.50 1.25 2.00 3/400 5000\n"), Some([0.5, 1.25, 2.0]));
        assert_eq!(load("0.50 x"), None);
        assert_eq!(load(""), None);
    }

    #[test]
    fn every_codec_has_a_version() {
        let codecs = BenchConditions::now().codecs;
        assert_eq!(codecs.len(), 4, "{codecs:?}");
        assert!(codecs["zstd"].starts_with("zstd-sys "));
        assert_eq!(
            locked("name = \"a\"\nversion = \"1.2\"\n", "a"),
            Some("1.2")
        );
        assert_eq!(locked("name = \"a\"\n", "a"), None);
    }
}
