//! The settings of the next migration, and at most one that is under way.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::caps::{Capability, Caps};
use crate::error::{Error, Kind, Result};
use crate::params::{Params, TypedParam, typed};
use crate::stats::{Event, Observer, Report, Status};
use crate::sync;
use crate::transport::Address;
use crate::wire::Format;
use crate::{destination, source};

use super::{Control, ControlError, Handle, RunState};

/// What a monitor drives in earnest.
#[derive(Debug, Default)]
pub struct Controller {
    inner: Mutex<Inner>,
    hub: Arc<Hub>,
    /// Whether somebody told the program to end.
    quitting: Mutex<bool>,
    told_to_quit: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    params: Params,
    caps: Caps,
    /// What was switched by somebody, whatever its default.
    chosen: Vec<Capability>,
    migration: Option<Migration>,
    /// Those before it whose threads have not ended yet, and are not waited for.
    ending: Vec<Migration>,
}

/// The migration that runs, or the last one.
#[derive(Debug, Clone)]
struct Migration {
    handle: Arc<Handle>,
    side: Side,
    /// Where a destination listens, once it does.
    listening: Arc<Mutex<Option<Address>>>,
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Source { live: bool },
    Destination,
}

/// Who hears of events, and what they told.
#[derive(Default)]
struct Hub {
    observers: Mutex<Vec<Observer>>,
    /// Whether the writer stands still.
    stopped: Mutex<bool>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    fn tell(&self, event: Event) {
        match event {
            Event::Stop => *sync::lock(&self.stopped) = true,
            Event::Resume | Event::Migration(Status::Setup) => *sync::lock(&self.stopped) = false,
            Event::Migration(_) | Event::Pass(_) => {}
        }
        for observer in &*sync::lock(&self.observers) {
            observer(event);
        }
    }
}

impl Migration {
    /// Whoever hears that it is over may start the next one at once, while it is still unmapping its
    /// image.
    fn is_running(&self) -> bool {
        self.handle.query().status.is_running() && !self.has_ended()
    }

    fn has_ended(&self) -> bool {
        self.handle.ends_within(Duration::ZERO)
    }
}

impl Inner {
    /// Somebody chose how these are, whatever their default.
    fn choose(&mut self, capabilities: impl IntoIterator<Item = Capability>) {
        for capability in capabilities {
            if !self.chosen.contains(&capability) {
                self.chosen.push(capability);
            }
        }
    }

    /// Refuses what cannot be done while a migration runs.
    fn check_idle(&self) -> Result<()> {
        if self.migration.as_ref().is_some_and(Migration::is_running) {
            return Err(Error::new(Kind::Usage, ControlError::InProgress));
        }
        Ok(())
    }

    /// There is a new migration.
    fn start(&mut self, handle: Handle, side: Side, listening: Arc<Mutex<Option<Address>>>) {
        let migration = Migration {
            handle: Arc::new(handle),
            side,
            listening,
        };
        let last = self.migration.replace(migration);
        self.ending.extend(last);
        self.ending.retain(|migration| !migration.has_ended());
    }
}

impl Controller {
    /// No migration yet; the next one has these settings.
    pub fn new(params: Params, caps: Caps) -> Controller {
        let inner = Inner {
            params,
            caps,
            ..Inner::default()
        };
        Controller {
            inner: Mutex::new(inner),
            ..Controller::default()
        }
    }

    /// The migration that runs, or the last one.
    pub fn handle(&self) -> Option<Arc<Handle>> {
        let inner = sync::lock(&self.inner);
        let migration = inner.migration.as_ref()?;
        Some(Arc::clone(&migration.handle))
    }

    /// As [`Control::receive`], with somebody who hears what [`destination::run`] tells.
    ///
    /// # Errors
    /// As [`Control::receive`].
    pub fn receive_with(
        &self,
        request: destination::Request,
        listening: impl Fn(&Address) + Send + 'static,
        dropped: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<()> {
        let mut inner = sync::lock(&self.inner);
        inner.check_idle()?;
        let request = destination::Request {
            caps: inner.caps,
            ..request
        };
        let params = inner.params.clone();
        let observer = Some(self.observer());
        let at = Arc::<Mutex<_>>::default();
        let note = Arc::clone(&at);
        let listening = move |address: &Address| {
            *sync::lock(&note) = Some(address.clone());
            listening(address);
        };
        let handle = Handle::receive_observed(request, params, listening, dropped, observer)?;
        inner.start(handle, Side::Destination, at);
        Ok(())
    }

    /// Waits until somebody says [`Control::quit`].
    pub fn wait_for_quit(&self) {
        let mut quitting = sync::lock(&self.quitting);
        while !*quitting {
            quitting = sync::ignore_poison(self.told_to_quit.wait(quitting));
        }
    }

    fn observer(&self) -> Observer {
        let hub = Arc::clone(&self.hub);
        Box::new(move |event| hub.tell(event))
    }
}

impl Control for Controller {
    fn params(&self) -> Params {
        let inner = sync::lock(&self.inner);
        // In force may be another method than was asked for, if the destination lacks that.
        match inner.migration.as_ref().filter(|last| last.is_running()) {
            Some(migration) => migration.handle.params(),
            None => inner.params.clone(),
        }
    }

    fn set_params(&self, values: &[TypedParam]) -> Result<()> {
        let mut inner = sync::lock(&self.inner);
        let (mut params, mut caps) = (inner.params.clone(), inner.caps);
        typed::apply(values, &mut params, &mut caps)
            .map_err(|error| Error::new(Kind::Usage, error))?;
        if let Some(migration) = inner.migration.as_ref().filter(|last| last.is_running()) {
            // It also refuses what would switch a capability: that is for the next one.
            migration.handle.set(values)?;
        }
        (inner.params, inner.caps) = (params, caps);
        if typed::switches_caps(values) {
            inner.choose([Capability::Compress, Capability::Xbzrle]);
        }
        Ok(())
    }

    fn caps(&self) -> Caps {
        sync::lock(&self.inner).caps
    }

    fn set_caps(&self, values: &[(String, bool)]) -> Result<()> {
        let usage = |error| Error::new(Kind::Usage, error);
        let mut inner = sync::lock(&self.inner);
        inner.check_idle()?;
        let mut caps = inner.caps;
        for (name, on) in values {
            caps.set(name, *on)
                .map_err(|error| Error::new(Kind::Usage, error))?;
        }
        if let Some(conflict) = caps.conflicts() {
            return Err(usage(conflict));
        }
        inner.caps = caps;
        inner.choose(values.iter().flat_map(|(name, _)| name.parse()));
        Ok(())
    }

    fn migrate(&self, request: source::Request) -> Result<()> {
        let mut inner = sync::lock(&self.inner);
        inner.check_idle()?;
        let mut caps = inner.caps;
        if request.format == Format::Qemu {
            // What nobody chose is as suits who reads the stream.
            let suits = Caps::for_qemu();
            for capability in Capability::ALL {
                if !inner.chosen.contains(&capability) {
                    caps.switch(capability, suits.has(capability));
                }
            }
        }
        let live = request.live.is_some();
        let request = source::Request { caps, ..request };
        let observer = Some(self.observer());
        let handle = Handle::send_observed(request, inner.params.clone(), observer)?;
        inner.start(handle, Side::Source { live }, Arc::default());
        Ok(())
    }

    fn receive(&self, request: destination::Request) -> Result<()> {
        self.receive_with(request, |_| {}, |_| {})
    }

    fn cancel(&self) {
        if let Some(migration) = sync::lock(&self.inner).migration.as_ref()
            && migration.is_running()
        {
            migration.handle.cancel();
        }
    }

    fn proceed(&self, from: Status) -> Result<()> {
        let inner = sync::lock(&self.inner);
        let migration = inner.migration.as_ref();
        let status = migration.map_or(Status::None, |last| last.handle.query().status);
        match migration {
            Some(migration) if status == from => migration.handle.proceed(),
            _ => Err(Error::new(Kind::Usage, ControlError::NotInState(status))),
        }
    }

    fn report(&self) -> Option<Report> {
        self.handle().map(|handle| handle.report())
    }

    fn listening(&self) -> Option<Address> {
        let inner = sync::lock(&self.inner);
        let listening = &inner.migration.as_ref()?.listening;
        sync::lock(listening).clone()
    }

    fn run_state(&self) -> RunState {
        let Some(migration) = sync::lock(&self.inner).migration.clone() else {
            return RunState::Paused;
        };
        let status = migration.handle.query().status;
        match migration.side {
            Side::Destination if status.is_running() => RunState::InMigrate,
            Side::Destination => RunState::Paused,
            Side::Source { .. } if status == Status::Completed => RunState::PostMigrate,
            Side::Source { live: true } if *sync::lock(&self.hub.stopped) => {
                RunState::FinishMigrate
            }
            Side::Source { live: true } => RunState::Running,
            Side::Source { live: false } => RunState::Paused,
        }
    }

    fn quit(&self) {
        self.cancel();
        *sync::lock(&self.quitting) = true;
        self.told_to_quit.notify_all();
    }

    fn observe(&self, observer: Box<dyn Fn(Event) + Send + Sync>) {
        sync::lock(&self.hub.observers).push(observer);
    }
}

#[cfg(test)]
mod tests;
