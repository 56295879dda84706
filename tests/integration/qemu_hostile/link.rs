//! Who is at the other end: sources that flood the return path, stay silent, or mix with others on
//! one address; and destinations that answer anything.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use ramferry::wire::Format;
use ramferry::wire::qemu::{Command, SectionKind, put_command, put_header};
use ramferry::{Caps, Error, Kind, Migration, Params, Settings};

use super::{Model, Sent, listen};
use crate::support::{
    Destination, Folder, Page, Program, command, hello, mixed, params, read_answer, unix, watchdog,
};

fn with_commands(codes: &[Command]) -> Vec<u8> {
    let mut stream = Vec::new();
    put_header(&mut stream, "none", &[]);
    for &code in codes {
        put_command(&mut stream, code);
    }
    stream
}

/// A stream with these commands in front of RAM.
fn guest_after(codes: &[Command], fill: impl FnOnce(&mut Model)) -> Vec<u8> {
    let mut header = Vec::new();
    put_header(&mut header, "none", &[]);
    let model = Model::with(&[("ram", 200)], fill);
    [&with_commands(codes), &model.stream[header.len()..]].concat()
}

const OPEN: Command = Command::OpenReturnPath;
const SHUT_0: [u8; 8] = [0, 1, 0, 4, 0, 0, 0, 0];
const SHUT_1: [u8; 8] = [0, 1, 0, 4, 0, 0, 0, 1];

fn pong(value: u32) -> Vec<u8> {
    [&[0, 2, 0, 4][..], &value.to_be_bytes()].concat()
}

fn start(folder: &Folder, timeout: &str) -> (Migration, UnixStream) {
    let socket = folder.path("socket");
    let params = params(&[("timeout", timeout), ("accept-timeout", "5")]);
    let handle = listen(&socket, &folder.path("out"), params);
    (handle, UnixStream::connect(socket).unwrap())
}

#[track_caller]
fn failed(folder: &Folder, handle: Migration, what: &str) {
    let line = handle.wait().expect_err(what).one_line();
    assert!(line.contains(what), "{what:?} is not in {line:?}");
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[test]
fn a_peer_that_asks_and_never_reads_is_given_up() {
    watchdog!();
    let folder = Folder::in_memory();
    let (handle, mut link) = start(&folder, "0.3");
    let mut all = with_commands(&[OPEN]);
    for value in 0..1_000_000 {
        let code = Command::Ping(value);
        put_command(&mut all, code);
    }
    // Fails when the receiver has had enough.
    link.write_all(&all).unwrap_err();
    failed(&folder, handle, "the peer has been silent for 0.3 s");
}

#[test]
fn every_ping_is_answered_in_order_and_the_end_is_sent_to_a_peer_that_never_hangs_up() {
    watchdog!();
    let folder = Folder::in_memory();
    let (handle, mut link) = start(&folder, "5");
    let codes = [OPEN, OPEN, Command::Ping(7), Command::Ping(7)];
    let stream = guest_after(&codes, |model| {
        for page in 0..200 {
            model.put(0, page, &Sent::Page(Page::Text(page)));
            if page == 100 {
                model.end();
                let code = Command::Ping(u32::MAX);
                put_command(&mut model.stream, code);
                model.begin(SectionKind::Part);
            }
        }
    });
    link.write_all(&stream).unwrap();
    let mut answers = Vec::new();
    // Until the receiver hangs up; this end does not.
    link.read_to_end(&mut answers).unwrap();
    handle.wait().unwrap();
    assert_eq!(
        answers,
        [pong(7), pong(7), pong(u32::MAX), SHUT_0.to_vec()].concat()
    );
}

#[test]
fn a_source_on_the_return_path_hears_of_every_failure() {
    watchdog!();
    let broken = |kind: &'static str| {
        guest_after(&[OPEN], move |model| {
            for page in 0..100 {
                model.put(0, page, &Sent::Page(Page::Random(page)));
            }
            model.raw(0, 3, kind, b"no good");
        })
    };
    let mut flags = guest_after(&[OPEN], |_| {});
    flags.truncate(flags.len() - 60);
    flags.extend([0xff; 300]);
    let outside = guest_after(&[OPEN, Command::Ping(1)], |model| {
        model.raw(0, 201, "zero", &[0]);
    });
    for (stream, what) in [
        // Found by a decoder, which ends the session from within.
        (broken("compressed"), "zlib"),
        (broken("delta"), "delta"),
        (flags, "byte"),
        (outside, "which has 0xc8000 bytes"),
    ] {
        let folder = Folder::in_memory();
        let (handle, mut link) = start(&folder, "5");
        let mut reader = link.try_clone().unwrap();
        let answers = thread::spawn(move || {
            let mut answers = Vec::new();
            // What was said before the end is what matters.
            let _ = reader.read_to_end(&mut answers);
            let _ = reader.shutdown(Shutdown::Both);
            answers
        });
        let _ = link.write_all(&stream);
        failed(&folder, handle, what);
        let answers = answers.join().unwrap();
        assert!(answers.ends_with(&SHUT_1), "{what}: {answers:?}");
    }
}

#[test]
fn a_source_that_falls_silent_is_given_up_wherever_it_does() {
    watchdog!();
    let whole = guest_after(&[OPEN], |model| model.put(0, 1, &Sent::Fill(1)));
    let end = whole.windows(2).rposition(|two| two == [0, 6]).unwrap();
    for cut in [20, 60, whole.len() - 60, end, whole.len() - 1] {
        let folder = Folder::in_memory();
        let (handle, mut link) = start(&folder, "0.1");
        link.write_all(&whole[..cut]).unwrap();
        let mut answers = Vec::new();
        link.read_to_end(&mut answers).unwrap();
        drop(link);
        assert_eq!(answers, if cut == 20 { &[][..] } else { &SHUT_1 });
        failed(&folder, handle, "the peer has been silent for 0.1 s");
    }
    // Without a return path, the end of the stream is when the source hangs up.
    let whole = guest_after(&[], |model| model.put(0, 1, &Sent::Fill(1)));
    let folder = Folder::in_memory();
    let (handle, mut link) = start(&folder, "0.1");
    link.write_all(&whole).unwrap();
    failed(&folder, handle, "the peer has been silent for 0.1 s");
}

#[test]
fn more_commands_than_a_guest_can_have_are_refused() {
    watchdog!();
    let model = Model::with(&[("ram", 1)], |model| {
        model.end();
        for _ in 0..1000 {
            let code = Command::SwitchoverStart;
            put_command(&mut model.stream, code);
        }
        model.begin(SectionKind::Part);
    });
    super::refuses(&model.stream, "too many commands: 257, but at most 256");
}

// ---- one address

#[test]
fn no_client_ends_what_another_source_has_begun() {
    watchdog!();
    let folder = Folder::new();
    let (socket, output) = (folder.path("socket"), folder.path("out"));
    let destination = Destination::start(&unix(&socket), &output, Params::default());
    destination.address();
    let connect = |bytes: &[u8]| {
        let mut link = UnixStream::connect(&socket).unwrap();
        link.write_all(bytes).unwrap();
        link
    };
    // One of us, with another connection still to come.
    let mut hello = hello(1);
    hello.connections = 2;
    let mut native = connect(&hello.to_bytes());
    read_answer(&mut native);
    let stranger = connect(b"GET / HTTP/1.1\r\n\r\n");
    assert!(destination.dropped.recv().unwrap().contains("dropped"));
    let multifd = connect(&[&[0x11, 0x22, 0x33, 0x44][..], &[0; 60]].concat());
    let line = destination.dropped.recv().unwrap();
    assert!(line.contains("multifd"), "{line}");
    let model = Model::with(&[("ram", 1)], |model| model.put(0, 0, &Sent::Fill(1)));
    let early = connect(&model.stream);
    let line = destination.dropped.recv().unwrap();
    assert!(line.contains("another migration is under way"), "{line}");
    // When it is gone, a QEMU may come.
    drop((native, stranger, multifd, early));
    let line = destination.dropped.recv().unwrap();
    assert!(line.contains("went away"), "{line}");
    drop(connect(&model.stream));
    destination.handle.wait().unwrap();
    assert_eq!(folder.names(), ["out"]);
}

// ---- destinations

/// Sends a guest to a peer that sends `says` at once, then `more` until the link is closed, and
/// hangs up when `hangs_up`, or else when the source does.
fn send(
    folder: &Folder,
    says: &[u8],
    more: &[u8],
    hangs_up: bool,
    return_path: bool,
) -> Result<(), Error> {
    let socket = folder.path("destination");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let (says, more) = (says.to_vec(), more.to_vec());
    let peer = thread::spawn(move || {
        let (mut link, _) = listener.accept().unwrap();
        link.write_all(&says).unwrap();
        if hangs_up {
            return;
        }
        let mut reader = link.try_clone().unwrap();
        let reading = thread::spawn(move || {
            let _ = std::io::copy(&mut reader, &mut std::io::sink());
        });
        while !more.is_empty() && link.write_all(&more).is_ok() {}
        reading.join().unwrap();
    });
    let image = folder.image("guest", &mixed(50, 3));
    let outcome = to_qemu(&image, &socket, return_path);
    peer.join().unwrap();
    outcome
}

fn to_qemu(image: &Path, socket: &Path, return_path: bool) -> Result<(), Error> {
    let mut caps = Caps::for_qemu();
    caps.set("return-path", return_path).unwrap();
    Migration::send(image)
        .to(unix(socket))
        .format(Format::Qemu)
        .settings(Settings::new(params(&[("timeout", "0.3")]), caps))
        .start()?
        .wait()
        .map(drop)
}

#[test]
fn whatever_a_destination_answers_the_source_ends() {
    watchdog!();
    let folder = Folder::in_memory();
    let pongs = pong(1).repeat(1000);
    let acks = [0, 7, 0, 0].repeat(1000);
    let (failed, refused, unknown) = (Kind::Failed, Kind::Refused, Kind::OutcomeUnknown);
    let pages = [&[0, 4, 0, 12][..], &[0; 11], &[9]].concat();
    let pages_by_name = [&[0, 3, 0, 13][..], &[0; 13]].concat();
    let unexpected = "unexpected message";
    // Before RAM, and after it.
    for (first, cut) in [(&[][..], failed), (&pong(1), unknown)] {
        for (says, more, kind, what) in [
            (&SHUT_1[..], &[][..], refused, "could not load the guest"),
            (&[0, 1, 0, 4, 0, 0, 0, 9], &[], refused, "9"),
            (&pong(2), &[], failed, "unexpected message Pong(2)"),
            (&[], &acks, failed, unexpected),
            (&[0xff; 64], &[], failed, "return path"),
            (&pages, &[], failed, "type"),
            (&pages_by_name, &[], failed, "type"),
            // SHUT with another length, and an answer that is not whole.
            (&[0, 1, 0, 2, 0, 0], &[], failed, "length"),
            (&[0, 1, 0, 4, 0], &[], cut, "0.3 s"),
            (&[], &[], cut, "0"),
        ] {
            // After RAM it may have loaded the guest, unless it says that it has not.
            let kind = match first.is_empty() || says == SHUT_1 {
                true => kind,
                false => unknown,
            };
            let says = [first, says].concat();
            let error = send(&folder, &says, more, false, true).expect_err(what);
            let line = error.one_line();
            assert!(line.contains(what), "{what:?} is not in {line:?}");
            assert_eq!(error.kind(), kind, "{line}");
        }
    }
    let flood = send(&folder, &[], &pongs, false, true).unwrap_err();
    assert!(flood.one_line().contains("unexpected message Pong(1)"));
    let early = send(&folder, &SHUT_0, &[], false, true).unwrap_err();
    assert!(early.one_line().contains("unexpected message Shut(0)"));
    let gone = send(&folder, &[], &[], true, true).expect_err("hung up");
    let line = gone.one_line();
    assert!(
        line.contains("hung up") || line.contains("failed"),
        "{line}"
    );
    // Its word is all there is; and without a return path there is none.
    let loaded = [pong(1), SHUT_0.to_vec()].concat();
    send(&folder, &loaded, &[], false, true).unwrap();
    let ready = [&[0, 7, 0, 0][..], &loaded].concat();
    send(&folder, &ready, &[], false, true).unwrap();
    send(&folder, &[], &[], false, false).unwrap();
    send(&folder, &[], b"and so on", false, false).unwrap();
}

/// As a QEMU does whose capability multifd is on: it waits for its further connections.
#[test]
fn no_ram_is_sent_to_a_destination_that_does_not_answer() {
    watchdog!();
    let folder = Folder::in_memory();
    let socket = folder.path("destination");
    let listener = UnixListener::bind(&socket).unwrap();
    let peer = thread::spawn(move || {
        let (mut link, _) = listener.accept().unwrap();
        let mut stream = Vec::new();
        let _ = link.read_to_end(&mut stream);
        stream
    });
    let image = folder.image("guest", &mixed(500, 3));
    let error = to_qemu(&image, &socket, true).unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    let line = error.one_line();
    assert!(
        line.contains("did not answer within 300.00 ms: a QEMU whose capability multifd"),
        "{line}"
    );
    assert!(peer.join().unwrap().len() < 200, "it has the preamble only");
}

#[test]
fn a_machine_type_that_no_stream_can_name_is_refused() {
    let folder = Folder::in_memory();
    let image = folder.image("guest", &mixed(2, 1));
    let error = Migration::send(&image)
        .to(unix(&folder.path("nothing")))
        .format(Format::Qemu)
        .settings(Settings::new(Params::default(), Caps::for_qemu()))
        .machine("m".repeat(256))
        .start()
        .and_then(Migration::wait)
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.one_line().contains("256 bytes, but at most 255"));
}

// ---- memory

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() << 10
}

/// Sends `front`, waits for the answer to a ping, then sends `piece` as often as it says, with a
/// ping after it all: the most memory that the receiver ever had more.
fn growth(front: &[Command], begin: &[u8], piece: &[u8], times: usize, end: &[u8]) -> u64 {
    let folder = Folder::in_memory();
    let socket = folder.path("socket");
    let (address, output) = (format!("unix:{}", socket.display()), folder.path("out"));
    let args = ["receive", &address, output.to_str().unwrap()];
    let mut program = Program::start(command(&args));
    program.listening();
    let mut link = UnixStream::connect(&socket).unwrap();
    link.write_all(&with_commands(front)).unwrap();
    let mut first = [0; 8];
    link.read_exact(&mut first).unwrap();
    let before = resident(program.pid());
    let mut reader = link.try_clone().unwrap();
    let answers = thread::spawn(move || {
        let mut answer = [0; 8];
        while answer != pong(99)[..] {
            reader.read_exact(&mut answer).unwrap();
        }
    });
    link.write_all(begin).unwrap();
    for _ in 0..times {
        link.write_all(piece).unwrap();
    }
    link.write_all(end).unwrap();
    answers.join().unwrap();
    resident(program.pid()).saturating_sub(before)
}

fn ping(value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let code = Command::Ping(value);
    put_command(&mut out, code);
    out
}

#[test]
fn no_number_of_short_records_or_commands_takes_memory() {
    watchdog!();
    let front = [OPEN, Command::Ping(1)];
    // 2.7 MB of commands in front of RAM.
    let pings = growth(&front, &[], &ping(5).repeat(1000), 300, &ping(99));
    assert!(pings < 2 << 20, "{pings}");
    // Many zero records of 9 bytes, of pages that belong to the decoders in turn or all to one.
    for step in [64, 128] {
        let mut header = Vec::new();
        put_header(&mut header, "none", &[]);
        let mut model = Model::new(&[("ram", 1 << 38)]);
        model.begin(SectionKind::Part);
        model.raw(0, 0, "zero", &[0]);
        let begin = model.stream.split_off(header.len());
        model.stream.clear();
        for page in 0..1000 {
            model.raw(0, page * step, "zero", &[0]);
        }
        let piece = std::mem::take(&mut model.stream);
        model.end();
        model.stream.extend(ping(99));
        let grown = growth(&front, &begin, &piece, 300, &model.stream);
        assert!(grown < 16 << 20, "{grown}");
    }
}
