//! Peers that say for ever that they are still there, and do not take the step that is theirs.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ramferry::wire::native::{Answer, FrameKind, HEADER_LEN, Header, Message, VERSIONS, Verdict};
use ramferry::{Caps, Kind, Migration, Params};

use super::text;
use crate::support::live::{Call, Own, send_live};
use crate::support::{
    Destination, Folder, Page, finish, hello, mixed, one_round, params, read_answer, read_hello,
    read_message, unix, watchdog,
};

/// Reads frames up to one of this kind.
fn read_up_to(link: &mut UnixStream, kind: FrameKind) -> Message {
    loop {
        let mut head = [0; HEADER_LEN];
        link.read_exact(&mut head).unwrap();
        let header = Header::from_bytes(&head).unwrap();
        let mut rest = vec![0; header.rest_len()];
        link.read_exact(&mut rest).unwrap();
        if header.kind == Some(kind) {
            return Message::read(&header, kind, &rest).unwrap();
        }
    }
}

/// Sends keep-alives until the peer hangs up.
fn keep_alive(mut link: UnixStream) {
    link.set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut waste = [0; 4096];
    while link.write_all(&Message::KeepAlive.to_bytes()).is_ok() {
        match link.read(&mut waste) {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

/// A destination that agrees to what it is asked.
fn agree(listener: &UnixListener) -> UnixStream {
    let (mut link, _) = listener.accept().unwrap();
    let offered = read_hello(&mut link).capabilities;
    let answer = Answer {
        versions: (*VERSIONS.start(), *VERSIONS.end()),
        verdict: Verdict::Accepted,
        version: *VERSIONS.end(),
        silence_ms: 30_000,
        capabilities: offered.into_iter().map(|offer| offer.name).collect(),
    };
    link.write_all(&answer.to_bytes()).unwrap();
    link
}

/// A destination that reads everything; it proves what it is asked to, or does not.
fn destination(listener: &UnixListener, proves: bool) {
    let mut link = agree(listener);
    let Message::Finish { digest } = read_up_to(&mut link, FrameKind::Finish) else {
        unreachable!("it is of that kind");
    };
    if proves {
        let proven = Message::Proven { digest };
        link.write_all(&proven.to_bytes()).unwrap();
        read_up_to(&mut link, FrameKind::Commit);
    }
    keep_alive(link);
}

fn short() -> Params {
    params(&[("timeout", "0.5")])
}

#[test]
fn a_destination_that_only_says_that_it_is_there_does_not_hold_a_stopped_guest_for_ever() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(64, 5));
    for (proves, kind, stage, then) in [
        (false, Kind::Failed, "for the proof", Call::Resume),
        (true, Kind::OutcomeUnknown, "to take over", Call::Release),
    ] {
        let own = Own::start(&image, 16, Duration::from_millis(1), 3);
        let near = folder.path(stage);
        let listener = UnixListener::bind(&near).unwrap();
        let far = thread::spawn(move || destination(&listener, proves));
        let source = send_live(&image, &unix(&near), own.choice(), Caps::default(), short());
        let error = source.wait().unwrap_err();
        let line = error.one_line();
        assert_eq!(error.kind(), kind, "{line}");
        let words = "an answer did not come within 2.00 s, though the destination keeps answering";
        assert!(line.contains(words) && line.contains(stage), "{line}");
        assert_eq!(own.calls(), [Call::Stop, then]);
        far.join().unwrap();
    }
}

#[test]
fn a_destination_that_says_that_it_is_there_and_reads_nothing_does_not_hold_a_source_for_ever() {
    watchdog!();
    let folder = Folder::new();
    // More than a socket's buffers take.
    let image = folder.image("ram", &(0..4096).map(Page::Random).collect::<Vec<_>>());
    let near = folder.path("near");
    let listener = UnixListener::bind(&near).unwrap();
    let far = thread::spawn(move || {
        let mut link = agree(&listener);
        let (_held, waits) = std::sync::mpsc::channel::<()>();
        while link.write_all(&Message::KeepAlive.to_bytes()).is_ok() {
            let _ = waits.recv_timeout(Duration::from_millis(50));
        }
    });
    let params = params(&[("timeout", "0.5"), ("compress-method", "none")]);
    let source = Migration::send(&image).to(unix(&near)).settings(params);
    let line = source.start().unwrap().wait().unwrap_err().one_line();
    assert!(
        line.contains("the peer has taken nothing for 2 s, though"),
        "{line}"
    );
    far.join().unwrap();
}

fn source(far: &Path, image: &[u8]) -> UnixStream {
    let mut link = UnixStream::connect(far).unwrap();
    link.write_all(&hello(1).to_bytes()).unwrap();
    read_answer(&mut link);
    link.write_all(&[one_round(image), finish(image)].concat())
        .unwrap();
    let proven = read_message(&mut link);
    assert!(matches!(proven, Message::Proven { .. }), "{proven:?}");
    link
}

#[test]
fn a_source_that_only_says_that_it_is_there_does_not_hold_a_destination_for_ever() {
    watchdog!();
    let folder = Folder::new();
    let (far, output) = (folder.path("far"), folder.path("out"));
    let destination = Destination::start(&unix(&far), &output, short());
    destination.address();
    keep_alive(source(&far, &text(1)));
    let line = destination.handle.wait().unwrap_err().one_line();
    let words = "Commit did not come within 2.00 s, though the source keeps answering";
    assert!(line.contains(words), "{line}");
    assert_eq!(folder.names(), [""; 0]);
}
