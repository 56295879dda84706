//! Signals that end what the program does cleanly.

use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Error, Kind, Result};

/// How long a clean end may take before a second signal ends the program at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// From now on SIGINT, SIGTERM and SIGHUP wait to be looked at. To be called before the program says that
/// it is ready: one that comes right after that must not find it unprepared.
pub(super) fn catch() -> Result<Signals> {
    Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| Error::new(Kind::Failed, error).in_stage("start"))
}

/// A signal has `end` called; another one, a while later, ends the program as it is.
pub(super) fn on_each(mut signals: Signals, end: impl Fn() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut first = None;
            for _ in signals.forever() {
                // Some tools send the same signal twice in a row: to the process and to its group.
                let first = *first.get_or_insert_with(Instant::now);
                if first.elapsed() > PATIENCE {
                    std::process::exit(i32::from(Kind::Interrupted.exit_code()));
                }
                end();
            }
        })
        .map(drop)
        .map_err(|error| Error::new(Kind::Failed, error).in_stage("start"))
}
