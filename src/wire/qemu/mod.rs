//! QEMU's migration stream: what a QEMU 2.4 to 10.0 writes with the capabilities that we support, and
//! what its `-incoming` side reads. Written from observed streams.
//!
//! All integers are big endian. A string is a u8 length and that many bytes, without a NUL.
//!
//! # Order of everything
//! ```text
//! header          u32 magic "QEVM", u32 version 3
//! configuration   0x07, u32 n, n bytes: the machine type ("pc-i440fx-7.2"); sub-sections
//! commands        none or more
//! FULL ...        none or more: early device state, here (QEMU 11) or after START (8.1 to 10)
//! START           ram's list of blocks; pages may follow at once
//! PART ...        none or more: pages
//! END             the last pages, the guest being stopped. A background snapshot has none
//! FULL ...        the tail: one section for each device
//! 0x00            the end
//! 0x06            u32 n, n bytes of JSON: a description of the tail. Old machine types have none
//! ```
//! Commands may also come between sections. A configuration's sub-section is 0x05, a string (its
//! name), u32 version 1 and a body: `configuration/target-page-bits` (u32),
//! `configuration/capabilities` (u32 count, that many strings) or `configuration/uuid` (16 bytes).
//! Any other first byte than 0x05 belongs to what follows.
//!
//! # Sections
//! | type | name | after the type |
//! |---|---|---|
//! | 0x01 | START | u32 id, string name, u32 instance, u32 version |
//! | 0x02, 0x03 | PART, END | u32 id |
//! | 0x04 | FULL | as START |
//! | 0x08 | a command | u16 code, u16 length, that many bytes |
//!
//! The body follows, and then the footer: 0x7e and the id again. Sections have no length field, so a
//! reader can only skip sections that it understands. We understand RAM (section `ram`, instance 0,
//! version 4, any id); other sections in several parts are refused by name. Devices come after all
//! RAM and need not be understood: from there on the stream is opaque ([`tail`]). Only a virtio-mem
//! device has a section before RAM's first page, which is understood, and kept byte for byte.
//!
//! A background snapshot (the capability `background-snapshot`) saves the devices first and writes
//! them last. It has at least one PART and no END, so a FULL section after a PART begins the tail.
//!
//! Commands that are understood: 1 OPEN_RETURN_PATH (no bytes), 2 PING (u32, which the return path
//! must repeat) and 11 SWITCHOVER_START (no bytes).
//!
//! # RAM
//! A body is records up to and with the end record. A record begins with a u64: flags in the low
//! 12 bits, the page's offset in its block in the others.
//!
//! | flags | record | after the u64 |
//! |---|---|---|
//! | 0x002 | zero | the block; u8, with which the page is filled: 0, though QEMU 7.2 accepts any |
//! | 0x004 | list of blocks | the offset is the sum of all lengths; for each block a string and its u64 length, until the sum is reached. The first record in START, and only there |
//! | 0x008 | page | the block; 4096 bytes |
//! | 0x010 | end | nothing |
//! | 0x040 | XBZRLE | the block; u8 1; u16 n, at most 4096; n bytes ([`crate::delta::xbzrle`]) |
//! | 0x100 | compressed | the block; u32 n, at most [`MAX_COMPRESSED`]; n bytes: one zlib stream of one page. QEMU 9.0 and older |
//!
//! The block is a string, unless flag 0x020 (CONTINUE) is set: then it is the previous record's, even
//! if that was in another section. The list of blocks does not count as a record here.
//!
//! A page may come many times; the last one counts. One that never comes is as the destination
//! made it: zero for RAM, but ROMs may be loaded already. QEMU decompresses with several threads
//! and waits for them only at an end record, so one section should not hold a page twice if the
//! first of them is compressed.
//!
//! # What is refused
//! [`Unsupported`] names it: post-copy, bitmaps of block devices, COLO, multifd, RDMA, shared or
//! mapped RAM, pages of another size, iterable sections other than ram, devices before RAM other than
//! virtio-mem, machine types without configuration.
//!
//! # How it is tested
//! Against real QEMUs: `docs/qemu-tests.md` lists QEMU's own migration tests, and for each of them the
//! test of ours that covers it.

mod arrivals;
mod cursor;
mod early;
mod fault;
mod parser;
pub mod return_path;
pub mod tail;
mod writer;

#[cfg(test)]
mod tests;

pub use arrivals::{Arrivals, MissingPages, NoRam};
pub use fault::{Fault, StreamError, Unsupported};
pub use parser::Parser;
pub use writer::{
    RecordWriter, put_command, put_end_of_stream, put_header, put_section, put_section_end,
    put_start,
};

use crate::page::PageIndex;

/// A stream's first bytes.
pub const MAGIC: [u8; 4] = *b"QEVM";
/// The first bytes of a connection that multifd opens besides the stream's.
pub const MULTIFD_MAGIC: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
/// The supported version of the stream.
pub const STREAM_VERSION: u32 = 3;
/// The supported version of the section `ram`.
pub const RAM_VERSION: u32 = 4;
/// The most bytes of a compressed page: zlib's bound for 4096 bytes.
pub const MAX_COMPRESSED: usize = 4110;
/// The most blocks of a guest. A guest with all memory slots in use has some 300.
pub const MAX_BLOCKS: usize = 1024;
/// The most bytes of a machine type's name.
pub const MAX_MACHINE: usize = 255;
/// The most bytes of an element: a compressed page that names its block.
pub const MAX_ELEMENT: usize = 8 + 256 + 4 + MAX_COMPRESSED;

/// The first byte of a section.
mod section {
    pub(super) const EOF: u8 = 0x00;
    pub(super) const START: u8 = 0x01;
    pub(super) const PART: u8 = 0x02;
    pub(super) const END: u8 = 0x03;
    pub(super) const FULL: u8 = 0x04;
    pub(super) const SUBSECTION: u8 = 0x05;
    pub(super) const DESCRIPTION: u8 = 0x06;
    pub(super) const CONFIGURATION: u8 = 0x07;
    pub(super) const COMMAND: u8 = 0x08;
    pub(super) const FOOTER: u8 = 0x7e;
}

/// The low bits of a RAM record's first number.
mod flag {
    pub(super) const ZERO: u64 = 0x002;
    pub(super) const MEM_SIZE: u64 = 0x004;
    pub(super) const PAGE: u64 = 0x008;
    pub(super) const EOS: u64 = 0x010;
    pub(super) const CONTINUE: u64 = 0x020;
    pub(super) const XBZRLE: u64 = 0x040;
    pub(super) const HOOK: u64 = 0x080;
    pub(super) const COMPRESS_PAGE: u64 = 0x100;
    pub(super) const MULTIFD_FLUSH: u64 = 0x200;
    /// All flags; the other bits are an offset.
    pub(super) const MASK: u64 = 0xfff;
}

/// The section's name for RAM.
const RAM: &str = "ram";
/// The byte before a delta: the only encoding that exists.
const XBZRLE_ENCODING: u8 = 1;

/// The smallest piece of a stream that has a meaning of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Element {
    /// Magic and version.
    Header,
    /// The configuration, with all of its sub-sections.
    Configuration {
        /// The machine type's name, at most [`MAX_MACHINE`] bytes.
        machine: String,
        /// The bytes of all sub-sections, to be written again unchanged.
        subsections: Vec<u8>,
    },
    /// A command.
    Command(Command),
    /// A piece of the device state that precedes RAM's pages, to be written again in the same place.
    /// At most [`MAX_EARLY_STATE`](crate::description::MAX_EARLY_STATE) bytes in one stream.
    EarlyState(Vec<u8>),
    /// The head of one of ram's sections.
    Section {
        /// Whether it is the first, the last or one between.
        kind: SectionKind,
        /// The id, the same in all of ram's sections.
        id: u32,
    },
    /// The head of the list of blocks: the sum of their lengths in bytes.
    Total(u64),
    /// A block of the list, other than the last.
    Block,
    /// The last block of the list, or its head if there are none: [`Parser::blocks`] holds all.
    Blocks,
    /// A page.
    Record(Record),
    /// The end of a section's records.
    EndOfRecords,
    /// A section's footer.
    Footer,
    /// Takes no bytes: RAM is complete, and everything that follows is opaque.
    Tail,
}

/// A section's place among ram's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// The first, with the list of blocks.
    Start,
    /// One between, while the guest may run.
    Part,
    /// The last.
    End,
}

/// A command to the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// The source reads answers from now on.
    OpenReturnPath,
    /// The source wants this number back.
    Ping(u32),
    /// The guest is stopped; what follows is the last of it. QEMU 10.0 and later.
    SwitchoverStart,
}

/// The number of the command [`Command::SwitchoverStart`].
pub const SWITCHOVER_START: u16 = 11;

impl Command {
    /// The command with this number and payload, if it may come between RAM's sections and is worth
    /// repeating to another destination.
    pub fn from_parts(number: u16, payload: &[u8]) -> Option<Command> {
        let switchover = number == SWITCHOVER_START && payload.is_empty();
        switchover.then_some(Command::SwitchoverStart)
    }
}

/// A page's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The block's index in [`Parser::blocks`].
    pub block: u16,
    /// The page, which is within the block.
    pub page: PageIndex,
    /// The page's encoding.
    pub kind: RecordKind,
    /// How many of the record's last bytes encode the page.
    pub payload: u16,
    /// Whether the previous record named its block.
    pub continued: bool,
}

/// A page's encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Filled with the one byte of the payload. QEMU 10.0 accepts only 0.
    Zero,
    /// The page's 4096 bytes.
    Page,
    /// A delta against what the destination holds, at most 4096 bytes.
    Xbzrle,
    /// A zlib stream, at most [`MAX_COMPRESSED`] bytes.
    Compressed,
}
