//! What `inspect` says of a stream that a QEMU wrote, against what that QEMU says of it.

use super::gate::{Gate, migrate_with_deltas};
use crate::support::qemu::qemu_or_skip;
use crate::support::{Folder, Page, mixed, run, watchdog};

#[test]
fn inspect_reports_what_qemu_counted() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let mut guest = mixed(3584, 7);
    guest.extend((0..512).map(Page::Random));
    let image = folder.image("ram", &guest);
    let mut source = qemu.source(&image).shared().qtest().start();
    source.set_capabilities(&[("xbzrle", true)]);
    let stored = folder.path("stream");
    let counted = migrate_with_deltas(&mut source, Gate::to_file(&folder, &stored));

    let ended = run(&["inspect", stored.to_str().unwrap(), "--json"]);
    ended.succeeded();
    let report = ended.json();
    assert_eq!(report["complete"], true);
    let size = std::fs::metadata(&stored).unwrap().len();
    let parts = report["parts"].as_array().unwrap().iter();
    let parts = parts.map(|part| part["bytes"].as_u64().unwrap());
    assert_eq!(parts.sum::<u64>(), size);

    let records = |kind: &str| {
        let found = report["records"].as_array().unwrap().iter();
        let found = found.filter(|records| records["kind"] == kind);
        found
            .map(|records| records["count"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(records("zero"), counted["ram"]["duplicate"]);
    assert_eq!(records("page"), counted["ram"]["normal"]);
    assert!(records("xbzrle") > 0);
    // Each page of RAM came once, and those that were written to came again.
    let ram = &report["blocks"][0];
    assert_eq!(ram["distinct-pages"], 4096);
    assert!(ram["repeats"].as_u64().unwrap() >= records("xbzrle"));
    let devices = report["devices"].as_array().unwrap();
    assert!(
        devices.iter().any(|device| device["name"] == "cpu"),
        "{devices:?}"
    );
    assert!(report["machine"].as_str().unwrap().starts_with("pc-"));
}
