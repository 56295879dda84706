//! Clients of a receiver that are not a source.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use crate::support::{Dice, Files, assert_same, hello, run, start, watchdog};

#[test]
fn foreign_clients_cost_a_line_each_and_the_real_source_is_served() {
    watchdog!();
    let files = Files::small();
    let mut receiver = start(&["receive", "tcp:127.0.0.1:0", files.output(), "--quiet"]);
    let uri = receiver.listening();
    let address = uri.strip_prefix("tcp:").unwrap();
    // Silent, and there for as long as the test.
    let silent = TcpStream::connect(address).unwrap();
    let mut noise = vec![0; 4096];
    let mut dice = Dice::new(1);
    noise.iter_mut().for_each(|byte| *byte = dice.next() as u8);
    let clients: [(&[u8], &str); 4] = [
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "not a ramferry stream",
        ),
        (&noise, "not a ramferry stream"),
        (b"EHLO", "it was closed before its hello"),
        (
            &hello(64).to_bytes()[..30],
            "it was closed before its hello",
        ),
    ];
    for (bytes, why) in clients {
        let mut client = TcpStream::connect(address).unwrap();
        let from = client.local_addr().unwrap().to_string();
        client.write_all(bytes).unwrap();
        // It may have been hung up on already.
        let _ = client.shutdown(std::net::Shutdown::Write);
        // What is not a hello gets no answer. A reset is not an answer either.
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        assert_eq!(answer, b"");
        let line = receiver.err_line();
        assert!(
            line.starts_with(&format!("dropped a connection from {from}: ")) && line.contains(why),
            "{line}"
        );
    }
    run(&["send", files.image(), &uri, "--quiet"]).succeeded();
    let ended = receiver.finish();
    ended.succeeded();
    assert_eq!(ended.err.lines().count(), 4, "{ended:?}");
    assert_same(&files.output, &files.image);
    drop(silent);
}

#[test]
fn a_client_that_says_no_hello_is_dropped_in_time() {
    watchdog!();
    let files = Files::small();
    let mut receiver = files.receiver(&[]);
    let mut silent = UnixStream::connect(&files.socket).unwrap();
    let line = receiver.err_line();
    assert!(
        line.starts_with("dropped a connection from ") && line.contains("no hello within 5 s"),
        "{line}"
    );
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "it was hung up on");
    files.sender(&[]).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}
