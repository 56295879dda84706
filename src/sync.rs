//! Locks that are taken whether or not they are poisoned.
//!
//! Every panic in a migration's thread is caught and becomes that migration's error
//! ([`Error::catch`](crate::Error::catch)), so what a poisoned lock protects is either whole or about to be thrown away.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, poisoned or not.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    ignore_poison(mutex.lock())
}

/// What any other call on a lock returns, poisoned or not.
pub(crate) fn ignore_poison<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}
