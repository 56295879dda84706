//! Lists of methods and levels, as they are typed.

use std::fmt;

use crate::codec::Method;
use crate::params::Params;
use crate::text::printable;

/// The default: no compression, and of each method what is useful on a fast link. On two cores it
/// takes about fifteen seconds for an image of 256 MiB.
pub const QUICK: &str = "none,lz4,zstd:1,3,zlib:1,6";

/// A method at a level. Displayed as [`parse`] reads it: `zstd:3`, and without the level if there is
/// only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MethodLevel {
    /// The method.
    pub method: Method,
    /// One of [`Method::levels`], but never the 0 that means the default level; 0 for the method
    /// `none`, which has no levels.
    pub level: u8,
}

impl MethodLevel {
    /// A method at one of its levels; 0 becomes the default level. `None` if the method has no such
    /// level.
    pub fn new(method: Method, level: u8) -> Option<MethodLevel> {
        let level = match level {
            level if !method.levels().contains(&level) => return None,
            _ if method == Method::None => 0,
            0 => method.default_level(),
            level => level,
        };
        Some(MethodLevel { method, level })
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

impl fmt::Display for MethodLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.method.levels().end() > 1 {
            write!(f, "{}:{}", self.method, self.level)
        } else {
            write!(f, "{}", self.method)
        }
    }
}

/// A text that is not a list of methods.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MethodsError {
    /// An unknown method.
    #[error("invalid setting '{given}': unknown method '{method}'{}; allowed are {} and all",
        likely(.method), method_names())]
    Method {
        /// The whole entry.
        given: String,
        /// The part that should be a method.
        method: String,
    },
    /// It is not METHOD, METHOD:LEVEL or METHOD:A-B.
    #[error(
        "invalid setting '{0}': allowed are METHOD, METHOD:LEVEL and METHOD:A-B; separate more \
         levels by commas, e.g. zlib:1,6"
    )]
    Malformed(String),
    /// The method has no such level.
    #[error("invalid setting '{given}': {method} supports levels {} to {}",
        .method.levels().start(), .method.levels().end())]
    Level {
        /// The whole entry.
        given: String,
        /// Its method.
        method: Method,
    },
}

fn method_names() -> String {
    Method::ALL.map(Method::name).join(", ")
}

/// A hint at the method that was probably meant: one that begins like the text, or that the text
/// begins like.
fn likely(text: &str) -> String {
    let text = text.to_lowercase();
    let alike = |method: &Method| {
        let name = method.name();
        text.len() > 1 && (name.starts_with(&text) || text.starts_with(name))
    };
    let found = Method::ALL.into_iter().find(alike);
    found.map_or_else(String::new, |method| format!(" (did you mean {method}?)"))
}

/// The entry that means every method.
const EVERY: &str = "all";

/// Parses a list of settings, such as `none,lz4,zstd:1-3,9,zlib:6`: METHOD, METHOD:LEVEL or
/// METHOD:A-B, which is every level from A to B. A bare level or A-B is another level of the method
/// before it. A method without a level gets `level`; the method `none` needs none. `all` is every
/// method. Repetitions are dropped.
///
/// # Errors
/// The first entry that is invalid.
pub fn parse(list: &str, level: u8) -> Result<Vec<MethodLevel>, MethodsError> {
    let every = method_names();
    let mut settings = Vec::new();
    // The method whose list of levels goes on.
    let mut last: Option<&str> = None;
    let entries = list.split(',').map(str::trim);
    for entry in entries.flat_map(|entry| if entry == EVERY { &every } else { entry }.split(", ")) {
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

fn parse_entry(entry: &str, level: u8) -> Result<Vec<MethodLevel>, MethodsError> {
    let malformed = || MethodsError::Malformed(printable(entry));
    let (name, levels) = match entry.split_once(':') {
        Some((name, levels)) => (name, Some(levels)),
        None => (entry, None),
    };
    let numeric = name.starts_with(|first: char| first.is_ascii_digit());
    let method: Method = name.parse().map_err(|_| match name {
        "" => malformed(),
        _ if numeric => malformed(),
        _ => MethodsError::Method {
            given: printable(entry),
            method: printable(name),
        },
    })?;
    let number = |text: &str| -> Result<u8, MethodsError> {
        // The standard parser would also take a plus sign.
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        // A number that does not fit is still a number, but no method has that level.
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
        .map(|level| MethodLevel::new(method, level))
        .collect::<Option<_>>()
        .ok_or_else(|| MethodsError::Level {
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

    fn setting(method: Method, level: u8) -> MethodLevel {
        MethodLevel { method, level }
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
    fn a_bare_number_is_another_level_of_the_method_before_it() {
        assert_eq!(
            shown("zlib:1-2,9,zstd:1, 3,5-6,lz4,none"),
            [
                "zlib:1", "zlib:2", "zlib:9", "zstd:1", "zstd:3", "zstd:5", "zstd:6", "lz4", "none"
            ]
        );
        let error = parse("zstd:1,20", 1)
            .expect_err("no such level")
            .to_string();
        assert!(
            error.contains("invalid setting 'zstd:20': zstd supports"),
            "{error}"
        );
        for list in ["3", "lz4,3", "zstd,3", "zstd:1,lz4,3"] {
            let error = parse(list, 1).expect_err(list).to_string();
            assert!(error.starts_with("invalid setting '3': "), "{error}");
        }
    }

    #[test]
    fn all_is_every_method() {
        let all = parse("all", 1).expect("settings");
        assert_eq!(all.len(), Method::ALL.len());
        assert_eq!(shown("zstd:3,all,zlib:6").len(), Method::ALL.len() + 2);
    }

    #[test]
    fn a_method_without_a_level_gets_the_one_of_the_parameters() {
        assert_eq!(
            parse("zstd,none", 7),
            Ok(vec![setting(Method::Zstd, 7), setting(Method::None, 0)])
        );
    }

    #[test]
    fn level_0_is_the_default_level_and_nothing_is_measured_twice() {
        assert_eq!(shown("zlib:6,zlib:0,zstd:0,zstd:3"), ["zlib:6", "zstd:3"]);
        assert_eq!(shown("none,none:0-1,lz4:0-1"), ["none", "lz4"]);
    }

    #[test]
    fn invalid_settings_are_named_with_what_is_allowed() {
        for list in [
            "", "zlib,", "zlib:", "zlib:a", "zlib:+1", "zlib:1-", "zlib:3-1", "zlib:1:2", ",lz4",
        ] {
            let error = parse(list, 1).expect_err(list).to_string();
            assert!(error.contains("METHOD:A-B"), "{list}: {error}");
        }
        for (list, words) in [
            (
                "zlib:10",
                "invalid setting 'zlib:10': zlib supports levels 0 to 9",
            ),
            ("zstd:18-999", "zstd supports levels 0 to 19"),
            ("lz4:2", "lz4 supports levels 0 to 1"),
        ] {
            let error = parse(list, 1).expect_err(list).to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = parse("lz4", 9).expect_err("no such level").to_string();
        assert!(error.contains("invalid setting 'lz4:9'"), "{error}");
        for (list, words) in [
            (
                "zst",
                "unknown method 'zst' (did you mean zstd?); allowed are ",
            ),
            (
                "ZSTD:3",
                "invalid setting 'ZSTD:3': unknown method 'ZSTD' (did you mean zstd?)",
            ),
            ("lzma", "unknown method 'lzma'; allowed are"),
        ] {
            let error = parse(list, 1).expect_err(list).to_string();
            assert!(error.contains(words), "{error}");
        }
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
