//! The primitives of `sync.rs` under the model checker.

use std::sync::MutexGuard as StdGuard;

pub(crate) use shuttle::sync::{Condvar, Mutex, RwLock, RwLockReadGuard, atomic};

/// A mutex of either kind: the rest of the crate has std's.
pub(crate) trait AnyMutex {
    type Guard<'a>
    where
        Self: 'a;

    fn any_lock(&self) -> Self::Guard<'_>;
}

impl<T: ?Sized> AnyMutex for Mutex<T> {
    type Guard<'a>
        = shuttle::sync::MutexGuard<'a, T>
    where
        T: 'a;

    fn any_lock(&self) -> Self::Guard<'_> {
        super::ignore_poison(self.lock())
    }
}

impl<T: ?Sized> AnyMutex for std::sync::Mutex<T> {
    type Guard<'a>
        = StdGuard<'a, T>
    where
        T: 'a;

    fn any_lock(&self) -> Self::Guard<'_> {
        super::ignore_poison(self.lock())
    }
}

impl<M: AnyMutex + ?Sized> AnyMutex for std::sync::Arc<M> {
    type Guard<'a>
        = M::Guard<'a>
    where
        M: 'a;

    fn any_lock(&self) -> Self::Guard<'_> {
        (**self).any_lock()
    }
}

/// Locks `mutex`, poisoned or not.
pub(crate) fn lock<M: AnyMutex + ?Sized>(mutex: &M) -> M::Guard<'_> {
    mutex.any_lock()
}

/// Threads that a scope joins. A test may have the system refuse one.
pub(crate) mod thread {
    use std::io::{Error, Result};
    use std::sync::atomic::{AtomicIsize, Ordering};

    pub(crate) use shuttle::thread::{Scope, yield_now};

    use crate::sync::channel;

    shuttle::lazy_static! {
        /// How many threads are started before one is refused. Negative: none is.
        static ref REFUSED: AtomicIsize = AtomicIsize::new(-1);
    }

    /// A scope, with one thread more, which ends when `work` has returned.
    ///
    /// Shuttle's wakes its owner when the last thread ends, whatever that waits for then. In an outer
    /// scope that would end the inner one while its threads still run.
    pub(crate) fn scope<'env, T>(
        work: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
    ) -> T {
        shuttle::thread::scope(|scope| {
            let (anchor, end) = channel::bounded::<()>(1);
            scope.spawn(move || end.recv().is_ok());
            let done = work(scope);
            drop(anchor);
            done
        })
    }

    /// Has the system refuse a thread after `started` more.
    pub(crate) fn refuse_after(started: isize) {
        REFUSED.store(started, Ordering::Relaxed);
    }

    /// Starts a thread of the scope.
    pub(crate) fn spawn<'scope>(
        scope: &'scope Scope<'scope, '_>,
        _name: String,
        work: impl FnOnce() + Send + 'scope,
    ) -> Result<()> {
        if REFUSED.fetch_sub(1, Ordering::Relaxed) == 0 {
            return Err(Error::other("refused on purpose"));
        }
        scope.spawn(work);
        Ok(())
    }
}
