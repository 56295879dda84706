//! What both ends' pipelines are built from: threads that report how they ended, queues with and
//! without lanes, workers that come and go, and recycled buffers.

use std::io::{self, ErrorKind};
use std::num::NonZero;

use bytes::{Buf, Bytes, BytesMut};
use rayon::iter::MaxLen;
use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::page::PAGE_SIZE;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::thread::{self, Scope};
use crate::sync::{self, Mutex};
use crate::sys;
use crate::units::format_bytes;

/// Packets that may wait between two stages, besides one for each connection. Enough for a stage
/// to go on while another is off its core: waking an idle core takes longer than a packet.
pub(crate) const QUEUE: usize = 8;

/// The threads of one pipeline. However one of them fails to do its work - an error, a panic, the
/// system's refusal to start it - `failed` is called, once for each.
#[derive(Clone, Copy)]
pub(crate) struct Crew<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    failed: &'scope (dyn Fn(Error) + Sync),
}

impl<'scope, 'env> Crew<'scope, 'env> {
    /// A crew without members. `failed` keeps the error, if it is the first, and wakes whatever
    /// waits for what will now never come.
    pub(crate) fn new(
        scope: &'scope Scope<'scope, 'env>,
        failed: &'scope (dyn Fn(Error) + Sync),
    ) -> Crew<'scope, 'env> {
        Crew { scope, failed }
    }

    /// Starts a thread, which the scope joins.
    pub(crate) fn spawn(
        self,
        name: String,
        stage: &'static str,
        work: impl FnOnce() -> Result<()> + Send + 'scope,
    ) {
        let run = move || {
            self.answer_for(stage, work);
        };
        if let Err(error) = thread::spawn(self.scope, name, run) {
            (self.failed)(Error::new(Kind::Failed, error).in_stage("while starting a thread"));
        }
    }

    /// Does `work` on this thread, as one of the crew. `None` if it failed.
    pub(crate) fn answer_for<T>(
        self,
        stage: &'static str,
        work: impl FnOnce() -> Result<T>,
    ) -> Option<T> {
        Error::catch(stage, work)
            .map_err(|error| (self.failed)(error.in_stage(stage)))
            .ok()
    }
}

/// Makes sure that there is room for the stacks of this many threads and for what each of them will
/// allocate, before the first of them starts. Later on a lack of memory can end the process in the middle
/// of something: Rust's and C's libraries give up when a small allocation fails.
///
/// # Errors
/// When there is not: a limit on the address space (`ulimit -v`) is the usual reason.
pub(crate) fn must_fit(threads: usize, bytes_each: usize) -> Result<()> {
    /// What std gives a thread.
    const STACK: usize = 2 << 20;
    /// Everything else: connections, messages, rayon's threads, allocators' pieces.
    const MORE: usize = 16 << 20;
    let bytes = (threads.saturating_mul(STACK.saturating_add(bytes_each))).saturating_add(MORE);
    sys::can_map(bytes).map_err(|source| {
        let what = format!(
            "out of memory: {threads} threads may need {}, and the system refuses that ({source}); raise the \
             limit on the address space (ulimit -v), or use fewer threads and connections",
            format_bytes(bytes as u64)
        );
        Error::new(Kind::Failed, what)
    })
}

/// Room for `bytes`.
///
/// # Errors
/// [`ErrorKind::OutOfMemory`].
pub(crate) fn allocate(bytes: usize) -> io::Result<Vec<u8>> {
    let mut room = Vec::new();
    room.try_reserve_exact(bytes).map_err(|_| {
        let what = format!(
            "out of memory: cannot allocate {}",
            format_bytes(bytes as u64)
        );
        io::Error::new(ErrorKind::OutOfMemory, what)
    })?;
    Ok(room)
}

/// The first error of a pipeline's threads. Those after it are its consequences (a channel that was
/// closed, a wait that was ended), and are dropped.
#[derive(Debug)]
pub(crate) struct FirstError {
    report: Sender<Error>,
    reported: Receiver<Error>,
}

impl Default for FirstError {
    fn default() -> FirstError {
        // Room for one: what does not fit is not the first.
        let (report, reported) = bounded(1);
        FirstError { report, reported }
    }
}

impl FirstError {
    /// Keeps `error` if it is the first.
    pub(crate) fn report(&self, error: Error) {
        let _ = self.report.try_send(error);
    }

    /// For a producer that waits for this and something else at once. Never closed.
    pub(crate) fn reported(&self) -> &Receiver<Error> {
        &self.reported
    }

    /// The error, if there was one.
    pub(crate) fn take(&self) -> Option<Error> {
        self.reported.try_recv().ok()
    }
}

/// Bounded queues between a stage that hands work on and the workers of the next. Clones are ends of
/// the same queues; the workers end when the last clone is gone and the queues are empty.
///
/// ```text
///   shared:  hand(0, work) ──> queue ──┬──> worker      any free worker takes what comes next:
///                                      ├──> worker      for independent work; the number of
///                                      └──> worker      workers may follow a parameter
///
///   lanes:   hand(0, work) ──> queue 0 ───> worker 0    a lane's work is done in its order, by one
///            hand(1, work) ──> queue 1 ───> worker 1    worker: for pages that may come twice, and
///                                                       for compressors' streams with a history
/// ```
#[derive(Debug)]
pub(crate) struct Queues<T> {
    queues: Vec<(Sender<T>, Receiver<T>)>,
    lanes: bool,
}

impl<T> Clone for Queues<T> {
    fn clone(&self) -> Queues<T> {
        Queues {
            queues: self.queues.clone(),
            lanes: self.lanes,
        }
    }
}

impl<T> Queues<T> {
    /// One queue for all workers.
    pub(crate) fn shared(depth: usize) -> Queues<T> {
        Queues {
            queues: vec![bounded(depth)],
            lanes: false,
        }
    }

    /// A queue for each of `lanes` workers, at least one.
    pub(crate) fn lanes(lanes: usize, depth: usize) -> Queues<T> {
        Queues {
            queues: (0..lanes.max(1)).map(|_| bounded(depth)).collect(),
            lanes: true,
        }
    }

    pub(crate) fn are_lanes(&self) -> bool {
        self.lanes
    }

    /// How many queues there are.
    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    /// Where the workers of a lane, or all workers, take their work from.
    pub(crate) fn queue(&self, lane: usize) -> &Receiver<T> {
        &self.queues[lane].1
    }

    /// Hands work to a lane, and waits for room in its queue.
    ///
    /// As this holds the queue's other end as well, it never finds it closed: a worker that has
    /// failed must go on taking work and drop it, or this waits forever.
    pub(crate) fn hand(&self, lane: usize, work: T) {
        let _ = self.queues[lane].0.send(work);
    }
}

/// Buffers that travel down the pipeline and come back, so that nothing is allocated per batch.
///
/// At most `spare` wait here; what is in flight is bounded by the channels. The one that came back
/// last goes first: it is the likeliest to be in a core's cache.
#[derive(Debug)]
pub(crate) struct Buffers {
    bytes: usize,
    spare: usize,
    free: Mutex<Vec<BytesMut>>,
}

impl Buffers {
    pub(crate) fn new(bytes: usize, spare: usize) -> Buffers {
        Buffers {
            bytes,
            spare,
            free: Mutex::new(Vec::with_capacity(spare)),
        }
    }

    /// A buffer of at least `bytes` bytes, whatever they hold.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    pub(crate) fn take(&self) -> io::Result<BytesMut> {
        self.take_for(self.bytes)
    }

    /// A buffer of at least `len` bytes, whatever they hold.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    pub(crate) fn take_for(&self, len: usize) -> io::Result<BytesMut> {
        match sync::lock(&self.free).pop() {
            Some(buffer) if buffer.len() >= len => Ok(buffer),
            _ => page_aligned(len.max(self.bytes)),
        }
    }

    /// How many wait here.
    #[cfg(all(test, shuttle))]
    pub(crate) fn waiting(&self) -> usize {
        sync::lock(&self.free).len()
    }

    /// Gives a buffer back; one too many is freed.
    pub(crate) fn give(&self, buffer: BytesMut) {
        let mut free = sync::lock(&self.free);
        if !buffer.is_empty() && free.len() < self.spare {
            free.push(buffer);
        }
    }
}

/// Zeros that begin on a page boundary.
///
/// The kernel copies files and sockets with `rep movsb`. On processors with FSRM (AMD Zen 3 and 4)
/// that is up to three times as slow if the destination begins a few bytes after the source modulo
/// 4096, which is just where malloc puts a large block: 16 bytes into a page. Measured, `read` of
/// 533 MB took 0.17 instead of 0.48 CPU seconds.
///
/// # Errors
/// [`ErrorKind::OutOfMemory`].
pub(crate) fn page_aligned(len: usize) -> io::Result<BytesMut> {
    let mut bytes = allocate(len + PAGE_SIZE)?;
    bytes.resize(len + PAGE_SIZE, 0);
    // The same memory.
    let mut buffer = BytesMut::from(Bytes::from(bytes));
    buffer.advance(buffer.as_ptr().align_offset(PAGE_SIZE));
    buffer.truncate(len);
    Ok(buffer)
}

/// How many workers a stage has, and how many it should have. Both change between batches.
///
/// Relaxed is enough: the count decides who starts and who ends, and orders nothing else. What the
/// workers work on reaches them through channels, which order it.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    alive: AtomicUsize,
}

impl Workers {
    /// Calls `spawn` for each worker that is missing.
    pub(crate) fn grow_to(&self, wanted: usize, mut spawn: impl FnMut()) {
        let mut alive = self.alive.load(Ordering::Relaxed);
        while alive < wanted {
            match self.alive.compare_exchange(
                alive,
                alive + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    spawn();
                    alive += 1;
                }
                Err(now) => alive = now,
            }
        }
    }

    /// Whether the worker that asks is one too many; if so it must end.
    pub(crate) fn leave_if_above(&self, wanted: usize) -> bool {
        self.alive
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |alive| {
                (alive > wanted).then(|| alive - 1)
            })
            .is_ok()
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }
}

/// The steps of a whole-image pass for rayon's threads, one at a time. Left to itself, rayon cuts
/// them into a few large pieces, and one thread ends long after the others.
pub(crate) fn evenly<T: Sync>(steps: &[T]) -> MaxLen<rayon::slice::Iter<'_, T>> {
    steps.par_iter().with_max_len(1)
}

/// A pool for whole-image passes, with no more threads than there are cores.
pub(crate) fn analysis_pool(threads: u8) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    rayon::ThreadPoolBuilder::new()
        .num_threads(usize::from(threads).min(cores))
        .thread_name(|index| format!("analysis-{index}"))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_keeps_its_order_and_ends_when_all_its_ends_are_gone() {
        let queues = Queues::lanes(3, 2);
        assert!(queues.are_lanes());
        let taken: Vec<Vec<usize>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..queues.len())
                .map(|lane| {
                    let queue = queues.queue(lane).clone();
                    scope.spawn(move || queue.iter().collect())
                })
                .collect();
            for work in 0..30 {
                queues.hand(work % 3, work);
            }
            drop(queues);
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .collect()
        });
        for (lane, taken) in taken.into_iter().enumerate() {
            assert_eq!(taken, (lane..30).step_by(3).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_of_a_crew_is_kept_and_a_panic_is_one() {
        let first = FirstError::default();
        let failed = |error| first.report(error);
        thread::scope(|scope| {
            let crew = Crew::new(scope, &failed);
            let did = crew.answer_for("encode", || -> Result<()> { panic!("on purpose") });
            assert!(did.is_none());
            crew.spawn("send".to_owned(), "send", || Err(Error::interrupted()));
        });
        let line = first.take().unwrap().one_line();
        assert_eq!(line, "a worker panicked: on purpose (encode)");
        assert!(first.take().is_none());
    }

    #[test]
    fn workers_follow_the_wanted_number_up_and_down() {
        let workers = Workers::default();
        let mut spawned = 0;
        workers.grow_to(4, || spawned += 1);
        workers.grow_to(4, || spawned += 1);
        assert_eq!((spawned, workers.alive()), (4, 4));
        assert!(!workers.leave_if_above(4));
        assert!(workers.leave_if_above(2));
        assert!(workers.leave_if_above(2));
        assert!(!workers.leave_if_above(2));
        workers.grow_to(3, || spawned += 1);
        assert_eq!((spawned, workers.alive()), (5, 3));
    }

    #[test]
    fn buffers_come_back_and_no_more_are_kept_than_wanted() {
        let buffers = Buffers::new(10, 1);
        let (a, b) = (buffers.take().unwrap(), buffers.take().unwrap());
        let address = a.as_ptr();
        buffers.give(a);
        buffers.give(b);
        assert_eq!(buffers.take().unwrap().as_ptr(), address);
        assert_eq!(buffers.take().unwrap().len(), 10);
    }

    #[test]
    fn what_does_not_fit_is_an_error_of_one_line() {
        let error = Buffers::new(1, 1).take_for(usize::MAX / 4).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        must_fit(8, 1 << 20).unwrap();
        let line = must_fit(1000, 1 << 50).unwrap_err().one_line();
        assert!(
            line.contains("out of memory: 1000 threads may need"),
            "{line}"
        );
    }

    #[test]
    fn buffers_begin_on_a_page_boundary_and_hold_what_is_asked_for() {
        let buffers = Buffers::new(10, 4);
        buffers.give(buffers.take().unwrap());
        for len in [1, 10, 4096, 5000, 1 << 20] {
            let buffer = buffers.take_for(len).unwrap();
            assert!(buffer.len() >= len);
            assert!(buffer.as_ptr().addr().is_multiple_of(PAGE_SIZE), "{len}");
            buffers.give(buffer);
        }
    }
}
