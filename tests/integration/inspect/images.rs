//! Images and guest folders: every page is counted, every device named, and other files refused.

use std::path::PathBuf;

use ramferry::page::PAGE_SIZE;
use serde_json::Value;

use super::{json, look};
use crate::support::{Folder, Page, allocated, digest, mixed, run, watchdog, write_image};

#[test]
fn the_pages_of_an_image_add_up_and_the_digest_is_right() {
    watchdog!();
    let folder = Folder::in_memory();
    let guest = mixed(3000, 7);
    let image = folder.image("guest.ram", &guest);
    let report = json(&image, 0);
    assert_eq!(report["kind"], "raw-image");
    assert_eq!(report["damage"], Value::Null);
    assert_eq!(report["bytes"], 3000 * PAGE_SIZE);
    assert_eq!(report["digest"], digest(&image).to_string());
    let block = &report["blocks"][0];
    let number = |field: &str| block[field].as_u64().unwrap();
    assert_eq!(block["name"], "pc.ram");
    assert_eq!(
        number("data-bytes") + number("hole-bytes"),
        3000 * PAGE_SIZE as u64
    );
    let pages = |field: &str| block["pages"][field].as_u64().unwrap();
    let all = pages("zero") + pages("one-byte") + pages("duplicate") + pages("other");
    assert_eq!(all, 3000);
    let zero = guest
        .iter()
        .filter(|page| matches!(page, Page::Hole | Page::Zero));
    assert_eq!(pages("zero"), zero.count() as u64);
    let one_byte = guest.iter().filter(|page| matches!(page, Page::Fill(_)));
    assert_eq!(pages("one-byte"), one_byte.count() as u64);
    assert!(pages("duplicate") > 0);

    let methods = report["sample"]["methods"].as_array().unwrap();
    let names: Vec<_> = methods
        .iter()
        .map(|row| row["method"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["none", "zlib", "gzip", "lz4", "zstd"]);
    for row in &methods[1..] {
        assert!(row["ratio"].as_f64().unwrap() > 1.0, "{row}");
    }

    let ended = run(&["inspect", image.to_str().unwrap()]);
    ended.succeeded();
    for words in [
        "raw RAM image, 11.72 MiB",
        &digest(&image).to_string(),
        "duplicate",
        "zstd",
    ] {
        assert!(ended.out.contains(words), "no {words:?} in {}", ended.out);
    }
}

#[test]
fn inspecting_an_image_fills_no_hole() {
    let folder = Folder::in_memory();
    let image = folder.image(
        "guest.ram",
        &[vec![Page::Hole; 4096], vec![Page::Fill(1)]].concat(),
    );
    let before = allocated(&image);
    look(&image);
    assert_eq!(allocated(&image), before);
}

#[test]
fn other_files_are_refused_by_name() {
    let folder = Folder::new();
    let odd = folder.path("odd");
    std::fs::write(&odd, vec![7; PAGE_SIZE + 1]).unwrap();
    let empty = folder.path("empty");
    std::fs::write(&empty, []).unwrap();
    for (path, names) in [
        (odd, ["odd", "not a multiple of the page size"]),
        (empty, ["empty", "is empty"]),
        (folder.path("missing"), ["missing", "cannot open"]),
        (
            "/dev/null".into(),
            ["/dev/null", "is not a migration stream"],
        ),
    ] {
        run(&["inspect", path.to_str().unwrap()]).failed_with(1, &names);
    }
}

/// The end of a QEMU stream after RAM: one device, the end mark, an empty description.
fn device_state() -> Vec<u8> {
    let mut state = [&[4, 0, 0, 0, 0, 5], &b"timer"[..], &[0; 4], &[0, 0, 0, 2]].concat();
    state.extend_from_slice(&[9; 24]);
    state.extend_from_slice(&[0x7e, 0, 0, 0, 0, 0]);
    let text = br#"{"page_size":4096,"devices":[{"name":"timer","instance_id":0}]}"#;
    state.push(6);
    state.extend_from_slice(&(text.len() as u32).to_be_bytes());
    state.extend_from_slice(text);
    state
}

/// A guest folder with a block of RAM, a block of zeros, and a device.
fn guest_folder(folder: &Folder, guest: &[Page]) -> PathBuf {
    let path = folder.path("guest");
    std::fs::create_dir(&path).unwrap();
    write_image(&path.join("pc.ram"), guest);
    write_image(&path.join("pc.bios"), &[Page::Hole, Page::Zero]);
    std::fs::write(path.join("device-state"), device_state()).unwrap();
    let uuid = [
        &[5, 18],
        &b"configuration/uuid"[..],
        &[0, 0, 0, 1],
        &[0xab; 16],
    ]
    .concat();
    let uuid: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let json = serde_json::json!({
        "format": "ramferry-guest-folder",
        "version": 1,
        "machine": "pc-i440fx-7.2",
        "page-size": PAGE_SIZE,
        "configuration": uuid,
        "commands": [{"code": 11, "data": ""}],
        "ram-section-id": 2,
        "blocks": [
            {
                "name": "pc.ram",
                "bytes": guest.len() * PAGE_SIZE,
                "digest": digest(&path.join("pc.ram")).to_string(),
            },
            {"name": "pc.bios", "bytes": 2 * PAGE_SIZE, "digest": "0".repeat(32)},
        ],
        "device-state": {
            "bytes": device_state().len(),
            "xxh3-128": format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&device_state())),
        },
    });
    std::fs::write(path.join("guest.json"), json.to_string()).unwrap();
    path
}

#[test]
fn a_guest_folder_is_described_block_by_block_and_with_its_devices() {
    let folder = Folder::new();
    let guest = mixed(300, 5);
    let path = guest_folder(&folder, &guest);
    let report = json(&path, 0);
    assert_eq!(report["kind"], "guest-folder");
    assert_eq!(report["machine"], "pc-i440fx-7.2");
    assert_eq!(report["configuration"][0]["value"], "ab".repeat(16));
    assert_eq!(report["commands"][0], 11);
    assert_eq!(report["device-state-bytes"], device_state().len());
    assert_eq!(report["devices"][0]["name"], "timer");
    assert_eq!(report["devices"][0]["bytes"], 24);
    assert_eq!(report["blocks"][1]["name"], "pc.bios");
    assert_eq!(report["blocks"][1]["pages"]["zero"], 2);
    assert_eq!(report["blocks"][0]["digest"], report["digest"]);
    assert_eq!(report["blocks"][0]["recorded-digest"], report["digest"]);
    let ended = run(&["inspect", path.to_str().unwrap()]);
    ended.succeeded();
    for words in ["guest folder", "machine pc-i440fx-7.2", "pc.bios", "timer"] {
        assert!(ended.out.contains(words), "no {words:?} in {}", ended.out);
    }

    let changed = [&guest[1..], &[Page::Random(77)]].concat();
    write_image(&path.join("pc.ram"), &changed);
    assert_eq!(json(&path, 3)["damage"]["sort"], "differs");
    let ended = run(&["inspect", path.to_str().unwrap()]);
    ended.failed_with(
        3,
        &["not what its guest.json says: the digest of block 'pc.ram' is "],
    );

    std::fs::remove_file(path.join("guest.json")).unwrap();
    run(&["inspect", path.to_str().unwrap()]).failed_with(1, &["guest.json"]);
}
