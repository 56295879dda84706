//! From a QEMU stream's bytes to its elements, one at a time.

use crate::description::MAX_EARLY_STATE;
use crate::page::{PAGE_SIZE, PageIndex};

use super::cursor::{Cursor, Stop};
use super::early::EarlySection;
use super::{
    Command, Element, Fault, MAGIC, MAX_BLOCKS, MAX_COMPRESSED, MAX_MACHINE, MULTIFD_MAGIC, RAM,
    RAM_VERSION, Record, RecordKind, STREAM_VERSION, SWITCHOVER_START, SectionKind, StreamError,
    Unsupported, XBZRLE_ENCODING, flag, section,
};
use crate::wire::BlockInfo;

/// Follows a stream from its first byte to the end of RAM. It remembers where it is, but no bytes:
/// those stay with the caller until an element is whole.
#[derive(Debug, Default)]
pub struct Parser {
    state: Expecting,
    offset: u64,
    return_path: bool,
    ram_id: u32,
    blocks: Vec<BlockInfo>,
    /// The block that a record with CONTINUE belongs to. It outlives sections.
    current: Option<u16>,
    /// Bytes of device state so far.
    early: u64,
}

/// What comes next in the stream.
#[derive(Debug, Clone, Copy, Default)]
enum Expecting {
    #[default]
    Header,
    Configuration,
    /// A command, early device state or START.
    BeforeRam,
    /// A command, early device state, PART or END.
    AfterStart,
    /// A command, PART or END; or the devices, in a background snapshot.
    WithinRam,
    /// The rest of a section of early device state; whether START has come.
    Early(EarlySection, bool),
    /// The head of the list of blocks.
    BlockList,
    /// A block of the list; the sum of its length and those of the blocks after it.
    Block(u64),
    Records(SectionKind),
    Footer(SectionKind),
    Tail,
}

/// A name for a message: what is not UTF-8 is replaced.
pub(super) fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn text(name: &[u8], field: &'static str) -> Result<String, Fault> {
    std::str::from_utf8(name)
        .map(str::to_owned)
        .map_err(|_| Fault::NotText { field })
}

impl Parser {
    /// At a stream's first byte.
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Takes the next element off the front of `input`: the element and how many bytes it has.
    /// `None` if it needs more bytes than there are, which never happens with
    /// [`MAX_ELEMENT`](super::MAX_ELEMENT) on.
    ///
    /// # Errors
    /// What is wrong, and where. The parser stays where it is.
    pub fn next(&mut self, input: &[u8]) -> Result<Option<(Element, usize)>, StreamError> {
        let mut cursor = Cursor::new(input);
        match self.element(&mut cursor) {
            Ok(element) => {
                let len = cursor.len();
                self.offset += len as u64;
                Ok(Some((element, len)))
            }
            Err(Stop::More) => Ok(None),
            Err(Stop::Fault(what)) => Err(StreamError {
                offset: self.offset,
                what,
            }),
        }
    }

    /// Bytes taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What comes next, for a message that the stream ends in the middle of it.
    pub fn expecting(&self) -> &'static str {
        match self.state {
            Expecting::Header => "the header",
            Expecting::Configuration => "the configuration",
            Expecting::BeforeRam => "what comes before RAM",
            Expecting::Early(..) => "the device state that comes before RAM",
            Expecting::BlockList | Expecting::Block(_) => "the list of RAM blocks",
            Expecting::Records(_) => "the RAM records",
            Expecting::Footer(_) => "a section's footer",
            Expecting::AfterStart | Expecting::WithinRam => "RAM, between two sections",
            Expecting::Tail => "the devices",
        }
    }

    /// The guest's blocks, complete after [`Element::Blocks`].
    pub fn blocks(&self) -> &[BlockInfo] {
        &self.blocks
    }

    /// `self` may not change before all bytes of the element are there.
    fn element(&mut self, cursor: &mut Cursor<'_>) -> Result<Element, Stop> {
        match self.state {
            Expecting::Records(kind) => self.record(kind, cursor),
            Expecting::Header => self.header(cursor),
            Expecting::Configuration => self.configuration(cursor),
            Expecting::WithinRam if cursor.peek()? == section::FULL => {
                self.state = Expecting::Tail;
                Ok(Element::Tail)
            }
            Expecting::BeforeRam | Expecting::AfterStart | Expecting::WithinRam => {
                self.section(cursor)
            }
            Expecting::Early(section, begun) => self.early(section, begun, cursor),
            Expecting::BlockList => self.block_list(cursor),
            Expecting::Block(left) => self.block(left, cursor),
            Expecting::Footer(kind) => self.footer(kind, cursor),
            Expecting::Tail => Ok(Element::Tail),
        }
    }

    fn header(&mut self, cursor: &mut Cursor<'_>) -> Result<Element, Stop> {
        match cursor.array()? {
            MAGIC => {}
            MULTIFD_MAGIC => return Err(Unsupported::MultifdConnection.into()),
            found => return Err(Fault::NotQemu { found }.into()),
        }
        let found = cursor.u32()?;
        if found != STREAM_VERSION {
            return Err(Unsupported::StreamVersion { found }.into());
        }
        self.state = Expecting::Configuration;
        Ok(Element::Header)
    }

    fn configuration(&mut self, cursor: &mut Cursor<'_>) -> Result<Element, Stop> {
        match cursor.u8()? {
            section::CONFIGURATION => {}
            section::EOF | section::START | section::FULL | section::COMMAND => {
                return Err(Unsupported::NoConfiguration.into());
            }
            found => return Err(Fault::UnknownSection { found }.into()),
        }
        let found = cursor.u32()?;
        if found as usize > MAX_MACHINE {
            return Err(Fault::MachineLength { found }.into());
        }
        let machine = cursor.take(found as usize)?;
        let first = cursor.rest;
        let mut seen = Vec::new();
        while cursor.peek()? == section::SUBSECTION {
            let subsection = Subsection::take(cursor)?;
            if seen.contains(&subsection) {
                let name = subsection.name();
                return Err(Fault::SecondSubsection { name }.into());
            }
            seen.push(subsection);
        }
        let (subsections, _) = first.split_at(first.len() - cursor.rest.len());
        let machine = text(machine, "the machine type's name")?;
        self.state = Expecting::BeforeRam;
        Ok(Element::Configuration {
            machine,
            subsections: subsections.to_vec(),
        })
    }

    /// A command or a section's head.
    fn section(&mut self, cursor: &mut Cursor<'_>) -> Result<Element, Stop> {
        let begun = !matches!(self.state, Expecting::BeforeRam);
        match cursor.u8()? {
            section::COMMAND => self.command(cursor),
            section::START => {
                let id = cursor.u32()?;
                let name = cursor.string()?;
                if name != RAM.as_bytes() {
                    let name = lossy(name);
                    return Err(Unsupported::Iterable { name }.into());
                }
                if begun {
                    return Err(Fault::SecondStart.into());
                }
                let found = cursor.u32()?;
                if found != 0 {
                    return Err(Fault::RamInstance { found }.into());
                }
                let found = cursor.u32()?;
                if found != RAM_VERSION {
                    return Err(Fault::RamVersion { found }.into());
                }
                self.ram_id = id;
                self.state = Expecting::BlockList;
                let kind = SectionKind::Start;
                Ok(Element::Section { kind, id })
            }
            found @ (section::PART | section::END) => {
                let (kind, name) = match found {
                    section::PART => (SectionKind::Part, "PART"),
                    _ => (SectionKind::End, "END"),
                };
                let id = cursor.u32()?;
                if !begun || id != self.ram_id {
                    let (section, found) = (name, id);
                    return Err(Fault::SectionId { section, found }.into());
                }
                self.state = Expecting::Records(kind);
                Ok(Element::Section { kind, id })
            }
            section::FULL => {
                let early = EarlySection::head(cursor)?;
                self.early_state(Some(early), begun, cursor)
            }
            section::EOF => Err(Fault::EndsEarly.into()),
            section::CONFIGURATION => Err(Fault::SecondConfiguration.into()),
            found => Err(Fault::UnknownSection { found }.into()),
        }
    }

    /// The next piece of a section of early device state.
    fn early(
        &mut self,
        mut section: EarlySection,
        begun: bool,
        cursor: &mut Cursor<'_>,
    ) -> Result<Element, Stop> {
        let goes_on = section.next(cursor)?;
        self.early_state(goes_on.then_some(section), begun, cursor)
    }

    /// What the cursor has taken is early device state; `rest` is the section, unless it is complete.
    fn early_state(
        &mut self,
        rest: Option<EarlySection>,
        begun: bool,
        cursor: &Cursor<'_>,
    ) -> Result<Element, Stop> {
        let bytes = cursor.taken().to_vec();
        let all = self.early + bytes.len() as u64;
        if all > MAX_EARLY_STATE {
            return Err(Fault::EarlyTooLong.into());
        }
        self.early = all;
        self.state = match rest {
            Some(section) => Expecting::Early(section, begun),
            None if begun => Expecting::AfterStart,
            None => Expecting::BeforeRam,
        };
        Ok(Element::EarlyState(bytes))
    }

    fn command(&mut self, cursor: &mut Cursor<'_>) -> Result<Element, Stop> {
        let post_copy = |command| Err(Unsupported::PostCopy { command }.into());
        let command = match cursor.u16()? {
            1 => {
                no_payload("OPEN_RETURN_PATH", cursor)?;
                Command::OpenReturnPath
            }
            2 => {
                payload_len("PING", 4, cursor)?;
                // There is no return path yet to answer it on.
                if !self.return_path {
                    return Err(Fault::PingTooEarly.into());
                }
                Command::Ping(cursor.u32()?)
            }
            // An advice without bytes concerns bitmaps of block devices only.
            3 if cursor.u16()? == 0 => return Err(Unsupported::DirtyBitmaps.into()),
            3 => return post_copy("POSTCOPY_ADVISE"),
            4 => return post_copy("POSTCOPY_LISTEN"),
            5 => return post_copy("POSTCOPY_RUN"),
            6 => return post_copy("POSTCOPY_RAM_DISCARD"),
            7 => return post_copy("PACKAGED"),
            8 => return Err(Unsupported::Colo.into()),
            9 => return post_copy("POSTCOPY_RESUME"),
            10 => return post_copy("RECV_BITMAP"),
            SWITCHOVER_START => {
                no_payload("SWITCHOVER_START", cursor)?;
                Command::SwitchoverStart
            }
            found => return Err(Fault::UnknownCommand { found }.into()),
        };
        self.return_path |= command == Command::OpenReturnPath;
        Ok(Element::Command(command))
    }

    fn block_list(&mut self, cursor: &mut Cursor<'_>) -> Result<Element, Stop> {
        let word = cursor.u64()?;
        let flags = word & flag::MASK;
        if flags != flag::MEM_SIZE {
            return Err(Fault::NoBlocks { flags }.into());
        }
        let total = word & !flag::MASK;
        if total == 0 {
            self.state = Expecting::Records(SectionKind::Start);
            return Ok(Element::Blocks);
        }
        self.state = Expecting::Block(total);
        Ok(Element::Total(total))
    }

    fn block(&mut self, left: u64, cursor: &mut Cursor<'_>) -> Result<Element, Stop> {
        let name = cursor.string()?;
        let bytes = cursor.u64()?;
        let name = text(name, "a block's name")?;
        if self.blocks.len() >= MAX_BLOCKS {
            return Err(Fault::TooManyBlocks.into());
        }
        if self.blocks.iter().any(|block| block.name == name) {
            return Err(Fault::SecondBlock { name }.into());
        }
        let found = bytes;
        if found == 0 || !found.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Fault::BlockLength { name, found }.into());
        }
        let Some(rest) = left.checked_sub(found) else {
            return Err(Fault::BlockTooLong { name, found, left }.into());
        };
        self.blocks.push(BlockInfo { name, bytes });
        if rest == 0 {
            self.state = Expecting::Records(SectionKind::Start);
            Ok(Element::Blocks)
        } else {
            self.state = Expecting::Block(rest);
            Ok(Element::Block)
        }
    }

    fn record(&mut self, section: SectionKind, cursor: &mut Cursor<'_>) -> Result<Element, Stop> {
        let word = cursor.u64()?;
        let (flags, offset) = (word & flag::MASK, word & !flag::MASK);
        let kind = match flags & !flag::CONTINUE {
            flag::ZERO => RecordKind::Zero,
            flag::PAGE => RecordKind::Page,
            flag::XBZRLE => RecordKind::Xbzrle,
            flag::COMPRESS_PAGE => RecordKind::Compressed,
            _ => return self.no_page(section, flags, offset),
        };
        let continued = flags & flag::CONTINUE != 0;
        let block = if continued {
            self.current.ok_or(Fault::NoBlock)?
        } else {
            self.find(cursor.string()?)?
        };
        self.check(block, offset)?;
        let payload = match kind {
            RecordKind::Zero => 1,
            RecordKind::Page => PAGE_SIZE as u16,
            RecordKind::Xbzrle => {
                let found = cursor.u8()?;
                if found != XBZRLE_ENCODING {
                    return Err(Fault::XbzrleEncoding { found }.into());
                }
                let found = cursor.u16()?;
                if usize::from(found) > PAGE_SIZE {
                    return Err(Fault::XbzrleLength { found }.into());
                }
                found
            }
            RecordKind::Compressed => {
                let found = cursor.u32()?;
                if found as usize > MAX_COMPRESSED {
                    return Err(Fault::CompressedLength { found }.into());
                }
                found as u16
            }
        };
        cursor.take(usize::from(payload))?;
        self.current = Some(block);
        Ok(Element::Record(Record {
            block,
            page: PageIndex(offset / PAGE_SIZE as u64),
            kind,
            payload,
            continued,
        }))
    }

    /// The end of the records, or a fault: a record that does not carry a page.
    #[cold]
    fn no_page(&mut self, section: SectionKind, flags: u64, offset: u64) -> Result<Element, Stop> {
        match flags {
            flag::EOS if offset == 0 => {
                self.state = Expecting::Footer(section);
                Ok(Element::EndOfRecords)
            }
            flag::EOS => Err(Fault::EndOffset { offset }.into()),
            flag::MEM_SIZE => Err(Fault::SecondBlocks.into()),
            flag::HOOK => Err(Unsupported::Rdma.into()),
            flag::MULTIFD_FLUSH => Err(Unsupported::Multifd.into()),
            flags => Err(Fault::UnknownRecord { flags }.into()),
        }
    }

    /// The block of this name: with any sender mostly the previous record's.
    fn find(&self, name: &[u8]) -> Result<u16, Fault> {
        let is = |block: &BlockInfo| block.name.as_bytes() == name;
        if let Some(current) = self.current
            && self.blocks.get(usize::from(current)).is_some_and(is)
        {
            return Ok(current);
        }
        self.blocks
            .iter()
            .position(is)
            .map(|block| block as u16)
            .ok_or_else(|| Fault::UnknownBlock { name: lossy(name) })
    }

    /// Whether a page at this offset lies within the block.
    fn check(&self, block: u16, offset: u64) -> Result<(), Fault> {
        match self.blocks.get(usize::from(block)) {
            Some(block) if offset >= block.bytes => Err(Fault::OutsideBlock {
                name: block.name.clone(),
                offset,
                bytes: block.bytes,
            }),
            Some(_) => Ok(()),
            None => Err(Fault::NoBlock),
        }
    }

    fn footer(&mut self, kind: SectionKind, cursor: &mut Cursor<'_>) -> Result<Element, Stop> {
        take_footer(self.ram_id, cursor)?;
        self.state = match kind {
            SectionKind::Start => Expecting::AfterStart,
            SectionKind::Part => Expecting::WithinRam,
            SectionKind::End => Expecting::Tail,
        };
        Ok(Element::Footer)
    }
}

/// Takes the footer of the section with this id.
pub(super) fn take_footer(expected: u32, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    let found = cursor.u8()?;
    if found != section::FOOTER {
        let id = expected;
        return Err(Fault::FooterMissing { id, found }.into());
    }
    let found = cursor.u32()?;
    if found != expected {
        return Err(Fault::FooterId { expected, found }.into());
    }
    Ok(())
}

/// Takes a command's length, which must be the expected one.
fn payload_len(command: &'static str, expected: u16, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    let found = cursor.u16()?;
    if found == expected {
        return Ok(());
    }
    Err(Fault::CommandLength {
        command,
        found,
        expected,
    }
    .into())
}

fn no_payload(command: &'static str, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    payload_len(command, 0, cursor)
}

/// A sub-section of the configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subsection {
    PageBits,
    Capabilities,
    Uuid,
}

impl Subsection {
    const ALL: [Subsection; 3] = [
        Subsection::PageBits,
        Subsection::Capabilities,
        Subsection::Uuid,
    ];

    fn name(self) -> &'static str {
        match self {
            Subsection::PageBits => "configuration/target-page-bits",
            Subsection::Capabilities => "configuration/capabilities",
            Subsection::Uuid => "configuration/uuid",
        }
    }

    /// Takes a sub-section, and checks its contents.
    fn take(cursor: &mut Cursor<'_>) -> Result<Subsection, Stop> {
        cursor.u8()?;
        let name = cursor.string()?;
        let known = |one: &Subsection| one.name().as_bytes() == name;
        let Some(subsection) = Subsection::ALL.into_iter().find(known) else {
            let name = lossy(name);
            return Err(Unsupported::Subsection { name }.into());
        };
        let found = cursor.u32()?;
        if found != 1 {
            let name = subsection.name();
            return Err(Fault::SubsectionVersion { name, found }.into());
        }
        match subsection {
            Subsection::PageBits => {
                let bits = cursor.u32()?;
                if bits != PAGE_SIZE.trailing_zeros() {
                    return Err(Unsupported::PageSize { bits }.into());
                }
            }
            Subsection::Capabilities => {
                // Only capabilities that change what the stream holds are listed, so any is too many.
                if cursor.u32()? > 0 {
                    let name = lossy(cursor.string()?);
                    return Err(Unsupported::Capability { name }.into());
                }
            }
            Subsection::Uuid => {
                cursor.array::<16>()?;
            }
        }
        Ok(subsection)
    }
}
