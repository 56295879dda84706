//! What becomes of names, sizes and OUTPUT: names that lead elsewhere, guests that do not exist,
//! receivers that want the same OUTPUT.

use std::io::Write;
use std::os::unix::net::UnixStream;

use ramferry::Params;
use ramferry::page::PAGE_SIZE;
use ramferry::transport::Address;
use ramferry::wire::qemu::SectionKind;

use super::{Model, Sent, Way, listen, receive_in, refuses, request};
use crate::support::{Folder, Page, Program, assert_same_bytes, until, watchdog};

#[test]
fn a_blocks_name_leads_to_no_other_file() {
    watchdog!();
    let long = |last: char| "x".repeat(254) + &last.to_string();
    let names = [
        "..".to_owned(),
        ".".to_owned(),
        "/".to_owned(),
        "a/b".to_owned(),
        "a%2Fb".to_owned(),
        "../../out".to_owned(),
        "guest.json".to_owned(),
        "guest.json.new".to_owned(),
        "device-state".to_owned(),
        "%64evice-state".to_owned(),
        "%s%n%".to_owned(),
        "\u{1b}[2J\n\r\0".to_owned(),
        "\u{202e}mar".to_owned(),
        "ram".to_owned(),
        "RAM".to_owned(),
        "-rf".to_owned(),
        long('1'),
        long('2'),
        "/".repeat(255),
    ];
    let blocks: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 2)).collect();
    let model = Model::with(&blocks, |model| {
        for block in 0..names.len() {
            model.put(block, 1, &Sent::Page(Page::Text(block as u64)));
        }
    });
    let folder = Folder::in_memory();
    let (stored, output) = (folder.path("stream"), folder.path("out"));
    std::fs::write(&stored, &model.stream).unwrap();
    let from = Address::File(stored);
    request(&from, &output).start().unwrap().wait().unwrap();
    assert_eq!(folder.names(), ["out", "stream"]);
    let files: Vec<_> = std::fs::read_dir(&output)
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    assert_eq!(files.len(), names.len() + 2);
    for file in files {
        assert!(file.file_type().unwrap().is_file());
        let name = file.file_name().into_string().unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    }
    // Each of them alone is what was sent.
    for (block, name) in names.iter().enumerate() {
        let output = folder.path("one");
        request(&from, &output)
            .block(name.clone())
            .start()
            .unwrap()
            .wait()
            .unwrap();
        assert_same_bytes(&std::fs::read(&output).unwrap(), &model.ram[block]);
    }
    // One that is not there; the message has the names, but nothing that steers a terminal.
    let other = request(&from, &folder.path("other"));
    let error = other
        .block("pc.ram".to_owned())
        .start()
        .unwrap()
        .wait()
        .unwrap_err();
    let line = error.one_line();
    assert!(line.contains("the guest has no block 'pc.ram'"), "{line}");
    assert!(line.contains("a%2Fb") && line.contains("guest.json.new"));
    assert!(!line.contains(char::is_control) && !line.contains('\u{202e}'));
    assert_eq!(folder.names(), ["one", "out", "stream"]);
}

#[test]
fn names_that_no_folder_can_describe_leave_nothing() {
    watchdog!();
    refuses(
        &Model::with(&[("", 1)], |_| {}).stream,
        "has 0 bytes, but 1 to 255 are allowed",
    );
    // 6 bytes each in JSON.
    let names: Vec<String> = (0..1024)
        .map(|number| format!("{number:04}{}", "\u{1}".repeat(251)))
        .collect();
    let blocks: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    refuses(
        &Model::with(&blocks, |_| {}).stream,
        "longer than 1048576 bytes",
    );
}

#[test]
fn a_thousand_blocks_are_received() {
    watchdog!();
    let names: Vec<String> = (0..1024).map(|number| format!("b{number}")).collect();
    let blocks: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let model = Model::with(&blocks, |model| {
        for block in 0..1024 {
            model.put(block, 0, &Sent::Fill(block as u8));
        }
    });
    let guest = receive_in(&Folder::in_memory(), &model.stream, Way::File, "2").unwrap();
    super::assert_same_guest(&guest, &model.expected());
}

/// As the program, with a limit on what it may have.
fn limited(folder: &Folder, limit: &str, model: &Model) -> crate::support::Ended {
    std::fs::write(folder.path("stream"), &model.stream).unwrap();
    let script = format!(
        "{limit} && exec {} receive file:{} {}",
        env!("CARGO_BIN_EXE_ramferry"),
        folder.path("stream").display(),
        folder.path("out").display()
    );
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]);
    Program::start(command).finish()
}

#[test]
fn more_blocks_than_files_may_be_open_leave_nothing() {
    watchdog!();
    let names: Vec<String> = (0..300).map(|number| format!("b{number}")).collect();
    let blocks: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let model = Model::with(&blocks, |model| {
        (0..300).for_each(|block| model.put(block, 0, &Sent::Fill(1)));
    });
    for files in ["100", "320", "330", "500"] {
        let folder = Folder::in_memory();
        let ended = limited(&folder, &format!("ulimit -n {files}"), &model);
        assert!(!ended.err.contains("panicked"), "{ended:?}");
        if ended.code == Some(0) {
            assert_eq!(folder.names(), ["out", "stream"], "{files}");
        } else {
            assert!(ended.error().contains("Too many open files"), "{ended:?}");
            assert_eq!(folder.names(), ["stream"], "{files}");
        }
    }
    // The usual limit is enough for the largest guests of QEMU's.
    let folder = Folder::in_memory();
    limited(&folder, "ulimit -n 1024", &model).succeeded();
}

/// 256 MiB would not do for a hash of each page.
#[test]
fn a_guests_size_alone_takes_no_memory() {
    watchdog!();
    let tib = 1_u64 << (40 - 12);
    let few = |model: &mut Model| {
        for page in 0..64 {
            model.raw(0, page << 21, "zero", &[(page % 3) as u8]);
        }
        let page = Page::Text(1).bytes();
        model.raw(0, 5, "page", &page);
    };
    let folder = Folder::in_memory();
    let ended = limited(
        &folder,
        "ulimit -d 262144",
        &Model::with(&[("ram", 4 * tib)], few),
    );
    // Where files cannot be as long, the system says so.
    if ended.code != Some(0) {
        assert!(ended.error().contains("too large"), "{ended:?}");
        assert_eq!(folder.names(), ["stream"]);
    }
    // The most that is allowed; no system can map so much.
    let folder = Folder::in_memory();
    let model = Model::with(&[("ram", 1024 * tib)], few);
    let ended = limited(&folder, "ulimit -d 262144", &model);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.error().contains("cannot"), "{ended:?}");
    assert_eq!(folder.names(), ["stream"]);
    // More than that, and more than numbers hold.
    let two = Model::with(&[("a", 1024 * tib), ("b", 1)], |_| {});
    refuses(&two.stream, "at most 1 PiB");
    let mut most = Model::with(&[("ram", 1)], |_| {}).stream;
    let total = most
        .windows(8)
        .position(|word| word == 0x1004_u64.to_be_bytes());
    let total = total.unwrap();
    most[total..total + 8].copy_from_slice(&(!0xfff_u64 | 4).to_be_bytes());
    most[total + 12..total + 20].copy_from_slice(&(!0xfff_u64).to_be_bytes());
    refuses(&most, "at most 1 PiB");
}

#[test]
fn of_two_receivers_with_one_output_the_second_gives_up() {
    watchdog!();
    let folder = Folder::in_memory();
    let (socket, output) = (folder.path("socket"), folder.path("out"));
    let first = listen(&socket, &output, Params::default());
    let mut model = Model::new(&[("ram", 3)]);
    model.begin(SectionKind::Part);
    model.put(0, 2, &Sent::Page(Page::Text(1)));
    let mut link = UnixStream::connect(&socket).unwrap();
    link.write_all(&model.stream).unwrap();
    let sent = model.stream.len();
    until(|| folder.path("out.partial/device-state").exists());
    let other = Model::with(&[("other", 1)], |_| {});
    std::fs::write(folder.path("stream"), &other.stream).unwrap();
    for block in [None, Some("other")] {
        let request = request(&Address::File(folder.path("stream")), &output);
        let line = request
            .block(block.map(str::to_owned))
            .start()
            .unwrap()
            .wait()
            .unwrap_err()
            .one_line();
        assert!(line.contains("out.partial'"), "{line}");
    }
    model.end();
    model.finish();
    link.write_all(&model.stream[sent..]).unwrap();
    drop(link);
    first.wait().unwrap();
    assert_eq!(folder.names(), ["out", "stream"]);
    super::assert_same_guest(
        &super::blocks_of(&output, &["ram".to_owned()]),
        &model.expected(),
    );
}

#[test]
fn links_and_foreign_folders_at_output_are_left_alone() {
    watchdog!();
    let model = Model::with(&[("ram", 1)], |model| model.put(0, 0, &Sent::Fill(0)));
    for (name, what) in [
        ("link-to-folder", "is a folder, which cannot be replaced"),
        ("link-to-nothing", "is a file"),
        ("foreign", "is a folder, which cannot be replaced"),
        ("stuffed", "not part of a guest folder"),
        ("stuffed-with-a-link", "is not a regular file"),
    ] {
        let folder = Folder::in_memory();
        let output = folder.path("out");
        let target = folder.path("target");
        std::fs::create_dir(&target).unwrap();
        let stored = folder.path("stream");
        std::fs::write(&stored, &model.stream).unwrap();
        let receive = || {
            request(&Address::File(stored.clone()), &output)
                .start()
                .unwrap()
                .wait()
        };
        match name {
            "link-to-folder" => std::os::unix::fs::symlink(&target, &output).unwrap(),
            "link-to-nothing" => std::os::unix::fs::symlink("nothing", &output).unwrap(),
            "foreign" => {
                std::fs::create_dir(&output).unwrap();
                std::fs::write(output.join("mine"), b"mine").unwrap();
            }
            "stuffed" => {
                receive().unwrap();
                std::fs::write(output.join("mine"), b"mine").unwrap();
            }
            _ => {
                receive().unwrap();
                std::fs::write(folder.path("secret"), vec![7; PAGE_SIZE]).unwrap();
                std::fs::remove_file(output.join("ram")).unwrap();
                std::os::unix::fs::symlink(folder.path("secret"), output.join("ram")).unwrap();
            }
        }
        let before = folder.names();
        let line = receive().unwrap_err().one_line();
        assert!(line.contains(what), "{name}: {what:?} is not in {line:?}");
        assert_eq!(folder.names(), before);
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
        assert_eq!(
            output.join("mine").exists(),
            matches!(name, "foreign" | "stuffed")
        );
        if name == "stuffed-with-a-link" {
            assert!(ramferry::image::Guest::open(&output).is_err());
        }
    }
}
