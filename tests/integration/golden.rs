//! The native wire's bytes, as they have always been. An unintended change of layout fails
//! here; peers of other versions would not understand it.
//!
//! `fixtures/native/` holds each record in hexadecimal, 32 bytes a line. After a change that is
//! meant (and a new protocol version), `RAMFERRY_BLESS=1 cargo test --test integration golden`
//! writes them anew. Compressed bodies are stored and only ever decoded: another version of a
//! compressor may pack them otherwise.

use std::fmt::Write as _;
use std::path::PathBuf;

use ramferry::Params;
use ramferry::codec::Method;
use ramferry::description::{Description, EarlyState};
use ramferry::handshake as session;
use ramferry::page::{Digest, PAGE_SIZE};
use ramferry::round::Round;
use ramferry::transport::Address;
use ramferry::wire::native::{
    Answer, HELLO_HEAD_LEN, Header, Hello, HelloHead, Message, Offer, Reason, Verdict,
};

use crate::support::{
    Carried, Destination, Folder, Page, Parts, assert_same_bytes, finish, hello, round_end,
    watchdog,
};

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/native")
        .join(name)
        .with_extension("hex")
}

pub(crate) fn blessing() -> bool {
    std::env::var_os("RAMFERRY_BLESS").is_some()
}

/// The stored bytes of a record; `made` is stored first if that was asked for.
fn stored(name: &str, made: &[u8]) -> Vec<u8> {
    if blessing() {
        store(name, made);
    }
    load(name)
}

/// Stores the bytes of a record.
pub(crate) fn store(name: &str, made: &[u8]) {
    let mut text = String::new();
    for line in made.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    std::fs::write(fixture(name), text).unwrap();
}

/// The stored bytes of a record.
pub(crate) fn load(name: &str) -> Vec<u8> {
    let path = fixture(name);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Asserts that a record is made as it is stored, and returns it.
#[track_caller]
fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let stored = stored(name, made);
    if made != stored {
        let at = made
            .iter()
            .zip(&stored)
            .position(|(made, stored)| made != stored)
            .unwrap_or(made.len().min(stored.len()));
        panic!(
            "{name} has changed: {} bytes instead of {}, the first other one is byte {at}",
            made.len(),
            stored.len()
        );
    }
    stored
}

/// Small pages on the wire are deltas and zeroes; whole ones are this.
fn fill(byte: u8) -> Vec<u8> {
    Page::Fill(byte).bytes()
}

fn touched(byte: u8) -> Vec<u8> {
    let mut page = fill(byte);
    page[10..14].copy_from_slice(b"some");
    page[4000] = 1;
    page
}

#[test]
fn a_hello_has_these_bytes() {
    let mut made = hello(40);
    made.capabilities = vec![
        Offer {
            name: "zstd".to_owned(),
            required: true,
        },
        Offer {
            name: "xbzrle".to_owned(),
            required: false,
        },
    ];
    (made.connection, made.connections) = (2, 5);
    let bytes = golden("hello", &made.to_bytes());
    let (head, rest) = bytes.split_first_chunk::<HELLO_HEAD_LEN>().unwrap();
    let read = Hello::read(&HelloHead::of_hello(*head).unwrap(), rest).unwrap();
    assert_eq!(read, made);
    // What no version may change: magic, range of versions, length of the body.
    assert_eq!(&bytes[..12], b"\x91ramfer\n\x01\0\x01\0");
    let body = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    assert_eq!(bytes.len(), 16 + body + 8);
}

#[test]
fn an_answer_has_these_bytes() {
    let accepted = Answer {
        versions: (1, 1),
        verdict: Verdict::Accepted,
        version: 1,
        silence_ms: 30_000,
        capabilities: vec!["xbzrle".to_owned(), "zstd".to_owned()],
    };
    let refused = session::answer(
        &Err("the destination lacks the capability 'telepathy'".to_owned()),
        std::time::Duration::from_secs(30),
    );
    for (name, made) in [("answer-accepted", accepted), ("answer-refused", refused)] {
        let bytes = golden(name, &made.to_bytes());
        let (head, rest) = bytes.split_first_chunk::<HELLO_HEAD_LEN>().unwrap();
        let read = Answer::read(&HelloHead::of_answer(*head).unwrap(), rest).unwrap();
        assert_eq!(read, made);
        assert_eq!(&bytes[..8], b"\x91ramans\n");
    }
}

#[test]
fn each_message_has_these_bytes() {
    let digest = Digest(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
    for (name, made) in [
        (
            "round-end",
            Message::RoundEnd {
                round: Round(3),
                frames: 17,
                pages: 4242,
                last: false,
            },
        ),
        (
            "round-end-last",
            Message::RoundEnd {
                round: Round(4),
                frames: 0,
                pages: 0,
                last: true,
            },
        ),
        ("keep-alive", Message::KeepAlive),
        ("finish", Message::Finish { digest }),
        ("proven", Message::Proven { digest }),
        ("commit", Message::Commit),
        ("committed", Message::Committed),
        (
            "failure",
            Message::Failure {
                reason: Reason::Differs,
                text: "what arrived is not what was sent".to_owned(),
            },
        ),
        (
            "description",
            Message::Description(Description {
                machine: "pc-i440fx-7.2".to_owned(),
                configuration: vec![5, 1, 2, 3],
                commands: vec![(11, vec![]), (3, vec![0xaa, 0xbb])],
                ram_section_id: 2,
                early: EarlyState::default(),
            }),
        ),
        (
            "description-early",
            Message::Description(Description {
                machine: "pc-i440fx-11.1".to_owned(),
                configuration: vec![],
                commands: vec![],
                ram_section_id: 1,
                early: EarlyState {
                    before_blocks: 107,
                    after_blocks: 0x0102,
                },
            }),
        ),
        (
            "device-state",
            Message::DeviceState {
                offset: 0x1234_5678_9abc,
                bytes: b"what the devices say".to_vec(),
            },
        ),
        (
            "device-state-end",
            Message::DeviceStateEnd {
                total: 20,
                hash: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
            },
        ),
    ] {
        let bytes = golden(name, &made.to_bytes());
        let (head, rest) = bytes.split_first_chunk().unwrap();
        let header = Header::from_bytes(head).unwrap();
        let read = Message::read(&header, header.kind.unwrap(), rest).unwrap();
        assert_eq!(read, made);
    }
}

/// Every class of page in one frame.
fn all_classes(round: u32) -> Parts {
    Parts::new(
        round,
        &[
            (1, Carried::Whole(fill(0xa5))),
            (2, Carried::Delta(fill(3), touched(3))),
            (3, Carried::Delta(fill(4), touched(4))),
            (4, Carried::Zero),
            (5, Carried::Zero),
            (300, Carried::Whole(touched(9))),
            (301, Carried::Stored(touched(10))),
        ],
    )
}

#[test]
fn a_frame_of_pages_of_all_classes_and_one_of_zeros_have_these_bytes() {
    golden("pages", &all_classes(2).bytes());
    golden(
        "zeros",
        &Parts::zeros(1, &[(0, 7), (1000, 1 << 20)]).bytes(),
    );
}

/// The parts of the tiny streams, and the image that they make.
fn tiny(pack: impl Fn(Parts) -> Parts) -> (Vec<u8>, Vec<u8>) {
    let mut image = vec![0; 320 * PAGE_SIZE];
    let mut put = |page: usize, bytes: &[u8]| {
        image[page * PAGE_SIZE..(page + 1) * PAGE_SIZE].copy_from_slice(bytes);
    };
    put(1, &fill(0xa5));
    put(2, &touched(3));
    put(3, &touched(4));
    put(300, &touched(9));
    put(301, &touched(10));
    let bulk = Parts::new(
        1,
        &[
            (2, Carried::Whole(fill(3))),
            (3, Carried::Whole(fill(4))),
            (4, Carried::Whole(fill(5))),
            (5, Carried::Zero),
        ],
    );
    // Spelt out: a new capability does not change the layout.
    let mut hello = hello(320);
    hello.capabilities = ["zlib", "gzip", "lz4", "zstd", "xbzrle"]
        .map(|name| Offer {
            name: name.to_owned(),
            required: name == "xbzrle",
        })
        .to_vec();
    let stream = [
        hello.to_bytes(),
        pack(bulk).bytes(),
        Parts::zeros(1, &[(0, 2), (6, 320)]).bytes(),
        round_end(1, 2, 320, false),
        Message::KeepAlive.to_bytes(),
        pack(all_classes(2)).bytes(),
        round_end(2, 1, 7, true),
        finish(&image),
    ]
    .concat();
    (stream, image)
}

#[track_caller]
fn is_received(stream: &[u8], image: &[u8]) {
    let folder = Folder::new();
    let (path, output) = (folder.path("stream"), folder.path("out"));
    std::fs::write(&path, stream).unwrap();
    let destination = Destination::start(&Address::File(path), &output, Params::default());
    let report = destination.handle.wait().unwrap();
    assert_same_bytes(&std::fs::read(&output).unwrap(), image);
    assert_eq!(report.wire_bytes, stream.len() as u64);
    assert_eq!(report.rounds.len(), 2);
    assert_eq!(report.rounds[1].delta, 2);
}

#[test]
fn a_whole_stream_has_these_bytes_and_is_received() {
    watchdog!();
    let (made, image) = tiny(|parts| parts);
    is_received(&golden("stream", &made), &image);
}

#[test]
fn streams_that_were_compressed_once_are_received_for_ever() {
    watchdog!();
    for method in [Method::Zlib, Method::Gzip, Method::Lz4, Method::Zstd] {
        let (made, image) = tiny(|parts| parts.compressed(method));
        is_received(&stored(&format!("stream-{method}"), &made), &image);
    }
}

/// Independent of the code above: the page's hash, the digest and the frame's hash by hand.
#[test]
fn the_stored_stream_is_what_the_specification_says() {
    let bytes = stored("stream", &tiny(|parts| parts).0);
    let number = |at: usize, len: usize| {
        bytes[at..at + len]
            .iter()
            .rev()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let mut at = 16 + number(12, 4) as usize + 8;
    assert_eq!(
        number(at - 8, 8),
        xxhash_rust::xxh3::xxh3_64(&bytes[..at - 8])
    );
    let mut kinds = Vec::new();
    while at < bytes.len() {
        let (set, body) = (number(at + 16, 4) as usize, number(at + 20, 4) as usize);
        let kind = bytes[at];
        kinds.push(kind);
        if kind != 1 {
            let hashed = [&bytes[at..at + 28], &bytes[at + 36..at + 36 + set + body]].concat();
            assert_eq!(number(at + 28, 8), xxhash_rust::xxh3::xxh3_64(&hashed));
        }
        at += 36 + set + body;
    }
    assert_eq!(at, bytes.len());
    assert_eq!(kinds, [1, 2, 3, 4, 1, 3, 5]);
}
