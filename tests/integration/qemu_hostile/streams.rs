//! What is in the stream: the stored ones, cut ones, mutated ones, in pieces, records in any order,
//! and pages that cannot be decoded.

use ramferry::page::PAGE_SIZE;
use ramferry::transport::Address;
use ramferry::wire::qemu::{Command, SectionKind, put_command};

use super::{
    Model, Sent, Way, assert_same_guest, delta, devices, receive, receive_in, refuses, request,
    zlib,
};
use crate::support::{Dice, Folder, Page, watchdog};

fn fixture(text: &str) -> Vec<u8> {
    let words = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().split_whitespace());
    words
        .flat_map(|word| {
            let (byte, count) = word.split_once('*').unwrap_or((word, "1"));
            let byte = u8::from_str_radix(byte, 16).unwrap();
            std::iter::repeat_n(byte, count.parse().unwrap())
        })
        .collect()
}

/// What the receiver makes of a stored stream of which its first line says this.
fn expected(name: &str, first: &str, len: usize, way: Way) -> String {
    let told = first.split_once(": ").unwrap().1;
    match (name, way) {
        // Too short to be recognised as a source, or not a source.
        (_, Way::Pieces(_)) if len < 16 => "no source connected within".to_owned(),
        (_, Way::File) if len < 16 => "ends before the stream does".to_owned(),
        ("bad-magic", Way::Pieces(_)) => "no source connected within".to_owned(),
        ("bad-magic", Way::File) => "agree".to_owned(),
        ("whole-without-blocks", _) => "the guest has no block".to_owned(),
        _ if first.starts_with("cut") => {
            let what = told.strip_prefix("in ").unwrap();
            format!("in the middle of {what}")
        }
        // Its compressed page is none.
        ("whole", _) => {
            "zlib: a body of 3 bytes, which should decode to 4096 bytes, is damaged".to_owned()
        }
        // They end where RAM does.
        _ if first.starts_with("whole") => "in the middle of the devices".to_owned(),
        _ => told.replace('\u{fffd}', ""),
    }
}

#[test]
fn each_stored_stream_fails_in_the_receiver_with_the_words_of_its_first_line() {
    watchdog!();
    let folder = Folder::in_memory();
    let old = Model::with(&[("old", 1)], |model| model.put(0, 0, &Sent::Fill(7)));
    receive_in(&folder, &old.stream, Way::File, "1").unwrap();
    let stored = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/qemu");
    let mut count = 0;
    for entry in std::fs::read_dir(stored).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        count += 1;
        for way in [Way::File, Way::Pieces(64)] {
            let stream = fixture(rest);
            let what = expected(name, first.trim_start_matches("# "), stream.len(), way);
            let outcome = receive_in(&folder, &stream, way, "2");
            let line = match outcome {
                Ok(_) => "no error".to_owned(),
                Err(error) => error.one_line().replace('\u{fffd}', ""),
            };
            assert!(
                line.contains(&what),
                "{name}, {way:?}: {what:?} is not in {line:?}"
            );
        }
    }
    assert!(count > 80, "there are {count}");
}

/// Several blocks, sections and kinds of records, repeated pages, commands and devices; and where
/// its whole pages and its devices begin.
fn small() -> (Model, Vec<usize>, usize) {
    let mut model = Model::new(&[("pc.ram", 70), ("vga/vram", 3)]);
    let mut pages = Vec::new();
    model.begin(SectionKind::Part);
    model.put(0, 0, &Sent::Compressed(Page::Fill(3)));
    model.put(0, 1, &Sent::Fill(0));
    model.put(0, 64, &Sent::Fill(9));
    model.put(1, 2, &Sent::Compressed(Page::Fill(8)));
    model.end();
    model.begin(SectionKind::Part);
    pages.push(model.stream.len());
    model.put(1, 2, &Sent::Page(Page::Random(4)));
    model.put(1, 2, &Sent::Delta(5));
    model.put(0, 0, &Sent::Delta(6));
    model.put(0, 0, &Sent::Fill(0));
    model.put(0, 0, &Sent::Delta(7));
    model.end();
    put_command(&mut model.stream, Command::SwitchoverStart);
    model.begin(SectionKind::End);
    model.put(0, 69, &Sent::Compressed(Page::Fill(4)));
    model.end();
    let end = model.stream.len();
    model.stream.extend(devices());
    (model, pages, end)
}

#[test]
fn a_stream_that_is_cut_anywhere_is_an_error() {
    watchdog!();
    let (model, pages, end) = small();
    let folder = Folder::in_memory();
    let old = Model::with(&[("old", 1)], |model| model.put(0, 0, &Sent::Fill(7)));
    receive_in(&folder, &old.stream, Way::File, "1").unwrap();
    // Right before the description, where QEMU takes a stream for whole as well.
    let text_at = model.stream.windows(2).rposition(|two| two == [0, 6]);
    let text_at = text_at.unwrap();
    assert!(text_at > end);
    for cut in 0..model.stream.len() {
        let within = |begin: &usize| (begin + 40..begin + PAGE_SIZE).contains(&cut);
        if pages.iter().any(within) && cut % 199 != 0 {
            continue;
        }
        let folder = if cut == text_at + 1 {
            &Folder::in_memory()
        } else {
            &folder
        };
        let outcome = receive_in(folder, &model.stream[..cut], Way::File, "1");
        match outcome {
            Ok(guest) if cut == text_at + 1 => assert_same_guest(&guest, &model.expected()),
            Ok(_) => panic!("cut at {cut}, it was taken for whole"),
            Err(error) => {
                assert_ne!(cut, text_at + 1);
                let line = error.one_line();
                let told = line.contains("in the middle of") || cut < 16;
                assert!(told, "cut at {cut}: {line}");
            }
        }
    }
    assert_same_guest(&receive(&model.stream).unwrap(), &model.expected());
}

#[test]
fn a_stream_may_come_in_any_pieces() {
    watchdog!();
    let (model, ..) = small();
    for most in [1, 2, 100, 5000] {
        let guest = receive_in(&Folder::in_memory(), &model.stream, Way::Pieces(most), "2");
        assert_same_guest(&guest.unwrap(), &model.expected());
    }
}

/// Enough records to straddle the pieces that are read and handed on at once.
#[test]
fn records_straddle_whatever_is_read_at_once() {
    watchdog!();
    let mut dice = Dice::new(77);
    let mut model = Model::new(&[("a", 400), ("b", 210), ("c", 1)]);
    let sizes = [400, 210, 1];
    for _ in 0..3 {
        model.begin(SectionKind::Part);
        for (block, &pages) in sizes.iter().enumerate() {
            for page in 0..pages {
                let sent = match dice.below(8) {
                    0 => Sent::Fill(0),
                    1 => Sent::Compressed(Page::Text(page)),
                    2 => Sent::Delta(dice.next()),
                    _ => Sent::Page(Page::Random(dice.next())),
                };
                model.put(block, page, &sent);
            }
        }
        model.end();
    }
    model.finish();
    assert!(model.stream.len() > 4 << 20);
    for (way, threads) in [
        (Way::File, "1"),
        (Way::Pieces(9000), "2"),
        (Way::Pieces(1 << 20), "7"),
    ] {
        let guest = receive_in(&Folder::in_memory(), &model.stream, way, threads);
        assert_same_guest(&guest.unwrap(), &model.expected());
    }
}

#[test]
fn the_last_of_a_pages_records_wins_whatever_they_are() {
    watchdog!();
    for seed in 0..12 {
        let mut dice = Dice::new(1000 + seed);
        let mut model = Model::new(&[("x", 130), ("y", 67)]);
        let sizes = [130, 67];
        for _ in 0..1 + dice.below(4) {
            model.begin(SectionKind::Part);
            for _ in 0..dice.below(60) {
                let block = dice.below(2) as usize;
                // Few pages, so that they meet again; neighbours, so that they are placed together.
                let page = (dice.below(3) * 63 + dice.below(4)) % sizes[block];
                for run in 0..1 + dice.below(4) {
                    let page = (page + run) % sizes[block];
                    model.put(block, page, &Sent::any(&mut dice));
                }
            }
            model.end();
        }
        model.finish();
        for threads in ["1", "2", "7"] {
            let guest = receive_in(&Folder::in_memory(), &model.stream, Way::File, threads);
            assert_same_guest(&guest.unwrap(), &model.expected());
        }
    }
}

/// Within RAM a flipped bit may well make another legal stream; then there is a guest of the same
/// blocks, proven. What must not happen is anything else.
#[test]
fn mutated_streams_do_no_harm() {
    watchdog!();
    let (model, ..) = small();
    let folder = Folder::in_memory();
    let mut dice = Dice::new(5);
    for turn in 0..700 {
        let mut stream = model.stream.clone();
        for _ in 0..1 + dice.below(3) {
            let at = dice.below(stream.len() as u64) as usize;
            match dice.below(4) {
                0 => stream[at] = dice.next() as u8,
                1 => drop(stream.remove(at)),
                2 => stream.insert(at, dice.next() as u8),
                _ => stream[at] ^= 1 << dice.below(8),
            }
        }
        // Heads are few among the bytes, and matter most.
        if turn % 2 == 0 {
            let at = dice.below(120) as usize;
            stream[at] ^= 1 << dice.below(8);
        }
        if let Ok(guest) = receive_in(&folder, &stream, Way::File, "2") {
            assert!(guest.len() <= 2);
        }
    }
}

fn refuses_record(kind: &str, payload: &[u8], what: &str) {
    let model = Model::with(&[("ram", 2)], |model| {
        model.put(0, 1, &Sent::Page(Page::Text(1)));
        model.raw(0, 1, kind, payload);
    });
    refuses(&model.stream, what);
}

#[test]
fn a_compressed_page_inflates_to_a_page_or_is_an_error() {
    watchdog!();
    let text = Page::Text(3).bytes();
    let longer = [&text[..], &[1]].concat();
    let whole = zlib(&text);
    let mut wrong = whole.clone();
    *wrong.last_mut().unwrap() ^= 1;
    for payload in [
        zlib(&text[1..]),
        zlib(&longer),
        zlib(&[]),
        zlib(&vec![0; 1 << 20]),
        [&whole[..], &[0]].concat(),
        whole[..whole.len() - 1].to_vec(),
        whole[2..].to_vec(),
        wrong,
        Vec::new(),
        vec![0x78],
    ] {
        if payload.len() <= 4110 {
            refuses_record("compressed", &payload, "zlib");
        }
    }
    let model = Model::with(&[("ram", 2)], |model| {
        model.put(0, 1, &Sent::Compressed(Page::Text(3)));
    });
    assert_same_guest(&receive(&model.stream).unwrap(), &model.expected());
}

#[test]
fn a_delta_that_breaks_any_of_its_rules_is_an_error() {
    watchdog!();
    let mut good = Page::Text(1).bytes();
    let good = delta(9, &mut good);
    let deltas: [&[u8]; 13] = [
        // No room for two bytes of a length.
        &[0],
        &[0, 1],
        &good[..good.len() - 1],
        // Lengths of more than two bytes.
        &[0x80, 0x80, 1, 1, 1],
        &[0, 0x80, 0x80, 1, 1],
        // Nothing that differs, at first and later.
        &[0, 0, 1, 1],
        &[5, 0, 1, 1],
        &[0, 1, 9, 1, 0, 1],
        // Nothing that is equal, but not at first.
        &[0, 1, 9, 0, 1, 9],
        // Beyond the page's end.
        &[0x80, 0x20, 1, 9],
        &[0xff, 0x7f, 1, 9],
        &[0xff, 0x1f, 2, 9, 9],
        // Beyond the delta's end.
        &[0, 9, 1, 2, 3],
    ];
    for delta in deltas {
        refuses_record("delta", delta, "delta");
    }
}

#[test]
fn devices_without_an_end_are_an_error_and_endless_ones_are_bounded() {
    watchdog!();
    let mut model = Model::new(&[("ram", 2)]);
    model.begin(SectionKind::End);
    model.put(0, 0, &Sent::Fill(0));
    model.put(0, 1, &Sent::Fill(0));
    model.end();
    let with = |tail: &[u8]| [&model.stream[..], tail].concat();
    for tail in [
        &b""[..],
        b"garbage",
        &devices()[..40],
        // A description that says it is longer, or shorter, than it is.
        &[0, 6, 0, 0, 0, 3, b'{', b'}'],
        &[0, 6, 0, 0, 0, 1, b'{', b'}'],
        &[0, 6, 0xff, 0xff, 0xff, 0xff, b'{', b'}'],
        &[&devices()[..], b"more"].concat(),
        &vec![0xee; 33 << 20],
    ] {
        refuses(&with(tail), "in the middle of the devices");
    }
    // No device at all; it has been so with every guest of which nothing but RAM is known.
    receive(&with(&[0])).unwrap();
    receive(&with(&devices())).unwrap();
}

/// The main connection of a multifd migration up to machine types 8.0, recorded alone, is whole by its
/// framing: all sections and devices, and the zero pages. The rest went over the other connections.
#[test]
fn a_stream_without_the_guests_ram_is_refused() {
    watchdog!();
    let blocks = [("pc.ram", 70), ("pc.bios", 64), ("/rom@etc", 1)];
    let zeros = Model::with(&blocks, |model| {
        (3..60).for_each(|page| model.put(0, page, &Sent::Fill(0)));
        (0..64).for_each(|page| model.put(1, page, &Sent::Fill(0)));
    });
    let words = "13 of the 70 pages of the block 'pc.ram' never came, and all that did are zero: this looks like \
                 the main connection of a multifd migration";
    refuses(&zeros.stream, words);
    let without_a_block = Model::with(&blocks, |model| {
        model.put(0, 1, &Sent::Page(Page::Random(1)));
        model.put(1, 1, &Sent::Page(Page::Random(1)));
    });
    let words = "none of the 1 pages of the block '/rom@etc' came: this looks like";
    refuses(&without_a_block.stream, words);
}

/// A balloon's hints about free pages make QEMU leave them out.
#[test]
fn pages_that_a_source_leaves_out_are_counted_by_block() {
    watchdog!();
    let model = Model::with(&[("pc.ram", 70), ("pc.bios", 2), ("vga", 3)], |model| {
        for page in [0, 5, 69, 5] {
            model.put(0, page, &Sent::Page(Page::Random(page)));
        }
        (0..2).for_each(|page| model.put(1, page, &Sent::Fill(0)));
        model.put(2, 1, &Sent::Fill(0));
    });
    let folder = Folder::in_memory();
    let stored = folder.path("stream");
    std::fs::write(&stored, &model.stream).unwrap();
    let report = request(&Address::File(stored), &folder.path("out"))
        .start()
        .unwrap()
        .wait()
        .unwrap();
    let report = serde_json::to_value(&report).unwrap();
    let expected = serde_json::json!([
        {"block": "pc.ram", "missing": 67, "pages": 70},
        {"block": "vga", "missing": 2, "pages": 3},
    ]);
    assert_eq!(report["missing-pages"], expected);
}
