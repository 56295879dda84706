//! Compares compression settings by real migrations: both ends in one process, over a loopback
//! link, every run proven.
//!
//! A codec alone says little about a migration: zeroes are skipped, threads share cores with the
//! other end, a link takes turns with a compressor, and all of it has to be read, hashed, placed
//! and proven. So a measurement here *is* a migration, by the same code as between two hosts.
//!
//! * [`matrix`], [`sweep`]: which settings.
//! * [`alone`]: each codec without a pipeline around it; [`budget`]: how long all of it will take,
//!   by that.
//! * [`measurement`]: one run; and a plain copy, so that a number means something.
//! * [`statistics`], [`limit`]: what numbers mean; pure functions.
//! * [`report`], [`recommend`], [`commands`], [`conditions`]: what is made of the runs: the JSON document.
//! * [`table`], [`export`], [`compare`]: views of it.
//! * [`peer`]: a real QEMU, beside ours.
//! * [`scratch`]: folders that vanish.
//!
//! [`Bench`] puts them together. Its user says what is compared, watches, and prints.
//!
//! Runs are interleaved, run 1 of everything and then run 2 of everything: a machine that grows
//! warm or gets other work slows all settings alike, and not just the one that is in hand then.

pub mod alone;
pub mod budget;
pub mod commands;
pub mod compare;
pub mod conditions;
mod document;
pub mod export;
pub mod html;
pub mod limit;
pub mod matrix;
pub mod measurement;
pub mod peer;
mod prepare;
pub mod recommend;
pub mod report;
pub mod scratch;
pub mod statistics;
pub mod sweep;
pub mod table;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::advice::Goal;
use crate::caps::Caps;
use crate::codec::Method;
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::inspect::Pages;
use crate::page::{Digest, PAGE_SIZE};
use crate::params::Params;
use crate::stats::{Snapshot, Status};
use crate::synthetic::Mix;
use alone::{Codecs, Sample};
use budget::Plan;
use conditions::Conditions;
use matrix::Setting;
use measurement::{Course, How, Run, Transport};
use peer::{Against, Peer, PeerReport, PeerSpec};
pub use prepare::data_bytes;
use prepare::{check, distinct_threads, page_classes, work};
use report::Report;
use scratch::Scratch;

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
    /// The setting, `memcpy`, the codecs alone, or a peer's way.
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
    /// A way of the peer has all its runs: the one with this index, in the report of everything so
    /// far.
    fn peer_done(&mut self, _report: &Report, _index: usize) {}
    /// The task that began last did not work, for this reason, and everything else goes on.
    fn failed(&mut self, _task: &Task, _why: &str) {}
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
    expected: Vec<Duration>,
    runs: Vec<Vec<Run>>,
    copies: Vec<Duration>,
    codecs: Codecs,
    peer: Option<Peer>,
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
        let first = guest.digest()?;
        let mut digest = first;
        for later in &request.then {
            guest = guest.open_later(later)?;
            digest = guest.digest()?;
        }
        let all = request.settings.clone();
        let mut codecs = Codecs::of(sample, &all, &request.params);
        codecs.run()?;
        let data = codecs.data_bytes();
        let cores = conditions.cores;
        let mut peer = match request.peer.clone() {
            Some(spec) => {
                let against = Against {
                    image: &request.image,
                    digest: first,
                    later_rounds: !request.then.is_empty(),
                    threads: &distinct_threads(&all),
                    decompress_threads: (all.iter().map(|one| one.decompress_threads))
                        .max()
                        .unwrap_or(1),
                };
                Some(Peer::new(spec, &against, scratch)?)
            }
            None => None,
        };
        let peers = |peer: &Peer| peer.expected(data, cores);
        let each: Vec<Duration> = (all.iter().enumerate())
            .map(|(at, setting)| budget::expected(&work(setting, codecs.last(at), data, cores)))
            .chain(peer.iter().flat_map(peers))
            .collect();
        let plain = |one: &Setting| one.compression.method == Method::None;
        let plan = budget::fit(
            &each,
            &all.iter().map(plain).collect::<Vec<_>>(),
            request.runs,
            request.min_time,
            request.max_time,
        )
        .map_err(|error| Error::new(Kind::Usage, error))?;
        // Peers stand behind the settings.
        let (kept, kept_peers) = plan.kept.split_at(all.len().min(plan.kept.len()));
        let mut names = matrix::names(&all);
        names.extend(peer.iter().flat_map(Peer::names));
        let dropped = names.into_iter().zip(&plan.kept);
        let dropped = dropped.filter(|(_, kept)| !**kept);
        let dropped = dropped.map(|(name, _)| name).collect();
        if let Some(peer) = &mut peer {
            peer.keep(kept_peers);
        }
        let indexes: Vec<usize> = (0..all.len()).filter(|index| kept[*index]).collect();
        request.settings = indexes.iter().map(|index| all[*index]).collect();
        let settings = &request.settings;
        let codecs = codecs.instead_of(settings, &request.params);
        let most = settings.iter().map(|one| one.compress_threads).max();
        let most = usize::from(most.unwrap_or(0));
        if most > conditions.cores {
            request.notes.push(format!(
                "{most} compressing threads share {} cores with the destination",
                conditions.cores
            ));
        }
        if peer.is_some() && !request.then.is_empty() {
            let note = "a peer has no later images: its rows are the bulk stage of the first one";
            request.notes.push(note.to_owned());
        }
        Ok(Bench {
            codecs,
            peer,
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
        let codecs = self.codecs.took().saturating_mul(self.plan.runs);
        self.plan.expected.saturating_add(codecs)
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
        let besides = 1 + usize::from(!self.codecs.is_empty());
        let peers = self.peer.iter().flat_map(Peer::names).count();
        1 + self.plan.runs as usize * (besides + self.request.settings.len() + peers)
    }

    /// Measures everything: a migration to warm up, which does not count, and then all runs.
    ///
    /// # Errors
    /// The first run of ours that does not work ends it, of kind [`Kind::Differs`] if something else
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
                self.measure_baselines((&mut task, round), stop, watch)?;
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

    /// A plain copy, and a run of each codec alone.
    fn measure_baselines(
        &mut self,
        (task, round): (&mut Task, u32),
        stop: &AtomicBool,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        next(task, report::MEMCPY, round, Duration::ZERO, stop)?;
        watch.begin(task);
        let time = measurement::memcpy(&self.request.image, measurement::copy_threads())?;
        self.copies.push(time);
        watch.end(task, time);
        if !self.codecs.is_empty() {
            next(task, report::ALONE, round, self.codecs.took(), stop)?;
            watch.begin(task);
            self.codecs.run()?;
            watch.end(task, self.codecs.took());
        }
        Ok(())
    }

    /// A run of each way of the peer that has not failed yet, if there is one.
    fn measure_peer(
        &mut self,
        (task, round): (&mut Task, u32),
        stop: &AtomicBool,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let names = self.peer.as_ref().map_or_else(Vec::new, Peer::names);
        for (way, name) in names.iter().enumerate() {
            let Some(peer) = self.peer.as_mut().filter(|peer| peer.works(way)) else {
                continue;
            };
            let expected = peer.expected(self.codecs.data_bytes(), self.conditions.cores);
            next(task, name, round, expected[way], stop)?;
            watch.begin(task);
            match peer.run(way) {
                Ok(time) => watch.end(task, time),
                Err(why) => watch.failed(task, &why),
            }
            if round == self.plan.runs {
                watch.peer_done(&self.report(), way);
            }
            watch.counted(self)?;
        }
        Ok(())
    }

    /// Why nothing at all is known of the peer that was asked for, if that is so.
    pub fn peer_failure(&self) -> Option<Error> {
        let reports = self.peer.as_ref()?.reports();
        let failure =
            |report: &PeerReport| report.error_desc.clone().filter(|_| report.runs.is_empty());
        let failures: Vec<String> = reports.iter().map_while(failure).collect();
        let first = failures
            .first()
            .filter(|_| failures.len() == reports.len())?;
        Some(Error::new(
            Kind::Failed,
            format!("the peer could not be measured: {first}"),
        ))
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
}

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
