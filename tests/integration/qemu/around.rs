//! From a QEMU to us and on to another QEMU: what comes out is the guest that went in.

use ramferry::transport::Address;
use ramferry::{Migration, Params, source};
use serde_json::json;

use super::guest::{assert_continues, assert_one_moment, boot_floppy};
use super::ours::{Link, MIB, guest_pages, listen_in, load_stored, ram_in, receive, request, send};
use crate::support::qemu::{Binary, Qemu, qemu_or_skip, skipped};
use crate::support::{
    Destination, Folder, any_port, assert_same, digest, params, source as native, watchdog,
};

/// Sends a guest folder to a QEMU, which completes.
#[track_caller]
fn hand_on(
    folder: &Folder,
    guest: &std::path::Path,
    destination: &mut Qemu,
    link: Link,
    capabilities: &[&str],
) {
    let stored = folder.path("stored");
    let to = match link {
        Link::Stored => Address::File(stored.clone()),
        link => listen_in(folder, destination, link),
    };
    let sent = send(request(guest, to, capabilities), Params::default());
    sent.unwrap_or_else(|error| panic!("{link:?}: {}", error.one_line()));
    if link == Link::Stored {
        load_stored(destination, &stored);
    } else {
        assert_eq!(destination.wait_migration(), "completed", "{link:?}");
    }
}

#[test]
fn a_guest_comes_through_both_wires() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    let mut source = qemu.source(&image).start();
    let (here, there) = (folder.path("here"), folder.path("there"));
    receive(&folder, &mut source, Link::Unix, &here);

    let destination = Destination::start(&any_port(), &there, Params::default());
    let request = Migration::send(&here).to(destination.address());
    let values = [("connections", "2"), ("compress-method", "zstd")];
    let sent = request
        .settings(params(&values))
        .start()
        .unwrap()
        .wait()
        .unwrap();
    let received = destination.handle.wait().unwrap();
    assert_eq!(sent.digest, received.digest);
    assert_eq!(digest(&there), digest(&here));
    assert_same(&there.join("device-state"), &here.join("device-state"));

    let output = folder.path("out");
    let mut destination = qemu.destination(&output, 16 * MIB).start();
    hand_on(&folder, &there, &mut destination, Link::Tcp, &[]);
    assert_same(&output, &image);
}

/// QEMU 8.1 and later say before RAM which memory of a virtio-mem device is plugged: QEMU 11 in another
/// place than 10. Here none is, so that nothing comes of its block.
#[test]
fn a_guest_with_a_virtio_mem_device_comes_through_both_wires() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    let with_device = [
        "-m",
        "size=16384k,maxmem=1G",
        "-object",
        "memory-backend-ram,id=more,size=64M",
        "-device",
        "virtio-mem-pci,memdev=more",
    ];
    let mut source = qemu.source(&image).args(with_device).start();
    let (here, there) = (folder.path("here"), folder.path("there"));
    receive(&folder, &mut source, Link::Unix, &here);

    let destination = Destination::start(&any_port(), &there, Params::default());
    let sent = Migration::send(&here).to(destination.address()).start();
    sent.unwrap().wait().unwrap();
    destination.handle.wait().unwrap();
    let described = |guest| {
        let guest = ramferry::image::Guest::open(guest).unwrap();
        guest.description().unwrap().clone()
    };
    assert_eq!(described(&there), described(&here));

    let output = folder.path("out");
    let destination = qemu.destination(&output, 16 * MIB).args(with_device);
    let mut destination = destination.start();
    hand_on(&folder, &there, &mut destination, Link::Tcp, &[]);
    assert_same(&output, &image);
}

/// Its stream ends without an END section of RAM, and with the devices' state of its first moment.
#[test]
fn a_background_snapshot_of_a_running_guest_goes_on_where_it_was_taken() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let (first, second) = (folder.path("first"), folder.path("second"));
    let ram = std::fs::File::create(&first).unwrap();
    ram.set_len(16 * MIB).unwrap();
    let floppy = boot_floppy(&folder);
    let source = qemu.source(&first).shared().floppy(&floppy).serial();
    let mut source = source.start();
    let snapshot = json!({"capabilities": [{"capability": "background-snapshot", "state": true}]});
    if let Err(why) = source.try_qmp("migrate-set-capabilities", snapshot) {
        return skipped(&why);
    }
    source.cont();
    source.serial_lines(20);

    let guest = folder.path("guest");
    receive(&folder, &mut source, Link::Unix, &guest);
    let taken_at = assert_one_moment(&std::fs::read(ram_in(&guest)).unwrap());
    // It runs on.
    source.serial_lines(40);

    let destination = qemu.destination(&second, 16 * MIB).floppy(&floppy).serial();
    let mut destination = destination.start();
    hand_on(&folder, &guest, &mut destination, Link::Unix, &[]);
    assert_same(&second, &ram_in(&guest));
    destination.cont();
    destination.serial_lines(20);
    destination.stop();
    let now = assert_one_moment(&std::fs::read(&second).unwrap());
    assert!(now > taken_at, "{taken_at}, {now}");
}

#[test]
fn the_ram_of_a_guest_is_an_image_for_the_native_wire() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    let mut source = qemu.source(&image).start();
    let (here, there) = (folder.path("here"), folder.path("there"));
    receive(&folder, &mut source, Link::Unix, &here);

    let destination = Destination::start(&any_port(), &there, Params::default());
    let values = params(&[("connections", "2")]);
    let images = [ram_in(&here)];
    let sent = native(
        &images,
        &destination.address(),
        ramferry::Caps::default(),
        values,
    );
    sent.and_then(Migration::wait).unwrap();
    destination.handle.wait().unwrap();

    let output = folder.path("out");
    let mut destination = qemu
        .destination(&output, 16 * MIB)
        .machine(source::DEFAULT_MACHINE)
        .start();
    hand_on(&folder, &there, &mut destination, Link::Unix, &["xbzrle"]);
    assert_same(&output, &image);
}

/// The guest that counts goes by way of us, and goes on where it was.
fn a_guest_goes_on(link: Link, compress: bool) {
    let Some(qemu) = qemu_or_skip() else { return };
    let folder = Folder::in_memory();
    let (first, second) = (folder.path("first"), folder.path("second"));
    let ram = std::fs::File::create(&first).unwrap();
    ram.set_len(16 * MIB).unwrap();
    let floppy = boot_floppy(&folder);
    let source = qemu.source(&first).shared().floppy(&floppy).serial();
    let mut source = source.start();
    let destination = qemu.destination(&second, 16 * MIB).floppy(&floppy).serial();
    let mut destination = destination.start();
    if compress {
        if !source.has_capability("compress") {
            return skipped("this QEMU has no capability compress");
        }
        source.set_capabilities(&[("compress", true)]);
        destination.set_capabilities(&[("compress", true)]);
    }
    source.cont();
    source.serial_lines(20);
    source.stop();
    let stopped_at = assert_one_moment(&std::fs::read(&first).unwrap());

    let guest = folder.path("guest");
    receive(&folder, &mut source, link, &guest);
    assert_same(&ram_in(&guest), &first);
    let before = source.quit().serial;
    assert!(assert_continues(&[&before]) >= 20);

    let capabilities: &[&str] = if compress { &["compress"] } else { &[] };
    hand_on(&folder, &guest, &mut destination, link, capabilities);
    assert_same(&second, &first);

    destination.cont();
    destination.serial_lines(20);
    destination.stop();
    let now = assert_one_moment(&std::fs::read(&second).unwrap());
    assert!(now > stopped_at, "{stopped_at}, {now}");
    let after = destination.quit().serial;
    // Two halves may make one line.
    assert!(assert_continues(&[&before, &after]) >= 40 - 1);
}

#[test]
fn a_guest_goes_on_where_it_was_stopped() {
    watchdog!();
    a_guest_goes_on(Link::Unix, false);
}

#[test]
fn a_guest_that_was_compressed_goes_on_where_it_was_stopped() {
    watchdog!();
    a_guest_goes_on(Link::Unix, true);
}

#[test]
fn a_guest_that_was_stored_goes_on_where_it_was_stopped() {
    watchdog!();
    a_guest_goes_on(Link::Stored, false);
}

#[test]
fn a_guest_that_was_stored_compressed_goes_on_where_it_was_stopped() {
    watchdog!();
    a_guest_goes_on(Link::Stored, true);
}

const ONE: &str = "11111111-2222-3333-4444-555555555555";
const OTHER: &str = "99999999-2222-3333-4444-555555555555";

/// By way of us, with capability validate-uuid at both ends. What the destination says.
fn with_uuids(
    qemu: &Binary,
    from: Option<&'static str>,
    to: Option<&'static str>,
) -> Result<String, String> {
    let folder = Folder::in_memory();
    let image = folder.image("ram", &guest_pages());
    let (guest, output) = (folder.path("guest"), folder.path("out"));
    let args = |uuid: Option<_>| uuid.map_or(vec![], |uuid| vec!["-uuid", uuid]);
    let mut source = qemu.source(&image).args(args(from)).start();
    source.set_capabilities(&[("validate-uuid", true)]);
    receive(&folder, &mut source, Link::Unix, &guest);
    let mut destination = qemu.destination(&output, 16 * MIB).args(args(to)).start();
    destination.set_capabilities(&[("validate-uuid", true)]);
    let address = listen_in(&folder, &mut destination, Link::Unix);
    let sent = send(request(&guest, address, &[]), Params::default());
    let ended = destination.wait_migration();
    assert_eq!(sent.is_ok(), ended == "completed", "{sent:?}, {ended}");
    if sent.is_ok() {
        assert_same(&output, &image);
        Ok(destination.quit().err)
    } else {
        Err(destination.wait().err)
    }
}

#[test]
fn a_uuid_is_handed_on_to_be_validated() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    with_uuids(qemu, Some(ONE), Some(ONE)).unwrap();
    with_uuids(qemu, None, Some(ONE)).unwrap();
    with_uuids(qemu, Some(ONE), None).unwrap();
    let said = with_uuids(qemu, Some(ONE), Some(OTHER)).unwrap_err();
    assert!(said.contains("UUID"), "{said}");
}
