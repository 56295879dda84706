//! What a monitor says without a request: its greeting, and events.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::text::printable;

use super::MOST_QUOTED;

/// What a monitor says of itself when a client connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Major, minor and micro of the QEMU version; 0 where it is missing.
    pub version: [u64; 3],
    /// What the greeting calls the package; often empty.
    pub package: String,
    /// Whether commands out of band are offered.
    pub oob: bool,
}

impl Greeting {
    /// Whether it is a ramferry rather than a QEMU.
    pub fn is_ramferry(&self) -> bool {
        self.package.contains("ramferry")
    }

    /// Its name and version, for messages: `QEMU 7.2.22`.
    pub fn product(&self) -> String {
        if self.is_ramferry() {
            self.package.clone()
        } else {
            let [major, minor, micro] = self.version;
            format!("QEMU {major}.{minor}.{micro}")
        }
    }

    pub(super) fn read(message: &Map<String, Value>) -> Option<Greeting> {
        let qmp = message.get("QMP")?.as_object()?;
        let version = qmp.get("version").unwrap_or(&Value::Null);
        let number = |name: &str| version["qemu"][name].as_u64().unwrap_or(0);
        let package = version["package"].as_str().unwrap_or_default();
        let offered = qmp.get("capabilities").and_then(Value::as_array);
        Some(Greeting {
            version: [number("major"), number("minor"), number("micro")],
            package: short(package, MOST_QUOTED),
            oob: offered.is_some_and(|list| list.iter().any(|name| name == "oob")),
        })
    }
}

/// A message that a monitor sent without a request.
#[derive(Debug, Clone, PartialEq)]
pub struct MonitorEvent {
    /// Its name, such as `MIGRATION`.
    pub name: String,
    /// Its data; null if it has none.
    pub data: Value,
    /// Since the epoch, by the monitor's clock.
    pub time: Option<Duration>,
}

impl MonitorEvent {
    /// The status in a `MIGRATION` event.
    pub fn migration_status(&self) -> Option<&str> {
        (self.name == "MIGRATION")
            .then(|| self.data["status"].as_str())
            .flatten()
    }

    pub(super) fn read(message: &mut Map<String, Value>) -> Option<MonitorEvent> {
        let name = message.get("event")?.as_str()?.to_owned();
        let stamp = message.get("timestamp").unwrap_or(&Value::Null);
        let time = stamp["seconds"].as_u64().map(|seconds| {
            let micros = stamp["microseconds"].as_u64().unwrap_or(0).min(999_999);
            Duration::from_secs(seconds) + Duration::from_micros(micros)
        });
        let data = message.remove("data").unwrap_or_default();
        Some(MonitorEvent { name, data, time })
    }
}

/// Text from a monitor for a message: one line of at most `most` characters.
pub(super) fn short(text: &str, most: usize) -> String {
    let mut line: String = printable(text).chars().take(most + 1).collect();
    if line.chars().count() > most {
        line.pop();
        line.push_str("...");
    }
    line
}
