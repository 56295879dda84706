//! Frames whose parts contradict each other.

use ramferry::Kind;
use ramferry::codec::Method;
use ramferry::page::PAGE_SIZE;
use ramferry::wire::native::{FrameKind, Message, Reason};

use super::{edited, receive, refuses, refuses_frame, stream, text};
use crate::support::{
    Carried, Folder, Parts, assert_same_bytes, delta_between, finish, hello, one_round, round_end,
    watchdog,
};

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
    let error = receive(&Folder::new(), &stream(2, &[frame(1), frame(2), end])).unwrap_err();
    assert_eq!(error.kind(), Kind::Differs);
}

/// The digest cannot tell: the page is zero at the destination, and in the source's sum.
#[test]
fn a_first_round_without_every_page_does_not_pass_the_proof() {
    watchdog!();
    let frame = Parts::new(1, &[(1, Carried::Whole(text(1)))]).bytes();
    let mut image = vec![0; PAGE_SIZE];
    image.extend(text(1));
    let end = [round_end(1, 1, 1, true), finish(&image)].concat();
    let error = receive(&Folder::new(), &stream(2, &[frame, end])).unwrap_err();
    let line = "the number of pages in the first round is 1, but 2 was expected";
    assert!(error.one_line().contains(line), "{}", error.one_line());
}
