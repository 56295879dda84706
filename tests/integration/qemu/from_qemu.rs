//! From a QEMU to us: with each of its encodings, over every link.

use ramferry::delta::{self, Delta};
use ramferry::page::PAGE_SIZE;
use ramferry::stats::Report;
use ramferry::wire::qemu::RecordKind;
use serde_json::json;

use super::gate::{Gate, migrate_with_deltas};
use super::ours::{
    Link, MIB, Memory, compression, guest_pages, listen, pages_of, ram_in, receive, receive_stored,
};
use crate::support::qemu::{Qemu, qemu_or_skip, skipped};
use crate::support::{Folder, assert_same, watchdog};

/// `false`: this QEMU has no `compress`, and the rest of the test is not done.
fn compresses(source: &mut Qemu) -> bool {
    let has = source.has_capability("compress");
    if !has {
        skipped("this QEMU has no capability compress");
    }
    has
}

fn compressed(report: &Report) -> u64 {
    report.rounds.iter().map(|round| round.compressed).sum()
}

fn deltas(report: &Report) -> u64 {
    report.rounds.iter().map(|round| round.delta).sum()
}

#[test]
fn a_stopped_guest_arrives_over_every_link() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    for link in Link::ALL {
        let mut source = qemu.source(&image).start();
        let output = folder.path("out");
        let report = receive(&folder, &mut source, link, &output);
        assert_same(&ram_in(&output), &image);
        assert!(report.ram.total > 16 * MIB, "{link:?}: other blocks came");
        assert_eq!(compressed(&report) + deltas(&report), 0, "{link:?}");
        assert_eq!(source.query_status(), "postmigrate", "{link:?}");
        std::fs::remove_dir_all(output).unwrap();
    }
}

#[test]
fn every_compression_level_arrives_from_any_number_of_threads() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    let cases = [
        (1, 1, Link::Unix),
        (1, 4, Link::Tcp),
        (6, 1, Link::Stored),
        (6, 4, Link::Unix),
        (9, 1, Link::Tcp),
        (9, 4, Link::Stored),
    ];
    for (level, threads, link) in cases {
        let mut source = qemu.source(&image).start();
        if !compresses(&mut source) {
            return;
        }
        source.set_capabilities(&[("compress", true)]);
        source.set_parameters(compression(level, threads));
        let output = folder.path("out");
        let report = receive(&folder, &mut source, link, &output);
        assert_same(&ram_in(&output), &image);
        let pages = compressed(&report);
        assert!(pages > 1000, "level {level}, {threads} threads: {pages}");
        std::fs::remove_dir_all(output).unwrap();
    }
}

#[test]
fn the_guest_arrives_when_busy_compressors_leave_pages_plain() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    let mut source = qemu.source(&image).start();
    if !compresses(&mut source) {
        return;
    }
    source.set_capabilities(&[("compress", true)]);
    source.set_parameters(compression(9, 1));
    source.set_parameters(json!({"compress-wait-thread": false}));
    let output = folder.path("out");
    let report = receive(&folder, &mut source, Link::Unix, &output);
    assert!(report.ram.normal > 0 && compressed(&report) > 0);
    assert_same(&ram_in(&output), &image);
}

/// Pages that change while they are sent arrive as deltas, over this link.
fn deltas_arrive(link: Link, compress: bool) {
    let Some(qemu) = qemu_or_skip() else { return };
    let folder = Folder::in_memory();
    let copy = folder.image("ram", &guest_pages());
    let mut source = qemu.source(&copy).shared().qtest().start();
    if compress {
        if !compresses(&mut source) {
            return;
        }
        source.set_capabilities(&[("compress", true)]);
    }
    source.set_capabilities(&[("xbzrle", true)]);
    let output = folder.path("out");
    let (statistics, report) = if link == Link::Stored {
        let stored = folder.path("stream");
        let gate = Gate::to_file(&folder, &stored);
        let statistics = migrate_with_deltas(&mut source, gate);
        (statistics, receive_stored(&stored, &output))
    } else {
        let destination = listen(&folder, link, &output);
        let address = destination.address();
        let gate = match link {
            Link::Unix => Gate::to_unix(&folder, &folder.path("ours")),
            _ => Gate::to_tcp(&folder, &address.to_string()),
        };
        let statistics = migrate_with_deltas(&mut source, gate);
        (statistics, destination.handle.wait().unwrap())
    };
    let hits = statistics["xbzrle-cache"]["pages"].as_u64().unwrap();
    // Of a page that it finds unchanged QEMU sends nothing: how many are left is a matter of when
    // they were written.
    assert!((1..=hits).contains(&deltas(&report)), "{statistics}");
    assert_eq!(compressed(&report) > 1000, compress);
    assert_same(&ram_in(&output), source.ram());
}

#[test]
fn deltas_arrive_over_unix() {
    watchdog!();
    deltas_arrive(Link::Unix, false);
}

#[test]
fn deltas_arrive_over_tcp() {
    watchdog!();
    deltas_arrive(Link::Tcp, false);
}

#[test]
fn deltas_arrive_in_a_stored_stream() {
    watchdog!();
    deltas_arrive(Link::Stored, false);
}

#[test]
fn deltas_upon_compressed_pages_arrive_over_unix() {
    watchdog!();
    deltas_arrive(Link::Unix, true);
}

#[test]
fn deltas_upon_compressed_pages_arrive_over_tcp() {
    watchdog!();
    deltas_arrive(Link::Tcp, true);
}

#[test]
fn deltas_upon_compressed_pages_arrive_in_a_stored_stream() {
    watchdog!();
    deltas_arrive(Link::Stored, true);
}

#[test]
fn our_encoder_makes_the_very_bytes_of_each_of_qemus_deltas() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let copy = folder.image("ram", &guest_pages());
    let mut source = qemu.source(&copy).shared().qtest().start();
    source.set_capabilities(&[("xbzrle", true)]);
    let stored = folder.path("stream");
    migrate_with_deltas(&mut source, Gate::to_file(&folder, &stored));

    let stream = std::fs::read(stored).unwrap();
    let mut memory = Memory::default();
    let mut found = 0;
    for sent in pages_of(&stream).concat() {
        let (old, new) = memory.apply(&sent);
        if sent.kind == RecordKind::Xbzrle {
            let mut out = vec![0; PAGE_SIZE];
            let encoded = delta::encode(&old, &new, &mut out);
            assert_eq!(encoded, Delta::Encoded(sent.payload.len()), "{sent:?}");
            assert_eq!(&out[..sent.payload.len()], sent.payload, "{sent:?}");
            found += 1;
        }
    }
    assert!(found > 0, "no deltas");
    memory.assert_ram(source.ram());
}

#[test]
fn a_source_with_a_return_path_completes() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    for link in Link::ALL {
        if link == Link::Stored {
            // QEMU would wait for an answer for ever.
            continue;
        }
        let mut source = qemu.source(&image).start();
        source.set_capabilities(&[("return-path", true)]);
        let output = folder.path("out");
        let report = receive(&folder, &mut source, link, &output);
        // PONG and SHUT: two heads and two numbers.
        assert_eq!(report.return_bytes, 16, "{link:?}");
        assert_same(&ram_in(&output), &image);
    }
}

#[test]
fn one_block_can_be_kept_alone() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    let mut source = qemu.source(&image).start();
    let socket = format!("unix:{}", folder.path("link").display());
    let output = folder.path("out");
    let mut ours = crate::support::Program::start(crate::support::command(&[
        "receive",
        &socket,
        output.to_str().unwrap(),
        "--block",
        "pc.ram",
        "--quiet",
    ]));
    ours.listening();
    source.migrate(&socket);
    assert_eq!(source.wait_migration(), "completed");
    ours.finish().succeeded();
    assert_same(&output, &image);
}
