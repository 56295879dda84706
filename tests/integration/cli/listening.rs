//! Addresses to listen on: ports that are picked, paths that are in use.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use crate::support::{Files, assert_same, run, start, start_with, watchdog};

#[test]
fn the_picked_port_is_the_first_line_whatever_else_is_shown() {
    watchdog!();
    for more in [&[][..], &["--quiet"], &["--json"], &["--json", "--quiet"]] {
        let files = Files::small();
        let receive = ["receive", "tcp:127.0.0.1:0", files.output()];
        let mut receiver = start_with(&receive, more);
        let uri = receiver.listening();
        let port: u16 = uri.strip_prefix("tcp:127.0.0.1:").unwrap().parse().unwrap();
        assert_ne!(port, 0);
        run(&["send", files.image(), &uri, "--quiet"]).succeeded();
        let mut ended = receiver.finish();
        ended.succeeded();
        ended.out = ended.out.split_once('\n').unwrap().1.to_owned();
        if more.contains(&"--json") {
            assert_eq!(ended.json()["status"], "completed");
        } else {
            assert_eq!(ended.out, "");
        }
        if more.contains(&"--quiet") {
            assert_eq!(ended.err, "");
        }
        assert_same(&files.output, &files.image);
    }
}

#[test]
fn with_json_an_address_that_was_given_is_not_on_standard_output() {
    watchdog!();
    let files = Files::small();
    let uri = files.uri();
    let mut receiver = start(&["receive", &uri, files.output(), "--json", "--quiet"]);
    assert_eq!(receiver.err_line(), format!("listening on {uri}"));
    files.sender(&[]).finish().succeeded();
    let ended = receiver.finish();
    ended.succeeded();
    assert_eq!(ended.json()["side"], "destination");
}

#[test]
fn a_stale_socket_is_replaced_but_not_one_in_use_or_another_file() {
    watchdog!();
    let files = Files::small();
    drop(UnixListener::bind(&files.socket).unwrap());
    assert!(files.socket.exists(), "a stale socket");
    let receiver = files.receiver(&[]);
    let uri = files.uri();
    let other = files.folder.path("other");
    let other = other.to_str().unwrap();
    run(&["receive", &uri, other]).failed_with(1, &[&uri, "is already in use"]);
    files.sender(&[]).finish().succeeded();
    receiver.finish().succeeded();
    assert!(!files.socket.exists(), "the socket goes with its listener");

    std::fs::write(&files.socket, b"precious").unwrap();
    assert_eq!(run(&["receive", &uri, other]).code, Some(1));
    assert_eq!(std::fs::read(&files.socket).unwrap(), b"precious");
}

#[test]
fn a_port_in_use_is_refused_by_name() {
    watchdog!();
    let files = Files::small();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("tcp:{}", listener.local_addr().unwrap());
    run(&["receive", &uri, files.output()]).failed_with(1, &[&uri, "is already in use"]);
}
