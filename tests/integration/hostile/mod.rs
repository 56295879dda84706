//! Streams that no honest source sends: cut short, damaged, contradictory, or not streams at all.
//! Whatever the bytes, there is an error or the right image; never a panic, never a wrong OUTPUT,
//! and never a partial file that remains.

mod ends;
mod frames;
mod sessions;

use ramferry::codec::Method;
use ramferry::page::{Digest, PAGE_SIZE};
use ramferry::transport::Address;
use ramferry::wire::native::{Message, Reason};
use ramferry::{Error, Kind, Params};

use crate::support::{
    Carried, Destination, Folder, Page, Parts, assert_same_bytes, digest_of, finish, hello,
    one_round, round_end, watchdog,
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
            (3, Carried::Zero),
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
        round_end(1, 2, 40, false),
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
