//! `guest.json`. What is read is hostile until checked; what is written passes the same checks.

use serde::{Deserialize, Serialize};

use super::{DEVICE_STATE, FolderError, MAX_GUEST_JSON, check_blocks, file_name};
use crate::description::{
    Description, EarlyState, MAX_COMMANDS, MAX_CONFIGURATION, MAX_DEVICE_STATE, MAX_MACHINE,
    OutOfBounds,
};
use crate::page::{Digest, PAGE_SIZE};

/// An upper bound of the bytes that a description takes in `guest.json`.
const MAX_DESCRIPTION: usize = 6 * MAX_MACHINE + 4 * MAX_CONFIGURATION + 128 * MAX_COMMANDS;

pub(super) const FORMAT: &str = "ramferry-guest-folder";
const PARTIAL: &str = "ramferry-guest-partial";
const VERSION: u32 = 1;

/// The contents of `guest.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestJson {
    /// Whether the guest was received completely.
    pub(crate) complete: bool,
    pub(crate) description: Description,
    /// Names and sizes in bytes.
    pub(crate) blocks: Vec<(String, u64)>,
    /// Of each block alone.
    pub(crate) digests: Vec<Digest>,
    /// The device state's size in bytes, and its hash.
    pub(crate) device_state: (u64, u128),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Json {
    format: String,
    version: u32,
    machine: String,
    page_size: u64,
    configuration: String,
    commands: Vec<JsonCommand>,
    ram_section_id: u32,
    blocks: Vec<JsonBlock>,
    device_state: JsonState,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonCommand {
    code: u16,
    data: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonBlock {
    name: String,
    bytes: u64,
    digest: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonState {
    bytes: u64,
    #[serde(rename = "xxh3-128")]
    hash: String,
    /// Left out where there is none, so that older versions read what they can send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    early: Option<JsonEarly>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct JsonEarly {
    before_blocks: u64,
    after_blocks: u64,
}

impl GuestJson {
    /// Reads and checks `guest.json`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<GuestJson, FolderError> {
        let json: Json = serde_json::from_slice(bytes).map_err(FolderError::Json)?;
        let complete = json.format == FORMAT;
        if !complete && json.format != PARTIAL {
            return Err(FolderError::Format { found: json.format });
        }
        only("version", json.version.into(), VERSION.into())?;
        only("page-size", json.page_size, PAGE_SIZE as u64)?;
        let description = Description {
            machine: json.machine,
            configuration: unhex(&json.configuration, "configuration")?,
            commands: json
                .commands
                .iter()
                .map(|command| Ok((command.code, unhex(&command.data, "a command's data")?)))
                .collect::<Result<_, FolderError>>()?,
            ram_section_id: json.ram_section_id,
            early: json
                .device_state
                .early
                .map_or_else(EarlyState::default, |early| EarlyState {
                    before_blocks: early.before_blocks,
                    after_blocks: early.after_blocks,
                }),
        };
        description.check()?;
        description.early.check_within(json.device_state.bytes)?;
        let digests = json
            .blocks
            .iter()
            .map(|block| unhex_128(&block.digest, "a block's digest").map(Digest))
            .collect::<Result<_, FolderError>>()?;
        let blocks: Vec<(String, u64)> = json
            .blocks
            .into_iter()
            .map(|block| (block.name, block.bytes))
            .collect();
        check_blocks(&blocks)?;
        let state = json.device_state;
        if state.bytes > MAX_DEVICE_STATE {
            return Err(FolderError::TooMany(OutOfBounds {
                what: "bytes of device state",
                given: state.bytes,
                allowed: MAX_DEVICE_STATE,
            }));
        }
        Ok(GuestJson {
            complete,
            description,
            blocks,
            digests,
            device_state: (
                state.bytes,
                unhex_128(&state.hash, "the device state's hash")?,
            ),
        })
    }

    /// Checks the contents, and renders them.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, FolderError> {
        self.description.check()?;
        check_blocks(&self.blocks)?;
        let format = if self.complete { FORMAT } else { PARTIAL };
        let json = Json {
            format: format.to_owned(),
            version: VERSION,
            machine: self.description.machine.clone(),
            page_size: PAGE_SIZE as u64,
            configuration: hex(&self.description.configuration),
            commands: self
                .description
                .commands
                .iter()
                .map(|(code, data)| JsonCommand {
                    code: *code,
                    data: hex(data),
                })
                .collect(),
            ram_section_id: self.description.ram_section_id,
            blocks: self
                .blocks
                .iter()
                .zip(&self.digests)
                .map(|((name, bytes), digest)| JsonBlock {
                    name: name.clone(),
                    bytes: *bytes,
                    digest: digest.to_string(),
                })
                .collect(),
            device_state: JsonState {
                bytes: self.device_state.0,
                hash: format!("{:032x}", self.device_state.1),
                early: (self.description.early.bytes() > 0).then_some(JsonEarly {
                    before_blocks: self.description.early.before_blocks,
                    after_blocks: self.description.early.after_blocks,
                }),
            },
        };
        let mut text = serde_json::to_vec_pretty(&json).map_err(FolderError::Json)?;
        text.push(b'\n');
        // The description comes last. It must fit too, or receiving would fail at its very end.
        let room = if self.complete { 0 } else { MAX_DESCRIPTION };
        if text.len() + room > MAX_GUEST_JSON {
            return Err(FolderError::TooLong);
        }
        Ok(text)
    }

    /// The names of all files but `guest.json` in a folder with these blocks: the blocks' in their
    /// order, and the device state's.
    pub(crate) fn files(&self) -> impl Iterator<Item = String> {
        self.blocks
            .iter()
            .map(|(name, _)| file_name(name))
            .chain([DEVICE_STATE.to_owned()])
    }
}

fn only(field: &'static str, given: u64, allowed: u64) -> Result<(), FolderError> {
    if given == allowed {
        Ok(())
    } else {
        Err(FolderError::Unsupported {
            field,
            given,
            allowed,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str, field: &'static str) -> Result<Vec<u8>, FolderError> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect::<Option<Vec<u8>>>()
        .filter(|_| rest.is_empty())
        .ok_or(FolderError::NotHex { field })
}

fn unhex_128(text: &str, field: &'static str) -> Result<u128, FolderError> {
    unhex(text, field)?
        .try_into()
        .map(u128::from_be_bytes)
        .map_err(|_| FolderError::NotHex { field })
}
