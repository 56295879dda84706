//! Peers that do not fit each other.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use ramferry::handshake as session;
use ramferry::wire::native::Offer;

use crate::support::{Files, assert_same, hello, read_answer, read_hello, watchdog};

#[test]
fn a_source_that_does_not_fit_learns_why_and_the_receiver_goes_on() {
    watchdog!();
    let files = Files::small();
    let mut receiver = files.receiver(&[]);
    let mut of_the_future = hello(64);
    of_the_future.versions = (7, 9);
    let mut telepath = hello(64);
    telepath.capabilities.push(Offer {
        name: "telepathy".to_owned(),
        required: true,
    });
    let mut large_pages = hello(64);
    large_pages.page_size = 65536;
    let mut late = hello(64);
    (late.connection, late.connections) = (1, 2);
    for (hello, why) in [
        (of_the_future, "protocol versions 7 to 9"),
        (telepath, "lacks the capability 'telepathy'"),
        (large_pages, "the page size is 65536"),
        (late, "connection 1 came first"),
    ] {
        let mut link = UnixStream::connect(&files.socket).unwrap();
        link.write_all(&hello.to_bytes()).unwrap();
        let refused = session::check_answer(&hello, &read_answer(&mut link)).unwrap_err();
        assert_eq!(refused.kind(), ramferry::Kind::Refused);
        assert!(refused.to_string().contains(why), "{refused}");
        let line = receiver.err_line();
        assert!(
            line.starts_with("refused a source at ") && line.contains(why),
            "{line}"
        );
    }
    files.sender(&[]).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}

#[test]
fn a_destination_that_refuses_makes_the_source_exit_with_4_and_its_reason() {
    watchdog!();
    let good = |hello: &ramferry::wire::native::Hello| {
        session::answer(
            &session::negotiate(hello, &ramferry::Caps::default()),
            Duration::from_secs(30),
        )
    };
    for (number, what) in [
        "the guest is not welcome",
        "protocol version 2, but 1 to 1",
        "lacks the capability 'zstd'",
    ]
    .into_iter()
    .enumerate()
    {
        let files = Files::small();
        let listener = UnixListener::bind(&files.socket).unwrap();
        let sender = files.sender(&["--compress-method", "zstd"]);
        let (mut link, _) = listener.accept().unwrap();
        let hello = read_hello(&mut link);
        let mut answer = good(&hello);
        match number {
            0 => answer = session::answer(&Err(what.to_owned()), Duration::from_secs(30)),
            1 => answer.version = 2,
            _ => answer.capabilities.retain(|name| name != "zstd"),
        }
        link.write_all(&answer.to_bytes()).unwrap();
        sender.finish().failed_with(4, &[what]);
    }
}

#[test]
fn a_server_of_another_kind_is_named_as_such() {
    watchdog!();
    let files = Files::small();
    let listener = UnixListener::bind(&files.socket).unwrap();
    let sender = files.sender(&[]);
    let (mut link, _) = listener.accept().unwrap();
    link.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    sender
        .finish()
        .failed_with(1, &["this is not a ramferry stream"]);
}
