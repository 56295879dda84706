//! Outputs that exist, cannot be written, or are being written.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::{Files, Folder, SLOW, assert_same, mixed, run, watchdog};

#[test]
fn an_output_that_exists_is_kept_unless_force_says_otherwise() {
    watchdog!();
    let files = Files::small();
    std::fs::write(&files.output, b"old").unwrap();
    let uri = files.uri();
    let receive = ["receive", &uri, files.output()];
    run(&receive).failed_with(1, &[files.output(), "--force"]);
    files.nothing_changed(Some(b"old"));

    let receiver = files.receiver(&["--force"]);
    files.sender(&[]).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_anybody_waits() {
    watchdog!();
    let files = Files::small();
    let folder = files.folder.path("");
    let nowhere = files.folder.path("nowhere/out");
    for (output, why) in [
        (
            folder.to_str().unwrap(),
            "is a folder, which cannot be replaced",
        ),
        (nowhere.to_str().unwrap(), "No such file"),
    ] {
        for force in [&[][..], &["--force"]] {
            let uri = files.uri();
            run(&[&["receive", &uri, output][..], force].concat()).failed_with(1, &[why]);
        }
    }
}

#[test]
fn a_stored_stream_that_exists_is_kept_unless_force_says_otherwise() {
    watchdog!();
    let files = Files::small();
    let stream = files.folder.path("stream");
    std::fs::write(&stream, b"old").unwrap();
    let uri = format!("file:{}", stream.display());
    run(&["send", files.image(), &uri]).failed_with(1, &[stream.to_str().unwrap(), "--force"]);
    assert_eq!(std::fs::read(&stream).unwrap(), b"old");
    run(&["send", files.image(), &uri, "--force"]).succeeded();
    run(&["receive", &uri, files.output()]).succeeded();
    assert_same(&files.output, &files.image);
    assert_eq!(files.folder.names(), ["out", "ram", "stream"]);
}

#[test]
fn an_output_that_another_receiver_is_writing_is_refused() {
    watchdog!();
    let files = Files::new();
    let first = files.receiver(&[]);
    let sender = files.sender(&SLOW);
    files.wait_for_partial();

    let other = files.folder.path("other");
    let uri = format!("unix:{}", other.display());
    let partial = format!("{}.partial", files.output());
    run(&["receive", &uri, files.output(), "--quiet"])
        .failed_with(1, &[&partial, "is being written by another process"]);
    assert!(!other.exists(), "it did not listen");

    let stream = files.folder.path("stream");
    let stored = format!("file:{}", stream.display());
    run(&["send", files.image(), &stored]).succeeded();
    let refused = run(&["receive", &stored, files.output()]);
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    assert!(refused.error().contains(&partial), "{refused:?}");
    assert!(files.folder.path("out.partial").exists());
    drop((first, sender));
}

#[test]
fn a_stream_is_not_replaced_by_what_it_holds() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(16, 3));
    let stream = folder.path("s");
    let address = format!("file:{}", stream.display());
    run(&["send", image.to_str().unwrap(), &address, "-q"]).succeeded();
    let before = std::fs::read(&stream).unwrap();
    run(&["receive", &address, stream.to_str().unwrap(), "--force"])
        .failed_with(2, &["is the stream to be received"]);
    assert_eq!(std::fs::read(&stream).unwrap(), before);
}

#[test]
fn what_is_sent_or_received_is_never_removed_for_its_name() {
    watchdog!();
    let folder = Folder::new();
    let text = |name: &str| folder.path(name).to_str().unwrap().to_owned();
    let image = folder.image("h.partial", &mixed(16, 3));
    let held = std::fs::read(&image).unwrap();
    let stored = format!("file:{}", text("s.partial"));
    run(&["send", &text("h.partial"), &stored, "-q"]).succeeded();
    let stream = std::fs::read(folder.path("s.partial")).unwrap();
    // As it is, and as a kill would have left it.
    for mode in [0o600, 0o1600] {
        for name in ["h.partial", "s.partial"] {
            let path = folder.path(name);
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        let onto = format!("file:{}", text("h"));
        run(&["send", &text("h.partial"), &onto, "--force", "-q"])
            .failed_with(2, &["would be written over an image that is to be sent"]);
        run(&["receive", &stored, &text("s"), "--force", "-q"])
            .failed_with(2, &["is the stream to be received"]);
    }
    assert_eq!(std::fs::read(&image).unwrap(), held);
    assert_eq!(std::fs::read(folder.path("s.partial")).unwrap(), stream);
    assert_eq!(folder.names(), ["h.partial", "s.partial"]);
}

#[test]
fn another_user_who_creates_the_output_meanwhile_does_not_get_the_ram() {
    watchdog!();
    if !rustix::process::geteuid().is_root() {
        println!("NOT TRIED: only root can give files away");
        return;
    }
    for when in ["before", "meanwhile"] {
        let files = Files::small();
        let out = std::path::Path::new(files.output());
        std::fs::set_permissions(files.folder.path(""), Permissions::from_mode(0o1777)).unwrap();
        let taken = || {
            std::fs::write(out, b"mine").unwrap();
            std::fs::set_permissions(out, Permissions::from_mode(0o644)).unwrap();
            std::os::unix::fs::chown(out, Some(65_534), Some(65_534)).unwrap();
        };
        if when == "before" {
            taken();
        }
        let receiver = files.receiver(&["--force"]);
        if when == "meanwhile" {
            taken();
        }
        files.sender(&[]).finish().succeeded();
        receiver.finish().succeeded();
        assert_same(out, &files.image);
        let found = std::fs::metadata(out).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o600), "{when}");
    }
}
