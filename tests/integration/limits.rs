//! What one side can do to the other, or find on its disk, that must end soon and with an error:
//! peers that contradict themselves, ask for too much or never say a word, files that are not what
//! they were a moment ago.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ramferry::handshake as session;
use ramferry::page::{Digest, PAGE_SIZE};
use ramferry::wire::native::{Hello, MAX_ROUNDS, Message, Reason};
use ramferry::{Caps, Kind};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::{
    Destination, Folder, Page, Parts, Program, assert_same, command, digest_of, finish, hello,
    later, mixed, one_round, params, read_answer, read_hello, read_message, round_end, run, source,
    unix, until, watchdog,
};
use crate::support::{Files, SLOW};

/// A source made by hand, up to the answer.
fn join(socket: &Path, hello: &Hello) -> UnixStream {
    let mut link = UnixStream::connect(socket).unwrap();
    link.write_all(&hello.to_bytes()).unwrap();
    let answer = read_answer(&mut link);
    session::check_answer(hello, &answer).unwrap();
    link
}

/// The hello of one of several connections.
fn hello_of(connection: u16, connections: u16) -> Hello {
    let mut hello = hello(64);
    (hello.connection, hello.connections) = (connection, connections);
    hello
}

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

// ---- what a stream may ask for

#[test]
fn connections_that_disagree_about_the_last_round_end_the_session() {
    watchdog!();
    for (first, last) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let files = Files::small();
        let receiver = files.receiver(&[]);
        let mut links = [0, 1].map(|number| join(&files.socket, &hello_of(number, 2)));
        for number in [first, 1 - first] {
            let end = round_end(1, 0, 0, number == last);
            links[number].write_all(&end).unwrap();
        }
        let Message::Failure {
            reason: Reason::Failed,
            text,
        } = read_message(&mut links[0])
        else {
            panic!("the source sees it");
        };
        assert!(text.contains("the connections disagree"), "{text}");
        // Both were there until then: it is not their hanging up that ended it.
        drop(links);
        receiver
            .finish()
            .failed_with(1, &["the connections disagree"]);
        files.nothing_changed(None);
    }
}

#[test]
fn sixty_four_connections_are_taken_and_one_more_is_refused_with_both_numbers() {
    watchdog!();
    let files = Files::small();
    let mut receiver = files.receiver(&[]);
    let many = hello_of(0, 65);
    let mut link = UnixStream::connect(&files.socket).unwrap();
    link.write_all(&many.to_bytes()).unwrap();
    let refused = session::check_answer(&many, &read_answer(&mut link)).unwrap_err();
    assert_eq!(refused.kind(), Kind::Refused);
    let words = refused.to_string();
    assert!(words.contains("65") && words.contains("64"), "{words}");
    let line = receiver.err_line();
    assert!(line.starts_with("refused a source at "), "{line}");

    files.sender(&["--connections", "64"]).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}

#[test]
fn the_number_of_rounds_in_a_stream_is_limited() {
    watchdog!();
    let files = Files::small();
    let stored = files.folder.path("stream");
    let uri = format!("file:{}", stored.display());
    let receive_rounds = |rounds| {
        let mut stream = hello(1).to_bytes();
        stream.extend(Parts::zeros(1, &[(0, 1)]).bytes());
        stream.extend(round_end(1, 1, 1, rounds == 1));
        for round in 2..=rounds {
            stream.extend(round_end(round, 0, 0, round == rounds));
        }
        stream.extend(finish(&[0; PAGE_SIZE]));
        std::fs::write(&stored, stream).unwrap();
        run(&["receive", &uri, files.output(), "--quiet"])
    };
    let (most, more) = (MAX_ROUNDS.to_string(), (MAX_ROUNDS + 1).to_string());
    receive_rounds(MAX_ROUNDS + 1).failed_with(1, &["the number of rounds", &more, &most]);
    assert_eq!(files.folder.names(), ["ram", "stream"]);
    receive_rounds(MAX_ROUNDS).succeeded();
}

#[test]
fn a_refused_source_cannot_steer_the_terminal() {
    watchdog!();
    let files = Files::small();
    let mut receiver = files.receiver(&[]);
    let nasty = "\x1b[2J\x1b]0;title\x07\r\u{9b}31m\u{202e}name";
    let mut odd = hello(64);
    nasty.clone_into(&mut odd.blocks[0].name);
    odd.blocks[0].bytes = 5;
    let mut telepath = hello(64);
    telepath.capabilities[0].required = true;
    nasty.clone_into(&mut telepath.capabilities[0].name);
    for hello in [odd, telepath] {
        let mut link = UnixStream::connect(&files.socket).unwrap();
        link.write_all(&hello.to_bytes()).unwrap();
        session::check_answer(&hello, &read_answer(&mut link)).unwrap_err();
        let line = receiver.err_line();
        assert!(line.starts_with("refused a source at "), "{line:?}");
        assert!(line.contains("name'"), "{line:?}");
        let steers = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!line.contains(steers), "{line:?}");
    }
    files.sender(&[]).finish().succeeded();
    receiver.finish().succeeded();
}

// ---- peers that speak out of turn, or not at all

#[test]
fn unrequested_proofs_end_the_source() {
    watchdog!();
    let files = Files::new();
    let listener = UnixListener::bind(&files.socket).unwrap();
    let sender = files.sender(&SLOW);
    let (mut link, _) = listener.accept().unwrap();
    let hello = read_hello(&mut link);
    let outcome = session::negotiate(&hello, &Caps::default());
    let answer = session::answer(&outcome, Duration::from_secs(30));
    link.write_all(&answer.to_bytes()).unwrap();
    let proven = Message::Proven { digest: Digest(7) }.to_bytes();
    // Until it hangs up.
    while link.write_all(&proven).is_ok() {}
    sender.finish().failed_with(1, &["Proven is out of place"]);
}

#[test]
fn a_source_that_left_before_all_of_it_had_joined_blocks_no_other() {
    watchdog!();
    let files = Files::small();
    let mut receiver = files.receiver(&[]);
    drop(join(&files.socket, &hello_of(0, 2)));
    files.sender(&[]).finish().succeeded();
    let line = receiver.err_line();
    assert!(line.starts_with("dropped a source"), "{line}");
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}

#[test]
fn any_number_of_silent_clients_block_no_source() {
    watchdog!();
    let files = Files::small();
    let receiver = files.receiver(&[]);
    let silent: Vec<_> = (0..64)
        .map(|_| UnixStream::connect(&files.socket).unwrap())
        .collect();
    files.sender(&[]).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
    drop(silent);
}

#[test]
fn a_listener_that_never_accepts_and_has_no_room_ends_the_send_within_its_limit() {
    watchdog!();
    let files = Files::small();
    let address = SockAddr::unix(&files.socket).unwrap();
    let new = || Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let listener = new();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let mut queue = Vec::new();
    loop {
        let waiting = new();
        waiting.set_nonblocking(true).unwrap();
        if waiting.connect(&address).is_err() {
            break;
        }
        queue.push(waiting);
    }
    files
        .sender(&["--connect-timeout", "300ms"])
        .finish()
        .failed_with(1, &[&files.uri(), "within 0.3 s"]);
}

#[test]
fn a_named_pipe_without_a_writer_ends_the_receive() {
    watchdog!();
    let files = Files::small();
    let fifo = files.folder.path("fifo");
    make_fifo(&fifo);
    let uri = format!("file:{}", fifo.display());
    let receive = ["receive", &uri, files.output(), "--quiet"];
    let ended = run(&[&receive[..], &["--timeout", "300ms"]].concat());
    ended.failed_with(1, &["the peer has been silent for 0.3 s"]);
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");

    let receiver = Program::start(command(&receive));
    receiver.wait_for_open(&fifo);
    receiver.signal(Signal::INT);
    receiver.finish().failed_with(130, &["interrupted"]);
    assert_eq!(files.folder.names(), ["fifo", "ram"]);
}

#[test]
fn a_named_pipe_without_a_reader_ends_the_send_within_its_limit() {
    watchdog!();
    let files = Files::small();
    let fifo = files.folder.path("fifo");
    make_fifo(&fifo);
    let uri = format!("file:{}", fifo.display());
    let send = ["send", files.image(), &uri, "--connect-timeout", "300ms"];
    run(&send).failed_with(1, &[&uri, "within 0.3 s"]);
    assert_eq!(files.folder.names(), ["fifo", "ram"]);
}

// ---- descriptors and commands

#[test]
fn a_descriptor_that_was_not_inherited_is_refused_in_one_line() {
    watchdog!();
    let files = Files::small();
    for number in 3..10 {
        let uri = format!("fd:{number}");
        for args in [
            ["send", files.image(), &uri],
            ["receive", &uri, files.output()],
        ] {
            // Whatever the test itself was started with.
            let script = format!("exec \"$0\" \"$@\" --quiet {number}>&-");
            let mut shell = Command::new("sh");
            shell
                .args(["-c", &script, env!("CARGO_BIN_EXE_ramferry")])
                .args(args);
            let ended = Program::start(shell).finish();
            ended.failed_with(1, &[&uri, "Bad file descriptor"]);
            assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
        }
    }
    files.nothing_changed(None);
}

#[test]
fn a_standard_stream_that_carried_a_migration_is_not_reused() {
    watchdog!();
    let files = Files::small();
    let socket = files.folder.path("m");
    let monitor = format!("unix:{}", socket.display());
    let mut program = Program::start(command(&["monitor", &monitor, "--image", files.image()]));
    program.out_line();
    let migrate = |uri: &str| {
        let arguments = serde_json::json!({"execute": "migrate", "arguments": {"uri": uri}});
        run(&["ctl", &monitor, "qmp", &arguments.to_string()]).succeeded();
        run(&["ctl", &monitor, "domjobinfo", "--watch"])
    };
    for number in 1..3 {
        let uri = format!("fd:{number}");
        // The reader does not read all of it.
        migrate(&uri);
        let file = format!("/proc/{}/fd/{number}", program.pid());
        assert_eq!(
            std::fs::read_link(file).unwrap().to_str(),
            Some("/dev/null")
        );
        migrate(&uri).failed_with(1, &[&uri, "Bad file descriptor"]);
    }
    // What a command prints is not taken for something else.
    migrate("exec:echo hello; cat >/dev/null").succeeded();
    run(&["ctl", &monitor, "qmp", "quit"]).succeeded();
    program.finish().succeeded();
}

#[test]
fn an_image_that_is_a_named_pipe_is_refused_and_not_waited_for() {
    watchdog!();
    let files = Files::small();
    let fifo = files.folder.path("fifo");
    make_fifo(&fifo);
    let fifo = fifo.to_str().unwrap();
    let nowhere = "exec:cat >/dev/null";
    run(&["send", fifo, nowhere]).failed_with(1, &["is a named pipe"]);
    run(&["send", files.image(), nowhere, "--then", fifo]).failed_with(1, &["is a named pipe"]);
}

#[test]
fn an_interrupt_does_not_wait_for_a_command_that_sends_nothing() {
    watchdog!();
    let files = Files::small();
    let fifo = files.folder.path("fifo");
    make_fifo(&fifo);
    // It ends on request, which takes no time.
    let uri = format!("exec:echo > {}; exec sleep 50", fifo.display());
    let program = Program::start(command(&["receive", &uri, files.output()]));
    std::fs::read(&fifo).unwrap();
    let start = Instant::now();
    program.signal(Signal::INT);
    program.finish().failed_with(130, &[]);
    assert!(start.elapsed() < Duration::from_millis(1500));
}

#[test]
fn a_flood_of_strangers_blocks_no_source_even_if_no_one_reads_the_reports() {
    watchdog!();
    let files = Files::small();
    let socket = files.folder.path("s");
    let uri = format!("unix:{}", socket.display());
    let mut receive = command(&["receive", &uri, files.output(), "--quiet"]);
    receive.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut receiver = receive.spawn().unwrap();
    until(|| socket.exists());
    for _ in 0..3000 {
        let mut stranger = UnixStream::connect(&socket).unwrap();
        stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    }
    run(&["send", files.image(), &uri, "--quiet"]).succeeded();
    assert!(receiver.wait().unwrap().success());
}

#[test]
fn a_command_that_fails_is_named_with_its_status_on_either_side() {
    watchdog!();
    let files = Files::new();
    run(&["receive", "exec:false", files.output()])
        .failed_with(1, &["the command 'false' failed: exit status: 1"]);
    run(&["send", files.image(), "exec:exit 7"])
        .failed_with(1, &["the command 'exit 7' failed: exit status: 7"]);
    // One that takes the hello and no more.
    run(&["send", files.image(), "exec:head -c 16 >/dev/null; exit 7"])
        .failed_with(1, &["head -c 16", "failed: exit status: 7"]);
    files.nothing_changed(None);
}

// ---- what both sides must have

#[test]
fn what_a_receiver_has_switched_off_a_source_that_needs_it_is_refused_by_name() {
    watchdog!();
    for (setting, needs, missing, without) in [
        ("xbzrle=off", &[][..], "'xbzrle'", "xbzrle=off"),
        (
            "compress=off",
            &["--compress-method", "zlib", "--capability", "xbzrle=off"][..],
            "'zlib'",
            "compress=off",
        ),
    ] {
        let folder = Folder::new();
        let guest = mixed(64, 5);
        let image = folder.image("ram", &guest);
        let then = folder.image("then", &later(&guest, 6));
        let files = Files::with(folder, image);
        let with_then = ["--then", then.to_str().unwrap()];
        let receiver = files.receiver(&["--capability", setting]);
        files
            .sender(&[&with_then, needs].concat())
            .finish()
            .failed_with(4, &["the destination lacks the capability", missing]);
        files
            .sender(&[&with_then, needs, &["--capability", without]].concat())
            .finish()
            .succeeded();
        let ended = receiver.finish();
        ended.succeeded();
        assert!(ended.err.starts_with("refused a source at "), "{ended:?}");
        assert_same(&files.output, &then);
    }
}

// ---- files that are not what they were, or not ours

#[test]
fn a_stored_stream_is_never_written_through_a_link() {
    watchdog!();
    let files = Files::small();
    let victim = files.folder.path("victim");
    let stream = files.folder.path("stream");
    std::fs::write(&victim, b"precious").unwrap();
    symlink(&victim, files.folder.path("stream.partial")).unwrap();
    let uri = format!("file:{}", stream.display());
    for force in [&[][..], &["--force"]] {
        let partial = files.folder.path("stream.partial");
        run(&[&["send", files.image(), &uri][..], force].concat())
            .failed_with(1, &[partial.to_str().unwrap(), "is not a partial output"]);
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }
    assert_eq!(files.folder.names(), ["ram", "stream.partial", "victim"]);
}

#[test]
fn an_image_is_never_replaced_by_its_own_stream() {
    watchdog!();
    let files = Files::small();
    let image = std::fs::read(&files.image).unwrap();
    let (soft, hard) = (files.folder.path("soft"), files.folder.path("hard"));
    symlink(&files.image, &soft).unwrap();
    std::fs::hard_link(&files.image, &hard).unwrap();
    let other = files.folder.image("other", &mixed(64, 6));
    for target in [&files.image, &soft, &hard] {
        let uri = format!("file:{}", target.display());
        let as_later = ["send", other.to_str().unwrap(), &uri, "--then"];
        for args in [
            &["send", files.image(), &uri][..],
            &[&as_later[..], &[files.image()]].concat(),
        ] {
            run(&[args, &["--force"]].concat()).failed_with(2, &[&uri]);
            assert_eq!(std::fs::read(&files.image).unwrap(), image);
        }
    }
    assert_eq!(files.folder.names(), ["hard", "other", "ram", "soft"]);
}

#[test]
fn an_image_that_loses_less_than_a_page_while_it_is_sent_is_an_error() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &(0..256).map(Page::Random).collect::<Vec<_>>());
    let socket = unix(&folder.path("socket"));
    let output = folder.path("out");
    let destination = Destination::start(&socket, &output, params(&[]));
    destination.address();
    let slowly = params(&[
        ("max-bandwidth", "64KiB"),
        ("batch-pages", "1"),
        ("compress-method", "none"),
    ]);
    let images = [image.clone()];
    let sending = source(&images, &socket, Caps::default(), slowly).unwrap();
    until(|| sending.query().total.pages() > 0);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len((256 * PAGE_SIZE - 2048) as u64).unwrap();
    sending.change(&[("max-bandwidth", "0")]).unwrap();
    let error = sending.wait().unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    let line = error.one_line();
    assert!(
        line.contains("was truncated while it was being read: 1046528 of 1048576 bytes are left"),
        "{line}"
    );
    destination.handle.wait().unwrap_err();
    assert_eq!(folder.names(), ["ram"]);
}

#[test]
fn a_partial_file_that_another_has_replaced_never_becomes_the_output() {
    watchdog!();
    let files = Files::small();
    let image = std::fs::read(&files.image).unwrap();
    let receiver = files.receiver(&[]);
    let mut link = join(&files.socket, &hello(64));
    let (partial, other) = (files.folder.path("out.partial"), files.folder.path("other"));
    std::fs::write(&other, b"another's").unwrap();
    std::fs::rename(&other, &partial).unwrap();
    link.write_all(&[one_round(&image), finish(&image)].concat())
        .unwrap();
    let digest = digest_of(&image);
    assert_eq!(read_message(&mut link), Message::Proven { digest });
    link.write_all(&Message::Commit.to_bytes()).unwrap();
    let Message::Failure {
        reason: Reason::Failed,
        text,
    } = read_message(&mut link)
    else {
        panic!("it took over");
    };
    assert!(text.contains("another process has replaced it"), "{text}");
    drop(link);
    receiver
        .finish()
        .failed_with(1, &[files.output(), "another process has replaced it"]);
    assert_eq!(std::fs::read(&partial).unwrap(), b"another's");
    assert_eq!(files.folder.names(), ["out.partial", "ram"]);
}
