//! Who owns a live guest: at every instant at most one end may run it, whatever is tried twice, and a
//! writer gets back the state in which it was found.

use std::path::{Path, PathBuf};

use ramferry::source::Live;
use ramferry::stats::{Event, Status};
use ramferry::{Caps, Kind, Migration, Settings};
use rustix::process::Signal;

use crate::support::live::{Churn, send_live};
use crate::support::{
    Destination, Folder, Program, command, mixed, params, run, unix, until, watchdog,
};

const PAGES: usize = 256;

struct Scene {
    folder: Folder,
    image: PathBuf,
    churn: Churn,
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let image = folder.image("ram", &mixed(PAGES, 41));
        Scene {
            churn: Churn::start(&image, &["--rate", "2000", "--working-set", "512KiB"]),
            folder,
            image,
        }
    }

    fn address(&self, name: &str) -> String {
        format!("unix:{}", text(&self.folder.path(name)))
    }

    fn receive(&self, name: &str) -> Program {
        let output = self.folder.path(&format!("{name}.ram"));
        let mut receive = Program::start(command(&["receive", &self.address(name), text(&output)]));
        receive.listening();
        receive
    }

    fn send(&self, name: &str, args: &[&str]) -> crate::support::Ended {
        let (to, pid) = (self.address(name), self.churn.pid());
        let fixed = ["send", text(&self.image), &to, "--live", "--pid", &pid];
        run(&[&fixed[..], args].concat())
    }

    /// A migration that waits before its last round, with the writer stopped.
    fn paused(&self) -> (Migration, Destination) {
        let address = unix(&self.folder.path("d"));
        let destination = Destination::start(&address, &self.folder.path("out"), params(&[]));
        destination.address();
        let mut caps = Caps::default();
        caps.set("pause-before-switchover", true).unwrap();
        let params = params(&[("downtime-limit", "0"), ("max-rounds", "2")]);
        let source = send_live(&self.image, &address, self.churn.by_pid(), caps, params);
        until(|| {
            let status = source.query().status;
            assert!(status.is_running(), "{:?}", source.join());
            status == Status::PreSwitchover
        });
        self.churn.stands_still();
        (source, destination)
    }
}

#[test]
fn a_writer_that_was_handed_over_is_not_migrated_again_and_stays_stopped() {
    watchdog!();
    let scene = Scene::new();
    let receive = scene.receive("d1");
    scene.send("d1", &[]).succeeded();
    receive.finish().succeeded();
    scene.churn.stands_still();

    // A retry that could go through, and one that cannot even connect.
    let receive = scene.receive("d2");
    for (to, more) in [("d2", &[][..]), ("nowhere", &["--connect-timeout", "0.1"])] {
        let refused = scene.send(to, more);
        let left = format!("leave process {} (ramferry) stopped", scene.churn.pid());
        let to = scene.address("d1");
        refused.failed_with(1, &["was handed over to", &to, "ago", &left, "--again"]);
        scene.churn.stands_still();
    }
    // Nor by commands, which would resume it when that fails, nor as a paused guest.
    let (stop, resume) = scene.churn.commands();
    let to = scene.address("nowhere");
    let commands = ["--stop-command", &stop, "--resume-command", &resume];
    let fixed = ["send", text(&scene.image), &to, "--live"];
    run(&[&fixed[..], &commands].concat()).failed_with(1, &["was handed over"]);
    scene
        .send("nowhere", &["--paused-ok"])
        .failed_with(1, &["was handed over"]);
    scene.churn.stands_still();
    // Then it still is the paused guest of a user who insists, and who has said that it runs nowhere.
    let insists = scene.send("nowhere", &["--again", "--json"]);
    let pid = scene.churn.pid();
    insists.failed_with(
        1,
        &["is stopped already: resume it first", "--paused-ok", &pid],
    );
    assert_eq!(insists.json()["guest"], "source");
    scene.churn.stands_still();
    // Neither that nor a destination that does not answer takes the mark away.
    let args = ["--again", "--paused-ok", "--connect-timeout", "0.1"];
    scene.send("nowhere", &args).failed_with(1, &["connect"]);
    let refused = scene.send("d2", &["--json"]);
    refused.failed_with(1, &["was handed over to"]);
    assert_eq!(refused.json()["guest"], "unknown");
    // Nor is it sent as an image at rest, though nothing writes it.
    let plain = run(&["send", text(&scene.image), &scene.address("d2"), "--json"]);
    plain.failed_with(
        1,
        &["was handed over to", "send it with --live, --again and"],
    );
    assert_eq!(plain.json()["guest"], "unknown");
    receive.signal(Signal::INT);
    receive.finish().failed_with(130, &[]);
    assert!(!scene.folder.path("d2.ram").exists());
    scene.churn.verify(&scene.folder.path("d1.ram"));
}

#[test]
fn a_paused_guest_is_migrated_if_that_is_asked_for_and_never_resumed() {
    watchdog!();
    let scene = Scene::new();
    scene.churn.program.signal(Signal::STOP);
    until(|| scene.churn.program.is_stopped());

    let failed = scene.send("nowhere", &["--paused-ok", "--connect-timeout", "0.1"]);
    failed.failed_with(1, &["connect"]);
    scene.churn.stands_still();

    let receive = scene.receive("d");
    scene.send("d", &["--paused-ok"]).succeeded();
    receive.finish().succeeded();
    scene.churn.stands_still();
    scene.churn.verify(&scene.folder.path("d.ram"));
}

#[test]
fn a_guest_that_its_user_pauses_before_the_last_round_is_not_resumed_by_a_failure() {
    watchdog!();
    let scene = Scene::new();
    let address = scene.address("nowhere");
    let pid = scene.churn.pid();
    let send = Program::start(command(&[
        "send",
        text(&scene.image),
        &address,
        "--live",
        "--pid",
        &pid,
        "--connect-timeout",
        "0.5",
    ]));
    scene.churn.program.signal(Signal::STOP);
    send.finish().failed_with(1, &[]);
    scene.churn.stands_still();
}

#[test]
fn one_guest_has_one_live_migration_at_a_time() {
    watchdog!();
    let scene = Scene::new();
    let (source, destination) = scene.paused();
    let receive = scene.receive("other");
    let busy = scene.send("other", &[]);
    busy.failed_with(1, &["is being migrated already"]);
    scene.churn.stands_still();
    receive.signal(Signal::INT);
    receive.finish().failed_with(130, &[]);

    source.proceed().unwrap();
    source.wait().unwrap();
    destination.handle.wait().unwrap();
    scene.churn.stands_still();
    scene.churn.verify(&scene.folder.path("out"));
}

#[test]
fn a_migration_from_another_network_namespace_is_kept_out_as_well() {
    watchdog!();
    let unshared = |args: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.arg("-n").arg(env!("CARGO_BIN_EXE_ramferry"));
        command.args(args).stdin(std::process::Stdio::null());
        Program::start(command).finish()
    };
    if unshared(&["--version"]).code != Some(0) {
        eprintln!("SKIPPED: another network namespace: unshare -n is not permitted here");
        return;
    }
    let scene = Scene::new();
    let (source, destination) = scene.paused();
    let (image, to, pid) = (
        text(&scene.image),
        scene.address("other"),
        scene.churn.pid(),
    );
    let busy = unshared(&["send", image, &to, "--live", "--pid", &pid]);
    busy.failed_with(1, &["image", "is being migrated already"]);
    // The process is locked, too, and not only the image.
    let mut options = std::fs::File::options();
    let second = scene.folder.image("second", &mixed(16, 1));
    let _open = options.write(true).open(&second).unwrap();
    let busy = unshared(&["send", text(&second), &to, "--live", "--pid", &pid]);
    busy.failed_with(1, &["process", "is being migrated already"]);
    scene.churn.stands_still();
    source.proceed().unwrap();
    source.wait().unwrap();
    destination.handle.wait().unwrap();
    scene.churn.verify(&scene.folder.path("out"));
}

/// Start times are relative to the one, and PIDs to the other.
#[test]
fn a_mark_holds_in_other_time_and_pid_namespaces() {
    watchdog!();
    let scene = Scene::new();
    let receive = scene.receive("d1");
    scene.send("d1", &[]).succeeded();
    receive.finish().succeeded();
    let to = scene.address("nowhere");
    let (stop, resume) = scene.churn.commands();
    for namespace in [
        &["-T", "--boottime", "100000", "--fork"][..],
        &["-p", "-m", "--mount-proc", "--fork"],
    ] {
        let unshared = |args: &[&str]| {
            let mut command = std::process::Command::new("unshare");
            command.args(namespace).args(args);
            Program::start(command).finish()
        };
        if unshared(&["true"]).code != Some(0) {
            eprintln!("SKIPPED: unshare {namespace:?} is not permitted here");
            continue;
        }
        let send = [
            env!("CARGO_BIN_EXE_ramferry"),
            "send",
            text(&scene.image),
            &to,
            "--live",
            "--stop-command",
            &stop,
            "--resume-command",
            &resume,
        ];
        unshared(&send).failed_with(1, &["was handed over to", &scene.address("d1"), "--again"]);
        scene.churn.stands_still();
    }
}

#[test]
fn another_guest_in_the_same_file_is_not_taken_for_the_one_that_was_handed_over() {
    watchdog!();
    let scene = Scene::new();
    let receive = scene.receive("d1");
    scene.send("d1", &[]).succeeded();
    receive.finish().succeeded();
    let Scene {
        folder,
        image,
        churn,
    } = scene;
    churn.program.signal(Signal::KILL);
    churn.program.finish();
    let scene = Scene {
        churn: Churn::start(&image, &["--rate", "2000"]),
        folder,
        image,
    };
    let receive = scene.receive("d2");
    scene.send("d2", &[]).succeeded();
    receive.finish().succeeded();
    scene.churn.verify(&scene.folder.path("d2.ram"));
}

/// A process that does nothing with a file that it has open, until it is dropped.
struct Holder(std::process::Child);

impl Holder {
    fn of(file: std::fs::File) -> Holder {
        let mut sleep = std::process::Command::new("sleep");
        Holder(sleep.arg("1000").stdin(file).spawn().unwrap())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A process that maps a file, until it is dropped; `None` without a Python.
fn mapping(file: &Path, flags: &str) -> Option<Holder> {
    python(
        file,
        &format!("import mmap\nm = mmap.mmap(f.fileno(), 0, mmap.{flags})\nm[0] = 1"),
    )
}

/// A Python that has opened `f` to write it, and has done this.
fn python(file: &Path, does: &str) -> Option<Holder> {
    let script = format!(
        "import sys\nf = open(sys.argv[1], 'r+b')\n{does}\nprint(flush=True)\nsys.stdin.read()"
    );
    let mut python = std::process::Command::new("python3");
    python.args(["-c", &script]).arg(file);
    let piped = std::process::Stdio::piped;
    let mut child = match python.stdin(piped()).stdout(piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("SKIPPED: a process with mappings of its own: python3: {error}");
            return None;
        }
    };
    // It has mapped it once it prints.
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    Some(Holder(child))
}

#[test]
fn a_guest_whose_writes_do_not_get_into_the_file_is_refused() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(PAGES, 42));
    let to = unix(&folder.path("nowhere")).to_string();
    let Some(private) = mapping(&image, "MAP_PRIVATE") else {
        return;
    };
    let pid = private.0.id().to_string();
    let mapped = format!("is mapped privately by process {pid} (python3");
    let live = ["send", text(&image), &to, "--live", "--pid", &pid];
    run(&live).failed_with(1, &[&mapped, "share=on"]);
    let commands = ["--live", "--stop-command", ":", "--resume-command", ":"];
    run(&[&["send", text(&image), &to][..], &commands].concat()).failed_with(1, &[&mapped]);
    // However still it is.
    crate::support::signal(private.0.id(), Signal::STOP);
    let files = ["send", text(&image), &to];
    run(&files).failed_with(1, &[&mapped]);
    run(&[&files[..], &["--paused"]].concat()).failed_with(1, &[&mapped]);
    // The file as it is may be of interest all the same.
    let digest = run(&["digest", text(&image), "--paused"]);
    digest.succeeded();
    assert!(digest.err.contains(&mapped), "{digest:?}");
    drop(private);

    let shared = mapping(&image, "MAP_SHARED").unwrap();
    let pid = shared.0.id().to_string();
    let args = ["--connect-timeout", "0.1", "--live", "--pid", &pid];
    run(&[&files[..], &args].concat()).failed_with(1, &["connect"]);
}

#[test]
fn what_must_be_known_about_the_writer_is_printed_with_quiet_too() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(PAGES, 43));
    let to = unix(&folder.path("nowhere")).to_string();
    let setup = format!(
        "import ctypes\ncontext = ctypes.c_ulong()\n\
         assert ctypes.CDLL(None).syscall({}, 1, ctypes.byref(context)) == 0",
        libc::SYS_io_setup
    );
    let Some(writer) = python(&image, &setup) else {
        return;
    };
    let pid = writer.0.id().to_string();
    let args = ["--pid", &pid, "--connect-timeout", "0.1", "--quiet"];
    let ended = run(&[&["send", text(&image), &to, "--live"][..], &args].concat());
    ended.failed_with(1, &["connect"]);
    let note = format!("note: process {pid} uses asynchronous I/O");
    assert_eq!(ended.err.matches(&note).count(), 1, "{ended:?}");
}

#[test]
fn a_process_that_only_reads_the_image_is_not_taken_for_its_writer() {
    watchdog!();
    let scene = Scene::new();
    let reader = Holder::of(std::fs::File::open(&scene.image).unwrap());
    let pid = reader.0.id().to_string();
    let refused = scene.send("nowhere", &["--pid", &pid]);
    refused.failed_with(
        2,
        &[&format!("process {pid} cannot write"), "pass the process"],
    );
    scene.churn.writes_on();
}

#[test]
fn a_guest_that_another_process_can_write_is_refused_by_its_name() {
    watchdog!();
    let scene = Scene::new();
    let mut options = std::fs::File::options();
    let other = Holder::of(options.read(true).write(true).open(&scene.image).unwrap());
    let refused = scene.send("nowhere", &[]);
    let named = format!("process {} (sleep) can write", other.0.id());
    refused.failed_with(1, &[&named, "another --pid"]);
    // With both, and without the other.
    let receive = scene.receive("d");
    scene
        .send("d", &["--pid", &other.0.id().to_string()])
        .succeeded();
    receive.finish().succeeded();
    scene.churn.verify(&scene.folder.path("d.ram"));
    scene.churn.resume();
    drop(other);
    let receive = scene.receive("e");
    scene.send("e", &["--again"]).succeeded();
    receive.finish().succeeded();
}

#[test]
fn the_report_says_which_end_has_the_guest() {
    watchdog!();
    let scene = Scene::new();
    let json = |name| {
        let (to, output) = (
            scene.address(name),
            scene.folder.path(name).with_extension("ram"),
        );
        let mut receive = Program::start(command(&["receive", &to, text(&output), "--json"]));
        receive.err_line();
        receive
    };
    let failed = scene.send("nowhere", &["--json", "--connect-timeout", "0.1"]);
    assert_eq!(failed.json()["guest"], "source");
    assert_eq!(failed.code, Some(1));
    let none = run(&["send", "nofile", &scene.address("nowhere"), "--json"]);
    assert_eq!(none.json().get("guest"), None, "{none:?}");

    // Its writer runs on: nothing changed hands.
    let receive = json("c");
    let (to, image) = (scene.address("c"), text(&scene.image));
    let copied = run(&["send", image, &to, "--live", "--fuzzy", "--json"]);
    for ended in [copied, receive.finish()] {
        ended.succeeded();
        assert_eq!(ended.json().get("guest"), None);
    }

    let receive = json("d");
    let sent = scene.send("d", &["--json"]);
    let received = receive.finish();
    for ended in [&sent, &received] {
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(ended.json()["guest"], "destination");
    }
}

#[test]
fn a_process_that_opens_the_image_during_the_rounds_ends_the_migration() {
    watchdog!();
    let scene = Scene::new();
    let address = unix(&scene.folder.path("d"));
    let destination = Destination::start(&address, &scene.folder.path("out"), params(&[]));
    destination.address();
    let image = scene.image.clone();
    let late = std::sync::Arc::new(std::sync::Mutex::new(None));
    let opened = std::sync::Arc::clone(&late);
    let source = Migration::send(&scene.image)
        .to(address)
        .live(Live::new(scene.churn.by_pid()))
        .settings(Settings::new(
            params(&[("downtime-limit", "0"), ("max-rounds", "2")]),
            Caps::default(),
        ))
        .on_event(move |event| {
            if matches!(event, Event::Pass(2)) {
                let mut options = std::fs::File::options();
                let file = options.read(true).write(true).open(&image).unwrap();
                *opened.lock().unwrap() = Some(Holder::of(file));
            }
        })
        .start()
        .unwrap();
    let line = source.wait().unwrap_err().one_line();
    assert!(line.contains("(sleep) can write"), "{line}");
    destination.handle.wait().unwrap_err();
    assert!(!scene.folder.path("out").exists());
    scene.churn.writes_on();
    assert!(late.lock().unwrap().is_some());
}

#[test]
fn a_writer_that_ran_for_a_while_and_is_stopped_again_ends_the_migration() {
    watchdog!();
    let scene = Scene::new();
    let (source, destination) = scene.paused();
    scene.churn.resume();
    scene.churn.writes_on();
    scene.churn.program.signal(Signal::STOP);
    until(|| scene.churn.program.is_stopped());
    source.proceed().unwrap();
    let line = source.wait().unwrap_err().one_line();
    assert!(line.contains("and stopped again"), "{line}");
    let line = destination.handle.wait().unwrap_err().one_line();
    assert!(line.contains("and stopped again"), "{line}");
    assert!(!scene.folder.path("out").exists());
    scene.churn.writes_on();
}

#[test]
fn a_writer_that_is_traced_is_refused_by_its_tracer() {
    watchdog!();
    let scene = Scene::new();
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-p", &scene.churn.pid()]);
    if std::process::Command::new("strace")
        .arg("-V")
        .output()
        .is_err()
    {
        eprintln!("SKIPPED: a traced writer: there is no strace");
        return;
    }
    let strace = Program::start(strace);
    let status = format!("/proc/{}/status", scene.churn.pid());
    let tracer = format!("TracerPid:\t{}\n", strace.pid());
    let is_traced = || std::fs::read_to_string(&status).unwrap().contains(&tracer);
    until(is_traced);
    let why = format!("is traced by process {}", strace.pid());
    scene.send("nowhere", &[]).failed_with(1, &[&why, "detach"]);
    strace.signal(Signal::KILL);
    strace.finish();
    scene.churn.writes_on();
}

#[test]
fn a_writer_that_is_resumed_from_outside_before_commit_ends_the_migration() {
    watchdog!();
    let scene = Scene::new();
    let (source, destination) = scene.paused();
    scene.churn.resume();
    scene.churn.writes_on();
    source.proceed().unwrap();
    let error = source.wait().unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    let line = error.one_line();
    assert!(line.contains("resumed by another program"), "{line}");
    let error = destination.handle.wait().unwrap_err();
    let line = error.one_line();
    assert!(line.contains("resumed by another program"), "{line}");
    assert!(!scene.folder.path("out").exists());
    scene.churn.writes_on();
}
