//! A second receiver, as simple as can be: it applies one record after the other to RAM in memory. A
//! destination that accepts a stream must hold just that.

use crate::codec::{Decoders, Method};
use crate::delta;
use crate::page::{BlockSeed, Digest, PAGE_SIZE, PageIndex};
use crate::wire::BlockInfo;
use crate::wire::native::{Class, FrameKind, Header, PageSet};
use crate::wire::qemu::{Element, Parser, RecordKind};

/// The most pages of RAM that are followed.
pub(super) const MOST_PAGES: u64 = 1024;

/// RAM as a stream made it so far.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) blocks: Vec<ModelBlock>,
    decoders: Decoders,
    plain: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct ModelBlock {
    pub(super) name: String,
    pub(super) ram: Vec<u8>,
}

impl Model {
    /// Zero, unless it is too large to be followed.
    pub(super) fn new(blocks: &[BlockInfo]) -> Option<Model> {
        let most = MOST_PAGES * PAGE_SIZE as u64;
        let all = blocks
            .iter()
            .fold(0_u64, |sum, block| sum.saturating_add(block.bytes));
        let whole = |block: &BlockInfo| block.bytes.is_multiple_of(PAGE_SIZE as u64);
        (all <= most && blocks.iter().all(whole)).then(|| Model {
            blocks: blocks
                .iter()
                .map(|block| ModelBlock {
                    name: block.name.clone(),
                    ram: vec![0; block.bytes as usize],
                })
                .collect(),
            decoders: Decoders::default(),
            plain: Vec::new(),
        })
    }

    /// The digest of all RAM.
    pub(super) fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for block in &self.blocks {
            let seed = BlockSeed::new(&block.name);
            for (index, page) in (0..).zip(block.ram.chunks_exact(PAGE_SIZE)) {
                digest.add(seed.hash_or_zero(PageIndex(index), page));
            }
        }
        digest
    }

    /// Applies a native frame with pages. Returns what its hash is over besides header and page set;
    /// `None` if its parts do not fit together, and then nothing has changed.
    pub(super) fn frame(&mut self, header: &Header, set: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let block = self.blocks.get(usize::from(header.block))?;
        let seed = BlockSeed::new(&block.name);
        let mut pages = PageSet::default();
        pages.read(set, (block.ram.len() / PAGE_SIZE) as u64).ok()?;
        if header.kind == Some(FrameKind::Zeros) && pages.count(Class::Zero) != pages.pages() {
            return None;
        }
        let (bytes_of, page) = (|class| pages.count(class) as usize * PAGE_SIZE, PAGE_SIZE);
        let (compressed, mut stored) =
            body.split_at_checked(body.len().checked_sub(bytes_of(Class::Stored))?)?;
        let plain = self.decoders.decode(
            (header.codec, compressed),
            header.decoded_len as usize,
            &mut self.plain,
        );
        let plain = plain.ok()?;
        let (deltas, mut whole) =
            plain.split_at_checked(plain.len().checked_sub(bytes_of(Class::Whole))?)?;
        let (mut lengths, mut deltas) =
            deltas.split_at_checked(2 * pages.count(Class::Delta) as usize)?;
        let (mut hashes, mut made) = (Vec::new(), Vec::new());
        for run in pages.runs() {
            for index in run.range.pages() {
                let at = index.0 as usize * page;
                let new = match run.class {
                    Class::Zero => vec![0; page],
                    Class::Whole => take(&mut whole, page)?.to_vec(),
                    Class::Stored => take(&mut stored, page)?.to_vec(),
                    Class::Delta => {
                        let length = take(&mut lengths, 2)?.try_into().ok()?;
                        let delta = take(&mut deltas, usize::from(u16::from_le_bytes(length)))?;
                        let mut old: [u8; PAGE_SIZE] = block.ram[at..at + page].try_into().ok()?;
                        delta::decode(delta, &mut old).ok()?;
                        old.to_vec()
                    }
                };
                if run.class != Class::Zero {
                    hashes.extend_from_slice(&seed.hash(index, &new).to_le_bytes());
                }
                made.push((at, new));
            }
        }
        if !deltas.is_empty() {
            return None;
        }
        let ram = &mut self.blocks[usize::from(header.block)].ram;
        for (at, new) in made {
            ram[at..at + page].copy_from_slice(&new);
        }
        Some(hashes)
    }

    /// RAM after a QEMU's stream, and where its devices begin; `None` if it is too large, or if a
    /// record is invalid.
    pub(super) fn of_qemu_stream(stream: &[u8]) -> Option<(Model, usize)> {
        let mut parser = Parser::new();
        let (mut at, mut model) = (0, None);
        loop {
            let (element, len) = parser.next(&stream[at..]).ok()??;
            at += len;
            match element {
                Element::Blocks => model = Some(Model::new(parser.blocks())?),
                Element::Record(record) => {
                    let payload = &stream[at - usize::from(record.payload)..at];
                    let Model {
                        blocks,
                        decoders,
                        plain,
                    } = model.as_mut()?;
                    let ram = &mut blocks[usize::from(record.block)].ram;
                    let offset = record.page.offset() as usize;
                    let page = ram[offset..].first_chunk_mut::<PAGE_SIZE>()?;
                    match record.kind {
                        RecordKind::Zero => page.fill(payload[0]),
                        RecordKind::Page => page.copy_from_slice(payload),
                        RecordKind::Xbzrle => delta::decode(payload, page).ok()?,
                        RecordKind::Compressed => {
                            let body = (Method::Zlib, payload);
                            page.copy_from_slice(decoders.decode(body, PAGE_SIZE, plain).ok()?);
                        }
                    }
                }
                Element::Tail => return Some((model?, at)),
                _ => {}
            }
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}
