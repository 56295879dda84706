//! QEMU's wire: in front of the rounds the guest's preamble, around each round the frame of a
//! section, after them the device state; and QEMU's return path.

mod encode;
mod return_path;

use crate::caps::Capability;
use crate::codec::Method;
use crate::description::{Description, EarlyState};
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Guest;
use crate::round::RoundMark;
use crate::session::{Context, Phase};
use crate::source::job::SendState;
use crate::source::links::{Links, Opener};
use crate::source::request::Request;
use crate::transport::{Stream, TransportError};
use crate::wire::BlockInfo;
use crate::wire::qemu::{self, Command, SectionKind};
use crate::writer::Stopped;

use super::seam::{
    AllSent, Batches, Channel, Encode, Opened, Wire, announced_blocks, let_go, no_fallback,
};
use encode::RecordEncoder;

/// The machine type of a guest of which nothing but RAM is known: QEMU's `pc`, as 7.2 has it and
/// 10.0 still.
pub const DEFAULT_MACHINE: &str = "pc-i440fx-7.2";

/// The number that the destination is to repeat on the return path.
const PING: u32 = 1;

/// RAM's section number if the guest does not have one: QEMU's on a PC.
const SECTION_ID: u32 = 2;

/// The most pages of a hole in a batch. Each is a record, so a larger batch would need a larger
/// buffer.
const HOLE_PAGES: u64 = 16_384;

/// QEMU's stream, to a QEMU or to a file or pipe.
#[derive(Debug)]
struct QemuWire {
    machine: String,
    /// QEMU's sub-sections of its configuration, as they were received.
    configuration: Vec<u8>,
    section_id: u32,
    /// What comes before RAM's END section.
    commands: Vec<Command>,
    /// Which of the device state's first bytes precede RAM's pages.
    early: EarlyState,
    blocks: Vec<BlockInfo>,
    /// Whether the destination says on a return path how it ended.
    return_path: bool,
    /// Whether rounds may follow the first.
    later_rounds: bool,
}

/// Opens the one connection and writes the preamble; there is nothing to agree about. A destination
/// with a return path answers a PING at once: until it has, no RAM is sent, so that one that cannot
/// load a stream is noticed before that.
pub(super) fn open(request: &Request, guest: &Guest, context: &Context) -> Result<Opened> {
    check(request, context)?;
    no_fallback(
        request,
        context,
        "on the qemu wire, the destination cannot be asked what it supports",
    );
    let mut links = Links::open(&Opener::new(request, context))?;
    let return_path = links.is_two_way() && context.caps.has(Capability::ReturnPath);
    let wire = QemuWire::new(request, guest, return_path)?;
    let preamble = wire.preamble(guest)?;
    let begun = links.main().write(&preamble, &[]).map_err(Error::from);
    let heard = begun.and_then(|()| match return_path {
        true => return_path::wait_for_an_answer(links.main(), PING, context),
        false => Ok(()),
    });
    if let Err(error) = heard {
        return Err(name_hang_up(links.explain(error)));
    }
    Ok(Opened {
        links,
        wire: Box::new(wire),
        caps: context.caps,
    })
}

/// Refuses what QEMU's stream cannot express.
fn check(request: &Request, context: &Context) -> Result<()> {
    let params = context.tuning.get();
    let usage = |what: String| Err(Error::new(Kind::Usage, what));
    if let Some(machine) = &request.machine
        && machine.len() > qemu::MAX_MACHINE
    {
        return usage(format!(
            "invalid machine type: its name has {} bytes, but at most {} are allowed",
            machine.len(),
            qemu::MAX_MACHINE
        ));
    }
    let method = params.codec_settings().method;
    if context.caps.has(Capability::Compress) && method != Method::Zlib {
        return usage(format!(
            "invalid compress-method {method}: the qemu wire supports only zlib"
        ));
    }
    if params.connections > 1 {
        return usage(format!(
            "invalid connections {}: the qemu wire supports only one",
            params.connections
        ));
    }
    Ok(())
}

impl QemuWire {
    fn new(request: &Request, guest: &Guest, return_path: bool) -> Result<QemuWire> {
        let given = match guest.description() {
            None => Description {
                machine: (request.machine.as_deref())
                    .unwrap_or(DEFAULT_MACHINE)
                    .to_owned(),
                ram_section_id: SECTION_ID,
                ..Description::default()
            },
            Some(own) if request.machine.is_some() => {
                return Err(Error::new(
                    Kind::Usage,
                    format!(
                        "cannot set the machine type: the guest folder has its own, {}",
                        own.machine
                    ),
                ));
            }
            Some(own) => own.clone(),
        };
        let commands = given.commands.iter().map(|(number, payload)| {
            Command::from_parts(*number, payload).ok_or_else(|| {
                let what = format!("the guest folder contains an unknown command {number}");
                Error::new(Kind::Failed, what)
            })
        });
        Ok(QemuWire {
            commands: commands.collect::<Result<_>>()?,
            machine: given.machine,
            configuration: given.configuration,
            section_id: given.ram_section_id,
            early: given.early,
            blocks: announced_blocks(guest),
            return_path,
            later_rounds: request.has_later_rounds(),
        })
    }

    /// Everything in front of the first round.
    fn preamble(&self, guest: &Guest) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let (before, after) = self.early_state(guest)?;
        qemu::put_header(&mut out, &self.machine, &self.configuration);
        if self.return_path {
            qemu::put_command(&mut out, Command::OpenReturnPath);
            qemu::put_command(&mut out, Command::Ping(PING));
        }
        out.extend_from_slice(&before);
        qemu::put_start(&mut out, self.section_id, &self.blocks);
        out.extend_from_slice(&after);
        Ok(out)
    }

    /// The device state that precedes RAM's pages: before the list of blocks, and after it.
    fn early_state(&self, guest: &Guest) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut before = match guest.device_state() {
            Some(state) => state.read_first(self.early.bytes())?,
            None => Vec::new(),
        };
        let after = before.split_off(before.len().min(self.early.before_blocks as usize));
        Ok((before, after))
    }

    /// Ends RAM, unless the last of several rounds has, and hands over the devices.
    fn device_state(&self, guest: &Guest) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        if !self.later_rounds {
            self.put_commands(&mut out);
            qemu::put_section(&mut out, SectionKind::End, self.section_id);
            qemu::put_section_end(&mut out, self.section_id);
        }
        match guest.device_state() {
            Some(state) => {
                let all = state.read()?;
                out.extend_from_slice(all.get(self.early.bytes() as usize..).unwrap_or_default());
            }
            None => qemu::put_end_of_stream(&mut out),
        }
        Ok(out)
    }

    fn put_commands(&self, out: &mut Vec<u8>) {
        for command in &self.commands {
            qemu::put_command(out, *command);
        }
    }

    /// The last byte, without which no QEMU takes the stream; then waits for the destination to say
    /// that it has loaded the guest, if it was asked to, or else to hang up.
    fn hand_over(&self, stream: &Stream, last: &[u8]) -> Result<()> {
        stream.write(last, &[])?;
        if self.return_path {
            return_path::wait_for_the_end(stream)
        } else {
            stream.end_of_writing().map_err(Error::from)
        }
    }
}

impl Wire for QemuWire {
    /// QEMU's delta cache depends on the order of pages.
    fn batches(&self) -> Batches {
        Batches {
            hole_pages: HOLE_PAGES,
            in_order: true,
        }
    }

    fn encoder<'a>(&'a self, state: &'a SendState<'a>) -> Box<dyn Encode + 'a> {
        Box::new(RecordEncoder::new(state))
    }

    fn channel(&self, _connection: usize) -> Box<dyn Channel + '_> {
        Box::new(Sections(self))
    }

    fn finish<'w>(
        &self,
        all: AllSent<'w>,
        links: &Links,
        context: &Context,
    ) -> Result<Option<Stopped<'w>>> {
        let two_way = links.is_two_way();
        context.enter(Phase::Switchover)?;
        context.faults.check(Site::Finish)?;
        let stream = links.main();
        let devices = self.device_state(&all.guest)?;
        // No QEMU accepts the stream without its last byte, so until then the source is in charge.
        let (rest, last) = devices.split_at(devices.len().saturating_sub(1));
        stream.write(rest, &[])?;
        if context.abort.is_raised() {
            return Err(Error::interrupted());
        }
        let mut stopped = all.stopped;
        let _held = match two_way {
            true => Some(let_go(stopped.take(), context)?),
            false => None,
        };
        self.hand_over(stream, last)
            .map_err(|error| match error.kind() {
                Kind::Refused | Kind::OutcomeUnknown => error,
                // The writer stays stopped, so its owner must look at the destination, too.
                _ if context.stats.snapshot().let_go => unknown(error),
                _ => error,
            })?;
        context.stats.proven(all.digest);
        Ok(stopped)
    }

    fn conclude(&self, error: Error) -> Error {
        name_hang_up(error)
    }

    /// QEMU's stream has no message for it.
    fn farewell(&self, _error: &Error) -> Vec<u8> {
        Vec::new()
    }
}

/// The sections that rounds are, on the one connection.
struct Sections<'a>(&'a QemuWire);

impl Channel for Sections<'_> {
    /// RAM's END section if it is the last of several rounds, else a PART.
    fn begin_round(&mut self, mark: RoundMark) -> Vec<u8> {
        let mut out = Vec::new();
        let kind = if mark.last && !mark.round.is_first() {
            self.0.put_commands(&mut out);
            SectionKind::End
        } else {
            SectionKind::Part
        };
        qemu::put_section(&mut out, kind, self.0.section_id);
        out
    }

    fn end_round(&mut self, _mark: RoundMark) -> Vec<u8> {
        let mut out = Vec::new();
        qemu::put_section_end(&mut out, self.0.section_id);
        out
    }
}

/// A QEMU that cannot load the guest hangs up, and prints the reason on its standard error.
fn name_hang_up(error: Error) -> Error {
    #[derive(Debug, thiserror::Error)]
    #[error(
        "the destination hung up; a QEMU that cannot load the guest says why on its standard error \
         (another machine type, -m or devices, or its compress being off)"
    )]
    struct HungUp(#[source] TransportError);
    if !matches!(error.cause(), Some(TransportError::Closed)) {
        return error;
    }
    let hung_up = Error::new(error.kind(), HungUp(TransportError::Closed));
    match error.place().stage {
        Some(stage) => hung_up.in_stage(stage),
        None => hung_up,
    }
}

/// The destination may have the whole stream, and did not confirm that it loaded the guest.
fn unknown(error: impl Into<Error>) -> Error {
    #[derive(Debug, thiserror::Error)]
    #[error(
        "outcome unknown: the destination has the whole stream, but did not confirm that it loaded the guest; \
         a QEMU that could not has said so on its standard error and ended"
    )]
    struct Unknown(#[source] Error);
    Error::new(Kind::OutcomeUnknown, Unknown(error.into()))
}
