//! What the pipelines' threads share and wait on: std's primitives and crossbeam's channels, from one
//! place.
//!
//! The unit tests built with `--cfg shuttle` get those of the model checker
//! [shuttle](https://docs.rs/shuttle) here instead, which runs the real pipelines under schedules of its
//! choice; `src/model.rs` says what is checked. So whatever waits in a pipeline comes from this module. A
//! lock that is only held for a moment, with nothing that waits inside, may be std's: no schedule can tell.
//!
//! Locks are taken whether or not they are poisoned. Every panic in a migration's thread is caught and
//! becomes that migration's error ([`Error::catch`](crate::Error::catch)), so what a poisoned lock protects
//! is either whole or about to be thrown away.

use std::sync::{LockResult, PoisonError};

#[cfg(all(test, shuttle))]
pub(crate) mod channel;
#[cfg(all(test, shuttle))]
mod shuttled;

#[cfg(not(all(test, shuttle)))]
pub(crate) use self::real::{
    Condvar, Mutex, RwLock, RwLockReadGuard, atomic, channel, lock, thread,
};
#[cfg(all(test, shuttle))]
pub(crate) use self::shuttled::{Condvar, Mutex, RwLock, RwLockReadGuard, atomic, lock, thread};

/// What any other call on a lock returns, poisoned or not.
pub(crate) fn ignore_poison<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

#[cfg(not(all(test, shuttle)))]
mod real {
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, atomic};

    pub(crate) use crossbeam_channel as channel;

    /// Locks `mutex`, poisoned or not.
    pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        super::ignore_poison(mutex.lock())
    }

    /// Threads that a scope joins.
    pub(crate) mod thread {
        pub(crate) use std::thread::{Scope, scope};

        /// Starts a thread of the scope.
        pub(crate) fn spawn<'scope>(
            scope: &'scope Scope<'scope, '_>,
            name: String,
            work: impl FnOnce() + Send + 'scope,
        ) -> std::io::Result<()> {
            let builder = std::thread::Builder::new().name(name);
            builder.spawn_scoped(scope, work).map(drop)
        }
    }
}
