//! Addresses: what is listened on, and what errors name.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::support::{Ended, Files, Program, assert_same, command, run, start, watchdog};

/// As QEMU has it: without a host, or with that of every IPv6 address, IPv4 is listened on, too.
#[test]
fn an_unnamed_host_is_listened_on_for_both_families() {
    watchdog!();
    let hosts = match TcpListener::bind("[::1]:0") {
        Ok(_) => &["127.0.0.1", "[::1]"][..],
        Err(error) => {
            println!("only IPv4 is tried, as there is no IPv6 here: {error}");
            &["127.0.0.1"]
        }
    };
    for listened_on in ["tcp:", "tcp:[::]"] {
        for host in hosts {
            if hosts.len() == 1 && listened_on != "tcp:" {
                continue;
            }
            let files = Files::small();
            let address = format!("{listened_on}:0");
            let mut receiver = start(&["receive", &address, files.output(), "--quiet"]);
            let heard = receiver.listening();
            let port = heard.strip_prefix(&format!("{listened_on}:")).unwrap();
            assert_ne!(port, "0");
            let uri = format!("tcp:{host}:{port}");
            run(&["send", files.image(), &uri, "--quiet"]).succeeded();
            receiver.finish().succeeded();
            assert_same(&files.output, &files.image);
        }
    }
    // To connect to, it is this host.
    let files = Files::small();
    let mut receiver = start(&["receive", "tcp::0", files.output(), "--quiet"]);
    run(&["send", files.image(), &receiver.listening(), "--quiet"]).succeeded();
    receiver.finish().succeeded();
}

/// As a service manager hands it over.
#[test]
fn an_inherited_socket_that_listens_is_listened_on() {
    watchdog!();
    let files = Files::small();
    let listener = UnixListener::bind(&files.socket).unwrap();
    let mut receive = command(&["receive", "fd:0", files.output(), "--quiet"]);
    receive.stdin(OwnedFd::from(listener));
    let mut receiver = Program::start(receive);
    assert_eq!(receiver.listening(), "fd:0");
    drop(UnixStream::connect(&files.socket).unwrap());
    let line = receiver.err_line();
    assert!(line.contains("closed before its hello"), "{line}");
    files.sender(&["--connections", "2"]).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}

#[test]
fn a_descriptor_of_the_wrong_direction_is_refused_by_its_name() {
    watchdog!();
    let files = Files::small();
    let name = files.folder.path("one-way");
    let with_input = |args: &[&str], input: OwnedFd| -> Ended {
        let mut command = command(args);
        command.stdin(input);
        Program::start(command).finish()
    };
    let writable = std::fs::File::create(&name).unwrap().into();
    with_input(&["receive", "fd:0", files.output()], writable)
        .failed_with(1, &["cannot open fd:0: it is open for writing only"]);
    let readable = std::fs::File::open(&name).unwrap().into();
    with_input(&["send", files.image(), "fd:0"], readable).failed_with(
        1,
        &["cannot write a stream to fd:0: it is open for reading only"],
    );
    let listener = UnixListener::bind(&files.socket).unwrap().into();
    with_input(&["send", files.image(), "fd:0"], listener).failed_with(
        1,
        &["cannot write a stream to fd:0: it is a socket that listens"],
    );
}

#[test]
fn errors_name_the_schemes_that_are_allowed_there() {
    watchdog!();
    let files = Files::small();
    let all = "tcp:HOST:PORT, unix:PATH, file:PATH, fd:N and exec:COMMAND";
    for (args, hint, allowed) in [
        (
            &["receive", "tcp:4481", "out"][..],
            "did you mean tcp::4481?",
            all,
        ),
        (
            &["receive", "4481", "out"],
            "a port alone is tcp::4481",
            all,
        ),
        (
            &["send", files.image(), "file:-"],
            "standard output fd:1",
            all,
        ),
        (
            &["probe", "4481"],
            "a port alone",
            "tcp:HOST:PORT and unix:PATH",
        ),
        (
            &["probe", "r.sock"],
            "does not begin",
            "tcp:HOST:PORT and unix:PATH",
        ),
        (&["monitor", "m.sock"], "does not begin", "unix:PATH"),
        (
            &["send", files.image(), "unix:s", "--monitor", "m.sock"],
            "does not begin",
            "unix:PATH",
        ),
    ] {
        let ended = run(args);
        ended.failed_with(2, &[hint]);
        let end = format!("; allowed are {allowed}");
        assert!(ended.error().ends_with(&end), "{ended:?}");
    }
}

#[test]
fn a_file_that_ends_within_its_stream_is_named() {
    watchdog!();
    let files = Files::small();
    let stream = files.folder.path("s");
    let uri = format!("file:{}", stream.display());
    run(&["send", files.image(), &uri, "-q"]).succeeded();
    let whole = std::fs::read(&stream).unwrap();
    for left in [0, 10, whole.len() / 2] {
        std::fs::write(&stream, &whole[..left]).unwrap();
        let ended = run(&["receive", &uri, files.output(), "-q"]);
        ended.failed_with(1, &[&uri, "ends before the stream does"]);
    }
}
