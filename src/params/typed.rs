//! Parameters as a typed list: libvirt's way of setting them.
//!
//! A [`TypedParam`] is a name with a value of one of libvirt's types. A list of them is set as a
//! whole or not at all, and what is not in it is unchanged. As in libvirt:
//! * a name that is unknown is an error;
//! * a value has exactly the type in the [table](super::TABLE), and nothing is converted.
//!   The one exception: where a parameter can have no value at all, the word for that (`auto`,
//!   `none`: [`unset`](super::Parameter::unset)) is a string, whatever the parameter's type;
//! * a name occurs once, unless it is [repeatable](super::Parameter::repeatable);
//! * times are numbers of the parameter's unit: `timeout` is a double of seconds, to the nearest
//!   millisecond.
//!
//! [`Params::set`] sets parameters only. `compression` may also name a capability; [`apply`] sets
//! both.

use std::fmt;

use super::compression::{self, Compression};
use super::{Given, Kind, ParamError, Parameter, Params, TABLE, Value, find};
use crate::caps::Caps;

/// A value with its type, in libvirt's words.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TypedValue {
    /// 32 bits, signed.
    Int(i32),
    /// 32 bits.
    Uint(u32),
    /// 64 bits, signed.
    Llong(i64),
    /// 64 bits.
    Ullong(u64),
    /// A floating-point number.
    Double(f64),
    /// On or off.
    Boolean(bool),
    /// A word.
    String(String),
}

impl TypedValue {
    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            TypedValue::Int(_) => Kind::Int,
            TypedValue::Uint(_) => Kind::Uint,
            TypedValue::Llong(_) => Kind::Llong,
            TypedValue::Ullong(_) => Kind::Ullong,
            TypedValue::Double(_) => Kind::Double,
            TypedValue::Boolean(_) => Kind::Boolean,
            TypedValue::String(_) => Kind::String,
        }
    }
}

impl fmt::Display for TypedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TypedValue::Int(number) => number.fmt(f),
            TypedValue::Uint(number) => number.fmt(f),
            TypedValue::Llong(number) => number.fmt(f),
            TypedValue::Ullong(number) => number.fmt(f),
            TypedValue::Double(number) => number.fmt(f),
            TypedValue::Boolean(on) => f.pad(if *on { "on" } else { "off" }),
            TypedValue::String(word) => f.pad(word),
        }
    }
}

/// A parameter's name and its new value.
#[derive(Debug, Clone, PartialEq)]
pub struct TypedParam {
    /// The name, as in [`super::TABLE`].
    pub name: String,
    /// The value.
    pub value: TypedValue,
}

impl TypedParam {
    /// From both parts.
    pub fn new(name: impl Into<String>, value: TypedValue) -> TypedParam {
        TypedParam {
            name: name.into(),
            value,
        }
    }

    /// The same from text as people write it (`64MiB`, `1.5s`, `auto`), with the type in the
    /// [table](super::TABLE).
    ///
    /// # Errors
    /// As [`Params::set_text`]; what a repeatable parameter may be is checked when it is set.
    pub fn from_text(name: &str, text: &str) -> Result<TypedParam, ParamError> {
        let row = find(name)?;
        if row.repeatable {
            return Ok(TypedParam::new(name, TypedValue::String(text.to_owned())));
        }
        let mut params = Params::default();
        params.set_text(name, text)?;
        Ok(TypedParam::new(name, row.typed(&params)))
    }
}

impl Parameter {
    /// The value of the row's field with its type. What the field holds fits that type, unless it
    /// was written directly; then it is shown as a number that is out of range in either.
    pub(super) fn typed(&self, params: &Params) -> TypedValue {
        match (self.get)(params) {
            Value::Number(number) => match self.kind {
                Kind::Int => TypedValue::Int(i32::try_from(number).unwrap_or(-1)),
                Kind::Uint => TypedValue::Uint(u32::try_from(number).unwrap_or(u32::MAX)),
                _ => TypedValue::Ullong(number),
            },
            Value::Double(number) => TypedValue::Double(number),
            Value::Boolean(on) => TypedValue::Boolean(on),
            Value::Word(word) | Value::Unset(word) => TypedValue::String(word.to_owned()),
            Value::Link(link) => TypedValue::String(link.to_string()),
        }
    }

    /// Refuses a value of another type.
    fn check_type(&self, value: &TypedValue) -> Result<(), ParamError> {
        let word = self.unset.filter(|_| self.kind != Kind::String);
        let is_word = word.is_some() && Given::Typed(value).word() == word;
        if value.kind() == self.kind || is_word {
            return Ok(());
        }
        Err(ParamError::WrongType {
            name: self.name,
            given: value.kind(),
            expected: self.kind,
            word,
            value: value.to_string(),
            range: self.range,
        })
    }
}

impl Params {
    /// Sets a list of parameters, all or none, and checks that the result fits together. Of
    /// `compression` only a method can be set here; what it says of capabilities is [`apply`]'s.
    ///
    /// # Errors
    /// A name that is unknown, a value of another type, a name that occurs again, a value out of
    /// range, and those of [`Params::validate`]; nothing is changed then.
    pub fn set(&mut self, list: &[TypedParam]) -> Result<(), ParamError> {
        let mut changed = self.clone();
        if let Some(compression) = set_each(&mut changed, list)? {
            compression
                .without_caps()
                .map_err(|allowed| ParamError::BadValue {
                    name: compression::NAME,
                    value: words(list).join(" "),
                    allowed,
                })?;
        }
        changed.validate()?;
        *self = changed;
        Ok(())
    }
}

/// Sets a list of parameters, all or none, as [`Params::set`] does, and the capabilities `compress`
/// and `xbzrle` as `compression` says, if it is in the list.
///
/// # Errors
/// As [`Params::set`]; nothing is changed then.
pub fn apply(list: &[TypedParam], params: &mut Params, caps: &mut Caps) -> Result<(), ParamError> {
    let mut changed = params.clone();
    let compression = set_each(&mut changed, list)?;
    changed.validate()?;
    *params = changed;
    if let Some(compression) = compression {
        compression.switch(caps);
    }
    Ok(())
}

/// Whether the list holds `compression`, and so switches capabilities.
pub fn switches_caps(list: &[TypedParam]) -> bool {
    list.iter().any(|param| param.name == compression::NAME)
}

/// The values of `compression`.
fn words(list: &[TypedParam]) -> Vec<&str> {
    let given = list.iter().filter(|param| param.name == compression::NAME);
    given
        .filter_map(|param| Given::Typed(&param.value).word())
        .collect()
}

/// Sets one after the other, without checking how they fit together.
fn set_each(params: &mut Params, list: &[TypedParam]) -> Result<Option<Compression>, ParamError> {
    for (index, param) in list.iter().enumerate() {
        let row = find(&param.name)?;
        row.check_type(&param.value)?;
        let before = list[..index].iter().find(|other| other.name == param.name);
        match before {
            Some(first) if !row.repeatable => {
                return Err(ParamError::Duplicate {
                    name: row.name,
                    first: first.value.to_string(),
                    second: param.value.to_string(),
                });
            }
            _ if row.repeatable => {}
            _ => row.put(params, Given::Typed(&param.value))?,
        }
    }
    let Some(compression) = Compression::of(&words(list))? else {
        return Ok(None);
    };
    let method_too = list.iter().any(|param| param.name == "compress-method");
    if method_too && params.compress_method != compression.method() {
        return Err(ParamError::Contradiction {
            method: params.compress_method,
            compression: words(list).join(" "),
        });
    }
    compression.set_method(params);
    Ok(Some(compression))
}

/// Checks each row's own bounds: fields may have been written directly.
pub(super) fn check_each(params: &Params) -> Result<(), ParamError> {
    let mut scratch = params.clone();
    TABLE
        .iter()
        .filter(|row| !row.repeatable)
        .try_for_each(|row| row.put(&mut scratch, Given::Typed(&row.typed(params))))
}

#[cfg(test)]
mod tests;
