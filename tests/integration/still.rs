//! Images that are written while they are read as RAM at rest: refused at the start, found at the end.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ramferry::page::PAGE_SIZE;

use crate::support::{Files, Folder, Page, mixed, run, until, watchdog};

/// A process that has the image open for writing and waits.
struct Holder(Child);

impl Holder {
    fn of(image: &Path) -> Holder {
        let file = File::options().append(true).open(image).unwrap();
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::piped()).stdout(file);
        Holder(cat.spawn().unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn stop(&self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let stat = format!("/proc/{}/stat", self.pid());
        until(|| std::fs::read_to_string(&stat).unwrap().contains(") T "));
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_image_that_a_running_process_can_write_is_refused_by_its_name() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("g.ram", &mixed(64, 1));
    let later = folder.image("later.ram", &mixed(64, 2));
    let (image, later) = (image.to_str().unwrap(), later.to_str().unwrap());
    let stream = format!("file:{}", folder.path("stream").display());
    let holder = Holder::of(Path::new(later));
    let who = format!("process {} (cat) can write '{later}'", holder.pid());
    let send = ["send", image, &stream, "--then", later, "-q"];
    for args in [
        &send[..],
        &["send", later, &stream, "-q"],
        &["digest", later],
        &["bench", later, "--dry-run"],
    ] {
        run(args).failed_with(1, &[&who, "--live"]);
        assert_eq!(folder.names(), ["g.ram", "later.ram"]);
    }
    run(&["digest", image]).succeeded();
    holder.stop();
    let ended = run(&["digest", later]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.err.contains("is stopped: it must stay so"),
        "{ended:?}"
    );
    run(&["send", image, &stream, "--then", later, "-q"]).succeeded();
}

/// By this process, which opens the image after the look at the start, and closes it before the one at
/// the end.
#[test]
fn an_image_that_was_written_meanwhile_never_arrives() {
    watchdog!();
    let files = Files::new();
    let receiver = files.receiver(&[]);
    // Half a second.
    let sender = files.sender(&["--max-bandwidth", "4MiB"]);
    files.wait_for_partial();
    let file = File::options().write(true).open(&files.image).unwrap();
    file.write_all_at(&[9; 8], 3 * PAGE_SIZE as u64).unwrap();
    drop(file);
    let words = ["was written while it was being read"];
    sender.finish().failed_with(1, &words);
    receiver.finish().failed_with(1, &words);
    files.nothing_changed(None);
}

/// A file of an overlay's lower layer is copied to the upper one by its first writer. What was mapped
/// before shows the old file for ever.
#[test]
fn an_image_on_overlayfs_is_what_its_first_writer_leaves() {
    watchdog!();
    let folder = Folder::in_memory();
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| {
        let path = folder.path(name);
        std::fs::create_dir(&path).unwrap();
        path
    });
    let pages = mixed(64, 3);
    std::fs::write(
        lower.join("g.ram"),
        pages.iter().flat_map(Page::bytes).collect::<Vec<u8>>(),
    )
    .unwrap();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let Some(_mount) = Mount::overlay(&options, &merged) else {
        return;
    };
    let image = merged.join("g.ram");
    let guest = ramferry::image::Guest::open(&image).unwrap();
    let before = guest.digest().unwrap();
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[9; PAGE_SIZE], 0).unwrap();
    let after = guest.digest().unwrap();
    assert_ne!(before, after);
    assert_eq!(
        after,
        ramferry::image::Guest::open(&image)
            .unwrap()
            .digest()
            .unwrap()
    );
}

/// A mount, until it is dropped.
struct Mount(std::path::PathBuf);

impl Mount {
    /// `None`, with a line, if this user may not mount.
    fn overlay(options: &str, at: &Path) -> Option<Mount> {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "overlay", "overlay", "-o", options])
            .arg(at);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Mount(at.to_owned()));
        }
        println!("SKIPPED: no overlay can be mounted: this needs root");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
