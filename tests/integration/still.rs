//! Images that are written while they are read as RAM at rest: refused at the start, found at the end.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ramferry::page::PAGE_SIZE;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{Files, Folder, Mount, Page, mixed, run, start, until, watchdog};

/// A process that has the image open for writing and waits.
struct Holder(Child);

impl Holder {
    fn of(image: &Path) -> Holder {
        Holder::by("cat".as_ref(), image)
    }

    /// `program` is a `cat` by any name.
    fn by(program: &Path, image: &Path) -> Holder {
        let file = File::options().append(true).open(image).unwrap();
        let mut cat = Command::new(program);
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
    let pid = holder.pid();
    let who = format!("process {pid} (cat) may write to '{later}' while it is read");
    let stop = format!("stop it (kill -STOP {pid}), use a copy, ");
    let live = format!("move the guest with --live --pid {pid}");
    let send = ["send", image, &stream, "--then", later, "-q"];
    for (args, way_out) in [
        (&send[..], &*live),
        (&["send", later, &stream, "-q"], &live),
        (&["digest", later], "or pass --paused"),
        (&["bench", later, "--dry-run"], "or pass --paused"),
    ] {
        run(args).failed_with(1, &[&who, &stop, way_out]);
        assert_eq!(folder.names(), ["g.ram", "later.ram"]);
    }
    run(&["digest", image]).succeeded();
    let note = format!("note: {who}");
    let inspected = run(&["inspect", later]);
    assert!(
        inspected.code == Some(0) && inspected.err.contains(&note),
        "{inspected:?}"
    );
    assert!(!run(&["inspect", image]).err.contains("note:"));
    holder.stop();
    let ended = run(&["digest", later]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.err.contains("is stopped: it must stay so"),
        "{ended:?}"
    );
    run(&["send", image, &stream, "--then", later, "-q"]).succeeded();
}

/// A QEMU is not to be stopped by signals: its disk I/O would go on.
#[test]
fn who_sends_the_ram_of_a_qemu_is_led_to_its_monitor() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("g.ram", &mixed(64, 1));
    let cat = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join("cat"))
        .find(|program| program.exists())
        .unwrap();
    let qemu = folder.path("qemu-system-x86_64");
    std::os::unix::fs::symlink(cat, &qemu).unwrap();
    let holder = Holder::by(&qemu, &image);
    let comm = format!("/proc/{}/comm", holder.pid());
    until(|| std::fs::read_to_string(&comm).unwrap() == "qemu-system-x86\n");
    let image = image.to_str().unwrap();
    let stream = format!("file:{}", folder.path("stream").display());
    let who = format!("process {} (qemu-system-x86) may write to", holder.pid());
    for (args, way_out) in [
        (&["send", image, &stream][..], "--live --qmp SOCKET"),
        (&["digest", image], "(QMP command stop) and pass --paused"),
        (&["bench", image, "--dry-run"], "(QMP command stop)"),
    ] {
        let ended = run(args);
        assert!(!ended.err.contains("kill -STOP"), "{ended:?}");
        ended.failed_with(1, &[&who, way_out]);
    }
}

/// A QEMU that its monitor has stopped runs as a process, and has its image open for writing.
#[test]
fn the_image_of_a_paused_guest_is_read_with_a_note_if_the_user_says_so() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("g.ram", &mixed(64, 1));
    let holder = Holder::of(&image);
    let image = image.to_str().unwrap();
    let stream = format!("file:{}", folder.path("stream").display());
    let note = format!(
        "process {} (cat) can write '{image}' and runs: its guest must stay paused until this is done",
        holder.pid()
    );
    for args in [&["send", image, &stream][..], &["digest", image]] {
        run(args).failed_with(1, &["pass --paused if its guest is paused"]);
        let ended = run(&[args, &["--paused"]].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.err.contains(&note), "{ended:?}");
    }
    let measure = ["--methods", "none", "--runs", "1", "-q", "--paused"];
    run(&[&["bench", image], &measure[..]].concat()).succeeded();
    let live = ["--paused", "--live", "--fuzzy"];
    run(&[&["send", image, &stream, "--force"], &live[..]].concat())
        .failed_with(2, &["--paused-ok"]);
}

/// The source has looked before it opens the stream, and cannot end while the stream is full.
#[test]
fn a_writer_that_comes_after_the_look_at_the_start_is_found_at_the_end() {
    watchdog!();
    for (more, words) in [
        // The writer has gone again.
        (&[][..], "was written while it was being read"),
        // It is still there.
        (&[], "may write to"),
        (&["--paused"], "was written while it was being read"),
    ] {
        let folder = Folder::in_memory();
        let pages: Vec<Page> = (0..256).map(Page::Random).collect();
        let image = folder.image("g.ram", &pages);
        let pipe = folder.path("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let to = format!("file:{}", pipe.display());
        let args = ["send", image.to_str().unwrap(), &to, "-q"];
        let sender = start(&[&args, more].concat());
        let mut stream = File::open(&pipe).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let writer = File::options().write(true).open(&image).unwrap();
        writer.write_all_at(&[9; 8], 0).unwrap();
        let stays = (words == "may write to").then_some(writer);
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
        sender.finish().failed_with(1, &[words]);
        drop(stays);
    }
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
