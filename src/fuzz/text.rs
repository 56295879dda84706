//! Text: JSON, a guest folder's description, and what is written on a command line.

use std::collections::VecDeque;
use std::path::Path;

use serde_json::Value;

use crate::control::job_info::JobInfo;
use crate::control::monitor::{Parsed, Parser};
use crate::image::folder::{GuestJson, MAX_GUEST_JSON};
use crate::params::{LinkSpec, Params, TABLE, TypedParam};
use crate::transport::Address;
use crate::units;

/// What clients write to a monitor: in any pieces it is the same, and what is printed is read again.
/// Each message is also read as another monitor's reply.
pub(super) fn monitor_json(data: &[u8], _: &Path) -> bool {
    let whole = messages(data, usize::MAX);
    assert_eq!(messages(data, 1), whole, "in pieces it is the same");
    let values: Vec<Value> = whole.into_iter().flatten().collect();
    for value in &values {
        let printed = format!("{value}\n");
        assert_eq!(
            messages(printed.as_bytes(), usize::MAX),
            [Ok(value.clone())]
        );
        let info = JobInfo::new(value, None);
        let _ = (info.raw(), info.error().map(str::len));
    }
    !values.is_empty()
}

fn messages(data: &[u8], step: usize) -> Vec<Parsed> {
    let mut parser = Parser::default();
    let (mut all, mut queue) = (Vec::new(), VecDeque::new());
    for piece in data.chunks(step.min(data.len()).max(1)) {
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = parser.push(rest, &mut queue);
            assert!(taken > 0, "it goes on");
            rest = &rest[taken..];
            all.extend(queue.drain(..));
        }
    }
    all
}

/// `guest.json`: what is read is within its bounds, and survives being written.
pub(super) fn guest_json(data: &[u8], _: &Path) -> bool {
    let Ok(contents) = GuestJson::parse(data) else {
        return false;
    };
    for file in contents.files() {
        assert!(!file.is_empty() && !file.contains('/') && file != "." && file != "..");
    }
    // What was given may be shorter than what we would write.
    let Ok(written) = contents.to_json() else {
        return true;
    };
    assert!(written.len() <= MAX_GUEST_JSON);
    let again = GuestJson::parse(&written).expect("it was read before");
    assert_eq!(again, contents);
    true
}

/// Sizes, rates, times, addresses and parameters. What is shown of an accepted value is accepted.
pub(super) fn words(data: &[u8], _: &Path) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let mut accepted = false;
    if let Ok(bytes) = units::parse_size(text) {
        let _ = units::format_bytes(bytes);
        accepted = true;
    }
    if let Ok(rate) = units::parse_rate(text) {
        let _ = units::format_rate(rate);
    }
    if let Ok(time) = units::parse_duration(text) {
        let _ = units::format_duration(time);
    }
    let _ = (units::parse_bit_rate(text), units::parse_delay(text));
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse().ok(), Some(address));
    }
    if let Ok(link) = text.parse::<LinkSpec>() {
        assert_eq!(link.to_string().parse(), Ok(link));
    }
    for row in TABLE.iter().filter(|row| !row.repeatable) {
        let mut params = Params::default();
        if params.set_text(row.name, text).is_ok() {
            let typed = TypedParam::from_text(row.name, text).expect("it was accepted");
            let mut again = Params::default();
            // Alone it may not fit what the others are by default.
            if again.set(&[typed]).is_ok() {
                assert_eq!(again, params, "{} {text}", row.name);
            }
        }
    }
    accepted
}
