//! A QEMU as the writer, played by a script: what it may say, or fail to say, and what becomes of its
//! guest. Real ones are in `qemu::writer`.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ramferry::transport::Abort;
use ramferry::writer::{QemuWriter, Writer};
use ramferry::{Error, Kind};
use serde_json::{Value, json};

use crate::support::{Folder, mixed, run, until, watchdog};

const LONG: Duration = Duration::from_secs(60);
/// For what is not going to come.
const SHORT: Duration = Duration::from_millis(100);
/// For what is not going to come after something else that has to.
const SOME: Duration = Duration::from_secs(2);
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}"#;

/// The QEMU's end.
struct Far(BufReader<UnixStream>);

impl Far {
    fn say(&mut self, text: &str) {
        // A client that has gone is its own affair.
        let _ = self.0.get_mut().write_all(format!("{text}\r\n").as_bytes());
    }

    /// The next line as it came; empty when the client is gone.
    fn hear_line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        let _ = self.0.read_until(b'\n', &mut line);
        line
    }

    /// The next command, and its id.
    #[track_caller]
    fn hear(&mut self, command: &str) -> Value {
        let line = self.hear_line();
        let request: Value = serde_json::from_slice(&line)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&line)));
        assert_eq!(request["execute"], command, "{request}");
        request["id"].clone()
    }

    #[track_caller]
    fn answer(&mut self, command: &str, value: &Value) {
        let id = self.hear(command);
        self.say(&json!({"return": value, "id": id}).to_string());
    }

    #[track_caller]
    fn status(&mut self, state: &str) {
        self.answer(
            "query-status",
            &json!({"status": state, "running": state == "running"}),
        );
    }

    #[track_caller]
    fn greet(&mut self) {
        self.say(GREETING);
        self.answer("qmp_capabilities", &json!({}));
    }

    #[track_caller]
    fn no_migration(&mut self) {
        self.answer("query-migrate", &json!({}));
    }

    #[track_caller]
    fn greet_running(&mut self) {
        self.greet();
        self.status("running");
        self.no_migration();
    }

    #[track_caller]
    fn stops(&mut self) {
        self.no_migration();
        self.status("running");
        let id = self.hear("stop");
        self.say(r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}"#);
        self.say(&json!({"return": {}, "id": id}).to_string());
        self.status("paused");
    }

    #[track_caller]
    fn resumes(&mut self) {
        self.status("paused");
        self.answer("cont", &json!({}));
    }

    #[track_caller]
    fn hangs_up(&mut self) {
        let line = self.hear_line();
        assert!(line.is_empty(), "{:?}", String::from_utf8_lossy(&line));
    }
}

/// A QEMU that does this to its one client.
struct Scene {
    folder: Folder,
    socket: PathBuf,
    abort: Arc<Abort>,
    far: JoinHandle<()>,
}

impl Scene {
    fn new(script: impl FnOnce(&mut Far) + Send + 'static) -> Scene {
        let folder = Folder::new();
        let socket = folder.path("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        let far = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            script(&mut Far(BufReader::new(stream)));
        });
        Scene {
            folder,
            socket,
            abort: Arc::new(Abort::new().unwrap()),
            far,
        }
    }

    fn open_with(&self, paused_ok: bool, limit: Duration) -> Result<QemuWriter, Error> {
        let guard = PathBuf::from(env!("CARGO_BIN_EXE_ramferry"));
        let abort = Arc::clone(&self.abort);
        QemuWriter::open(&self.socket, Some(&guard), paused_ok, limit, abort)
    }

    fn open(&self) -> QemuWriter {
        self.open_with(false, LONG).unwrap()
    }

    /// The script had nothing to object.
    fn end(self) {
        if let Err(panic) = self.far.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

#[track_caller]
fn refused(paused_ok: bool, words: &[&str], script: impl FnOnce(&mut Far) + Send + 'static) {
    refused_within(LONG, paused_ok, words, script);
}

#[track_caller]
fn refused_within(
    limit: Duration,
    paused_ok: bool,
    words: &[&str],
    script: impl FnOnce(&mut Far) + Send + 'static,
) {
    let scene = Scene::new(script);
    let error = scene.open_with(paused_ok, limit).unwrap_err();
    let line = error.one_line();
    for words in words {
        assert!(line.contains(words), "no {words:?} in {line}");
    }
    scene.end();
}

#[test]
fn it_stops_is_looked_at_again_and_is_resumed_or_released() {
    watchdog!();
    let scene = Scene::new(|far| {
        far.greet_running();
        for _ in 0..2 {
            far.stops();
            far.resumes();
        }
        far.stops();
        far.say(r#"{"event": "BLOCK_JOB_COMPLETED", "data": {}}"#);
        far.no_migration();
        far.status("paused");
        far.hangs_up();
    });
    let mut writer = scene.open();
    assert_eq!(writer.pid(), std::process::id());
    assert!(!writer.throttle(50).unwrap());
    writer.resume().unwrap();
    writer.stop(LONG).unwrap();
    writer.stop(LONG).unwrap();
    writer.resume().unwrap();
    writer.resume().unwrap();
    writer.stop(LONG).unwrap();
    writer.resume().unwrap();
    writer.stop(LONG).unwrap();
    writer.check_stopped().unwrap();
    writer.release();
    let error = writer.resume().unwrap_err();
    assert!(error.one_line().contains("was handed over"), "{error}");
    drop(writer);
    scene.end();
}

#[test]
fn a_guest_in_another_state_than_running_is_refused_by_its_name() {
    watchdog!();
    for (state, words) in [
        ("paused", "--paused-ok"),
        ("prelaunch", "--paused-ok"),
        ("io-error", "--paused-ok"),
        ("postmigrate", "the destination may run it"),
        ("inmigrate", "waits for an incoming migration"),
        ("suspended", "wake it up"),
        ("shutdown", "has shut down"),
        ("internal-error", "reset it"),
        ("new-state", "not known"),
    ] {
        let name = format!("state {state}");
        refused(false, &[&name, words], move |far| {
            far.greet();
            far.status(state);
        });
    }
    refused(true, &["state shutdown"], |far| {
        far.greet();
        far.status("shutdown");
    });
    refused(
        false,
        &["migrates its guest itself (status active)"],
        |far| {
            far.greet();
            far.status("running");
            far.answer("query-migrate", &json!({"status": "active"}));
        },
    );
}

/// `send` of an image that this process, which plays the QEMU, does not map.
fn send_foreign(scene: &Scene, with: impl FnOnce(&mut Command)) -> Option<Ended> {
    let image = scene.folder.image("foreign", &mixed(16, 1));
    for (path, mode) in [
        (scene.folder.path("."), 0o755),
        (scene.socket.clone(), 0o666),
    ] {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let mut send = Command::new(env!("CARGO_BIN_EXE_ramferry"));
    send.arg("send")
        .arg(image)
        .args(["unix:x", "--live", "--quiet", "--qmp"]);
    with(send.arg(&scene.socket).stdin(Stdio::null()));
    // The program may be in a folder that others may not enter.
    let started = send.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let ended = started.ok()?.wait_with_output().unwrap();
    Some((
        ended.status.code(),
        String::from_utf8(ended.stderr).unwrap(),
    ))
}

type Ended = (Option<i32>, String);

#[test]
fn an_image_that_is_not_shown_to_be_the_guests_ram_is_refused_before_its_state_is_asked_for() {
    watchdog!();
    let other_guest = |far: &mut Far| {
        far.greet();
        far.hangs_up();
    };
    let scene = Scene::new(other_guest);
    let (code, line) = send_foreign(&scene, |_| {}).unwrap();
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains("is not the RAM of the QEMU"), "{line}");
    scene.end();
    if !rustix::process::getuid().is_root() {
        eprintln!("SKIPPED: a process that cannot be examined: this user is not root");
        return;
    }
    let scene = Scene::new(other_guest);
    let ended = send_foreign(&scene, |send| {
        send.uid(65534).gid(65534);
    });
    let Some((code, line)) = ended else {
        eprintln!(
            "SKIPPED: a process that cannot be examined: another user cannot run this program"
        );
        return;
    };
    assert_eq!(code, Some(1), "{line}");
    for words in ["cannot be examined by this user", "or as root"] {
        assert!(line.contains(words), "{line}");
    }
    scene.end();
}

#[test]
fn what_is_not_a_qemu_that_answers_is_named() {
    watchdog!();
    let taken = ["gave no greeting within 100", "another client"];
    refused_within(SHORT, false, &taken, Far::hangs_up);
    refused(false, &["hung up before its greeting"], |_| {});
    refused(false, &["does not speak QMP"], |far| far.say("220 mail"));
    let ours = r#"{"QMP": {"version": {"package": "ramferry 0.1.0"}, "capabilities": []}}"#;
    refused(false, &["not a QEMU", "ramferry 0.1.0"], |far| {
        far.say(ours);
        far.answer("qmp_capabilities", &json!({}));
    });
    let silent = ["no answer to query-status within 2"];
    refused_within(SOME, false, &silent, |far| {
        far.greet();
        far.hear("query-status");
        far.hangs_up();
    });
    refused(false, &["more than 16 MiB"], |far| {
        far.greet();
        far.hear("query-status");
        far.say(&" ".repeat(17 << 20));
    });
    refused(false, &["refuses query-status", "no such thing"], |far| {
        far.greet();
        let id = far.hear("query-status");
        let error = json!({"class": "CommandNotFound", "desc": "no such thing"});
        far.say(&json!({"error": error, "id": id}).to_string());
    });
    let folder = Folder::new();
    let image = folder.image("ram", &[]);
    for (socket, words) in [
        ("tcp:h:1", "only for a Unix socket can the system tell"),
        ("fd:3", "invalid monitor address"),
    ] {
        let image = image.to_str().unwrap();
        run(&["send", image, "unix:x", "--live", "--qmp", socket]).failed_with(2, &[words]);
    }
    let image = image.to_str().unwrap();
    run(&[
        "send", image, "unix:x", "--live", "--qmp", "a", "--qmp", "b",
    ])
    .failed_with(2, &["--qmp can be given only once"]);
}

#[test]
fn a_guest_that_another_client_resumed_is_left_to_that_client() {
    watchdog!();
    for (event, state) in [(true, "paused"), (false, "running")] {
        let scene = Scene::new(move |far| {
            far.greet_running();
            far.stops();
            if event {
                far.say(r#"{"event": "RESUME"}"#);
            }
            far.no_migration();
            far.status(state);
            // Neither this nor the guard says anything more.
            far.hangs_up();
        });
        let mut writer = scene.open();
        writer.stop(LONG).unwrap();
        let line = writer.check_stopped().unwrap_err().one_line();
        assert!(line.contains("was resumed by another client"), "{line}");
        writer.resume().unwrap();
        drop(writer);
        scene.end();
    }
    // On another way out, without the last look.
    let scene = Scene::new(|far| {
        far.greet_running();
        far.stops();
        far.say(r#"{"event": "RESUME"}"#);
        far.status("paused");
        far.hangs_up();
    });
    let mut writer = scene.open();
    writer.stop(LONG).unwrap();
    writer.resume().unwrap();
    drop(writer);
    scene.end();
}

#[test]
fn a_migration_of_qemus_own_that_begins_later_is_refused() {
    watchdog!();
    // Before the guest is stopped.
    let scene = Scene::new(|far| {
        far.greet_running();
        far.answer("query-migrate", &json!({"status": "active"}));
        far.hangs_up();
    });
    let mut writer = scene.open();
    let line = writer.stop(LONG).unwrap_err().one_line();
    assert!(line.contains("itself (status active)"), "{line}");
    drop(writer);
    scene.end();
    // While its last pages were sent. It runs on, as it did when it was stopped.
    let scene = Scene::new(|far| {
        far.greet_running();
        far.stops();
        far.answer("query-migrate", &json!({"status": "setup"}));
        far.resumes();
        far.hangs_up();
    });
    let mut writer = scene.open();
    writer.stop(LONG).unwrap();
    let line = writer.check_stopped().unwrap_err().one_line();
    assert!(line.contains("itself (status setup)"), "{line}");
    writer.resume().unwrap();
    drop(writer);
    scene.end();
}

#[test]
fn a_guest_that_is_paused_meanwhile_is_left_so() {
    watchdog!();
    let scene = Scene::new(|far| {
        far.greet_running();
        far.say(r#"{"event": "STOP"}"#);
        for _ in 0..2 {
            far.no_migration();
            far.status("paused");
        }
        far.hangs_up();
    });
    let mut writer = scene.open();
    writer.stop(LONG).unwrap();
    writer.check_stopped().unwrap();
    writer.resume().unwrap();
    drop(writer);
    scene.end();
}

#[test]
fn a_guest_that_does_not_stop_or_fails_is_named_and_resumed_only_if_it_is_paused() {
    watchdog!();
    let scene = Scene::new(|far| {
        far.greet_running();
        far.no_migration();
        far.status("running");
        let id = far.hear("stop");
        far.say(&json!({"error": {"class": "GenericError", "desc": "There is a dump in progress"}, "id": id}).to_string());
        // Not stopped, as QEMU says.
        far.status("running");
        far.no_migration();
        far.status("running");
        far.answer("stop", &json!({}));
        far.status("guest-panicked");
        far.status("guest-panicked");
        far.hangs_up();
    });
    let mut writer = scene.open();
    let line = writer.stop(LONG).unwrap_err().one_line();
    assert!(line.contains("refuses stop: There is a dump"), "{line}");
    let line = writer.stop(LONG).unwrap_err().one_line();
    assert!(line.contains("in state guest-panicked"), "{line}");
    drop(writer);
    scene.end();
}

#[test]
fn an_answer_that_comes_late_is_passed_over_and_the_guest_resumed() {
    watchdog!();
    let scene = Scene::new(|far| {
        far.greet_running();
        far.no_migration();
        far.status("running");
        let id = far.hear("stop");
        // Only now does the limit of `stop` end, and the guest stops all the same.
        let asked = far.hear("query-status");
        far.say(r#"{"event": "STOP"}"#);
        far.say(&json!({"return": {}, "id": id}).to_string());
        far.say(&json!({"return": {"status": "paused"}, "id": asked}).to_string());
        far.answer("cont", &json!({}));
        far.hangs_up();
    });
    let mut writer = scene.open();
    let line = writer.stop(SHORT).unwrap_err().one_line();
    assert!(line.contains("did not stop within 100"), "{line}");
    assert!(
        line.contains("disk I/O") && !line.contains("stays"),
        "{line}"
    );
    drop(writer);
    scene.end();
}

#[test]
fn an_abort_ends_the_wait_for_a_guest_to_stop_and_it_is_resumed() {
    watchdog!();
    let (heard, stopping) = std::sync::mpsc::channel();
    let scene = Scene::new(move |far| {
        far.greet_running();
        far.no_migration();
        far.status("running");
        let id = far.hear("stop");
        heard.send(()).unwrap();
        let asked = far.hear("query-status");
        far.say(&json!({"return": {}, "id": id}).to_string());
        far.say(&json!({"return": {"status": "paused"}, "id": asked}).to_string());
        far.answer("cont", &json!({}));
        far.hangs_up();
    });
    let mut writer = scene.open();
    let abort = Arc::clone(&scene.abort);
    thread::spawn(move || {
        stopping.recv().unwrap();
        abort.raise();
    });
    let error = writer.stop(LONG).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted, "{error}");
    drop(writer);
    scene.end();
}

#[test]
fn a_qemu_that_hangs_is_waited_for_by_the_guard_which_takes_over_in_the_middle() {
    watchdog!();
    let (come_back, waits) = std::sync::mpsc::channel::<()>();
    let scene = Scene::new(move |far| {
        far.greet_running();
        far.no_migration();
        far.status("running");
        let id = far.hear("stop");
        let asked = far.hear("query-status");
        waits.recv().unwrap();
        // The migration has failed, and its program has ended for all that QEMU knows. It answers
        // what it was asked, half of which went to the program.
        far.say(&json!({"return": {}, "id": id}).to_string());
        far.say(&json!({"return": {"status": "paused"}, "id": asked}).to_string());
        assert_eq!(far.hear_line(), b"\xff\n");
        far.say(r#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#);
        far.say(r#"ain"}, "id": "ramferry-9"}"#);
        let id = far.hear("query-status");
        assert_eq!(id, "ramferry-guard-1");
        far.say(r#"{"event": "STOP"}"#);
        far.say(&json!({"return": {"status": "paused"}, "id": id}).to_string());
        far.answer("cont", &json!({}));
        far.hangs_up();
    });
    let mut writer = scene.open_with(false, SOME).unwrap();
    let line = writer.stop(SHORT).unwrap_err().one_line();
    for words in [
        "did not stop",
        "stays paused: ",
        "no answer to query-status",
        "a guard waits",
    ] {
        assert!(line.contains(words), "{line}");
    }
    // That it hangs is known by now: nothing waits once more for what the guard is there for.
    let begun = Instant::now();
    drop(writer);
    assert!(begun.elapsed() < Duration::from_secs(4));
    come_back.send(()).unwrap();
    scene.end();
}

#[test]
fn a_qemu_that_hangs_up_is_named() {
    watchdog!();
    let scene = Scene::new(|far| {
        far.greet_running();
        far.no_migration();
        far.status("running");
        far.hear("stop");
    });
    let mut writer = scene.open();
    let line = writer.stop(LONG).unwrap_err().one_line();
    let words = format!(
        "(process {}) has ended, or closed its monitor",
        std::process::id()
    );
    for words in [&words, "resume its guest with the QMP command cont"] {
        assert!(line.contains(words), "{line}");
    }
    drop(writer);
    scene.end();
}

#[test]
fn one_migration_at_a_time_has_hold_of_a_qemu() {
    watchdog!();
    let first = Scene::new(|far| {
        far.greet_running();
        far.hangs_up();
    });
    let writer = first.open();
    let second = Scene::new(Far::greet);
    let error = second.open_with(false, LONG).unwrap_err();
    assert!(
        error.one_line().contains("is being migrated already"),
        "{error}"
    );
    drop(writer);
    first.end();
    second.end();
}

#[test]
fn a_guard_that_is_gone_is_noticed_before_the_guest_is_stopped() {
    watchdog!();
    let scene = Scene::new(|far| {
        far.greet_running();
        far.no_migration();
        far.status("running");
        far.hangs_up();
    });
    let mut writer = scene.open();
    let guard = guard_of_this_process();
    crate::support::signal(guard, rustix::process::Signal::KILL);
    // Its memory goes first; only then can its parent see that it has ended.
    let stat = format!("/proc/{guard}/stat");
    until(|| std::fs::read_to_string(&stat).is_ok_and(|line| line.contains(") Z ")));
    let line = writer.stop(LONG).unwrap_err().one_line();
    assert!(
        line.contains("the guard") && line.contains("has ended"),
        "{line}"
    );
    drop(writer);
    scene.end();
}

fn guard_of_this_process() -> u32 {
    let own = std::process::id();
    let children = format!("/proc/{own}/task");
    let threads = std::fs::read_dir(children).unwrap();
    let children: String = threads
        .map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap())
        .collect();
    children.split_whitespace().next().unwrap().parse().unwrap()
}
