//! `ramferry inspect` on images and streams that are intact, cut, damaged or hostile.

mod images;

use std::path::Path;
use std::process::Stdio;

use ramferry::codec::Method;
use ramferry::inspect::{Contents, DamageSort, Report, inspect};
use ramferry::page::{PAGE_SIZE, PageIndex};
use ramferry::wire::native::{BlockInfo, Message, Reason};
use ramferry::wire::qemu::{
    Command as QemuCommand, RecordWriter, SectionKind, put_command, put_end_of_stream, put_header,
    put_section, put_section_end, put_start,
};
use serde_json::Value;

use crate::support::{
    Carried, Dice, Folder, Page, Parts, Program, command, delta_between, digest, digest_of, finish,
    hello, later, mixed, one_round, round_end, run, watchdog,
};

fn look(path: &Path) -> Report {
    inspect(path, &|_, _| {}).unwrap()
}

fn json(path: &Path, code: i32) -> Value {
    let ended = run(&["inspect", path.to_str().unwrap(), "--json"]);
    assert_eq!(ended.code, Some(code), "{ended:?}");
    ended.json()
}

fn sum(list: &Value, field: &str) -> u64 {
    let numbers = list.as_array().unwrap().iter();
    numbers.map(|item| item[field].as_u64().unwrap()).sum()
}

/// All bytes that a report accounts for.
fn accounted(report: &Report) -> u64 {
    match &report.contents {
        Contents::NativeStream(stream) => {
            let frames = stream.frames.iter().map(|frames| frames.bytes);
            stream.hello_bytes + frames.sum::<u64>() + stream.other_bytes
        }
        Contents::QemuStream(stream) => stream.parts.iter().map(|part| part.bytes).sum(),
        Contents::RawImage(_) | Contents::GuestFolder(_) => report.bytes,
    }
}

// ---- native streams

#[test]
fn a_stream_that_send_wrote_is_described_round_by_round_to_its_last_byte() {
    watchdog!();
    let folder = Folder::new();
    let guest = mixed(2000, 3);
    let (t0, t1) = (
        folder.image("t0", &guest),
        folder.image("t1", &later(&guest, 4)),
    );
    let stream = folder.path("stream");
    let to = format!("file:{}", stream.display());
    let send = [
        "send",
        t0.to_str().unwrap(),
        &to,
        "--force",
        "--compress-method",
        "zstd",
    ];
    run(&send).succeeded();
    let report = json(&stream, 0);
    assert_eq!(report["kind"], "native-stream");
    assert_eq!(report["complete"], true);
    assert_eq!(report["digest"], digest(&t0).to_string());
    assert_eq!(report["computed-digest"], report["digest"]);
    assert_eq!(report["unchecked-frames"], 0);
    assert_eq!(report["rounds"].as_array().unwrap().len(), 1);
    assert_eq!(report["hello"]["blocks"][0]["bytes"], 2000 * PAGE_SIZE);

    run(&[&send[..], &["--then", t1.to_str().unwrap()]].concat()).succeeded();
    let report = json(&stream, 0);
    let size = std::fs::metadata(&stream).unwrap().len();
    assert_eq!(report["bytes"], size);
    let hello = report["hello-bytes"].as_u64().unwrap();
    assert_eq!(hello + sum(&report["frames"], "bytes"), size);
    assert_eq!(report["other-bytes"], 0);
    let rounds = report["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    let pages = |round: usize, class: &str| rounds[round]["pages"][class].as_u64().unwrap();
    let carried = ["zero", "whole", "delta", "stored"].map(|class| pages(0, class));
    assert_eq!(carried.iter().sum::<u64>(), 2000);
    assert!(pages(1, "delta") > 0);
    assert!(rounds.iter().all(|round| round["complete"] == true));
    assert_eq!(report["digest"], digest(&t1).to_string());
    assert_eq!(report["computed-digest"], Value::Null);

    let ended = run(&["inspect", stream.to_str().unwrap()]);
    ended.succeeded();
    for words in [
        "ramferry stream",
        "connection 1 of 1",
        &size.to_string(),
        "\ncomplete",
    ] {
        assert!(ended.out.contains(words), "no {words:?} in {}", ended.out);
    }
    // From standard input, with reads of any size.
    let mut child = command(&["inspect", "-", "--json"]);
    child.stdin(Stdio::from(std::fs::File::open(&stream).unwrap()));
    let ended = Program::start(child).finish();
    ended.succeeded();
    assert_eq!(ended.json()["frames"], report["frames"]);
}

/// A small native stream with every kind of page.
fn native() -> Vec<u8> {
    let page = |page: Page| page.bytes();
    let old = page(Page::Text(1));
    let new = page(Page::Edited(Box::new(Page::Text(1)), 2));
    let mut image = [old, page(Page::Fill(3)), vec![0; PAGE_SIZE]].concat();
    let bulk = Parts::new(
        1,
        &[
            (0, Carried::Whole(image[..PAGE_SIZE].to_vec())),
            (1, Carried::Whole(image[PAGE_SIZE..2 * PAGE_SIZE].to_vec())),
        ],
    );
    let delta = Parts::new(
        2,
        &[(0, Carried::Delta(image[..PAGE_SIZE].to_vec(), new.clone()))],
    );
    image[..PAGE_SIZE].copy_from_slice(&new);
    [
        hello(3).to_bytes(),
        bulk.compressed(Method::Zlib).bytes(),
        Parts::zeros(1, &[(2, 3)]).bytes(),
        Message::KeepAlive.to_bytes(),
        round_end(1, 2, 3, false),
        delta.bytes(),
        round_end(2, 1, 1, true),
        finish(&image),
    ]
    .concat()
}

#[test]
fn a_cut_stream_is_described_up_to_the_cut() {
    let folder = Folder::in_memory();
    let path = folder.path("stream");
    for whole in [native(), qemu()] {
        std::fs::write(&path, &whole).unwrap();
        let report = look(&path);
        assert_eq!(report.damage, None);
        assert_eq!(accounted(&report), whole.len() as u64);
        // Old machine types have no description, so that the end mark alone ends a stream, too.
        let mut end = Vec::new();
        put_end_of_stream(&mut end);
        let end_mark = whole.len() + 1 - end.len();
        for len in (1..whole.len()).step_by(17) {
            if len == end_mark && whole.starts_with(b"QEVM") {
                continue;
            }
            std::fs::write(&path, &whole[..len]).unwrap();
            let report = look(&path);
            let damage = report
                .damage
                .as_ref()
                .unwrap_or_else(|| panic!("cut at {len}"));
            assert_eq!(damage.sort, DamageSort::Truncated, "{len}: {damage:?}");
            assert_eq!(damage.offset, Some(len as u64), "{damage:?}");
            assert_eq!(accounted(&report), len as u64, "cut at {len}: {report:?}");
        }
        let len = whole.len() / 2;
        std::fs::write(&path, &whole[..len]).unwrap();
        let at = format!("truncated at byte {len}");
        let ended = run(&["inspect", path.to_str().unwrap()]);
        ended.failed_with(1, &["is ", &at]);
        assert!(ended.out.contains(&at), "{ended:?}");
        assert!(ended.out.contains("\nnot complete\n"), "{ended:?}");
        let report = json(&path, 1);
        assert_eq!(report["damage"]["sort"], "truncated");
        assert_eq!(report["damage"]["offset"], len);
        assert_eq!(report["complete"], false);
    }
}

#[test]
fn damage_is_named_with_its_place() {
    let folder = Folder::new();
    let path = folder.path("stream");
    let whole = native();
    let hello = hello(3).to_bytes().len();
    let page = Page::Text(9).bytes();
    let digests = |pages: u64, image: &[u8]| {
        let hello = crate::support::hello(pages).to_bytes();
        [hello, one_round(&page), finish(image)].concat()
    };
    let mut flipped = whole.clone();
    flipped[hello + 60] ^= 1;
    let extra = [whole.clone(), round_end(3, 0, 0, true)].concat();
    let failure = [
        whole[..hello].to_vec(),
        Message::Failure {
            reason: Reason::Failed,
            text: "the disk\u{1b}[31m is full".to_owned(),
        }
        .to_bytes(),
    ]
    .concat();
    let wrong_digest = digests(1, &[1; PAGE_SIZE]);
    let outside = [
        crate::support::hello(1).to_bytes(),
        Parts::zeros(1, &[(1, 2)]).bytes(),
    ]
    .concat();
    for (bytes, offset, words) in [
        (&flipped, hello, "damaged"),
        (&extra, whole.len(), "RoundEnd is out of place"),
        (&failure, hello, "the source gave up: the disk [31m is full"),
        (
            &wrong_digest,
            wrong_digest.len(),
            &*digest_of(&page).to_string(),
        ),
        (&outside, hello, "at most 1 is allowed"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let at = format!("at byte {offset}:");
        run(&["inspect", path.to_str().unwrap()]).failed_with(1, &[&at, words]);
        let report = look(&path);
        assert_eq!(accounted(&report), bytes.len() as u64);
        assert_eq!(report.damage.unwrap().sort, DamageSort::Damaged);
    }
}

// ---- QEMU streams

/// In place of libz: a page as a zlib stream.
fn deflated(page: &[u8]) -> Vec<u8> {
    Parts::new(1, &[(0, Carried::Whole(page.to_vec()))])
        .compressed(Method::Zlib)
        .body
}

fn blocks() -> [BlockInfo; 2] {
    [("pc.ram", 16), ("pc.bios", 2)].map(|(name, pages)| BlockInfo {
        name: name.to_owned(),
        bytes: pages * PAGE_SIZE as u64,
    })
}

/// A small QEMU stream with every kind of record; pages 0 and 1 of pc.ram come twice.
fn qemu() -> Vec<u8> {
    let mut out = Vec::new();
    put_header(&mut out, "pc-i440fx-7.2", &[]);
    put_command(&mut out, QemuCommand::OpenReturnPath);
    put_command(&mut out, QemuCommand::Ping(1));
    put_start(&mut out, 2, &blocks());
    let text = Page::Text(5).bytes();
    put_section(&mut out, SectionKind::Part, 2);
    let mut ram = RecordWriter::new("pc.ram");
    ram.page(&mut out, PageIndex(0), &text);
    ram.compressed(&mut out, PageIndex(1), &deflated(&text));
    (2..16).for_each(|page| ram.zero(&mut out, PageIndex(page)));
    let mut bios = RecordWriter::new("pc.bios");
    bios.page(&mut out, PageIndex(0), &Page::Random(1).bytes());
    bios.zero(&mut out, PageIndex(1));
    put_section_end(&mut out, 2);
    put_section(&mut out, SectionKind::End, 2);
    let mut ram = RecordWriter::new("pc.ram");
    let edited = Page::Edited(Box::new(Page::Text(5)), 6).bytes();
    ram.xbzrle(&mut out, PageIndex(0), &delta_between(&text, &edited));
    ram.compressed(&mut out, PageIndex(1), &deflated(&edited));
    put_section_end(&mut out, 2);
    put_end_of_stream(&mut out);
    out
}

#[test]
fn every_byte_of_a_qemu_stream_is_accounted_for() {
    let folder = Folder::new();
    let path = folder.path("stream");
    let whole = qemu();
    std::fs::write(&path, &whole).unwrap();
    let report = json(&path, 0);
    assert_eq!(report["kind"], "qemu-stream");
    assert_eq!(report["complete"], true);
    assert_eq!(report["machine"], "pc-i440fx-7.2");
    assert_eq!(report["bytes"], whole.len());
    assert_eq!(sum(&report["parts"], "bytes"), whole.len() as u64);
    let record = |kind: &str| {
        let found = report["records"].as_array().unwrap().iter();
        let found = found.filter(|row| row["kind"] == kind).collect::<Vec<_>>();
        assert_eq!(found.len(), 1, "{kind}");
        let number = |field: &str| found[0][field].as_u64().unwrap();
        (
            number("count"),
            number("head-bytes"),
            number("payload-bytes"),
        )
    };
    // Each first one of a block in a section names it: 7 and 8 bytes.
    assert_eq!(record("zero"), (15, 15 * 8, 15));
    assert_eq!(record("page"), (2, 2 * 8 + 7 + 8, 2 * PAGE_SIZE as u64));
    assert_eq!(record("xbzrle").0, 1);
    assert_eq!(record("compressed").0, 2);
    let ram = &report["blocks"][0];
    assert_eq!(
        (&ram["records"], &ram["distinct-pages"]),
        (&18.into(), &16.into())
    );
    assert_eq!(ram["repeats"], 2);
    assert_eq!(report["blocks"][1]["repeats"], 0);
    let levels = &report["zlib-levels"][0];
    assert_eq!(
        (&levels["levels"], &levels["pages"]),
        (&"0-1".into(), &2.into())
    );
    let count = |list: &str, name: &str| {
        let rows = report[list].as_array().unwrap().iter();
        rows.filter(|row| row["name"] == name)
            .map(|row| row["count"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(
        (count("sections", "PART"), count("commands", "PING")),
        (1, 1)
    );

    let ended = run(&["inspect", path.to_str().unwrap()]);
    ended.succeeded();
    for words in [
        "QEMU migration stream",
        "machine pc-i440fx-7.2",
        "1 OPEN_RETURN_PATH, 1 PING",
        "1 START, 1 PART, 1 END",
        "zlib level 0-1",
        &whole.len().to_string(),
        "\ncomplete\n",
    ] {
        assert!(ended.out.contains(words), "no {words:?} in {}", ended.out);
    }
}

#[test]
fn an_unsupported_stream_is_described_up_to_what_is_not_supported() {
    let folder = Folder::new();
    let path = folder.path("stream");
    let mut start = Vec::new();
    put_header(&mut start, "pc-i440fx-7.2", &[]);
    let header = start.len();
    put_start(&mut start, 2, &blocks());
    let other = [
        &start[..],
        &[1, 0, 0, 0, 9, 5],
        b"block",
        &[0; 8],
        &[7; 100],
    ]
    .concat();
    let mut multifd = start.clone();
    put_section(&mut multifd, SectionKind::Part, 2);
    let at = multifd.len();
    multifd.extend_from_slice(&0x200_u64.to_be_bytes());
    let post_copy = [&start[..header], &[8, 0, 3, 0, 16], &[0; 16]].concat();
    let channel = [&[0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1][..], &[0; 56]].concat();
    for (bytes, offset, words) in [
        (other, start.len(), "block"),
        (multifd, at, "multifd"),
        (post_copy, header, "POSTCOPY_ADVISE"),
        (channel, 0, "multifd"),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let report = json(&path, 1);
        assert_eq!(report["damage"]["sort"], "unsupported", "{report}");
        assert_eq!(report["damage"]["offset"], offset, "{report}");
        assert!(
            report["damage"]["reason"].as_str().unwrap().contains(words),
            "{report}"
        );
        assert_eq!(sum(&report["parts"], "bytes"), bytes.len() as u64);
        run(&["inspect", path.to_str().unwrap()]).failed_with(1, &["is not supported", words]);
    }
}

#[test]
fn a_stream_that_is_refused_at_its_head_has_no_tables() {
    let folder = Folder::new();
    let path = folder.path("stream");
    let name = b"\x05\x1aconfiguration/capabilities";
    let mapped = [&name[..], &[0, 0, 0, 1, 0, 0, 0, 1], b"\x0amapped-ram"].concat();
    let mut stream = Vec::new();
    put_header(&mut stream, "pc-i440fx-11.1", &mapped);
    stream.extend([0; 10_000]);
    std::fs::write(&path, &stream).unwrap();
    let ended = run(&["inspect", path.to_str().unwrap()]);
    ended.failed_with(1, &["'mapped-ram'"]);
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[1].starts_with("not supported at byte 8: "),
        "{lines:?}"
    );
}

#[test]
fn a_page_that_cannot_be_decoded_does_not_hide_the_rest() {
    let folder = Folder::new();
    let path = folder.path("stream");
    let whole = qemu();
    let body = deflated(&Page::Text(5).bytes());
    let at = whole
        .windows(body.len())
        .position(|bytes| bytes == body)
        .unwrap();
    let mut damaged = whole.clone();
    // The checksum at the zlib stream's end.
    damaged[at + body.len() - 1] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let report = json(&path, 1);
    assert_eq!(report["undecodable"], 1);
    assert_eq!(report["damage"]["sort"], "damaged");
    assert_eq!(report["damage"]["offset"], at - 12);
    assert!(
        report["damage"]["reason"]
            .as_str()
            .unwrap()
            .starts_with("page 1 of pc.ram: zlib")
    );
    assert_eq!(report["blocks"][0]["records"], 18);
}

#[test]
fn an_announced_size_alone_takes_no_memory() {
    let folder = Folder::new();
    let path = folder.path("stream");
    let mut bytes = Vec::new();
    put_header(&mut bytes, "pc", &[]);
    let huge = BlockInfo {
        name: "pc.ram".to_owned(),
        bytes: 1 << 62,
    };
    put_start(&mut bytes, 2, &[huge]);
    put_section(&mut bytes, SectionKind::End, 2);
    RecordWriter::new("pc.ram").zero(&mut bytes, PageIndex((1 << 50) - 1));
    put_section_end(&mut bytes, 2);
    put_end_of_stream(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    let report = json(&path, 1);
    assert_eq!(report["blocks"][0]["records"], 1);
    assert_eq!(report["blocks"][0]["distinct-pages"], 1);
    assert_eq!(report["complete"], false);
    assert_eq!(report["damage"]["sort"], "incomplete");
    let reason = report["damage"]["reason"].as_str().unwrap();
    assert!(reason.contains("all that did are zero"), "{reason}");
}

/// What a delta makes of a page cannot be checked here, but that it is a delta can.
#[test]
fn a_delta_that_is_not_one_and_a_first_round_without_every_page_are_damage() {
    let folder = Folder::new();
    let path = folder.path("stream");
    let text = Page::Text(9).bytes();
    let mut edited = text.clone();
    edited[7] ^= 1;
    let first = Parts::new(1, &[(0, Carried::Whole(text.clone()))]).bytes();
    let second = Parts::new(2, &[(0, Carried::Delta(text.clone(), edited.clone()))]);
    // Two bytes of length, then the delta: it ends within a run.
    let mut body = second.body.clone();
    body[2..].fill(0xff);
    let broken = second.clone().with_body(body);
    let stream = |pages, second: &Parts| {
        [
            hello(pages).to_bytes(),
            first.clone(),
            round_end(1, 1, 1, false),
            second.bytes(),
            round_end(2, 1, 1, true),
            finish(&edited),
        ]
        .concat()
    };
    for (bytes, why) in [
        (stream(1, &second), None),
        (stream(1, &broken), Some("delta")),
        (
            stream(2, &second),
            Some("the number of pages in the first round is 1, but 2 was expected"),
        ),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let report = look(&path);
        match (report.damage, why) {
            (None, None) => {}
            (Some(damage), Some(why)) => assert!(damage.reason.contains(why), "{damage:?}"),
            (damage, why) => panic!("{damage:?} instead of {why:?}"),
        }
    }
}

// ---- hostile bytes

#[test]
fn names_from_a_stream_cannot_control_a_terminal() {
    let folder = Folder::new();
    let path = folder.path("stream");
    let mut bytes = Vec::new();
    put_header(&mut bytes, "pc\u{1b}[31m", &[]);
    let block = BlockInfo {
        name: "ram\u{202e}\nsecond line".to_owned(),
        bytes: PAGE_SIZE as u64,
    };
    put_start(&mut bytes, 2, &[block]);
    bytes.extend_from_slice(b"\x01\0\0\0\x09\x06bl\x1b[2J");
    std::fs::write(&path, &bytes).unwrap();
    let ended = run(&["inspect", path.to_str().unwrap()]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for text in [&ended.out, &ended.err] {
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    }
    assert!(!ended.out.contains("\nsecond line"), "{ended:?}");
}

#[test]
fn no_bytes_make_it_panic_and_every_one_is_accounted_for() {
    watchdog!();
    let folder = Folder::in_memory();
    let path = folder.path("stream");
    let mut dice = Dice::new(11);
    for whole in [native(), qemu()] {
        for round in 0..600 {
            let mut bytes = whole.clone();
            for _ in 0..=dice.below(3) {
                let at = dice.below(bytes.len() as u64) as usize;
                match dice.below(4) {
                    0 => bytes[at] ^= 1 << dice.below(8),
                    1 => bytes[at] = [0, 0xff, 0x7f, 0x80][dice.below(4) as usize],
                    2 => bytes.truncate(at.max(8)),
                    _ => {
                        let from = dice.below(bytes.len() as u64) as usize;
                        let len = dice.below(64) as usize;
                        let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
                        bytes.splice(at..at, piece);
                    }
                }
            }
            // A mutation that is no longer recognised as a stream is not of interest here.
            bytes[..8].copy_from_slice(&whole[..8]);
            std::fs::write(&path, &bytes).unwrap();
            let report = look(&path);
            assert_eq!(
                accounted(&report),
                bytes.len() as u64,
                "{round}: {report:?}"
            );
            if round % 100 == 0 {
                let code = run(&["inspect", path.to_str().unwrap()]).code;
                assert_eq!(code, Some(i32::from(report.damage.is_some())));
            }
        }
    }
}
