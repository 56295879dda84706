//! Compares compression settings by real migrations: both ends in one process, over a loopback
//! link, every run proven.
//!
//! A codec alone says little about a migration: zeroes are skipped, threads share cores with the
//! other end, a link takes turns with a compressor, and all of it has to be read, hashed, placed
//! and proven. So a measurement here *is* a migration, by the same code as between two hosts.
//!
//! * [`sweep`]: which settings, and in which order.
//! * [`measurement`]: one run; and a plain copy, so that a number means something.
//! * [`report`]: what is made of the runs, as a table and as JSON.
//! * [`synthetic`]: an image for people who have none.
//! * [`scratch`]: folders that vanish.
//!
//! [`Bench`] puts them together. Its user says what is compared, watches, and prints.

pub mod advice;
pub mod measurement;
pub mod report;
pub mod scratch;
pub mod statistics;
pub mod sweep;
pub mod synthetic;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::caps::{Capability, Caps};
use crate::codec::Method;
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::page::{Digest, PAGE_SIZE};
use crate::params::Params;
use crate::stats::{Snapshot, Status};
use measurement::{Course, Run, Transport};
use report::Report;
use scratch::Scratch;
use sweep::{Setting, Work};

/// What is compared.
#[derive(Debug, Clone)]
pub struct Request {
    /// The guest's RAM.
    pub image: PathBuf,
    /// With what it was synthesised, if it was.
    pub seed: Option<u64>,
    /// The same guest's RAM later on: a delta round each.
    pub then: Vec<PathBuf>,
    /// Methods and levels; one at least.
    pub settings: Vec<Setting>,
    /// How often each is measured, at least once.
    pub runs: u32,
    /// What joins the two ends.
    pub transport: Transport,
    /// Everything else; the method and the level are those of the setting in hand.
    pub params: Params,
    /// What may be used.
    pub caps: Caps,
}

/// What is in hand.
#[derive(Debug, Clone)]
pub struct Task {
    /// The setting, or `memcpy`.
    pub name: String,
    /// Which run of it this is, from 1; 0 for the warm-up.
    pub run: u32,
    /// The number of the task, from 0.
    pub number: usize,
}

/// Hears how far a comparison is.
pub trait Watch {
    /// A task begins.
    fn begin(&mut self, _task: &Task) {}
    /// The migration in hand is so far.
    fn progress(&mut self, _now: &Snapshot) {}
    /// The task that began last is done.
    fn end(&mut self, _task: &Task, _time: Duration) {}
}

/// Nobody cares.
impl Watch for () {}

/// A comparison, with what has been measured so far.
#[derive(Debug)]
pub struct Bench {
    request: Request,
    course: Course,
    scratch: PathBuf,
    ram_bytes: u64,
    data_bytes: u64,
    /// What must arrive.
    digest: Digest,
    /// Of each setting.
    runs: Vec<Vec<Run>>,
    copies: Vec<Duration>,
    status: Status,
    error: Option<String>,
}

impl Bench {
    /// Gets everything ready: checks what was asked for and reads every image once, which also
    /// puts them into the page cache. What arrives will be written to `scratch`.
    ///
    /// # Errors
    /// Of kind [`Kind::Usage`] if what was asked for makes no sense; and images that cannot be
    /// read.
    pub fn prepare(request: Request, scratch: &Scratch) -> Result<Bench> {
        check(&request)?;
        let mut guest = Guest::open(&request.image)?;
        let mut digest = guest.digest()?;
        for later in &request.then {
            guest = guest.open_later(later)?;
            digest = guest.digest()?;
        }
        Ok(Bench {
            course: Course::new(
                request.image.clone(),
                request.then.clone(),
                request.caps,
                request.transport,
                scratch,
            )?,
            scratch: scratch.parent().to_owned(),
            ram_bytes: guest.pages() * PAGE_SIZE as u64,
            data_bytes: data_bytes(&guest)?,
            digest,
            runs: vec![Vec::new(); request.settings.len()],
            copies: Vec::new(),
            status: Status::None,
            error: None,
            request,
        })
    }

    /// How many tasks [`Bench::measure`] has.
    pub fn tasks(&self) -> usize {
        1 + sweep::steps(self.request.settings.len(), self.request.runs).count()
    }

    /// Measures everything: a migration to warm up, which does not count, and then all runs.
    ///
    /// # Errors
    /// The first run that does not work ends it, of kind [`Kind::Differs`] if something else
    /// arrived than was sent; and [`Kind::Interrupted`] when `interrupted` becomes true. What was
    /// measured until then is in the report.
    pub fn measure(&mut self, interrupted: &AtomicBool, watch: &mut dyn Watch) -> Result<()> {
        self.status = Status::Active;
        let outcome = self.measure_all(interrupted, watch);
        self.status = match &outcome {
            Ok(()) => Status::Completed,
            Err(error) if error.kind() == Kind::Interrupted => Status::Cancelled,
            Err(_) => Status::Failed,
        };
        self.error = outcome.as_ref().err().map(Error::one_line);
        outcome
    }

    fn measure_all(&mut self, interrupted: &AtomicBool, watch: &mut dyn Watch) -> Result<()> {
        let mut task = Task {
            name: self.request.settings[0].to_string(),
            run: 0,
            number: 0,
        };
        watch.begin(&task);
        let warm_up = self.migrate(0, interrupted, watch)?;
        watch.end(&task, warm_up.duration());

        for step in sweep::steps(self.request.settings.len(), self.request.runs) {
            if interrupted.load(Ordering::Relaxed) {
                return Err(Error::interrupted());
            }
            task.number += 1;
            task.run = step.run;
            task.name = match step.work {
                Work::Memcpy => report::MEMCPY.to_owned(),
                Work::Migration(index) => self.request.settings[index].to_string(),
            };
            watch.begin(&task);
            let time = match step.work {
                Work::Memcpy => {
                    let threads = measurement::copy_threads();
                    let time = measurement::memcpy(&self.request.image, threads)?;
                    self.copies.push(time);
                    time
                }
                Work::Migration(index) => {
                    let run = self.migrate(index, interrupted, watch)?;
                    let time = run.duration();
                    self.runs[index].push(run);
                    time
                }
            };
            watch.end(&task, time);
        }
        Ok(())
    }

    /// One migration with the setting of this index.
    fn migrate(
        &self,
        index: usize,
        interrupted: &AtomicBool,
        watch: &mut dyn Watch,
    ) -> Result<Run> {
        let setting = self.request.settings[index];
        let params = setting.apply(&self.request.params);
        measurement::migrate(
            &self.course,
            &params,
            self.digest,
            interrupted,
            &mut |now| watch.progress(now),
        )
        .map_err(|error| of_setting(error, setting))
    }

    /// What has been measured so far.
    pub fn report(&self) -> Report {
        Report::new(self)
    }
}

/// Which setting was in hand.
#[derive(Debug, thiserror::Error)]
#[error("with {setting}")]
struct WithSetting {
    setting: Setting,
    #[source]
    source: Error,
}

/// Names the setting, unless it was not the setting's fault.
fn of_setting(error: Error, setting: Setting) -> Error {
    match error.kind() {
        Kind::Interrupted => error,
        kind => Error::new(
            kind,
            WithSetting {
                setting,
                source: error,
            },
        ),
    }
}

/// Whether what was asked for makes sense.
fn check(request: &Request) -> Result<()> {
    let usage = |why: &str| Err(Error::new(Kind::Usage, why));
    if request.settings.is_empty() || request.runs == 0 {
        return usage("there is nothing to measure");
    }
    let compresses = |setting: &Setting| setting.method != Method::None;
    if !request.caps.has(Capability::Compress) && request.settings.iter().any(compresses) {
        return usage("without the capability compress only the method none can be measured");
    }
    for setting in &request.settings {
        setting
            .apply(&request.params)
            .validate()
            .map_err(|error| Error::new(Kind::Usage, error))?;
    }
    Ok(())
}

/// The bytes that lie in data extents.
///
/// # Errors
/// When an image can no longer be examined.
pub fn data_bytes(guest: &Guest) -> Result<u64> {
    let mut pages = 0;
    for block in guest.blocks() {
        let ranges = block.image().data_ranges()?;
        pages += ranges.iter().map(|range| range.count).sum::<u64>();
    }
    Ok(pages * PAGE_SIZE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn scratch() -> Scratch {
        Scratch::new_in(&std::env::temp_dir()).expect("a folder")
    }

    fn request(folder: &Path, settings: &str) -> Request {
        let image = folder.join("ram");
        if !image.exists() {
            synthetic::write(&image, 1 << 20, 3).expect("an image");
        }
        Request {
            image,
            seed: Some(3),
            then: vec![],
            settings: sweep::parse(settings, 1).expect("settings"),
            runs: 2,
            transport: Transport::Unix,
            params: Params::default(),
            caps: Caps::default(),
        }
    }

    /// Notes what it hears.
    #[derive(Default)]
    struct Notes {
        begun: Vec<String>,
        ended: usize,
    }

    impl Watch for Notes {
        fn begin(&mut self, task: &Task) {
            assert_eq!(task.number, self.begun.len());
            self.begun.push(format!("{} {}", task.run, task.name));
        }

        fn end(&mut self, _: &Task, _: Duration) {
            self.ended += 1;
        }
    }

    #[test]
    fn everything_is_measured_in_turn_after_a_warm_up() {
        let scratch = scratch();
        let mut bench = Bench::prepare(request(scratch.path(), "none,zstd:1"), &scratch)
            .expect("it makes sense");
        let mut notes = Notes::default();
        bench
            .measure(&AtomicBool::new(false), &mut notes)
            .expect("it works");
        assert_eq!(
            notes.begun,
            [
                "0 none", "1 memcpy", "1 none", "1 zstd:1", "2 memcpy", "2 none", "2 zstd:1"
            ]
        );
        assert_eq!((notes.ended, bench.tasks()), (7, 7));
        assert_eq!(bench.copies.len(), 2);
        for runs in &bench.runs {
            assert_eq!(runs.len(), 2);
            assert!(runs.iter().all(|run| run.digest == bench.digest));
        }
    }

    #[test]
    fn an_interrupted_comparison_keeps_what_it_has_measured() {
        /// Interrupts after so many tasks.
        struct Impatient<'a>(usize, &'a AtomicBool);
        impl Watch for Impatient<'_> {
            fn end(&mut self, task: &Task, _: Duration) {
                self.1.store(task.number >= self.0, Ordering::Relaxed);
            }
        }
        let scratch = scratch();
        let mut bench =
            Bench::prepare(request(scratch.path(), "none,lz4"), &scratch).expect("it makes sense");
        let interrupted = AtomicBool::new(false);
        let error = bench
            .measure(&interrupted, &mut Impatient(2, &interrupted))
            .expect_err("interrupted");
        assert_eq!(error.kind(), Kind::Interrupted);
        assert_eq!((bench.runs[0].len(), bench.runs[1].len()), (1, 0));
        assert_eq!(bench.status, Status::Cancelled);
    }

    #[test]
    fn an_image_that_changes_meanwhile_is_found_out_and_the_setting_named() {
        let scratch = scratch();
        let request = request(scratch.path(), "zstd:3");
        let image = request.image.clone();
        let mut bench = Bench::prepare(request, &scratch).expect("it makes sense");
        std::fs::remove_file(&image).expect("it is there");
        synthetic::write(&image, 1 << 20, 4).expect("another image");
        let error = bench
            .measure(&AtomicBool::new(false), &mut ())
            .expect_err("another digest");
        assert_eq!(error.kind(), Kind::Differs);
        assert!(error.one_line().starts_with("with zstd:3: "));
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_anything_is_measured() {
        let scratch = scratch();
        let fine = request(scratch.path(), "none");
        let mut without_compression = request(scratch.path(), "none,lz4");
        without_compression
            .caps
            .set("compress", false)
            .expect("a capability");
        for bad in [
            Request {
                settings: vec![],
                ..fine.clone()
            },
            Request {
                runs: 0,
                ..fine.clone()
            },
            without_compression,
        ] {
            let error = Bench::prepare(bad, &scratch).expect_err("it makes no sense");
            assert_eq!(error.kind(), Kind::Usage);
        }
        let missing = Request {
            image: scratch.path().join("missing"),
            ..fine
        };
        let error = Bench::prepare(missing, &scratch).expect_err("no image");
        assert_eq!(error.kind(), Kind::Failed);
    }
}
