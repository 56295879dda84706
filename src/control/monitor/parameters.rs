//! `migrate-set-parameters` and `query-migrate-parameters`: JSON to typed parameters and back.
//!
//! Everything follows from [`TABLE`]. What QEMU has as well is declined in QEMU's words, which are in a
//! table here; of all else the row's type and range make the words.

use serde_json::{Map, Value};

use crate::error::Error;
use crate::params::{self, Kind, ParamError, Parameter, Params, TABLE, TypedParam, TypedValue};

use super::arguments::{expects, unexpected, wrong_type};
use super::message::QmpError;

/// The types that QEMU's parameters have on the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// 8 bits.
    Uint8,
    /// 64 bits; a negative number is taken for the one that has the same bits.
    Uint64,
    Bool,
}

/// A parameter that QEMU has: its type there, and what it expects of a value.
struct Known {
    name: &'static str,
    wire: Wire,
    expects: &'static str,
}

const LEVEL: &str = "compress-level";
const THREADS: &str = "a value between 1 and 255";
const PERCENT: &str = "an integer in the range of 1 to 99";

/// In QEMU's order, which decides which of several wrong arguments is reported.
const KNOWN: [Known; 11] = [
    known(LEVEL, Wire::Uint8, "a value between 0 and 9"),
    known("compress-threads", Wire::Uint8, THREADS),
    known("compress-wait-thread", Wire::Bool, ""),
    known("decompress-threads", Wire::Uint8, THREADS),
    known(
        "throttle-trigger-threshold",
        Wire::Uint8,
        "an integer in the range of 1 to 100",
    ),
    known("cpu-throttle-initial", Wire::Uint8, PERCENT),
    known("cpu-throttle-increment", Wire::Uint8, PERCENT),
    known(
        "max-bandwidth",
        Wire::Uint64,
        "an integer in the range of 0 to 18446744073709551615 bytes/second",
    ),
    known(
        "downtime-limit",
        Wire::Uint64,
        "an integer in the range of 0 to (2000 * 1000) ms",
    ),
    known(
        "xbzrle-cache-size",
        Wire::Uint64,
        "a power of two no less than the target page size",
    ),
    known(
        "max-cpu-throttle",
        Wire::Uint8,
        "an integer in the range of cpu_throttle_initial to 99",
    ),
];

const fn known(name: &'static str, wire: Wire, expects: &'static str) -> Known {
    Known {
        name,
        wire,
        expects,
    }
}

fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// What `migrate-set-parameters` is to set.
pub(super) fn read(mut arguments: Map<String, Value>) -> Result<Vec<TypedParam>, QmpError> {
    let mut list = Vec::new();
    let of_qemu = KNOWN.iter().map(|known| known.name);
    let ours = TABLE.iter().map(|row| row.name);
    for name in of_qemu.chain(ours) {
        if let Some(value) = arguments.remove(name)
            && let Some(row) = TABLE.iter().find(|row| row.name == name)
        {
            read_one(row, value, &mut list)?;
        }
    }
    match arguments.keys().next() {
        Some(name) => Err(unexpected(name)),
        None => Ok(list),
    }
}

fn read_one(
    row: &'static Parameter,
    value: Value,
    list: &mut Vec<TypedParam>,
) -> Result<(), QmpError> {
    let name = row.name;
    match (value, row.unset) {
        // What is not among the arguments is left alone.
        (Value::Null, _) if row.repeatable => {}
        // No value at all, for what can have none.
        (Value::Null, Some(word)) => {
            list.push(TypedParam::new(name, TypedValue::String(word.to_owned())));
        }
        (Value::Array(values), _) if row.repeatable => {
            for (index, value) in values.into_iter().enumerate() {
                let value = ours(&format!("{name}[{index}]"), row.kind, value)?;
                list.push(TypedParam::new(name, value));
            }
        }
        (value, _) => {
            let value = match find(name) {
                Some(known) => of_qemu(known, row.kind, &value)?,
                None => ours(name, row.kind, value)?,
            };
            list.push(TypedParam::new(name, value));
        }
    }
    Ok(())
}

/// The value of a parameter that QEMU has, too.
fn of_qemu(known: &Known, kind: Kind, value: &Value) -> Result<TypedValue, QmpError> {
    let name = known.name;
    let number = || match (value.as_u64(), value.as_i64()) {
        (Some(number), _) => Ok(number),
        (_, Some(negative)) => Ok(negative as u64),
        _ => Err(expects(name, "uint64")),
    };
    let number = match known.wire {
        Wire::Bool => {
            let on = value.as_bool().ok_or_else(|| wrong_type(name, "boolean"))?;
            return Ok(TypedValue::Boolean(on));
        }
        Wire::Uint8 => number().and_then(|number| match u8::try_from(number) {
            Ok(number) => Ok(u64::from(number)),
            Err(_) => Err(expects(name, "uint8_t")),
        })?,
        Wire::Uint64 => number()?,
    };
    let out_of_range = |_| range_of(known);
    Ok(match kind {
        Kind::Int => TypedValue::Int(i32::try_from(number).map_err(out_of_range)?),
        Kind::Uint => TypedValue::Uint(u32::try_from(number).map_err(out_of_range)?),
        Kind::Llong => TypedValue::Llong(i64::try_from(number).map_err(out_of_range)?),
        _ => TypedValue::Ullong(number),
    })
}

/// The value of a parameter that only we have.
fn ours(name: &str, kind: Kind, value: Value) -> Result<TypedValue, QmpError> {
    let integer = || match value.as_i64() {
        Some(number) => Ok(number),
        None => Err(wrong_type(name, "integer")),
    };
    Ok(match kind {
        Kind::Int => {
            TypedValue::Int(i32::try_from(integer()?).map_err(|_| expects(name, "int32_t"))?)
        }
        Kind::Uint => {
            TypedValue::Uint(u32::try_from(integer()?).map_err(|_| expects(name, "uint32_t"))?)
        }
        Kind::Llong => TypedValue::Llong(integer()?),
        Kind::Ullong => TypedValue::Ullong(value.as_u64().ok_or_else(|| expects(name, "uint64"))?),
        Kind::Double => {
            TypedValue::Double(value.as_f64().ok_or_else(|| wrong_type(name, "number"))?)
        }
        Kind::Boolean => {
            TypedValue::Boolean(value.as_bool().ok_or_else(|| wrong_type(name, "boolean"))?)
        }
        Kind::String => match value {
            Value::String(word) => TypedValue::String(word),
            _ => return Err(wrong_type(name, "string")),
        },
    })
}

/// The value is none that the parameter can have: QEMU's words, in which it has an underscore.
fn range_of(known: &Known) -> QmpError {
    expects(&known.name.replace('-', "_"), known.expects)
}

/// Why these parameters could not be set over those in force.
pub(super) fn refusal(error: Error, list: &[TypedParam], params: &Params) -> QmpError {
    match error.cause::<ParamError>() {
        Some(ParamError::BadLevel { .. }) => levels(list, params),
        Some(ParamError::BadValue { name, .. }) if *name == LEVEL => levels(list, params),
        Some(ParamError::BadValue { name, allowed, .. }) => match find(name) {
            Some(known) => range_of(known),
            None => expects(name, allowed),
        },
        _ => error.into(),
    }
}

/// The level is none of the method's; QEMU, which has one method, has the words of `zlib`.
fn levels(list: &[TypedParam], params: &Params) -> QmpError {
    let chosen = list
        .iter()
        .rev()
        .find(|param| param.name == "compress-method");
    let method = chosen.and_then(|param| param.value.to_string().parse().ok());
    let levels = method.unwrap_or(params.compress_method).levels();
    let range = format!("a value between {} and {}", levels.start(), levels.end());
    expects(&LEVEL.replace('-', "_"), &range)
}

/// What `query-migrate-parameters` returns: every parameter that has a value.
pub(super) fn query(params: &Params) -> Value {
    let members = TABLE.iter().filter_map(|row| {
        let value = (row.get)(params);
        let unset = matches!(value, params::Value::Unset(_));
        let value = serde_json::to_value(value).ok().filter(|_| !unset)?;
        Some((row.name.to_owned(), value))
    });
    Value::Object(members.collect())
}
