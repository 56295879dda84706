//! The program as a child process.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use super::{signal, until};

/// The program, running.
pub(crate) struct Program {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
    seen_out: String,
    seen_err: String,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None`: by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// The one line that says what went wrong, after `error: `.
    #[track_caller]
    pub(crate) fn error(&self) -> &str {
        let lines: Vec<&str> = self
            .err
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(lines.len(), 1, "one line of error: {self:?}");
        assert!(
            self.err.trim_end().ends_with(lines[0]),
            "nothing comes after the error: {self:?}"
        );
        lines[0].strip_prefix("error: ").unwrap()
    }

    /// Asserts how it ended and what the error names.
    #[track_caller]
    pub(crate) fn failed_with(&self, code: i32, names: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for name in names {
            assert!(self.error().contains(name), "no {name:?} in {self:?}");
        }
    }

    #[track_caller]
    pub(crate) fn succeeded(&self) {
        assert_eq!(self.code, Some(0), "{self:?}");
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A command of the program, not yet running.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ramferry"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run(args: &[&str]) -> Ended {
    Program::start(command(args)).finish()
}

impl Program {
    pub(crate) fn start(mut command: Command) -> Program {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // What must be inherited by the child alone goes with the command.
        drop(command);
        Program {
            out: lines(child.stdout.take().unwrap()),
            err: lines(child.stderr.take().unwrap()),
            child,
            seen_out: String::new(),
            seen_err: String::new(),
        }
    }

    /// As [`Program::start`], for a command whose standard output is the link.
    pub(crate) fn start_with_stdout(mut command: Command, stdout: impl Into<Stdio>) -> Program {
        let mut child = command
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(command);
        Program {
            out: mpsc::channel().1,
            err: lines(child.stderr.take().unwrap()),
            child,
            seen_out: String::new(),
            seen_err: String::new(),
        }
    }

    /// The next line on standard output.
    #[track_caller]
    pub(crate) fn out_line(&mut self) -> String {
        let line = self.out.recv().unwrap_or_else(|_| {
            panic!(
                "no line on standard output; on standard error: {:?}",
                self.err.iter().collect::<Vec<_>>()
            )
        });
        self.seen_out.push_str(&line);
        self.seen_out.push('\n');
        line
    }

    /// The next line on standard error.
    #[track_caller]
    pub(crate) fn err_line(&mut self) -> String {
        let line = self.err.recv().expect("a line on standard error");
        self.seen_err.push_str(&line);
        self.seen_err.push('\n');
        line
    }

    /// The address that a listening receiver says it listens on.
    #[track_caller]
    pub(crate) fn listening(&mut self) -> String {
        let line = self.out_line();
        line.strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("{line:?}"))
            .to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, number: rustix::process::Signal) {
        signal(self.child.id(), number);
    }

    /// Whether all of its threads are stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        let tasks = format!("/proc/{}/task", self.child.id());
        std::fs::read_dir(tasks).unwrap().all(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        })
    }

    /// Waits until it has the file open.
    pub(crate) fn wait_for_open(&self, path: &Path) {
        let path = path.canonicalize().unwrap();
        let descriptors = format!("/proc/{}/fd", self.child.id());
        until(|| {
            std::fs::read_dir(&descriptors).unwrap().any(|entry| {
                std::fs::read_link(entry.unwrap().path()).is_ok_and(|file| file == path)
            })
        });
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Ended {
        let out = self.out.iter().map(|line| line + "\n").collect::<String>();
        let err = self.err.iter().map(|line| line + "\n").collect::<String>();
        let status = self.child.wait().unwrap();
        Ended {
            code: status.code(),
            out: std::mem::take(&mut self.seen_out) + &out,
            err: std::mem::take(&mut self.seen_err) + &err,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What it writes, line by line.
pub(crate) fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (line, lines) = mpsc::channel();
    thread::spawn(move || {
        for text in BufReader::new(from).lines() {
            let Ok(text) = text else { return };
            if line.send(text).is_err() {
                return;
            }
        }
    });
    lines
}
