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

fn play(
    stage: &Stage,
    plan: &Plan,
    scene: &mut Scene,
    verdict: &mut Verdict,
) -> io::Result<Outcome> {
    let writer = plan.writer();
    let churn = writer
        .map(|writer| Churn::start(stage, scene, writer))
        .transpose()?;
    let quiet = plan.without_faults();
    let setup = |plan, name, output| Setup {
        stage,
        scene,
        plan,
        churn: churn.as_ref(),
        name,
        output,
    };
    let (first, second) = (setup(plan, "a", &scene.output), setup(&quiet, "b", "out2"));
    let (outcome, other) = match plan.twice {
        true => thread::scope(|scope| {
            let other = scope.spawn(|| second.run());
            let outcome = first.run();
            (outcome, other.join().ok())
        }),
        false => (first.run(), None),
    };
    let (outcome, other) = (outcome?, other.transpose()?);
    let checked = |of, outcome, output: &str, has, other_has| Checked {
        plan: of,
        scene,
        outcome,
        churn: churn.as_ref(),
        output: scene.path(output),
        has,
        is_alone: !plan.twice,
        other_has,
    };
    let has = !scene.is_untouched();
    let other_has = plan.twice && scene.path("out2").exists();
    let mut first = checked(plan, &outcome, &scene.output, has, other_has);
    let mut let_go = first.let_go();
    if let Some(other) = &other {
        let mut second = checked(&quiet, other, "out2", other_has, has);
        let_go |= second.let_go();
        first.other_has |= second.let_go();
        second.other_has |= first.let_go();
        second.check(verdict);
        if has && other_has {
            verdict.add(Category::Owner, "two destinations have the guest");
        }
    }
    first.check(verdict);
    let handed_over = has || other_has || let_go || verdict.nowhere;
    again(
        stage,
        plan,
        scene,
        churn.as_ref(),
        &outcome,
        handed_over,
        verdict,
    )?;
    end(scene, churn, &outcome, verdict);
    Ok(outcome)
}

/// What an orchestrator does next: the same command once more.
fn again(
    stage: &Stage,
    plan: &Plan,
    scene: &mut Scene,
    churn: Option<&Churn>,
    outcome: &Outcome,
    handed_over: bool,
    verdict: &mut Verdict,
) -> io::Result<()> {
    let touched = outcome.fired.iter().any(|what| {
        matches!(
            what,
            What::Truncate | What::KillWriter | What::PauseWriter(_) | What::ContinueWriter
        )
    });
    if plan.after == After::Nothing || touched || !verdict.problems.is_empty() {
        return Ok(());
    }
    let paused = plan.writer().is_some_and(|writer| writer.paused);
    let by_commands = plan.writer().is_some_and(|writer| writer.by_commands);
    // Commands know nothing of an earlier migration, which is why the exit code must be looked at.
    if handed_over && by_commands {
        return Ok(());
    }
    let quiet = plan.without_faults();
    let stopped_before = churn.is_some_and(|churn| churn.process.is_stopped());
    scene.unmount();
    if scene.output != "out" {
        "out".clone_into(&mut scene.output);
    }
    scene.note_output();
    let setup = Setup {
        stage,
        scene,
        plan: &quiet,
        churn,
        name: "c",
        output: &scene.output,
    };
    if plan.after == After::AgainNowhere && plan.is_live() {
        let send = setup
            .send("unix:nowhere")?
            .finish()
            .map_or(Exit::Hangs, Exit::from);
        if send != Exit::Code(1) {
            verdict.add(
                Category::ExitCode,
                format!("a send to nowhere ended with {send}"),
            );
        }
    } else {
        let outcome = setup.run()?;
        let has = !scene.is_untouched();
        // A writer that stays stopped since its guard was killed may be anyone's. Commands are not
        // asked whether it is.
        let refused = match paused || by_commands {
            true => handed_over,
            false => (handed_over && plan.is_live()) || stopped_before,
        };
        if refused {
            if outcome.send == Exit::Code(0) || has {
                verdict.add(Category::Owner, "a guest was handed over twice");
            }
        } else {
            let checked = Checked {
                plan: &quiet,
                scene,
                outcome: &outcome,
                churn,
                output: scene.path(&scene.output),
                has,
                is_alone: true,
                other_has: false,
            };
            checked.check(verdict);
        }
    }
    if let Some(churn) = churn
        && stopped_before
        && !churn.process.is_stopped()
    {
        verdict.add(
            Category::Owner,
            "another attempt resumed a writer that was stopped",
        );
    }
    Ok(())
}

/// The writer's records are right, and nothing is left.
fn end(scene: &mut Scene, churn: Option<Churn>, outcome: &Outcome, verdict: &mut Verdict) {
    if let Some(churn) = churn {
        let truncated = outcome.fired.contains(&What::Truncate);
        if !runs_or_stopped(&churn) && !outcome.fired.contains(&What::KillWriter) {
            verdict.add(Category::Difference, "the writer has ended by itself");
        }
        drop(churn);
        if !truncated {
            let (image, records) = (scene.path(&scene.image), scene.path("records"));
            verify(&image, &records, "the image", verdict);
        }
    }
    for left in orphans(None) {
        verdict.add(Category::Leftover, format!("a process: {left}"));
    }
    let killed = outcome
        .fired
        .iter()
        .any(|what| matches!(what, What::Kill(_)));
    let left = scene.leftovers();
    // What was killed cannot clean up. The next attempt does, and those with an attempt are checked.
    let is_excused = killed || outcome.receive == Exit::None;
    if !left.is_empty() && !is_excused {
        verdict.add(Category::Leftover, left.join(", "));
    }
    scene.unmount();
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
            path: match self.path {
                Path::Exec => Path::File,
                path => path,
            },
            ..self.clone()
        }
    }
}
