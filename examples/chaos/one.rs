//! One run from its plan to its verdict.

use std::io;
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::check::{Category, Checked, Problem, Verdict, runs_soon, verify};
use crate::child::orphans;
use crate::plan::{After, Path, Plan, What};
use crate::run::{Churn, Exit, Outcome, Setup};
use crate::scene::{Scene, Stage};

/// What a worker says of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) seed: u64,
    pub(crate) labels: Vec<String>,
    /// The exit codes of both ends.
    pub(crate) ends: (String, String),
    pub(crate) fired: Vec<String>,
    pub(crate) problems: Vec<Problem>,
    /// The guest runs nowhere, in the documented gap.
    pub(crate) nowhere: bool,
    /// A flipped bit arrived, on QEMU's wire.
    pub(crate) unseen: bool,
    pub(crate) milliseconds: u64,
}

/// Carries out the run of a seed, and keeps its folder if something is wrong.
pub(crate) fn run(stage: &Stage, seed: u64, keep: bool) -> Record {
    let plan = Plan::new(seed);
    let started = Instant::now();
    let mut verdict = Verdict::default();
    let mut record = Record {
        seed,
        labels: plan.labels().into_iter().map(str::to_owned).collect(),
        ends: Default::default(),
        fired: Vec::new(),
        problems: Vec::new(),
        nowhere: false,
        unseen: false,
        milliseconds: 0,
    };
    match Scene::new(stage, &plan) {
        Ok(mut scene) => {
            let outcome = play(stage, &plan, &mut scene, &mut verdict);
            match outcome {
                Ok(outcome) => {
                    record.ends = (outcome.send.to_string(), outcome.receive.to_string());
                    let names = outcome.fired.iter().map(|what| what.name().to_owned());
                    record.fired = names.collect();
                }
                Err(error) => verdict.add(Category::Campaign, error.to_string()),
            }
            if verdict.problems.is_empty() && !keep {
                scene.remove();
            } else {
                let plan = serde_json::to_string_pretty(&plan).unwrap_or_default();
                let _ = std::fs::write(scene.path("plan.json"), plan);
                let _ = std::fs::write(scene.path("problems"), format!("{:#?}", verdict.problems));
            }
        }
        Err(error) => verdict.add(Category::Campaign, format!("no scene: {error}")),
    }
    record.problems = verdict.problems;
    record.nowhere = verdict.nowhere;
    record.unseen = verdict.unseen;
    record.milliseconds = started.elapsed().as_millis() as u64;
    record
}

/// Its parts, in order: the migration, what an orchestrator does next, and the end.
fn play(
    stage: &Stage,
    plan: &Plan,
    scene: &mut Scene,
    verdict: &mut Verdict,
) -> io::Result<Outcome> {
    let writer = plan.writer();
    let churn = writer.map(|writer| Churn::start(stage, scene, writer));
    let churn = churn.transpose()?;
    let mut run = Run {
        stage,
        plan,
        quiet: plan.without_faults(),
        scene,
        churn,
    };
    let (outcome, handed_over) = run.migrate(verdict)?;
    let healed = run.again(&outcome, handed_over, verdict)?;
    run.end(&outcome, healed, verdict);
    Ok(outcome)
}

struct Run<'a> {
    stage: &'a Stage,
    plan: &'a Plan,
    /// The same without what goes wrong.
    quiet: Plan,
    scene: &'a mut Scene,
    churn: Option<Churn>,
}

impl Run<'_> {
    fn setup<'a>(&'a self, plan: &'a Plan, name: &'static str, output: &'a str) -> Setup<'a> {
        Setup {
            stage: self.stage,
            scene: self.scene,
            plan,
            churn: self.churn.as_ref(),
            name,
            output,
        }
    }

    fn checked<'a>(&'a self, plan: &'a Plan, outcome: &'a Outcome, output: &str) -> Checked<'a> {
        Checked {
            plan,
            scene: self.scene,
            outcome,
            churn: self.churn.as_ref(),
            output: self.scene.path(output),
            has: false,
            is_alone: true,
            other_has: false,
        }
    }

    /// What came of it, and whether the writer was handed over or may have been.
    fn migrate(&self, verdict: &mut Verdict) -> io::Result<(Outcome, bool)> {
        let output = &self.scene.output;
        let first = self.setup(self.plan, "a", output);
        let second = self.setup(&self.quiet, "b", "out2");
        let (outcome, other) = match self.plan.twice {
            true => thread::scope(|scope| {
                let other = scope.spawn(|| second.run());
                let outcome = first.run();
                (outcome, other.join().ok())
            }),
            false => (first.run(), None),
        };
        let (outcome, mut other) = (outcome?, other.transpose()?);
        if let Some(other) = &mut other {
            // It is one writer.
            other.resumed_late |= outcome.resumed_late;
        }
        let mut first = self.checked(self.plan, &outcome, output);
        first.is_alone = !self.plan.twice;
        first.has = !self.scene.is_untouched();
        let mut handed_over = first.handed_over();
        if let Some(other) = &other {
            let mut second = self.checked(&self.quiet, other, "out2");
            second.is_alone = false;
            second.has = self.scene.path("out2").exists();
            second.other_has = first.has || first.let_go();
            first.other_has = second.has || second.let_go();
            handed_over |= second.handed_over();
            second.check(verdict);
            if first.has && second.has {
                verdict.add(Category::Owner, "two destinations have the guest");
            }
        }
        first.check(verdict);
        Ok((outcome, handed_over || verdict.nowhere))
    }

    /// What an orchestrator does next. `true`: the same command worked, and has cleaned up.
    fn again(
        &mut self,
        outcome: &Outcome,
        handed_over: bool,
        verdict: &mut Verdict,
    ) -> io::Result<bool> {
        let by_others = |what: &What| {
            matches!(
                what,
                What::Truncate | What::KillWriter | What::PauseWriter(_) | What::ContinueWriter
            )
        };
        let touched = outcome.fired.iter().any(by_others);
        if self.plan.after == After::Nothing || touched || !verdict.problems.is_empty() {
            return Ok(false);
        }
        let writer = self.plan.writer();
        let by_commands = writer.is_some_and(|writer| writer.by_commands);
        // Commands know nothing of an earlier migration, so the exit code must be looked at.
        if handed_over && by_commands {
            return Ok(false);
        }
        let is_stopped = |churn: &Option<Churn>| {
            let churn = churn.as_ref();
            churn.is_some_and(|churn| churn.process.is_stopped())
        };
        let stopped = is_stopped(&self.churn);
        self.scene.unmount();
        self.scene.clear_of_others();
        self.scene.note_output();
        // A writer that stays stopped since its guard was killed may be anyone's.
        let refused = match writer {
            Some(writer) if writer.paused || writer.by_commands => handed_over,
            Some(_) => handed_over || stopped,
            None => false,
        };
        let healed = match self.plan.after == After::AgainNowhere && writer.is_some() {
            true => self.to_nowhere(verdict).map(|()| false),
            false => self.repeat(refused, verdict),
        };
        if stopped && !is_stopped(&self.churn) {
            let what = "another attempt resumed a writer that was stopped";
            verdict.add(Category::Owner, what);
        }
        healed
    }

    fn to_nowhere(&self, verdict: &mut Verdict) -> io::Result<()> {
        let setup = self.setup(&self.quiet, "c", &self.scene.output);
        let send = setup.send("unix:nowhere")?.finish();
        let send = send.map_or(Exit::Hangs, Exit::from);
        if send != Exit::Code(1) {
            let what = format!("a send to nowhere ended with {send}");
            verdict.add(Category::ExitCode, what);
        }
        Ok(())
    }

    fn repeat(&self, refused: bool, verdict: &mut Verdict) -> io::Result<bool> {
        let setup = self.setup(&self.quiet, "c", &self.scene.output);
        let outcome = setup.run()?;
        let has = !self.scene.is_untouched();
        if !refused {
            let mut checked = self.checked(&self.quiet, &outcome, &self.scene.output);
            checked.has = has;
            checked.check(verdict);
            return Ok(true);
        }
        if outcome.send == Exit::Code(0) || has {
            verdict.add(Category::Owner, "a guest was handed over twice");
        }
        Ok(false)
    }

    /// The writer's records are right, and nothing is left.
    fn end(self, outcome: &Outcome, healed: bool, verdict: &mut Verdict) {
        let fired = &outcome.fired;
        if let Some(churn) = self.churn {
            if !runs_or_stopped(&churn) && !fired.contains(&What::KillWriter) {
                verdict.add(Category::Difference, "the writer has ended by itself");
            }
            drop(churn);
            if !fired.contains(&What::Truncate) {
                let image = self.scene.path(&self.scene.image);
                let records = self.scene.path("records");
                verify(&image, &records, "the image", verdict);
            }
        }
        for left in orphans(None) {
            verdict.add(Category::Leftover, format!("a process: {left}"));
        }
        let killed = fired.iter().any(|what| matches!(what, What::Kill(_)));
        // What was killed cannot clean up. The next attempt does, without a monitor.
        let is_excused = |name: &String| {
            let was_killed = killed || outcome.receive == Exit::None;
            was_killed && (!healed || name.ends_with(".qmp"))
        };
        let mut left = self.scene.leftovers();
        left.retain(|name| !is_excused(name));
        if !left.is_empty() {
            verdict.add(Category::Leftover, left.join(", "));
        }
        self.scene.unmount();
    }
}

fn runs_or_stopped(churn: &Churn) -> bool {
    churn.process.is_stopped() || runs_soon(&churn.process) && !churn.process.has_ended()
}

impl Plan {
    /// The same migration, and nothing that goes wrong.
    pub(crate) fn without_faults(&self) -> Plan {
        let without = |args: &[String]| {
            let mut args = args.to_vec();
            if let Some(at) = args.iter().position(|arg| arg == "--monitor") {
                args.drain(at..at + 2);
            }
            args.retain(|arg| !arg.contains("pause-before-switchover"));
            if let Some(at) = args.iter().position(|arg| arg == "--timeout") {
                args.drain(at..at + 2);
            }
            args
        };
        Plan {
            send: without(&self.send),
            receive: without(&self.receive),
            clients: Vec::new(),
            faults: Vec::new(),
            disk: crate::plan::Disk::Roomy,
            twice: false,
            monitored: false,
            path: match self.path {
                Path::Exec => Path::File,
                path => path,
            },
            ..self.clone()
        }
    }
}
