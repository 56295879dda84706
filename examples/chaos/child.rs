//! Processes of a run: started with their output in files, signalled without mistaking a later
//! process for them, and waited for with a limit on time without progress.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal};

/// Without any progress for as long, it hangs: every time limit of a run is shorter.
const STALL: Duration = Duration::from_secs(60);
/// With progress, however little.
const WALL: Duration = Duration::from_secs(300);

/// A program that was started.
#[derive(Debug)]
pub(crate) struct Process {
    child: Mutex<Child>,
    pidfd: OwnedFd,
    pub(crate) pid: u32,
    out: PathBuf,
    err: PathBuf,
}

/// It did not end.
#[derive(Debug)]
pub(crate) struct Hangs;

impl Process {
    /// Starts `command` in `folder`, with its output in `NAME.out` and `NAME.err` there.
    pub(crate) fn start(command: &mut Command, folder: &Path, name: &str) -> io::Result<Process> {
        let out = File::create(folder.join(format!("{name}.out")))?;
        Process::start_onto(out, command, folder, name)
    }

    /// With another standard output.
    pub(crate) fn start_onto(
        stdout: File,
        command: &mut Command,
        folder: &Path,
        name: &str,
    ) -> io::Result<Process> {
        let (out, err) = (
            folder.join(format!("{name}.out")),
            folder.join(format!("{name}.err")),
        );
        let child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(File::create(&err)?)
            .spawn()?;
        let pid = child.id();
        Ok(Process {
            pidfd: pidfd_open(as_pid(pid), PidfdFlags::empty())?,
            child: Mutex::new(child),
            pid,
            out,
            err,
        })
    }

    /// An error means that it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    pub(crate) fn has_ended(&self) -> bool {
        ends_within(&self.pidfd, Duration::ZERO)
    }

    pub(crate) fn out(&self) -> String {
        read(&self.out)
    }

    pub(crate) fn err(&self) -> String {
        read(&self.err)
    }

    /// Waits for its end; if it hangs, notes what its threads wait for, and kills it.
    pub(crate) fn finish(&self) -> Result<ExitStatus, Hangs> {
        let started = Instant::now();
        let mut seen = (started, progress(self.pid));
        while !ends_within(&self.pidfd, Duration::from_secs(1)) {
            let now = progress(self.pid);
            if now != seen.1 {
                seen = (Instant::now(), now);
            }
            if seen.0.elapsed() > STALL || started.elapsed() > WALL {
                let _ = std::fs::write(self.err.with_extension("hang"), waits(self.pid));
                self.kill();
                return Err(Hangs);
            }
        }
        Ok(self.reap())
    }

    /// Whether it ends within a moment.
    pub(crate) fn ends_soon(&self) -> bool {
        ends_within(&self.pidfd, Duration::from_secs(1))
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
        self.reap();
    }

    fn reap(&self) -> ExitStatus {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.wait().expect("a child can be waited for")
    }

    /// Waits until it has printed a line that begins with `start`, and returns the rest of it.
    /// `None`: it ended before.
    pub(crate) fn line(&self, start: &str) -> Option<String> {
        let started = Instant::now();
        loop {
            // In this order: what it printed before its end counts.
            let ended = self.has_ended();
            for text in [self.out(), self.err()] {
                let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
                let mut lines = complete.lines();
                if let Some(rest) = lines.find_map(|line| line.strip_prefix(start)) {
                    return Some(rest.to_owned());
                }
            }
            if ended || started.elapsed() > STALL {
                return None;
            }
            ends_within(&self.pidfd, Duration::from_millis(2));
        }
    }

    /// Whether all of its threads are stopped, by their states in `/proc`.
    pub(crate) fn is_stopped(&self) -> bool {
        !self.has_ended() && states(self.pid).iter().all(|state| *state == 'T')
    }
}

impl Process {
    /// A stop takes effect when each thread leaves the kernel.
    pub(crate) fn wait_until_stopped(&self) {
        while !self.has_ended() && !self.is_stopped() {
            ends_within(&self.pidfd, Duration::from_millis(1));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal(Signal::KILL);
        }
        self.reap();
    }
}

pub(crate) fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed()).expect("a PID is not 0")
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn ends_within(pidfd: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec {
        tv_sec: limit.as_secs().cast_signed(),
        tv_nsec: limit.subsec_nanos().into(),
    };
    matches!(
        poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)),
        Ok(1..)
    )
}

/// Changes as long as a process computes, reads or writes. A single tick of CPU time is what
/// keeping a link alive takes.
fn progress(pid: u32) -> (u64, String) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let numbers = fields
        .split(' ')
        .skip(11)
        .take(2)
        .flat_map(str::parse::<u64>);
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let bytes = io.lines().take(2).collect::<String>();
    (numbers.sum::<u64>() / 10, bytes)
}

fn states(pid: u32) -> Vec<char> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok())
        .filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next())
        .collect()
}

/// What each thread of a process waits for.
fn waits(pid: u32) -> String {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return String::new();
    };
    let file = |task: &Path, name| read(&task.join(name));
    tasks
        .flatten()
        .map(|task| {
            let task = task.path();
            let (name, what) = (file(&task, "comm"), file(&task, "wchan"));
            format!("{}: {what} {}\n", name.trim(), file(&task, "syscall"))
        })
        .collect()
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = tasks
        .flatten()
        .map(|task| read(&task.path().join("children")));
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .flat_map(str::parse)
                .collect::<Vec<_>>()
        })
        .collect()
}

pub(crate) fn command_line(pid: u32) -> String {
    read(Path::new(&format!("/proc/{pid}/cmdline"))).replace('\0', " ")
}

/// Waits until every process that the run's own have left is gone: they are children of this
/// process by now. Returns those that stay, which it kills. `own` is not one of them.
pub(crate) fn orphans(own: Option<u32>) -> Vec<String> {
    let started = Instant::now();
    let mut left = Vec::new();
    loop {
        let mut orphans = children(std::process::id());
        orphans.retain(|pid| Some(*pid) != own);
        if orphans.is_empty() {
            return left;
        }
        let is_late = started.elapsed() > Duration::from_secs(10);
        for pid in orphans {
            if is_late {
                left.push(command_line(pid));
                let _ = rustix::process::kill_process(as_pid(pid), Signal::KILL);
            }
            let _ = rustix::process::waitpid(Some(as_pid(pid)), WaitOptions::NOHANG);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
