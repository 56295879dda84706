//! A limit on every wait of a test.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// No test takes longer than this, whatever it waits for.
const LIMIT: Duration = Duration::from_secs(60);

/// The children that run now, for the watchdog to end.
static CHILDREN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

pub(crate) fn children() -> std::sync::MutexGuard<'static, BTreeSet<u32>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the whole test program with a message unless it is dropped in time.
pub(crate) struct Watchdog {
    _done: Sender<()>,
}

/// To be held by every test that waits for something.
pub(crate) fn watchdog() -> Watchdog {
    let (done, until) = mpsc::channel::<()>();
    let name = thread::current().name().unwrap_or("a test").to_owned();
    thread::spawn(move || {
        if until.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            // Not by a macro: those are captured and would be lost.
            let _ = writeln!(std::io::stderr(), "{name} hangs; giving up");
            for child in children().iter() {
                kill_process(*child);
            }
            std::process::exit(124);
        }
    });
    Watchdog { _done: done }
}

fn kill_process(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// Sends a signal to a child that has not been waited for.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Tries until it is so. Only for what no event tells of; the watchdog ends it.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}
