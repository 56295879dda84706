//! From records to a QEMU stream's bytes.

use bytes::BufMut;

use crate::page::{PAGE_SIZE, PageIndex};

use super::{
    Command, MAGIC, MAX_BLOCKS, MAX_COMPRESSED, MAX_MACHINE, RAM, RAM_VERSION, STREAM_VERSION,
    SectionKind, XBZRLE_ENCODING, flag, section,
};
use crate::wire::BlockInfo;

/// The description of a stream that has no devices.
const NO_DEVICES: &str = r#"{"page_size":4096,"devices":[]}"#;

/// Names come from tables of ours or have been checked, so that none is longer than 255 bytes.
fn put_string(out: &mut impl BufMut, text: &str) {
    debug_assert!(text.len() <= 255);
    out.put_u8(text.len() as u8);
    out.put_slice(text.as_bytes());
}

/// Appends magic, version and configuration. `machine` has at most [`MAX_MACHINE`] bytes;
/// `subsections` are those of [`Element::Configuration`](super::Element), or none.
pub fn put_header(out: &mut Vec<u8>, machine: &str, subsections: &[u8]) {
    debug_assert!(machine.len() <= MAX_MACHINE);
    out.extend_from_slice(&MAGIC);
    out.put_u32(STREAM_VERSION);
    out.put_u8(section::CONFIGURATION);
    out.put_u32(machine.len() as u32);
    out.extend_from_slice(machine.as_bytes());
    out.extend_from_slice(subsections);
}

/// Appends a command.
pub fn put_command(out: &mut Vec<u8>, command: Command) {
    out.put_u8(section::COMMAND);
    match command {
        Command::OpenReturnPath => {
            out.put_u16(1);
            out.put_u16(0);
        }
        Command::Ping(number) => {
            out.put_u16(2);
            out.put_u16(4);
            out.put_u32(number);
        }
        Command::SwitchoverStart => {
            out.put_u16(11);
            out.put_u16(0);
        }
    }
}

/// Appends the whole START section: the list of blocks and no pages. Blocks are of whole pages, none
/// of them empty, and at most [`MAX_BLOCKS`].
pub fn put_start(out: &mut Vec<u8>, section_id: u32, blocks: &[BlockInfo]) {
    debug_assert!(blocks.len() <= MAX_BLOCKS);
    put_section(out, SectionKind::Start, section_id);
    let total: u64 = blocks.iter().map(|block| block.bytes).sum();
    out.put_u64(total | flag::MEM_SIZE);
    for block in blocks {
        debug_assert!(block.bytes > 0 && block.bytes.is_multiple_of(PAGE_SIZE as u64));
        put_string(out, &block.name);
        out.put_u64(block.bytes);
    }
    put_section_end(out, section_id);
}

/// Appends the head of one of ram's sections. [`put_start`] writes the whole first one.
pub fn put_section(out: &mut Vec<u8>, kind: SectionKind, section_id: u32) {
    out.put_u8(match kind {
        SectionKind::Start => section::START,
        SectionKind::Part => section::PART,
        SectionKind::End => section::END,
    });
    out.put_u32(section_id);
    if kind == SectionKind::Start {
        put_string(out, RAM);
        out.put_u32(0);
        out.put_u32(RAM_VERSION);
    }
}

/// Appends the end of a section's records and its footer.
pub fn put_section_end(out: &mut Vec<u8>, section_id: u32) {
    out.put_u64(flag::EOS);
    out.put_u8(section::FOOTER);
    out.put_u32(section_id);
}

/// Appends what ends a stream that has no devices: the end and an empty description.
pub fn put_end_of_stream(out: &mut Vec<u8>) {
    out.put_u8(section::EOF);
    out.put_u8(section::DESCRIPTION);
    out.put_u32(NO_DEVICES.len() as u32);
    out.extend_from_slice(NO_DEVICES.as_bytes());
}

/// Appends records of one block. The first carries the block's name and the others rely on it, so
/// the records of one writer must stay together, wherever they go.
#[derive(Debug)]
pub struct RecordWriter<'a> {
    /// Until the first record.
    name: Option<&'a str>,
}

impl<'a> RecordWriter<'a> {
    /// For the block of this name, at most 255 bytes.
    pub fn new(block_name: &'a str) -> RecordWriter<'a> {
        RecordWriter {
            name: Some(block_name),
        }
    }

    fn head(&mut self, out: &mut impl BufMut, page: PageIndex, flags: u64) {
        let name = self.name.take();
        let flags = match name {
            Some(_) => flags,
            None => flags | flag::CONTINUE,
        };
        out.put_u64(page.offset() | flags);
        if let Some(name) = name {
            put_string(out, name);
        }
    }

    /// A page of zeroes.
    pub fn zero(&mut self, out: &mut impl BufMut, page: PageIndex) {
        self.head(out, page, flag::ZERO);
        out.put_u8(0);
    }

    /// A page uncompressed: 4096 bytes.
    pub fn page(&mut self, out: &mut impl BufMut, page: PageIndex, bytes: &[u8]) {
        debug_assert_eq!(bytes.len(), PAGE_SIZE);
        self.head(out, page, flag::PAGE);
        out.put_slice(bytes);
    }

    /// A delta of at most 4096 bytes.
    pub fn xbzrle(&mut self, out: &mut impl BufMut, page: PageIndex, delta: &[u8]) {
        debug_assert!(delta.len() <= PAGE_SIZE);
        self.head(out, page, flag::XBZRLE);
        out.put_u8(XBZRLE_ENCODING);
        out.put_u16(delta.len() as u16);
        out.put_slice(delta);
    }

    /// A page as a zlib stream of at most [`MAX_COMPRESSED`] bytes.
    pub fn compressed(&mut self, out: &mut impl BufMut, page: PageIndex, body: &[u8]) {
        self.compressed_head(out, page, body.len() as u32);
        out.put_slice(body);
    }

    /// Everything before a zlib stream of `len` bytes, at most [`MAX_COMPRESSED`]. Its last 4 bytes are
    /// `len`, big endian, so that it can be filled in once the body has been written.
    pub fn compressed_head(&mut self, out: &mut impl BufMut, page: PageIndex, len: u32) {
        debug_assert!(len as usize <= MAX_COMPRESSED);
        self.head(out, page, flag::COMPRESS_PAGE);
        out.put_u32(len);
    }
}
