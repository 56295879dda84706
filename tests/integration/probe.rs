//! `ramferry probe`: what a listening destination says of itself, that asking does not disturb it,
//! and what becomes of the question elsewhere.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use ramferry::handshake as session;
use ramferry::source::{self, Peer};
use ramferry::transport::Address;
use ramferry::{Caps, Error, Params};
use serde_json::json;

use crate::support::Files;
use crate::support::{
    Destination, Folder, Program, assert_same, command, hello, read_answer, read_hello, run, unix,
    watchdog,
};
use crate::versions::recorded;

fn probe(address: &Address) -> Result<Peer, Error> {
    source::probe(address, &Params::default())
}

fn names(peer: &Peer) -> Vec<&str> {
    let able = peer.capabilities.as_ref().unwrap();
    able.iter().map(String::as_str).collect()
}

const ALL: [&str; 8] = [
    "early-device-state",
    "guest-folder",
    "guest-stays",
    "gzip",
    "lz4",
    "xbzrle",
    "zlib",
    "zstd",
];

#[test]
fn a_destination_says_what_it_can_and_goes_on_waiting_for_its_source() {
    watchdog!();
    let files = Files::small();
    let receiver = files.receiver(&["--timeout", "12"]);
    let uri = files.uri();
    for _ in 0..3 {
        let shown = run(&["probe", &uri]);
        shown.succeeded();
        assert_eq!(
            shown.out,
            format!(
                "{uri} is a ramferry that receives\n\
                 protocol     versions 1 to 1; version 1 would be used\n\
                 timeout      12.00 s of silence\n\
                 capabilities early-device-state, guest-folder, guest-stays, gzip, lz4, xbzrle, zlib, zstd\n\
                 missing      nothing\n"
            )
        );
        assert_eq!(shown.err, "");
    }
    assert_eq!(files.folder.names(), ["ram", "socket"], "nothing was begun");
    files.sender(&[]).finish().succeeded();
    let received = receiver.finish();
    received.succeeded();
    assert_eq!(received.err, "", "it has nothing to say about it");
    assert_same(&files.output, &files.image);
}

#[test]
fn what_is_switched_off_is_reported_as_missing_and_refused_or_left_out() {
    watchdog!();
    let files = Files::small();
    let off = ["--capability", "xbzrle=off", "--capability", "compress=off"];
    let mut receiver = files.receiver(&off);
    let uri = files.uri();
    let told = run(&["probe", &uri, "--json"]).json();
    assert_eq!(
        told,
        json!({
            "address": uri,
            "protocol-versions": [1, 1],
            "own-protocol-versions": [1, 1],
            "protocol-version": 1,
            "timeout": 30.0,
            "capabilities": ["early-device-state", "guest-folder", "guest-stays"],
            "lacks": ["zlib", "gzip", "lz4", "zstd", "xbzrle"],
            "refusal": null,
        })
    );
    let image = files.image();
    let later = ["--then", image, "--compress-method", "zstd"];
    let why = "lacks the capability 'zstd'";
    files.sender(&later).finish().failed_with(4, &[why]);
    assert!(receiver.err_line().contains(why));

    let send = ["send", image, &uri, "--fallback", "--json"];
    let sent = run(&[&send[..], &later].concat());
    sent.succeeded();
    for line in [
        "note: the destination lacks the capability 'zstd': nothing is compressed\n",
        "note: the destination lacks the capability 'xbzrle': changed pages are sent whole\n",
        "\ndropped     zstd, xbzrle: the destination lacks it\n",
    ] {
        assert!(sent.err.contains(line), "no {line:?} in {sent:?}");
    }
    assert_eq!(sent.json()["dropped"], json!(["zstd", "xbzrle"]));
    assert_eq!(sent.json()["method"], "none");
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}

#[test]
fn over_several_connections_what_is_missing_is_left_out_of_all() {
    watchdog!();
    let files = Files::small();
    let receiver = files.receiver(&["--capability", "xbzrle=off"]);
    let more = ["--then", files.image(), "--fallback", "--connections", "4"];
    files.sender(&more).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}

#[test]
fn a_session_that_is_joining_is_not_disturbed() {
    watchdog!();
    let folder = Folder::new();
    let (socket, output) = (folder.path("socket"), folder.path("out"));
    let destination = Destination::start(&unix(&socket), &output, Params::default());
    destination.address();
    let mut both = hello(64);
    both.connections = 2;
    let mut first = UnixStream::connect(&socket).unwrap();
    first.write_all(&both.to_bytes()).unwrap();
    session::check_answer(&both, &read_answer(&mut first)).unwrap();

    assert_eq!(names(&probe(&unix(&socket)).unwrap()), ALL);

    both.connection = 1;
    let mut second = UnixStream::connect(&socket).unwrap();
    second.write_all(&both.to_bytes()).unwrap();
    session::check_answer(&both, &read_answer(&mut second)).unwrap();
    drop((first, second));
    destination.handle.wait().unwrap_err();
    let dropped: Vec<String> = destination.dropped.iter().collect();
    assert_eq!(dropped, [""; 0]);
}

#[test]
fn a_receiver_whose_migration_runs_no_longer_listens() {
    watchdog!();
    let files = Files::new();
    let receiver = files.receiver(&[]);
    let sender = files.sender(&crate::support::SLOW);
    files.wait_for_partial();
    run(&["probe", &files.uri(), "--connect-timeout", "50ms"])
        .failed_with(1, &["cannot connect to", "within 0.05 s"]);
    sender.signal(rustix::process::Signal::INT);
    sender.finish();
    let received = receiver.finish();
    assert!(!received.err.contains("dropped"), "{received:?}");
}

#[test]
fn an_older_destination_still_says_which_versions_it_speaks() {
    watchdog!();
    let folder = Folder::new();
    let socket = folder.path("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let older = thread::spawn(move || {
        for _ in 0..3 {
            let (mut link, _) = listener.accept().unwrap();
            let hello = read_hello(&mut link);
            // What it does not know is required, so that it says no; and no guest is announced.
            assert!(hello.blocks.is_empty());
            assert!(hello.capabilities.iter().all(|offer| offer.required));
            link.write_all(&recorded("older-probed")).unwrap();
        }
    });
    let why = "the destination lacks the capability 'probe', or has it off";
    let peer = probe(&unix(&socket)).unwrap();
    assert_eq!((peer.versions, peer.version), ((0, 1), Some(1)));
    assert_eq!(peer.capabilities, Err(why.to_owned()));
    assert_eq!(peer.lacks(), None);

    let uri = format!("unix:{}", socket.display());
    let shown = run(&["probe", &uri]);
    shown.succeeded();
    let told = format!("capabilities unknown: {why}\n");
    assert!(
        shown
            .out
            .contains("versions 0 to 1; version 1 would be used")
    );
    assert!(shown.out.ends_with(&told), "{shown:?}");
    let told = run(&["probe", &uri, "--json"]).json();
    assert_eq!(told["capabilities"], json!(null));
    assert_eq!(told["refusal"], why);
    older.join().unwrap();
}

#[test]
fn a_newer_destination_may_have_no_version_in_common_and_names_that_are_not_known() {
    watchdog!();
    let folder = Folder::new();
    let socket = folder.path("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let newer = thread::spawn(move || {
        let (mut link, _) = listener.accept().unwrap();
        read_hello(&mut link);
        link.write_all(&recorded("newer-probed")).unwrap();
    });
    let shown = run(&["probe", &format!("unix:{}", socket.display())]);
    newer.join().unwrap();
    shown.succeeded();
    assert!(
        shown.out.contains(
            "protocol     versions 2 to 4; this program supports 1 to 1, so a migration would be refused\n"
        ),
        "{shown:?}"
    );
    assert!(shown.out.contains(", telepathy, "), "{shown:?}");
}

#[test]
fn a_destination_answers_a_newer_program_whatever_version_that_speaks() {
    watchdog!();
    let folder = Folder::new();
    let socket = folder.path("socket");
    let destination = Destination::start(&unix(&socket), &folder.path("out"), Params::default());
    destination.address();
    for (versions, version) in [((1, 1), 1), ((1, 9), 1), ((7, 9), 0), ((0, 0), 0)] {
        let mut hello = session::probe_hello(std::time::Duration::from_secs(1)).unwrap();
        (hello.versions, hello.page_size) = (versions, 65536);
        let mut link = UnixStream::connect(&socket).unwrap();
        // However slowly it comes.
        for byte in hello.to_bytes() {
            link.write_all(&[byte]).unwrap();
        }
        let answer = read_answer(&mut link);
        assert_eq!((answer.versions, answer.version), ((1, 1), version));
        assert!(answer.capabilities.contains(&"probe".to_owned()));
        assert_eq!(link.read(&mut [0]).unwrap(), 0, "that was all");
    }
    destination.handle.cancel();
    let _ = destination.handle.join();
    assert_eq!(destination.dropped.try_iter().count(), 0);
}

#[test]
fn what_is_not_a_destination_is_named_in_one_line() {
    watchdog!();
    for (says, why) in [
        (
            &b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"[..],
            "is not a ramferry that receives: this is not a ramferry stream",
        ),
        (b"", "hung up without an answer: it is not ramferry"),
        (b"\x91ram", "hung up without an answer: it is not ramferry"),
        (
            b"\x91ramans\n\x01\0\x01\0\xff\xff\xff\xff",
            "is not a ramferry that receives: the hello's length is 4294967295",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("tcp:{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut link, _) = listener.accept().unwrap();
            read_hello(&mut link);
            link.write_all(says).unwrap();
        });
        run(&["probe", &uri]).failed_with(1, &[&uri, why]);
        server.join().unwrap();
    }
}

#[test]
fn a_peer_that_says_nothing_or_too_little_is_given_up_in_time() {
    watchdog!();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("tcp:{}", listener.local_addr().unwrap());
    // It is never accepted; the system has taken the connection all the same.
    run(&["probe", &uri, "--timeout", "50ms"]).failed_with(
        1,
        &["does not answer as a ramferry would", "silent for 0.05 s"],
    );
    drop(listener);
    run(&["probe", &uri, "--connect-timeout", "50ms"])
        .failed_with(1, &["cannot connect to", "within 0.05 s"]);
    for uri in ["file:x", "fd:0", "exec:true"] {
        run(&["probe", uri]).failed_with(2, &[uri, "tcp:HOST:PORT or unix:PATH"]);
    }
}

#[test]
fn a_destination_that_does_not_listen_answers_and_has_no_source() {
    watchdog!();
    let folder = Folder::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let output = folder.path("out");
    let mut receive = command(&["receive", "fd:0", output.to_str().unwrap()]);
    receive.stdin(OwnedFd::from(theirs));
    let receiver = Program::start(receive);
    let hello = session::probe_hello(std::time::Duration::from_secs(1)).unwrap();
    ours.write_all(&hello.to_bytes()).unwrap();
    let known: Vec<&str> = session::known_capabilities(&Caps::default()).collect();
    let answer = read_answer(&mut ours);
    assert!(
        known
            .iter()
            .all(|name| answer.capabilities.iter().any(|has| has == name))
    );
    receiver.finish().failed_with(1, &["only asked"]);
    assert!(folder.names().is_empty());
}
