//! A writer that is stopped and resumed by shell commands.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use super::{Writer, WriterError};
use crate::error::{Error, Result};
use crate::transport::child_group::ChildGroup;
use crate::transport::{Abort, Woken};

/// Two shell commands: one returns once the writer has stopped, the other resumes it.
///
/// Each runs by `/bin/sh -c` in a process group of its own, with nothing on standard input and our
/// standard error as its standard output. One that does not end in time is killed with its group.
/// If this process is killed, nothing runs the second command.
#[derive(Debug)]
pub struct Commands {
    stop: String,
    resume: String,
    resume_limit: Duration,
    abort: Arc<Abort>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
    Released,
}

impl Commands {
    /// The two commands, and how long the second may take. `abort` ends the first.
    pub fn new(
        stop: String,
        resume: String,
        resume_limit: Duration,
        abort: Arc<Abort>,
    ) -> Commands {
        Commands {
            stop,
            resume,
            resume_limit,
            abort,
            state: State::Running,
        }
    }

    fn run_resume(&mut self) -> Result<()> {
        self.state = State::Running;
        // An abort is a reason to resume, so it must not end the resume command.
        let never = Abort::new().map_err(|error| failed(&self.resume, error))?;
        run(("resume", &self.resume), self.resume_limit, &never)
    }
}

impl Writer for Commands {
    fn stop(&mut self, limit: Duration) -> Result<()> {
        if self.state != State::Running {
            return Ok(());
        }
        self.state = State::Stopped;
        run(("stop", &self.stop), limit, &self.abort).inspect_err(|_| {
            // It may have stopped half of the writer. The error that led here says more than
            // another one.
            let _ = self.run_resume();
        })
    }

    fn resume(&mut self) -> Result<()> {
        match self.state {
            State::Running => Ok(()),
            State::Stopped => self.run_resume(),
            State::Released => Err(WriterError::Released {
                who: self.describe(),
            }
            .into()),
        }
    }

    fn release(&mut self) {
        self.state = State::Released;
    }

    fn throttle(&mut self, _percent: u8) -> Result<bool> {
        Ok(false)
    }

    fn describe(&self) -> String {
        format!("the writer that '{}' stops", self.stop)
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        if self.state == State::Stopped {
            // A destructor cannot report an error.
            let _ = self.run_resume();
        }
    }
}

fn failed(command: &str, source: io::Error) -> WriterError {
    WriterError::Io {
        what: format!("run '{command}'"),
        source,
    }
}

fn run((what, command): (&'static str, &str), limit: Duration, abort: &Abort) -> Result<()> {
    let failed = |error| failed(command, error);
    let mut shell = ChildGroup::shell(command);
    shell
        .stdin(Stdio::null())
        .stdout(ChildGroup::to_stderr().map_err(failed)?);
    let mut group = ChildGroup::start(&mut shell).map_err(failed)?;
    match group.wait(abort, Some(limit)).map_err(failed)? {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(WriterError::Command {
            what,
            command: command.to_owned(),
            status,
        }
        .into()),
        Err(Woken::Aborted) => Err(Error::interrupted()),
        Err(_) => Err(WriterError::CommandTimeout {
            what,
            command: command.to_owned(),
            limit,
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const LONG: Duration = Duration::from_secs(30);

    struct Scene {
        _folder: tempfile::TempDir,
        log: PathBuf,
        abort: Arc<Abort>,
    }

    impl Scene {
        fn new() -> Scene {
            let folder = tempfile::tempdir().unwrap();
            Scene {
                log: folder.path().join("log"),
                _folder: folder,
                abort: Arc::new(Abort::new().unwrap()),
            }
        }

        fn note(&self, word: &str) -> String {
            format!("echo {word} >> '{}'", self.log.display())
        }

        fn commands(&self, stop: &str) -> Commands {
            let stop = format!("{} && {stop}", self.note("stop"));
            Commands::new(stop, self.note("resume"), LONG, Arc::clone(&self.abort))
        }

        fn log(&self) -> String {
            std::fs::read_to_string(&self.log)
                .unwrap()
                .replace('\n', " ")
        }
    }

    #[test]
    fn both_commands_run_once_and_a_release_ends_it() {
        let scene = Scene::new();
        let mut writer = scene.commands("true");
        writer.resume().unwrap();
        writer.stop(LONG).unwrap();
        writer.stop(LONG).unwrap();
        writer.resume().unwrap();
        writer.resume().unwrap();
        assert_eq!(scene.log(), "stop resume ");
        writer.stop(LONG).unwrap();
        drop(writer);
        assert_eq!(scene.log(), "stop resume stop resume ");
        let mut writer = scene.commands("true");
        writer.stop(LONG).unwrap();
        writer.release();
        writer.resume().unwrap_err();
        drop(writer);
        assert_eq!(scene.log(), "stop resume stop resume stop ");
    }

    #[test]
    fn a_command_that_fails_is_an_error_with_its_status_and_the_writer_is_resumed() {
        let scene = Scene::new();
        let mut writer = scene.commands("exit 7");
        let error = writer.stop(LONG).unwrap_err().one_line();
        assert!(
            error.contains("stop command") && error.contains("exit status: 7"),
            "{error}"
        );
        assert_eq!(scene.log(), "stop resume ");
        drop(writer);
        assert_eq!(scene.log(), "stop resume ");
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_all_that_it_started() {
        let scene = Scene::new();
        let fifo = scene.log.with_extension("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let mut options = std::fs::File::options();
        // Open for both, so that opening it for reading does not wait.
        let both = options.read(true).write(true).open(&fifo).unwrap();
        let reading = std::fs::File::open(&fifo).unwrap();
        drop(both);
        let sleeper = format!("exec 3> '{}'; sleep 1000 & wait", fifo.display());
        let mut writer = scene.commands(&sleeper);
        let error = writer.stop(Duration::from_millis(200)).unwrap_err();
        assert!(
            matches!(error.cause(), Some(WriterError::CommandTimeout { .. })),
            "{error}"
        );
        assert!(scene.log().ends_with("resume "));
        // Its end comes once no process holds the other end.
        assert_eq!(io::read_to_string(reading).unwrap(), "");
    }

    #[test]
    fn an_abort_ends_the_stop_command_but_not_the_resume_command() {
        let scene = Scene::new();
        scene.abort.raise();
        let mut writer = scene.commands("sleep 1000");
        let error = writer.stop(LONG).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Interrupted);
        assert!(scene.log().ends_with("resume "));
    }
}
