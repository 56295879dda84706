//! Peers that are not there, or that fall silent.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use ramferry::handshake as session;
use ramferry::wire::native::{Message, Reason};

use crate::support::{
    Files, SLOW, assert_same, hello, read_answer, read_hello, read_message, run, watchdog,
};

#[test]
fn a_connection_that_is_never_accepted_ends_within_its_limit() {
    watchdog!();
    let files = Files::small();
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    for uri in [format!("tcp:127.0.0.1:{port}"), files.uri()] {
        run(&["send", files.image(), &uri, "--connect-timeout", "100ms"])
            .failed_with(1, &[&uri, "within 0.1 s"]);
    }
    run(&[
        "receive",
        &files.uri(),
        files.output(),
        "--accept-timeout",
        "100ms",
    ])
    .failed_with(1, &["no source connected within 0.1 s"]);
    files.nothing_changed(None);
}

#[test]
fn a_listener_that_says_nothing_ends_the_send_within_its_limit() {
    watchdog!();
    let files = Files::small();
    let listener = UnixListener::bind(&files.socket).unwrap();
    let sender = files.sender(&["--timeout", "300ms"]);
    let link = listener.accept().unwrap();
    sender
        .finish()
        .failed_with(1, &["the peer has been silent for 0.3 s"]);
    drop(link);
}

#[test]
fn a_destination_that_falls_silent_ends_the_send_within_its_limit_and_is_named_so() {
    watchdog!();
    for slowly in [true, false] {
        let files = Files::new();
        let listener = UnixListener::bind(&files.socket).unwrap();
        let slow: &[&str] = if slowly { &SLOW } else { &[] };
        let sender = files.sender(&[&["--timeout", "300ms"], slow].concat());
        let (mut link, _) = listener.accept().unwrap();
        let hello = read_hello(&mut link);
        let answer = session::answer(
            &session::negotiate(&hello, &ramferry::Caps::default()),
            Duration::from_secs(30),
        );
        link.write_all(&answer.to_bytes()).unwrap();
        // Takes everything, says nothing.
        let taken = thread::spawn(move || link.read_to_end(&mut Vec::new()));
        sender
            .finish()
            .failed_with(1, &["the peer has been silent for 0.3 s"]);
        taken.join().unwrap().unwrap();
    }
}

#[test]
fn a_source_that_falls_silent_ends_the_receive_within_its_limit() {
    watchdog!();
    let files = Files::small();
    let receiver = files.receiver(&["--timeout", "300ms"]);
    let mut link = UnixStream::connect(&files.socket).unwrap();
    link.write_all(&hello(64).to_bytes()).unwrap();
    read_answer(&mut link);
    let Message::Failure {
        reason: Reason::Failed,
        text,
    } = read_message(&mut link)
    else {
        panic!("the source sees it");
    };
    assert!(text.contains("silent for 0.3 s"), "{text}");
    drop(link);
    receiver
        .finish()
        .failed_with(1, &["the peer has been silent for 0.3 s"]);
    files.nothing_changed(None);
}

#[test]
fn a_source_whose_other_connections_never_come_does_not_keep_the_receiver() {
    watchdog!();
    let files = Files::small();
    let mut receiver = files.receiver(&["--timeout", "300ms"]);
    let mut first = hello(64);
    first.connections = 2;
    let mut link = UnixStream::connect(&files.socket).unwrap();
    link.write_all(&first.to_bytes()).unwrap();
    read_answer(&mut link);
    let line = receiver.err_line();
    assert!(line.starts_with("dropped a source"), "{line}");
    files.sender(&[]).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}
