//! What happens in a migration, for somebody who does not want to ask again and again.

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
    /// `STOP`: the writer stands still.
    Stop,
    /// `RESUME`: the writer goes on.
    Resume,
}

/// Who is told, from whatever thread it happens in: it must not wait, and not ask the counters.
pub type Observer = Box<dyn Fn(Event) + Send + Sync>;

/// Tells whoever observes, if anybody does.
#[derive(Clone, Default)]
pub(crate) struct Teller(Arc<OnceLock<Observer>>);

impl Teller {
    /// Only the first observer counts.
    pub(super) fn set(&self, observer: Observer) {
        let _ = self.0.set(observer);
    }

    pub(crate) fn tell(&self, event: Event) {
        if let Some(observer) = self.0.get() {
            observer(event);
        }
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let observed = self.0.get().is_some();
        f.debug_tuple("Teller").field(&observed).finish()
    }
}
