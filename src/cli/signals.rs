//! Signals that end what the program does cleanly.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Error, Kind, Result};

use super::exit_code;

/// How long a clean end may take before a second signal ends the program at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// From now on SIGINT, SIGTERM and SIGHUP wait to be handled. Call it before the program announces
/// that it is ready: a signal may come right after that. SIGHUP stays ignored under `nohup`.
pub(super) fn catch() -> Result<Signals> {
    let hangup = (!ignores_hangup()).then_some(SIGHUP);
    Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup)).map_err(failed)
}

/// Has each of these signals set `flag` from its handler, before anything else of the process goes
/// on.
pub(super) fn set_on_each(flag: &Arc<AtomicBool>) -> Result<()> {
    let hangup = (!ignores_hangup()).then_some(SIGHUP);
    for signal in [SIGINT, SIGTERM].into_iter().chain(hangup) {
        signal_hook::flag::register(signal, Arc::clone(flag)).map_err(failed)?;
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

/// Calls `end` for each signal; one that comes a while after the first ends the program at once.
pub(super) fn end_on_each(signals: Signals, end: impl Fn() + Send + 'static) -> Result<()> {
    let mut first = None;
    on_each(signals, move || {
        // Some tools send the same signal twice in a row: to the process and to its group.
        if first.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            std::process::exit(i32::from(exit_code(Kind::Interrupted)));
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
