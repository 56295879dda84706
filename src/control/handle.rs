//! A migration that runs in threads of its own, and what its owner can do with it.

use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::caps::{Capability, Caps};
use crate::error::{Error, Kind, Result};
use crate::params::{self, ParamError, Params, TypedParam};
use crate::session::Context;
use crate::stats::{Observer, Report, Snapshot, Status};
use crate::sync;
use crate::transport::Address;
use crate::{destination, source};

use super::ControlError;

/// A migration under way. Dropping the handle cancels it and waits for its end.
///
/// ```no_run
/// use ramferry::{Handle, Params, source};
///
/// let mut params = Params::default();
/// params.set_text("compress-method", "zstd")?;
/// let request = source::Request::new("guest.ram", "tcp:10.0.0.2:4444".parse()?);
/// let migration = Handle::send(request, params)?;
/// migration.change(&[("max-bandwidth", "200MiB"), ("compress-threads", "4")])?;
/// println!("{} pages so far", migration.query().total.pages());
/// let report = migration.wait()?;
/// println!("{} ms", report.total_time);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Handle {
    context: Arc<Context>,
    /// What a source may use; `None` at a destination.
    caps: Option<Caps>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
    /// Disconnected when the thread has done its work.
    done: Receiver<()>,
}

impl Handle {
    /// Starts sending.
    ///
    /// # Errors
    /// Parameters that contradict each other, and a system without threads or descriptors left.
    /// Everything else is [`Handle::wait`]'s to report.
    pub fn send(request: source::Request, params: Params) -> Result<Handle> {
        Handle::send_observed(request, params, None)
    }

    /// Starts sending, and has `observer` told of every event.
    ///
    /// # Errors
    /// As [`Handle::send`].
    pub fn send_observed(
        request: source::Request,
        params: Params,
        observer: Option<Observer>,
    ) -> Result<Handle> {
        if let Some(conflict) = request.caps.conflicts() {
            return Err(Error::new(Kind::Usage, conflict));
        }
        let caps = request.caps;
        let named = (Some(caps), "source");
        Handle::start(params, named, observer, move |context| {
            source::run(&request, context)
        })
    }

    /// Starts receiving. `listening` and `dropped` are as in [`destination::run`].
    ///
    /// # Errors
    /// As [`Handle::send`].
    pub fn receive(
        request: destination::Request,
        params: Params,
        listening: impl Fn(&Address) + Send + 'static,
        dropped: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Handle> {
        Handle::receive_observed(request, params, listening, dropped, None)
    }

    /// Starts receiving, and has `observer` told of every event.
    ///
    /// # Errors
    /// As [`Handle::send`].
    pub fn receive_observed(
        request: destination::Request,
        params: Params,
        listening: impl Fn(&Address) + Send + 'static,
        dropped: impl Fn(&str) + Send + Sync + 'static,
        observer: Option<Observer>,
    ) -> Result<Handle> {
        if let Some(conflict) = request.caps.conflicts() {
            return Err(Error::new(Kind::Usage, conflict));
        }
        let named = (None, "destination");
        Handle::start(params, named, observer, move |context| {
            destination::run(&request, context, &listening, &dropped)
        })
    }

    fn start(
        params: Params,
        (caps, name): (Option<Caps>, &str),
        observer: Option<Observer>,
        work: impl FnOnce(&Context) -> Result<()> + Send + 'static,
    ) -> Result<Handle> {
        params
            .validate()
            .map_err(|error| Error::new(Kind::Usage, error))?;
        let failed = |error| Error::new(Kind::Failed, error).in_stage("start");
        let context = Arc::new(Context::new(params).map_err(failed)?);
        if let Some(observer) = observer {
            context.stats.observe(observer);
        }
        context.stats.start();
        let own = Arc::clone(&context);
        let (working, done) = bounded::<()>(0);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _working = working;
                let outcome = work(&own);
                if let Err(error) = &outcome {
                    own.stats.error(error.one_line());
                }
                own.end(&outcome);
                outcome
            })
            .map_err(failed)?;
        Ok(Handle {
            context,
            caps,
            thread: Mutex::new(Some(thread)),
            done,
        })
    }

    /// The counters as they are now.
    pub fn query(&self) -> Snapshot {
        self.context.stats.snapshot()
    }

    /// The parameters in force.
    pub fn params(&self) -> Params {
        (*self.context.tuning.get()).clone()
    }

    /// Changes parameters, all or none; batches from the next on obey.
    ///
    /// # Errors
    /// A parameter that is unknown or cannot change while a migration runs, a value that is not
    /// allowed, and a method that the destination lacks.
    pub fn change(&self, values: &[(&str, &str)]) -> Result<()> {
        self.update(values.iter().map(|(name, _)| *name), |params| {
            params.set_all(values)
        })
    }

    /// As [`Handle::change`], from a typed list.
    ///
    /// # Errors
    /// As [`Handle::change`], and those of a typed list.
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
        let compresses = self.caps.is_some_and(|caps| caps.has(Capability::Compress));
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
        self.context.cancel();
    }

    /// What cancels the migration from a place that cannot hold the handle.
    pub fn canceller(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let context = Arc::clone(&self.context);
        move || context.cancel()
    }

    /// Lets a migration with the capability `pause-before-switchover` go on from where it waits.
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

    /// Whether it is over, or becomes so within `limit`.
    pub fn ends_within(&self, limit: Duration) -> bool {
        // Nothing is ever sent.
        self.done.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }

    /// The report as it is now.
    pub fn report(&self) -> Report {
        let (snapshot, params) = (self.query(), self.context.tuning.get());
        match &self.caps {
            Some(caps) => Report::of_source(&snapshot, &params, caps),
            None => Report::of_destination(&snapshot, &params),
        }
    }

    /// Waits for the end, and keeps the handle for a last look at it.
    ///
    /// # Errors
    /// What ended the migration before its time, the first time that it is asked for.
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
    /// What ended the migration before its time.
    pub fn wait(self) -> Result<Report> {
        self.join()?;
        Ok(self.report())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.ends_within(Duration::ZERO) {
            self.cancel();
        }
        let _ = self.join();
    }
}
