//! A writer of our own: stores into a mapped image at a steady rate, and keeps records that prove
//! afterwards what the image, or a copy that was made of it meanwhile, must hold.
//!
//! Threads own disjoint pages, and the N-th write of a thread is a pure function of the [`Plan`],
//! the thread and N. So the records need only what the working set held before, a hash of every
//! other page, and for each thread two numbers: the last write that was begun and the last that was done.
//! [`verify`] replays the writes over what was there before. A writer can be stopped at any
//! instruction; of the write that each thread was in the middle of, every byte may be there or not.
//!
//! The proof is of one moment: the records and the image belong together as they are while the
//! writer is stopped, has ended, or was killed. Records outlive the process in all of these; they
//! are not made to outlive a crash of the host.

mod ending;
mod plan;
mod records;
#[cfg(test)]
mod tests;
mod verify;

pub use ending::Ending;
pub use plan::{MOST_THREADS, Pattern, Plan};
pub use verify::{Verified, verify};

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use rustix::event::PollFlags;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::image::{Block, ImageError, ImageFormat, WriteLane};
use crate::page::PAGE_SIZE;
use crate::special;
use crate::transport::Abort;
use ending::StopWatch;
use records::Records;

/// The shortest wait between bunches of writes. A shorter one would cost more than it smooths.
const SLICE: Duration = Duration::from_millis(1);
/// How much a thread catches up after it could not write. A guest that was stopped does not hurry
/// afterwards either.
const BACKLOG: Duration = Duration::from_millis(100);
/// Writes between two looks at the clock.
const BUNCH: u64 = 256;
/// The highest rate, in writes per second. 0 means no limit.
pub const MOST_RATE: u64 = 1_000_000_000;

/// What can be wrong with a churn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChurnError {
    /// The working set does not fit.
    #[error("invalid working set of {given} pages: the image allows 1 to {pages}")]
    WorkingSet {
        /// The working set as given, in pages.
        given: u64,
        /// The pages of the image.
        pages: u64,
    },
    /// The working set is not a multiple of the page size.
    #[error("invalid working set of {given} bytes: it must be a multiple of {PAGE_SIZE}")]
    NotWholePages {
        /// The working set as given, in bytes.
        given: u64,
    },
    /// A write has too many or no bytes.
    #[error("invalid --bytes-per-write {given}: {pattern} allows 1 to {most}")]
    BytesPerWrite {
        /// The number as given.
        given: u32,
        /// The pattern, which decides what is allowed.
        pattern: Pattern,
        /// The most that it allows.
        most: u32,
    },
    /// Too many threads or none.
    #[error("invalid number of threads {given}: the working set allows 1 to {most}")]
    Threads {
        /// The number as given.
        given: u32,
        /// The most that is allowed.
        most: u64,
    },
    /// The rate is too high.
    #[error("invalid rate {given}: use 1 to {MOST_RATE} pages per second, or 0 for no limit")]
    Rate {
        /// The rate as given.
        given: u64,
    },
    /// The image is not known to be a churn's own.
    #[error(
        "'{}' would be overwritten, and nothing brings it back: use a copy, or add --in-place", path.display()
    )]
    NotOurs {
        /// The image.
        path: PathBuf,
    },
    /// Another churn is writing the image.
    #[error("'{}' is in use by another churn", path.display())]
    Busy {
        /// The image or its records.
        path: PathBuf,
    },
    /// Another file is where the records belong.
    #[error("'{}' exists and is not a churn's records: choose another file with --records", path.display())]
    InTheWay {
        /// Where the records belong.
        path: PathBuf,
    },
    /// There can be no file where the records belong.
    #[error("cannot create '{}': {why}; choose another file with --records", path.display())]
    NoPlace {
        /// Where the records belong.
        path: PathBuf,
        /// The system's reason.
        why: io::Error,
    },
    /// The file is not a churn's records.
    #[error("'{}' does not hold records of a churn: {why}", path.display())]
    NoRecords {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The writer was running while the image was compared.
    #[error("the writer that keeps '{}' is running: stop it first", path.display())]
    StillWriting {
        /// The records.
        path: PathBuf,
    },
    /// The image differs from what the writer left.
    #[error("'{}' differs from what the writer left: {pages} pages differ, the first is page {first}", path.display())]
    Differs {
        /// The image.
        path: PathBuf,
        /// How many pages differ.
        pages: u64,
        /// The first of them.
        first: u64,
    },
}

impl From<ChurnError> for Error {
    fn from(error: ChurnError) -> Error {
        let kind = match error {
            ChurnError::WorkingSet { .. }
            | ChurnError::NotWholePages { .. }
            | ChurnError::BytesPerWrite { .. }
            | ChurnError::Threads { .. }
            | ChurnError::Rate { .. }
            | ChurnError::NotOurs { .. } => Kind::Usage,
            ChurnError::Differs { .. } => Kind::Differs,
            _ => Kind::Failed,
        };
        Error::new(kind, error)
    }
}

/// What to write, where, how fast and for how long.
#[derive(Debug, Clone)]
pub struct Request {
    /// The image: a raw one.
    pub image: PathBuf,
    /// Where to keep the records; see [`records_of`].
    pub records: PathBuf,
    /// Whether to overwrite an image that no earlier churn keeps records of.
    pub in_place: bool,
    /// Which pages are written how often.
    pub pattern: Pattern,
    /// How many bytes of the image are written, from its beginning; a multiple of the page size.
    /// `None`: all.
    pub working_set: Option<u64>,
    /// How many bytes each write has; see [`Pattern::most_bytes_per_write`].
    pub bytes_per_write: u32,
    /// How many threads write, 1 to [`MOST_THREADS`] and no more than there are pages.
    pub threads: u32,
    /// The random seed: the same seed repeats the same writes.
    pub seed: u64,
    /// Writes per second of all threads together, each within one page; at most [`MOST_RATE`]. 0:
    /// as fast as possible.
    pub rate: u64,
    /// When to end, counted from the first write. `None`: when [`Ending`] is raised.
    pub duration: Option<Duration>,
}

/// The default place of an image's records: `IMAGE.churn`.
pub fn records_of(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".churn");
    PathBuf::from(name)
}

/// What a churn has done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// The pattern's name.
    pub pattern: &'static str,
    /// The pages of the working set.
    pub working_set: u64,
    /// Bytes in each write.
    pub bytes_per_write: u32,
    /// The number of threads.
    pub threads: u32,
    /// What decided on places and bytes.
    pub seed: u64,
    /// The requested writes per second; 0: as many as possible.
    pub asked_rate: u64,
    /// Writes that were done.
    pub writes: u64,
    /// Different pages that were written.
    pub pages: u64,
    /// The wall time, including any time during which the process was stopped.
    pub seconds: f64,
    /// The writes per second that were achieved.
    pub rate: f64,
}

/// Writes until the time is up or `end` is raised. `first` is called when the first write is done.
///
/// # Errors
/// Invalid values, files that cannot be used, [`ChurnError::NotOurs`], a [`ChurnError::Busy`]
/// image, and an image that shrinks or cannot grow.
pub fn run(request: &Request, end: &Ending, first: impl FnOnce()) -> Result<Summary> {
    let image = Block::open(&request.image, ImageFormat::Raw)?;
    let plan = plan(request, image.pages())?;
    if !request.in_place && !records::are_kept_in(&request.records) {
        let path = request.image.clone();
        return Err(ChurnError::NotOurs { path }.into());
    }
    let open = |what| {
        move |source| ImageError::Io {
            what,
            path: request.image.clone(),
            source,
        }
    };
    let is_device = std::fs::metadata(&request.image).is_ok_and(|found| special::is_device(&found));
    let file = match is_device {
        true => special::open_device(&request.image),
        false => File::options().read(true).write(true).open(&request.image),
    };
    let file = file.map_err(open("open for writing"))?;
    // Root can open a read-only file for writing.
    let examined = file.metadata().map_err(open("examine"))?;
    if examined.permissions().readonly() {
        return Err(open("write")(io::ErrorKind::PermissionDenied.into()).into());
    }
    // Neither of two churns could prove its writes.
    records::lock(&file, &request.image)?;
    let records = Records::create(&request.records, &plan, &image)?;
    drop(image);
    let lanes = WriteLane::share_out(&file, &request.image, plan.working_set, plan.threads)?;

    let began = Instant::now();
    let outcome = write_all(request, &plan, lanes, &records, end, first)?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Summary {
        pattern: plan.pattern.name(),
        working_set: plan.working_set,
        bytes_per_write: plan.bytes_per_write,
        threads: plan.threads,
        seed: plan.seed,
        asked_rate: request.rate,
        writes: outcome.writes,
        pages: outcome.pages,
        seconds,
        rate: outcome.writes as f64 / seconds.max(1e-9),
    })
}

fn plan(request: &Request, pages: u64) -> Result<Plan> {
    let working_set = match request.working_set {
        None => pages,
        Some(bytes) if bytes.is_multiple_of(PAGE_SIZE as u64) => bytes / PAGE_SIZE as u64,
        Some(given) => return Err(ChurnError::NotWholePages { given }.into()),
    };
    let plan = Plan {
        pattern: request.pattern,
        working_set,
        bytes_per_write: request.bytes_per_write,
        threads: request.threads,
        seed: request.seed,
    };
    plan.check(pages)?;
    if request.rate > MOST_RATE {
        return Err(ChurnError::Rate {
            given: request.rate,
        }
        .into());
    }
    Ok(plan)
}

/// What threads have done.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    writes: u64,
    pages: u64,
}

/// Runs all threads to their end.
fn write_all(
    request: &Request,
    plan: &Plan,
    lanes: Vec<WriteLane>,
    records: &Records,
    end: &Ending,
    first: impl FnOnce(),
) -> Result<Done> {
    let failed = |error| Error::new(Kind::Failed, error).in_stage("while starting a thread");
    // Ends the other threads when one has failed.
    let give_up = Abort::new().map_err(failed)?;
    let (wrote, written) = bounded(1);
    let (mut sum, mut failure) = (Done::default(), None);
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for (number, lane) in (0..).zip(lanes) {
            let wrote = wrote.clone();
            let give_up = &give_up;
            let worker = move || {
                let worker = Worker::new(plan, number, lane, records);
                let outcome = Error::catch("while writing", || {
                    worker.run(request, (end, give_up), &wrote)
                });
                if outcome.is_err() {
                    give_up.raise();
                }
                outcome
            };
            let name = format!("churn-{number}");
            match thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, worker)
            {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    give_up.raise();
                    failure = Some(failed(error));
                    break;
                }
            }
        }
        drop(wrote);
        if written.recv().is_ok() {
            first();
        }
        for worker in workers {
            let outcome = worker
                .join()
                .unwrap_or_else(|panic| Err(Error::panicked("while writing", panic.as_ref())));
            match outcome {
                Ok(done) => {
                    sum.writes += done.writes;
                    sum.pages += done.pages;
                }
                Err(error) => failure = failure.take().or(Some(error)),
            }
        }
    });
    failure.map_or(Ok(sum), Err)
}

/// One thread's part.
struct Worker<'a> {
    plan: &'a Plan,
    thread: u32,
    lane: WriteLane,
    records: &'a Records,
    bytes: Vec<u8>,
    done: Done,
    /// A bit for each page of the lane, set once it was written.
    written: Vec<u64>,
}

impl<'a> Worker<'a> {
    fn new(plan: &'a Plan, thread: u32, lane: WriteLane, records: &'a Records) -> Worker<'a> {
        Worker {
            plan,
            thread,
            lane,
            records,
            bytes: vec![0; plan.bytes_per_write as usize],
            done: Done::default(),
            written: vec![0; plan.own_pages(thread).div_ceil(64) as usize],
        }
    }

    fn run(
        mut self,
        request: &Request,
        (end, give_up): (&Ending, &Abort),
        wrote: &Sender<()>,
    ) -> Result<Done> {
        let began = Instant::now();
        let deadline = request.duration.and_then(|time| began.checked_add(time));
        let mut watch = StopWatch::new();
        let mut pace = Pace::new(request.rate as f64 / f64::from(request.threads), began);
        loop {
            let now = Instant::now();
            let is_over = deadline.is_some_and(|deadline| now >= deadline);
            if is_over || end.is_raised() || give_up.is_raised() {
                return Ok(self.done);
            }
            let due = pace.take(now);
            for _ in 0..due {
                if !self.write(|| watch.stopped_to_end(end))? || end.is_raised() {
                    return Ok(self.done);
                }
            }
            if due > 0 && self.done.writes == due {
                // A full channel means that another thread was first.
                let _ = wrote.try_send(());
            }
            let wait = pace.wait(now);
            if !wait.is_zero() {
                let left = deadline.map_or(wait, |deadline| deadline.duration_since(now));
                end.wake()
                    .wait_for(give_up.as_fd(), PollFlags::IN, Some(wait.min(left)))
                    .map_err(|error| Error::new(Kind::Failed, error).in_stage("while writing"))?;
            }
        }
    }

    /// The next write. If the process was stopped around it, and is to end, it is not noted as done
    /// and is the last: a copy that was made meanwhile may lack its bytes.
    fn write(&mut self, stopped_to_end: impl FnOnce() -> bool) -> Result<bool, ImageError> {
        let number = self.done.writes + 1;
        let spot = self.plan.write(self.thread, number, &mut self.bytes);
        self.records.begin(self.thread, number)?;
        self.lane.store(spot.slot, spot.offset, &self.bytes)?;
        if stopped_to_end() {
            return Ok(false);
        }
        self.records.done(self.thread, number)?;
        self.done.writes = number;
        let (word, bit) = ((spot.slot / 64) as usize, 1 << (spot.slot % 64));
        if self.written[word] & bit == 0 {
            self.written[word] |= bit;
            self.done.pages += 1;
        }
        Ok(true)
    }
}

/// When writes are due.
#[derive(Debug)]
struct Pace {
    /// Seconds between two writes; 0 if they are always due.
    interval: f64,
    /// When the next one is due.
    next: Instant,
}

impl Pace {
    /// `rate` in writes per second; 0: no limit.
    fn new(rate: f64, now: Instant) -> Pace {
        Pace {
            interval: if rate > 0.0 { rate.recip() } else { 0.0 },
            next: now,
        }
    }

    /// How many writes are due now, at most [`BUNCH`].
    fn take(&mut self, now: Instant) -> u64 {
        if self.interval == 0.0 {
            return BUNCH;
        }
        if let Some(oldest) = now.checked_sub(BACKLOG) {
            self.next = self.next.max(oldest);
        }
        let Some(late) = now.checked_duration_since(self.next) else {
            return 0;
        };
        let count = ((late.as_secs_f64() / self.interval) as u64).saturating_add(1);
        let count = count.min(BUNCH);
        self.next += Duration::from_secs_f64(count as f64 * self.interval);
        count
    }

    /// How long to wait until more are due. Zero if they are due already.
    fn wait(&self, now: Instant) -> Duration {
        match self.next.checked_duration_since(now) {
            Some(wait) if self.interval > 0.0 && !wait.is_zero() => wait.max(SLICE),
            _ => Duration::ZERO,
        }
    }
}
