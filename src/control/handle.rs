//! A migration that runs in threads of its own, and what its owner can do with it.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::caps::Caps;
use crate::error::{Error, Kind, Result};
use crate::params::{self, ParamError, Params};
use crate::session::Context;
use crate::stats::{Report, Snapshot, Status};
use crate::transport::Address;
use crate::{destination, source};

/// A migration under way. Dropping the handle cancels it and waits for its end.
///
/// ```no_run
/// use ramferry::{Handle, Params, source};
///
/// let mut params = Params::default();
/// params.set("compress-method", "zstd")?;
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
    thread: Option<JoinHandle<Result<()>>>,
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
        if let Some(conflict) = request.caps.conflicts() {
            return Err(Error::new(Kind::Usage, conflict));
        }
        let caps = request.caps;
        Handle::start(params, Some(caps), "source", move |context| {
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
        Handle::start(params, None, "destination", move |context| {
            destination::run(&request, context, &listening, &dropped)
        })
    }

    fn start(
        params: Params,
        caps: Option<Caps>,
        name: &str,
        work: impl FnOnce(&Context) -> Result<()> + Send + 'static,
    ) -> Result<Handle> {
        params
            .validate()
            .map_err(|error| Error::new(Kind::Usage, error))?;
        let failed = |error| Error::new(Kind::Failed, error).in_stage("start");
        let context = Arc::new(Context::new(params).map_err(failed)?);
        context.stats.start();
        let own = Arc::clone(&context);
        let (working, done) = bounded::<()>(0);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _working = working;
                let outcome = work(&own);
                own.stats.end(match &outcome {
                    Ok(()) => Status::Completed,
                    Err(error) if error.kind() == Kind::Interrupted => Status::Cancelled,
                    Err(_) => Status::Failed,
                });
                outcome
            })
            .map_err(failed)?;
        Ok(Handle {
            context,
            caps,
            thread: Some(thread),
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
    /// A parameter that is unknown or cannot change while a migration runs, and a value that is
    /// not allowed.
    pub fn change(&self, values: &[(&str, &str)]) -> Result<()> {
        for (name, _) in values {
            if let Some(parameter) = params::TABLE.iter().find(|row| row.name == *name)
                && !parameter.runtime
            {
                return Err(Error::new(
                    Kind::Usage,
                    format!("{name} cannot change while a migration runs"),
                ));
            }
        }
        let changed = |params: &mut Params| -> Result<(), ParamError> {
            params.set_all(values)?;
            params.validate()
        };
        self.context
            .tuning
            .update(changed)
            .map_err(|error| Error::new(Kind::Usage, error))
    }

    /// Ends the migration as soon as possible. Before Commit the source stays in charge.
    pub fn cancel(&self) {
        self.context.abort.raise();
    }

    /// What cancels the migration from a place that cannot hold the handle.
    pub fn canceller(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let abort = Arc::clone(&self.context.abort);
        move || abort.raise()
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
    /// What ended the migration before its time.
    pub fn join(&mut self) -> Result<()> {
        match self.thread.take() {
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
    pub fn wait(mut self) -> Result<Report> {
        self.join()?;
        Ok(self.report())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.cancel();
            let _ = self.join();
        }
    }
}
