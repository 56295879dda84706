//! What a migration's threads and its owner share.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use crate::caps::Caps;
use crate::codec::Method;
use crate::error::{Error, Kind, Result};
use crate::params::{ParamError, Params};
use crate::round::Round;
use crate::settings::Settings;
use crate::stats::Stats;
use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::{self, RwLock};
use crate::transport::{Abort, EmulatedLink, Stream, TransportError};

use super::Phase;

/// What a migration's threads and its owner share.
#[derive(Debug)]
pub(crate) struct Context {
    /// Raised, it ends every wait.
    pub(crate) abort: Arc<Abort>,
    /// The parameters, which may change meanwhile.
    pub(crate) tuning: Tuning,
    /// The capabilities that may be used; what is used is then negotiated.
    pub(crate) caps: Caps,
    /// The counters, and the status that they show.
    pub(crate) stats: Arc<Stats>,
    phase: Mutex<Phase>,
    cancelled_by: OnceLock<CancelledBy>,
    /// The emulated link that all connections share, if there is one.
    pub(crate) link: Option<Arc<EmulatedLink>>,
    /// What both ends support, once that is negotiated.
    pub(crate) agreed: OnceLock<BTreeSet<String>>,
    /// Where it waits for `migrate-continue`.
    pub(crate) gate: Gate,
    /// Faults that tests inject.
    pub(crate) faults: crate::fault::Faults,
}

impl Context {
    /// A migration that has not begun.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub(crate) fn new(settings: impl Into<Settings>) -> io::Result<Context> {
        let Settings { params, caps } = settings.into();
        Ok(Context {
            abort: Arc::new(Abort::new()?),
            link: params.link.map(|spec| Arc::new(EmulatedLink::new(spec))),
            phase: Mutex::default(),
            caps,
            cancelled_by: OnceLock::new(),
            tuning: Tuning(RwLock::new(Arc::new(params))),
            stats: Arc::default(),
            agreed: OnceLock::new(),
            gate: Gate::default(),
            faults: crate::fault::Faults::default(),
        })
    }
}

impl Context {
    /// Enters the next phase.
    pub(crate) fn enter(&self, next: Phase) -> Result<()> {
        let mut phase = sync::lock(&self.phase);
        *phase = phase
            .to(next)
            .map_err(|error| Error::new(Kind::Failed, error))?;
        self.stats.owner(next.owner());
        self.stats.status(next.status());
        Ok(())
    }

    /// Begins a round; the first also begins [`Phase::Rounds`]. `wire_bytes` are on the links so
    /// far.
    pub(crate) fn begin_round(&self, round: Round, wire_bytes: u64) -> Result<()> {
        self.stats.begin_round(round, wire_bytes);
        if round.is_first() {
            self.enter(Phase::Rounds)?;
        }
        Ok(())
    }

    /// Ends the migration. Only the first outcome counts.
    pub(crate) fn end(&self, outcome: &Result<()>) {
        let mut phase = sync::lock(&self.phase);
        if phase.is_over() {
            return;
        }
        let last = phase.ended_by(outcome);
        debug_assert!(phase.to(last).is_ok(), "{phase} to {last}");
        *phase = last;
        self.stats.owner(last.owner());
        self.stats.end(last.status());
    }

    /// Ends the migration as soon as possible, unless it is over.
    pub(crate) fn cancel(&self, by: CancelledBy) {
        let _ = self.cancelled_by.set(by);
        self.stats.cancelling();
        self.abort.raise();
        // A migration that waits at the gate looks at the abort next.
        self.gate.open();
    }

    /// Says in `error` who cancelled the migration, if that is what ended it.
    pub(crate) fn name_canceller(&self, error: Error) -> Error {
        match self.cancelled_by.get() {
            Some(CancelledBy::Monitor) if error.kind() == Kind::Interrupted => {
                Error::new(Kind::Interrupted, "cancelled by a client of the monitor")
            }
            _ => error,
        }
    }

    /// Refuses a method that the destination is known to lack.
    ///
    /// # Errors
    /// [`ParamError::BadValue`], which lists those that it has.
    pub(crate) fn check_method(&self, method: Method) -> Result<(), ParamError> {
        let has = |method: Method| {
            let agreed = self.agreed.get();
            method == Method::None || agreed.is_none_or(|agreed| agreed.contains(method.name()))
        };
        if has(method) {
            return Ok(());
        }
        let names = Method::ALL.into_iter().filter(|&one| has(one));
        let names: Vec<&str> = names.map(Method::name).collect();
        Err(ParamError::BadValue {
            name: "compress-method",
            value: method.name().to_owned(),
            allowed: format!("what the destination supports: {}", names.join(", ")),
        })
    }

    /// Makes a connection share the emulated link, if there is one.
    pub(crate) fn emulate_link(&self, stream: &mut Stream) -> Result<(), TransportError> {
        match &self.link {
            Some(link) => stream.emulate(link),
            None => Ok(()),
        }
    }

    /// Ends every wait if `outcome` is an error.
    pub(crate) fn abort_on_error<T>(&self, outcome: &Result<T>) {
        if outcome.is_err() {
            self.abort.raise();
        }
    }
}

/// Who cancelled a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CancelledBy {
    /// The caller, such as the program at a signal.
    Caller,
    /// A client of the monitor, with `migrate_cancel`.
    Monitor,
}

/// Where a migration waits until it is let through.
#[derive(Debug)]
pub(crate) struct Gate {
    open: Sender<()>,
    opened: Receiver<()>,
}

impl Default for Gate {
    fn default() -> Gate {
        let (open, opened) = bounded(1);
        Gate { open, opened }
    }
}

impl Gate {
    /// Lets the migration through, now or when it gets here.
    pub(crate) fn open(&self) {
        // A full channel means that it is open already.
        let _ = self.open.try_send(());
    }

    /// Receives a message once it is open.
    pub(crate) fn opened(&self) -> &Receiver<()> {
        &self.opened
    }
}

/// The parameters in force. Workers read them for each batch.
#[derive(Debug)]
pub(crate) struct Tuning(RwLock<Arc<Params>>);

impl Tuning {
    /// The parameters as they are now. They are only ever replaced as a whole, so a poisoned lock
    /// does no harm.
    pub(crate) fn get(&self) -> Arc<Params> {
        Arc::clone(&*sync::ignore_poison(self.0.read()))
    }

    /// Changes a copy of the parameters and puts it in force, unless `change` fails.
    ///
    /// # Errors
    /// Those of `change`; the parameters are then unchanged.
    pub(crate) fn update<E>(
        &self,
        change: impl FnOnce(&mut Params) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut current = sync::ignore_poison(self.0.write());
        let mut params = (**current).clone();
        change(&mut params)?;
        *current = Arc::new(params);
        Ok(())
    }
}
