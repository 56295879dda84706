//! A process that resumes the writer if this one is killed.
//!
//! It is the ramferry program with the hidden subcommand [`COMMAND`] and what it is to resume as its
//! arguments. Standard input is a socket, the other end of which only its parent has. The guard writes
//! [`READY`] there and reads bytes from it: at its end it resumes the writer, but only while it is
//! armed, which its parent does before it stops the writer: a writer that its user stopped has to
//! stay stopped. `S` arms it, `R` disarms it, and after any other byte it exits at once.
//!
//! | arguments | what it does at the end |
//! |---|---|
//! | `PID:STARTED`..., where STARTED is field 22 of `/proc/PID/stat` | sends SIGCONT to each process, of which it has a pidfd |
//! | `monitor` | continues the guest of a QEMU, whose monitor is connected to its standard output |
//!
//! A QEMU's monitor serves one client at a time. The guard therefore has its parent's connection rather
//! than one of its own, and says nothing on it while its parent lives. It then waits for QEMU without a
//! time limit: one that hangs is to resume its guest when it comes back.
//!
//! A program that uses the library passes the path of the ramferry program, or calls [`serve`]
//! itself for that subcommand.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::WriterError;
use super::held::{HeldProcess, Target};
use crate::error::{Error, Kind, Result};
use crate::transport::{Abort, Woken};

/// The hidden subcommand.
pub const COMMAND: &str = "__resume-guard";

/// The argument of a guard that continues the guest of a QEMU.
const MONITOR: &str = "monitor";

/// What its parent writes before it stops the writer: now there is something to resume.
const ARM: u8 = b'S';

/// What its parent writes once it has resumed the writer.
const DISARM: u8 = b'R';

/// What its parent writes when the writer stays stopped for good: it exits at once.
const RELEASE: u8 = b'X';

/// What the guard says when it is on guard.
pub const READY: &[u8; 9] = b"guarding\n";

/// How long it may take to start, and to end.
const LIMIT: Duration = Duration::from_secs(5);

/// This program as its own guard. Only for programs that call [`serve`] for [`COMMAND`].
pub fn this_program() -> PathBuf {
    // Unlike its path, this still works after the file was replaced.
    PathBuf::from("/proc/self/exe")
}

/// What a guard resumes.
#[derive(Debug)]
pub(super) enum Guarded {
    /// Processes.
    Processes(Vec<Target>),
    /// The guest of a QEMU, through its monitor.
    Monitor(OwnedFd),
}

/// The guard, as its parent sees it. Dropped, it resumes the writer unless it was released.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    /// `None` once it is at its end.
    parent: Option<UnixStream>,
    /// It may take longer than this process waits for it.
    is_patient: bool,
    /// How long this process waits for it.
    limit: Duration,
}

impl Guard {
    pub(super) fn start(program: &Path, guarded: Guarded, abort: &Abort) -> Result<Guard> {
        use std::os::unix::process::CommandExt;
        let no = |why, source| WriterError::Guard {
            program: program.to_owned(),
            why,
            source,
        };
        let (parent, stdin) =
            UnixStream::pair().map_err(|error| no("it cannot be connected", Some(error)))?;
        let is_patient = matches!(guarded, Guarded::Monitor(_));
        let mut command = Command::new(program);
        command.arg0("ramferry").arg(COMMAND);
        match guarded {
            Guarded::Processes(targets) => {
                let words = targets
                    .iter()
                    .map(|to| format!("{}:{}", to.pid, to.started));
                command.args(words).stdout(Stdio::null());
            }
            Guarded::Monitor(connection) => {
                command.arg(MONITOR).stdout(connection);
            }
        }
        let child = command
            .stdin(OwnedFd::from(stdin))
            // Ctrl-C is for us, and the guard is needed just then.
            .process_group(0)
            .spawn()
            .map_err(|error| no("it cannot be run", Some(error)))?;
        // With the command goes this process's copy of the guard's end.
        drop(command);
        let guard = Guard {
            child,
            parent: Some(parent),
            is_patient,
            limit: LIMIT,
        };
        let mut said = [0; READY.len()];
        let mut filled = 0;
        while let Some(mut parent) = guard.parent.as_ref().filter(|_| filled < said.len()) {
            let woken = abort
                .wait_for(parent.as_fd(), PollFlags::IN, Some(LIMIT))
                .map_err(|error| no("its answer cannot be waited for", Some(error)))?;
            match woken {
                Woken::Ready => {}
                Woken::TimedOut => return Err(no("it does not answer", None).into()),
                Woken::Aborted => return Err(Error::interrupted()),
            }
            match parent.read(&mut said[filled..]) {
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

    /// From now on it resumes the writer at the end of its input. `false`: it is gone.
    pub(super) fn arm(&mut self) -> bool {
        self.tell(ARM)
    }

    /// From now on it does not.
    pub(super) fn disarm(&mut self) {
        if !self.tell(DISARM) {
            self.kill();
        }
    }

    /// From now on the guard resumes nothing, even if it is the only one that is left: it reads its input
    /// in order, so this comes before the end, and need not be waited for. Each moment between this and
    /// Commit is one in which the guest may be left without an owner.
    pub(super) fn release(&mut self) {
        if !self.tell(RELEASE) {
            self.kill();
        }
    }

    /// What it is to resume hangs: this process need not wait to see that once more.
    pub(super) fn leave_to_it(&mut self) {
        if self.is_patient {
            self.limit = Duration::ZERO;
        }
    }

    fn tell(&self, byte: u8) -> bool {
        let parent = self.parent.as_ref();
        parent.is_some_and(|mut parent| parent.write_all(&[byte]).is_ok())
    }

    fn ends(&self) -> bool {
        let Ok(pidfd) = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()) else {
            return false;
        };
        let Ok(never) = Abort::new() else {
            return false;
        };
        matches!(
            never.wait_for(pidfd.as_fd(), PollFlags::IN, Some(self.limit)),
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
        // The end of its input is what makes it end, and resume the writer first if it is to.
        drop(self.parent.take());
        if !self.ends() {
            if self.is_patient {
                return;
            }
            self.kill();
        }
        let _ = self.child.wait();
    }
}

/// The guard: waits for the end of standard input, then resumes the writer.
///
/// # Errors
/// Invalid arguments, and processes that have ended or cannot be signalled.
pub fn serve(targets: &[String]) -> Result<()> {
    let failed = |error: io::Error| Error::new(Kind::Failed, error).in_stage("in the guard");
    if let [one] = targets
        && one == MONITOR
    {
        let connection = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
        if watch().map_err(failed)? {
            super::qmp::resume_orphan(connection)?;
        }
        return Ok(());
    }
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
    let armed = watch().map_err(failed)?;
    for process in processes.iter().filter(|_| armed) {
        // One of them may have ended; the others must be resumed all the same.
        let _ = process.signal(Signal::CONT);
    }
    Ok(())
}

/// Is on guard until the parent ends, or says that it is not needed any more. Whether to resume the writer.
fn watch() -> io::Result<bool> {
    // A signal to the whole group also reaches the parent, and its end decides.
    let ignored = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&ignored))?;
    }
    let parent = io::stdin();
    let mut ready = &READY[..];
    while !ready.is_empty() {
        // A parent that has given up does not wait for this, and its end is read below.
        let Ok(written) = retry_on_intr(|| rustix::io::write(&parent, ready)) else {
            break;
        };
        ready = ready.get(written..).unwrap_or_default();
    }
    let (mut byte, mut armed) = ([0], false);
    loop {
        match io::stdin().read(&mut byte) {
            Ok(1..) if byte == [ARM] => armed = true,
            Ok(1..) if byte == [DISARM] => armed = false,
            Ok(1..) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return Ok(armed),
        }
    }
}
