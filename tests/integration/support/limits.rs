//! A limit on how long a test may take, which fails that one test.
//!
//! A test that waits for something begins with [`watchdog!`]. The rest of it then runs in a process
//! of its own: the test program again, with that one test. Nothing else could be ended without
//! taking the other tests along, as a thread that waits cannot be stopped from outside.
//!
//! The limit is not wall-clock time. Beside other programs, and with four tests at a time on two
//! cores, a test of one second takes twenty, and a limit long enough for that would let every real
//! deadlock hold up the run for as long. A test fails when it, with all the processes it has
//! started,
//!
//! * uses more CPU time than a test needs, as a loop without end does;
//! * hardly uses any for a while: it waits for what does not come. A process that could run gets its
//!   share even of a machine with a load of a hundred;
//! * has done neither, but goes on for a quarter of an hour: it polls for what does not come.
//!
//! `RAMFERRY_TEST_LIMIT=N` multiplies all three by N. With `RAMFERRY_TEST_LIMIT=0` tests run in
//! place and without a limit, which is what a debugger wants.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

struct Limits {
    /// Of CPU time.
    cpu: Duration,
    /// Without [`STALL_CPU`] of CPU time.
    stall: Duration,
    /// Of wall-clock time.
    wall: Duration,
}

impl Limits {
    /// The slowest test takes eight seconds of CPU time, and either end of a migration waits 30 s
    /// for the other.
    fn times(factor: u32) -> Limits {
        Limits {
            cpu: Duration::from_secs(120) * factor,
            stall: Duration::from_secs(90) * factor,
            wall: Duration::from_secs(900) * factor,
        }
    }
}

/// What a test must use to count as running. Keep-alives use less.
const STALL_CPU: Duration = Duration::from_millis(300);

/// The test that this process was started for.
const NAME: &str = "RAMFERRY_TEST_NAME";

/// Has the rest of the test run in a process of its own, with a limit.
macro_rules! watchdog {
    () => {
        fn here() {}
        if $crate::support::runs_in_a_child(std::any::type_name_of_val(&here)) {
            return;
        }
    };
}
pub(crate) use watchdog;

/// Whether the test that `here` was defined in has run, in a child process. `false`: this is that
/// process, and the caller runs the test.
#[track_caller]
pub(crate) fn runs_in_a_child(here: &str) -> bool {
    // "integration::migrate::a_name::here", whatever thread this is.
    let (_, name) = here.split_once("::").unwrap();
    let name = name.strip_suffix("::here").unwrap();
    let factor = std::env::var("RAMFERRY_TEST_LIMIT")
        .map_or(1, |factor| factor.parse().expect("RAMFERRY_TEST_LIMIT"));
    if factor == 0 {
        return false;
    }
    if std::env::var(NAME).is_ok_and(|own| own == name) {
        // The limit must not be lost with the process that enforces it.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        return false;
    }
    if let Err(why) = run(name, &Limits::times(factor)) {
        panic!("{why}");
    }
    true
}

/// The test's name, from either process.
pub(crate) fn test_name() -> String {
    std::env::var(NAME).unwrap_or_else(|_| thread::current().name().unwrap_or("a test").to_owned())
}

fn run(name: &str, limits: &Limits) -> Result<(), String> {
    // Files, not pipes: a process that outlives the test may hold on to its standard error.
    let [mut out, mut err] = [(); 2].map(|()| tempfile::tempfile().unwrap());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads=1"])
        .arg("--nocapture")
        .env(NAME, name)
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(err.try_clone().unwrap())
        .spawn()
        .unwrap();
    let ended = wait(&mut child, limits);
    let (out, err) = (text(&mut out), text(&mut err));
    // By macros, which libtest captures: shown if the test fails.
    print!("{out}");
    eprint!("{err}");
    // Not by a macro: it would be lost when the test passes.
    for line in err.lines().filter(|line| line.starts_with("SKIPPED: ")) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    let status = ended?;
    if !status.success() {
        return Err(format!("the test failed in its process: {status}"));
    }
    // A name that selects nothing would pass, too.
    assert!(out.contains("1 passed"), "{name} did not run: {out}");
    Ok(())
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until it ends, or ends it with all that it has started.
fn wait(child: &mut Child, limits: &Limits) -> Result<ExitStatus, String> {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let started = Instant::now();
    let mut used = Duration::ZERO;
    // When it was last seen to run, and what it had used by then.
    let mut seen = (started, used);
    let why = loop {
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let mut ends = [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
        let _ = poll(&mut ends, Some(&second));
        if let Some(status) = child.try_wait().unwrap() {
            return Ok(status);
        }
        // What is reaped by init alone is counted no more.
        used = used.max(cpu_time(pid));
        if used >= seen.1 + STALL_CPU {
            seen = (Instant::now(), used);
        }
        if used > limits.cpu {
            break format!("it used {} s of CPU time", used.as_secs());
        }
        if seen.0.elapsed() > limits.stall {
            break format!("it has been waiting for {} s", seen.0.elapsed().as_secs());
        }
        if started.elapsed() > limits.wall {
            break format!("it has been running for {} s", started.elapsed().as_secs());
        }
    };
    for pid in tree(pid, &processes()) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let _ = child.wait();
    Err(format!(
        "the test took longer than is allowed: {why} (RAMFERRY_TEST_LIMIT=2 doubles the limits)"
    ))
}

struct Process {
    parent: Option<Pid>,
    /// Of its own, and of its children that it has waited for.
    used: Duration,
}

fn processes() -> HashMap<Pid, Process> {
    let ticks = rustix::param::clock_ticks_per_second();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let read = |entry: std::fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name, which may hold anything: state, parent, ...; see proc_pid_stat(5).
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let number = |field: &&str| field.parse::<u64>().ok();
        let used: u64 = fields.get(11..15)?.iter().filter_map(number).sum();
        let process = Process {
            parent: Pid::from_raw(fields[1].parse().ok()?),
            used: Duration::from_millis(used * 1000 / ticks),
        };
        Some((pid, process))
    };
    entries.filter_map(read).collect()
}

/// A process and its descendants.
fn tree(root: Pid, processes: &HashMap<Pid, Process>) -> HashSet<Pid> {
    let mut tree = HashSet::from([root]);
    loop {
        let before = tree.len();
        let children = processes
            .iter()
            .filter(|(_, process)| process.parent.is_some_and(|parent| tree.contains(&parent)))
            .map(|(pid, _)| *pid)
            .collect::<Vec<_>>();
        tree.extend(children);
        if tree.len() == before {
            return tree;
        }
    }
}

fn cpu_time(root: Pid) -> Duration {
    let processes = processes();
    tree(root, &processes)
        .iter()
        .filter_map(|pid| processes.get(pid))
        .map(|process| process.used)
        .sum()
}

/// Sends a signal to a child that has not been waited for.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Tries until it is so, for what no event reports. The limit of the test ends it.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}

// ---- tests of the limits

fn fails(name: &str, limits: &Limits) -> String {
    let name = format!("support::limits::{name}");
    run(&name, limits).unwrap_err()
}

#[test]
fn a_test_that_waits_for_ever_fails_alone() {
    let limits = Limits {
        stall: Duration::from_secs(2),
        ..Limits::times(1)
    };
    let why = fails("waits_for_ever", &limits);
    assert!(why.contains("it has been waiting for 2 s"), "{why}");
}

#[test]
fn a_test_that_loops_for_ever_fails_with_its_children() {
    let limits = Limits {
        cpu: Duration::from_millis(500),
        ..Limits::times(1)
    };
    let why = fails("has_a_child_that_loops_for_ever", &limits);
    assert!(why.contains("of CPU time"), "{why}");
}

#[test]
fn a_failure_in_the_process_of_a_test_is_one_of_the_test() {
    let why = fails("panics", &Limits::times(1));
    assert!(why.contains("failed in its process"), "{why}");
}

/// Whether this process is one that a test of the limits started: what follows does nothing
/// otherwise.
fn is_the_child() -> bool {
    std::env::var_os(NAME).is_some()
}

#[test]
fn waits_for_ever() {
    if !is_the_child() {
        return;
    }
    loop {
        thread::park();
    }
}

#[test]
fn has_a_child_that_loops_for_ever() {
    if !is_the_child() {
        return;
    }
    let mut shell = Command::new("sh");
    let _ = shell.args(["-c", "while :; do :; done"]).status();
}

#[test]
fn panics() {
    if !is_the_child() {
        return;
    }
    panic!("as it should");
}
