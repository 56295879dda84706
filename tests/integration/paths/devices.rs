//! Block devices as image and as output.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ramferry::page::PAGE_SIZE;

use crate::support::{Files, SLOW, run, start_with, watchdog};

/// A loop device over a file, which goes with this.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
}

impl LoopDevice {
    /// Over a new file of this many bytes. `None`, with a line about it, where that is not allowed.
    pub(crate) fn new(file: &Path, bytes: u64) -> Option<LoopDevice> {
        let made = std::fs::File::create(file).unwrap();
        made.set_len(bytes).unwrap();
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).arg(file);
        let path = match losetup.output() {
            Ok(ended) if ended.status.success() => {
                String::from_utf8(ended.stdout).unwrap().trim().to_owned()
            }
            other => {
                println!("NOT TRIED: there is no loop device for this user: {other:?}");
                return None;
            }
        };
        Some(LoopDevice { path: path.into() })
    }

    pub(crate) fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub(crate) fn read(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

/// As large as this guest, and four pages more.
fn device(files: &Files) -> Option<LoopDevice> {
    let bytes = std::fs::metadata(&files.image).unwrap().len();
    let device = LoopDevice::new(&files.folder.path("disk"), bytes + 4 * PAGE_SIZE as u64)?;
    let old = vec![0xa5; bytes as usize + 4 * PAGE_SIZE];
    let file = std::fs::File::options().write(true).open(&device.path);
    file.unwrap().write_all_at(&old, 0).unwrap();
    Some(device)
}

#[test]
fn a_block_device_holds_the_guest_and_keeps_what_lies_after_it() {
    watchdog!();
    let files = Files::small();
    let Some(device) = device(&files) else { return };
    let uri = files.uri();
    run(&["receive", &uri, device.name()]).failed_with(
        1,
        &[device.name(), "is a block device; --force overwrites it"],
    );
    let mut receiver = start_with(&["receive", &uri, device.name()], &["--force", "--json"]);
    assert_eq!(receiver.err_line(), format!("listening on {uri}"));
    files
        .sender(&["--compress-method", "zstd"])
        .finish()
        .succeeded();
    let received = receiver.finish();
    received.succeeded();
    assert!(
        received.err.contains("16.00 KiB larger than the guest"),
        "{received:?}"
    );

    // Zero pages too, though the device held other bytes there.
    let image = std::fs::read(&files.image).unwrap();
    let held = device.read();
    assert!(held[..image.len()] == image[..]);
    assert!(held[image.len()..].iter().all(|&byte| byte == 0xa5));

    // And back, of which the rest of the device is part.
    let out = files.output();
    let stream = format!("file:{}", files.folder.path("s").display());
    run(&["send", device.name(), &stream, "-q"]).succeeded();
    run(&["receive", &stream, out, "-q"]).succeeded();
    assert!(std::fs::read(out).unwrap() == held);
    let line = |path: &str| {
        run(&["digest", path])
            .out
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(line(device.name()), line(out));
    run(&["inspect", device.name()]).succeeded();
}

#[test]
fn a_block_device_that_is_too_small_is_refused_untouched() {
    watchdog!();
    let files = Files::small();
    let Some(device) = LoopDevice::new(&files.folder.path("disk"), 16 * PAGE_SIZE as u64) else {
        return;
    };
    let old = device.read();
    let uri = files.uri();
    let receiver = start_with(&["receive", &uri, device.name()], &["--force", "-q"]);
    let sizes = [device.name(), "has 65536 bytes, but the guest has 262144"];
    files.sender(&[]).finish().failed_with(4, &sizes);
    drop(receiver);
    assert!(device.read() == old);
}

#[test]
fn a_block_device_that_is_in_use_is_refused_before_listening() {
    watchdog!();
    let files = Files::small();
    let Some(device) = device(&files) else { return };
    let uri = files.uri();
    // As a mount does it.
    let in_use = std::os::unix::fs::OpenOptionsExt::custom_flags(
        std::fs::File::options().read(true),
        libc::O_EXCL,
    )
    .open(&device.path)
    .unwrap();
    run(&["receive", &uri, device.name(), "--force"])
        .failed_with(1, &[device.name(), "is in use: unmount it"]);
    assert!(!files.socket.exists());
    drop(in_use);
}

#[test]
fn an_interrupted_migration_says_that_the_device_is_partly_overwritten() {
    watchdog!();
    let files = Files::new();
    let Some(device) = device(&files) else { return };
    let uri = files.uri();
    let mut receiver = start_with(&["receive", &uri, device.name()], &["--force", "-q"]);
    assert_eq!(receiver.listening(), uri);
    let sender = files.sender(&SLOW);
    crate::support::until(|| device.read()[..PAGE_SIZE] != [0xa5; PAGE_SIZE]);
    drop(sender);
    receiver.finish().failed_with(
        1,
        &[&format!("'{}' is partly overwritten: ", device.name())],
    );
}

#[test]
fn nothing_that_is_not_a_guest_goes_to_a_block_device() {
    watchdog!();
    let files = Files::small();
    let Some(device) = device(&files) else { return };
    let old = device.read();
    let stream = format!("file:{}", device.name());
    run(&["send", files.image(), &stream, "--force"])
        .failed_with(1, &["it is a block device", "exec:dd of="]);
    run(&[
        "bench",
        "--synthetic",
        "1MiB",
        "--export-json",
        device.name(),
    ])
    .failed_with(2, &[device.name(), "it is a block device"]);
    run(&[
        "churn",
        files.image(),
        "--in-place",
        "--records",
        device.name(),
    ])
    .failed_with(1, &["is not a churn's records"]);
    assert!(device.read() == old);
}

#[test]
fn a_guest_that_may_not_fit_is_announced_with_both_figures() {
    watchdog!();
    let files = Files::new();
    let mut world = super::world::World::new(Vec::new());
    let Some(output) = world.make(super::world::Kind::SmallDisk) else {
        return;
    };
    let stream = format!("file:{}", files.folder.path("s").display());
    run(&["send", files.image(), &stream, "-q"]).succeeded();
    let ended = run(&["receive", &stream, &output]);
    ended.failed_with(1, &[&output, "No space left on device"]);
    let note = format!("note: '{output}' may take 2.00 MiB, and its file system has 1.00 MiB free");
    assert!(ended.err.contains(&note), "{ended:?}");
}
