//! Compares compression settings by real migrations: both ends in one process, over a loopback
//! link, every run proven.
//!
//! A codec alone says little about a migration: zeroes are skipped, threads share cores with the
//! other end, a link takes turns with a compressor, and all of it has to be read, hashed, placed
//! and proven. So a measurement here *is* a migration, by the same code as between two hosts.
//!
//! * [`matrix`], [`sweep`]: which settings.
//! * [`budget`], [`alone`]: how long they will take, by what each codec does alone.
//! * [`measurement`]: one run; and a plain copy, so that a number means something.
//! * [`statistics`], [`advice`]: what numbers mean; pure functions.
//! * [`report`], [`recommend`], [`commands`], [`conditions`]: what is made of the runs: the JSON document.
//! * [`table`], [`export`], [`compare`]: views of it.
//! * [`peer`]: a real QEMU, beside ours.
//! * [`synthetic`]: an image for people who have none.
//! * [`scratch`]: folders that vanish.
//!
//! [`Bench`] puts them together. Its user says what is compared, watches, and prints.
//!
//! Runs are interleaved, run 1 of everything and then run 2 of everything: a machine that grows
//! warm or gets other work slows all settings alike, and not just the one that is in hand then.

pub mod advice;
pub mod alone;
pub mod budget;
pub mod commands;
pub mod compare;
pub mod conditions;
pub mod export;
pub mod html;
pub mod matrix;
pub mod measurement;
pub mod peer;
mod prepare;
pub mod recommend;
pub mod report;
pub mod scratch;
pub mod statistics;
pub mod sweep;
pub mod synthetic;
pub mod table;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::caps::{Capability, Caps};
use crate::codec::Method;
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::inspect::Pages;
use crate::page::{Digest, PAGE_SIZE};
use crate::params::{Params, TABLE};
use crate::stats::{Snapshot, Status};
use advice::Goal;
use alone::{Alone, Sample};
use budget::Plan;
use conditions::Conditions;
use matrix::Setting;
use measurement::{Course, How, Run, Transport};
use peer::{Peer, PeerReport, PeerRun, PeerSpec};
pub use prepare::data_bytes;
use prepare::{alone, check, page_classes, work};
use report::{Image, Memcpy, PlanReport, Report, SettingReport};
use scratch::Scratch;
use statistics::Summary;
use synthetic::Mix;

/// What is compared.
#[derive(Debug, Clone)]
pub struct Request {
    /// The guest: a raw image of its RAM, or a guest folder.
    pub image: PathBuf,
    /// With what it was synthesised, if it was: its mix of pages and the seed.
    pub synthetic: Option<(Mix, u64)>,
    /// The same guest's RAM later on: a delta round each.
    pub then: Vec<PathBuf>,
    /// What is compared; one at least.
    pub settings: Vec<Setting>,
    /// What somebody should know who reads the result, a line each.
    pub notes: Vec<String>,
    /// How often each is measured, at least once.
    pub runs: u32,
    /// For how long each is measured at least.
    pub min_time: Duration,
    /// How long all of it may take.
    pub max_time: Option<Duration>,
    /// What the recommendation looks at.
    pub goal: Goal,
    /// What joins the two ends.
    pub transport: Transport,
    /// Everything that is not the setting's.
    pub params: Params,
    /// What may be used.
    pub caps: Caps,
    /// A QEMU whose own ways of migrating are measured too.
    pub peer: Option<PeerSpec>,
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
    /// How long it is expected to take.
    pub expected: Duration,
    /// How long everything before it was expected to take.
    pub before: Duration,
}

/// Hears how far a comparison is.
pub trait Watch {
    /// A task begins.
    fn begin(&mut self, _task: &Task) {}
    /// The migration in hand is so far.
    fn progress(&mut self, _now: &Snapshot) {}
    /// The task that began last is done.
    fn end(&mut self, _task: &Task, _time: Duration) {}
    /// A setting has all its runs: the one with this index, in the report of everything so far.
    fn setting_done(&mut self, _report: &Report, _index: usize) {}
    /// A run was counted.
    ///
    /// # Errors
    /// Whatever is a reason not to go on.
    fn counted(&mut self, _bench: &Bench) -> Result<()> {
        Ok(())
    }
}

/// Nobody cares.
impl Watch for () {}

/// A comparison, with what has been measured so far.
#[derive(Debug)]
pub struct Bench {
    request: Request,
    course: Course,
    scratch: PathBuf,
    conditions: Conditions,
    ram_bytes: u64,
    data_bytes: u64,
    pages: Pages,
    /// What must arrive.
    digest: Digest,
    plan: Plan,
    dropped: Vec<String>,
    /// Of each setting.
    names: Vec<String>,
    alone: Vec<Option<Alone>>,
    expected: Vec<Duration>,
    runs: Vec<Vec<Run>>,
    copies: Vec<Duration>,
    peer: Option<Peer>,
    peer_names: Vec<String>,
    peer_runs: Vec<Vec<PeerRun>>,
    status: Status,
    error: Option<String>,
}

impl Bench {
    /// Gets everything ready: checks what was asked for, reads every image once, which also
    /// puts them into the page cache, and tries every codec alone, from which it is known how long
    /// the runs will take. What arrives will be written to `scratch`.
    ///
    /// # Errors
    /// Of kind [`Kind::Usage`] if what was asked for makes no sense or no setting fits into its
    /// time; and images that cannot be read.
    pub fn prepare(mut request: Request, scratch: &Scratch) -> Result<Bench> {
        check(&request)?;
        let conditions = Conditions::now();
        let mut guest = Guest::open(&request.image)?;
        let sample = Sample::of(&guest)?;
        let mut digest = guest.digest()?;
        for later in &request.then {
            guest = guest.open_later(later)?;
            digest = guest.digest()?;
        }
        let alone = alone(&request, &sample)?;
        let each: Vec<Duration> = request
            .settings
            .iter()
            .zip(&alone)
            .map(|(setting, alone)| {
                budget::expected(&work(
                    setting,
                    *alone,
                    sample.data_bytes(),
                    conditions.cores,
                ))
            })
            .collect();
        let plain: Vec<bool> = request
            .settings
            .iter()
            .map(|setting| setting.compression.method == Method::None)
            .collect();
        let plan = budget::fit(
            &each,
            &plain,
            request.runs,
            request.min_time,
            request.max_time,
        )
        .map_err(|error| Error::new(Kind::Usage, error))?;
        let all = request.settings.clone();
        let kept = |index: &usize| plan.kept.get(*index).copied().unwrap_or(false);
        let indexes: Vec<usize> = (0..all.len()).filter(kept).collect();
        let dropped = matrix::names(&all)
            .into_iter()
            .enumerate()
            .filter(|(index, _)| !kept(index))
            .map(|(_, name)| name)
            .collect();
        request.settings = indexes.iter().map(|index| all[*index]).collect();
        let settings = &request.settings;
        let most = settings.iter().map(|one| one.compress_threads).max();
        let most = usize::from(most.unwrap_or(0));
        if most > conditions.cores {
            request.notes.push(format!(
                "{most} compressing threads share {} cores with the destination",
                conditions.cores
            ));
        }
        let peer = match request.peer.clone() {
            Some(spec) => {
                let threads = settings.first().map_or(1, |one| one.compress_threads);
                Some(Peer::new(spec, &request.image, digest, threads, scratch)?)
            }
            None => None,
        };
        let peer_names = peer.as_ref().map_or_else(Vec::new, Peer::names);
        Ok(Bench {
            peer_runs: vec![Vec::new(); peer_names.len()],
            peer,
            peer_names,
            course: Course::new(
                request.image.clone(),
                request.then.clone(),
                request.transport,
                scratch,
            )?,
            scratch: scratch.parent().to_owned(),
            ram_bytes: guest.pages() * PAGE_SIZE as u64,
            data_bytes: data_bytes(&guest)?,
            pages: page_classes(&request.image)?,
            digest,
            dropped,
            names: matrix::names(&request.settings),
            alone: indexes.iter().map(|index| alone[*index]).collect(),
            expected: indexes.iter().map(|index| each[*index]).collect(),
            runs: vec![Vec::new(); request.settings.len()],
            copies: Vec::new(),
            status: Status::None,
            error: None,
            conditions,
            plan,
            request,
        })
    }

    /// How long all of it will take, by what is known before the first run.
    pub fn expected(&self) -> Duration {
        let peers = self.plan.runs.saturating_mul(self.peer_names.len() as u32);
        self.plan
            .expected
            .saturating_add(self.peer_expected().saturating_mul(peers))
    }

    /// How long a run of a peer takes, about: two QEMUs start, and fault in their memory.
    fn peer_expected(&self) -> Duration {
        Duration::from_secs_f64(0.7 + self.data_bytes as f64 / 150e6)
    }

    /// How often each setting will be measured, unless more runs are needed to fill its time.
    pub fn runs(&self) -> u32 {
        self.plan.runs
    }

    /// The settings that were left out for want of time.
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// What somebody should know before it begins.
    pub fn notes(&self) -> &[String] {
        &self.request.notes
    }

    /// How many tasks [`Bench::measure`] has, at least.
    pub fn tasks(&self) -> usize {
        1 + self.plan.runs as usize * (1 + self.request.settings.len() + self.peer_names.len())
    }

    /// Measures everything: a migration to warm up, which does not count, and then all runs.
    ///
    /// # Errors
    /// The first run that does not work ends it, of kind [`Kind::Differs`] if something else
    /// arrived than was sent; and [`Kind::Interrupted`] when `stop` becomes true, after the
    /// run in hand. What was measured until then is in the report.
    pub fn measure(&mut self, stop: &AtomicBool, watch: &mut dyn Watch) -> Result<()> {
        self.status = Status::Active;
        let outcome = self.measure_all(stop, watch);
        self.status = match &outcome {
            Ok(()) => Status::Completed,
            Err(error) if error.kind() == Kind::Interrupted => Status::Cancelled,
            Err(_) => Status::Failed,
        };
        self.error = outcome.as_ref().err().map(Error::one_line);
        outcome
    }

    fn measure_all(&mut self, stop: &AtomicBool, watch: &mut dyn Watch) -> Result<()> {
        let start = Instant::now();
        let mut task = Task {
            name: self.names.first().cloned().unwrap_or_default(),
            run: 0,
            number: 0,
            expected: self.expected.first().copied().unwrap_or_default(),
            before: Duration::ZERO,
        };
        watch.begin(&task);
        let warm_up = self.migrate(0, watch)?;
        watch.end(&task, warm_up.duration());

        for round in 1.. {
            let late = |limit| round > budget::LEAST_RUNS && start.elapsed() > limit;
            if self.request.max_time.is_some_and(late) {
                let note = "max-time was over before every setting had all its runs";
                self.request.notes.push(note.to_owned());
                break;
            }
            let wanted: Vec<usize> = (0..self.runs.len())
                .filter(|index| self.wants_more(*index))
                .collect();
            if wanted.is_empty() {
                break;
            }
            if round <= self.plan.runs {
                next(&mut task, report::MEMCPY, round, Duration::ZERO, stop)?;
                watch.begin(&task);
                let time = measurement::memcpy(&self.request.image, measurement::copy_threads())?;
                self.copies.push(time);
                watch.end(&task, time);
            }
            for index in wanted {
                next(
                    &mut task,
                    &self.names[index],
                    round,
                    self.expected[index],
                    stop,
                )?;
                watch.begin(&task);
                let run = self.migrate(index, watch)?;
                let time = run.duration();
                self.runs[index].push(run);
                watch.end(&task, time);
                if !self.wants_more(index) {
                    watch.setting_done(&self.report(), index);
                }
                watch.counted(self)?;
            }
            if round <= self.plan.runs {
                self.measure_peer((&mut task, round), stop, watch)?;
            }
        }
        Ok(())
    }

    /// A run of each way of the peer, if there is one.
    fn measure_peer(
        &mut self,
        (task, round): (&mut Task, u32),
        stop: &AtomicBool,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        for mode in 0..self.peer_names.len() {
            let Some(peer) = &self.peer else { break };
            let name = &self.peer_names[mode];
            next(task, name, round, self.peer_expected(), stop)?;
            watch.begin(task);
            let run = peer
                .migrate(mode)
                .map_err(|error| of_setting(error, name))?;
            let time = Duration::try_from_secs_f64(run.time / 1e3).unwrap_or_default();
            self.peer_runs[mode].push(run);
            watch.end(task, time);
            watch.counted(self)?;
        }
        Ok(())
    }

    fn wants_more(&self, index: usize) -> bool {
        let times: Vec<f64> = self.runs[index].iter().map(|run| run.time).collect();
        budget::wants_more(&times, self.plan.runs, self.request.min_time)
    }

    /// One migration with the setting of this index. It is never interrupted: what was begun is
    /// worth its end.
    fn migrate(&self, index: usize, watch: &mut dyn Watch) -> Result<Run> {
        let setting = self.request.settings[index];
        let how = How {
            params: setting.apply(&self.request.params),
            caps: setting.caps(&self.request.caps),
            wire: setting.wire,
        };
        let never = AtomicBool::new(false);
        measurement::migrate(&self.course, &how, self.digest, &never, &mut |now| {
            watch.progress(now);
        })
        .map_err(|error| of_setting(error, &self.names[index]))
    }

    /// What has been measured so far.
    pub fn report(&self) -> Report {
        let Request { params, caps, .. } = &self.request;
        let milliseconds = |time: &Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let copies: Vec<f64> = self.copies.iter().map(milliseconds).collect();
        let ram = self.ram_bytes as f64;
        let settings = self.request.settings.iter().enumerate();
        let mut report = Report {
            schema: report::SCHEMA,
            schema_version: report::SCHEMA_VERSION,
            status: self.status,
            error_desc: self.error.clone(),
            version: env!("CARGO_PKG_VERSION"),
            conditions: self.conditions.clone(),
            image: Image {
                path: match self.request.synthetic {
                    Some(_) => "synthetic".to_owned(),
                    None => shown(self.course.image()),
                },
                mix: self.request.synthetic.map(|(mix, _)| mix.name()),
                seed: self.request.synthetic.map(|(_, seed)| seed),
                then: self.course.then().iter().map(|path| shown(path)).collect(),
                ram_bytes: self.ram_bytes,
                data_bytes: self.data_bytes,
                digest: self.digest,
                pages: self.pages,
            },
            plan: PlanReport {
                runs: self.plan.runs,
                min_time: milliseconds(&self.request.min_time),
                max_time: self.request.max_time.as_ref().map(milliseconds),
                expected_time: milliseconds(&self.expected()),
                dropped: self.dropped.clone(),
                notes: self.request.notes.clone(),
                goal: self.request.goal,
                transport: self.request.transport,
                scratch: shown(&self.scratch),
                parameters: TABLE
                    .iter()
                    .filter(|row| !AXES.contains(&row.name) && !WITHOUT_EFFECT.contains(&row.name))
                    .map(|row| (row.name, (row.get)(params)))
                    .collect(),
                capabilities: Capability::ALL
                    .into_iter()
                    .map(|capability| (capability.name(), caps.has(capability)))
                    .collect(),
            },
            memcpy: Memcpy {
                threads: measurement::copy_threads(),
                time: Summary::of(copies.iter().copied()),
                ram_bytes_per_second: Summary::of(
                    copies.iter().map(|time| ram / (time / 1e3).max(1e-9)),
                ),
                runs: copies,
            },
            settings: settings
                .map(|(index, setting)| {
                    SettingReport::new(
                        *setting,
                        self.names[index].clone(),
                        &self.runs[index],
                        self.alone[index],
                        self.conditions.cores,
                    )
                })
                .collect(),
            peers: self
                .peer_names
                .iter()
                .zip(&self.peer_runs)
                .map(|(name, runs)| PeerReport::new(name.clone(), runs, self.ram_bytes))
                .collect(),
            links: Vec::new(),
        };
        report::compare_settings(&mut report);
        report
    }
}

/// The parameters that are a setting's own.
pub const AXES: [&str; 9] = [
    "compress-method",
    "compress-level",
    "compress-threads",
    "decompress-threads",
    "batch-pages",
    "connections",
    "xbzrle-cache-size",
    "zlib-engine",
    "link",
];

/// The parameters that mean nothing here: no writer is stopped or slowed down, and the two ends
/// find each other at once.
pub const WITHOUT_EFFECT: [&str; 10] = [
    "downtime-limit",
    "max-rounds",
    "max-time",
    "timeout-action",
    "throttle-trigger-threshold",
    "cpu-throttle-initial",
    "cpu-throttle-increment",
    "max-cpu-throttle",
    "connect-timeout",
    "accept-timeout",
];

/// Goes on to the next task, unless it is time to stop.
fn next(
    task: &mut Task,
    name: &str,
    run: u32,
    expected: Duration,
    stop: &AtomicBool,
) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::interrupted());
    }
    *task = Task {
        name: name.to_owned(),
        run,
        number: task.number + 1,
        expected,
        before: task.before.saturating_add(task.expected),
    };
    Ok(())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Which setting was in hand.
#[derive(Debug, thiserror::Error)]
#[error("with {setting}")]
struct WithSetting {
    setting: String,
    #[source]
    source: Error,
}

/// Names the setting, unless it was not the setting's fault.
fn of_setting(error: Error, setting: &str) -> Error {
    match error.kind() {
        Kind::Interrupted => error,
        kind => Error::new(
            kind,
            WithSetting {
                setting: setting.to_owned(),
                source: error,
            },
        ),
    }
}

#[cfg(test)]
mod tests;
