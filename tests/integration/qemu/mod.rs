//! Migrations with real QEMUs at one end or at both.
//!
//! `support::qemu` runs a QEMU and speaks with its monitor, `guest` is a program that runs in one,
//! `gate` holds a stream up so that pages change between its rounds, `pairs` tries all of it
//! between two QEMUs, and `ours` is the end that is not a QEMU.
//!
//! `from_qemu` and `to_qemu` try every encoding over every link, `around` both ends one after the
//! other, and `trouble` what goes wrong; `inspect` compares what is reported of a stream with what its
//! QEMU counted; `ctl` drives a QEMU with the command of that name.
//!
//! Every test begins with [`qemu_or_skip`](crate::support::qemu::qemu_or_skip) and a watchdog. Nothing here
//! sleeps or asks again and again: answers and events come over the monitor, and the watchdog is
//! the limit of every wait. `RAMFERRY_QEMU` names another program than `qemu-system-x86_64`;
//! `RAMFERRY_REQUIRE_QEMU=1` makes it an error that there is none.
//!
//! A stopped guest is the simplest: its RAM is its image, and does not change.
//! ```ignore
//! let Some(qemu) = qemu_or_skip() else { return };
//! watchdog!();
//! let folder = Folder::in_memory();
//! let image = folder.image("ram", &mixed(4096, 1));
//! let mut source = qemu.source(&image).start();
//! let mut destination = qemu.destination(&folder.path("out"), 16 << 20).start();
//!
//! let link = format!("unix:{}", folder.path("link").display());
//! destination.migrate_incoming(&link);
//! source.migrate(&link);
//! assert_eq!(source.wait_migration(), "completed");
//! assert_eq!(destination.wait_migration(), "completed");
//! assert_same(destination.ram(), &image);
//! ```
//! A machine with `.shared()` RAM keeps its image as it is now, so that what was written by
//! `qtest_write` or by a running guest can be compared; give it a copy. Source and destination
//! must be alike but for that: machine, size, drives, serial port. A source that has completed a
//! migration does not take part in another.
//!
//! Pages that change while they are sent, and so deltas in the stream:
//! ```ignore
//! let mut source = qemu.source(&copy).shared().qtest().start();
//! source.set_capabilities(&[("xbzrle", true)]);
//! let gate = Gate::to_unix(&folder, &folder.path("link")); // or Gate::to_file
//! let statistics = migrate_with_deltas(&mut source, gate);
//! ```
//! A guest that runs: `guest::boot_floppy`, `Machine::floppy` and `Machine::serial`; `cont`,
//! `serial_lines`, `stop`, migrate, `cont` on the other side, and `guest::assert_continues` over
//! both texts. Stop it first: QEMU 7.2's own migration of a guest that runs without KVM loses
//! pages.

mod around;
mod ctl;
mod from_qemu;
mod gate;
mod guest;
mod inspect;
mod ours;
mod pairs;
mod to_qemu;
mod trouble;
mod writer;

/// The tests that the table of QEMU's own tests names are there.
#[test]
fn the_table_of_qemus_own_tests_names_tests_that_exist() {
    let table = include_str!("../../../docs/qemu-tests.md");
    let sources = [
        ("around", include_str!("around.rs")),
        ("from_qemu", include_str!("from_qemu.rs")),
        ("to_qemu", include_str!("to_qemu.rs")),
        ("trouble", include_str!("trouble.rs")),
    ];
    let named: Vec<&str> = table
        .split('`')
        .filter(|word| word.contains("::"))
        .collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        let (module, test) = name.split_once("::").unwrap();
        let test = format!("#[test]\nfn {test}() {{");
        let found = sources.iter().find(|(name, _)| *name == module);
        assert!(
            found.is_some_and(|(_, text)| text.contains(&test)),
            "{name}"
        );
    }
}
