//! What can be wrong with a parameter, in one line each.

use crate::codec::Method;
use crate::text::Quoted;

use super::{Kind, TABLE};

/// What can be wrong with a parameter: one line that names the given value and what is allowed, in
/// libvirt's words where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamError {
    /// No parameter has this name.
    #[error("parameter {} not supported: known are {}", libvirts(.0), known())]
    UnknownParameter(String),
    /// The value is of another type than the parameter.
    #[error(
        "invalid type '{given}' for parameter '{name}', expected '{expected}'{}: {} was given, allowed is {range}",
        or_word(*.word), Quoted(.value)
    )]
    WrongType {
        /// The parameter's name.
        name: &'static str,
        /// The type of the value given.
        given: Kind,
        /// The parameter's type.
        expected: Kind,
        /// The word that may be given as a string all the same.
        word: Option<&'static str>,
        /// The value given.
        value: String,
        /// What is allowed, as [`super::Parameter::range`] has it.
        range: &'static str,
    },
    /// It was given more than once, but is not repeatable.
    #[error(
        "parameter '{name}' occurs multiple times: {} and {} were given, allowed is one value",
        Quoted(.first), Quoted(.second)
    )]
    Duplicate {
        /// The parameter's name.
        name: &'static str,
        /// The value that was given first.
        first: String,
        /// The value that was given next.
        second: String,
    },
    /// The value is not one that the parameter can have.
    #[error("invalid {name} {}: allowed is {allowed}", Quoted(.value))]
    BadValue {
        /// The parameter's name.
        name: &'static str,
        /// The value given.
        value: String,
        /// What is allowed, to follow the words "allowed is".
        allowed: String,
    },
    /// It can only be changed before a migration.
    #[error("{name} cannot be changed during a migration")]
    Fixed {
        /// The parameter's name.
        name: &'static str,
    },
    /// The level is not one that the method has.
    #[error(
        "invalid compress-level {level}: {method} supports levels {} to {} (0: the method's own default, {})",
        .method.levels().start(), .method.levels().end(), .method.default_level()
    )]
    BadLevel {
        /// The method that is set.
        method: Method,
        /// The level that is set.
        level: u8,
    },
    /// `compression` names the same twice.
    #[error("compression method '{0}' is specified twice")]
    MethodTwice(String),
    /// `compression` names two methods; only XBZRLE goes with another.
    #[error(
        "compression {first} and {second} exclude each other: allowed is one method, and xbzrle besides"
    )]
    TwoMethods {
        /// The method that was named first.
        first: String,
        /// The method that was named next.
        second: String,
    },
    /// `compression` and `compress-method` say different things.
    #[error(
        "compress-method {method} contradicts compression {}: allowed is one of the two, or the same in both",
        .compression
    )]
    Contradiction {
        /// What `compress-method` was to be.
        method: Method,
        /// What `compression` was to be, its values joined by blanks.
        compression: String,
    },
}

/// A name from outside, quoted as libvirt does.
fn libvirts(name: &str) -> String {
    let quoted = Quoted(name).to_string();
    if quoted == name {
        format!("'{name}'")
    } else {
        quoted
    }
}

fn or_word(word: Option<&str>) -> String {
    word.map_or_else(String::new, |word| format!(" or the word {word}"))
}

/// The names of all parameters.
fn known() -> String {
    let names: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
    names.join(", ")
}
