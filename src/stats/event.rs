//! Events of a migration, for callers that do not want to poll.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::Status;

/// Something that happened. The names on a monitor are QEMU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// `MIGRATION`: it has come so far.
    Migration(Status),
    /// `MIGRATION_PASS`: a round begins, from 1.
    Pass(u32),
    /// `STOP`: the writer is stopped.
    Stop,
    /// `RESUME`: the writer continues.
    Resume,
}

/// Called at an event, in the thread in which it happens: it must not wait, nor query the migration.
pub type Observer = Box<dyn Fn(Event) + Send + Sync>;

/// Calls the observer, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Notifier(Arc<OnceLock<Observer>>);

impl Notifier {
    /// Only the first observer counts.
    pub(super) fn set(&self, observer: Observer) {
        let _ = self.0.set(observer);
    }

    pub(crate) fn notify(&self, event: Event) {
        if let Some(observer) = self.0.get() {
            observer(event);
        }
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let observed = self.0.get().is_some();
        f.debug_tuple("Notifier").field(&observed).finish()
    }
}
