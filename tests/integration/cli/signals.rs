//! Signals, and sudden ends of either side.

use std::os::unix::net::UnixListener;

use rustix::process::Signal;

use crate::support::{
    Files, Program, SLOW, assert_same, command, read_hello, start_with, until, watchdog,
};

#[test]
fn a_signal_to_the_source_ends_both_sides_and_changes_nothing() {
    watchdog!();
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT] {
        for old in [None, Some(&b"old"[..])] {
            let files = Files::new();
            files.with_old_output(old);
            let receiver = files.receiver(&["--force"]);
            let sender = files.sender(&SLOW);
            files.wait_for_partial();
            sender.signal(signal);
            sender.finish().failed_with(130, &["interrupted"]);
            let ended = receiver.finish();
            ended.failed_with(1, &[]);
            // Also in the middle of a frame, whose rest is written without a limit.
            let line = ended.error();
            assert!(
                line.contains("the other side gave up: interrupted"),
                "{line}"
            );
            files.nothing_changed(old);
        }
    }
}

#[test]
fn a_signal_to_the_destination_ends_both_sides_and_changes_nothing() {
    watchdog!();
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT] {
        for old in [None, Some(&b"old"[..])] {
            let files = Files::new();
            files.with_old_output(old);
            let receiver = files.receiver(&["--force"]);
            let sender = files.sender(&SLOW);
            files.wait_for_partial();
            receiver.signal(signal);
            receiver.finish().failed_with(130, &["interrupted"]);
            sender
                .finish()
                .failed_with(1, &["the other side gave up: interrupted"]);
            files.nothing_changed(old);
        }
    }
}

#[test]
fn a_signal_ends_a_receiver_that_listens_and_a_source_without_an_answer() {
    watchdog!();
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT] {
        let files = Files::small();
        let receiver = files.receiver(&[]);
        receiver.signal(signal);
        receiver.finish().failed_with(130, &["interrupted"]);
        files.nothing_changed(None);

        let listener = UnixListener::bind(&files.socket).unwrap();
        let sender = files.sender(&[]);
        let (mut link, _) = listener.accept().unwrap();
        read_hello(&mut link);
        sender.signal(signal);
        sender.finish().failed_with(130, &["interrupted"]);
    }
}

#[test]
fn a_signal_while_a_stream_is_stored_leaves_no_stream() {
    watchdog!();
    let files = Files::new();
    let stream = files.folder.path("stream");
    let uri = format!("file:{}", stream.display());
    let sender = start_with(&["send", files.image(), &uri, "--quiet"], &SLOW);
    let partial = files.folder.path("stream.partial");
    until(|| std::fs::metadata(&partial).is_ok_and(|metadata| metadata.len() > 0));
    sender.signal(Signal::INT);
    sender.finish().failed_with(130, &["interrupted"]);
    assert_eq!(files.folder.names(), ["ram"]);
}

#[test]
fn a_killed_receiver_leaves_the_old_output_and_a_second_attempt_works() {
    watchdog!();
    let files = Files::new();
    std::fs::write(&files.output, b"old").unwrap();
    let receiver = files.receiver(&["--force"]);
    let sender = files.sender(&SLOW);
    files.wait_for_partial();
    receiver.signal(Signal::KILL);
    assert_eq!(receiver.finish().code, None);
    sender
        .finish()
        .failed_with(1, &["the peer closed the connection"]);
    assert_eq!(std::fs::read(&files.output).unwrap(), b"old");

    // The socket and the partial file remain; neither is in the way.
    let receiver = files.receiver(&["--force"]);
    files.sender(&[]).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
    assert_eq!(files.folder.names(), ["out", "ram"]);
}

#[test]
fn a_killed_source_ends_the_receiver() {
    watchdog!();
    let files = Files::new();
    let receiver = files.receiver(&[]);
    let sender = files.sender(&SLOW);
    files.wait_for_partial();
    sender.signal(Signal::KILL);
    assert_eq!(sender.finish().code, None);
    receiver
        .finish()
        .failed_with(1, &["the peer closed the connection"]);
    files.nothing_changed(None);
}

#[test]
fn a_signal_ends_what_has_nothing_to_clean_up_as_it_ends_any_program() {
    watchdog!();
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT] {
        let files = Files::small();
        let listener = UnixListener::bind(&files.socket).unwrap();
        let probe = start_with(&["probe", &files.uri()], &[]);
        let _link = listener.accept().unwrap();
        probe.signal(signal);
        assert_eq!(probe.finish().code, None, "{signal:?}");
    }
}

#[test]
fn a_report_that_cannot_be_printed_does_not_change_what_happened() {
    watchdog!();
    let files = Files::small();
    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let receive = command(&["receive", &files.uri(), files.output(), "--json"]);
    let mut receive = Program::start_with_stdout(receive, full());
    receive.err_line();
    let send = command(&["send", files.image(), &files.uri(), "--json"]);
    let sent = Program::start_with_stdout(send, full()).finish();
    for ended in [sent, receive.finish()] {
        ended.succeeded();
        assert!(ended.err.contains("no report: "), "{ended:?}");
    }
    assert_same(&files.output, &files.image);
}
