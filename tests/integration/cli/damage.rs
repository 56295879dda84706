//! What goes wrong with the data: bytes that change, images that shrink, disks that are full.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use ramferry::handshake as session;
use ramferry::page::PAGE_SIZE;
use ramferry::wire::native::{Message, Reason};
use rustix::process::Signal;

use crate::support::{
    Files, Program, SLOW, finish, hello, one_round, read_answer, read_hello, read_message, until,
    watchdog,
};

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
    let script = "ulimit -f 1024; exec \"$0\" receive \"$1\" \"$2\" --quiet";
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
