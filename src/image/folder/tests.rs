use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::{Guest, ImageError, Later, Output};
use super::*;
use crate::description::{Description, EarlyState};
use crate::page::PageIndex;

fn blocks() -> Vec<(String, u64)> {
    [("pc.ram", 8), ("0000:00:02.0/vga.vram", 2)]
        .map(|(name, pages)| (name.to_owned(), pages * PAGE_SIZE as u64))
        .to_vec()
}

fn write(path: &Path) {
    let mut output = Output::folder(path, &blocks(), true).unwrap();
    let (first, page) = (PageIndex(1), [7; PAGE_SIZE]);
    output.blocks()[0].place(first, &page).unwrap();
    output.blocks()[1].place(first, &page).unwrap();
    output.append_device_state(b"the devices'").unwrap();
    output.append_device_state(b" state").unwrap();
    output.describe(Description {
        machine: "pc".to_owned(),
        configuration: vec![0, 255],
        commands: vec![(11, vec![]), (3, vec![1])],
        ram_section_id: 2,
        early: EarlyState {
            before_blocks: 4,
            after_blocks: 8,
        },
    });
    output.commit().unwrap();
}

fn refused(path: &Path) -> String {
    crate::Error::from(Guest::open(path).unwrap_err()).one_line()
}

#[test]
fn a_folder_that_was_written_is_read_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest");
    write(&path);
    let guest = Guest::open(&path).unwrap();
    let names: Vec<_> = guest.blocks().iter().map(|block| block.name()).collect();
    assert_eq!(names, ["pc.ram", "0000:00:02.0/vga.vram"]);
    assert_eq!(guest.blocks()[1].key(PageIndex(1)), 9);
    assert_eq!(guest.description().unwrap().commands[1], (3, vec![1]));
    let state = guest.device_state().unwrap().read().unwrap();
    assert_eq!(state, b"the devices' state");
    let early = guest.description().unwrap().early;
    assert_eq!((early.before_blocks, early.after_blocks), (4, 8));
    // The digest is the sum of the blocks' own; that of pc.ram is that of the raw image.
    let raw = Guest::open(&path.join("pc.ram")).unwrap().digest().unwrap();
    let (vga, _) = guest.blocks()[1].digest().unwrap();
    let mut both = raw;
    both.add(vga.0);
    assert_eq!(guest.digest().unwrap(), both);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn file_names_are_distinct_and_short_and_stay_inside_the_folder() {
    let long = "x".repeat(255);
    let names = [
        "pc.ram",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "guest.json",
        "%67uest.json",
        "guest.json.new",
        "device-state",
        "%",
        "%25",
        "a b",
        "a\0b",
        "ä",
        &long,
        &long[1..],
    ];
    let files: std::collections::HashSet<String> =
        names.iter().map(|name| file_name(name)).collect();
    assert_eq!(files.len(), names.len(), "{files:?}");
    for file in &files {
        assert!(
            file.len() <= MAX_FILE_NAME && !file.starts_with('.'),
            "{file}"
        );
        assert!(!file.contains(['/', '\0']), "{file}");
        assert!(![GUEST_JSON, GUEST_JSON_NEW, DEVICE_STATE].contains(&file.as_str()));
    }
    assert_eq!(file_name("pc.ram"), "pc.ram");
    assert_eq!(file_name("0:2/vga"), "0%3A2%2Fvga");
}

#[test]
fn guest_json_with_other_fields_or_values_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest");
    write(&path);
    let json = path.join(GUEST_JSON);
    let good = std::fs::read_to_string(&json).unwrap();
    for (from, to, why) in [
        ("\"machine\": \"pc\",", "", "missing field `machine`"),
        (
            "\"machine\": \"pc\",",
            "\"machine\": \"pc\", \"machine\": \"pc\",",
            "duplicate field `machine`",
        ),
        (
            "\"machine\": \"pc\",",
            "\"machine\": \"pc\", \"extra\": 1,",
            "unknown field `extra`",
        ),
        (
            "\"bytes\": 8192",
            "\"bytes\": 8191",
            "has 8191 bytes: a block has whole pages",
        ),
        (
            "\"bytes\": 8192",
            "\"bytes\": 0",
            "has 0 bytes: a block has whole pages",
        ),
        (
            "\"bytes\": 8192",
            "\"bytes\": 12288",
            "'0000%3A00%3A02.0%2Fvga.vram' has 8192 bytes, but guest.json says 12288",
        ),
        (
            "\"0000:00:02.0/vga.vram\"",
            "\"pc.ram\"",
            "block 'pc.ram' occurs twice",
        ),
        (
            "\"0000:00:02.0/vga.vram\"",
            "\"../../passwd\"",
            "'%2E.%2F..%2Fpasswd' is missing",
        ),
        ("\"0000:00:02.0/vga.vram\"", "\"\"", "name has 0 bytes"),
        (
            "ramferry-guest-folder",
            "ramferry-guest-partial",
            "not received completely",
        ),
        ("ramferry-guest-folder", "tar", "has the format 'tar'"),
        (
            "\"version\": 1",
            "\"version\": 2",
            "version is 2, but only 1",
        ),
        (
            "\"page-size\": 4096",
            "\"page-size\": 65536",
            "page-size is 65536",
        ),
        ("\"00ff\"", "\"00f\"", "configuration is not hexadecimal"),
        ("\"00ff\"", "\"00fg\"", "configuration is not hexadecimal"),
        (
            "\"bytes\": 18",
            "\"bytes\": 19",
            "'device-state' has 18 bytes, but guest.json says 19",
        ),
        ("}\n", "}\n{}", "trailing characters"),
    ] {
        assert!(good.contains(from), "{from}");
        let at = if to.ends_with("{}") {
            good.rfind(from)
        } else {
            good.find(from)
        };
        let at = at.unwrap();
        let bad = format!("{}{to}{}", &good[..at], &good[at + from.len()..]);
        std::fs::write(&json, bad).unwrap();
        let line = refused(&path);
        assert!(line.contains(why), "{why:?} is not in {line:?}");
        assert!(line.contains(path.to_str().unwrap()), "{line:?}");
    }
    std::fs::write(&json, vec![b' '; MAX_GUEST_JSON + 1]).unwrap();
    assert!(refused(&path).contains("longer than 1048576 bytes"));
    let block =
        "{\"name\": \"NAME\", \"bytes\": 4096, \"digest\": \"00000000000000000000000000000000\"},";
    let many: String = (0..=MAX_BLOCKS)
        .map(|n| block.replace("NAME", &n.to_string()))
        .collect();
    let at = good.find("\"blocks\": [").unwrap() + "\"blocks\": [".len();
    std::fs::write(&json, format!("{}{many}{}", &good[..at], &good[at..])).unwrap();
    assert!(refused(&path).contains("too many blocks: 1027, but at most 1024"));
}

#[test]
fn files_that_were_changed_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest");
    write(&path);
    let ram = path.join("pc.ram");
    std::fs::rename(&ram, dir.path().join("elsewhere")).unwrap();
    assert!(refused(&path).contains("'pc.ram' is missing"));
    symlink(dir.path().join("elsewhere"), &ram).unwrap();
    assert!(refused(&path).contains("'pc.ram' is not a regular file"));
    std::fs::remove_file(&ram).unwrap();
    std::fs::create_dir(&ram).unwrap();
    assert!(refused(&path).contains("'pc.ram' is not a regular file"));
    std::fs::remove_dir(&ram).unwrap();
    std::fs::copy(dir.path().join("elsewhere"), &ram).unwrap();
    Guest::open(&path).unwrap();
    std::fs::write(path.join(DEVICE_STATE), b"the devices' STATE").unwrap();
    assert!(refused(&path).contains("'device-state' is damaged"));
    std::fs::write(path.join(DEVICE_STATE), b"the devices' state").unwrap();
    std::fs::write(&ram, vec![1; 8 * PAGE_SIZE]).unwrap();
    let error = crate::Error::from(Guest::open(&path).unwrap().digest().unwrap_err());
    assert_eq!(error.kind(), crate::Kind::Differs);
    assert!(error.one_line().contains("'pc.ram' is damaged"), "{error}");
    std::fs::remove_file(path.join(GUEST_JSON)).unwrap();
    assert!(refused(&path).contains("it has no guest.json, so it is not one"));
}

#[test]
fn a_later_snapshot_replaces_the_largest_block_or_all_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    write(&first);
    write(&second);
    std::fs::write(second.join(DEVICE_STATE), b"THE devices' state").unwrap();
    let guest = Guest::open(&first).unwrap();
    let raw = dir.path().join("raw");
    std::fs::write(&raw, vec![3; 8 * PAGE_SIZE]).unwrap();
    let later = guest.open_later(&Later::image(&raw)).unwrap();
    assert_eq!(later.blocks().len(), 2);
    assert_eq!(
        later.blocks()[1].path(),
        first.join(file_name("0000:00:02.0/vga.vram"))
    );
    assert_eq!(later.blocks()[0].path(), raw);
    assert!(later.device_state().is_some());
    std::fs::write(&raw, vec![3; 2 * PAGE_SIZE]).unwrap();
    assert!(matches!(
        guest.open_later(&Later::image(&raw)),
        Err(ImageError::OtherSize {
            expected: 32_768,
            ..
        })
    ));
    assert!(
        guest.open_later(&Later::image(&second)).is_err(),
        "its device state is damaged"
    );
    write(&second);
    assert_eq!(
        guest.open_later(&Later::image(&second)).unwrap().pages(),
        10
    );
    let other = dir.path().join("other");
    let mut output = Output::folder(&other, &blocks()[..1], false).unwrap();
    output.commit().unwrap();
    let error = guest
        .open_later(&Later::image(&other))
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("it has 1, but the guest has 2"), "{error}");
    std::fs::write(&raw, vec![3; 8 * PAGE_SIZE]).unwrap();
    let error = Guest::open(&raw)
        .unwrap()
        .open_later(&Later::image(&other))
        .unwrap_err();
    assert!(
        error.to_string().contains("the guest is a raw image"),
        "{error}"
    );
}

#[test]
fn a_folder_whose_removal_ends_early_can_still_be_recognised() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("out.partial");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join(GUEST_JSON), "{}").unwrap();
    // A file that cannot be removed plays the moment at which the process is killed.
    std::fs::create_dir(path.join("b.ram")).unwrap();
    let folder = Directory::open(&path, false).unwrap();
    let files = [GUEST_JSON, "b.ram"].map(str::to_owned);
    folder.remove(&path, &files).unwrap_err();
    assert!(path.join(GUEST_JSON).exists());
}
