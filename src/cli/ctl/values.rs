//! What is given on `ctl`'s command line, as JSON for a monitor.

use serde_json::Value;

use crate::params::{Params, TABLE};
use crate::text::Quoted;
use crate::units::{parse_rate, parse_size, parse_switch};

/// What one of the integer options was given; `None`: "leave alone".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount(pub(super) Option<u64>);

/// A parameter as `--set` has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) text: String,
    /// What it is as JSON; `None` for a parameter that we do not have.
    pub(super) value: Option<Value>,
}

/// Which numbers a parameter has is for the monitor, as a QEMU's are others than ours.
pub(super) fn amount(text: &str) -> Result<Amount, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(Amount(None)),
        Ok(number @ 0..) => Ok(Amount(Some(number.unsigned_abs()))),
        _ => Err(format!(
            "{} is not an integer from 0, nor -1, which leaves it alone",
            Quoted(text)
        )),
    }
}

pub(super) fn setting(text: &str) -> Result<Setting, String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("{} is not NAME=VALUE", Quoted(text)))?;
    // In QEMU's messages names have underscores, and only there.
    let dashed = name.replace('_', "-");
    let name = if TABLE.iter().any(|row| row.name == dashed) {
        dashed
    } else {
        name.to_owned()
    };
    Ok(Setting {
        text: value.to_owned(),
        value: ours(&name, value)?,
        name,
    })
}

/// The value of a parameter that we have; it is read as on the command line. Null is for none.
fn ours(name: &str, text: &str) -> Result<Option<Value>, String> {
    let Some(row) = TABLE.iter().find(|row| row.name == name) else {
        return Ok(None);
    };
    if row.repeatable {
        // What it may be depends on what else is given.
        return Ok(Some(text.into()));
    }
    let mut scratch = Params::default();
    let set = scratch.set_text(name, text);
    set.map_err(|error| error.to_string())?;
    let value = serde_json::to_value((row.get)(&scratch)).map_err(|error| error.to_string())?;
    Ok(Some(value))
}

/// Whether a parameter may be given more than once.
pub(super) fn is_repeatable(name: &str) -> bool {
    TABLE.iter().any(|row| row.name == name && row.repeatable)
}

/// The value of a parameter that only the monitor knows, of the type that it has `now`; if that is
/// not known either, by its looks.
pub(super) fn like(name: &str, text: &str, now: Option<&Value>) -> Result<Value, String> {
    let wrong = |wanted| format!("{} {} is not {wanted}", Quoted(name), Quoted(text));
    match now {
        Some(Value::Number(_)) => number(text).ok_or_else(|| wrong("a number")),
        Some(Value::Bool(_)) => parse_switch(text)
            .map(Value::Bool)
            .ok_or_else(|| wrong("on or off")),
        Some(Value::String(_)) => Ok(text.into()),
        _ => Ok(number(text)
            .or_else(|| match text {
                "on" | "true" => Some(true.into()),
                "off" | "false" => Some(false.into()),
                "null" => Some(Value::Null),
                _ => None,
            })
            .unwrap_or_else(|| text.into())),
    }
}

/// A number, or a size or rate with its unit.
fn number(text: &str) -> Option<Value> {
    let plain = || text.parse::<serde_json::Number>().ok().map(Value::Number);
    let scaled = || parse_size(text).or_else(|_| parse_rate(text)).ok();
    plain().or_else(|| scaled().map(Value::from))
}

pub(super) fn switch(text: &str) -> Result<(String, bool), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .and_then(|(name, state)| Some((name.to_owned(), parse_switch(state)?)))
        .ok_or_else(|| format!("{} is not NAME=on or NAME=off", Quoted(text)))
}

/// Milliseconds.
pub(super) fn downtime(text: &str) -> Result<u64, String> {
    match ours("downtime-limit", text)?
        .as_ref()
        .and_then(Value::as_u64)
    {
        Some(ms) => Ok(ms),
        None => Err(format!("{} is not a time in milliseconds", Quoted(text))),
    }
}
