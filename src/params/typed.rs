//! Parameters as a typed list: libvirt's way of setting them.
//!
//! A [`TypedParam`] is a name with a value of one of libvirt's types. A list of them is set as a
//! whole or not at all; what is not in it stays as it is.

use std::fmt;

use super::{ParamError, Params};

/// A value with its type, in libvirt's words.
#[derive(Debug, Clone, PartialEq)]
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

/// A parameter's name and the value that it is to have.
#[derive(Debug, Clone, PartialEq)]
pub struct TypedParam {
    /// The name, as in [`super::TABLE`].
    pub name: String,
    /// The value.
    pub value: TypedValue,
}

impl TypedParam {
    /// A parameter's name and the value that it is to have.
    pub fn new(name: impl Into<String>, value: TypedValue) -> TypedParam {
        TypedParam {
            name: name.into(),
            value,
        }
    }
}

impl Params {
    /// Sets a list of parameters, all or none, and checks that the result fits together.
    ///
    /// # Errors
    /// As [`Params::set_all`]; nothing is changed then.
    pub fn set_typed(&mut self, list: &[TypedParam]) -> Result<(), ParamError> {
        let texts: Vec<_> = list.iter().map(|param| param.value.to_string()).collect();
        let values: Vec<_> = list
            .iter()
            .zip(&texts)
            .map(|(param, text)| (param.name.as_str(), text.as_str()))
            .collect();
        self.set_all(&values)
    }
}
