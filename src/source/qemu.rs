//! What stands around the rounds on the qemu wire: in front of them the guest's preamble, between
//! them the frames of QEMU's sections, behind them the device state; and QEMU's return path.

use crate::caps::Capability;
use crate::codec::Method;
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::page::PAGE_SIZE;
use crate::params::Params;
use crate::round::RoundMark;
use crate::transport::{Stream, TransportError};
use crate::wire::BlockInfo;
use crate::wire::qemu::return_path::{self, Reply};
use crate::wire::qemu::{self, Command, SectionKind};

use super::Request;

/// The machine of a guest of which nothing but RAM is known: QEMU's `pc`, as 7.2 has it and 10.0 still.
pub const DEFAULT_MACHINE: &str = "pc-i440fx-7.2";

/// The one number that the destination is to repeat.
const PING: u32 = 1;

/// RAM's section, where a guest does not say: as QEMU has it on a PC.
const SECTION_ID: u32 = 2;

/// What a guest's stream has besides RAM.
#[derive(Debug)]
pub(super) struct Framing {
    machine: String,
    /// QEMU's sub-sections of its configuration, as they were received.
    configuration: Vec<u8>,
    section_id: u32,
    /// What stands in front of the END section.
    commands: Vec<Command>,
    blocks: Vec<BlockInfo>,
    return_path: bool,
}

/// Refuses what QEMU's stream has no means for.
pub(super) fn check(request: &Request, params: &Params) -> Result<()> {
    let usage = |what: String| Err(Error::new(Kind::Usage, what));
    if let Some(machine) = &request.machine
        && machine.len() > qemu::MAX_MACHINE
    {
        return usage(format!(
            "the machine type's name has {} bytes, but at most {} are allowed",
            machine.len(),
            qemu::MAX_MACHINE
        ));
    }
    let method = params.codec_settings().method;
    if request.caps.has(Capability::Compress) && method != Method::Zlib {
        return usage(format!(
            "compress-method {method} is not for the qemu wire: allowed there is zlib"
        ));
    }
    if params.connections > 1 {
        return usage(format!(
            "the qemu wire has one connection, not {}",
            params.connections
        ));
    }
    Ok(())
}

impl Framing {
    pub(super) fn new(request: &Request, guest: &Guest, two_way: bool) -> Result<Framing> {
        let blocks = guest
            .blocks()
            .iter()
            .map(|block| BlockInfo {
                name: block.name().to_owned(),
                bytes: block.pages() * PAGE_SIZE as u64,
            })
            .collect();
        let return_path = two_way && request.caps.has(Capability::ReturnPath);
        let Some(description) = guest.description() else {
            let machine = request.machine.as_deref().unwrap_or(DEFAULT_MACHINE);
            return Ok(Framing {
                machine: machine.to_owned(),
                configuration: Vec::new(),
                section_id: SECTION_ID,
                commands: Vec::new(),
                blocks,
                return_path,
            });
        };
        if request.machine.is_some() {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "a guest folder has a machine of its own: {}",
                    description.machine
                ),
            ));
        }
        let commands = description.commands.iter().map(|(number, payload)| {
            Command::from_parts(*number, payload).ok_or_else(|| {
                let what = format!("the guest folder has a command {number} that is unknown");
                Error::new(Kind::Failed, what)
            })
        });
        Ok(Framing {
            machine: description.machine.clone(),
            configuration: description.configuration.clone(),
            section_id: description.ram_section_id,
            commands: commands.collect::<Result<_>>()?,
            blocks,
            return_path,
        })
    }

    /// Everything in front of the first round.
    pub(super) fn preamble(&self) -> Vec<u8> {
        let mut out = Vec::new();
        qemu::put_header(&mut out, &self.machine, &self.configuration);
        if self.return_path {
            qemu::put_command(&mut out, Command::OpenReturnPath);
            qemu::put_command(&mut out, Command::Ping(PING));
        }
        qemu::put_start(&mut out, self.section_id, &self.blocks);
        out
    }

    /// Opens the section that a round is: RAM's END if it is the last of several, else a PART.
    pub(super) fn section_start(&self, mark: RoundMark) -> Vec<u8> {
        let mut out = Vec::new();
        let kind = if mark.last && !mark.round.is_first() {
            self.put_commands(&mut out);
            SectionKind::End
        } else {
            SectionKind::Part
        };
        qemu::put_section(&mut out, kind, self.section_id);
        out
    }

    /// Closes a round's section.
    pub(super) fn section_end(&self) -> Vec<u8> {
        let mut out = Vec::new();
        qemu::put_section_end(&mut out, self.section_id);
        out
    }

    /// Ends RAM, unless a later round has, and hands over the devices.
    pub(super) fn finish(&self, guest: &Guest, later_rounds: bool) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        if !later_rounds {
            self.put_commands(&mut out);
            qemu::put_section(&mut out, SectionKind::End, self.section_id);
            qemu::put_section_end(&mut out, self.section_id);
        }
        match guest.device_state() {
            Some(state) => out.extend_from_slice(&state.read()?),
            None => qemu::put_end_of_stream(&mut out),
        }
        Ok(out)
    }

    fn put_commands(&self, out: &mut Vec<u8>) {
        for command in &self.commands {
            qemu::put_command(out, *command);
        }
    }
}

/// Everything is written: waits for the destination to say that it has loaded the guest, if it was
/// asked to, or else to hang up.
pub(super) fn hear_the_end(stream: &Stream, framing: &Framing) -> Result<()> {
    if !framing.return_path {
        return stream.end_of_writing().map_err(Into::into);
    }
    // It may say each once: whoever goes on talking must not keep us for ever.
    let (mut pong, mut ready) = (false, false);
    loop {
        let mut head = [0; return_path::HEAD_LEN];
        stream.read(&mut head).map_err(lost)?;
        let len = return_path::payload_len(head)?;
        let mut payload = [0; return_path::MAX_PAYLOAD];
        stream.read(&mut payload[..len]).map_err(lost)?;
        match return_path::read(head, &payload[..len])? {
            Reply::Pong(PING) if !pong => pong = true,
            Reply::SwitchoverAck if !ready => ready = true,
            other @ (Reply::Pong(_) | Reply::SwitchoverAck) => {
                let what = format!("the destination says {other:?}, which nobody asked for");
                return Err(Error::new(Kind::Failed, what));
            }
            Reply::Shut(0) => return Ok(()),
            Reply::Shut(code) => {
                return Err(Error::new(
                    Kind::Refused,
                    format!(
                        "the destination could not load the guest (it shut the return path with {code}); its own messages say why"
                    ),
                ));
            }
        }
    }
}

/// A QEMU that cannot load what it is sent hangs up; why, it says elsewhere.
pub(super) fn explain(error: Error) -> Error {
    #[derive(Debug, thiserror::Error)]
    #[error(
        "the destination hung up; a QEMU that cannot load the guest says why on its standard error \
         (another machine type, -m or devices, or its compress being off)"
    )]
    struct HungUp(#[source] TransportError);
    match error.cause() {
        Some(TransportError::Closed) => {
            let hung_up = Error::new(error.kind(), HungUp(TransportError::Closed));
            error
                .place()
                .stage
                .into_iter()
                .fold(hung_up, Error::in_stage)
        }
        _ => error,
    }
}

/// The destination has the whole stream, or may have, and did not say what became of it.
pub(super) fn unknown(error: impl Into<Error>) -> Error {
    #[derive(Debug, thiserror::Error)]
    #[error(
        "outcome unknown: the destination has the whole stream, but did not say that it loaded the guest; \
         a QEMU that could not has said so on its standard error and ended"
    )]
    struct Unknown(#[source] Error);
    Error::new(Kind::OutcomeUnknown, Unknown(error.into()))
}

/// That somebody here ended the wait is no news of the destination.
fn lost(error: TransportError) -> Error {
    match error {
        TransportError::Aborted => error.into(),
        error => unknown(error),
    }
}
