//! `query-migrate`: a [`Report`] in the shape that QEMU gives it.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::params::Params;
use crate::stats::{Report, Status};
use crate::transport::Address;

/// How many rounds are returned, the last ones: clients have a limit for the length of a line.
const MOST_ROUNDS: usize = 64;
/// How many notices are returned.
const MOST_NOTICES: usize = 32;

/// What `query-migrate` returns; `params` are those in force, and `listening` is where a destination
/// can be reached.
///
/// As in QEMU, times are whole milliseconds, and a migration that has not begun to send, or failed,
/// has only a status and a reason. What QEMU does not have keeps its name in [`Report`].
pub(super) fn migrate(
    report: Option<&Report>,
    listening: Option<&Address>,
    params: &Params,
) -> Value {
    let Some(report) = report else {
        return json!({});
    };
    let Ok(Value::Object(mut members)) = serde_json::to_value(report) else {
        return json!({});
    };
    if let Some(address) = listening.and_then(socket_address) {
        members.insert("socket-address".to_owned(), json!([address]));
    }
    if let Some(Value::Array(notices)) = members.get_mut("notices") {
        notices.truncate(MOST_NOTICES);
    }
    if matches!(
        report.status,
        Status::None | Status::Setup | Status::Failed | Status::Cancelled
    ) {
        let is_kept = |name: &str| match name {
            "status" | "guest" | "notices" | "side" | "socket-address" => true,
            "error-desc" => report.status == Status::Failed,
            _ => false,
        };
        members.retain(|name, _| is_kept(name));
        return Value::Object(members);
    }
    let source = report.side == "source";
    let completed = report.status == Status::Completed;
    let mut milliseconds = |name: &str, time: Option<Duration>| match time {
        Some(time) => {
            let rounded = (time.as_secs_f64() * 1e3).round() as u64;
            members.insert(name.to_owned(), json!(rounded));
        }
        None => drop(members.remove(name)),
    };
    milliseconds("total-time", Some(report.total_time));
    milliseconds("setup-time", Some(report.setup_time));
    // A guest without a writer was not paused.
    let downtime = report.downtime.or(source.then_some(Duration::ZERO));
    milliseconds("downtime", downtime.filter(|_| completed));
    let expected = report.expected_downtime.unwrap_or(params.downtime_limit);
    milliseconds(
        "expected-downtime",
        (source && !completed).then_some(expected),
    );
    if let Some(Value::Object(ram)) = members.get_mut("ram") {
        add_to_ram(ram, report);
    }
    if let Some(Value::Array(rounds)) = members.get_mut("rounds") {
        rounds.drain(..rounds.len().saturating_sub(MOST_ROUNDS));
    }
    Value::Object(members)
}

/// An address as QEMU returns it.
fn socket_address(address: &Address) -> Option<Value> {
    match address {
        Address::Tcp { host, port } => {
            Some(json!({"type": "inet", "host": host, "port": port.to_string()}))
        }
        Address::Unix(path) => Some(json!({"type": "unix", "path": path.to_string_lossy()})),
        Address::File(_) | Address::Fd(_) | Address::Exec(_) => None,
    }
}

/// QEMU's other members of `ram`.
fn add_to_ram(ram: &mut Map<String, Value>, report: &Report) {
    let completed = report.status == Status::Completed;
    let last = report.rounds.last().filter(|_| report.rounds.len() > 1);
    let in_downtime = match (report.downtime, last) {
        (Some(_), Some(last)) => last.wire_bytes,
        _ => 0,
    };
    let dirty_pages = report.ram.dirty_pages_rate.filter(|_| !completed);
    for (name, value) in [
        ("skipped", 0),
        ("multifd-bytes", 0),
        ("postcopy-requests", 0),
        ("postcopy-bytes", 0),
        ("dirty-sync-missed-zero-copy", 0),
        ("downtime-bytes", in_downtime),
        (
            "precopy-bytes",
            report.ram.transferred.saturating_sub(in_downtime),
        ),
        ("dirty-pages-rate", dirty_pages.unwrap_or(0)),
    ] {
        ram.insert(name.to_owned(), json!(value));
    }
}
