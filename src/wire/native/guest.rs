//! The bodies of the messages that carry a guest folder's description and device state.

use bytes::BufMut;

use super::reader::{Reader, at_most};
use super::{MAX_BODY, MAX_PIECE};
use crate::description::{
    Description, EarlyState, MAX_COMMANDS, MAX_CONFIGURATION, MAX_EARLY_STATE,
};
use crate::wire::WireError;

/// Appends a description, whose fields are known to be within their bounds.
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
    if description.early.bytes() > 0 {
        out.put_u64_le(description.early.before_blocks);
        out.put_u64_le(description.early.after_blocks);
    }
    debug_assert!(out.len() <= MAX_BODY);
}

/// Takes a description, and checks its bounds.
pub(super) fn take_description(body: &mut Reader<'_>) -> Result<Description, WireError> {
    let ram_section_id = body.u32()?;
    let machine = body.string("the machine type")?;
    let len = at_most(
        "the configuration's length",
        body.u32()?.into(),
        MAX_CONFIGURATION,
    )?;
    let configuration = body.take(len)?.to_vec();
    let mut left = MAX_CONFIGURATION;
    let commands = body.list("the number of commands", MAX_COMMANDS, |body| {
        let code = body.u16()?;
        let len = at_most("the length of a command's data", body.u32()?.into(), left)?;
        left -= len;
        Ok((code, body.take(len)?.to_vec()))
    })?;
    let early = match body.is_empty() {
        true => EarlyState::default(),
        false => EarlyState {
            before_blocks: body.u64()?,
            after_blocks: body.u64()?,
        },
    };
    at_most(
        "the length of the early device state",
        early.bytes(),
        MAX_EARLY_STATE as usize,
    )?;
    Ok(Description {
        machine,
        configuration,
        commands,
        ram_section_id,
        early,
    })
}

/// Takes a piece of device state: its offset, and at least one byte.
pub(super) fn take_piece(body: &mut Reader<'_>) -> Result<(u64, Vec<u8>), WireError> {
    let offset = body.u64()?;
    let bytes = body.rest();
    let len = bytes.len() as u64;
    at_most("the length of a piece of device state", len, MAX_PIECE)?;
    if bytes.is_empty() {
        return Err(WireError::Short {
            record: "DeviceState",
            have: 8,
        });
    }
    Ok((offset, bytes.to_vec()))
}
