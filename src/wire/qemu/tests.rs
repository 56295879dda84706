//! The promises of reading and writing QEMU streams. `tests/streams.rs` has streams made by hand,
//! `tests/tail.rs` the part after RAM.

mod streams;
mod tail;

use proptest::prelude::*;

use super::*;
use crate::page::PAGE_SIZE;
use crate::wire::BlockInfo;

fn block(name: &str, pages: u64) -> BlockInfo {
    BlockInfo {
        name: name.to_owned(),
        bytes: pages * PAGE_SIZE as u64,
    }
}

/// All elements up to the tail, or as far as they go. The parser sees at most `window` bytes.
fn read_within(
    stream: &[u8],
    window: usize,
) -> (Parser, Vec<(Element, usize)>, Option<StreamError>) {
    let (mut parser, mut elements, mut at) = (Parser::new(), Vec::new(), 0);
    loop {
        let rest = &stream[at..];
        match parser.next(&rest[..rest.len().min(window)]) {
            Ok(Some((element, len))) => {
                assert!(len > 0 || element == Element::Tail);
                at += len;
                assert_eq!(parser.offset(), at as u64);
                let end = element == Element::Tail;
                elements.push((element, len));
                if end {
                    return (parser, elements, None);
                }
            }
            Ok(None) => {
                assert!(rest.len() < MAX_ELEMENT, "MAX_ELEMENT bytes are enough");
                return (parser, elements, None);
            }
            Err(error) => {
                assert_eq!(error.offset, at as u64);
                let again = parser.next(rest);
                assert_eq!(again, Err(error.clone()), "it stays where it is");
                return (parser, elements, Some(error));
            }
        }
    }
}

fn read(stream: &[u8]) -> (Parser, Vec<(Element, usize)>, Option<StreamError>) {
    read_within(stream, usize::MAX)
}

/// As [`read`], but each byte is shown to the parser only once it has asked for it.
fn read_bytewise(stream: &[u8]) -> (Vec<(Element, usize)>, Option<StreamError>) {
    let (mut parser, mut elements, mut at) = (Parser::new(), Vec::new(), 0);
    let mut end = 0;
    loop {
        match parser.next(&stream[at..end]) {
            Ok(Some((element, len))) => {
                at += len;
                let tail = element == Element::Tail;
                elements.push((element, len));
                if tail {
                    return (elements, None);
                }
            }
            Ok(None) if end == stream.len() => return (elements, None),
            Ok(None) => end += 1,
            Err(error) => return (elements, Some(error)),
        }
    }
}

/// What a test writes and expects to read.
#[derive(Debug, Clone)]
enum Step {
    /// A new section.
    Part,
    /// A writer for another block.
    Block(u16),
    Zero(u64),
    Page(u64, u8),
    Xbzrle(u64, Vec<u8>),
    Compressed(u64, Vec<u8>),
    Command(Command),
}

const PAGES: u64 = 40;

fn blocks() -> Vec<BlockInfo> {
    vec![
        block("pc.ram", PAGES),
        block(&"x".repeat(255), PAGES),
        block("/rom@etc/acpi/tables", PAGES),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = |max: usize| proptest::collection::vec(any::<u8>(), 0..=max);
    let step = prop_oneof![
        1 => Just(Step::Part),
        1 => (0_u16..3).prop_map(Step::Block),
        3 => (0..PAGES).prop_map(Step::Zero),
        2 => (0..PAGES, any::<u8>()).prop_map(|(page, byte)| Step::Page(page, byte)),
        2 => (0..PAGES, bytes(40)).prop_map(|(page, delta)| Step::Xbzrle(page, delta)),
        2 => (0..PAGES, bytes(40)).prop_map(|(page, body)| Step::Compressed(page, body)),
        1 => any::<u32>().prop_map(|number| Step::Command(Command::Ping(number))),
        1 => Just(Step::Command(Command::SwitchoverStart)),
    ];
    proptest::collection::vec(step, 0..24)
}

/// A page that was written, and its payload.
type Sent = (Record, Vec<u8>);

fn write(steps: &[Step]) -> (Vec<u8>, Vec<Sent>) {
    let blocks = blocks();
    let (mut out, mut sent) = (Vec::new(), Vec::new());
    put_header(&mut out, "pc-q35-7.2", &[]);
    let code = Command::OpenReturnPath;
    put_command(&mut out, code);
    put_start(&mut out, 7, &blocks);
    put_section(&mut out, SectionKind::Part, 7);
    let mut at = 0_u16;
    let mut writer = RecordWriter::new(&blocks[0].name);
    let mut named = true;
    for step in steps {
        let (page, kind, payload) = match step {
            Step::Part => {
                put_section_end(&mut out, 7);
                put_section(&mut out, SectionKind::Part, 7);
                continue;
            }
            Step::Command(code) => {
                put_section_end(&mut out, 7);
                put_command(&mut out, *code);
                put_section(&mut out, SectionKind::Part, 7);
                continue;
            }
            Step::Block(other) => {
                at = *other;
                writer = RecordWriter::new(&blocks[usize::from(at)].name);
                named = true;
                continue;
            }
            Step::Zero(page) => {
                writer.zero(&mut out, PageIndex(*page));
                (page, RecordKind::Zero, vec![0])
            }
            Step::Page(page, byte) => {
                let bytes = vec![*byte; PAGE_SIZE];
                writer.page(&mut out, PageIndex(*page), &bytes);
                (page, RecordKind::Page, bytes)
            }
            Step::Xbzrle(page, delta) => {
                writer.xbzrle(&mut out, PageIndex(*page), delta);
                (page, RecordKind::Xbzrle, delta.clone())
            }
            Step::Compressed(page, body) => {
                writer.compressed(&mut out, PageIndex(*page), body);
                (page, RecordKind::Compressed, body.clone())
            }
        };
        let record = Record {
            block: at,
            page: PageIndex(*page),
            kind,
            payload: payload.len() as u16,
            continued: !std::mem::take(&mut named),
        };
        sent.push((record, payload));
    }
    put_section_end(&mut out, 7);
    put_section(&mut out, SectionKind::End, 7);
    put_section_end(&mut out, 7);
    put_end_of_stream(&mut out);
    (out, sent)
}

/// A stream with one of everything, for tests to change.
fn sample() -> Vec<u8> {
    let steps = [
        Step::Zero(0),
        Step::Page(1, 0xab),
        Step::Block(1),
        Step::Compressed(2, vec![0x78, 1, 3]),
        Step::Part,
        Step::Xbzrle(2, vec![0, 2, 0xcf, 0x1c]),
        Step::Command(Command::Ping(1)),
        Step::Block(0),
        Step::Zero(39),
    ];
    write(&steps).0
}

#[test]
fn the_longest_element_is_as_long_as_promised() {
    let name = "x".repeat(255);
    let mut out = Vec::new();
    put_header(&mut out, "none", &[]);
    put_start(&mut out, 0, &[block(&name, 1)]);
    put_section(&mut out, SectionKind::End, 0);
    let body = [7; MAX_COMPRESSED];
    RecordWriter::new(&name).compressed(&mut out, PageIndex(0), &body);
    put_section_end(&mut out, 0);
    let (_, elements, error) = read_within(&out, MAX_ELEMENT);
    assert_eq!(error, None);
    assert_eq!(elements.last(), Some(&(Element::Tail, 0)));
    assert!(elements.iter().any(|(_, len)| *len == MAX_ELEMENT));
}

#[test]
fn a_body_can_be_compressed_after_its_head_is_written() {
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    RecordWriter::new("ram").compressed(&mut whole, PageIndex(3), b"abc");
    RecordWriter::new("ram").compressed_head(&mut pieces, PageIndex(3), 0);
    let len_at = pieces.len() - 4;
    pieces.extend_from_slice(b"abc");
    pieces[len_at..len_at + 4].copy_from_slice(&3_u32.to_be_bytes());
    assert_eq!(pieces, whole);
}

#[test]
fn subsections_are_kept_unchanged() {
    let mut subsections = vec![5, 18];
    subsections.extend_from_slice(b"configuration/uuid\0\0\0\x01");
    subsections.extend_from_slice(&[0x5a; 16]);
    let mut out = Vec::new();
    put_header(&mut out, "pc-i440fx-7.2", &subsections);
    let len = out.len() - 8;
    put_start(&mut out, 2, &[]);
    let (_, elements, _) = read(&out);
    let machine = "pc-i440fx-7.2".to_owned();
    let configuration = Element::Configuration {
        machine,
        subsections,
    };
    assert_eq!(elements[1], (configuration, len));
}

#[test]
fn as_many_blocks_as_allowed_are_read_and_one_more_is_not() {
    let blocks: Vec<_> = (0..=MAX_BLOCKS)
        .map(|number| block(&number.to_string(), 1))
        .collect();
    let mut out = Vec::new();
    put_header(&mut out, "none", &[]);
    put_start(&mut out, 2, &blocks[..MAX_BLOCKS]);
    let (parser, elements, error) = read(&out);
    assert_eq!(error, None);
    assert_eq!(parser.blocks(), &blocks[..MAX_BLOCKS]);
    let lists = |wanted: &Element| elements.iter().filter(|(is, _)| is == wanted).count();
    assert_eq!(lists(&Element::Block), MAX_BLOCKS - 1);
    assert_eq!(lists(&Element::Blocks), 1);
    // The writer would not write it.
    let total = (blocks.len() * PAGE_SIZE) as u64;
    let mut out = Vec::new();
    put_header(&mut out, "none", &[]);
    put_section(&mut out, SectionKind::Start, 2);
    out.extend_from_slice(&(total | 4).to_be_bytes());
    for block in &blocks {
        out.push(block.name.len() as u8);
        out.extend_from_slice(block.name.as_bytes());
        out.extend_from_slice(&block.bytes.to_be_bytes());
    }
    let (_, _, error) = read(&out);
    assert_eq!(error.unwrap().what, Fault::TooManyBlocks);
}

#[test]
fn every_prefix_of_a_stream_is_incomplete_and_not_a_fault() {
    let stream = sample();
    let (_, whole, error) = read(&stream);
    assert_eq!(error, None);
    assert_eq!(whole.last(), Some(&(Element::Tail, 0)));
    for end in 0..stream.len() {
        let (parser, elements, error) = read(&stream[..end]);
        assert_eq!(error, None, "{end} bytes");
        assert!(whole.starts_with(&elements), "{end} bytes");
        assert!(!parser.expecting().is_empty());
    }
}

#[test]
fn bytes_that_come_one_by_one_make_the_same_elements() {
    let stream = sample();
    let (_, whole, _) = read(&stream);
    assert_eq!(read_bytewise(&stream), (whole, None));
}

proptest! {
    #[test]
    fn whatever_is_written_is_read(steps in steps()) {
        let (stream, sent) = write(&steps);
        let (parser, elements, error) = read_within(&stream, MAX_ELEMENT);
        prop_assert_eq!(error, None);
        prop_assert_eq!(parser.blocks(), blocks());
        prop_assert_eq!(elements.last(), Some(&(Element::Tail, 0)));
        let (mut at, mut received, mut commands) = (0, Vec::new(), Vec::new());
        for (element, len) in elements {
            at += len;
            match element {
                Element::Record(record) => {
                    let payload = stream[at - usize::from(record.payload)..at].to_vec();
                    received.push((record, payload));
                }
                Element::Command(command) => commands.push(command),
                _ => {}
            }
        }
        prop_assert_eq!(received, sent);
        let mut wanted = vec![Command::OpenReturnPath];
        wanted.extend(steps.iter().filter_map(|step| match step {
            Step::Command(code) => Some(*code),
            _ => None,
        }));
        prop_assert_eq!(commands, wanted);
        prop_assert!(super::tail::is_complete(&stream[at..]));
    }

    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600), known in 0_usize..120) {
        read(&bytes);
        let stream = sample();
        let stream = [&stream[..known.min(stream.len())], &bytes].concat();
        let (_, elements, error) = read(&stream);
        prop_assert_eq!(read_bytewise(&stream), (elements, error));
        super::tail::sections(&bytes);
    }

    #[test]
    fn no_change_does_harm(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<proptest::sample::Index>(),
        gone in 0_usize..12,
    ) {
        let mut stream = sample();
        for (at, byte) in changes {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let (_, elements, error) = read(&stream);
        prop_assert_eq!(read_bytewise(&stream), (elements, error));
        let at = cut.index(stream.len());
        stream.drain(at..(at + gone).min(stream.len()));
        let (_, elements, error) = read(&stream);
        prop_assert_eq!(read_bytewise(&stream), (elements, error));
    }
}

/// Most bytes of a stream are pages' contents, so chance seldom hits the others: here all are hit.
#[test]
fn no_flipped_bit_does_harm() {
    let stream = sample();
    let (_, whole, _) = read(&stream);
    let mut at = 0;
    for (element, len) in whole {
        let head = match element {
            Element::Record(record) => len - usize::from(record.payload),
            _ => len,
        };
        for byte in at..at + head {
            for bit in 0..8 {
                let mut changed = stream.clone();
                changed[byte] ^= 1 << bit;
                read_within(&changed, MAX_ELEMENT);
            }
        }
        at += len;
    }
}
