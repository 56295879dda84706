//! From QEMU to QEMU: that what the other tests rely on is so.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::gate::{Gate, migrate_with_deltas};
use super::guest::{assert_continues, assert_one_moment, boot_floppy};
use super::ours::{StoredByCommand, load_stored};
use crate::support::qemu::{Binary, Qemu, qemu_or_skip, skipped};
use crate::support::{Folder, Page, assert_same, assert_same_bytes, mixed, watchdog};

const MIB: u64 = 1 << 20;

fn at(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// 16 MiB: pages of all kinds, and 2 MiB that do not compress.
fn image(folder: &Folder, name: &str) -> PathBuf {
    let mut guest = mixed(3584, 7);
    guest.extend((0..512).map(Page::Random));
    folder.image(name, &guest)
}

/// What a source sends to, and what a destination reads at the same time or when it is stored.
enum Link {
    Live(String),
    Stored(StoredByCommand),
}

fn links(folder: &Folder) -> [Link; 2] {
    [
        Link::Live(at(&folder.path("link"))),
        Link::Stored(StoredByCommand::new(folder)),
    ]
}

/// A migration of a stopped guest that works.
#[track_caller]
fn migrate(source: &mut Qemu, destination: &mut Qemu, link: &Link) {
    match link {
        Link::Live(link) => {
            destination.migrate_incoming(link);
            source.migrate(link);
            assert_eq!(source.wait_migration(), "completed", "{link}");
            assert_eq!(destination.wait_migration(), "completed", "{link}");
        }
        Link::Stored(stored) => {
            source.migrate(&stored.uri);
            assert_eq!(source.wait_migration(), "completed");
            load_stored(destination, stored.wait());
        }
    }
}

#[test]
fn a_stopped_guest_arrives_over_every_link() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = image(&folder, "ram");
    for link in links(&folder) {
        let mut source = qemu.source(&image).start();
        let output = folder.path("out");
        let mut destination = qemu.destination(&output, 16 * MIB).start();
        migrate(&mut source, &mut destination, &link);
        assert_same(destination.ram(), &image);
        assert_eq!(destination.query_status(), "prelaunch");
        assert_eq!(destination.quit().code, Some(0));
        std::fs::remove_file(output).unwrap();
        let statistics = source.query_migrate();
        assert_eq!(statistics["status"], "completed");
        assert!(statistics["ram"]["total"].as_u64() > Some(16 * MIB));
        assert_eq!(source.query_status(), "postmigrate");
        assert_eq!(source.quit().code, Some(0));
    }
}

#[test]
fn a_destination_that_is_another_machine_refuses() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = image(&folder, "ram");
    let mut source = qemu.source(&image).start();
    let mut destination = qemu
        .destination(&folder.path("out"), 16 * MIB)
        .machine("q35")
        .start();
    let link = at(&folder.path("link"));
    destination.migrate_incoming(&link);
    source.migrate(&link);
    assert_eq!(destination.wait_migration(), "failed");
    let gone = destination.wait();
    assert_eq!(gone.code, Some(1), "{gone:?}");
    assert!(gone.err.contains("Machine type received is"), "{gone:?}");
    // What the source says depends on whether it had written everything by then.
    assert_ne!(source.wait_migration(), "cancelled");

    let refused = source.try_qmp("nope", json!({})).unwrap_err();
    assert_eq!(refused, "The command nope has not been found");
}

#[test]
fn pages_that_change_on_the_way_arrive_as_deltas() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = image(&folder, "ram");
    let (mut source, mut destination) = changing_pair(qemu, &folder, &image);
    source.set_capabilities(&[("xbzrle", true)]);
    let link = folder.path("link");
    destination.migrate_incoming(&at(&link));
    let statistics = migrate_with_deltas(&mut source, Gate::to_unix(&folder, &link));
    assert_eq!(destination.wait_migration(), "completed");
    assert_deltas(&statistics);
    assert_same(destination.ram(), source.ram());
}

#[test]
fn deltas_follow_compressed_pages_in_a_stored_stream() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = image(&folder, "ram");
    let (mut source, mut destination) = changing_pair(qemu, &folder, &image);
    if !source.has_capability("compress") {
        return skipped("this QEMU has no capability compress");
    }
    source.set_capabilities(&[("xbzrle", true), ("compress", true)]);
    destination.set_capabilities(&[("compress", true)]);
    let stored = folder.path("stream");
    let statistics = migrate_with_deltas(&mut source, Gate::to_file(&folder, &stored));
    assert_deltas(&statistics);
    assert!(statistics["compression"]["pages"].as_u64() > Some(512));
    destination.migrate_incoming(&format!("exec:cat {}", stored.display()));
    assert_eq!(destination.wait_migration(), "completed");
    assert_same(destination.ram(), source.ram());
}

/// A source whose pages can be written to, on a copy of the image, and a destination.
fn changing_pair(qemu: &Binary, folder: &Folder, image: &Path) -> (Qemu, Qemu) {
    let copy = folder.path("copy");
    std::fs::copy(image, &copy).unwrap();
    let source = qemu.source(&copy).shared().qtest().start();
    let destination = qemu.destination(&folder.path("out"), 16 * MIB).start();
    (source, destination)
}

#[track_caller]
fn assert_deltas(statistics: &serde_json::Value) {
    let deltas = &statistics["xbzrle-cache"];
    assert!(deltas["pages"].as_u64() > Some(100), "{statistics}");
    assert!(deltas["bytes"].as_u64() > Some(1000), "{statistics}");
}

#[test]
fn memory_is_written_and_read_while_the_guest_is_stopped() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = image(&folder, "ram");
    let before = std::fs::read(&image).unwrap();
    let mut qemu = qemu.source(&image).qtest().start();
    qemu.qtest_write(2 * MIB + 4090, b"over the edge");
    assert_eq!(qemu.qtest_read(2 * MIB + 4090, 13), b"over the edge");
    let from = 3 * MIB as usize;
    assert_same_bytes(&qemu.qtest_read(3 * MIB, 8192), &before[from..from + 8192]);
    qemu.quit();
    assert_same_bytes(&std::fs::read(&image).unwrap(), &before);
}

#[test]
fn a_guest_goes_on_where_it_was_stopped() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    for link in links(&folder) {
        let (first, second) = (folder.path("first"), folder.path("second"));
        std::fs::File::create(&first)
            .unwrap()
            .set_len(16 * MIB)
            .unwrap();
        let floppy = boot_floppy(&folder);
        let mut source = qemu
            .source(&first)
            .shared()
            .floppy(&floppy)
            .serial()
            .start();
        let mut destination = qemu
            .destination(&second, 16 * MIB)
            .floppy(&floppy)
            .serial()
            .start();
        source.cont();
        source.serial_lines(20);
        source.stop();
        let stopped_at = assert_one_moment(&std::fs::read(&first).unwrap());

        migrate(&mut source, &mut destination, &link);
        assert_same(&second, &first);
        let before = source.quit().serial;
        assert!(assert_continues(&[&before]) >= 20);

        destination.cont();
        destination.serial_lines(20);
        destination.stop();
        let now = assert_one_moment(&std::fs::read(&second).unwrap());
        assert!(now > stopped_at);
        let after = destination.quit().serial;
        // Two halves may make one line.
        assert!(assert_continues(&[&before, &after]) >= 40 - 1);
        for file in [first, second] {
            std::fs::remove_file(file).unwrap();
        }
    }
}
