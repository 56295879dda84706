//! What is said on the monitor's socket: requests, replies, errors, events and the greeting, each in the
//! shape that QEMU gives it, and on a line of its own.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::ser::Formatter;
use serde_json::{Map, Serializer, Value, json};

use crate::stats::Event;

/// What kind of error it is; the names are QEMU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Class {
    GenericError,
    CommandNotFound,
}

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct QmpError {
    class: Class,
    desc: String,
}

impl QmpError {
    /// Of the class that nearly all errors are of.
    pub(super) fn generic(desc: impl Into<String>) -> QmpError {
        QmpError {
            class: Class::GenericError,
            desc: desc.into(),
        }
    }

    pub(super) fn command_not_found(desc: impl Into<String>) -> QmpError {
        QmpError {
            class: Class::CommandNotFound,
            desc: desc.into(),
        }
    }
}

impl From<crate::error::Error> for QmpError {
    fn from(error: crate::error::Error) -> QmpError {
        QmpError::generic(error.one_line())
    }
}

/// A command to execute.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) command: String,
    /// Whether it is to overtake others.
    pub(super) oob: bool,
    pub(super) arguments: Map<String, Value>,
}

/// A message from a client: its id, which goes back with the reply, and what it wants.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) id: Option<Value>,
    pub(super) call: Result<Call, QmpError>,
}

impl Request {
    /// Looks at a message's members. `oob`: whether the client may ask for `exec-oob`.
    pub(super) fn read(message: Value, oob: bool) -> Request {
        let Value::Object(mut members) = message else {
            return Request {
                id: None,
                call: Err(QmpError::generic("QMP input must be a JSON object")),
            };
        };
        let id = members.remove("id");
        let call = read_call(members, oob).map_err(QmpError::generic);
        Request { id, call }
    }
}

fn read_call(members: Map<String, Value>, oob_enabled: bool) -> Result<Call, String> {
    let mut command = None;
    let mut arguments = Map::new();
    for (name, value) in members {
        match (name.as_str(), value) {
            ("arguments", Value::Object(members)) => arguments = members,
            ("arguments", _) => {
                return Err("QMP input member 'arguments' must be an object".to_owned());
            }
            ("execute", _) if command.is_some() => {
                return Err("QMP input member 'execute' clashes with 'exec-oob'".to_owned());
            }
            ("execute", Value::String(name)) => command = Some((name, false)),
            ("exec-oob", Value::String(name)) if oob_enabled => command = Some((name, true)),
            ("exec-oob", _) if !oob_enabled => return Err(unexpected(&name)),
            ("execute" | "exec-oob", _) => {
                return Err(format!("QMP input member '{name}' must be a string"));
            }
            _ => return Err(unexpected(&name)),
        }
    }
    let (command, oob) = command.ok_or("QMP input lacks member 'execute'")?;
    Ok(Call {
        command,
        oob,
        arguments,
    })
}

fn unexpected(name: &str) -> String {
    format!("QMP input member '{name}' is unexpected")
}

/// The answer to a request.
pub(super) fn reply(id: Option<&Value>, outcome: Result<Value, QmpError>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Return<'a> {
        r#return: Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a Value>,
    }
    #[derive(Serialize)]
    struct Failure<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a Value>,
        error: QmpError,
    }
    match outcome {
        Ok(value) => line(&Return {
            r#return: value,
            id,
        }),
        Err(error) => line(&Failure { id, error }),
    }
}

/// The greeting.
pub(super) fn greeting() -> Vec<u8> {
    line(&json!({"QMP": {"version": version(), "capabilities": ["oob"]}}))
}

/// The program's version, under the names that clients look for.
pub(super) fn version() -> Value {
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    json!({
        "qemu": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "micro": number(env!("CARGO_PKG_VERSION_PATCH")),
        },
        "package": concat!("ramferry ", env!("CARGO_PKG_VERSION")),
    })
}

/// Something happened.
pub(super) fn event(event: Event, at: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct Timestamp {
        seconds: u64,
        microseconds: u32,
    }
    #[derive(Serialize)]
    struct Told {
        timestamp: Timestamp,
        event: &'static str,
        #[serde(skip_serializing_if = "Value::is_null")]
        data: Value,
    }
    let (name, data) = match event {
        Event::Migration(status) => ("MIGRATION", json!({"status": status.name()})),
        Event::Pass(pass) => ("MIGRATION_PASS", json!({"pass": pass})),
        Event::Stop => ("STOP", Value::Null),
        Event::Resume => ("RESUME", Value::Null),
    };
    let since: Duration = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    line(&Told {
        timestamp: Timestamp {
            seconds: since.as_secs(),
            microseconds: since.subsec_micros(),
        },
        event: name,
        data,
    })
}

/// One message on a line, with the spaces that QEMU puts into it.
fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut line, Spaced);
    // Neither can a Vec fail nor is there anything among them that JSON cannot express.
    let _ = message.serialize(&mut serializer);
    line.extend_from_slice(b"\r\n");
    line
}

/// A space after each colon and comma.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
