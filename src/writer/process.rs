//! Processes that write the guest's RAM, stopped and resumed by signals.

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::guard::{Guard, Guarded};
use super::held::{HeldProcess, Rest, Target};
use super::lock::Lock;
use super::{Writer, WriterError};
use crate::error::{Error, Kind, Result};
use crate::transport::{Abort, Woken};

/// The time between the first two looks at whether all threads have stopped; doubled each time. It
/// has to be polled: a pidfd reports only the end of a process, and only parents and tracers can
/// wait for a stop. Most threads stop within microseconds, and the downtime has begun.
const LOOK: Duration = Duration::from_micros(100);

/// The most time between two looks. A thread that takes longer to stop is waiting for something
/// slow.
const LONGEST_LOOK: Duration = Duration::from_millis(5);

/// How long stopped threads have to leave their processors. Where the kernel does not say that they
/// have (no symbols), the stop takes this much longer.
const SETTLING: Duration = Duration::from_millis(10);

/// How long a throttled process runs between two pauses, as QEMU's vCPUs do.
const SLICE: Duration = Duration::from_millis(10);

/// The most by which a process can be slowed down, so that it still makes progress.
const MOST_PERCENT: u8 = 99;

/// One or several processes, stopped with SIGSTOP and resumed with SIGCONT.
///
/// Each gets back the state that it had when it was opened. Dropped without [`Writer::release`],
/// those that this stopped are resumed. If this process is killed, a guard process resumes them; if
/// the guard is killed as well, they stay stopped.
#[derive(Debug)]
pub struct Processes {
    all: Arc<Vec<HeldProcess>>,
    /// Those that were stopped when they were opened, and stay so.
    paused: Vec<HeldProcess>,
    guard: Option<Guard>,
    throttle: Option<Throttle>,
    abort: Arc<Abort>,
    state: State,
    /// What all had done when the last stop was complete, those that were paused at the end.
    rests: Vec<Rest>,
    /// Held until the migration is over.
    _locks: Vec<Lock>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
    Released,
}

impl Processes {
    /// Gets hold of the processes with these PIDs, and starts the [guard](super::guard), if there is
    /// to be one, from `guard_program`. `abort` ends the wait for them to stop. A process that is
    /// stopped already is refused, since it may be one that was handed over to a destination and
    /// must never run again; with `paused_ok` it is taken as it is, and left stopped.
    ///
    /// # Errors
    /// PIDs of no process, of this one, or of one that must not be stopped by this user;
    /// [`WriterError::AlreadyStopped`]; [`WriterError::Busy`] while another migration has hold of
    /// one of them; a guard that does not start.
    pub fn open(
        pids: &[u32],
        guard_program: Option<&Path>,
        paused_ok: bool,
        abort: Arc<Abort>,
    ) -> Result<Processes> {
        let mut pids = pids.to_vec();
        pids.sort_unstable();
        pids.dedup();
        let all = pids
            .into_iter()
            .map(HeldProcess::open)
            .collect::<Result<Vec<_>, _>>()?;
        let mut locks = Vec::new();
        for process in &all {
            locks.extend(Lock::process(process)?);
        }
        // Only with the lock: another migration may stop a process for a moment.
        let (mut running, mut paused) = (Vec::new(), Vec::new());
        for process in all {
            if process.running()?.is_some() {
                running.push(process);
            } else if paused_ok {
                paused.push(process);
            } else {
                return Err(WriterError::AlreadyStopped {
                    pid: process.pid,
                    again: false,
                }
                .into());
            }
        }
        let all = running;
        let targets: Vec<Target> = all
            .iter()
            .map(HeldProcess::target)
            .collect::<Result<_, _>>()?;
        let guard = guard_program
            .map(|program| Guard::start(program, Guarded::Processes(targets), &abort))
            .transpose()?;
        Ok(Processes {
            all: Arc::new(all),
            paused,
            _locks: locks,
            guard,
            throttle: None,
            abort,
            state: State::Running,
            rests: Vec::new(),
        })
    }

    /// The first one that has ended, which explains whatever else is wrong with it.
    pub(super) fn first_gone(&self) -> Option<WriterError> {
        let mut all = self.all.iter().chain(&self.paused);
        let gone = all.find(|process| process.has_ended())?;
        Some(WriterError::Gone { pid: gone.pid })
    }

    fn try_stop(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now().checked_add(limit);
        // Before the first signal: from then on there is something to resume.
        self.arm_guard()?;
        for process in self.all.iter() {
            process.signal(Signal::STOP)?;
        }
        let mut look = LOOK;
        for process in self.all.iter() {
            while let Some(thread) = process.running()? {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Err(WriterError::DidNotStop {
                        pid: process.pid,
                        thread: thread.id,
                        state: thread.state,
                        limit,
                    }
                    .into());
                }
                // Another program may have resumed it in between; if it stops already, this does nothing.
                process.signal(Signal::STOP)?;
                self.wait_for_next(&mut look)?;
            }
        }
        self.rests = self.settle()?;
        Ok(())
    }

    /// What all have done once they have left their processors.
    fn settle(&self) -> Result<Vec<Rest>> {
        let mut rests = Vec::new();
        let started = Instant::now();
        let mut look = LOOK;
        // One that was paused may have been resumed since.
        for process in self.all.iter().chain(&self.paused) {
            rests.push(loop {
                let rest = rest(process)?;
                if rest.settled || started.elapsed() >= SETTLING {
                    break rest;
                }
                self.wait_for_next(&mut look)?;
            });
        }
        Ok(rests)
    }

    fn wait_for_next(&self, look: &mut Duration) -> Result<()> {
        let wait = *look;
        *look = (wait * 2).min(LONGEST_LOOK);
        match self.abort.wait(wait) {
            Ok(Woken::Aborted) => Err(Error::interrupted()),
            Ok(_) => Ok(()),
            Err(error) => {
                Err(Error::new(Kind::Failed, error).in_stage("while stopping the writer"))
            }
        }
    }

    /// From now on the guard resumes the processes if this one is killed.
    fn arm_guard(&mut self) -> Result<(), WriterError> {
        let armed = self
            .guard
            .as_mut()
            .is_none_or(|guard| guard.is_there() && guard.arm());
        if armed {
            Ok(())
        } else {
            Err(WriterError::GuardGone)
        }
    }

    /// Resumes all that were running, whatever happens to one of them.
    fn continue_all(&self) -> Result<(), WriterError> {
        let mut outcome = Ok(());
        for process in self.all.iter() {
            outcome = outcome.and(process.signal(Signal::CONT));
        }
        outcome
    }
}

impl Writer for Processes {
    fn stop(&mut self, limit: Duration) -> Result<()> {
        if self.state == State::Released {
            return Ok(());
        }
        self.throttle = None;
        self.state = State::Stopped;
        self.try_stop(limit).inspect_err(|_| {
            self.state = State::Running;
            // The error that led here says more.
            let _ = self.continue_all();
        })
    }

    fn resume(&mut self) -> Result<()> {
        if self.state == State::Released {
            return Err(WriterError::Released {
                who: self.describe(),
            }
            .into());
        }
        self.throttle = None;
        self.state = State::Running;
        Ok(self.continue_all()?)
    }

    fn check_stopped(&mut self) -> Result<()> {
        let all = self.all.iter().chain(&self.paused);
        for (process, before) in all.zip(&self.rests) {
            if let Some(thread) = before.ran_before(&rest(process)?) {
                let pid = process.pid;
                return Err(WriterError::ContinuedForAWhile { pid, thread }.into());
            }
        }
        Ok(())
    }

    fn release(&mut self) {
        self.throttle = None;
        // It is waited for when all is over, and not now.
        if let Some(guard) = &mut self.guard {
            guard.release();
        }
        if self.state == State::Running {
            for process in self.all.iter() {
                // The destination must run the guest alone. An error means that the process has
                // ended.
                let _ = process.signal(Signal::STOP);
            }
        }
        self.state = State::Released;
    }

    fn throttle(&mut self, percent: u8) -> Result<bool> {
        if self.state != State::Running {
            return Ok(false);
        }
        self.throttle = None;
        for process in self.all.iter() {
            if process.has_ended() {
                return Err(WriterError::Gone { pid: process.pid }.into());
            }
        }
        if percent > 0 {
            self.arm_guard()?;
            self.throttle = Some(Throttle::start(Arc::clone(&self.all), percent)?);
        }
        Ok(true)
    }

    fn describe(&self) -> String {
        let pids: Vec<String> = self
            .all
            .iter()
            .chain(&self.paused)
            .map(|process| process.pid.to_string())
            .collect();
        match &pids[..] {
            [pid] => format!("process {pid}"),
            _ => format!("processes {}", pids.join(", ")),
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.throttle = None;
        if self.state == State::Stopped {
            // A destructor cannot report an error.
            let _ = self.continue_all();
        }
    }
}

/// What a process has done that must be stopped.
fn rest(process: &HeldProcess) -> Result<Rest, WriterError> {
    process.rest()?.map_err(|thread| WriterError::Continued {
        pid: process.pid,
        thread: thread.id,
        state: thread.state,
    })
}

/// A thread that stops processes for a part of the time, again and again.
#[derive(Debug)]
struct Throttle {
    end: Arc<Abort>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    fn start(all: Arc<Vec<HeldProcess>>, percent: u8) -> Result<Throttle> {
        let failed =
            |error| Error::new(Kind::Failed, error).in_stage("while slowing down the writer");
        let end = Arc::new(Abort::new().map_err(failed)?);
        let ended = Arc::clone(&end);
        let pause = pause(percent);
        let thread = thread::Builder::new()
            .name("throttle".into())
            .spawn(move || {
                // A process that has ended is noticed at the next stop or resume.
                let signal = |signal| all.iter().for_each(|one| drop(one.signal(signal)));
                for (sent, time) in [(Signal::STOP, pause), (Signal::CONT, SLICE)]
                    .into_iter()
                    .cycle()
                {
                    signal(sent);
                    if !matches!(ended.wait(time), Ok(Woken::TimedOut)) {
                        break;
                    }
                }
                signal(Signal::CONT);
            })
            .map_err(failed)?;
        Ok(Throttle {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.end.raise();
        if let Some(thread) = self.thread.take() {
            // It does not panic, and a destructor could not report it.
            let _ = thread.join();
        }
    }
}

/// How long to pause after each slice: `percent` of the slice and the pause together.
fn pause(percent: u8) -> Duration {
    let percent = u32::from(percent.min(MOST_PERCENT));
    SLICE * percent / (100 - percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_after_it_was_opened_is_named_as_gone() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let abort = Arc::new(Abort::new().unwrap());
        let processes = Processes::open(&[pid], None, false, abort).unwrap();
        assert!(processes.first_gone().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = processes.first_gone();
        assert!(matches!(gone, Some(WriterError::Gone { pid: found }) if found == pid));
    }

    #[test]
    fn a_pause_is_its_share_of_the_time() {
        assert_eq!(pause(20), Duration::from_micros(2500));
        assert_eq!(pause(50), SLICE);
        assert_eq!(pause(99), Duration::from_millis(990));
        assert_eq!(pause(255), pause(99));
    }
}
