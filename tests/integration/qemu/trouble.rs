//! What goes wrong between a QEMU and us: neither side believes that a guest has arrived that has not,
//! and nothing that was there before is touched.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use ramferry::error::Kind;
use ramferry::transport::Address;
use serde_json::json;

use super::gate::Gate;
use super::ours::{
    Link, MIB, guest_folder, guest_pages, listen, listen_in, ram_in, receive, request, send,
};
use crate::support::qemu::{Binary, Machine, Qemu, qemu_or_skip};
use crate::support::{
    Destination, Folder, Page, Program, assert_same, command, digest, params, unix, until, watchdog,
};

// ---- destinations of ours that fail

#[test]
fn a_source_with_a_return_path_fails_with_its_destination() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    let socket = format!("unix:{}", folder.path("ours").display());
    let output = folder.path("out").display().to_string();
    let plain = ["receive", &socket, &output, "--quiet"];
    let other_block = [&plain[..], &["--block", "pc.cache"]].concat();
    // Files of at most a MiB: as a full disk would.
    let shell = "ulimit -f 2048; exec \"$0\" \"$@\"";
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", shell, env!("CARGO_BIN_EXE_ramferry")]);
    limited.args(plain);
    for (name, ours, said) in [
        ("no such block", command(&other_block), "pc.cache"),
        ("no room", limited, "pc.ram"),
    ] {
        let mut source = qemu.source(&image).start();
        source.set_capabilities(&[("return-path", true)]);
        let mut ours = Program::start(ours);
        ours.listening();
        source.migrate(&socket);
        assert_eq!(source.wait_migration(), "failed", "{name}");
        assert_goes_on(&mut source, name);
        ours.finish().failed_with(1, &[said]);
        assert_eq!(folder.names(), ["ram"], "{name}");
    }
}

#[test]
fn a_source_with_a_return_path_fails_when_the_last_step_does() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    let place = folder.path("place");
    std::fs::create_dir(&place).unwrap();
    let mut source = qemu.source(&image).start();
    source.set_capabilities(&[("return-path", true)]);
    let destination = listen(&folder, Link::Unix, &place.join("out"));
    let gate = gate(&folder, &destination);
    source.migrate(&gate.uri());
    gate.let_through(MIB);
    // What has been opened can still be written, but not put in its place.
    std::fs::remove_dir_all(&place).unwrap();
    gate.open();
    assert_eq!(source.wait_migration(), "failed");
    let error = destination.handle.wait().unwrap_err();
    assert!(error.one_line().contains("place"), "{}", error.one_line());

    assert_goes_on(&mut source, "the last step");
}

/// Asserts that the guest is still the source's, however much of it had been written.
#[track_caller]
fn assert_goes_on(source: &mut Qemu, name: &str) {
    // QEMU says that it has failed a moment before it lets go of the guest.
    until(|| source.query_status() != "finish-migrate");
    source.cont();
    assert_eq!(source.query_status(), "running", "{name}");
}

/// A gate to a destination that listens at a unix socket.
fn gate(folder: &Folder, destination: &Destination) -> Gate {
    let Address::Unix(path) = destination.address() else {
        panic!("it listens at a unix socket");
    };
    Gate::to_unix(folder, &path)
}

// ---- what we do not understand

/// A source that sends what we do not understand, and what its name is.
struct Foreign {
    name: &'static str,
    machine: fn(Machine<'_>) -> Machine<'_>,
    set_up: fn(&mut Qemu),
}

fn capability<const N: usize>(source: &mut Qemu, names: [&str; N]) {
    source.set_capabilities(&names.map(|name| (name, true)));
}

fn disk(machine: Machine<'_>) -> Machine<'_> {
    let backend = "driver=null-co,node-name=disk,size=1048576,read-zeroes=on";
    machine.args(["-blockdev", backend, "-device", "virtio-blk-pci,drive=disk"])
}

#[test]
fn what_is_not_supported_is_refused_by_name_and_leaves_no_file() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    let cases = [
        Foreign {
            name: "multifd",
            machine: |machine| machine,
            set_up: |source| capability(source, ["multifd"]),
        },
        Foreign {
            name: "multifd",
            machine: |machine| machine,
            set_up: |source| capability(source, ["multifd", "return-path"]),
        },
        Foreign {
            name: "postcopy-ram",
            machine: |machine| machine,
            set_up: |source| capability(source, ["postcopy-ram"]),
        },
        Foreign {
            name: "x-ignore-shared",
            machine: |machine| machine,
            set_up: |source| capability(source, ["x-ignore-shared"]),
        },
        Foreign {
            name: "block",
            machine: disk,
            set_up: |source| capability(source, ["block"]),
        },
        Foreign {
            name: "dirty-bitmaps",
            machine: disk,
            set_up: |source| {
                capability(source, ["dirty-bitmaps"]);
                let bitmap = json!({"node": "disk", "name": "changes"});
                source.qmp("block-dirty-bitmap-add", bitmap);
            },
        },
    ];
    for case in cases {
        for link in [Link::Unix, Link::Tcp] {
            let mut source = (case.machine)(qemu.source(&image)).start();
            if case.name == "block" && !source.has_capability("block") {
                continue;
            }
            (case.set_up)(&mut source);
            let output = folder.path("out");
            let destination = listen(&folder, link, &output);
            source.migrate(&destination.address().to_string());
            let error = destination.handle.wait().unwrap_err().one_line();
            assert!(error.contains(case.name), "{}: {error}", case.name);
            assert_eq!(source.wait_migration(), "failed", "{}", case.name);
            assert_goes_on(&mut source, case.name);
            assert_eq!(folder.names(), ["ram"], "{}", case.name);
        }
    }
}

// ---- ends that go away

/// An output of an earlier time, to see that it stays.
fn older(qemu: &Binary, folder: &Folder) -> std::path::PathBuf {
    // More than what buffers on the way take in.
    let pages: Vec<Page> = (0..4096).map(|page| Page::Fill(page as u8 | 1)).collect();
    let image = folder.image("old", &pages);
    let guest = guest_folder(qemu, folder, &image);
    assert_same(&ram_in(&guest), &image);
    guest
}

#[track_caller]
fn assert_as_it_was(folder: &Folder, guest: &Path) {
    assert_same(&ram_in(guest), &folder.path("old"));
    digest(guest);
    let names = folder.names();
    let partial = names.iter().find(|name| name.contains("partial"));
    assert_eq!(partial, None, "{names:?}");
}

#[test]
fn a_source_that_is_killed_leaves_the_output_as_it_was() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let output = older(qemu, &folder);
    let image = folder.image("ram", &guest_pages());
    for return_path in [false, true] {
        let mut source = qemu.source(&image).start();
        source.set_capabilities(&[("return-path", return_path)]);
        let destination = listen(&folder, Link::Unix, &output);
        let gate = gate(&folder, &destination);
        source.migrate(&gate.uri());
        gate.let_through(MIB);
        drop(source);
        gate.open();
        gate.finish();
        let error = destination.handle.wait().unwrap_err();
        assert_eq!(error.kind(), Kind::Failed);
        let said = error.one_line();
        assert!(said.contains("the stream ends after"), "{said}");
        assert_as_it_was(&folder, &output);
        std::fs::remove_file(folder.path("gate")).unwrap();
    }
}

#[test]
fn a_source_that_is_cancelled_can_migrate_again() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let output = older(qemu, &folder);
    let image = folder.image("ram", &guest_pages());
    let mut source = qemu.source(&image).start();
    let destination = listen(&folder, Link::Unix, &output);
    let gate = gate(&folder, &destination);
    source.migrate(&gate.uri());
    gate.let_through(MIB);
    source.qmp("migrate_cancel", json!({}));
    gate.open();
    assert_eq!(source.wait_migration(), "cancelled");
    assert_eq!(source.query_status(), "prelaunch");
    let error = destination.handle.wait().unwrap_err();
    assert_eq!(error.kind(), Kind::Failed, "{}", error.one_line());
    assert_as_it_was(&folder, &output);

    receive(&folder, &mut source, Link::Unix, &output);
    assert_same(&ram_in(&output), &image);
}

#[test]
fn a_destination_that_is_cancelled_leaves_the_output_and_the_source_as_they_were() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let output = older(qemu, &folder);
    let image = folder.image("ram", &guest_pages());
    let mut source = qemu.source(&image).start();
    let destination = listen(&folder, Link::Unix, &output);
    let gate = gate(&folder, &destination);
    source.migrate(&gate.uri());
    gate.let_through(MIB);
    destination.handle.cancel();
    let error = destination.handle.wait().unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted, "{}", error.one_line());
    gate.open();
    assert_eq!(source.wait_migration(), "failed");
    assert_goes_on(&mut source, "cancelled");
    assert_as_it_was(&folder, &output);
}

#[test]
fn a_source_of_ours_that_is_cancelled_leaves_no_guest_in_qemu() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let guest = older(qemu, &folder);
    let mut destination = qemu.destination(&folder.path("out"), 16 * MIB).start();
    let Address::Unix(socket) = listen_in(&folder, &mut destination, Link::Unix) else {
        unreachable!()
    };
    let gate = Gate::to_unix(&folder, &socket);
    let request = request(&guest, gate.uri().parse().unwrap(), &[]);
    let source = request.start().unwrap();
    gate.let_through(MIB);
    source.cancel();
    let error = source.wait().unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted, "{}", error.one_line());
    gate.open();
    assert_eq!(destination.wait_migration(), "failed");
    assert_eq!(destination.wait().code, Some(1));
    assert_as_it_was(&folder, &guest);
}

#[test]
fn a_qemu_that_is_killed_fails_the_source() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let guest = older(qemu, &folder);
    let mut destination = qemu.destination(&folder.path("out"), 16 * MIB).start();
    let Address::Unix(socket) = listen_in(&folder, &mut destination, Link::Unix) else {
        unreachable!()
    };
    let gate = Gate::to_unix(&folder, &socket);
    let request = request(&guest, gate.uri().parse().unwrap(), &[]);
    let source = request.start().unwrap();
    gate.let_through(MIB);
    drop(destination);
    gate.open();
    let error = source.wait().unwrap_err();
    assert_eq!(error.kind(), Kind::Failed, "{}", error.one_line());
    assert_as_it_was(&folder, &guest);
}

// ---- links

#[test]
fn without_a_listener_nothing_is_sent() {
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    for to in [
        unix(&folder.path("nothing")),
        "tcp:127.0.0.1:1".parse().unwrap(),
    ] {
        let request = request(&image, to.clone(), &[]);
        let values = params(&[("connect-timeout", "0.1")]);
        let error = send(request, values).unwrap_err();
        assert_eq!(error.kind(), Kind::Failed, "{to}: {}", error.one_line());
        let named = error.one_line().contains(&to.to_string());
        assert!(named, "{to}: {}", error.one_line());
    }
    assert_eq!(folder.names(), ["ram"]);
}

#[test]
fn both_ends_may_be_handed_a_socket() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    let (guest, output) = (folder.path("guest"), folder.path("out"));

    for return_path in [false, true] {
        let mut source = qemu.source(&image).start();
        source.set_capabilities(&[("return-path", return_path)]);
        let path = guest.to_str().unwrap();
        let ours = hand_over(&mut source, &["receive", "fd:0", path, "--force", "--json"]);
        source.migrate("fd:link");
        assert_eq!(source.wait_migration(), "completed", "{return_path}");
        let ended = ours.finish();
        ended.succeeded();
        let answers = ended.json()["return-bytes"].as_u64().unwrap();
        assert_eq!(answers > 0, return_path, "{answers}");
        assert_same(&ram_in(&guest), &image);
    }

    let mut destination = qemu.destination(&output, 16 * MIB).start();
    let path = guest.to_str().unwrap();
    let ours = hand_over(&mut destination, &["send", path, "fd:0", "--wire", "qemu"]);
    destination.migrate_incoming("fd:link");
    assert_eq!(destination.wait_migration(), "completed");
    ours.finish().succeeded();
    assert_same(&output, &image);
}

/// Hands one end of a pair of sockets to a QEMU, as `fd:link`, and the other to the program, as
/// its standard input.
#[track_caller]
fn hand_over(qemu: &mut Qemu, args: &[&str]) -> Program {
    let (near, far) = UnixStream::pair().unwrap();
    qemu.give_fd("link", &OwnedFd::from(far));
    let mut ours = command(args);
    ours.stdin(OwnedFd::from(near));
    Program::start(ours)
}
