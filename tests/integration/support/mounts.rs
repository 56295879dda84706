//! File systems of a test's own, which need root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mount, until it is dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// An overlay. `None`, with a line, if this user may not mount.
    pub(crate) fn overlay(options: &str, at: &Path) -> Option<Mount> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", options]);
        Mount::by(mount, at)
    }

    /// A tmpfs whose files are made of huge pages. `None`, with a line, likewise, or where the kernel has
    /// none.
    pub(crate) fn with_huge_pages(at: &Path) -> Option<Mount> {
        std::fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "huge=always,size=16m", "tmpfs"]);
        Mount::by(mount, at)
    }

    /// An ext4 with blocks of 1 KiB, in a file next to it. `None`, with a line, likewise.
    pub(crate) fn with_small_blocks(at: &Path) -> Option<Mount> {
        let file = at.with_extension("ext4");
        std::fs::create_dir(at).unwrap();
        std::fs::File::create(&file)
            .and_then(|file| file.set_len(4 << 20))
            .unwrap();
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F", "-b", "1024"]).arg(&file);
        let made = make.output().is_ok_and(|output| output.status.success());
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&file);
        made.then(|| Mount::by(mount, at)).flatten()
    }

    fn by(mut mount: Command, at: &Path) -> Option<Mount> {
        if (mount.arg(at).output()).is_ok_and(|output| output.status.success()) {
            return Some(Mount(at.to_owned()));
        }
        println!("SKIPPED: nothing can be mounted: this needs root");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
