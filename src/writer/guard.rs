//! A process that resumes the writer if this one is killed.
//!
//! It is the ramferry program with the hidden subcommand [`COMMAND`] and one argument for each
//! process, `PID:STARTED`, where STARTED is field 22 of `/proc/PID/stat`. It opens a pidfd of each,
//! writes [`READY`] on standard output, and reads standard input, the other end of which only we
//! have. At its end it sends SIGCONT to each process, but only once it has been armed by one byte,
//! which its parent writes before it stops them: a process that its user stopped has to stay
//! stopped. After any other byte it exits at once.
//!
//! A program that uses the library passes the path of the ramferry program, or calls [`serve`]
//! itself for that subcommand.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::WriterError;
use super::held::{HeldProcess, Target};
use crate::error::{Error, Kind, Result};
use crate::transport::{Abort, Woken};

/// The hidden subcommand.
pub const COMMAND: &str = "__resume-guard";

/// What its parent writes before it stops the processes: now there is something to resume.
const ARM: u8 = b'S';

/// What the guard says when it is on guard.
pub const READY: &[u8; 9] = b"guarding\n";

/// How long it may take to start, and to end.
const LIMIT: Duration = Duration::from_secs(5);

/// This program as its own guard. Only for programs that call [`serve`] for [`COMMAND`].
pub fn this_program() -> PathBuf {
    // Unlike its path, this still works after the file was replaced.
    PathBuf::from("/proc/self/exe")
}

/// The guard, as its parent sees it. Dropped, it resumes the processes.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
}

impl Guard {
    pub(super) fn start(program: &Path, targets: &[Target], abort: &Abort) -> Result<Guard> {
        use std::os::unix::process::CommandExt;
        let no = |why, source| WriterError::Guard {
            program: program.to_owned(),
            why,
            source,
        };
        let child = Command::new(program)
            .arg0("ramferry")
            .arg(COMMAND)
            .args(
                targets
                    .iter()
                    .map(|to| format!("{}:{}", to.pid, to.started)),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for us, and the guard is needed just then.
            .process_group(0)
            .spawn()
            .map_err(|error| no("it cannot be run", Some(error)))?;
        let mut guard = Guard { child };
        let mut said = [0; READY.len()];
        let mut filled = 0;
        while let Some(stdout) = guard.child.stdout.as_mut().filter(|_| filled < said.len()) {
            let woken = abort
                .wait_for(stdout.as_fd(), PollFlags::IN, Some(LIMIT))
                .map_err(|error| no("its answer cannot be waited for", Some(error)))?;
            match woken {
                Woken::Ready => {}
                Woken::TimedOut => return Err(no("it does not answer", None).into()),
                Woken::Aborted => return Err(Error::interrupted()),
            }
            match stdout.read(&mut said[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(no("its answer cannot be read", Some(error)).into()),
            }
        }
        if said != *READY {
            return Err(no("it is not a guard", None).into());
        }
        Ok(guard)
    }

    /// Whether it still is on guard.
    pub(super) fn is_there(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// From now on it resumes the processes at the end of its input. `false`: it is gone.
    pub(super) fn arm(&mut self) -> bool {
        let stdin = self.child.stdin.as_mut();
        stdin.is_some_and(|stdin| stdin.write_all(&[ARM]).is_ok())
    }

    /// Ends the guard: when this returns, it is gone and resumes nothing.
    pub(super) fn release(mut self) {
        if let Some(mut stdin) = self.child.stdin.take() {
            let asked = stdin.write_all(b"R");
            // It must not see the end of its input before it has ended.
            if asked.is_err() || !self.ends() {
                self.kill();
            }
        }
    }

    fn ends(&self) -> bool {
        let Ok(pidfd) = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()) else {
            return false;
        };
        let Ok(never) = Abort::new() else {
            return false;
        };
        matches!(
            never.wait_for(pidfd.as_fd(), PollFlags::IN, Some(LIMIT)),
            Ok(Woken::Ready)
        )
    }

    fn kill(&mut self) {
        // It may have ended by itself, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The end of its input is what makes it resume the processes.
        drop(self.child.stdin.take());
        if !self.ends() {
            self.kill();
        }
        let _ = self.child.wait();
    }
}

/// The guard: waits for the end of standard input, then resumes the processes.
///
/// # Errors
/// Invalid arguments, and processes that have ended or cannot be signalled.
pub fn serve(targets: &[String]) -> Result<()> {
    let failed = |error: io::Error| Error::new(Kind::Failed, error).in_stage("in the guard");
    let mut processes = Vec::new();
    for text in targets {
        let target = Target::parse(text).ok_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("invalid argument '{text}': use PID:STARTED"),
            )
        })?;
        let process = HeldProcess::open(target.pid)?;
        if process.target()? != target {
            return Err(WriterError::Gone { pid: target.pid }.into());
        }
        processes.push(process);
    }
    // A signal to the whole group also reaches the parent, and its end decides.
    let ignored = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&ignored)).map_err(failed)?;
    }
    let mut out = io::stdout();
    out.write_all(READY)
        .and_then(|()| out.flush())
        .map_err(failed)?;
    let (mut byte, mut armed) = ([0], false);
    loop {
        match io::stdin().read(&mut byte) {
            Ok(1..) if byte == [ARM] => armed = true,
            Ok(1..) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
        }
    }
    for process in processes.iter().filter(|_| armed) {
        // One of them may have ended; the others must be resumed all the same.
        let _ = process.signal(Signal::CONT);
    }
    Ok(())
}
