//! Processes that write the guest's RAM: stopped, they write nothing; and they are resumed whatever
//! becomes of who stopped them, unless they were released.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ramferry::Kind;
use ramferry::transport::Abort;
use ramferry::writer::{Processes, Stopped, Writer, WriterError, churn};
use rustix::process::Signal;

use crate::support::{Folder, Program, command, mixed, run, until, watchdog};

const LONG: Duration = Duration::from_secs(30);
const THREADS: usize = 3;

/// A process that writes as fast as it can.
struct Scene {
    _folder: Folder,
    image: PathBuf,
    writer: Program,
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let image = folder.image("ram", &mixed(256, 4));
        let path = image.to_str().unwrap();
        let mut writer = Program::start(command(&[
            "churn",
            "--in-place",
            path,
            "--rate",
            "0",
            "--threads",
            "3",
        ]));
        assert_eq!(writer.out_line(), "writing");
        Scene {
            _folder: folder,
            image,
            writer,
        }
    }

    fn processes(&self) -> Processes {
        open(&[self.writer.pid()]).unwrap()
    }

    /// How far the writer's threads have come.
    fn progress(&self) -> Vec<u8> {
        let records = std::fs::read(churn::records_of(&self.image)).unwrap();
        records[4096..4096 + 64 * THREADS].to_vec()
    }

    fn wait_until_it_writes(&self) {
        let before = self.progress();
        until(|| self.progress() != before);
    }

    #[track_caller]
    fn stands_still(&self) {
        let state = || (self.progress(), std::fs::read(&self.image).unwrap());
        assert!(self.writer.is_stopped());
        assert!(state() == state(), "something was written");
        run(&["churn", "--verify", self.image.to_str().unwrap()]).succeeded();
    }
}

fn guard() -> PathBuf {
    env!("CARGO_BIN_EXE_ramferry").into()
}

fn open(pids: &[u32]) -> ramferry::error::Result<Processes> {
    Processes::open(pids, Some(&guard()), false, Arc::new(Abort::new().unwrap()))
}

#[test]
fn a_stopped_writer_writes_nothing_until_it_is_resumed() {
    watchdog!();
    let (a, b) = (Scene::new(), Scene::new());
    let mut both = open(&[a.writer.pid(), b.writer.pid(), a.writer.pid()]).unwrap();
    assert!(both.describe().starts_with("processes "));
    for _ in 0..5 {
        let stopped = Stopped::stop(&mut both, LONG).unwrap();
        a.stands_still();
        b.stands_still();
        stopped.resume().unwrap();
        a.wait_until_it_writes();
        b.wait_until_it_writes();
    }
    both.resume().unwrap();
    both.stop(LONG).unwrap();
    both.stop(LONG).unwrap();
    drop(both);
    a.wait_until_it_writes();
    b.wait_until_it_writes();
}

#[test]
fn a_released_writer_stays_stopped() {
    watchdog!();
    let scene = Scene::new();
    let mut processes = scene.processes();
    Stopped::stop(&mut processes, LONG).unwrap().release();
    let error = processes.resume().unwrap_err();
    assert!(error.one_line().contains("was handed over"), "{error}");
    assert!(!processes.throttle(50).unwrap());
    drop(processes);
    scene.stands_still();
}

#[test]
fn one_that_has_ended_is_named_and_the_others_are_resumed() {
    watchdog!();
    let (a, b) = (Scene::new(), Scene::new());
    let mut both = open(&[a.writer.pid(), b.writer.pid()]).unwrap();
    let dead = b.writer.pid();
    b.writer.signal(Signal::KILL);
    // Not waited for: a zombie takes signals, but will not stop. Then it is gone altogether.
    until(|| matches!(both.stop(LONG), Err(error) if is_gone(&error, dead)));
    a.wait_until_it_writes();
    b.writer.finish();
    assert!(is_gone(&both.stop(LONG).unwrap_err(), dead));
    a.wait_until_it_writes();
    assert!(is_gone(&both.throttle(10).unwrap_err(), dead));
    assert!(is_gone(&both.resume().unwrap_err(), dead));
    assert_eq!(open(&[dead]).unwrap_err().kind(), Kind::Usage);
}

fn is_gone(error: &ramferry::Error, dead: u32) -> bool {
    matches!(error.cause(), Some(WriterError::Gone { pid }) if *pid == dead)
}

#[test]
fn one_that_does_not_stop_in_time_is_named_with_its_state_and_runs_on() {
    watchdog!();
    let scene = Scene::new();
    let mut processes = scene.processes();
    // Sometimes no time at all is enough.
    let mut error = None;
    until(|| {
        error = processes.stop(Duration::ZERO).err();
        processes.resume().unwrap();
        error.is_some()
    });
    let error = error.unwrap();
    let pid = scene.writer.pid();
    match error.cause() {
        Some(WriterError::DidNotStop { pid: named, .. }) => assert_eq!(*named, pid),
        other => panic!("{other:?}"),
    }
    let words = format!("process {pid} did not stop within 0 µs: its thread ");
    assert!(error.one_line().starts_with(&words), "{error}");
    assert!(error.one_line().contains(" is in state "), "{error}");
    scene.wait_until_it_writes();
}

#[test]
fn an_abort_ends_the_wait_and_the_writer_runs_on() {
    watchdog!();
    let scene = Scene::new();
    let abort = Arc::new(Abort::new().unwrap());
    let mut processes = Processes::open(
        &[scene.writer.pid()],
        Some(&guard()),
        false,
        Arc::clone(&abort),
    )
    .unwrap();
    abort.raise();
    // It may have stopped before anybody looked.
    if let Err(error) = processes.stop(LONG) {
        assert_eq!(error.kind(), Kind::Interrupted);
        scene.wait_until_it_writes();
    }
    drop(processes);
    scene.wait_until_it_writes();
}

#[test]
fn without_a_guard_nothing_begins() {
    watchdog!();
    let scene = Scene::new();
    for (program, why) in [
        ("/nonexistent/ramferry", "cannot be run"),
        ("/bin/true", "it is not a guard"),
    ] {
        let abort = Arc::new(Abort::new().unwrap());
        let error = Processes::open(&[scene.writer.pid()], Some(program.as_ref()), false, abort)
            .expect_err("no guard");
        let line = error.one_line();
        assert!(line.contains(program) && line.contains(why), "{line}");
    }
    let mut processes = scene.processes();
    let guards = || guards_of(scene.writer.pid());
    let [guard] = guards()[..] else {
        panic!("one guard")
    };
    crate::support::signal(guard, Signal::KILL);
    until(|| processes.stop(LONG).is_err());
    let error = processes.stop(LONG).unwrap_err();
    assert!(
        matches!(error.cause(), Some(WriterError::GuardGone)),
        "{error}"
    );
    scene.wait_until_it_writes();
}

/// The guards of this process.
fn guards_of(pid: u32) -> Vec<u32> {
    let prefix = format!("{pid}:");
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let guard = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let mut words = line.split(|&byte| byte == 0).skip(1);
            let is_guard = words.next()? == b"__resume-guard";
            (is_guard && words.next()?.starts_with(prefix.as_bytes())).then_some(guard)
        })
        .collect()
}

#[test]
fn a_throttled_writer_pauses_and_runs_and_at_last_runs_freely() {
    watchdog!();
    let scene = Scene::new();
    let mut processes = scene.processes();
    for percent in [60, 99] {
        assert!(processes.throttle(percent).unwrap());
        for _ in 0..3 {
            until(|| scene.writer.is_stopped());
            scene.wait_until_it_writes();
        }
    }
    processes.stop(LONG).unwrap();
    scene.stands_still();
    assert!(!processes.throttle(50).unwrap(), "it is stopped");
    scene.stands_still();
    processes.resume().unwrap();
    scene.wait_until_it_writes();
    assert!(processes.throttle(99).unwrap());
    until(|| scene.writer.is_stopped());
    assert!(processes.throttle(0).unwrap());
    until(|| !scene.writer.is_stopped());
    assert!(processes.throttle(99).unwrap());
    drop(processes);
    until(|| !scene.writer.is_stopped());
    scene.wait_until_it_writes();
}

// ---- another process in our place

const HELPER: &str = "RAMFERRY_TEST_HELPER";

/// This test program as another process that stops the writer and does what the word says.
fn helper(pid: u32, word: &str) -> Command {
    let mut helper = Command::new(std::env::current_exe().unwrap());
    helper
        .args(["--exact", "writer::as_a_helper", "--nocapture"])
        .env(HELPER, format!("{pid} {word}"))
        .stdin(std::process::Stdio::null());
    helper
}

/// Nothing, unless [`helper`] runs it.
#[test]
fn as_a_helper() {
    let Ok(task) = std::env::var(HELPER) else {
        return;
    };
    let (pid, word) = task.split_once(' ').unwrap();
    let mut processes = match open(&[pid.parse().unwrap()]) {
        Ok(processes) => processes,
        Err(error) => return eprintln!("error: {}", error.one_line()),
    };
    let stopped = Stopped::stop(&mut processes, LONG).unwrap();
    match word {
        "hold" => {
            eprintln!("stopped");
            loop {
                std::thread::park();
            }
        }
        "release" => {
            stopped.release();
            eprintln!("released");
            loop {
                std::thread::park();
            }
        }
        _ => unreachable!("{word}"),
    }
}

#[test]
fn a_writer_is_resumed_when_the_process_that_stopped_it_is_killed() {
    watchdog!();
    let scene = Scene::new();
    let mut holder = Program::start(helper(scene.writer.pid(), "hold"));
    while !holder.err_line().ends_with("stopped") {}
    scene.stands_still();
    // A signal to every process on the terminal or in the service is not an end.
    let [guard] = guards_of(scene.writer.pid())[..] else {
        panic!("one guard")
    };
    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        crate::support::signal(guard, signal);
    }
    assert_eq!(guards_of(scene.writer.pid()), [guard]);
    scene.stands_still();
    holder.signal(Signal::KILL);
    scene.wait_until_it_writes();
    holder.finish();
    until(|| guards_of(scene.writer.pid()).is_empty());
}

#[test]
fn a_released_writer_stays_stopped_when_the_process_that_released_it_is_killed() {
    watchdog!();
    let scene = Scene::new();
    let mut holder = Program::start(helper(scene.writer.pid(), "release"));
    while !holder.err_line().ends_with("released") {}
    holder.signal(Signal::KILL);
    holder.finish();
    until(|| guards_of(scene.writer.pid()).is_empty());
    scene.stands_still();
}

#[test]
fn a_process_of_another_user_is_not_stopped() {
    watchdog!();
    let error = if rustix::process::geteuid().is_root() {
        let scene = Scene::new();
        let as_nobody = || {
            use std::os::unix::process::CommandExt;
            let mut command = helper(scene.writer.pid(), "hold");
            command.uid(65534).gid(65534).current_dir("/");
            command
        };
        // Where this program lies, others may not be allowed to go.
        let listed = as_nobody().arg("--list").output();
        if !listed.is_ok_and(|listed| listed.status.success()) {
            return;
        }
        let mut helper = Program::start(as_nobody());
        let line = helper.err_line();
        helper.finish();
        scene.wait_until_it_writes();
        line
    } else {
        open(&[1]).expect_err("init is root's").one_line()
    };
    assert!(error.contains("not permitted"), "{error}");
}

#[test]
fn a_guard_whose_parent_has_given_up_ends_without_a_word() {
    watchdog!();
    let scene = Scene::new();
    let pid = scene.writer.pid();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Field 22; the second, the name, ends with the parenthesis.
    let started = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .nth(19)
        .unwrap();
    let (ours, guards) = UnixStream::pair().unwrap();
    drop(ours);
    let mut guard = command(&["__resume-guard", &format!("{pid}:{started}")]);
    guard.stdin(OwnedFd::from(guards));
    let ended = Program::start(guard).finish();
    ended.succeeded();
    assert_eq!(ended.err, "");
}

#[test]
fn a_guard_of_nothing_or_of_a_later_process_is_refused() {
    watchdog!();
    let scene = Scene::new();
    let pid = scene.writer.pid();
    for (target, code, words) in [
        ("x", 2, "use PID:STARTED"),
        (&format!("{pid}:1"), 1, "has ended"),
    ] {
        run(&["__resume-guard", target]).failed_with(code, &[words]);
    }
    let help = run(&["--help"]);
    assert!(!help.out.contains("__resume-guard"));
    let stopped = scene.processes().stop(LONG);
    stopped.unwrap();
    scene.wait_until_it_writes();
}
