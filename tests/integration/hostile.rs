//! Streams that no honest source sends: cut short, damaged, contradictory, or not streams at all.
//! Whatever the bytes, there is an error or the right image; never a panic, never a wrong OUTPUT,
//! never a partial file left behind.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use proptest::prelude::*;
use ramferry::codec::Method;
use ramferry::page::{Digest, PAGE_SIZE};
use ramferry::round::Round;
use ramferry::transport::Address;
use ramferry::wire::native::{FrameKind, Hello, Message, Reason};
use ramferry::{Error, Kind, Params};

use crate::support::{
    Carried, Destination, Folder, Page, Parts, assert_same_bytes, delta_between, digest_of, finish,
    hello, one_round, read_answer, read_message, round_end, unix, watchdog,
};

/// Receives a stored stream over `old`, if there is one, and checks what must hold whatever the
/// stream: OUTPUT is new only if all went well, and nothing else is left.
fn receive(folder: &Folder, stream: &[u8]) -> Result<Vec<u8>, Error> {
    let (stored, output) = (folder.path("stream"), folder.path("out"));
    let old = std::fs::read(&output).ok();
    std::fs::write(&stored, stream).unwrap();
    let outcome = Destination::start(&Address::File(stored), &output, Params::default())
        .handle
        .wait();
    let partial = folder.path("out.partial");
    assert!(!partial.exists(), "a partial file is left");
    match outcome {
        Ok(_) => Ok(std::fs::read(&output).unwrap()),
        Err(error) => {
            assert_eq!(std::fs::read(&output).ok(), old, "OUTPUT was touched");
            assert!(
                !error.one_line().contains("panicked"),
                "{}",
                error.one_line()
            );
            Err(error)
        }
    }
}

/// Asserts that a stream fails with words that contain `what`.
#[track_caller]
fn refuses(stream: &[u8], what: &str) -> Error {
    let error = receive(&Folder::new(), stream).expect_err(what);
    let line = error.one_line();
    assert!(line.contains(what), "{what:?} is not in {line:?}");
    error
}

/// As [`refuses`], for one frame in a stream that is whole otherwise.
#[track_caller]
fn refuses_frame(pages: u64, frame: &Parts, what: &str) -> Error {
    let (round, claimed) = (frame.header.round.0, frame.header.pages.into());
    let frames = [
        frame.bytes(),
        round_end(round, 1, claimed, true),
        finish(&[]),
    ];
    refuses(&stream(pages, &frames), what)
}

fn text(seed: u64) -> Vec<u8> {
    Page::Text(seed).bytes()
}

fn edited(seed: u64) -> Vec<u8> {
    Page::Edited(Box::new(Page::Text(seed)), seed + 1).bytes()
}

/// The pages after [`small_stream`].
fn small_image() -> Vec<u8> {
    let mut image = vec![0; 40 * PAGE_SIZE];
    let mut put = |page: usize, bytes: &[u8]| {
        image[page * PAGE_SIZE..(page + 1) * PAGE_SIZE].copy_from_slice(bytes);
    };
    put(0, &Page::Fill(7).bytes());
    put(1, &edited(1));
    put(3, &text(2));
    image
}

/// A stream of two rounds with every kind of frame and page, and not long: what is whole is
/// compressed.
fn small_stream() -> Vec<u8> {
    let first = Parts::new(
        1,
        &[
            (0, Carried::Whole(Page::Fill(7).bytes())),
            (1, Carried::Whole(text(1))),
            (2, Carried::Whole(Page::Fill(9).bytes())),
            (4, Carried::Zero),
        ],
    )
    .compressed(Method::Zstd);
    let second = Parts::new(
        2,
        &[
            (1, Carried::Delta(text(1), edited(1))),
            (2, Carried::Zero),
            (3, Carried::Whole(text(2))),
        ],
    )
    .compressed(Method::Zlib);
    [
        hello(40).to_bytes(),
        first.bytes(),
        Message::KeepAlive.to_bytes(),
        Parts::zeros(1, &[(5, 40)]).bytes(),
        round_end(1, 2, 39, false),
        second.bytes(),
        round_end(2, 1, 3, true),
        finish(&small_image()),
    ]
    .concat()
}

/// Hello, frames, and an end that fits them.
fn stream(pages: u64, frames: &[Vec<u8>]) -> Vec<u8> {
    [hello(pages).to_bytes(), frames.concat()].concat()
}

#[test]
fn the_stream_that_is_damaged_below_is_whole_to_begin_with() {
    watchdog!();
    let image = receive(&Folder::new(), &small_stream()).unwrap();
    assert_same_bytes(&image, &small_image());
}

#[test]
fn every_truncation_is_an_error_and_not_an_end() {
    watchdog!();
    let (without, with) = (Folder::new(), Folder::new());
    std::fs::write(with.path("out"), b"the old output").unwrap();
    let stream = small_stream();
    assert!(stream.len() < 4096, "{} bytes take long", stream.len());
    for len in 0..stream.len() {
        let folder = [&without, &with][len % 2];
        let error = receive(folder, &stream[..len]).expect_err("it is cut short");
        assert_eq!(error.kind(), Kind::Failed, "{len} bytes: {error}");
    }
    assert_eq!(without.names(), ["stream"]);
}

#[test]
fn every_byte_that_is_flipped_is_noticed_or_does_not_matter() {
    watchdog!();
    let folder = Folder::new();
    let (stream, image) = (small_stream(), small_image());
    let mut harmless = 0;
    for at in 0..stream.len() {
        for bits in [0x01, 0x80] {
            let mut damaged = stream.clone();
            damaged[at] ^= bits;
            if let Ok(found) = receive(&folder, &damaged) {
                assert_same_bytes(&found, &image);
                harmless += 1;
                std::fs::remove_file(folder.path("out")).unwrap();
            }
        }
    }
    // The hash is over pages as they are once decoded: a few bits of a compressed body, and a flag
    // of a known kind, mean nothing.
    assert!(harmless < stream.len() / 50, "{harmless} went unnoticed");
}

#[test]
fn lengths_beyond_the_limits_are_refused_before_anything_is_allocated() {
    watchdog!();
    let whole = |page| Parts::new(1, &[(page, Carried::Whole(text(1)))]);
    for (offset, what) in [
        (16, "the page set's length"),
        (20, "the body's length"),
        (24, "the decoded length"),
        (12, "the number of pages"),
    ] {
        let mut frame = whole(0).bytes();
        frame[offset..offset + 4].fill(0xff);
        refuses(&stream(1, &[frame]), what);
    }
    let mut long_hello = hello(1).to_bytes();
    long_hello[12..16].fill(0xff);
    refuses(&long_hello, "the hello's length");
    let mut pages = Vec::new();
    for page in 0..257 {
        pages.push((page, Carried::Zero));
    }
    let frame = Parts::new(1, &pages).bytes();
    refuses(&stream(300, &[frame]), "the number of pages is 257");
}

#[test]
fn pages_outside_the_block_are_refused() {
    watchdog!();
    let beyond = Parts::new(1, &[(4, Carried::Whole(text(1)))]);
    refuses_frame(
        4,
        &beyond,
        "the end of a run of pages is 5, but at most 4 is allowed",
    );
    let zeros = Parts::zeros(1, &[(0, 1 << 40)]);
    refuses_frame(4, &zeros, "the end of a run of pages");
    let mut elsewhere = Parts::new(1, &[(0, Carried::Whole(text(1)))]);
    elsewhere.header.block = 1;
    refuses(&stream(4, &[elsewhere.bytes()]), "the frame's block is 1");
}

#[test]
fn a_page_set_that_is_not_what_the_header_says_is_refused() {
    watchdog!();
    let good = Parts::new(1, &[(0, Carried::Whole(text(1)))]);
    let mut more = good.clone();
    more.header.pages = 2;
    refuses_frame(4, &more, "the number of pages in the page set");
    let mut stored = good.clone();
    stored.set = vec![0, 0b11];
    refuses_frame(4, &stored, "the length of the decoded body");
    let mut missing = Parts::new(1, &[(0, Carried::Stored(text(1)))]);
    missing.body.truncate(4095);
    missing.header.body_len = 4095;
    refuses_frame(4, &missing, "the length of the decoded body");
    let mut cut = good.clone();
    cut.set = vec![0x80];
    refuses_frame(4, &cut, "the page set is truncated");
    let mut endless = good;
    endless.set = vec![0xff; 11];
    refuses_frame(4, &endless, "ULEB128");
}

#[test]
fn frames_and_ends_of_another_round_are_refused() {
    watchdog!();
    let frame = |round| Parts::new(round, &[(0, Carried::Whole(text(1)))]).bytes();
    for round in [0, 2, u32::MAX] {
        refuses(&stream(1, &[frame(round)]), "the frame's round is");
        let end = round_end(round, 0, 0, true);
        refuses(&stream(1, &[end]), "the round that ends");
    }
    refuses(
        &stream(1, &[round_end(1, 0, 0, false), frame(1)]),
        "the frame's round is 1, but 2 was expected",
    );
}

#[test]
fn wrong_counts_at_a_rounds_end_are_refused() {
    watchdog!();
    let frame = Parts::new(1, &[(0, Carried::Whole(text(1))), (1, Carried::Zero)]).bytes();
    for (frames, pages) in [(0, 2), (2, 2), (1, 1), (1, 3), (u64::MAX, u64::MAX)] {
        let end = round_end(1, frames, pages, true);
        let error = receive(&Folder::new(), &stream(2, &[frame.clone(), end]));
        let line = error.expect_err("a wrong count").one_line();
        assert!(
            line.contains("but"),
            "{frames} frames, {pages} pages: {line}"
        );
    }
}

#[test]
fn nothing_may_follow_the_last_round_but_finish() {
    watchdog!();
    let frame = Parts::new(1, &[(0, Carried::Whole(text(1)))]).bytes();
    let last = round_end(1, 1, 1, true);
    let image = text(1);
    let begin = [frame.clone(), last.clone()].concat();
    let next = Parts::new(2, &[(0, Carried::Zero)]).bytes();
    refuses(
        &stream(1, &[begin.clone(), frame]),
        "the last round is over",
    );
    refuses(&stream(1, &[begin.clone(), next]), "the last round is over");
    let zeros = Parts::zeros(2, &[(0, 1)]).bytes();
    refuses(
        &stream(1, &[begin.clone(), zeros]),
        "the last round is over",
    );
    for end in [last, round_end(2, 0, 0, true)] {
        let error = receive(
            &Folder::new(),
            &stream(1, &[begin.clone(), end, finish(&image)]),
        );
        error.expect_err("a second last round");
    }
}

#[test]
fn messages_out_of_place_are_refused() {
    watchdog!();
    let frame = Parts::new(1, &[(0, Carried::Whole(text(1)))]).bytes();
    let image = text(1);
    refuses(
        &stream(1, &[frame.clone(), finish(&image)]),
        "Finish is out of place",
    );
    refuses(&stream(1, &[finish(&[])]), "Finish is out of place");
    let digest = digest_of(&image);
    for message in [
        Message::Proven { digest },
        Message::Commit,
        Message::Committed,
    ] {
        refuses(&stream(1, &[message.to_bytes()]), "is out of place");
        let late = [frame.clone(), round_end(1, 1, 1, true), message.to_bytes()];
        refuses(&stream(1, &late), "is out of place");
    }
}

#[test]
fn a_digest_that_is_not_that_of_the_pages_makes_the_outcome_differ() {
    watchdog!();
    let image = text(1);
    let mut wrong = digest_of(&image);
    wrong.add(1);
    for digest in [wrong, Digest(0), digest_of(&text(2))] {
        let bytes = [
            hello(1).to_bytes(),
            one_round(&image),
            Message::Finish { digest }.to_bytes(),
        ]
        .concat();
        let error = refuses(&bytes, "what arrived is not what was sent");
        assert_eq!(error.kind(), Kind::Differs);
    }
}

#[test]
fn a_failure_in_the_stream_ends_it_with_the_sources_own_words() {
    watchdog!();
    let failure = Message::Failure {
        reason: Reason::Failed,
        text: "the disk is gone\x1b[2J".to_owned(),
    };
    refuses(&stream(1, &[failure.to_bytes()]), "the disk is gone [2J");
}

/// Changes a message's header and puts its hash in order by the letter of the specification.
fn message_with(mut bytes: Vec<u8>, change: impl Fn(&mut [u8])) -> Vec<u8> {
    change(&mut bytes);
    let hashed = [&bytes[..28], &bytes[36..]].concat();
    let hash = xxhash_rust::xxh3::xxh3_64(&hashed);
    bytes[28..36].copy_from_slice(&hash.to_le_bytes());
    bytes
}

#[test]
fn a_frame_of_an_unknown_kind_is_skipped_only_if_it_says_so() {
    watchdog!();
    let image = text(1);
    let around = |unknown: Vec<u8>| {
        [
            hello(1).to_bytes(),
            unknown,
            one_round(&image),
            finish(&image),
        ]
        .concat()
    };
    let with_text = Message::Failure {
        reason: Reason::Failed,
        text: "from the future".to_owned(),
    };
    for kind in [0, 13, 77, 255] {
        let strict = message_with(with_text.to_bytes(), |header| header[0] = kind);
        refuses(&around(strict), &format!("frame kind {kind} is unknown"));
        let lenient = message_with(with_text.to_bytes(), |header| {
            (header[0], header[1]) = (kind, 1);
        });
        let found = receive(&Folder::new(), &around(lenient)).unwrap();
        assert_same_bytes(&found, &image);
    }
}

#[test]
fn lanes_flags_and_codecs_that_are_not_in_use_are_refused() {
    watchdog!();
    let keep_alive = || Message::KeepAlive.to_bytes();
    let change = |offset: usize, value: u8| {
        stream(
            1,
            &[message_with(keep_alive(), |header| header[offset] = value)],
        )
    };
    refuses(&change(4, 1), "lane 1 is unknown");
    refuses(&change(5, 1), "lane 256 is unknown");
    refuses(&change(1, 2), "frame flags 2 is unknown");
    refuses(&change(3, 1), "frame flags 256 is unknown");
    refuses(&change(2, 5), "codec 5 is unknown");
    refuses(&change(2, 1), "a compressed body is out of place");
    refuses(&change(12, 1), "is out of place");
}

#[test]
fn a_zeros_frame_with_anything_but_zero_pages_is_refused() {
    watchdog!();
    let mut whole = Parts::new(1, &[(0, Carried::Whole(text(1)))]);
    whole.header.kind = FrameKind::Zeros;
    refuses_frame(1, &whole, "a page that is not zero");
    let mut without_body = whole.clone().with_body(Vec::new());
    refuses_frame(1, &without_body, "a page that is not zero");
    without_body.set = vec![0, 0b10];
    refuses_frame(1, &without_body, "a page that is not zero");
    let with_body = Parts::zeros(1, &[(0, 1)]).with_body(vec![0; PAGE_SIZE]);
    refuses_frame(1, &with_body, "a page that is not zero");
}

#[test]
fn a_body_of_another_length_than_its_pages_is_refused() {
    watchdog!();
    let good = Parts::new(1, &[(0, Carried::Whole(text(1)))]);
    let image = text(1);
    for body in [
        Vec::new(),
        image[..4095].to_vec(),
        [&image[..], &[0]].concat(),
        [&image[..], &image].concat(),
    ] {
        let frame = good.clone().with_body(body.clone());
        refuses_frame(1, &frame, "the length of the decoded body");
        if body.is_empty() {
            continue;
        }
        for method in [Method::Zlib, Method::Gzip, Method::Lz4, Method::Zstd] {
            let frame = good.clone().with_body(body.clone()).compressed(method);
            refuses_frame(1, &frame, "the length of the decoded body");
        }
    }
}

type Change = fn(&mut Parts);

#[test]
fn a_compressed_body_that_is_not_as_long_as_announced_is_refused() {
    watchdog!();
    for method in [Method::Zlib, Method::Gzip, Method::Lz4, Method::Zstd] {
        let good = Parts::new(
            1,
            &[(0, Carried::Whole(text(1))), (1, Carried::Whole(text(2)))],
        )
        .compressed(method);
        let end = [
            round_end(1, 1, 2, true),
            finish(&[text(1), text(2)].concat()),
        ]
        .concat();
        let whole = [good.bytes(), end.clone()].concat();
        receive(&Folder::new(), &stream(2, &[whole])).unwrap();
        let changes: [(&str, Change); 5] = [
            ("announced shorter", |parts| parts.header.decoded_len -= 1),
            ("announced longer", |parts| parts.header.decoded_len += 1),
            ("cut short", |parts| {
                parts.body.pop();
                parts.header.body_len -= 1;
            }),
            ("with a byte too many", |parts| {
                parts.body.push(0);
                parts.header.body_len += 1;
            }),
            ("empty", |parts| {
                parts.body.clear();
                parts.header.body_len = 0;
            }),
        ];
        for (what, change) in changes {
            let mut bad = good.clone();
            change(&mut bad);
            let error = receive(&Folder::new(), &stream(2, &[bad.bytes(), end.clone()]));
            let line = error
                .err()
                .unwrap_or_else(|| panic!("{method} {what} was taken"))
                .one_line();
            assert!(line.contains("decoding, round 1, page 0"), "{line}");
        }
    }
}

#[test]
fn deltas_that_make_no_sense_are_refused() {
    watchdog!();
    let (old, new) = (text(1), edited(1));
    let delta = delta_between(&old, &new);
    let begin = [
        Parts::new(1, &[(0, Carried::Whole(old.clone()))]).bytes(),
        round_end(1, 1, 1, false),
    ]
    .concat();
    let end = [round_end(2, 1, 1, true), finish(&new)].concat();
    let with = |body: Vec<u8>| {
        let frame = Parts::new(2, &[(0, Carried::Delta(old.clone(), new.clone()))]);
        stream(
            1,
            &[begin.clone(), frame.with_body(body).bytes(), end.clone()],
        )
    };
    let length = |len: usize| (len as u16).to_le_bytes().to_vec();
    let good = [length(delta.len()), delta.clone()].concat();
    let image = receive(&Folder::new(), &with(good.clone())).unwrap();
    assert_same_bytes(&image, &new);

    for body in [
        Vec::new(),
        vec![1],
        length(0xffff),
        length(1),
        // The length says more than there is, less than there is, or something is left over.
        [length(delta.len() + 1), delta.clone()].concat(),
        [length(delta.len() - 1), delta.clone()].concat(),
        [good, vec![0]].concat(),
        // Runs that pass the end of the page or of the delta, runs of nothing, endless lengths.
        [length(4), vec![0x80, 0x20, 1, 9]].concat(),
        [length(3), vec![0, 5, 1]].concat(),
        [length(4), vec![0, 0, 1, 1]].concat(),
        [length(4), vec![0xff, 0xff, 0xff, 1]].concat(),
    ] {
        let line = receive(&Folder::new(), &with(body.clone()))
            .expect_err("a bad delta")
            .one_line();
        assert!(
            line.contains("decoding, round 2, page 0"),
            "{body:?}: {line}"
        );
    }
    // One that decodes, but to another page than the source hashed.
    refuses(
        &with([length(3), vec![0, 1, !new[0]]].concat()),
        "is damaged",
    );
}

/// The bulk stage has no deltas. Should one come all the same, it meets zeroes, whatever else is
/// under way, and is proven like any other page.
#[test]
fn a_delta_in_the_bulk_stage_never_makes_a_wrong_page() {
    watchdog!();
    let mut new = vec![0; PAGE_SIZE];
    new[100] = 7;
    let against_zero = Parts::new(1, &[(0, Carried::Delta(vec![0; PAGE_SIZE], new.clone()))]);
    let end = [round_end(1, 1, 1, true), finish(&new)].concat();
    if let Ok(image) = receive(
        &Folder::new(),
        &stream(1, &[against_zero.bytes(), end.clone()]),
    ) {
        assert_same_bytes(&image, &new);
    }
    let against_text = Parts::new(1, &[(0, Carried::Delta(text(1), edited(1)))]);
    let end = [round_end(1, 1, 1, true), finish(&edited(1))].concat();
    receive(&Folder::new(), &stream(1, &[against_text.bytes(), end]))
        .expect_err("there is nothing that it could be a delta against");
}

#[test]
fn a_frame_that_repeats_a_page_does_not_pass_the_proof() {
    watchdog!();
    let frame = |seed| Parts::new(1, &[(0, Carried::Whole(text(seed)))]).bytes();
    let end = [round_end(1, 2, 2, true), finish(&text(3))].concat();
    let error = receive(&Folder::new(), &stream(1, &[frame(1), frame(2), end])).unwrap_err();
    assert_eq!(error.kind(), Kind::Differs);
}

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
