//! crossbeam's channels under the model checker, as far as the pipelines use them.
//!
//! All channels of an execution share one monitor. An operation is one step, as crossbeam's are
//! linearizable; whatever waits looks again after every step of any other. So does a wait for a
//! connection: raising an [`Abort`](crate::transport::Abort) is a step as well.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdGuard};
use std::time::Duration;

pub(crate) use crossbeam_channel::{RecvError, SendError, TryRecvError, TrySendError};
use shuttle::rand::RngCore;
use shuttle::sync::{Condvar, Mutex};

/// Longer timeouts never pass: nothing else in a model lasts that long.
const FOR_EVER: Duration = Duration::from_secs(3600);

struct Monitor {
    step: Mutex<()>,
    changed: Condvar,
}

shuttle::lazy_static! {
    static ref MONITOR: Monitor = Monitor { step: Mutex::new(()), changed: Condvar::new() };
}

/// Waits until `attempt` returns something. It is tried again after each step of another thread.
pub(crate) fn wait_until<R>(mut attempt: impl FnMut() -> Option<R>) -> R {
    let mut turn = MONITOR.step.lock().unwrap();
    loop {
        if let Some(done) = attempt() {
            MONITOR.changed.notify_all();
            return done;
        }
        turn = MONITOR.changed.wait(turn).unwrap();
    }
}

/// One of `n`, as the schedule chooses.
pub(crate) fn choose(n: usize) -> usize {
    shuttle::rand::thread_rng().next_u32() as usize % n
}

/// Something changed that a thread may be waiting for.
pub(crate) fn step() {
    wait_until(|| Some(()));
}

struct State<T> {
    queue: VecDeque<T>,
    /// `None`: no limit.
    capacity: Option<usize>,
    senders: usize,
    receivers: usize,
    /// Receivers that wait; a channel without room hands to these only.
    waiting: usize,
}

impl<T> State<T> {
    fn has_room(&self) -> bool {
        match self.capacity {
            None => true,
            Some(0) => self.queue.len() < self.waiting,
            Some(capacity) => self.queue.len() < capacity,
        }
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.queue.pop_front() {
            Some(message) => Ok(message),
            None if self.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    fn try_send(&mut self, message: T) -> Result<(), TrySendError<T>> {
        if self.receivers == 0 {
            Err(TrySendError::Disconnected(message))
        } else if self.has_room() {
            self.queue.push_back(message);
            Ok(())
        } else {
            Err(TrySendError::Full(message))
        }
    }
}

struct Shared<T>(StdMutex<State<T>>);

impl<T> Shared<T> {
    /// Only within a step, so nothing waits for it.
    fn state(&self) -> StdGuard<'_, State<T>> {
        self.0.lock().unwrap()
    }
}

pub(crate) struct Sender<T>(Arc<Shared<T>>);

pub(crate) struct Receiver<T>(Arc<Shared<T>>);

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}

fn channel<T>(capacity: Option<usize>) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared(StdMutex::new(State {
        queue: VecDeque::new(),
        capacity,
        senders: 1,
        receivers: 1,
        waiting: 0,
    })));
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    channel(Some(capacity))
}

pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    channel(None)
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.state().senders += 1;
        Sender(Arc::clone(&self.0))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        self.0.state().receivers += 1;
        Receiver(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // the model has failed already
        }
        let shared = &self.0;
        wait_until(|| {
            shared.state().senders -= 1;
            Some(())
        });
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let shared = &self.0;
        // As in crossbeam, what nothing can receive any more is dropped.
        let lost = wait_until(|| {
            let mut state = shared.state();
            state.receivers -= 1;
            Some(if state.receivers == 0 {
                std::mem::take(&mut state.queue)
            } else {
                VecDeque::new()
            })
        });
        drop(lost);
    }
}

impl<T> Sender<T> {
    pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let mut message = Some(message);
        wait_until(|| Some(self.0.state().try_send(message.take()?)))
    }

    pub(crate) fn send(&self, message: T) -> Result<(), SendError<T>> {
        let mut slot = Some(message);
        wait_until(|| self.offer(&mut slot))
    }

    /// `None`: there is no room, and the message stays in its slot.
    fn offer(&self, slot: &mut Option<T>) -> Option<Result<(), SendError<T>>> {
        match self.0.state().try_send(slot.take()?) {
            Ok(()) => Some(Ok(())),
            Err(TrySendError::Disconnected(message)) => Some(Err(SendError(message))),
            Err(TrySendError::Full(message)) => {
                *slot = Some(message);
                None
            }
        }
    }

    /// Waits for room, or until `stop`. Whether it was sent.
    pub(crate) fn send_unless(&self, message: T, stop: impl Fn() -> bool) -> bool {
        let mut slot = Some(message);
        wait_until(|| {
            if stop() {
                return Some(false);
            }
            self.offer(&mut slot).map(|sent| sent.is_ok())
        })
    }
}

impl<T> Receiver<T> {
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        wait_until(|| Some(self.0.state().try_recv()))
    }

    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        let mut registered = false;
        wait_until(|| {
            let mut state = self.0.state();
            let received = state.try_recv();
            if matches!(received, Err(TryRecvError::Empty)) {
                if !registered {
                    registered = true;
                    state.waiting += 1;
                    // Not while anything is locked but the monitor: to notify is to switch.
                    drop(state);
                    // A sender may be waiting for just this.
                    MONITOR.changed.notify_all();
                }
                return None;
            }
            state.waiting -= usize::from(registered);
            Some(received.map_err(|_| RecvError))
        })
    }

    /// Waits for a message, or until `stop`. `None`: stopped, or nothing can come any more.
    pub(crate) fn recv_unless(&self, stop: impl Fn() -> bool) -> Option<T> {
        wait_until(|| {
            if stop() {
                return Some(None);
            }
            self.attempt().map(Result::ok)
        })
    }

    fn attempt(&self) -> Option<Result<T, RecvError>> {
        match self.0.state().try_recv() {
            Ok(message) => Some(Ok(message)),
            Err(TryRecvError::Disconnected) => Some(Err(RecvError)),
            Err(TryRecvError::Empty) => None,
        }
    }

    pub(crate) fn iter(&self) -> Iter<'_, T> {
        Iter(self)
    }
}

pub(crate) struct Iter<'a, T>(&'a Receiver<T>);

impl<T> Iterator for Iter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<'a, T> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

/// Which arm of a [`select!`] is ready.
pub(crate) enum Selected<A, B> {
    First(A),
    Second(B),
    Neither,
}

/// Tries two arms, in the order that the schedule chooses.
fn either<A, B>(
    first: &mut dyn FnMut() -> Option<A>,
    second: &mut dyn FnMut() -> Option<B>,
) -> Option<Selected<A, B>> {
    if choose(2) == 0 {
        first()
            .map(Selected::First)
            .or_else(|| second().map(Selected::Second))
    } else {
        second()
            .map(Selected::Second)
            .or_else(|| first().map(Selected::First))
    }
}

pub(crate) fn send_or_recv<A, B>(
    sender: &Sender<A>,
    message: A,
    receiver: &Receiver<B>,
) -> Selected<Result<(), SendError<A>>, Result<B, RecvError>> {
    let mut slot = Some(message);
    wait_until(|| either(&mut || sender.offer(&mut slot), &mut || receiver.attempt()))
}

pub(crate) fn recv_or_recv<A, B>(
    first: &Receiver<A>,
    second: &Receiver<B>,
    timeout: Duration,
) -> Selected<Result<A, RecvError>, Result<B, RecvError>> {
    // A receiver that waits for something else as well cannot have a message handed to it alone.
    assert_ne!(first.0.state().capacity, Some(0), "not modelled");
    assert_ne!(second.0.state().capacity, Some(0), "not modelled");
    let mut times_out = timeout < FOR_EVER && choose(4) == 0;
    wait_until(|| {
        let ready = either(&mut || first.attempt(), &mut || second.attempt());
        ready.or_else(|| std::mem::take(&mut times_out).then_some(Selected::Neither))
    })
}

/// crossbeam's `select!`, in the forms that the pipelines use.
macro_rules! select {
    (send($sender:expr, $message:expr) -> $a:pat => $x:expr,
     recv($receiver:expr) -> $b:pat => $y:expr $(,)?) => {
        match $crate::sync::channel::send_or_recv($sender, $message, $receiver) {
            $crate::sync::channel::Selected::First($a) => $x,
            $crate::sync::channel::Selected::Second($b) => $y,
            $crate::sync::channel::Selected::Neither => unreachable!(),
        }
    };
    (recv($first:expr) -> $a:pat => $x:expr,
     recv($second:expr) -> $b:pat => $y:expr $(,)?) => {
        match $crate::sync::channel::recv_or_recv($first, $second, std::time::Duration::MAX) {
            $crate::sync::channel::Selected::First($a) => $x,
            $crate::sync::channel::Selected::Second($b) => $y,
            $crate::sync::channel::Selected::Neither => unreachable!(),
        }
    };
    (recv($first:expr) -> $a:pat => $x:block $(,)?
     recv($second:expr) -> $b:pat => $y:block $(,)?
     default($timeout:expr) => $z:block $(,)?) => {
        match $crate::sync::channel::recv_or_recv($first, $second, $timeout) {
            $crate::sync::channel::Selected::First($a) => $x,
            $crate::sync::channel::Selected::Second($b) => $y,
            $crate::sync::channel::Selected::Neither => $z,
        }
    };
}
pub(crate) use select;
