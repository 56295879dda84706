//! This program beside others of its kind: an older one, which lacks zstd and deltas and speaks an
//! older version besides, and a newer one, which can more and speaks versions that are not there
//! yet. What they say is recorded in `fixtures/native/`, byte by byte, and stays as it was
//! recorded.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use ramferry::codec::Method;
use ramferry::page::Digest;
use ramferry::wire::native::{
    ANSWER_MAGIC, Answer, FrameKind, HEADER_LEN, HELLO_MAGIC, Header, Hello, Message, Offer,
    Verdict,
};
use ramferry::{Error, Kind, Migration, Params};

use crate::golden::{blessing, fixture, load, store};
use crate::support::Files;
use crate::support::{
    Destination, Folder, Page, assert_same_bytes, digest_of, finish, later, mixed, one_round,
    read_answer, read_hello, read_message, unix, watchdog,
};

const PAGES: u64 = 64;

/// What a program of another version said once.
pub(crate) fn recorded(name: &str) -> Vec<u8> {
    if blessing() && !fixture(name).exists() {
        store(name, &made(name));
    }
    load(name)
}

/// How the records came about. They are not made again: later programs may say things otherwise.
fn made(name: &str) -> Vec<u8> {
    let offers = |names: &[&str], required: &[&str]| -> Vec<Offer> {
        let offer = |name: &&str| Offer {
            name: (*name).to_owned(),
            required: required.contains(name),
        };
        names.iter().map(offer).collect()
    };
    let hello = |versions, names: &[&str], required: &[&str]| Hello {
        versions,
        capabilities: offers(names, required),
        ..crate::support::hello(PAGES)
    };
    let accepted = |versions, version, names: &[&str]| Answer {
        versions,
        verdict: Verdict::Accepted,
        version,
        silence_ms: 30_000,
        capabilities: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let refused = |versions, why: &str| Answer {
        verdict: Verdict::Refused(why.to_owned()),
        ..accepted(versions, 0, &[])
    };
    let lacks = |name| format!("the destination lacks the capability '{name}', or has it off");
    let old = ["zlib", "gzip", "lz4"];
    let new = ["zlib", "gzip", "lz4", "zstd", "xbzrle", "telepathy"];
    match name {
        "older-hello" => hello((0, 1), &old, &["zlib"]).to_bytes(),
        "older-answer" => accepted((0, 1), 1, &old).to_bytes(),
        "older-refusal" => refused((0, 1), &lacks("zstd")).to_bytes(),
        "older-probed" => refused((0, 1), &lacks("probe")).to_bytes(),
        "oldest-hello" => hello((0, 0), &old, &["zlib"]).to_bytes(),
        "oldest-answer" => {
            let why = "the source speaks protocol versions 1 to 1, the destination 0 to 0";
            refused((0, 0), why).to_bytes()
        }
        "newer-hello" => longer(&hello((1, 4), &new, &["zstd"]).to_bytes()),
        "newer-hello-requires" => longer(&hello((1, 4), &new, &["telepathy"]).to_bytes()),
        "newer-answer" => {
            let agreed = ["zlib", "gzip", "lz4", "zstd", "xbzrle"];
            longer(&accepted((1, 4), 1, &agreed).to_bytes())
        }
        "newer-probed" => {
            let able = [&new[..], &["guest-folder", "probe"]].concat();
            longer(&accepted((2, 4), 0, &able).to_bytes())
        }
        "newest-hello" => longer(&hello((2, 4), &new, &["zstd"]).to_bytes()),
        "newest-answer" => {
            let why = "the source speaks protocol versions 1 to 1, the destination 2 to 4";
            longer(&refused((2, 4), why).to_bytes())
        }
        _ => panic!("nothing is recorded as {name}"),
    }
}

/// The same with fields at the end that this version does not know.
fn longer(bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.starts_with(&HELLO_MAGIC) || bytes.starts_with(&ANSWER_MAGIC));
    let mut bytes = bytes[..bytes.len() - 8].to_vec();
    bytes.extend_from_slice(b"what the future adds");
    let len = bytes.len() as u32 - 16;
    bytes[12..16].copy_from_slice(&len.to_le_bytes());
    let hash = xxhash_rust::xxh3::xxh3_64(&bytes);
    bytes.extend_from_slice(&hash.to_le_bytes());
    bytes
}

#[test]
fn the_records_are_what_they_are_called() {
    for (name, versions) in [
        ("older-hello", (0, 1)),
        ("oldest-hello", (0, 0)),
        ("newer-hello", (1, 4)),
        ("newer-hello-requires", (1, 4)),
        ("newest-hello", (2, 4)),
    ] {
        assert_eq!(read_hello(&mut &recorded(name)[..]).versions, versions);
    }
    for (name, versions) in [
        ("older-answer", (0, 1)),
        ("older-refusal", (0, 1)),
        ("older-probed", (0, 1)),
        ("oldest-answer", (0, 0)),
        ("newer-answer", (1, 4)),
        ("newer-probed", (2, 4)),
        ("newest-answer", (2, 4)),
    ] {
        assert_eq!(read_answer(&mut &recorded(name)[..]).versions, versions);
    }
}

// ---- this program receives

fn guest() -> Vec<u8> {
    let pages = mixed(PAGES as usize, 7);
    pages.iter().flat_map(Page::bytes).collect()
}

#[test]
fn guests_of_older_and_newer_sources_are_received() {
    watchdog!();
    for (name, agreed) in [
        ("older-hello", &["gzip", "lz4", "zlib"][..]),
        ("newer-hello", &["gzip", "lz4", "xbzrle", "zlib", "zstd"]),
    ] {
        let (folder, image) = (Folder::new(), guest());
        let (socket, output) = (folder.path("socket"), folder.path("out"));
        let destination = Destination::start(&unix(&socket), &output, Params::default());
        destination.address();
        let mut link = UnixStream::connect(&socket).unwrap();
        link.write_all(&recorded(name)).unwrap();
        let answer = read_answer(&mut link);
        assert_eq!(answer.verdict, Verdict::Accepted, "{name}");
        assert_eq!(answer.version, 1, "{name}");
        assert_eq!(answer.capabilities, agreed, "{name}");
        link.write_all(&[one_round(&image), finish(&image)].concat())
            .unwrap();
        let digest = digest_of(&image);
        assert_eq!(read_message(&mut link), Message::Proven { digest });
        link.write_all(&Message::Commit.to_bytes()).unwrap();
        assert_eq!(read_message(&mut link), Message::Committed);
        destination.handle.wait().unwrap();
        assert_same_bytes(&std::fs::read(&output).unwrap(), &image);
    }
}

#[test]
fn a_source_that_does_not_fit_hears_what_is_missing_and_the_next_one_is_received() {
    watchdog!();
    let files = Files::small();
    let mut receiver = files.receiver(&[]);
    for (name, why) in [
        (
            "newer-hello-requires",
            "the destination lacks the capability 'telepathy', or has it off",
        ),
        (
            "newest-hello",
            "the source speaks protocol versions 2 to 4, the destination 1 to 1",
        ),
        (
            "oldest-hello",
            "the source speaks protocol versions 0 to 0, the destination 1 to 1",
        ),
    ] {
        let mut link = UnixStream::connect(&files.socket).unwrap();
        link.write_all(&recorded(name)).unwrap();
        let answer = read_answer(&mut link);
        assert_eq!(answer.verdict, Verdict::Refused(why.to_owned()), "{name}");
        assert_eq!(answer.versions, (1, 1));
        let line = receiver.err_line();
        assert!(line.ends_with(&format!("{why}; still listening")), "{line}");
    }
    files.sender(&[]).finish().succeeded();
    receiver.finish().succeeded();
}

// ---- this program sends

/// What a source is to send: two rounds of a guest, and the digest in the end.
struct Guest {
    folder: Folder,
    digest: Digest,
}

impl Guest {
    fn new() -> Guest {
        let folder = Folder::new();
        let first = mixed(PAGES as usize, 7);
        let last = later(&first, 8);
        folder.image("ram", &first);
        let bytes: Vec<u8> = last.iter().flat_map(Page::bytes).collect();
        // Without holes, of which there would be a notice.
        std::fs::write(folder.path("ram2"), &bytes).unwrap();
        Guest {
            folder,
            digest: digest_of(&bytes),
        }
    }

    fn listen(&self) -> UnixListener {
        UnixListener::bind(self.folder.path("socket")).unwrap()
    }

    fn send(&self, fallback: bool, values: &[(&str, &str)]) -> Migration {
        let socket = unix(&self.folder.path("socket"));
        Migration::send(self.folder.path("ram"))
            .to(socket)
            .then([self.folder.path("ram2")])
            .fallback(fallback)
            .settings(crate::support::params(values))
            .start()
            .unwrap()
    }
}

/// Takes what a source sends, and proves it. What it was compressed with, where it was at all.
fn take(link: &mut UnixStream, digest: Digest) -> Vec<Method> {
    let mut methods = Vec::new();
    loop {
        let mut head = [0; HEADER_LEN];
        link.read_exact(&mut head).unwrap();
        let header = Header::from_bytes(&head).unwrap();
        let mut rest = vec![0; header.rest_len()];
        link.read_exact(&mut rest).unwrap();
        let reply = match header.kind.unwrap() {
            FrameKind::Pages if header.codec == Method::None => continue,
            FrameKind::Pages if !methods.contains(&header.codec) => {
                methods.push(header.codec);
                continue;
            }
            FrameKind::Finish => Message::Proven { digest },
            FrameKind::Commit => Message::Committed,
            FrameKind::Failure => panic!("{:?}", Message::read(&header, FrameKind::Failure, &rest)),
            _ => continue,
        };
        link.write_all(&reply.to_bytes()).unwrap();
        if reply == Message::Committed {
            return methods;
        }
    }
}

/// Nothing came after the hello: not a page, not a frame.
fn is_at_its_end(link: &mut UnixStream) {
    let mut rest = Vec::new();
    link.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}

fn required(hello: &Hello) -> Vec<&str> {
    let required = hello.capabilities.iter().filter(|offer| offer.required);
    required.map(|offer| offer.name.as_str()).collect()
}

#[test]
fn what_the_destination_lacks_ends_a_migration_by_its_name_before_a_page_moves() {
    watchdog!();
    for (answer, why) in [
        (
            "older-refusal",
            "the destination refused: the destination lacks the capability 'zstd', or has it off",
        ),
        (
            "older-answer",
            "the destination lacks the capability 'zstd'",
        ),
        (
            "oldest-answer",
            "the destination refused: the source speaks protocol versions 1 to 1, the destination 0 to 0",
        ),
        (
            "newest-answer",
            "the destination refused: the source speaks protocol versions 1 to 1, the destination 2 to 4",
        ),
    ] {
        let guest = Guest::new();
        let listener = guest.listen();
        let migration = guest.send(false, &[("compress-method", "zstd")]);
        let (mut link, _) = listener.accept().unwrap();
        assert_eq!(required(&read_hello(&mut link)), ["zstd", "xbzrle"]);
        link.write_all(&recorded(answer)).unwrap();
        is_at_its_end(&mut link);
        let error: Error = migration.wait().unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(error.one_line(), why);
    }
}

#[test]
fn with_fallback_an_older_destination_gets_what_it_has() {
    watchdog!();
    let guest = Guest::new();
    let listener = guest.listen();
    let level = [("compress-method", "zstd"), ("compress-level", "19")];
    let migration = guest.send(true, &level);
    let (mut link, _) = listener.accept().unwrap();
    assert!(required(&read_hello(&mut link)).is_empty(), "it only asks");
    link.write_all(&recorded("older-answer")).unwrap();
    let methods = take(&mut link, guest.digest);
    assert_eq!(methods, [Method::Zlib]);

    migration.join().unwrap();
    let report = migration.report();
    assert_eq!(report.dropped, ["zstd", "xbzrle"]);
    assert_eq!((report.method, report.level), (Some("zlib"), Some(9)));
    assert!(report.xbzrle_cache.is_none());
    assert!(report.rounds.iter().all(|round| round.delta == 0));
    assert_eq!(
        report.notices,
        [
            "the destination lacks the capability 'zstd': zlib is used instead",
            "the destination lacks the capability 'xbzrle': changed pages are sent whole",
        ]
    );
    let document = serde_json::to_value(&report).unwrap();
    assert_eq!(document["dropped"], serde_json::json!(["zstd", "xbzrle"]));
}

#[test]
fn a_newer_destination_gets_all_that_was_asked_for() {
    watchdog!();
    for fallback in [false, true] {
        let guest = Guest::new();
        let listener = guest.listen();
        let migration = guest.send(fallback, &[("compress-method", "zstd")]);
        let (mut link, _) = listener.accept().unwrap();
        read_hello(&mut link);
        link.write_all(&recorded("newer-answer")).unwrap();
        let methods = take(&mut link, guest.digest);
        assert_eq!(methods, [Method::Zstd]);
        let report = migration.wait().unwrap();
        assert!(report.dropped.is_empty() && report.notices.is_empty());
        assert!(report.rounds[1].delta > 0);
    }
}

#[test]
fn what_is_left_out_is_decided_on_the_first_connection_and_required_on_the_others() {
    watchdog!();
    let guest = Guest::new();
    let listener = guest.listen();
    let two = [("compress-method", "zstd"), ("connections", "2")];
    let migration = guest.send(true, &two);
    let (mut first, _) = listener.accept().unwrap();
    assert!(required(&read_hello(&mut first)).is_empty());
    first.write_all(&recorded("older-answer")).unwrap();
    let (mut second, _) = listener.accept().unwrap();
    let hello = read_hello(&mut second);
    assert_eq!(required(&hello), ["zlib"]);
    assert_eq!((hello.connection, hello.connections), (1, 2));
    second.write_all(&recorded("older-refusal")).unwrap();
    let error = migration.wait().unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
}

#[test]
fn a_method_that_the_destination_lacks_cannot_be_chosen_while_it_runs() {
    watchdog!();
    let guest = Guest::new();
    let listener = guest.listen();
    let migration = guest.send(true, &[("compress-method", "zstd")]);
    let (mut link, _) = listener.accept().unwrap();
    read_hello(&mut link);
    link.write_all(&recorded("older-answer")).unwrap();
    // The first frame: what the destination can is known.
    let mut head = [0; HEADER_LEN];
    link.read_exact(&mut head).unwrap();
    let refused = migration
        .change(&[("compress-method", "zstd")])
        .unwrap_err();
    assert_eq!(
        refused.one_line(),
        "invalid compress-method zstd: allowed is what the destination supports: none, zlib, gzip, lz4"
    );
    migration.change(&[("compress-method", "lz4")]).unwrap();
    drop(link);
    migration.wait().unwrap_err();
}

#[test]
fn without_a_peer_to_ask_fallback_has_no_effect_and_a_notice_says_so() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(16, 7));
    for (file, wire, why) in [
        (
            "ours",
            ramferry::wire::Format::Native,
            "the destination cannot be asked",
        ),
        ("qemu's", ramferry::wire::Format::Qemu, "on the qemu wire"),
    ] {
        let report = Migration::send(&image)
            .to(ramferry::transport::Address::File(folder.path(file)))
            .format(wire)
            .fallback(true)
            .start()
            .and_then(Migration::wait)
            .unwrap();
        assert!(report.dropped.is_empty());
        assert!(
            report.notices[0].starts_with("fallback has no effect")
                && report.notices[0].contains(why),
            "{:?}",
            report.notices
        );
    }
}

#[test]
fn a_guest_folder_cannot_be_left_out() {
    watchdog!();
    let guest = Guest::new();
    let listener = guest.listen();
    let [folder, _] = crate::folder::two_states(&guest.folder);
    let migration = Migration::send(folder)
        .to(unix(&guest.folder.path("socket")))
        .fallback(true)
        .start()
        .unwrap();
    let (mut link, _) = listener.accept().unwrap();
    assert_eq!(required(&read_hello(&mut link)), ["guest-folder"]);
    link.write_all(&recorded("older-answer")).unwrap();
    is_at_its_end(&mut link);
    let error = migration.wait().unwrap_err();
    assert_eq!(
        error.one_line(),
        "the destination lacks the capability 'guest-folder'"
    );
}
