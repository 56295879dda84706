//! Streams made by hand, in `fixtures/qemu/`: complete, cut, refused and damaged ones. The first line
//! of each says what the parser must report.
//!
//! Hexadecimal bytes; `ab*4096` repeats a byte 4096 times; `#` begins a comment. `RAMFERRY_BLESS=1
//! cargo test --lib qemu` rewrites the first lines.

use std::path::{Path, PathBuf};

use super::*;
use crate::description::MAX_EARLY_STATE;
use crate::error::{Error, Kind};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/qemu")
}

fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap();
        for word in line.split_whitespace() {
            let (byte, count) = word.split_once('*').unwrap_or((word, "1"));
            assert_eq!(byte.len(), 2, "'{word}' is not a byte");
            let byte = u8::from_str_radix(byte, 16).unwrap();
            bytes.extend(std::iter::repeat_n(byte, count.parse().unwrap()));
        }
    }
    bytes
}

/// What the parser makes of a stream, in a line.
fn outcome(stream: &[u8]) -> String {
    let (parser, elements, error) = read(stream);
    assert_eq!(
        read_bytewise(stream),
        (elements.clone(), error.clone()),
        "byte by byte it must be the same"
    );
    let Some(error) = error else {
        return match elements.last() {
            Some((Element::Tail, _)) => format!("whole: {} elements", elements.len()),
            _ => format!("cut: in {}", parser.expecting()),
        };
    };
    let error = Error::from(error);
    let kind = match error.kind() {
        Kind::Refused => "refused",
        Kind::Failed => "bad",
        other => panic!("unexpected kind of error: {other:?}"),
    };
    format!("{kind}: {}", error.one_line())
}

#[test]
fn each_stored_stream_is_reported_as_its_first_line_says() {
    let mut paths: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() > 80, "there are {}", paths.len());
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        let outcome = outcome(&bytes_of(rest));
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (kind, _) = outcome.split_once(':').unwrap();
        assert!(name.starts_with(kind), "{name} is {outcome}");
        if std::env::var_os("RAMFERRY_BLESS").is_some() {
            std::fs::write(&path, format!("# {outcome}\n{rest}")).unwrap();
        } else {
            assert_eq!(first, format!("# {outcome}"), "{name}");
        }
    }
}

/// QEMU 7.2's stream for `-M none -m 4`, all of it zero, up to the first device.
#[test]
fn a_small_guest_is_read_and_written_as_qemu_does() {
    let mut qemu = bytes_of(
        "51 45 56 4d 00 00 00 03
         07 00 00 00 04 6e 6f 6e 65
         01 00 00 00 02 03 72 61 6d 00 00 00 00 00 00 00 04
         00 00 00 00 00 40 00 04
         03 72 61 6d 00 00 00 00 00 40 00 00
         00 00 00 00 00 00 00 10
         7e 00 00 00 02
         02 00 00 00 02
         00 00 00 00 00 00 00 02 03 72 61 6d 00",
    );
    for page in 1..1024_u64 {
        qemu.extend_from_slice(&(page << 12 | 0x22).to_be_bytes());
        qemu.push(0);
    }
    qemu.extend(bytes_of(
        "00 00 00 00 00 00 00 10 7e 00 00 00 02
         03 00 00 00 02 00 00 00 00 00 00 00 10 7e 00 00 00 02",
    ));
    assert_eq!(qemu.len(), 9323);
    let ram = block("ram", 1024);

    let mut made = Vec::new();
    put_header(&mut made, "none", &[]);
    put_start(&mut made, 2, std::slice::from_ref(&ram));
    put_section(&mut made, SectionKind::Part, 2);
    let mut writer = RecordWriter::new("ram");
    for page in 0..1024 {
        writer.zero(&mut made, PageIndex(page));
    }
    put_section_end(&mut made, 2);
    put_section(&mut made, SectionKind::End, 2);
    put_section_end(&mut made, 2);
    assert!(made == qemu);

    let (parser, elements, error) = read(&qemu);
    assert_eq!(error, None);
    assert_eq!(parser.blocks(), [ram]);
    let (records, others): (Vec<_>, Vec<_>) = elements
        .into_iter()
        .map(|(element, _)| element)
        .partition(|element| matches!(element, Element::Record(_)));
    let section = |kind| Element::Section { kind, id: 2 };
    assert_eq!(
        others,
        [
            Element::Header,
            Element::Configuration {
                machine: "none".to_owned(),
                subsections: Vec::new(),
            },
            section(SectionKind::Start),
            Element::Total(4 << 20),
            Element::Blocks,
            Element::EndOfRecords,
            Element::Footer,
            section(SectionKind::Part),
            Element::EndOfRecords,
            Element::Footer,
            section(SectionKind::End),
            Element::EndOfRecords,
            Element::Footer,
            Element::Tail,
        ]
    );
    for (page, record) in records.into_iter().enumerate() {
        let expected = Record {
            block: 0,
            page: PageIndex(page as u64),
            kind: RecordKind::Zero,
            payload: 1,
            continued: page > 0,
        };
        assert_eq!(record, Element::Record(expected));
    }
}

/// A virtio-mem device of 2^62 blocks of a byte each.
#[test]
fn early_device_state_is_bounded() {
    let mut stream = bytes_of(
        "51 45 56 4d 00 00 00 03 07 00 00 00 04 6e 6f 6e 65 04 00 00 00 26 24 30
         30 30 30 3a 30 30 3a 30 32 2e 30 2f 76 69 72 74 69 6f 2d 6d 65 6d 2d 64
         65 76 69 63 65 2d 65 61 72 6c 79 00 00 00 00 00 00 00 01 00 00 00 01 00
         00 00 00 40 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00
         00 00 00 00 00 00 00",
    );
    stream.resize(stream.len() + MAX_EARLY_STATE as usize, 0);
    let (_, elements, error) = read(&stream);
    assert_eq!(error.unwrap().what, Fault::EarlyTooLong);
    let early = elements.iter().map(|(element, len)| match element {
        Element::EarlyState(bytes) => {
            assert_eq!(bytes.len(), *len);
            *len as u64
        }
        _ => 0,
    });
    let early: u64 = early.sum();
    assert!((MAX_EARLY_STATE - 4096..=MAX_EARLY_STATE).contains(&early));
}

#[test]
fn records_are_written_as_qemu_does() {
    let page = PageIndex(0x20);
    let mut writer = RecordWriter::new("ram");
    writer.zero(&mut Vec::new(), page);
    let mut made = Vec::new();
    writer.xbzrle(&mut made, page, &[0, 2, 0xcf, 0x1c]);
    assert_eq!(
        made,
        bytes_of("00 00 00 00 00 02 00 60 01 00 04 00 02 cf 1c")
    );
    made.clear();
    writer.page(&mut made, page, &[0xee; PAGE_SIZE]);
    assert_eq!(made, bytes_of("00 00 00 00 00 02 00 28 ee*4096"));
    made.clear();
    writer.compressed(&mut made, page, &[0x78, 0x01, 0xed]);
    assert_eq!(
        made,
        bytes_of("00 00 00 00 00 02 01 20 00 00 00 03 78 01 ed")
    );
}
