//! Files that are not flat RAM are refused by what they are, unless they are said to be RAM.

use std::path::{Path, PathBuf};

use super::support::*;
use ramferry::image::{Guest, ImageFormat};
use ramferry::page::PAGE_SIZE;

/// How other formats begin, what they are called, and a word of what to do.
const FORMATS: [(&[u8], &str, &str); 14] = [
    (b"QFI\xfb\0\0\0\x03", "a qcow2 disk image", "pmemsave"),
    (b"\x7fELF\x02\x01\x01\0", "an ELF file", "pmemsave"),
    (b"EMiL\x01\0\0\0", "a LiME dump", "format=raw"),
    (b"AVML\x02\0\0\0", "an AVML dump", "avml-convert"),
    (
        b"LibvirtQemudSave\x02\0\0\0",
        "a libvirt save image",
        "ramferry receive fd:0",
    ),
    (
        b"LibvirtQemudPart\x02\0\0\0",
        "an unfinished libvirt save image",
        "again",
    ),
    (b"KDUMP   \x06\0\0\0", "a kdump-compressed dump", "pmemsave"),
    (
        b"makedumpfile\0\0\0\0\0\0\0\0",
        "a kdump-compressed dump",
        "pmemsave",
    ),
    (b"\x1f\x8b\x08\0", "compressed with gzip", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd"),
    (b"\xfd7zXZ\0", "compressed with xz", "unxz"),
    (b"BZh91AY&SY", "compressed with bzip2", "bunzip2"),
    (
        b"\x91ramfer\n\x01\0\x01\0",
        "a ramferry stream",
        "ramferry receive file:",
    ),
    (
        b"QEVM\0\0\0\x03",
        "a QEMU migration stream",
        "ramferry receive file:",
    ),
];

/// A file of whole pages, as RAM is, that begins so.
fn file(folder: &Folder, magic: &[u8]) -> PathBuf {
    let path = folder.path("x.ram");
    let mut bytes = Page::Random(1).bytes();
    bytes.resize(4 * PAGE_SIZE, 0);
    bytes[..magic.len()].copy_from_slice(magic);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn is_stream(what: &str) -> bool {
    what.ends_with("stream")
}

#[test]
fn a_file_in_another_format_is_refused_by_name_wherever_an_image_is_expected() {
    for (magic, what, way_out) in FORMATS {
        let folder = Folder::new();
        let path = file(&folder, magic);
        let path = path.to_str().unwrap();
        let names = [path, what, way_out, "--format raw"];
        run(&["digest", path]).failed_with(1, &names);
        let out = format!("file:{}", folder.path("out").display());
        run(&["send", path, &out]).failed_with(1, &names);
        // A stream is what inspect describes, here as far as it goes.
        let inspected = run(&["inspect", path]);
        if is_stream(what) {
            assert_ne!(inspected.code, Some(0));
            assert!(inspected.out.contains("stream"), "{inspected:?}");
        } else {
            inspected.failed_with(1, &names);
        }
        assert_eq!(folder.names(), ["x.ram"]);
    }
    let folder = Folder::new();
    let path = file(&folder, FORMATS[0].0);
    let bench = ["bench", path.to_str().unwrap(), "--runs", "3"];
    run(&bench).failed_with(1, &[FORMATS[0].1]);
}

#[test]
fn a_file_that_is_said_to_be_ram_is_taken_for_it_whatever_it_begins_with() {
    for (magic, what, _) in FORMATS {
        let folder = Folder::new();
        let path = file(&folder, magic);
        let expected = Guest::open_as(&path, ImageFormat::Raw).unwrap().digest();
        let expected = expected.unwrap().to_string();
        let raw = |command: &str, more: &[&str]| {
            let path = path.to_str().unwrap();
            let args = [&[command, path, "--format", "raw"], more].concat();
            let ended = run(&args);
            ended.succeeded();
            ended.out
        };
        assert!(raw("digest", &[]).starts_with(&expected), "{what}");
        assert!(raw("inspect", &[]).contains(&expected), "{what}");
        let stream = format!("file:{}", folder.path("stream").display());
        let later = ["--then", path.to_str().unwrap()];
        raw("send", &[&[&stream[..]], &later[..]].concat());
        let out = folder.path("out");
        run(&["receive", &stream, out.to_str().unwrap()]).succeeded();
        assert_same(&out, &path);
    }
}

/// A guest's blocks are RAM because `guest.json` says so.
#[test]
fn the_blocks_of_a_guest_folder_may_begin_with_anything() {
    let folder = Folder::new();
    let blocks = [("pc.ram".to_owned(), 4 * PAGE_SIZE as u64)];
    let path = folder.path("guest");
    let mut output = ramferry::image::Output::folder(&path, &blocks, false).unwrap();
    let bytes = std::fs::read(file(&folder, b"QFI\xfb")).unwrap();
    let first = ramferry::page::PageIndex(0);
    output.blocks()[0].place(first, &bytes).unwrap();
    output.commit().unwrap();
    drop(output);
    run(&["digest", path.to_str().unwrap()]).succeeded();
}

#[test]
fn what_is_received_is_named_if_it_is_known_not_to_be_a_stream() {
    for (magic, what, way_out) in FORMATS {
        if is_stream(what) {
            continue;
        }
        let folder = Folder::new();
        let path = file(&folder, magic);
        let from = format!("file:{}", path.display());
        let out = folder.path("out");
        run(&["receive", &from, out.to_str().unwrap()])
            .failed_with(1, &[&format!("this is {what}"), way_out]);
        assert!(!Path::new(&out).exists());
    }
}

/// The command that the error prints.
#[test]
fn the_stream_in_a_libvirt_save_image_is_received_as_the_error_says() {
    let folder = Folder::new();
    let image = folder.image("guest.ram", &mixed(64, 1));
    let stream = folder.path("stream");
    let to = format!("file:{}", stream.display());
    let send = ["send", image.to_str().unwrap(), &to, "--wire", "qemu"];
    run(&send).succeeded();

    let mut save = b"LibvirtQemudSave".to_vec();
    let xml = b"<domain/>\0\0\0\0";
    for field in [2, xml.len() as u32, 1, 0, 0] {
        save.extend_from_slice(&field.to_ne_bytes());
    }
    save.resize(92, 0);
    save.extend_from_slice(xml);
    save.extend_from_slice(&std::fs::read(&stream).unwrap());
    let saved = folder.path("vm.save");
    std::fs::write(&saved, save).unwrap();

    let (saved, out) = (saved.display().to_string(), folder.path("out"));
    let refused = run(&[
        "receive",
        &format!("file:{saved}"),
        &out.display().to_string(),
    ]);
    let line = refused.error().split('`').nth(1).unwrap().to_owned();
    let line = line
        .replace("FILE", &saved)
        .replace("OUTPUT", &out.display().to_string())
        .replace("ramferry", env!("CARGO_BIN_EXE_ramferry"));
    let ended = std::process::Command::new("sh")
        .args(["-c", &line])
        .output()
        .unwrap();
    assert!(ended.status.success(), "{line}: {ended:?}");
    assert_same(&out.join("pc.ram"), &image);
}
