//! From us to a QEMU: with each of its encodings, over every link; and what we write, record by
//! record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ramferry::delta::{self, Delta};
use ramferry::error::Kind;
use ramferry::page::{PAGE_SIZE, is_zero};
use ramferry::source::DEFAULT_MACHINE;
use ramferry::stats::Report;
use ramferry::transport::Address;
use ramferry::wire::qemu::RecordKind;

use super::ours::{
    Link, MIB, Memory, StoredByCommand, guest_folder, guest_pages, listen_in, load_stored,
    pages_of, request, send,
};
use crate::support::qemu::{Binary, Qemu, qemu_or_skip, skipped};
use crate::support::{
    Folder, Page, assert_same, assert_same_bytes, later, mixed, params, watchdog,
};

/// A guest and what becomes of it: a guest folder, and raw images of its RAM later on.
struct Life {
    folder: Folder,
    guest: PathBuf,
    images: Vec<PathBuf>,
}

impl Life {
    fn new(qemu: &Binary) -> Life {
        let folder = Folder::in_memory();
        let images = images(&folder, &guest_pages(), 4);
        let guest = guest_folder(qemu, &folder, &images[0]);
        Life {
            folder,
            guest,
            images,
        }
    }
}

/// The RAM of a guest at several times.
fn images(folder: &Folder, pages: &[Page], count: u64) -> Vec<PathBuf> {
    let mut pages = pages.to_vec();
    (0..count)
        .map(|time| {
            if time > 0 {
                pages = later(&pages, time);
            }
            folder.image(&format!("t{time}"), &pages)
        })
        .collect()
}

/// How a guest is sent, and over what.
struct Case {
    capabilities: &'static [&'static str],
    params: &'static [(&'static str, &'static str)],
    /// How many later images there are.
    then: usize,
    link: Link,
}

/// Sends a guest to a QEMU; whether it was done, which needs a QEMU that knows the capabilities.
#[track_caller]
fn arrives(qemu: &Binary, life: &Life, case: &Case) -> Option<Report> {
    let folder = &life.folder;
    let output = folder.path("out");
    let mut destination = qemu.destination(&output, 16 * MIB).start();
    if case.capabilities.contains(&"compress") {
        if !destination.has_capability("compress") {
            skipped("this QEMU has no capability compress");
            return None;
        }
        destination.set_capabilities(&[("compress", true)]);
    }
    let stored = folder.path("stored");
    let to = match case.link {
        Link::Stored => Address::File(stored.clone()),
        link => listen_in(folder, &mut destination, link),
    };
    let request = request(&life.guest, to, case.capabilities).then(&life.images[1..=case.then]);
    let name = format!(
        "{:?} {:?} {} {:?}",
        case.capabilities, case.params, case.then, case.link
    );
    let report = send(request, params(case.params))
        .unwrap_or_else(|error| panic!("{name}: {}", error.one_line()));
    if case.link == Link::Stored {
        load_stored(&mut destination, &stored);
    } else {
        assert_eq!(destination.wait_migration(), "completed", "{name}");
    }
    assert_same(&output, &life.images[case.then]);
    assert_eq!(destination.query_status(), "prelaunch", "{name}");
    std::fs::remove_file(output).unwrap();
    Some(report)
}

#[test]
fn a_guest_arrives_over_every_link() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let life = Life::new(qemu);
    for link in Link::ALL {
        let case = Case {
            capabilities: &[],
            params: &[],
            then: 0,
            link,
        };
        let report = arrives(qemu, &life, &case).unwrap();
        assert!(report.ram.normal > 1000, "{link:?}");
    }
}

#[test]
fn every_compression_level_arrives_from_any_number_of_threads() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let life = Life::new(qemu);
    let case = |params, link| Case {
        capabilities: &["compress"],
        params,
        then: 0,
        link,
    };
    for case in [
        case(
            &[("compress-level", "1"), ("compress-threads", "1")],
            Link::Unix,
        ),
        case(
            &[("compress-level", "1"), ("compress-threads", "4")],
            Link::Tcp,
        ),
        case(
            &[("compress-level", "6"), ("compress-threads", "1")],
            Link::Stored,
        ),
        case(
            &[("compress-level", "6"), ("compress-threads", "4")],
            Link::Unix,
        ),
        case(
            &[("compress-level", "9"), ("compress-threads", "1")],
            Link::Tcp,
        ),
        case(
            &[("compress-level", "9"), ("compress-threads", "4")],
            Link::Stored,
        ),
    ] {
        let Some(report) = arrives(qemu, &life, &case) else {
            return;
        };
        let pages = report.compression.unwrap().pages;
        // The others are zero, or do not shrink.
        assert!(pages > 500, "{:?}: {pages}", case.params);
    }
}

#[test]
fn deltas_arrive_over_every_link() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let life = Life::new(qemu);
    for (then, link) in [(2, Link::Unix), (3, Link::Tcp), (3, Link::Stored)] {
        let case = Case {
            capabilities: &["xbzrle"],
            params: &[("compress-threads", "4")],
            then,
            link,
        };
        let report = arrives(qemu, &life, &case).unwrap();
        assert_deltas(&report, &format!("{then} {link:?}"));
    }
}

#[test]
fn deltas_upon_compressed_pages_arrive_over_every_link() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let life = Life::new(qemu);
    for link in Link::ALL {
        let case = Case {
            capabilities: &["compress", "xbzrle"],
            params: &[("compress-threads", "4")],
            then: 3,
            link,
        };
        let Some(report) = arrives(qemu, &life, &case) else {
            return;
        };
        assert_deltas(&report, &format!("{link:?}"));
        assert!(report.compression.unwrap().pages > 500, "{link:?}");
    }
}

#[test]
fn later_rounds_may_be_compressed_instead_of_deltas() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let life = Life::new(qemu);
    for (capabilities, link) in [(&["compress"] as &[_], Link::Unix), (&[], Link::Stored)] {
        let case = Case {
            capabilities,
            params: &[],
            then: 2,
            link,
        };
        if let Some(report) = arrives(qemu, &life, &case) {
            assert!(report.xbzrle_cache.is_none());
        }
    }
}

#[track_caller]
fn assert_deltas(report: &Report, name: &str) {
    let deltas = report.xbzrle_cache.as_ref().unwrap();
    // Each page's second sending is a miss; only the third can be a delta.
    assert_eq!(report.rounds[1].delta, 0, "{name}");
    assert!(deltas.pages > 0 && deltas.cache_miss > 0, "{name}");
}

#[test]
fn a_command_stores_what_a_qemu_loads() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let life = Life::new(qemu);
    let stored = StoredByCommand::new(&life.folder);
    let request = request(&life.guest, stored.uri.parse().unwrap(), &["xbzrle"]);
    send(request, params(&[])).unwrap();
    let output = life.folder.path("out");
    let mut destination = qemu.destination(&output, 16 * MIB).start();
    load_stored(&mut destination, stored.wait());
    assert_same(&output, &life.images[0]);
}

#[test]
fn a_raw_image_is_a_guest_without_devices() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let images = images(&folder, &guest_pages(), 3);
    for link in Link::ALL {
        let output = folder.path("out");
        let mut destination = qemu
            .destination(&output, 16 * MIB)
            .machine(DEFAULT_MACHINE)
            .start();
        let stored = folder.path("stored");
        let to = match link {
            Link::Stored => Address::File(stored.clone()),
            link => listen_in(&folder, &mut destination, link),
        };
        let request = request(&images[0], to, &["xbzrle"]).then(&images[1..]);
        let report = send(request, params(&[])).unwrap();
        assert_deltas(&report, &format!("{link:?}"));
        if link == Link::Stored {
            load_stored(&mut destination, &stored);
        } else {
            assert_eq!(destination.wait_migration(), "completed", "{link:?}");
        }
        assert_same(&output, &images[2]);
        std::fs::remove_file(output).unwrap();
    }
}

/// Sends what this QEMU does not take. What it says on its standard error.
#[track_caller]
fn refused(
    life: &Life,
    mut destination: Qemu,
    capabilities: &[&str],
    guest: &Path,
    block: Option<&str>,
) -> String {
    let to = listen_in(&life.folder, &mut destination, Link::Unix);
    let request = request(guest, to, capabilities).block(block.map(str::to_owned));
    let error = send(request, params(&[])).unwrap_err();
    // QEMU's answer or its end may come first; either is a failure.
    let kind = error.kind();
    let named = [Kind::Refused, Kind::OutcomeUnknown, Kind::Failed].contains(&kind);
    assert!(named, "{kind:?}: {}", error.one_line());
    assert_eq!(destination.wait_migration(), "failed");
    let gone = destination.wait();
    assert_eq!(gone.code, Some(1), "{gone:?}");
    gone.err
}

#[test]
fn a_destination_that_does_not_decompress_fails_the_source() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let life = Life::new(qemu);
    let destination = qemu.destination(&life.folder.path("out"), 16 * MIB).start();
    let said = refused(&life, destination, &["compress"], &life.guest, None);
    assert!(said.contains("compressed page"), "{said}");
    // The guest is as it was.
    assert_same(&super::ours::ram_in(&life.guest), &life.images[0]);
}

#[test]
fn a_destination_that_is_another_machine_fails_the_source() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let life = Life::new(qemu);
    let output = life.folder.path("out");
    let other = qemu.destination(&output, 16 * MIB).machine("q35").start();
    let said = refused(&life, other, &[], &life.guest, None);
    assert!(said.contains("Machine type received is"), "{said}");

    let other = qemu
        .destination(&life.folder.path("larger"), 32 * MIB)
        .start();
    let said = refused(&life, other, &[], &life.guest, None);
    assert!(said.contains("Size mismatch: pc.ram"), "{said}");

    let other = qemu.destination(&output, 16 * MIB).start();
    let block = Some("pc.rom.of.another");
    let said = refused(&life, other, &[], &life.images[0], block);
    assert!(said.contains("pc.rom.of.another"), "{said}");
    assert_same(&super::ours::ram_in(&life.guest), &life.images[0]);
}

// ---- what we write

/// A stored stream of raw images.
fn stream_of(
    folder: &Folder,
    images: &[PathBuf],
    capabilities: &[&str],
    values: &[(&str, &str)],
) -> Vec<u8> {
    let path = folder.path("stream");
    let request = request(&images[0], Address::File(path.clone()), capabilities);
    send(request.then(&images[1..]), params(values)).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn one_thread_writes_the_same_bytes_each_time() {
    watchdog!();
    let folder = Folder::in_memory();
    let images = images(&folder, &mixed(1024, 3), 4);
    for capabilities in [
        &[] as &[_],
        &["compress"],
        &["xbzrle"],
        &["compress", "xbzrle"],
    ] {
        let values = [("compress-threads", "1"), ("xbzrle-cache-size", "256KiB")];
        let first = stream_of(&folder, &images, capabilities, &values);
        let second = stream_of(&folder, &images, capabilities, &values);
        assert_same_bytes(&first, &second);
        let mut memory = Memory::default();
        for sent in pages_of(&first).concat() {
            memory.apply(&sent);
        }
        memory.assert_ram(&images[3]);
    }
}

/// QEMU's cache of pages, as its users know it: direct-mapped, with the generation of last use.
struct Cache {
    slots: u64,
    entries: BTreeMap<u64, Cached>,
}

struct Cached {
    page: u64,
    age: u32,
    bytes: Vec<u8>,
}

impl Cache {
    fn hit(&mut self, page: u64) -> Option<&mut Cached> {
        let entry = self.entries.get_mut(&(page % self.slots));
        entry.filter(|entry| entry.page == page)
    }

    fn insert(&mut self, page: u64, bytes: &[u8], now: u32) {
        let slot = page % self.slots;
        if let Some(held) = self.entries.get(&slot)
            && held.page != page
            && held.age + 2 > now
        {
            return;
        }
        let (age, bytes) = (now, bytes.to_vec());
        self.entries.insert(slot, Cached { page, age, bytes });
    }
}

/// The records that QEMU's rules make of images, one a round: for each page its number, how it
/// goes, and a delta's bytes.
fn by_the_rules(images: &[PathBuf], slots: u64) -> Vec<Vec<(u64, RecordKind, Vec<u8>)>> {
    let mut cache = Cache {
        slots,
        entries: BTreeMap::new(),
    };
    let images: Vec<Vec<u8>> = images.iter().map(|i| std::fs::read(i).unwrap()).collect();
    let mut rounds = Vec::new();
    for (index, image) in images.iter().enumerate() {
        let now = index as u32 + 1;
        let (bulk, last) = (index == 0, index + 1 == images.len());
        let mut round = Vec::new();
        for (page, bytes) in (0..).zip(image.chunks_exact(PAGE_SIZE)) {
            let at = page as usize * PAGE_SIZE;
            if !bulk && images[index - 1][at..at + PAGE_SIZE] == *bytes {
                continue;
            }
            if is_zero(bytes) {
                if !bulk {
                    cache.insert(page, bytes, now);
                }
                round.push((page, RecordKind::Zero, Vec::new()));
            } else if bulk {
                round.push((page, RecordKind::Page, Vec::new()));
            } else if let Some(held) = cache.hit(page) {
                held.age = now;
                let mut out = vec![0; PAGE_SIZE];
                let old: &[u8; PAGE_SIZE] = held.bytes[..].try_into().unwrap();
                match delta::encode(old, bytes.try_into().unwrap(), &mut out) {
                    Delta::Unchanged => {}
                    Delta::Encoded(len) => {
                        out.truncate(len);
                        round.push((page, RecordKind::Xbzrle, out));
                    }
                    Delta::Overflow => round.push((page, RecordKind::Page, Vec::new())),
                }
                if !last {
                    held.bytes = bytes.to_vec();
                }
            } else {
                if !last {
                    cache.insert(page, bytes, now);
                }
                round.push((page, RecordKind::Page, Vec::new()));
            }
        }
        rounds.push(round);
    }
    rounds
}

#[test]
fn one_thread_makes_deltas_by_qemus_rules() {
    watchdog!();
    let folder = Folder::in_memory();
    let images = images(&folder, &mixed(1024, 3), 6);
    // One slot for all pages, many pages for a slot, and a slot for each page.
    for (size, slots) in [("4KiB", 1), ("64KiB", 16), ("1MiB", 256), ("64MiB", 16384)] {
        let values = [("compress-threads", "1"), ("xbzrle-cache-size", size)];
        let stream = stream_of(&folder, &images, &["xbzrle"], &values);
        let mut memory = Memory::default();
        let rounds = pages_of(&stream);
        // START has no pages of ours.
        assert_eq!(rounds.len(), 1 + images.len(), "{size}");
        assert!(rounds[0].is_empty(), "{size}");
        let mut deltas = 0;
        for (number, (sent, expected)) in
            (1..).zip(rounds[1..].iter().zip(by_the_rules(&images, slots)))
        {
            for (sent, (page, kind, delta)) in sent.iter().zip(&expected) {
                let name = format!("{size}, round {number}, page {page}");
                assert_eq!((sent.page, sent.kind), (*page, *kind), "{name}");
                if *kind == RecordKind::Xbzrle {
                    assert_eq!(sent.payload, delta, "{name}");
                    deltas += 1;
                }
                memory.apply(sent);
            }
            assert_eq!(sent.len(), expected.len(), "{size}, round {number}");
        }
        assert!(slots < 16 || deltas > 0, "{size}: there were deltas");
        memory.assert_ram(&images[5]);
    }
}
