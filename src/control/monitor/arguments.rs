//! A command's arguments, taken one by one, and what is wrong with them in QEMU's words.

use serde_json::{Map, Value};

use super::message::QmpError;

/// Arguments that have not been taken yet, or the members of one of them.
#[derive(Debug)]
pub(super) struct Arguments {
    members: Map<String, Value>,
    /// The prefix of a member's name: empty, or such as `capabilities[0].`.
    within: String,
}

impl Arguments {
    pub(super) fn new(members: Map<String, Value>) -> Arguments {
        Arguments {
            members,
            within: String::new(),
        }
    }

    /// An argument that may be absent.
    fn take<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Value, &str) -> Result<T, QmpError>,
    ) -> Result<Option<T>, QmpError> {
        let path = format!("{}{name}", self.within);
        self.members
            .remove(name)
            .map(|value| read(value, &path))
            .transpose()
    }

    /// What is absent is missing.
    fn needed<T>(&self, name: &str, value: Option<T>) -> Result<T, QmpError> {
        value.ok_or_else(|| missing(&format!("{}{name}", self.within)))
    }

    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, QmpError> {
        self.take(name, string)
    }

    pub(super) fn needed_string(&mut self, name: &str) -> Result<String, QmpError> {
        let value = self.string(name)?;
        self.needed(name, value)
    }

    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, QmpError> {
        self.take(name, |value, path| match value {
            Value::Bool(on) => Ok(on),
            _ => Err(wrong_type(path, "boolean")),
        })
    }

    pub(super) fn needed_boolean(&mut self, name: &str) -> Result<bool, QmpError> {
        let value = self.boolean(name)?;
        self.needed(name, value)
    }

    /// A list; `read` is given each value with what it is called.
    fn list<T>(
        &mut self,
        name: &str,
        read: impl Fn(Value, &str) -> Result<T, QmpError>,
    ) -> Result<Option<Vec<T>>, QmpError> {
        self.take(name, |value, path| match value {
            Value::Array(values) => (0..)
                .zip(values)
                .map(|(index, value): (usize, _)| read(value, &format!("{path}[{index}]")))
                .collect(),
            _ => Err(wrong_type(path, "array")),
        })
    }

    pub(super) fn strings(&mut self, name: &str) -> Result<Option<Vec<String>>, QmpError> {
        self.list(name, string)
    }

    pub(super) fn numbers(&mut self, name: &str) -> Result<Option<Vec<u32>>, QmpError> {
        self.list(name, |value, path| match value.as_i64() {
            Some(number) => u32::try_from(number).map_err(|_| expects(path, "uint32_t")),
            None => Err(wrong_type(path, "integer")),
        })
    }

    /// A list of objects, each read to its last member by `read`.
    pub(super) fn needed_objects<T>(
        &mut self,
        name: &str,
        read: impl Fn(&mut Arguments) -> Result<T, QmpError>,
    ) -> Result<Vec<T>, QmpError> {
        let list = self.list(name, |value, path| match value {
            Value::Object(members) => {
                let within = format!("{path}.");
                let mut members = Arguments { members, within };
                let value = read(&mut members)?;
                members.end()?;
                Ok(value)
            }
            _ => Err(wrong_type(path, "object")),
        })?;
        self.needed(name, list)
    }

    /// The arguments that nothing is known about.
    pub(super) fn rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.members)
    }

    /// Nothing may be left over.
    pub(super) fn end(&self) -> Result<(), QmpError> {
        match self.members.keys().next() {
            Some(name) => Err(unexpected(&format!("{}{name}", self.within))),
            None => Ok(()),
        }
    }
}

fn string(value: Value, path: &str) -> Result<String, QmpError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(wrong_type(path, "string")),
    }
}

pub(super) fn missing(name: &str) -> QmpError {
    QmpError::generic(format!("Parameter '{name}' is missing"))
}

pub(super) fn unexpected(name: &str) -> QmpError {
    QmpError::generic(format!("Parameter '{name}' is unexpected"))
}

pub(super) fn wrong_type(name: &str, expected: &str) -> QmpError {
    QmpError::generic(format!(
        "Invalid parameter type for '{name}', expected: {expected}"
    ))
}

pub(super) fn expects(name: &str, what: &str) -> QmpError {
    QmpError::generic(format!("Parameter '{name}' expects {what}"))
}

pub(super) fn no_such_value(name: &str, value: &str) -> QmpError {
    QmpError::generic(format!(
        "Parameter '{name}' does not accept value '{value}'"
    ))
}
