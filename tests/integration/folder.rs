//! Guest folders: several blocks and device state, on disk, over every kind of link, and against
//! streams and folders that were tampered with.

use std::path::{Path, PathBuf};

use ramferry::description::{Description, EarlyState, MAX_EARLY_STATE};
use ramferry::handshake as session;
use ramferry::image::{Guest, ImageError, Output};
use ramferry::page::{Digest, PAGE_SIZE, PageIndex};
use ramferry::transport::Address;
use ramferry::wire::Format;
use ramferry::wire::native::{BlockInfo, FrameKind, MAX_PIECE, Message};
use ramferry::{Caps, Error, Kind, Migration, Params};
use xxhash_rust::xxh3::xxh3_128;

use crate::support::{
    Carried, Cut, CuttingRelay, Destination, Folder, Outcome, Page, Parts, Program, any_port,
    assert_same, command, hello, later, migrate, mixed, params, round_end, run, source, unix,
    watchdog,
};

/// The blocks of the guest that most tests are about, and how many pages each has.
const BLOCKS: [(&str, usize); 3] = [
    ("pc.ram", 256),
    ("pc.bios", 64),
    ("0000:00:02.0/vga.vram", 32),
];

fn sizes(blocks: &[(&str, Vec<Page>)]) -> Vec<(String, u64)> {
    blocks
        .iter()
        .map(|(name, pages)| ((*name).to_owned(), (pages.len() * PAGE_SIZE) as u64))
        .collect()
}

/// Writes a guest folder.
fn write(path: &Path, blocks: &[(&str, Vec<Page>)], state: &[u8]) {
    write_described(path, blocks, state, description());
}

fn write_described(
    path: &Path,
    blocks: &[(&str, Vec<Page>)],
    state: &[u8],
    description: Description,
) {
    let mut output = Output::folder(path, &sizes(blocks), false).unwrap();
    for (file, (_, pages)) in output.blocks().iter().zip(blocks) {
        for (index, page) in (0..).zip(pages) {
            if *page != Page::Hole {
                file.place(PageIndex(index), &page.bytes()).unwrap();
            }
        }
    }
    for piece in state.chunks(1000) {
        output.append_device_state(piece).unwrap();
    }
    output.describe(description);
    output.commit().unwrap();
}

fn description() -> Description {
    Description {
        machine: "pc-i440fx-7.2".to_owned(),
        configuration: vec![5, 0, 255],
        commands: vec![(11, vec![]), (3, vec![1, 2])],
        ram_section_id: 2,
        early: EarlyState::default(),
    }
}

/// Device state that does not fit one message.
fn state(seed: u64) -> Vec<u8> {
    (0..200)
        .flat_map(|n| Page::Random(seed * 1000 + n).bytes())
        .chain([1, 2, 3])
        .collect()
}

fn guest(seed: u64) -> Vec<(&'static str, Vec<Page>)> {
    BLOCKS
        .iter()
        .map(|(name, pages)| (*name, mixed(*pages, seed + *pages as u64)))
        .collect()
}

/// A guest, and the same guest later, as folders.
pub(crate) fn two_states(folder: &Folder) -> [PathBuf; 2] {
    let first = guest(1);
    let second: Vec<_> = (2..)
        .zip(&first)
        .map(|(seed, (name, pages))| (*name, later(pages, seed)))
        .collect();
    let paths = [folder.path("g0"), folder.path("g1")];
    write(&paths[0], &first, &state(0));
    write(&paths[1], &second, &state(1));
    paths
}

fn files(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Asserts that both ends agree and that OUTPUT is the folder `expected`, byte for byte.
#[track_caller]
fn arrived(outcome: Outcome, expected: &Path, output: &Path) {
    let (source, destination) = (outcome.source.unwrap(), outcome.destination.unwrap());
    assert_eq!(source.digest, destination.digest);
    assert_eq!(source.wire_bytes, destination.wire_bytes);
    assert_eq!(files(output), files(expected));
    for name in files(expected) {
        if name != "guest.json" {
            assert_same(&output.join(&name), &expected.join(&name));
        }
    }
    let (found, expected) = (Guest::open(output).unwrap(), Guest::open(expected).unwrap());
    assert_eq!(found.description(), expected.description());
    assert_eq!(source.digest, Some(found.digest().unwrap()));
}

/// The first bytes of the device state precede RAM in QEMU's stream, before and after the list of blocks.
#[test]
fn early_device_state_arrives_and_is_written_in_its_place() {
    watchdog!();
    let folder = Folder::new();
    let (path, output) = (folder.path("g"), folder.path("out"));
    let early = EarlyState {
        before_blocks: 6,
        after_blocks: 5,
    };
    let described = Description {
        commands: Vec::new(),
        configuration: Vec::new(),
        early,
        ..description()
    };
    let state = b"BEFOREAFTERthe rest";
    write_described(&path, &guest(3), state, described);
    let address = unix(&folder.path("socket"));
    let images = [path.clone()];
    let outcome = migrate(
        &address,
        &images,
        &output,
        Caps::default(),
        Params::default(),
    );
    arrived(outcome, &path, &output);

    let stored = folder.path("stream");
    let sent = Migration::send(&output)
        .to(Address::File(stored.clone()))
        .format(Format::Qemu)
        .start();
    sent.unwrap().wait().unwrap();
    let stream = std::fs::read(&stored).unwrap();
    let header = b"QEVM\0\0\0\x03\x07\0\0\0\x0dpc-i440fx-7.2";
    let (head, rest) = stream.split_at(header.len() + 6);
    assert_eq!(head, [&header[..], b"BEFORE"].concat());
    let footer = b"\x7e\0\0\0\x02";
    let after_list = rest.windows(5).position(|bytes| bytes == footer).unwrap() + 5;
    assert!(rest[after_list..].starts_with(b"AFTER\x02"));
    assert!(rest.ends_with(b"\x7e\0\0\0\x02the rest"));
}

#[test]
fn a_folder_arrives_over_every_link() {
    watchdog!();
    let folder = Folder::new();
    let [first, _] = two_states(&folder);
    for (link, address, connections) in [
        ("unix", unix(&folder.path("socket")), "1"),
        ("tcp", any_port(), "4"),
        ("file", Address::File(folder.path("stream")), "1"),
    ] {
        let output = folder.path(link);
        let settings = params(&[("connections", connections), ("compress-method", "lz4")]);
        let images = [first.clone()];
        let outcome = migrate(&address, &images, &output, Caps::default(), settings);
        arrived(outcome, &first, &output);
    }
}

#[test]
fn later_folders_and_files_are_delta_rounds() {
    watchdog!();
    let folder = Folder::new();
    let [first, second] = two_states(&folder);
    let third = later(&mixed(256, 99), 4);
    let raw = folder.image("raw", &third);
    for (link, address) in [
        ("unix", unix(&folder.path("socket"))),
        ("file", Address::File(folder.path("stream"))),
    ] {
        let output = folder.path(link);
        let images = [first.clone(), second.clone()];
        let outcome = migrate(
            &address,
            &images,
            &output,
            Caps::default(),
            Params::default(),
        );
        arrived(outcome, &second, &output);
    }
    // The raw image is pc.ram's, all else stays as the round before had it.
    let output = folder.path("out");
    let images = [first, second.clone(), raw.clone()];
    let address = unix(&folder.path("socket"));
    let outcome = migrate(
        &address,
        &images,
        &output,
        Caps::default(),
        Params::default(),
    );
    let (source, destination) = (outcome.source.unwrap(), outcome.destination.unwrap());
    assert_eq!(
        (source.rounds.len(), source.digest),
        (3, destination.digest)
    );
    assert_same(&output.join("pc.ram"), &raw);
    for name in ["pc.bios", "0000%3A00%3A02.0%2Fvga.vram", "device-state"] {
        assert_same(&output.join(name), &second.join(name));
    }
    assert_eq!(
        Some(Guest::open(&output).unwrap().digest().unwrap()),
        source.digest
    );
}

#[test]
fn the_program_sends_keeps_one_block_and_prints_the_digest() {
    watchdog!();
    let folder = Folder::new();
    let [first, _] = two_states(&folder);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (stream, out) = (
        format!("file:{}", text(&folder.path("s"))),
        text(&folder.path("out")),
    );
    run(&["send", &text(&first), &stream, "-q"]).succeeded();
    run(&["receive", &stream, &out, "--block", "pc.bios", "-q"]).succeeded();
    assert_same(Path::new(&out), &first.join("pc.bios"));
    run(&["receive", &stream, &out, "--block", "vga"]).failed_with(1, &["already exists"]);
    run(&["receive", &stream, &out, "--block", "vga", "--force"]).failed_with(
        1,
        &["no block 'vga'", "pc.ram, pc.bios, 0000:00:02.0/vga.vram"],
    );
    run(&["receive", &stream, &out, "--force"]).failed_with(1, &[&out, "is a file"]);
    let whole = text(&folder.path("whole"));
    run(&["receive", &stream, &whole, "-q"]).succeeded();
    run(&["receive", &stream, &whole]).failed_with(1, &["already exists"]);
    run(&["receive", &stream, &whole, "--force", "-q"]).succeeded();
    let digest = Guest::open(&first).unwrap().digest().unwrap();
    for path in [&text(&first), &whole] {
        let printed = run(&["digest", path]);
        printed.succeeded();
        assert_eq!(printed.out, format!("{digest}  {path}\n"));
    }
    let looked = run(&["inspect", &text(&folder.path("s")), "--json"]);
    looked.succeeded();
    let looked = looked.json();
    assert_eq!(
        (&looked["complete"], &looked["other-bytes"]),
        (&true.into(), &0.into())
    );
    assert_eq!(looked["computed-digest"], digest.to_string());
    // One of its blocks is an image for itself, and does not replace it.
    let raw = format!("file:{}", text(&folder.path("raw")));
    run(&["send", &text(&first.join("pc.ram")), &raw, "-q"]).succeeded();
    run(&["receive", &raw, &whole, "--force"]).failed_with(1, &[&whole, "is a guest folder"]);
    // Nor does a stream, or a report, go into the folder that it is made from,
    // neither over one of its files nor as another one beside them.
    for name in ["pc.ram", "another"] {
        let inside = text(&first.join(name));
        run(&["send", &text(&first), &format!("file:{inside}"), "--force"])
            .failed_with(2, &["lies in a guest folder that is to be sent"]);
        run(&["bench", &text(&first), "--export-json", &inside])
            .failed_with(2, &[&inside, "lies in a guest folder that is to be sent"]);
    }
    run(&["inspect", &text(&first)]).succeeded();
    assert_eq!(folder.names(), ["g0", "g1", "out", "raw", "s", "whole"]);
}

#[test]
fn folders_that_were_tampered_with_are_not_sent() {
    watchdog!();
    let folder = Folder::new();
    let [first, _] = two_states(&folder);
    let (ram, state) = (first.join("pc.ram"), first.join("device-state"));
    let refused = |why: &str| {
        let (path, uri) = (first.to_str().unwrap(), "unix:/nonexistent/socket");
        run(&["send", path, uri]).failed_with(1, &[path, why]);
        run(&["digest", path]).failed_with(1, &[path, why]);
    };
    let good = std::fs::read(&ram).unwrap();
    std::fs::write(&ram, &good[PAGE_SIZE..]).unwrap();
    refused("'pc.ram' has 1044480 bytes, but guest.json says 1048576");
    std::fs::remove_file(&ram).unwrap();
    refused("'pc.ram' is missing");
    std::os::unix::fs::symlink("/dev/zero", &ram).unwrap();
    refused("'pc.ram' is not a regular file");
    std::fs::remove_file(&ram).unwrap();
    std::fs::write(&ram, &good).unwrap();
    let kept = std::fs::read(&state).unwrap();
    std::fs::write(&state, &kept[1..]).unwrap();
    refused("'device-state' has 819202 bytes, but guest.json says 819203");
    std::fs::write(&state, &kept).unwrap();
    Guest::open(&first).unwrap();
    let mut damaged = good.clone();
    damaged[100] ^= 1;
    std::fs::write(&ram, &damaged).unwrap();
    let path = first.to_str().unwrap();
    run(&["digest", path]).failed_with(3, &[path, "'pc.ram' is damaged"]);
}

/// What it was is in `guest.json`: both ends agreeing on what it is now proves nothing.
#[test]
fn a_damaged_folder_is_not_sent_in_any_round() {
    watchdog!();
    let folder = Folder::new();
    let [first, second] = two_states(&folder);
    let bios = second.join("pc.bios");
    let mut damaged = std::fs::read(&bios).unwrap();
    damaged[PAGE_SIZE + 100] ^= 1;
    std::fs::write(&bios, &damaged).unwrap();
    let [first, second] = [&first, &second].map(|path| path.to_str().unwrap());
    let why = [second, "'pc.bios' is damaged"];
    let stored = format!("file:{}", folder.path("stored").display());
    for rounds in [&[second][..], &[first, "--then", second]] {
        let (guest, more) = rounds.split_first().unwrap();
        run(&[&["send", guest, &stored, "-q"], more].concat()).failed_with(3, &why);
        let socket = format!("unix:{}", folder.path("socket").display());
        let out = folder.path("out").display().to_string();
        let mut receiver = Program::start(command(&["receive", &socket, &out, "-q"]));
        receiver.listening();
        run(&[&["send", guest, &socket, "-q"], more].concat()).failed_with(3, &why);
        receiver.finish().failed_with(3, &["'pc.bios' is damaged"]);
        assert_eq!(folder.names(), ["g0", "g1"]);
    }
    run(&["send", first, &stored, "--then", first, "-q"]).succeeded();
}

#[test]
fn a_link_that_breaks_leaves_the_old_folder_and_no_partial() {
    watchdog!();
    let folder = Folder::new();
    let [first, second] = two_states(&folder);
    let output = folder.path("out");
    std::fs::create_dir(&output).unwrap();
    for name in files(&second) {
        std::fs::copy(second.join(&name), output.join(&name)).unwrap();
    }
    let address = unix(&folder.path("listen"));
    let migrate = |cut: Cut| {
        let destination = Destination::start(&address, &output, Params::default());
        destination.address();
        let near = folder.path("near");
        let relay = CuttingRelay::start(&near, &folder.path("listen"), cut);
        let images = [first.clone()];
        let sent = source(&images, &unix(&near), Caps::default(), Params::default())
            .and_then(ramferry::Migration::wait);
        let received = destination.handle.wait();
        let (forth, _) = relay.finish();
        let _ = std::fs::remove_file(near);
        (sent, received, forth.len())
    };
    let whole = migrate(Cut::NEVER).2;
    std::fs::remove_dir_all(&output).unwrap();
    write(&output, &guest(7), b"old");
    let before = std::fs::read(output.join("guest.json")).unwrap();
    // In the middle of RAM, of the device state (its last message is followed by two small ones),
    // and right before the proof.
    for forth in [whole / 4, whole - 100_000, whole - 37] {
        let (sent, received, _) = migrate(Cut {
            forth,
            ..Cut::NEVER
        });
        assert!(
            received.is_err() && sent.is_err(),
            "cut after {forth} of {whole}"
        );
        assert_eq!(std::fs::read(output.join("guest.json")).unwrap(), before);
        Guest::open(&output).unwrap().digest().unwrap();
        assert_eq!(folder.names(), ["g0", "g1", "out"]);
    }
}

// ---- streams that no honest source sends

/// A guest of two blocks with a page each, and device state.
struct Stream {
    folder_agreed: bool,
    before_the_round_ends: Vec<Message>,
    rest: Vec<Message>,
}

const STATE: &[u8] = b"what the devices say";

fn piece(offset: u64, bytes: &[u8]) -> Message {
    Message::DeviceState {
        offset,
        bytes: bytes.to_vec(),
    }
}

fn state_end(bytes: &[u8]) -> Message {
    Message::DeviceStateEnd {
        total: bytes.len() as u64,
        hash: xxh3_128(bytes),
    }
}

fn described() -> Message {
    Message::Description(description())
}

fn described_with_early(bytes: u64) -> Message {
    Message::Description(Description {
        early: EarlyState {
            before_blocks: 1,
            after_blocks: bytes - 1,
        },
        ..description()
    })
}

impl Stream {
    fn new(rest: &[Message]) -> Stream {
        Stream {
            folder_agreed: true,
            before_the_round_ends: vec![],
            rest: rest.to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut hello = hello(1);
        if self.folder_agreed {
            hello.capabilities.extend(session::folder_offers(false));
            hello.blocks.push(BlockInfo {
                name: "vga".to_owned(),
                bytes: 2 * PAGE_SIZE as u64,
            });
        }
        let digest = Digest::default();
        let mut bytes = hello.to_bytes();
        for message in &self.before_the_round_ends {
            bytes.extend(message.to_bytes());
        }
        let (mut frames, mut pages) = (0, 0);
        for (block, info) in (0..).zip(&hello.blocks) {
            let count = info.bytes / PAGE_SIZE as u64;
            let mut zeros = Parts::zeros(1, &[(0, count)]);
            zeros.header.block = block;
            bytes.extend(zeros.bytes());
            (frames, pages) = (frames + 1, pages + count);
        }
        bytes.extend(round_end(1, frames, pages, true));
        for message in self.rest.iter().chain([&Message::Finish { digest }]) {
            bytes.extend(message.to_bytes());
        }
        bytes
    }

    fn receive(&self) -> Result<(), Error> {
        receive(&self.bytes())
    }

    #[track_caller]
    fn refused(&self, kind: Kind, why: &str) {
        let error = self.receive().expect_err(why);
        let line = error.one_line();
        assert!(line.contains(why), "{why:?} is not in {line:?}");
        assert_eq!(error.kind(), kind, "{line}");
        // A look at it finds the same mistake.
        let folder = Folder::new();
        let path = folder.path("stream");
        std::fs::write(&path, self.bytes()).unwrap();
        let looked = run(&["inspect", path.to_str().unwrap()]);
        assert_ne!(looked.code, Some(0), "{why}: {looked:?}");
    }
}

/// Receives a stored stream, and checks that nothing is left if it fails.
fn receive(bytes: &[u8]) -> Result<(), Error> {
    let folder = Folder::new();
    let (stored, output) = (folder.path("stream"), folder.path("out"));
    std::fs::write(&stored, bytes).unwrap();
    let outcome = Destination::start(&Address::File(stored), &output, Params::default())
        .handle
        .wait();
    let left = if outcome.is_ok() {
        &["out", "stream"][..]
    } else {
        &["stream"]
    };
    assert_eq!(folder.names(), left);
    if outcome.is_ok() && output.is_dir() {
        let state = Guest::open(&output).unwrap().device_state().unwrap().read();
        assert!([STATE, b""].contains(&&state.unwrap()[..]));
    }
    outcome.map(drop)
}

#[test]
fn messages_about_the_device_state_come_once_in_order_and_complete() {
    watchdog!();
    let (first, second) = (piece(0, &STATE[..7]), piece(7, &STATE[7..]));
    let (start, end) = (described(), state_end(STATE));
    let of =
        |messages: &[&Message]| Stream::new(&messages.iter().copied().cloned().collect::<Vec<_>>());
    of(&[&start, &first, &second, &end]).receive().unwrap();
    of(&[&start, &state_end(b"")]).receive().unwrap();
    let failed = Kind::Failed;
    for (messages, why) in [
        (
            &[][..],
            "Finish is out of place: the device state is not complete",
        ),
        (&[&start, &first, &second], "Finish is out of place"),
        (
            &[&start, &start],
            "Description is out of place: the guest has been described already",
        ),
        (
            &[&first],
            "DeviceState is out of place: the guest has not been described yet",
        ),
        (
            &[&end],
            "DeviceStateEnd is out of place: the guest has not been described yet",
        ),
        (
            &[&start, &first, &first],
            "a piece of device state is 0, but 7 was expected",
        ),
        (
            &[&start, &second],
            "a piece of device state is 7, but 0 was expected",
        ),
        (
            &[&start, &first, &end],
            "the length of the device state is 7, but 20 was expected",
        ),
        (
            &[&start, &first, &second, &end, &end],
            "the device state is complete",
        ),
        (
            &[&start, &first, &second, &end, &first],
            "the device state is complete",
        ),
        (
            &[&start, &first, &second, &end, &start],
            "the device state is complete",
        ),
    ] {
        of(messages).refused(failed, why);
    }
    let other = piece(7, &STATE[..13]);
    of(&[&start, &first, &other, &end]).refused(Kind::Differs, "the device state that arrived");
    let mut early = of(&[&start, &first, &second, &end]);
    early.before_the_round_ends = vec![described()];
    early.refused(failed, "Description is out of place: rounds are under way");
    let mut unasked = of(&[&start, &first, &second, &end]);
    unasked.folder_agreed = false;
    unasked.refused(failed, "the capability guest-folder was not agreed on");
}

#[test]
fn messages_that_are_too_long_or_damaged_are_refused() {
    watchdog!();
    let long = piece(0, &vec![1; MAX_PIECE + 1]);
    Stream::new(&[described(), long]).refused(Kind::Failed, "a piece of device state is 262145");
    Stream::new(&[described(), piece(0, b"")]).refused(Kind::Failed, "truncated");
    let big = |configuration, commands| {
        Message::Description(Description {
            configuration,
            commands,
            ..description()
        })
    };
    for (message, why) in [
        (
            big(vec![0; 65_537], vec![]),
            "the configuration's length is 65537",
        ),
        (
            big(vec![], vec![(1, vec![]); 257]),
            "the number of commands is 257",
        ),
        (
            big(vec![], vec![(1, vec![0; 40_000]); 2]),
            "the length of a command's data is 40000, but at most 25536",
        ),
        (
            described_with_early(MAX_EARLY_STATE + 1),
            "the length of the early device state is 16777217, but at most 16777216",
        ),
        (
            described_with_early(u64::MAX),
            "the length of the early device state is 18446744073709551615",
        ),
    ] {
        Stream::new(&[message]).refused(Kind::Failed, why);
    }
    let more = described_with_early(STATE.len() as u64 + 1);
    Stream::new(&[more, piece(0, STATE), state_end(STATE)]).refused(
        Kind::Failed,
        "the length of the early device state is 21, but at most 20",
    );
    let good = Stream::new(&[described(), piece(0, STATE), state_end(STATE)]).bytes();
    receive(&good).unwrap();
    for len in 0..good.len() {
        receive(&good[..len]).expect_err("it is cut short");
    }
    // Every bit of the new messages is under a hash, or means nothing.
    let start = good.len() - Stream::new(&[]).bytes().len();
    for at in good.len() - start - 52..good.len() {
        let mut damaged = good.clone();
        damaged[at] ^= 0x10;
        drop(receive(&damaged));
    }
}

#[test]
fn frames_of_blocks_that_were_not_announced_or_beyond_their_end_are_refused() {
    watchdog!();
    for (block, page, why) in [
        (2, 0, "the frame's block is 2, but at most 1 is allowed"),
        (0, 1, "the end of a run of pages is 2, but at most 1"),
        (1, 2, "the end of a run of pages is 3, but at most 2"),
    ] {
        let mut frame = Parts::new(1, &[(page, Carried::Whole(Page::Fill(1).bytes()))]);
        frame.header.block = block;
        let mut bytes = Stream::new(&[]).bytes();
        let tail = round_end(1, 0, 0, true).len() + 36 + 16;
        bytes.truncate(bytes.len() - tail);
        bytes.extend(frame.bytes());
        bytes.extend(round_end(1, 3, 4, true));
        let line = receive(&bytes).unwrap_err().one_line();
        assert!(line.contains(why), "{why:?} is not in {line:?}");
    }
    assert_eq!(FrameKind::Description as u8, 10);
}

#[test]
fn blocks_that_do_not_fit_a_hello_are_refused_by_the_source() {
    watchdog!();
    let folder = Folder::new();
    let blocks: Vec<_> = (0..300)
        .map(|n| (format!("{n:0255}"), PAGE_SIZE as u64))
        .collect();
    let path = folder.path("guest");
    let made = Output::folder(&path, &blocks, false).and_then(|mut output| output.commit());
    // This may be more files than a process can open, which is as good an error.
    match made {
        Ok(_) => {}
        Err(ImageError::Io { .. }) => return,
        Err(other) => panic!("{other}"),
    }
    let address = unix(&folder.path("socket"));
    let error = source(&[path], &address, Caps::default(), Params::default())
        .and_then(ramferry::Migration::wait)
        .unwrap_err();
    let line = error.one_line();
    assert!(
        line.contains("300 blocks") && line.contains("65536"),
        "{line}"
    );
}
