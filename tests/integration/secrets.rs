//! Guest RAM is secret: what holds it is for its owner alone, from its first byte and whatever the
//! umask; what replaces something keeps that one's access.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ramferry::Params;
use ramferry::writer::churn;

use crate::folder::two_states;
use crate::support::live::Churn;
use crate::support::{Destination, Folder, mixed, params, run, source, unix, until, watchdog};

const PAGES: usize = 256;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn mode(path: &Path) -> u32 {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    metadata.permissions().mode() & 0o7777
}

/// Everything that is in a folder, and in the folders in it.
fn all_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(all_in(&path));
        }
        found.push(path);
    }
    found
}

/// The program, with a umask.
fn run_with(umask: &str, args: &[&str]) {
    let script = format!("umask {umask}; exec \"$0\" \"$@\"");
    let status = std::process::Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_ramferry")])
        .args(args)
        .status()
        .unwrap();
    assert!(status.success(), "{args:?}: {status}");
}

#[test]
fn images_folders_and_streams_are_private_whatever_the_umask() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(PAGES, 3));
    let guest = two_states(&folder)[0].clone();
    // One that forbids nothing, and one that forbids everything.
    for umask in ["0", "0777"] {
        let made = folder.path(umask);
        std::fs::create_dir(&made).unwrap();
        for (from, stream, output) in [(&image, "ram.s", "out.ram"), (&guest, "g.s", "out")] {
            let stream = made.join(stream);
            let address = format!("file:{}", text(&stream));
            run_with(umask, &["send", text(from), &address, "-q"]);
            run_with(
                umask,
                &["receive", &address, text(&made.join(output)), "-q"],
            );
        }
        let all = all_in(&made);
        assert!(all.len() > 6, "{all:?}");
        for path in all {
            let expected = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode(&path), expected, "{}", path.display());
        }
    }
}

#[test]
fn a_partial_output_is_private_while_it_is_written() {
    watchdog!();
    let folder = Folder::new();
    for (name, from) in [
        ("image", folder.image("ram", &mixed(PAGES, 3))),
        ("folder", two_states(&folder)[0].clone()),
    ] {
        let made = folder.path(name);
        std::fs::create_dir(&made).unwrap();
        let address = unix(&folder.path(&format!("{name}.sock")));
        let destination = Destination::start(&address, &made.join("out"), Params::default());
        destination.address();
        let slowly = params(&[("max-bandwidth", "64KiB"), ("batch-pages", "1")]);
        let source = source(&[from], &address, ramferry::Caps::default(), slowly).unwrap();
        until(|| destination.handle.query().total.pages() > 0);
        let all = all_in(&made);
        assert!(!all.is_empty());
        for path in all {
            assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
        }
        source.cancel();
        source.wait().unwrap_err();
        destination.handle.wait().unwrap_err();
    }
}

#[test]
fn what_is_replaced_keeps_its_mode_and_its_owner() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(PAGES, 3));
    let stream = folder.path("s");
    let address = format!("file:{}", text(&stream));
    run(&["send", text(&image), &address, "-q"]).succeeded();
    let out = folder.path("out");
    // Root alone may give a file away.
    let owner = rustix::process::getuid().is_root().then_some(12_345);
    for wanted in [0o600, 0o640, 0o664, 0o400] {
        std::fs::write(&out, "old").unwrap();
        std::os::unix::fs::chown(&out, owner, owner).unwrap();
        std::fs::set_permissions(&out, Permissions::from_mode(wanted)).unwrap();
        run(&["receive", &address, text(&out), "--force", "-q"]).succeeded();
        assert_eq!(mode(&out), wanted | 0o600, "{wanted:o}");
        let metadata = std::fs::metadata(&out).unwrap();
        let expected = owner.unwrap_or_else(|| rustix::process::getuid().as_raw());
        assert_eq!(metadata.uid(), expected);
        std::fs::remove_file(&out).unwrap();
    }

    let guest = two_states(&folder)[0].clone();
    run(&["send", text(&guest), &address, "--force", "-q"]).succeeded();
    run(&["receive", &address, text(&out), "-q"]).succeeded();
    let (json, state) = (out.join("guest.json"), out.join("device-state"));
    for (path, wanted) in [(&out, 0o750), (&json, 0o644), (&state, 0o640)] {
        std::fs::set_permissions(path, Permissions::from_mode(wanted)).unwrap();
    }
    run(&["receive", &address, text(&out), "--force", "-q"]).succeeded();
    let modes = [&out, &json, &state].map(|path| mode(path));
    assert_eq!(modes, [0o750, 0o644, 0o640]);
}

#[test]
fn the_records_of_a_writer_are_private() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(PAGES, 3));
    let churn = Churn::start(&image, &["--rate", "100"]);
    churn.writes_on();
    assert_eq!(mode(&churn::records_of(&image)), 0o600);
}
