//! The order of the runs, and what is reported while they go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::measure::migrate::{BenchRun, Variant, migrate};
use super::measure::{budget, memcpy};
use super::peer::QemuPeer;
use super::report;
use super::{Bench, Task, Watch};
use crate::error::{Error, Kind, Result};
use crate::stats::Status;

impl Bench {
    /// Measures everything: a migration to warm up, which does not count, and then all runs.
    ///
    /// # Errors
    /// The first failed run of a setting ends it, of kind [`Kind::Differs`] if the received RAM is not
    /// what was sent; and [`Kind::Interrupted`] when `stop` becomes true, after the run in progress. What
    /// was measured before is in the report.
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
        if stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        let start = Instant::now();
        let never = AtomicBool::new(false);
        let mut task = Task {
            name: self.names.first().cloned().unwrap_or_default(),
            run: 0,
            number: 0,
            expected: self.expected.first().copied().unwrap_or_default(),
            before: Duration::ZERO,
        };
        watch.begin(&task);
        // It does not count, so there is no reason to finish it.
        let warm_up = self.migrate(0, stop, watch)?;
        watch.end(&task, warm_up.duration());

        for round in 1.. {
            let late =
                |limit| round > self.budget.runs.min(budget::LEAST_RUNS) && start.elapsed() > limit;
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
            if round <= self.budget.runs {
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
                let run = self.migrate(index, &never, watch)?;
                let time = run.duration();
                self.runs[index].push(run);
                watch.end(&task, time);
                if !self.wants_more(index) {
                    watch.setting_done(&self.report(), index);
                }
                watch.counted(self)?;
            }
            if round <= self.budget.runs {
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
        let time = memcpy::memcpy(&self.request.image, memcpy::copy_threads())?;
        self.copies.push(time);
        watch.end(task, time);
        if !self.codecs.is_empty() {
            next(task, report::CODECS_ALONE, round, self.codecs.took(), stop)?;
            watch.begin(task);
            self.codecs.run()?;
            watch.end(task, self.codecs.took());
        }
        Ok(())
    }

    /// A run of each mode of the peer that has not failed.
    fn measure_peer(
        &mut self,
        (task, round): (&mut Task, u32),
        stop: &AtomicBool,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let names = self.peer.as_ref().map_or_else(Vec::new, QemuPeer::names);
        for (mode, name) in names.iter().enumerate() {
            let Some(peer) = self.peer.as_mut().filter(|peer| peer.works(mode)) else {
                continue;
            };
            let expected = peer.expected(self.codecs.data_bytes(), self.conditions.cores);
            next(task, name, round, expected[mode], stop)?;
            watch.begin(task);
            match peer.run(mode) {
                Ok(time) => watch.end(task, time),
                Err(why) => watch.failed(task, &why),
            }
            if round == self.budget.runs {
                watch.peer_done(&self.report(), mode);
            }
            watch.counted(self)?;
        }
        Ok(())
    }

    fn wants_more(&self, index: usize) -> bool {
        let times: Vec<f64> = self.runs[index].iter().map(|run| run.time).collect();
        budget::wants_more(&times, self.budget.runs, self.request.min_time)
    }

    /// One migration with the setting of this index.
    fn migrate(&self, index: usize, stop: &AtomicBool, watch: &mut dyn Watch) -> Result<BenchRun> {
        let setting = self.request.settings[index];
        let variant = Variant {
            params: setting.apply(&self.request.params),
            caps: setting.caps(&self.request.caps),
            wire: setting.wire,
        };
        migrate(&self.workload, &variant, self.digest, stop, &mut |now| {
            watch.progress(now);
        })
        .map_err(|error| of_setting(error, &self.names[index]))
    }
}

/// Moves on to the next task, unless it is time to stop.
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

/// The setting of a failed run.
#[derive(Debug, thiserror::Error)]
#[error("with {setting}")]
struct WithSetting {
    setting: String,
    #[source]
    source: Error,
}

/// Adds the setting to an error, unless the user interrupted the run.
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
