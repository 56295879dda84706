//! Control of migrations: start, watch, change, cancel.
//!
//! [`Migration`] is one migration. A [`Controller`] holds the settings of the next one and at most one
//! that is under way; a monitor drives it through [`Control`], and knows nothing else. Its clients are
//! [`qmp`](crate::qmp)'s, and [`job_info`] is what their users want to see.

mod builder;
mod controller;
pub mod job_info;
mod live;
mod migration;
pub mod monitor;
#[cfg(test)]
mod tests;

use crate::caps::Caps;
use crate::error::Result;
use crate::params::{Params, TypedParam};
use crate::stats::{Event, Report, Status};
use crate::transport::Address;

pub use builder::{ReceiveBuilder, ReceiveOutput, SendBuilder, SendImage};
pub use controller::Controller;
#[cfg(feature = "cli")]
pub(crate) use live::LiveOptions;
pub use migration::Migration;
pub use monitor::Monitor;

/// What a monitor may do.
///
/// Nothing here waits for a migration's network or disk: each call returns at once.
pub trait Control: Send + Sync {
    /// The parameters in force, or those of the next migration.
    fn params(&self) -> Params;

    /// Changes parameters, all or none: those in force if a migration runs, and those of the next.
    /// `compression` switches capabilities as well, and that only while no migration runs.
    ///
    /// # Errors
    /// Of [`Kind::Usage`](crate::Kind::Usage): a [`ParamError`](crate::params::ParamError), which is
    /// the error's cause.
    fn set_params(&self, values: &[TypedParam]) -> Result<()>;

    /// The capabilities in force, or those of the next migration.
    fn caps(&self) -> Caps;

    /// Switches capabilities, all or none.
    ///
    /// # Errors
    /// Of [`Kind::Usage`](crate::Kind::Usage): names that are unknown, states that conflict; and a
    /// migration that is under way.
    fn set_caps(&self, values: &[(String, bool)]) -> Result<()>;

    /// Starts sending with the settings held here; those of `send` are replaced.
    ///
    /// # Errors
    /// [`ControlError::InProgress`], and [`SendBuilder::start`]'s.
    fn migrate(&self, send: SendBuilder) -> Result<()>;

    /// Starts receiving with the settings held here; those of `receive` are replaced.
    ///
    /// # Errors
    /// [`ControlError::InProgress`], and [`ReceiveBuilder::start`]'s.
    fn receive(&self, receive: ReceiveBuilder) -> Result<()>;

    /// Ends the migration as soon as possible; harmless if none runs.
    fn cancel(&self);

    /// Resumes from a state that waits for this: [`Status::PreSwitchover`].
    ///
    /// # Errors
    /// [`ControlError::NotInState`].
    fn proceed(&self, from: Status) -> Result<()>;

    /// The migration that runs, or the last one; `None` if none ever ran.
    fn report(&self) -> Option<Report>;

    /// The address at which the current or most recent destination listens, with the port that was
    /// picked if none was given. `None` before it listens.
    fn listening(&self) -> Option<Address>;

    /// What the guest does.
    fn run_state(&self) -> RunState;

    /// Ends the program, after a migration that runs is cancelled.
    fn quit(&self);

    /// Calls `observer` at every event from now on, in the thread in which it happens. It must not
    /// wait, nor call this control.
    fn observe(&self, observer: Box<dyn Fn(Event) + Send + Sync>);
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// One at a time. The words are QEMU's.
    #[error("There's a migration process in progress")]
    InProgress,
    /// It does not wait, or waits for something else. The words are QEMU's.
    #[error("Migration not in expected state: {}", .0.name())]
    NotInState(Status),
}

/// What the guest does; the names are QEMU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunState {
    /// An image at rest.
    Paused,
    /// Its writer runs.
    Running,
    /// Its writer is stopped for the last round.
    FinishMigrate,
    /// Migrated; the guest now belongs to the destination.
    PostMigrate,
    /// It is being received.
    InMigrate,
}

names!(RunState {
    Paused: "paused",
    Running: "running",
    FinishMigrate: "finish-migrate",
    PostMigrate: "postmigrate",
    InMigrate: "inmigrate"
});
