//! Signals that end what the program does cleanly.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};

use crate::error::{Error, Kind, Result};
use crate::sync;

use super::exit_code;
use super::output::report;

/// How long a clean end may take before a second signal ends the program at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// What came before the command was known.
static EARLY: Mutex<Option<Early>> = Mutex::new(None);

struct Early {
    signals: Signals,
    /// Whether they have their usual effect.
    usual: Arc<AtomicBool>,
}

/// Makes signals wait until it is known what is to be done about them. To be called first of all: one
/// that comes a moment after the program was started ends it as any later one would.
pub(super) fn hold() -> Result<()> {
    let usual = Arc::new(AtomicBool::new(false));
    for signal in ending() {
        flag::register_conditional_default(signal, Arc::clone(&usual)).map_err(failed)?;
    }
    let signals = Signals::new(ending()).map_err(failed)?;
    *sync::lock(&EARLY) = Some(Early { signals, usual });
    Ok(())
}

/// Gives signals their usual effect, those that were held included: for commands that have nothing to
/// clean up.
pub(super) fn let_through() {
    let Some(mut early) = sync::lock(&EARLY).take() else {
        return;
    };
    early.usual.store(true, Ordering::SeqCst);
    for signal in early.signals.pending() {
        // It ends the program, and if it could not, the signal would be lost.
        let _ = low_level::emulate_default_handler(signal);
    }
}

/// From now on the signals that end a program wait to be handled, those that were held included. Call
/// it before the program announces that it is ready: a signal may come right after that.
pub(super) fn catch() -> Result<Signals> {
    match sync::lock(&EARLY).take() {
        Some(early) => Ok(early.signals),
        None => Signals::new(ending()).map_err(failed),
    }
}

/// Makes a file that gets larger than `ulimit -f` allows an error like others, instead of a signal that
/// ends the program and leaves what it was writing. A handler, unlike a signal that is ignored, is not
/// inherited by the programs that this one starts.
pub(super) fn let_large_files_fail() -> Result<()> {
    let noticed = Arc::new(AtomicBool::new(false));
    let registered = flag::register(SIGXFSZ, noticed);
    registered.map(drop).map_err(failed)
}

/// The signals that end a program. SIGHUP stays ignored under `nohup`.
fn ending() -> impl Iterator<Item = i32> {
    let hangup = (!ignores_hangup()).then_some(SIGHUP);
    [SIGINT, SIGTERM, SIGQUIT].into_iter().chain(hangup)
}

/// Has each of these signals set `flag` from its handler, before anything else of the process goes
/// on.
pub(super) fn set_on_each(flag: &Arc<AtomicBool>) -> Result<()> {
    for signal in ending() {
        flag::register(signal, Arc::clone(flag)).map_err(failed)?;
    }
    Ok(())
}

/// Calls `act` for each signal, in a thread of its own.
pub(super) fn on_each(mut signals: Signals, mut act: impl FnMut() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(|_| act()))
        .map(drop)
        .map_err(failed)
}

/// Calls `end` for each signal; one that comes a while after the first ends the program at once, with
/// what `at_once` returns.
pub(super) fn end_on_each(
    signals: Signals,
    end: impl Fn() + Send + 'static,
    at_once: impl Fn() -> Result<()> + Send + 'static,
) -> Result<()> {
    let mut first = None;
    on_each(signals, move || {
        // Some tools send the same signal twice in a row: to the process and to its group.
        if first.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            let code = match at_once() {
                Ok(()) => 0,
                Err(error) => {
                    report(&format!("error: {}", error.one_line()));
                    exit_code(error.kind())
                }
            };
            std::process::exit(i32::from(code));
        }
        end();
    })
}

fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (SIGHUP - 1)) != 0)
}

fn failed(error: std::io::Error) -> Error {
    Error::new(Kind::Failed, error).in_stage("start")
}
