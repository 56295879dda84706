//! The parts that the pipelines are built from, by themselves: fewer threads, so that more of their schedules
//! are seen.

use std::sync::Mutex as StdMutex;

use super::check;
use crate::error::{Error, Kind, Result};
use crate::pool::{Buffers, Crew, FirstError, Queues, Workers};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::channel::{choose, select};
use crate::sync::thread;

fn failure(words: &str) -> Error {
    Error::new(Kind::Failed, words.to_owned())
}

#[test]
fn workers_that_come_and_go_lose_and_double_nothing() {
    check(|| {
        let queues = Queues::shared(choose(3) + 1);
        let (workers, wanted) = (Workers::default(), AtomicUsize::new(1 + choose(3)));
        let done = StdMutex::new(Vec::new());
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..4 {
                    wanted.store(1 + choose(3), Ordering::Relaxed);
                }
            });
            for work in 0..8 {
                workers.grow_to(wanted.load(Ordering::Relaxed), || {
                    let queue = queues.queue(0).clone();
                    let (workers, wanted, done) = (&workers, &wanted, &done);
                    scope.spawn(move || {
                        for work in &queue {
                            done.lock().unwrap().push(work);
                            if workers.leave_if_above(wanted.load(Ordering::Relaxed)) {
                                break;
                            }
                        }
                    });
                });
                queues.hand(0, work);
            }
            drop(queues);
        });
        let mut done = done.into_inner().unwrap();
        done.sort_unstable();
        assert_eq!(done, (0..8).collect::<Vec<_>>());
        assert!(workers.alive() >= 1);
    });
}

#[test]
fn of_many_errors_one_is_kept_and_a_producer_that_waits_gets_it() {
    check(|| {
        let first = FirstError::default();
        let order = StdMutex::new(Vec::new());
        let failed = |error: Error| {
            // A step of its own: the order in which they are reported is the schedule's.
            order.lock().unwrap().push(error.one_line());
            first.report(error);
        };
        let (_never, nothing) = crate::sync::channel::bounded::<()>(1);
        let got = thread::scope(|scope| {
            let crew = Crew::new(scope, &failed);
            for name in ["a", "b", "c"] {
                crew.spawn(name.to_owned(), "test", move || Err(failure(name)));
            }
            select! {
                recv(&nothing) -> _ => unreachable!(),
                recv(first.reported()) -> error => error.unwrap().one_line(),
            }
        });
        assert!(order.into_inner().unwrap().contains(&got));
        let _ = first.take();
        assert!(first.take().is_none());
    });
}

#[test]
fn a_queue_without_room_hands_over_only_to_a_worker_that_waits() {
    check(|| {
        let (jobs, queue) = crate::sync::channel::bounded(0);
        let busy = AtomicUsize::new(0);
        let (taken, spared) = thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let queue = queue;
                queue
                    .iter()
                    .inspect(|_| {
                        busy.fetch_add(1, Ordering::Relaxed);
                        busy.fetch_sub(1, Ordering::Relaxed);
                    })
                    .count()
            });
            let spared = (0..6).filter(|&job| jobs.try_send(job).is_err()).count();
            drop(jobs);
            (worker.join().unwrap(), spared)
        });
        assert_eq!(taken + spared, 6);
    });
}

#[test]
fn a_buffer_is_one_threads_at_a_time_and_comes_back() {
    check(|| {
        let buffers = Buffers::new(1, 3);
        let held = StdMutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| -> Result<()> {
                    for _ in 0..3 {
                        let buffer = buffers.take().unwrap();
                        let address = buffer.as_ptr().addr();
                        {
                            let mut held = held.lock().unwrap();
                            assert!(!held.contains(&address), "two threads have it");
                            held.push(address);
                        }
                        thread::yield_now();
                        held.lock().unwrap().retain(|&one| one != address);
                        buffers.give(buffer);
                    }
                    Ok(())
                });
            }
        });
        assert!((1..=3).contains(&buffers.waiting()));
    });
}
