//! The settings of the next migration, and at most one that is under way.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::caps::{Capability, Caps};
use crate::error::{Error, Kind, Result};
use crate::params::{Params, TypedParam, typed};
use crate::settings::Settings;
use crate::stats::{Event, Observer, Report, Status};
use crate::sync;
use crate::transport::Address;
use crate::wire::Format;

use super::{Control, ControlError, Migration, ReceiveBuilder, RunState, SendBuilder};

/// The [`Control`] of a program.
#[derive(Debug, Default)]
pub struct Controller {
    inner: Mutex<Inner>,
    hub: Arc<Hub>,
    /// Whether the program was asked to end.
    quitting: Mutex<bool>,
    told_to_quit: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    settings: Settings,
    /// What was switched on or off explicitly.
    chosen: Vec<Capability>,
    started: Option<Started>,
    /// Earlier ones whose threads have not ended yet; they are not waited for.
    ending: Vec<Started>,
}

/// The migration that runs, or the last one.
#[derive(Debug, Clone)]
struct Started {
    migration: Arc<Migration>,
    role: Role,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Source { live: bool },
    Destination,
}

/// The observers of events, and what follows from the events so far.
#[derive(Default)]
struct Hub {
    observers: Mutex<Vec<Observer>>,
    /// Whether the writer is stopped.
    stopped: Mutex<bool>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    fn notify(&self, event: Event) {
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

impl Started {
    /// A client that sees that it is over may start the next one at once, while this one still unmaps
    /// its image.
    fn is_running(&self) -> bool {
        self.migration.query().status.is_running() && !self.has_ended()
    }

    fn has_ended(&self) -> bool {
        self.migration.ends_within(Duration::ZERO)
    }
}

impl Inner {
    /// These were switched explicitly.
    fn choose(&mut self, capabilities: impl IntoIterator<Item = Capability>) {
        for capability in capabilities {
            if !self.chosen.contains(&capability) {
                self.chosen.push(capability);
            }
        }
    }

    /// Refuses what cannot be done while a migration runs.
    fn check_idle(&self) -> Result<()> {
        if self.started.as_ref().is_some_and(Started::is_running) {
            return Err(Error::new(Kind::Usage, ControlError::InProgress));
        }
        Ok(())
    }

    /// Replaces the last migration by a new one.
    fn start(&mut self, migration: Migration, role: Role) {
        let migration = Arc::new(migration);
        let last = self.started.replace(Started { migration, role });
        self.ending.extend(last);
        self.ending.retain(|started| !started.has_ended());
    }
}

impl Controller {
    /// No migration yet; the next one has these settings.
    pub fn new(settings: Settings) -> Controller {
        let inner = Inner {
            settings,
            ..Inner::default()
        };
        Controller {
            inner: Mutex::new(inner),
            ..Controller::default()
        }
    }

    /// The migration that runs, or the last one.
    pub fn migration(&self) -> Option<Arc<Migration>> {
        let inner = sync::lock(&self.inner);
        Some(Arc::clone(&inner.started.as_ref()?.migration))
    }

    /// Waits for [`Control::quit`].
    pub fn wait_for_quit(&self) {
        let mut quitting = sync::lock(&self.quitting);
        while !*quitting {
            quitting = sync::ignore_poison(self.told_to_quit.wait(quitting));
        }
    }

    fn observer(&self) -> impl Fn(Event) + Send + Sync + 'static {
        let hub = Arc::clone(&self.hub);
        move |event| hub.notify(event)
    }
}

impl Control for Controller {
    fn params(&self) -> Params {
        let inner = sync::lock(&self.inner);
        // The method in force may differ from the requested one, if the destination lacks that.
        match inner.started.as_ref().filter(|last| last.is_running()) {
            Some(started) => started.migration.params(),
            None => inner.settings.params.clone(),
        }
    }

    fn set_params(&self, values: &[TypedParam]) -> Result<()> {
        let mut inner = sync::lock(&self.inner);
        let mut settings = inner.settings.clone();
        typed::apply(values, &mut settings.params, &mut settings.caps)
            .map_err(|error| Error::new(Kind::Usage, error))?;
        if let Some(started) = inner.started.as_ref().filter(|last| last.is_running()) {
            // This also refuses to switch a capability: that is possible for the next one only.
            started.migration.set(values)?;
        }
        inner.settings = settings;
        if typed::switches_caps(values) {
            inner.choose([Capability::Compress, Capability::Xbzrle]);
        }
        Ok(())
    }

    fn caps(&self) -> Caps {
        sync::lock(&self.inner).settings.caps
    }

    fn set_caps(&self, values: &[(String, bool)]) -> Result<()> {
        let usage = |error| Error::new(Kind::Usage, error);
        let mut inner = sync::lock(&self.inner);
        inner.check_idle()?;
        let mut caps = inner.settings.caps;
        for (name, on) in values {
            caps.set(name, *on)
                .map_err(|error| Error::new(Kind::Usage, error))?;
        }
        if let Some(conflict) = caps.conflicts() {
            return Err(usage(conflict));
        }
        inner.settings.caps = caps;
        inner.choose(values.iter().flat_map(|(name, _)| name.parse()));
        Ok(())
    }

    fn migrate(&self, send: SendBuilder) -> Result<()> {
        let mut inner = sync::lock(&self.inner);
        inner.check_idle()?;
        let mut settings = inner.settings.clone();
        if send.request.format == Format::Qemu {
            // What was not switched explicitly has the defaults of a stream for a QEMU.
            let suits = Caps::for_qemu();
            for capability in Capability::ALL {
                if !inner.chosen.contains(&capability) {
                    settings.caps.switch(capability, suits.has(capability));
                }
            }
        }
        let live = send.request.live.is_some();
        let migration = send.settings(settings).on_event(self.observer()).start()?;
        inner.start(migration, Role::Source { live });
        Ok(())
    }

    fn receive(&self, receive: ReceiveBuilder) -> Result<()> {
        let mut inner = sync::lock(&self.inner);
        inner.check_idle()?;
        let receive = receive.settings(inner.settings.clone());
        let migration = receive.on_event(self.observer()).start()?;
        inner.start(migration, Role::Destination);
        Ok(())
    }

    fn cancel(&self) {
        if let Some(started) = sync::lock(&self.inner).started.as_ref()
            && started.is_running()
        {
            started.migration.cancel_by_monitor();
        }
    }

    fn proceed(&self, from: Status) -> Result<()> {
        let inner = sync::lock(&self.inner);
        let started = inner.started.as_ref();
        let status = started.map_or(Status::None, |last| last.migration.query().status);
        match started {
            Some(started) if status == from => started.migration.proceed(),
            _ => Err(Error::new(Kind::Usage, ControlError::NotInState(status))),
        }
    }

    fn report(&self) -> Option<Report> {
        self.migration().map(|migration| migration.report())
    }

    fn listening(&self) -> Option<Address> {
        self.migration()?.listening()
    }

    fn run_state(&self) -> RunState {
        let Some(Started { migration, role }) = sync::lock(&self.inner).started.clone() else {
            return RunState::Paused;
        };
        let status = migration.query().status;
        match role {
            Role::Destination if status.is_running() => RunState::InMigrate,
            Role::Destination => RunState::Paused,
            Role::Source { .. } if status == Status::Completed => RunState::PostMigrate,
            Role::Source { live: true } if *sync::lock(&self.hub.stopped) => {
                RunState::FinishMigrate
            }
            Role::Source { live: true } => RunState::Running,
            Role::Source { live: false } => RunState::Paused,
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
