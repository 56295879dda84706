//! A running migration, and what its owner can do with it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::caps::Capability;
use crate::error::{Error, Kind, Result};
use crate::params::{self, ParamError, Params, Side, TypedParam};
use crate::session::{CancelledBy, Context};
use crate::settings::Settings;
use crate::stats::{Observer, Report, Snapshot, Status};
use crate::sync;
use crate::transport::Address;

use super::ControlError;
use super::builder::{ReceiveOutput, SendImage};

/// A migration under way. Dropping it cancels it and waits for its end.
///
/// A send:
/// ```no_run
/// use ramferry::{Migration, Settings};
///
/// let mut settings = Settings::default();
/// settings.params.set_text("compress-method", "zstd")?;
/// let migration = Migration::send("guest.ram")
///     .to("tcp:10.0.0.2:4444".parse()?)
///     .settings(settings)
///     .start()?;
/// migration.change(&[("max-bandwidth", "200MiB"), ("compress-threads", "4")])?;
/// let report = migration.wait()?;
/// println!("{} bytes sent", report.wire_bytes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A receive that shows its progress:
/// ```no_run
/// use std::time::Duration;
///
/// use ramferry::Migration;
///
/// let migration = Migration::receive("out.ram")
///     .from("tcp:0.0.0.0:4444".parse()?)
///     .on_listening(|address| println!("listening on {address}"))
///     .on_dropped(|line| eprintln!("{line}"))
///     .start()?;
/// while !migration.ends_within(Duration::from_millis(200)) {
///     let now = migration.query();
///     println!("round {}: {} pages", now.round, now.current.pages());
/// }
/// migration.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Migration {
    context: Arc<Context>,
    side: Side,
    /// Where a destination listens, once it does.
    listening: Arc<Mutex<Option<Address>>>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
    /// Disconnected when the thread has done its work.
    done: Receiver<()>,
}

impl Migration {
    /// Sends a raw image of a guest's RAM, or a guest folder.
    pub fn send(image: impl Into<PathBuf>) -> SendImage {
        SendImage(image.into())
    }

    /// Receives a guest's RAM into a raw image or, if that is what arrives, a guest folder.
    pub fn receive(output: impl Into<PathBuf>) -> ReceiveOutput {
        ReceiveOutput(output.into())
    }

    pub(super) fn start(
        settings: Settings,
        side: Side,
        observers: Vec<Observer>,
        work: impl FnOnce(&Context, &Mutex<Option<Address>>) -> Result<()> + Send + 'static,
    ) -> Result<Migration> {
        if let Some(conflict) = settings.caps.conflicts() {
            return Err(Error::new(Kind::Usage, conflict));
        }
        (settings.params.validate()).map_err(|error| Error::new(Kind::Usage, error))?;
        let failed = |error| Error::new(Kind::Failed, error).in_stage("start");
        let context = Arc::new(Context::new(settings).map_err(failed)?);
        if !observers.is_empty() {
            context.stats.observe(Box::new(move |event| {
                observers.iter().for_each(|observer| observer(event));
            }));
        }
        context.stats.start();
        let listening = Arc::<Mutex<_>>::default();
        let (own, own_listening) = (Arc::clone(&context), Arc::clone(&listening));
        let (working, done) = bounded::<()>(0);
        let thread = thread::Builder::new()
            .name(side.name().to_owned())
            .spawn(move || {
                let _working = working;
                let outcome = work(&own, &own_listening).map_err(|error| own.name_canceller(error));
                if let Err(error) = &outcome {
                    own.stats.error(error.one_line());
                }
                own.end(&outcome);
                outcome
            })
            .map_err(failed)?;
        Ok(Migration {
            context,
            side,
            listening,
            thread: Mutex::new(Some(thread)),
            done,
        })
    }

    /// Where a destination listens, once it does: with the port that was picked if none was given.
    pub fn listening(&self) -> Option<Address> {
        sync::lock(&self.listening).clone()
    }

    /// The counters as they are now.
    pub fn query(&self) -> Snapshot {
        self.context.stats.snapshot()
    }

    /// The parameters in force.
    pub fn params(&self) -> Params {
        (*self.context.tuning.get()).clone()
    }

    /// Changes parameters, all or none; they apply from the next batch on.
    ///
    /// # Errors
    /// A parameter that is unknown or cannot be changed during a migration, a value that is not
    /// allowed, and a method that the destination lacks.
    pub fn change(&self, values: &[(&str, &str)]) -> Result<()> {
        self.update(values.iter().map(|(name, _)| *name), |params| {
            params.set_all(values)
        })
    }

    /// As [`Migration::change`], from a typed list.
    ///
    /// # Errors
    /// As [`Migration::change`], and those of a typed list.
    pub fn set(&self, list: &[TypedParam]) -> Result<()> {
        self.update(list.iter().map(|param| param.name.as_str()), |params| {
            params.set(list)
        })
    }

    fn update<'a>(
        &self,
        mut names: impl Iterator<Item = &'a str>,
        change: impl FnOnce(&mut Params) -> Result<(), ParamError>,
    ) -> Result<()> {
        let fixed = |name| {
            let mut rows = params::TABLE.iter();
            rows.find(|row| row.name == name && !row.runtime)
        };
        let usage = |error| Error::new(Kind::Usage, error);
        if let Some(row) = names.find_map(fixed) {
            return Err(usage(ParamError::Fixed { name: row.name }));
        }
        let compresses = self.side == Side::Source && self.context.caps.has(Capability::Compress);
        self.context
            .tuning
            .update(|params| {
                let before = params.compress_method;
                change(params)?;
                if compresses && params.compress_method != before {
                    self.context.check_method(params.compress_method)?;
                }
                Ok(())
            })
            .map_err(usage)
    }

    /// Ends the migration as soon as possible. Before Commit the source stays in charge.
    pub fn cancel(&self) {
        self.context.cancel(CancelledBy::Caller);
    }

    /// As [`Migration::cancel`], and the error says that a client of the monitor did it.
    pub(super) fn cancel_by_monitor(&self) {
        self.context.cancel(CancelledBy::Monitor);
    }

    /// A function that cancels the migration, for code that cannot hold it.
    pub fn canceller(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let context = Arc::clone(&self.context);
        move || context.cancel(CancelledBy::Caller)
    }

    /// Resumes a migration that waits because of the capability `pause-before-switchover`.
    ///
    /// # Errors
    /// [`ControlError::NotInState`] when it does not wait there.
    pub fn proceed(&self) -> Result<()> {
        let status = self.query().status;
        if status == Status::PreSwitchover {
            self.context.gate.open();
            return Ok(());
        }
        Err(Error::new(Kind::Usage, ControlError::NotInState(status)))
    }

    /// Waits for up to `limit`, and returns whether it is over.
    pub fn ends_within(&self, limit: Duration) -> bool {
        // Nothing is ever sent.
        self.done.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }

    /// The report as it is now.
    pub fn report(&self) -> Report {
        let (snapshot, params) = (self.query(), self.context.tuning.get());
        match self.side {
            Side::Source => Report::of_source(&snapshot, &params, &self.context.caps),
            _ => Report::of_destination(&snapshot, &params),
        }
    }

    /// Waits for the end; the migration can still be queried.
    ///
    /// # Errors
    /// Why the migration failed, at the first call only.
    pub fn join(&self) -> Result<()> {
        let mut thread = sync::lock(&self.thread);
        match thread.take() {
            None => Ok(()),
            Some(thread) => thread
                .join()
                .unwrap_or_else(|panic| Err(Error::panicked("migrate", panic.as_ref()))),
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Why the migration failed.
    pub fn wait(self) -> Result<Report> {
        self.join()?;
        Ok(self.report())
    }
}

impl Drop for Migration {
    fn drop(&mut self) {
        if !self.ends_within(Duration::ZERO) {
            self.cancel();
        }
        let _ = self.join();
    }
}
