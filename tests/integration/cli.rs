//! The program as its users meet it: exit codes, one line of error that says what is wrong and
//! what is allowed, signals, peers that misbehave, documents for programs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use ramferry::page::PAGE_SIZE;
use ramferry::params::{Side, TABLE};
use ramferry::session;
use ramferry::wire::native::{Message, Offer, Reason};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Dice, Ended, Folder, Page, Program, assert_same, command, finish, hello, later, mixed,
    one_round, read_answer, read_hello, read_message, run, until, watchdog,
};

/// Makes a source slow enough to be met in the middle of a migration.
pub(crate) const SLOW: [&str; 6] = [
    "--max-bandwidth",
    "64KiB",
    "--compress-method",
    "none",
    "--batch-pages",
    "1",
];

fn start(args: &[&str]) -> Program {
    Program::start(command(args))
}

fn start_with(args: &[&str], more: &[&str]) -> Program {
    start(&[args, more].concat())
}

/// Names of a test's files as text.
pub(crate) struct Files {
    pub(crate) folder: Folder,
    pub(crate) image: PathBuf,
    pub(crate) output: PathBuf,
    pub(crate) socket: PathBuf,
}

impl Files {
    /// An image of 2 MiB that takes half a minute to send slowly.
    pub(crate) fn new() -> Files {
        let folder = Folder::new();
        let image = folder.image("ram", &(0..512).map(Page::Random).collect::<Vec<_>>());
        Files::with(folder, image)
    }

    /// A small image.
    pub(crate) fn small() -> Files {
        let folder = Folder::new();
        let image = folder.image("ram", &mixed(64, 5));
        Files::with(folder, image)
    }

    pub(crate) fn with(folder: Folder, image: PathBuf) -> Files {
        Files {
            image,
            output: folder.path("out"),
            socket: folder.path("socket"),
            folder,
        }
    }

    pub(crate) fn image(&self) -> &str {
        self.image.to_str().unwrap()
    }

    pub(crate) fn output(&self) -> &str {
        self.output.to_str().unwrap()
    }

    pub(crate) fn uri(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    /// A receiver on the socket that listens by now.
    pub(crate) fn receiver(&self, more: &[&str]) -> Program {
        let uri = self.uri();
        let receive = ["receive", &uri, self.output(), "--quiet"];
        let mut receiver = start_with(&receive, more);
        assert_eq!(receiver.listening(), uri);
        receiver
    }

    pub(crate) fn sender(&self, more: &[&str]) -> Program {
        start_with(&["send", self.image(), &self.uri(), "--quiet"], more)
    }

    /// Waits until the receiver has placed a page of what comes slowly.
    pub(crate) fn wait_for_partial(&self) {
        use std::os::unix::fs::MetadataExt;
        let partial = self.folder.path("out.partial");
        until(|| std::fs::metadata(&partial).is_ok_and(|metadata| metadata.blocks() > 0));
    }

    pub(crate) fn with_old_output(&self, old: Option<&[u8]>) {
        if let Some(old) = old {
            std::fs::write(&self.output, old).unwrap();
        }
    }

    /// Asserts that OUTPUT is what it was before, and that nothing is left behind.
    #[track_caller]
    pub(crate) fn nothing_changed(&self, old: Option<&[u8]>) {
        assert_eq!(std::fs::read(&self.output).ok().as_deref(), old);
        let mut left = self.folder.names();
        left.retain(|name| name != "ram" && name != "out");
        assert!(left.is_empty(), "{left:?}");
    }
}

// ---- what the command line refuses

#[test]
fn what_is_no_image_is_refused_by_name() {
    watchdog!();
    let files = Files::small();
    let empty = files.folder.path("empty");
    std::fs::write(&empty, b"").unwrap();
    let odd = files.folder.path("odd");
    std::fs::write(&odd, vec![1; 4097]).unwrap();
    let missing = files.folder.path("missing");
    let folder = missing.parent().unwrap();
    for (image, why) in [
        (missing.as_path(), "No such file"),
        (&empty, "is empty"),
        (
            &odd,
            "has 4097 bytes, which is no multiple of the page size of 4096",
        ),
        (folder, "it has no guest.json"),
    ] {
        let name = image.to_str().unwrap();
        let uri = files.uri();
        for args in [&["send", name, &uri][..], &["digest", name]] {
            run(args).failed_with(1, &[name, why]);
        }
        run(&["send", files.image(), &uri, "--then", name]).failed_with(1, &[name, why]);
    }
}

#[test]
fn an_unreadable_image_is_refused_by_name() {
    use std::os::unix::fs::PermissionsExt;
    watchdog!();
    let files = Files::small();
    std::fs::set_permissions(&files.image, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&files.image).is_ok() {
        // Whoever may read everything cannot test this.
        return;
    }
    run(&["digest", files.image()]).failed_with(1, &[files.image(), "Permission denied"]);
}

#[test]
fn a_later_image_of_another_size_is_refused_with_both_sizes() {
    watchdog!();
    let files = Files::small();
    let other = files.folder.image("other", &mixed(65, 1));
    let other = other.to_str().unwrap();
    run(&["send", files.image(), &files.uri(), "--then", other])
        .failed_with(1, &[other, "266240 bytes", "262144"]);
}

#[test]
fn every_parameter_out_of_range_is_refused_in_one_line_that_says_what_is_allowed() {
    watchdog!();
    let files = Files::small();
    let bad = |name: &str| -> (&[&str], &str) {
        match name {
            "compress-method" => (&["zlib ", "ZSTD", "", "brotli"], "zlib, gzip, lz4, zstd"),
            "compression" => (&["brotli", "", "zlib,xbzrle"], "or xbzrle"),
            "compress-level" => (&["-1", "20", "x", ""], "0 to 19"),
            "compress-threads" | "decompress-threads" => (&["0", "256", "-1", "1.5"], "1 to 255"),
            "compress-wait-thread" | "delta-compress" => (&["maybe", "2", ""], "on or off"),
            "xbzrle-cache-size" => (&["0", "4095", "12288", "-4096", "x"], "power of two"),
            "max-bandwidth" => (&["-1", "fast", "1XB"], "100MiB"),
            "connections" => (&["0", "65", "-1"], "1 to 64"),
            "batch-pages" => (&["0", "257", "all"], "1 to 256"),
            "zlib-engine" => (&["zlib", "isal", ""], "zlib-rs"),
            "downtime-limit" => (&["-1", "2001s", "1.5", "soon"], "0 to 2000000 milliseconds"),
            "max-rounds" => (&["0", "65536", "-1"], "1 to 65535"),
            "timeout-action" => (&["pause", ""], "suspend or abort"),
            "throttle-trigger-threshold" => (&["0", "101"], "1 to 100"),
            "cpu-throttle-initial" | "cpu-throttle-increment" | "max-cpu-throttle" => {
                (&["0", "100"], "1 to 99")
            }
            "timeout" | "connect-timeout" | "accept-timeout" | "max-time" => {
                (&["0", "-1", "2d", "soon"], "1 day")
            }
            "link" => (&["", "1Gb", "10", "1Gbit/20", "tcp"], "1Gbit/20ms"),
            _ => panic!("{name} has no values here that it cannot have"),
        }
    };
    for row in TABLE {
        let (values, allowed) = bad(row.name);
        let uri = files.uri();
        let send = ["send", files.image(), &uri];
        let receive = ["receive", &uri, files.output()];
        let line: &[&str] = match row.side {
            Side::Destination => &receive,
            Side::Source | Side::Both => &send,
        };
        for value in values {
            let option = format!("--{}={value}", row.name);
            run(&[line, &[&option]].concat()).failed_with(2, &[row.name, value, allowed]);
        }
    }
    assert_eq!(files.folder.names(), ["ram"]);
}

#[test]
fn a_level_that_the_method_does_not_have_is_refused_whatever_the_order() {
    watchdog!();
    let files = Files::small();
    let uri = files.uri();
    let send = ["send", files.image(), &uri];
    for (method, level, allowed) in [
        ("zlib", "10", "0 to 9"),
        ("gzip", "19", "0 to 9"),
        ("lz4", "2", "0 to 1"),
    ] {
        let method_first = ["--compress-method", method, "--compress-level", level];
        let level_first = ["--compress-level", level, "--compress-method", method];
        for options in [method_first, level_first] {
            run(&[&send[..], &options].concat()).failed_with(2, &[method, level, allowed]);
        }
    }
}

#[test]
fn what_is_no_address_capability_or_option_is_a_matter_of_usage() {
    watchdog!();
    let files = Files::small();
    let send = ["send", files.image()];
    for uri in ["nowhere", "udp:x:1", "tcp:x:65536", "fd:-1", "unix:"] {
        let ended = run(&[&send[..], &[uri]].concat());
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let line = ended.err.lines().next().unwrap();
        assert!(
            line.starts_with("error: ") && line.contains(uri) && line.contains("exec:COMMAND"),
            "{line}"
        );
    }
    let uri = files.uri();
    for (capability, allowed) in [
        ("telepathy=on", "compress, xbzrle"),
        ("xbzrle", "NAME=on"),
        ("xbzrle=maybe", "NAME=on"),
    ] {
        run(&[&send[..], &[&uri, "--capability", capability]].concat())
            .failed_with(2, &[capability.split('=').next().unwrap(), allowed]);
    }
    // An option of the other side, one that nobody has, and no command at all.
    for args in [
        &["receive", &uri, files.output(), "--compress-level", "1"][..],
        &["send", files.image(), &uri, "--decompress-threads", "1"],
        &["send", files.image(), &uri, "--fast"],
        &["send", files.image()],
        &["teleport"],
        &[],
    ] {
        assert_eq!(run(args).code, Some(2), "{args:?}");
    }
    assert_eq!(files.folder.names(), ["ram"]);
}

#[test]
fn several_connections_into_a_file_are_refused() {
    watchdog!();
    let files = Files::small();
    let uri = format!("file:{}", files.folder.path("stream").display());
    run(&["send", files.image(), &uri, "--connections", "2"])
        .failed_with(2, &[&uri, "one connection, not 2"]);
    assert_eq!(files.folder.names(), ["ram"]);
}

// ---- outputs that are there already

#[test]
fn an_output_that_exists_is_kept_unless_force_says_otherwise() {
    watchdog!();
    let files = Files::small();
    std::fs::write(&files.output, b"old").unwrap();
    let uri = files.uri();
    let receive = ["receive", &uri, files.output()];
    run(&receive).failed_with(1, &[files.output(), "--force"]);
    files.nothing_changed(Some(b"old"));

    let receiver = files.receiver(&["--force"]);
    files.sender(&[]).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_anybody_waits() {
    watchdog!();
    let files = Files::small();
    let folder = files.folder.path("");
    let nowhere = files.folder.path("nowhere/out");
    for (output, why) in [
        (folder.to_str().unwrap(), "is not a regular file"),
        (nowhere.to_str().unwrap(), "No such file"),
    ] {
        for force in [&[][..], &["--force"]] {
            let uri = files.uri();
            run(&[&["receive", &uri, output][..], force].concat()).failed_with(1, &[why]);
        }
    }
}

#[test]
fn a_stored_stream_that_exists_is_kept_unless_force_says_otherwise() {
    watchdog!();
    let files = Files::small();
    let stream = files.folder.path("stream");
    std::fs::write(&stream, b"old").unwrap();
    let uri = format!("file:{}", stream.display());
    run(&["send", files.image(), &uri]).failed_with(1, &[stream.to_str().unwrap(), "--force"]);
    assert_eq!(std::fs::read(&stream).unwrap(), b"old");
    run(&["send", files.image(), &uri, "--force"]).succeeded();
    run(&["receive", &uri, files.output()]).succeeded();
    assert_same(&files.output, &files.image);
    assert_eq!(files.folder.names(), ["out", "ram", "stream"]);
}

#[test]
fn an_output_that_another_receiver_is_writing_is_refused() {
    watchdog!();
    let files = Files::new();
    let first = files.receiver(&[]);
    let sender = files.sender(&SLOW);
    files.wait_for_partial();

    let other = files.folder.path("other");
    let uri = format!("unix:{}", other.display());
    let mut second = start(&["receive", &uri, files.output(), "--quiet"]);
    assert_eq!(second.listening(), uri);
    let refused = run(&["send", files.image(), &uri]);
    let partial = format!("{}.partial", files.output());
    refused.failed_with(4, &[&partial, "is being written by another process"]);
    let line = second.err_line();
    assert!(line.starts_with("refused a source at "), "{line}");
    assert!(line.contains(&partial), "{line}");

    let stream = files.folder.path("stream");
    let stored = format!("file:{}", stream.display());
    run(&["send", files.image(), &stored]).succeeded();
    let refused = run(&["receive", &stored, files.output()]);
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    assert!(refused.error().contains(&partial), "{refused:?}");
    assert!(files.folder.path("out.partial").exists());
    drop((first, sender, second));
}

// ---- peers that are not there, or silent

#[test]
fn a_connection_that_nobody_takes_ends_within_its_limit() {
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
        panic!("the source is told");
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

// ---- clients that are none

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
        (b"EHLO", "closed the connection"),
        (&hello(64).to_bytes()[..30], "closed the connection"),
    ];
    for (bytes, why) in clients {
        let mut client = TcpStream::connect(address).unwrap();
        let from = client.local_addr().unwrap().to_string();
        client.write_all(bytes).unwrap();
        // It may have been hung up on already.
        let _ = client.shutdown(std::net::Shutdown::Write);
        // Nobody answers what is no hello. A reset is no answer either.
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

// ---- peers that do not fit

#[test]
fn a_source_that_does_not_fit_is_told_why_and_the_receiver_goes_on() {
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
        assert_eq!(refused.kind().exit_code(), 4);
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

// ---- signals, and sudden ends

#[test]
fn a_signal_to_the_source_ends_both_sides_and_changes_nothing() {
    watchdog!();
    for signal in [Signal::INT, Signal::TERM] {
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
            let line = ended.error();
            assert!(
                line.contains("the other side gave up: interrupted")
                    || line.contains("the peer closed the connection"),
                "{line}"
            );
            files.nothing_changed(old);
        }
    }
}

#[test]
fn a_signal_to_the_destination_ends_both_sides_and_changes_nothing() {
    watchdog!();
    for signal in [Signal::INT, Signal::TERM] {
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
fn a_signal_ends_a_receiver_that_listens_and_a_source_that_nobody_answers() {
    watchdog!();
    for signal in [Signal::INT, Signal::TERM] {
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

    // The socket and the partial file are left behind; neither is in the way.
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

// ---- addresses to listen on

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
fn a_socket_left_behind_is_replaced_and_one_in_use_or_no_socket_is_not() {
    watchdog!();
    let files = Files::small();
    drop(UnixListener::bind(&files.socket).unwrap());
    assert!(files.socket.exists(), "a stale socket");
    let receiver = files.receiver(&[]);
    let uri = files.uri();
    let other = files.folder.path("other");
    let other = other.to_str().unwrap();
    run(&["receive", &uri, other]).failed_with(1, &[&uri, "listening"]);
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
    run(&["receive", &uri, files.output()]).failed_with(1, &[&uri, "listening"]);
}

// ---- what goes wrong with the data

#[test]
fn a_byte_that_changes_in_the_output_before_the_proof_is_found() {
    watchdog!();
    let files = Files::small();
    let image = std::fs::read(&files.image).unwrap();
    let receiver = files.receiver(&[]);
    let mut link = UnixStream::connect(&files.socket).unwrap();
    link.write_all(&hello(64).to_bytes()).unwrap();
    read_answer(&mut link);
    link.write_all(&one_round(&image)).unwrap();
    let partial = files.folder.path("out.partial");
    until(|| std::fs::read(&partial).is_ok_and(|held| held == image));
    let file = std::fs::File::options().write(true).open(&partial).unwrap();
    let at = image.iter().position(|byte| *byte != 0).unwrap();
    file.write_all_at(&[image[at] ^ 1], at as u64).unwrap();
    link.write_all(&finish(&image)).unwrap();
    let Message::Failure { reason, text } = read_message(&mut link) else {
        panic!("it was proven");
    };
    assert_eq!(reason, Reason::Differs);
    assert!(text.contains("what arrived is not what was sent"), "{text}");
    drop(link);
    receiver
        .finish()
        .failed_with(3, &["what arrived is not what was sent"]);
    files.nothing_changed(None);
}

#[test]
fn a_proof_of_something_else_makes_the_source_exit_with_3() {
    watchdog!();
    let files = Files::small();
    let listener = UnixListener::bind(&files.socket).unwrap();
    let sender = files.sender(&[]);
    let (mut link, _) = listener.accept().unwrap();
    let hello = read_hello(&mut link);
    let answer = session::answer(
        &session::negotiate(&hello, &ramferry::Caps::default()),
        Duration::from_secs(30),
    );
    link.write_all(&answer.to_bytes()).unwrap();
    let proven = Message::Proven {
        digest: ramferry::page::Digest(7),
    };
    let mut back = link.try_clone().unwrap();
    let reader = thread::spawn(move || {
        let mut taken = Vec::new();
        let finish = Message::Finish {
            digest: ramferry::page::Digest(0),
        }
        .to_bytes();
        // Finish is the last that a source says before it is answered.
        let is_finish = |taken: &[u8]| {
            taken.len() > finish.len() && taken[taken.len() - finish.len()..][..8] == finish[..8]
        };
        let mut buffer = [0; 4096];
        while !is_finish(&taken) {
            let read = link.read(&mut buffer).unwrap();
            assert_ne!(read, 0);
            taken.extend_from_slice(&buffer[..read]);
        }
        back.write_all(&proven.to_bytes()).unwrap();
        link.read_to_end(&mut taken).unwrap();
    });
    sender
        .finish()
        .failed_with(3, &["the destination holds RAM"]);
    reader.join().unwrap();
}

#[test]
fn an_image_that_is_truncated_while_it_is_sent_is_an_error_and_no_crash() {
    watchdog!();
    let files = Files::new();
    let receiver = files.receiver(&[]);
    let sender = files.sender(&SLOW);
    files.wait_for_partial();
    let file = std::fs::File::options().write(true).open(&files.image);
    file.unwrap().set_len(PAGE_SIZE as u64).unwrap();
    sender.finish().failed_with(
        1,
        &[
            files.image(),
            "was truncated while it was being read: 4096 of 2097152 bytes are left",
        ],
    );
    receiver.finish().failed_with(1, &[]);
    files.nothing_changed(None);
}

#[test]
fn a_full_disk_is_named_on_both_sides() {
    watchdog!();
    // A file system of one MiB, seen by the receiver alone, that vanishes with it.
    let can = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !can {
        let _ = writeln!(
            std::io::stderr(),
            "not tested: small file systems cannot be mounted"
        );
        return;
    }
    let files = Files::new();
    let small = files.folder.path("small");
    std::fs::create_dir(&small).unwrap();
    let script = "mount -t tmpfs -o size=1m tmpfs \"$2\" || exit 99
        \"$0\" receive \"$1\" \"$2/out\" --quiet; code=$?
        test -z \"$(ls \"$2\")\" || exit 98
        exit $code";
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-rm", "sh", "-c", script, env!("CARGO_BIN_EXE_ramferry")])
        .args([&files.uri(), small.to_str().unwrap()]);
    let mut receiver = Program::start(unshare);
    receiver.listening();
    let sent = files.sender(&[]).finish();
    sent.failed_with(1, &["the other side gave up", "No space left on device"]);
    receiver
        .finish()
        .failed_with(1, &["No space left on device", "out.partial"]);
}

#[test]
fn an_output_larger_than_a_file_may_be_is_refused_before_a_page_moves() {
    watchdog!();
    let files = Files::new();
    let script = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" receive \"$1\" \"$2\" --quiet";
    let mut shell = Command::new("bash");
    shell
        .args(["-c", script, env!("CARGO_BIN_EXE_ramferry")])
        .args([&files.uri(), files.output()]);
    let mut receiver = Program::start(shell);
    receiver.listening();
    files
        .sender(&[])
        .finish()
        .failed_with(4, &["out.partial", "File too large"]);
    let line = receiver.err_line();
    assert!(line.contains("File too large"), "{line}");
    assert_eq!(files.folder.names(), ["ram", "socket"]);
    receiver.signal(Signal::TERM);
    receiver.finish().failed_with(130, &[]);
    files.nothing_changed(None);
}

// ---- documents and help

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

#[test]
fn the_documents_of_both_sides_have_the_documented_members_and_agree() {
    watchdog!();
    let files = Files::small();
    let second = files.folder.image("later", &later(&mixed(64, 5), 6));
    let second = second.to_str().unwrap();
    let uri = files.uri();
    let mut receiver = start(&["receive", &uri, files.output(), "--json", "--quiet"]);
    receiver.err_line();
    let sent = files.sender(&["--json", "--then", second, "--compress-level", "3"]);
    let sent = sent.finish();
    let received = receiver.finish();
    sent.succeeded();
    received.succeeded();
    let (sent, received) = (sent.json(), received.json());
    let common = [
        "connections",
        "cpu-seconds",
        "digest",
        "ram",
        "ratio",
        "return-bytes",
        "rounds",
        "setup-time",
        "side",
        "status",
        "threads",
        "total-time",
        "wire-bytes",
    ];
    let mut of_source = [
        &common[..],
        &["compression", "downtime", "level", "method", "xbzrle-cache"],
    ]
    .concat();
    of_source.sort_unstable();
    assert_eq!(keys(&sent), of_source);
    assert_eq!(keys(&received), common);
    for document in [&sent, &received] {
        assert_eq!(
            keys(&document["ram"]),
            [
                "dirty-sync-count",
                "duplicate",
                "mbps",
                "normal",
                "normal-bytes",
                "page-size",
                "pages-per-second",
                "remaining",
                "total",
                "transferred"
            ]
        );
        assert_eq!(
            keys(&document["rounds"][0]),
            [
                "cache-miss",
                "compressed",
                "delta",
                "delta-bytes",
                "overflow",
                "pages",
                "plain",
                "round",
                "time",
                "unchanged",
                "wire-bytes",
                "zero"
            ]
        );
        assert_eq!(document["status"], "completed");
        assert_eq!(document["ram"]["total"], 64 * 4096);
        assert_eq!(document["ram"]["page-size"], 4096);
        assert_eq!(document["ram"]["dirty-sync-count"], 2);
        assert_eq!(document["rounds"].as_array().unwrap().len(), 2);
        assert!(document["cpu-seconds"]["total"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(
        keys(&sent["compression"]),
        [
            "busy",
            "busy-rate",
            "compressed-size",
            "compression-rate",
            "pages"
        ]
    );
    assert_eq!(
        keys(&sent["xbzrle-cache"]),
        [
            "bytes",
            "cache-miss",
            "cache-miss-rate",
            "cache-size",
            "encoding-rate",
            "overflow",
            "pages"
        ]
    );
    assert_eq!(
        (&sent["method"], &sent["level"]),
        (&"zlib".into(), &3.into())
    );
    assert_eq!(
        (&sent["side"], &received["side"]),
        (&"source".into(), &"destination".into())
    );
    for member in ["digest", "wire-bytes", "return-bytes", "connections"] {
        assert_eq!(sent[member], received[member], "{member}");
    }
}

#[test]
fn a_migration_that_fails_still_prints_its_document_and_says_why() {
    watchdog!();
    let files = Files::small();
    let uri = files.uri();
    let failed = run(&[
        "send",
        files.image(),
        &uri,
        "--connect-timeout",
        "100ms",
        "--json",
        "--quiet",
    ]);
    failed.failed_with(1, &["within 0.1 s"]);
    let document = failed.json();
    assert_eq!(document["status"], "failed");
    assert_eq!(document["error-desc"], failed.error());

    let mut receiver = start(&["receive", &uri, files.output(), "--json", "--quiet"]);
    receiver.err_line();
    receiver.signal(Signal::INT);
    let cancelled = receiver.finish();
    cancelled.failed_with(130, &[]);
    assert_eq!(cancelled.json()["status"], "cancelled");
}

#[test]
fn a_summary_on_standard_error_says_what_was_moved() {
    watchdog!();
    let files = Files::small();
    let uri = files.uri();
    let mut receiver = start(&["receive", &uri, files.output()]);
    receiver.listening();
    let sent = run(&["send", files.image(), &uri]);
    let received = receiver.finish();
    for (ended, verb) in [(sent, "sent"), (received, "received")] {
        ended.succeeded();
        assert!(ended.err.starts_with(verb), "{ended:?}");
        for what in ["256.00 KiB", "arrived and proven", "digest", "ratio"] {
            assert!(ended.err.contains(what), "no {what:?} in {ended:?}");
        }
    }
}

#[test]
fn tables_for_programs_have_a_row_for_everything() {
    watchdog!();
    let rows = run(&["parameters", "--json"]).json();
    let names: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    let expected: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(names, expected);
    for row in rows.as_array().unwrap() {
        assert_eq!(
            keys(row),
            [
                "default",
                "meaning",
                "name",
                "range",
                "repeatable",
                "runtime",
                "side",
                "since",
                "type",
                "unit"
            ]
        );
    }
    let rows = run(&["capabilities", "--json"]).json();
    for (row, name) in rows.as_array().unwrap().iter().zip(["compress", "xbzrle"]) {
        assert_eq!(row["name"], name);
        let expected = ["available", "default", "meaning", "name", "reason"];
        assert_eq!(keys(row), expected);
    }
    for table in ["parameters", "capabilities"] {
        let shown = run(&[table]);
        shown.succeeded();
        assert!(shown.out.contains("compress"), "{shown:?}");
    }
}

#[test]
fn help_says_that_tcp_is_not_encrypted_wherever_an_address_is_taken() {
    watchdog!();
    for args in [
        &["--help"][..],
        &["-h"],
        &["send", "--help"],
        &["send", "-h"],
        &["receive", "--help"],
        &["receive", "-h"],
        &["probe", "--help"],
        &["probe", "-h"],
    ] {
        let help = run(args);
        help.succeeded();
        let words = help.out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("neither encrypted nor authenticated"),
            "{args:?}"
        );
    }
    for row in TABLE {
        let of = |command| {
            run(&[command, "--help"])
                .out
                .contains(&format!("--{}", row.name))
        };
        assert_eq!(of("send"), row.side != Side::Destination, "{}", row.name);
        assert_eq!(of("receive"), row.side != Side::Source, "{}", row.name);
    }
}

#[test]
fn a_reader_of_standard_output_that_leaves_is_no_error() {
    watchdog!();
    let files = Files::small();
    let digest = ["digest", files.image()];
    for args in [&["parameters"][..], &["capabilities", "--json"], &digest] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended: Ended = Program::start_with_stdout(command(args), writer).finish();
        ended.succeeded();
        assert_eq!(ended.err, "", "{args:?}");
    }
}

#[test]
fn an_image_may_have_a_name_that_is_no_text() {
    use std::os::unix::ffi::OsStrExt;
    watchdog!();
    let files = Files::small();
    let name = std::ffi::OsStr::from_bytes(b"ram\xff");
    let odd: PathBuf = Path::new(&files.folder.path("")).join(name);
    std::fs::copy(&files.image, &odd).unwrap();
    let receiver = files.receiver(&[]);
    let mut send = command(&["send"]);
    send.arg(&odd).args([&files.uri(), "--quiet"]);
    Program::start(send).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}
