//! Lists of methods and levels, as people write them.

use std::fmt;

use crate::codec::Method;
use crate::params::Params;

/// What is compared if nobody says otherwise: no compression, and of each method what is useful
/// on a fast link. On two cores it takes about fifteen seconds for an image of 256 MiB.
pub const QUICK: &str = "none,lz4,zstd:1,3,zlib:1,6";

/// A method at a level. Shown as [`parse`] reads it: `zstd:3`, and without the level where there
/// is only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compression {
    /// What compresses.
    pub method: Method,
    /// One of [`Method::levels`], and never the 0 that stands for another; 0 for the method
    /// `none`, which has no use for one.
    pub level: u8,
}

impl Compression {
    /// A method at one of its levels; 0 becomes the level that it stands for. `None` if the
    /// method has no such level.
    pub fn new(method: Method, level: u8) -> Option<Compression> {
        let level = match level {
            level if !method.levels().contains(&level) => return None,
            _ if method == Method::None => 0,
            0 => method.default_level(),
            level => level,
        };
        Some(Compression { method, level })
    }

    /// `params` with this method and level in place of theirs.
    pub fn apply(self, params: &Params) -> Params {
        Params {
            compress_method: self.method,
            compress_level: self.level,
            ..params.clone()
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.method.levels().end() > 1 {
            write!(f, "{}:{}", self.method, self.level)
        } else {
            write!(f, "{}", self.method)
        }
    }
}

/// A text that is no list of settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// It is not METHOD, METHOD:LEVEL or METHOD:A-B.
    #[error(
        "'{0}' is no setting: allowed are METHOD, METHOD:LEVEL and METHOD:A-B, \
         where METHOD is zlib, gzip, lz4, zstd or none, and further levels of it behind commas"
    )]
    Malformed(String),
    /// The method has no such level.
    #[error("'{given}' is no setting: {method} has the levels {} to {}",
        .method.levels().start(), .method.levels().end())]
    Level {
        /// What was given.
        given: String,
        /// Its method.
        method: Method,
    },
}

/// Reads a list of settings, such as `none,lz4,zstd:1-3,9,zlib:6`: METHOD, METHOD:LEVEL or
/// METHOD:A-B, which is every level from A to B. A bare level or A-B is one more of the method
/// before it. A method without a level gets `level`; the method `none` needs none. What occurs
/// twice is taken once.
///
/// # Errors
/// The first entry that is no setting.
pub fn parse(list: &str, level: u8) -> Result<Vec<Compression>, SweepError> {
    let mut settings = Vec::new();
    // The method whose list of levels goes on.
    let mut last: Option<&str> = None;
    for entry in list.split(',').map(str::trim) {
        let continued = match last {
            Some(method) if entry.starts_with(|first: char| first.is_ascii_digit()) => {
                Some(format!("{method}:{entry}"))
            }
            _ => None,
        };
        if continued.is_none() {
            last = entry.split_once(':').map(|(method, _)| method);
        }
        for setting in parse_entry(continued.as_deref().unwrap_or(entry), level)? {
            if !settings.contains(&setting) {
                settings.push(setting);
            }
        }
    }
    Ok(settings)
}

fn parse_entry(entry: &str, level: u8) -> Result<Vec<Compression>, SweepError> {
    let malformed = || SweepError::Malformed(entry.to_owned());
    let (name, levels) = match entry.split_once(':') {
        Some((name, levels)) => (name, Some(levels)),
        None => (entry, None),
    };
    let method: Method = name.parse().map_err(|_| malformed())?;
    let number = |text: &str| -> Result<u8, SweepError> {
        // The standard parser would also take a plus sign.
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        // What does not fit is a number all the same, only no level of any method.
        Ok(text.parse().unwrap_or(u8::MAX))
    };
    let range = match levels {
        None if method == Method::None => 0..=0,
        None => level..=level,
        Some(levels) => match levels.split_once('-') {
            Some((first, last)) => number(first)?..=number(last)?,
            None => number(levels)?..=number(levels)?,
        },
    };
    if range.is_empty() {
        return Err(malformed());
    }
    range
        .map(|level| Compression::new(method, level))
        .collect::<Option<_>>()
        .ok_or_else(|| SweepError::Level {
            given: match levels {
                Some(_) => entry.to_owned(),
                None => format!("{entry}:{level}"),
            },
            method,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(method: Method, level: u8) -> Compression {
        Compression { method, level }
    }

    fn shown(list: &str) -> Vec<String> {
        let settings = parse(list, 1).expect("settings");
        settings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn methods_levels_and_ranges_of_levels_are_read() {
        assert_eq!(
            shown("zlib:1,zlib:6, gzip,lz4,zstd:1-3,none"),
            [
                "zlib:1", "zlib:6", "gzip:1", "lz4", "zstd:1", "zstd:2", "zstd:3", "none"
            ]
        );
    }

    #[test]
    fn a_bare_number_goes_on_with_the_levels_of_the_method_before_it() {
        assert_eq!(
            shown("zlib:1-2,9,zstd:1, 3,5-6,lz4,none"),
            [
                "zlib:1", "zlib:2", "zlib:9", "zstd:1", "zstd:3", "zstd:5", "zstd:6", "lz4", "none"
            ]
        );
        let error = parse("zstd:1,20", 1)
            .expect_err("no such level")
            .to_string();
        assert!(error.contains("'zstd:20' is no setting"), "{error}");
        for list in ["3", "lz4,3", "zstd,3", "zstd:1,lz4,3"] {
            let error = parse(list, 1).expect_err(list).to_string();
            assert!(error.starts_with("'3' is no setting"), "{error}");
        }
    }

    #[test]
    fn a_method_without_a_level_gets_the_one_of_the_parameters() {
        assert_eq!(
            parse("zstd,none", 7),
            Ok(vec![setting(Method::Zstd, 7), setting(Method::None, 0)])
        );
    }

    #[test]
    fn level_0_is_the_level_it_stands_for_and_nothing_is_measured_twice() {
        assert_eq!(shown("zlib:6,zlib:0,zstd:0,zstd:3"), ["zlib:6", "zstd:3"]);
        assert_eq!(shown("none,none:0-1,lz4:0-1"), ["none", "lz4"]);
    }

    #[test]
    fn what_is_no_setting_is_named_with_what_is_allowed() {
        for list in [
            "", "lzma", "zlib,", "zlib:", "zlib:a", "zlib:+1", "zlib:1-", "zlib:3-1", "zlib:1:2",
            ",lz4",
        ] {
            let error = parse(list, 1).expect_err(list).to_string();
            assert!(error.contains("METHOD:A-B"), "{list}: {error}");
        }
        for (list, words) in [
            (
                "zlib:10",
                "'zlib:10' is no setting: zlib has the levels 0 to 9",
            ),
            ("zstd:18-999", "zstd has the levels 0 to 19"),
            ("lz4:2", "lz4 has the levels 0 to 1"),
        ] {
            let error = parse(list, 1).expect_err(list).to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = parse("lz4", 9).expect_err("no such level").to_string();
        assert!(error.contains("'lz4:9' is no setting"), "{error}");
    }

    #[test]
    fn the_quick_settings_read_as_they_are_shown_and_are_valid() {
        let quick = parse(QUICK, 1).expect("settings");
        assert_eq!(
            shown(QUICK).join(","),
            "none,lz4,zstd:1,zstd:3,zlib:1,zlib:6"
        );
        for setting in quick {
            assert_eq!(setting.apply(&Params::default()).validate(), Ok(()));
        }
    }
}
