//! How a row's value is read: from text, as people write it, or from a typed value. Both have the same
//! bounds and the same errors.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{LONGEST_TIMEOUT, TypedValue};
use crate::names::UnknownName;
use crate::page::PAGE_SIZE;
use crate::units::{RATE_ALLOWED, parse_duration, parse_rate, parse_size, parse_switch};

/// The longest downtime that can be allowed, as QEMU has it.
const LONGEST_DOWNTIME: Duration = Duration::from_secs(2000);
const CACHE_ALLOWED: &str = "a power of two no less than 4096 bytes, such as 64MiB";

/// A value to be read. That a typed one has the parameter's type was checked before.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given<'a> {
    /// As people write it.
    Text(&'a str),
    /// As programs have it; never converted to text.
    Typed(&'a TypedValue),
}

impl<'a> Given<'a> {
    /// The word, if it is one.
    pub(super) fn word(self) -> Option<&'a str> {
        match self {
            Given::Text(word) => Some(word),
            Given::Typed(TypedValue::String(word)) => Some(word),
            Given::Typed(_) => None,
        }
    }

    /// Whether it is this word.
    pub(super) fn is(self, word: &str) -> bool {
        self.word() == Some(word)
    }

    /// A typed value as a number that is not negative; text as `read` has it.
    fn number(self, read: impl FnOnce(&str) -> Option<u64>) -> Option<u64> {
        match self {
            Given::Text(text) => read(text),
            Given::Typed(TypedValue::Int(number)) => u64::try_from(*number).ok(),
            Given::Typed(TypedValue::Uint(number)) => Some((*number).into()),
            Given::Typed(TypedValue::Llong(number)) => u64::try_from(*number).ok(),
            Given::Typed(TypedValue::Ullong(number)) => Some(*number),
            Given::Typed(
                TypedValue::Double(_) | TypedValue::Boolean(_) | TypedValue::String(_),
            ) => None,
        }
    }
}

impl fmt::Display for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Text(text) => f.write_str(text),
            Given::Typed(value) => value.fmt(f),
        }
    }
}

/// One of the names of a type; the error is what is allowed.
pub(super) fn name<T: FromStr<Err = UnknownName>>(given: Given<'_>) -> Result<T, String> {
    // A value of another type is refused as an empty name is.
    let name = given.word().unwrap_or_default();
    name.parse().map_err(|error: UnknownName| error.allowed())
}

/// What `read` makes of a value, or `None` for the word that says that there is none.
pub(super) fn or_unset<'a, T>(
    given: Given<'a>,
    word: &str,
    read: impl FnOnce(Given<'a>) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if given.is(word) {
        return Ok(None);
    }
    read(given)
        .map(Some)
        .map_err(|allowed| format!("{word} or {allowed}"))
}

/// An integer within bounds; as text, decimal digits only.
pub(super) fn integer<T>(given: Given<'_>, lowest: T, highest: T) -> Result<T, String>
where
    T: Copy + fmt::Display + PartialOrd + TryFrom<u64>,
{
    let digits = |text: &str| {
        // The standard parser would also take a plus sign.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    given
        .number(digits)
        .and_then(|number| T::try_from(number).ok())
        .filter(|number| (lowest..=highest).contains(number))
        .ok_or_else(|| format!("an integer from {lowest} to {highest}"))
}

/// A switch.
pub(super) fn switch(given: Given<'_>) -> Result<bool, String> {
    let on = match given {
        Given::Text(text) => parse_switch(text),
        Given::Typed(TypedValue::Boolean(on)) => Some(*on),
        Given::Typed(_) => None,
    };
    on.ok_or_else(|| "on or off".to_owned())
}

/// The size of a cache in bytes.
pub(super) fn cache_size(given: Given<'_>) -> Result<u64, String> {
    given
        .number(|text| parse_size(text).ok())
        .filter(|size| size.is_power_of_two() && *size >= PAGE_SIZE as u64)
        .ok_or_else(|| CACHE_ALLOWED.to_owned())
}

/// Bytes a second.
pub(super) fn rate(given: Given<'_>) -> Result<u64, String> {
    given
        .number(|text| parse_rate(text).ok())
        .ok_or_else(|| RATE_ALLOWED.to_owned())
}

/// A downtime: a plain number is milliseconds, as it is in QEMU.
pub(super) fn downtime(given: Given<'_>) -> Result<Duration, String> {
    let read = |text: &str| match text.parse() {
        Ok(number) => Some(number),
        // Fractions need a unit: without one they look like seconds.
        Err(_) if text.parse::<f64>().is_ok() => None,
        Err(_) => u64::try_from(parse_duration(text).ok()?.as_millis()).ok(),
    };
    given
        .number(read)
        .map(Duration::from_millis)
        .filter(|time| *time <= LONGEST_DOWNTIME)
        .ok_or_else(|| {
            "0 to 2000000 milliseconds, such as 300, or a time with its unit, such as 1.5s"
                .to_owned()
        })
}

/// A time limit within its bounds; as a number, of seconds, to the nearest millisecond.
pub(super) fn limit(given: Given<'_>) -> Result<Duration, String> {
    let time = match given {
        Given::Text(text) => parse_duration(text).ok(),
        Given::Typed(TypedValue::Double(seconds)) => Some(*seconds)
            .filter(|seconds| (0.0..=LONGEST_TIMEOUT.as_secs_f64()).contains(seconds))
            .map(|seconds| Duration::from_millis((seconds * 1e3).round() as u64)),
        Given::Typed(_) => None,
    };
    time.filter(|time| !time.is_zero() && *time <= LONGEST_TIMEOUT)
        .ok_or_else(|| {
            "a time of more than 0 and up to 1 day, such as 30 (seconds), 500ms or 2min".to_owned()
        })
}
