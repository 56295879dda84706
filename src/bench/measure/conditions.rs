//! Where something was measured: the machine, its state, the codecs' versions.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::bench::measure::memcpy::copy_threads;

/// What the crates that are built in are called and which versions they have.
const LOCK: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock"));

/// Where it was measured.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Conditions {
    /// What the processor calls itself, if it does.
    pub cpu_model: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// What governs the first core's frequency, where the system tells.
    pub governor: Option<String>,
    /// The load averages of the last 1, 5 and 15 minutes before the first run.
    pub load: Option<[f64; 3]>,
    /// The libraries that compress.
    pub codecs: BTreeMap<&'static str, String>,
}

impl Conditions {
    /// This machine now, by what `/proc` and `/sys` say.
    pub fn now() -> Conditions {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let word = |path: &str| read(path).map(|text| text.trim().to_owned());
        Conditions {
            cpu_model: read("/proc/cpuinfo").as_deref().and_then(cpu_model),
            cores: copy_threads(),
            kernel: word("/proc/sys/kernel/osrelease"),
            governor: word("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load: read("/proc/loadavg").as_deref().and_then(load),
            codecs: codecs(),
        }
    }
}

/// The first processor's name.
fn cpu_model(cpu_info: &str) -> Option<String> {
    cpu_info
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")
        .map(|(_, name)| name.trim().to_owned())
}

/// The first three numbers.
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

/// A crate's version, as a lock file has it.
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
        let codecs = Conditions::now().codecs;
        assert_eq!(codecs.len(), 4, "{codecs:?}");
        assert!(codecs["zstd"].starts_with("zstd-sys "));
        assert_eq!(
            locked("name = \"a\"\nversion = \"1.2\"\n", "a"),
            Some("1.2")
        );
        assert_eq!(locked("name = \"a\"\n", "a"), None);
    }
}
