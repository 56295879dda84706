//! The bodies of the messages that carry a guest folder's description and device state.

use bytes::BufMut;

use super::super::WireError;
use super::frame::Message;
use super::reader::Reader;
use super::{MAX_BODY, MAX_PIECE};
use crate::description::{Description, MAX_COMMANDS, MAX_CONFIGURATION};

/// Appends a description, whose fields have been checked to be within their bounds.
pub(super) fn put_description(out: &mut Vec<u8>, description: &Description) {
    out.put_u32_le(description.ram_section_id);
    out.put_u8(description.machine.len() as u8);
    out.extend_from_slice(description.machine.as_bytes());
    out.put_u32_le(description.configuration.len() as u32);
    out.extend_from_slice(&description.configuration);
    out.put_u16_le(description.commands.len() as u16);
    for (code, data) in &description.commands {
        out.put_u16_le(*code);
        out.put_u32_le(data.len() as u32);
        out.extend_from_slice(data);
    }
    debug_assert!(out.len() <= MAX_BODY);
}

/// Takes a description that is within its bounds.
pub(super) fn take_description(body: &mut Reader<'_>) -> Result<Description, WireError> {
    let ram_section_id = body.u32()?;
    let machine = body.string("the machine type")?;
    let len = at_most(
        "the configuration's length",
        body.u32()?.into(),
        MAX_CONFIGURATION as u64,
    )?;
    let configuration = body.take(len)?.to_vec();
    let count = at_most(
        "the number of commands",
        body.u16()?.into(),
        MAX_COMMANDS as u64,
    )?;
    let mut commands = Vec::with_capacity(count);
    let mut left = MAX_CONFIGURATION as u64;
    for _ in 0..count {
        let code = body.u16()?;
        let len = at_most("the length of a command's data", body.u32()?.into(), left)?;
        left -= len as u64;
        commands.push((code, body.take(len)?.to_vec()));
    }
    Ok(Description {
        machine,
        configuration,
        commands,
        ram_section_id,
    })
}

/// Takes a piece of device state.
pub(super) fn take_piece(body: &mut Reader<'_>) -> Result<Message, WireError> {
    let offset = body.u64()?;
    let bytes = body.rest();
    at_most(
        "the length of a piece of device state",
        bytes.len() as u64,
        MAX_PIECE as u64,
    )?;
    if bytes.is_empty() {
        return Err(WireError::Short {
            record: "DeviceState",
            have: 8,
        });
    }
    Ok(Message::DeviceState {
        offset,
        bytes: bytes.to_vec(),
    })
}

fn at_most(field: &'static str, given: u64, allowed: u64) -> Result<usize, WireError> {
    if given <= allowed {
        Ok(given as usize)
    } else {
        Err(WireError::TooLarge {
            field,
            given,
            allowed,
        })
    }
}
