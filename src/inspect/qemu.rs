//! A QEMU stream: what each of its bytes is for, and what its records contain.
//!
//! Pages are decoded only to check that they can be. Memory: one element, what [`Arrivals`] keeps, and
//! devices up to [`MAX_TAIL`].

use std::io;

use crate::codec::{self, Decoder, Method};
use crate::delta;
use crate::page::PAGE_SIZE;
use crate::wire::qemu::{
    Arrivals, Command, Element, Fault, MAX_ELEMENT, Parser, Record, RecordKind, SectionKind, tail,
};

use super::input::{Input, ScanError};
use super::report::{
    Count, Damage, DamageSort, Device, PartBytes, QemuBlock, QemuSetting, QemuStream, RecordCount,
    ZlibLevels,
};

/// The most bytes of device state that are searched for devices.
pub(super) const MAX_TAIL: usize = 64 << 20;
/// Bytes of device state per read.
const STEP: usize = 64 * 1024;
/// The level in zlib's header, which is two bits.
const LEVELS: [&str; 4] = ["0-1", "2-5", "6", "7-9"];
/// The kinds of records, in the order of the report.
const KINDS: [&str; 5] = ["zero", "fill", "page", "xbzrle", "compressed"];
/// The sections of `ram`.
const SECTIONS: [&str; 3] = ["START", "PART", "END"];
const COMMANDS: [&str; 3] = ["OPEN_RETURN_PATH", "PING", "SWITCHOVER_START"];

/// Describes the stream up to its end or the first damage.
pub(super) fn read(input: &mut Input<'_>) -> io::Result<(QemuStream, Option<Damage>)> {
    let mut scan = QemuScan::new();
    let damage = match scan.stream(input) {
        // A page that cannot be decoded is reported, but does not end the description.
        Ok(()) => scan.undecodable.take().or_else(|| scan.incomplete()),
        Err(ScanError::Damage(damage)) => Some(damage),
        Err(ScanError::Io(error)) => return Err(error),
    };
    let other = input.size() - input.offset();
    Ok((scan.finish(damage.is_none(), other), damage))
}

/// Bytes by purpose, without the records.
#[derive(Default)]
struct Bytes {
    header: u64,
    configuration: u64,
    commands: u64,
    framing: u64,
    block_list: u64,
    devices: u64,
    description: u64,
}

/// The records of a kind.
#[derive(Clone, Copy, Default)]
struct RecordTally {
    count: u64,
    heads: u64,
    payload: u64,
}

struct QemuScan {
    stream: QemuStream,
    parser: Parser,
    bytes: Bytes,
    records: [RecordTally; KINDS.len()],
    sections: [u64; SECTIONS.len()],
    commands: [u64; COMMANDS.len()],
    levels: [u64; LEVELS.len()],
    arrivals: Arrivals,
    has_virtio_mem: bool,
    /// The first page that cannot be decoded.
    undecodable: Option<Damage>,
    /// The device state that comes before RAM.
    early: Vec<u8>,
    decoder: Box<dyn Decoder>,
    page: Box<[u8; PAGE_SIZE]>,
}

impl QemuScan {
    fn new() -> QemuScan {
        QemuScan {
            stream: QemuStream::default(),
            parser: Parser::new(),
            bytes: Bytes::default(),
            records: [RecordTally::default(); KINDS.len()],
            sections: [0; SECTIONS.len()],
            commands: [0; COMMANDS.len()],
            levels: [0; LEVELS.len()],
            arrivals: Arrivals::default(),
            has_virtio_mem: false,
            undecodable: None,
            early: Vec::new(),
            decoder: codec::decoder(Method::Zlib),
            page: Box::new([0; PAGE_SIZE]),
        }
    }

    fn stream(&mut self, input: &mut Input<'_>) -> Result<(), ScanError> {
        loop {
            let offset = input.offset();
            let have = input.peek(MAX_ELEMENT)?;
            let next = self.parser.next(have).map_err(|error| {
                ScanError::Damage(Damage {
                    offset: Some(error.offset),
                    sort: match error.what {
                        Fault::Unsupported(_) => DamageSort::Unsupported,
                        _ => DamageSort::Damaged,
                    },
                    reason: crate::text::printable(&error.what.to_string()),
                })
            })?;
            let Some((element, len)) = next else {
                let reason = format!("it ends within {}", self.parser.expecting());
                return Err(ScanError::truncated(input, &reason));
            };
            let bytes = len as u64;
            match element {
                Element::Header => self.bytes.header += bytes,
                Element::Configuration {
                    machine,
                    subsections,
                } => {
                    self.bytes.configuration += bytes;
                    self.stream.machine = Some(machine);
                    self.stream.configuration = settings(&subsections);
                }
                Element::Command(command) => {
                    self.bytes.commands += bytes;
                    self.commands[match command {
                        Command::OpenReturnPath => 0,
                        Command::Ping(_) => 1,
                        Command::SwitchoverStart => 2,
                    }] += 1;
                }
                Element::EarlyState(piece) => {
                    self.bytes.devices += bytes;
                    self.early.extend_from_slice(&piece);
                }
                Element::Section { kind, .. } => {
                    self.bytes.framing += bytes;
                    self.sections[match kind {
                        SectionKind::Start => 0,
                        SectionKind::Part => 1,
                        SectionKind::End => 2,
                    }] += 1;
                }
                Element::Total(_) | Element::Block => self.bytes.block_list += bytes,
                Element::Blocks => {
                    self.bytes.block_list += bytes;
                    self.arrivals = Arrivals::new(self.parser.blocks());
                }
                Element::Record(record) => {
                    let whole = have.get(..len).unwrap_or_default();
                    self.record(&record, whole, offset);
                }
                Element::EndOfRecords | Element::Footer => self.bytes.framing += bytes,
                Element::Tail => return self.tail(input),
            }
            input.consume(len);
        }
    }

    /// Counts and decodes a record, whose bytes are `whole` and begin at `offset`.
    fn record(&mut self, record: &Record, whole: &[u8], offset: u64) {
        let payload = whole
            .len()
            .checked_sub(record.payload.into())
            .and_then(|head| whole.get(head..))
            .unwrap_or_default();
        let kind = match record.kind {
            RecordKind::Zero if payload == [0] => 0,
            RecordKind::Zero => 1,
            RecordKind::Page => 2,
            RecordKind::Xbzrle => 3,
            RecordKind::Compressed => 4,
        };
        let tally = &mut self.records[kind];
        tally.count += 1;
        tally.heads += (whole.len() - payload.len()) as u64;
        tally.payload += payload.len() as u64;
        self.arrivals.note(record);
        let decoded = match record.kind {
            RecordKind::Zero | RecordKind::Page => Ok(()),
            RecordKind::Xbzrle => {
                delta::decode(payload, &mut self.page).map_err(|error| error.to_string())
            }
            RecordKind::Compressed => {
                if let [_, flags, ..] = payload {
                    self.levels[usize::from(flags >> 6)] += 1;
                }
                self.decoder
                    .decode(payload, &mut self.page[..])
                    .map_err(|error| error.to_string())
            }
        };
        if let Err(reason) = decoded {
            self.stream.undecodable += 1;
            let block = self.parser.blocks().get(usize::from(record.block));
            let block = block.map_or("?", |block| &block.name);
            let page = record.page;
            self.undecodable.get_or_insert_with(|| Damage {
                offset: Some(offset),
                sort: DamageSort::Damaged,
                reason: crate::text::printable(&format!("page {page} of {block}: {reason}")),
            });
        }
    }

    /// Reads everything after RAM.
    fn tail(&mut self, input: &mut Input<'_>) -> Result<(), ScanError> {
        // The description lists those that come first, too.
        let mut tail = std::mem::take(&mut self.early);
        loop {
            let part = input.peek(STEP)?;
            let len = part.len();
            if len == 0 {
                break;
            }
            if tail.len() + len <= MAX_TAIL && !self.stream.devices_skipped {
                tail.extend_from_slice(part);
            } else {
                self.stream.devices_skipped = true;
            }
            self.bytes.devices += len as u64;
            input.consume(len);
        }
        if self.stream.devices_skipped {
            return Ok(());
        }
        let found = tail::sections(&tail);
        self.stream.devices = devices(&found);
        self.has_virtio_mem = found.has_virtio_mem();
        if let Some(text) = &found.description {
            self.bytes.description = text.len() as u64;
            self.bytes.devices -= self.bytes.description;
        }
        if found.complete {
            Ok(())
        } else {
            Err(ScanError::truncated(
                input,
                &"the device state does not end with an end mark and a description",
            ))
        }
    }

    /// The stream is whole, but the guest's RAM is not in it.
    fn incomplete(&self) -> Option<Damage> {
        let error = self.arrivals.check(self.has_virtio_mem).err()?;
        Some(Damage {
            offset: None,
            sort: DamageSort::Incomplete,
            reason: crate::text::printable(&error.to_string()),
        })
    }

    fn finish(self, complete: bool, other: u64) -> QemuStream {
        let mut stream = self.stream;
        stream.complete = complete;
        let count = |names: &[&'static str], counts: &[u64]| {
            let named = names.iter().zip(counts);
            let found = named.filter(|(_, count)| **count > 0);
            found.map(|(&name, &count)| Count { name, count }).collect()
        };
        stream.commands = count(&COMMANDS, &self.commands);
        stream.sections = count(&SECTIONS, &self.sections);
        stream.zlib_levels = LEVELS
            .iter()
            .zip(self.levels)
            .filter(|(_, pages)| *pages > 0)
            .map(|(&levels, pages)| ZlibLevels { levels, pages })
            .collect();
        stream.blocks = (self.parser.blocks().iter().enumerate())
            .map(|(at, block)| {
                let (records, distinct) = self.arrivals.counts(at);
                QemuBlock {
                    name: block.name.clone(),
                    bytes: block.bytes,
                    records,
                    distinct_pages: distinct,
                    missing_pages: block.bytes / PAGE_SIZE as u64 - distinct,
                    repeats: records - distinct,
                }
            })
            .collect();
        let Bytes {
            header,
            configuration,
            commands,
            framing,
            block_list,
            devices,
            description,
        } = self.bytes;
        let mut parts = vec![
            ("header", header),
            ("configuration", configuration),
            ("commands", commands),
            ("section-framing", framing),
            ("block-list", block_list),
        ];
        for (kind, tally) in KINDS.into_iter().zip(self.records) {
            if tally.count > 0 {
                parts.push((kind, tally.heads + tally.payload));
                stream.records.push(RecordCount {
                    kind,
                    count: tally.count,
                    head_bytes: tally.heads,
                    payload_bytes: tally.payload,
                });
            }
        }
        parts.extend([
            ("device-state", devices),
            ("description", description),
            ("other", other),
        ]);
        stream.parts = parts
            .into_iter()
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(part, bytes)| PartBytes { part, bytes })
            .collect();
        stream
    }
}

/// The devices' sections, for a report.
pub(super) fn devices(tail: &tail::Tail) -> Vec<Device> {
    let sections = tail.sections.iter();
    let device = |section: &tail::DeviceSection| Device {
        name: section.name.clone(),
        instance: section.instance,
        version: section.version,
        bytes: section.bytes,
    };
    sections.map(device).collect()
}

/// The configuration's sub-sections as text. The parser has checked that they are complete.
pub(super) fn settings(bytes: &[u8]) -> Vec<QemuSetting> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let Some((name, value)) = setting(&mut rest) {
        found.push(QemuSetting { name, value });
    }
    found
}

fn setting(rest: &mut &[u8]) -> Option<(String, String)> {
    let mut take = |len: usize| -> Option<&[u8]> {
        let (taken, left) = rest.split_at_checked(len)?;
        *rest = left;
        Some(taken)
    };
    let [_marker, len] = take(2)? else {
        return None;
    };
    let name = String::from_utf8_lossy(take(usize::from(*len))?).into_owned();
    take(4)?;
    let value = match name.as_str() {
        "configuration/target-page-bits" => {
            u32::from_be_bytes(take(4)?.try_into().ok()?).to_string()
        }
        "configuration/capabilities" => {
            let count = u32::from_be_bytes(take(4)?.try_into().ok()?);
            let mut names = Vec::new();
            for _ in 0..count {
                let len = usize::from(*take(1)?.first()?);
                names.push(String::from_utf8_lossy(take(len)?).into_owned());
            }
            names.join(", ")
        }
        _ => take(16)?.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    Some((name, value))
}
