//! Hellos, whole sessions, and streams of anything.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use proptest::prelude::*;
use ramferry::Params;
use ramferry::codec::Method;
use ramferry::page::PAGE_SIZE;
use ramferry::round::Round;
use ramferry::wire::native::{FrameKind, Hello, Message, Reason};

use super::{receive, refuses, text};
use crate::support::{
    Carried, Destination, Folder, Parts, assert_same_bytes, finish, hello, one_round, read_answer,
    read_message, round_end, unix, watchdog,
};

#[test]
fn blocks_of_absurd_sizes_are_refused_or_harmless() {
    watchdog!();
    for bytes in [0, 1, 4095, u64::MAX, u64::MAX - 4095, (1 << 50) + 4096] {
        let mut hello = hello(1);
        hello.blocks[0].bytes = bytes;
        refuses(&hello.to_bytes(), "a block has whole pages");
    }
    let mut two = hello(1);
    two.blocks.push(two.blocks[0].clone());
    refuses(&two.to_bytes(), "the guest has 2 blocks");
    let mut none = hello(1);
    none.blocks.clear();
    refuses(&none.to_bytes(), "the guest has no block");
    let mut many = hello(1);
    many.connections = 2;
    refuses(&many.to_bytes(), "this is one of 2 connections");
    let mut pages = hello(1);
    pages.page_size = 16384;
    refuses(&pages.to_bytes(), "the page size is 16384");
    // The largest that is allowed: if the file system can, all of it is a hole.
    let mut large = hello(1);
    large.blocks[0].bytes = 1 << 40;
    let bytes = [
        large.to_bytes(),
        Parts::zeros(1, &[(0, 1 << 28)]).bytes(),
        round_end(1, 1, 1 << 28, true),
        Message::Commit.to_bytes(),
    ]
    .concat();
    receive(&Folder::new(), &bytes).expect_err("Commit is no Finish");
}

#[test]
fn a_hello_that_is_damaged_or_has_fields_missing_is_refused() {
    watchdog!();
    let good = hello(1);
    let reseal = |mut bytes: Vec<u8>| {
        let len = bytes.len() - 16;
        bytes[12..16].copy_from_slice(&(len as u32).to_le_bytes());
        let hash = xxhash_rust::xxh3::xxh3_64(&bytes);
        bytes.extend_from_slice(&hash.to_le_bytes());
        bytes
    };
    let whole = good.to_bytes();
    let unsealed = &whole[..whole.len() - 8];
    // Every truncation that claims to be whole.
    for len in 16..unsealed.len() {
        refuses(&reseal(unsealed[..len].to_vec()), "the hello is truncated");
    }
    // A later version's fields at the end are skipped.
    let image = text(1);
    let longer = reseal([unsealed, b"from the future"].concat());
    let found = receive(
        &Folder::new(),
        &[longer, one_round(&image), finish(&image)].concat(),
    );
    assert_same_bytes(&found.unwrap(), &image);
    // Names that are not text.
    let mut bytes = unsealed.to_vec();
    let at = bytes.windows(6).position(|name| name == b"pc.ram").unwrap();
    bytes[at] = 0xff;
    refuses(&reseal(bytes), "a block's name is not valid UTF-8");
    // No stream at all.
    refuses(b"GET / HTTP/1.1\r\n\r\n", "this is not a ramferry stream");
    refuses(&[0; 100], "this is not a ramferry stream");
}

/// Frames come faster than they are decoded, so that the reader waits for room when the decoders
/// give up.
#[test]
fn frames_that_are_all_bad_fail_the_session_and_do_not_stall_it() {
    watchdog!();
    let pages: Vec<_> = (0..256)
        .map(|page| (page, Carried::Whole(text(page))))
        .collect();
    let mut bad = Parts::new(1, &pages).compressed(Method::Zlib);
    bad.hashes[0] ^= 1;
    let frames = [hello(256).to_bytes(), bad.bytes().repeat(64)].concat();
    for _ in 0..5 {
        refuses(&frames, "the Pages frame is damaged");
    }
}

/// What a live destination says when a source misbehaves, so that its owner can find out.
#[test]
fn a_source_on_a_live_link_learns_what_was_wrong_with_its_stream() {
    watchdog!();
    let folder = Folder::new();
    let (socket, output) = (folder.path("socket"), folder.path("out"));
    let destination = Destination::start(&unix(&socket), &output, Params::default());
    destination.address();
    let mut link = connect(&socket, &hello(1));
    link.write_all(&round_end(2, 0, 0, true)).unwrap();
    let Message::Failure { reason, text } = read_message(&mut link) else {
        panic!("no failure");
    };
    drop(link);
    assert_eq!(reason, Reason::Failed);
    assert!(
        text.contains("the round that ends is 2, but 1 was expected"),
        "{text}"
    );
    destination.handle.wait().unwrap_err();
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

fn connect(socket: &Path, hello: &Hello) -> UnixStream {
    let mut link = UnixStream::connect(socket).unwrap();
    link.write_all(&hello.to_bytes()).unwrap();
    read_answer(&mut link);
    link
}

#[test]
fn any_bytes_after_a_good_hello_are_an_error() {
    watchdog!();
    proptest!(cases(), |(bytes in proptest::collection::vec(any::<u8>(), 0..600))| {
        let stream = [hello(40).to_bytes(), bytes].concat();
        prop_assert!(receive(&Folder::new(), &stream).is_err());
    });
}

/// Frames that pass the header's checks and the hash, but whose page set and body are anything.
#[test]
fn any_page_set_and_body_in_a_good_frame_are_an_error_or_the_right_pages() {
    watchdog!();
    proptest!(cases(), |(
        set in proptest::collection::vec(any::<u8>(), 0..12),
        body in proptest::collection::vec(any::<u8>(), 0..200),
        hashes in proptest::collection::vec(any::<u8>(), 0..32),
        codec in 0_u8..5,
        pages in 0_u32..=256,
        round in 1_u32..=2,
        decoded in 0_u32..10_000,
        zeros in any::<bool>(),
    )| {
        let mut parts = Parts::new(round, &[]).with_body(body);
        if zeros {
            parts.header.kind = FrameKind::Zeros;
        }
        parts.header.codec = Method::from_wire(codec).unwrap();
        parts.header.pages = pages;
        parts.header.round = Round(round);
        if codec > 0 && !zeros {
            parts.header.decoded_len = decoded;
        }
        parts.set = set;
        parts.hashes = hashes;
        let first = if round == 2 { round_end(1, 0, 0, false) } else { Vec::new() };
        let end = round_end(round, 1, pages.into(), true);
        let empty = finish(&vec![0; 40 * PAGE_SIZE]);
        let stream = [hello(40).to_bytes(), first, parts.bytes(), end, empty].concat();
        if let Ok(image) = receive(&Folder::new(), &stream) {
            prop_assert!(image.iter().all(|byte| *byte == 0));
        }
    });
}

fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
