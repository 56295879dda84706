//! What must hold after a run: exit codes tell what happened, one end at most has the guest, what
//! arrived is what the writer left, everything else is as it was, and nothing is left over.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ramferry::writer::churn;
use serde::{Deserialize, Serialize};

use crate::child::Process;
use crate::plan::{self, Disk, End, Plan, What, Wire};
use crate::run::{Churn, Exit, Outcome};
use crate::scene::Scene;

/// A kind of broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Category {
    /// What arrived is not what was sent, or the writer's records are broken.
    Difference,
    /// An end that did not end.
    Hang,
    /// A file, a socket or a process that stayed.
    Leftover,
    /// Both ends run the guest, or none does although a promise says so.
    Owner,
    /// An exit code or a pair of them that is not documented for what happened.
    ExitCode,
    /// An older output was touched, or an output came from a failure.
    Output,
    /// A message or JSON that does not fit the exit code.
    Message,
    /// The campaign itself failed.
    Campaign,
}

pub(crate) type Problem = (Category, String);

/// What is said of a run in the end.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) problems: Vec<Problem>,
    /// The source was killed after it let go of the writer and before Commit passed: the guest runs
    /// nowhere, as documented.
    pub(crate) nowhere: bool,
    /// A bit was flipped on QEMU's wire and arrived.
    pub(crate) unseen: bool,
}

impl Verdict {
    pub(crate) fn add(&mut self, category: Category, what: impl Into<String>) {
        self.problems.push((category, what.into()));
    }

    fn unless(&mut self, holds: bool, category: Category, what: impl Into<String>) {
        if !holds {
            self.add(category, what);
        }
    }
}

/// What a check looks at.
pub(crate) struct Checked<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) scene: &'a Scene,
    pub(crate) outcome: &'a Outcome,
    pub(crate) churn: Option<&'a Churn>,
    pub(crate) output: PathBuf,
    /// Whether the destination has the guest: its output is there.
    pub(crate) has: bool,
    /// Whether no other source sent the guest at the same time.
    pub(crate) is_alone: bool,
    /// Whether the other of two sends at once got the guest, or may have.
    pub(crate) other_has: bool,
}

impl Checked<'_> {
    fn fired(&self, what: impl Fn(&What) -> bool) -> bool {
        self.outcome.fired.iter().any(what)
    }

    fn printed(&self, end: End) -> String {
        let outcome = self.outcome;
        match end {
            End::Source => outcome.send_err.clone() + &outcome.send_out,
            End::Destination => outcome.receive_err.clone() + &outcome.receive_out,
        }
    }

    fn failed(exit: Exit) -> bool {
        matches!(exit, Exit::Code(1..=4 | 130))
    }

    /// Whether the exit code says that the writer was let go, or may have been.
    pub(crate) fn let_go(&self) -> bool {
        matches!(self.outcome.send, Exit::Code(0 | 5))
            || self.outcome.send_err.contains("the writer stays stopped")
    }

    /// Whether the destination has, or may have, the guest. One that says that it does not take over
    /// does not.
    pub(crate) fn handed_over(&self) -> bool {
        let declined = "though the destination did not take over";
        self.has || (self.let_go() && !self.outcome.send_err.contains(declined))
    }

    pub(crate) fn check(&self, verdict: &mut Verdict) {
        self.check_ends(verdict);
        self.check_pair(verdict);
        self.check_output(verdict);
        self.check_messages(verdict);
        if let Some(churn) = self.churn {
            self.check_owner(churn, verdict);
        }
    }

    /// Each exit code is one that what happened allows.
    fn check_ends(&self, verdict: &mut Verdict) {
        let ends = [
            (End::Source, self.outcome.send),
            (End::Destination, self.outcome.receive),
        ];
        for (end, exit) in ends {
            let ended = self.fired(|what| {
                matches!(what, What::Terminate(at) | What::Interrupt(at) | What::Cancel(at) if *at == end)
            });
            let dismissed = end == End::Destination && self.outcome.dismissed;
            let allowed = match exit {
                Exit::Code(0 | 1 | 3 | 4) => true,
                Exit::Code(5) => end == End::Source,
                Exit::Code(130) => ended || dismissed,
                // It comes before the program can do anything about it, and has done anything.
                Exit::Signal(2 | 15) => ended && self.printed(end).is_empty(),
                Exit::Signal(9) => self.fired(|what| *what == What::Kill(end)),
                Exit::None => self.plan.path == plan::Path::Pipe || self.outcome.send == Exit::None,
                Exit::Hangs => {
                    verdict.add(Category::Hang, format!("the {end:?} hangs"));
                    true
                }
                _ => false,
            };
            let what = format!("the {end:?} ended with {exit}");
            verdict.unless(allowed, Category::ExitCode, what);
        }
        let fine = (self.outcome.send, self.outcome.receive) == (Exit::Code(0), Exit::Code(0));
        if self.must_work() && !fine {
            let (send, receive) = (self.outcome.send, self.outcome.receive);
            verdict.add(
                Category::ExitCode,
                format!("nothing went wrong, and it ended with {send}/{receive}"),
            );
        }
    }

    /// Whether nothing happened that a migration may fail for.
    fn must_work(&self) -> bool {
        let harmless = |what: &What| matches!(what, What::Pause(_, ..=200));
        self.outcome.fired.iter().all(harmless)
            && self.is_alone
            && !matches!(self.plan.disk, Disk::Small(_))
            && !self.plan.has(|what| matches!(what, What::Pause(_, 201..)))
    }

    fn check_pair(&self, verdict: &mut Verdict) {
        let (send, receive) = (self.outcome.send, self.outcome.receive);
        // Who sends to a file or a pipe hears nothing of what becomes of it.
        if self.plan.path.has_relay() {
            if send == Exit::Code(0) {
                let why = "the source says that it arrived, and there is no output";
                verdict.unless(self.has, Category::Owner, why);
            }
            // A flipped bit made a QEMU's 0 a 1. The writer stays stopped.
            let is_misread = self.plan.wire == Wire::Qemu
                && self.fired(|what| matches!(what, What::Flip(_)))
                && self.let_go();
            if self.has && is_misread {
                verdict.unseen = true;
            } else if self.has && Self::failed(send) {
                let why =
                    format!("the source ended with {send}, and the destination has the guest");
                verdict.add(Category::Owner, why);
            }
        }
        if receive == Exit::Code(0) {
            let why = "the destination says that it arrived, and there is no output";
            verdict.unless(self.has, Category::Output, why);
        }
        if self.has && !matches!(receive, Exit::Code(0) | Exit::Signal(9) | Exit::None) {
            let why = format!("the destination ended with {receive}, and there is a new output");
            verdict.add(Category::Output, why);
        }
    }

    fn check_output(&self, verdict: &mut Verdict) {
        if !self.has {
            return;
        }
        let copy = match self.output.is_dir() {
            true => self.output.join("pc.ram"),
            false => self.output.clone(),
        };
        let (Ok(arrived), Ok(sent)) =
            (std::fs::read(&copy), std::fs::read(self.scene.last_image()))
        else {
            verdict.add(Category::Output, "the output cannot be read");
            return;
        };
        // QEMU's wire has no checksums.
        if self.plan.wire == Wire::Qemu && self.fired(|what| matches!(what, What::Flip(_))) {
            verdict.unseen = arrived != sent;
            return;
        }
        // Who resumes a writer that was handed over has two guests.
        let others = self.outcome.resumed_late || self.fired(|what| *what == What::Truncate);
        if arrived != sent && !others {
            let differ = arrived
                .chunks(4096)
                .zip(sent.chunks(4096))
                .filter(|(a, b)| a != b);
            let (count, lengths) = (differ.count(), (arrived.len(), sent.len()));
            let why = format!("{count} pages differ; bytes: {lengths:?}");
            verdict.add(Category::Difference, why);
        }
        if self.churn.is_some() && !others {
            verify(&copy, &self.scene.path("records"), "the output", verdict);
        }
    }

    fn check_owner(&self, churn: &Churn, verdict: &mut Verdict) {
        let outcome = self.outcome;
        if outcome.resumed_late || self.fired(|what| *what == What::KillWriter) {
            return;
        }
        let others = self.fired(|what| matches!(what, What::ContinueWriter | What::PauseWriter(_)));
        if self.plan.writer().is_some_and(|writer| writer.paused) && !others {
            let stays = churn.process.is_stopped();
            verdict.unless(stays, Category::Owner, "a paused writer was resumed");
            return;
        }
        let killed =
            outcome.send == Exit::Signal(9) && self.fired(|what| *what == What::Kill(End::Source));
        let guarded = !self.fired(|what| *what == What::KillGuard)
            && !self.plan.writer().is_some_and(|writer| writer.by_commands);
        // Its guard resumes it when the source is dead, which takes a moment.
        let runs = match killed && guarded && !self.has {
            true => runs_soon(&churn.process),
            false => !churn.process.is_stopped(),
        };
        if self.has || self.other_has {
            verdict.unless(!runs, Category::Owner, "the guest runs at both ends");
            return;
        }
        if self.let_go() {
            verdict.unless(!runs, Category::Owner, "the writer was let go, and runs");
            return;
        }
        if runs {
            return;
        }
        if killed && !guarded {
            return;
        }
        let may_be_in_the_gap =
            outcome.seen.proven.load(Ordering::Acquire) || self.plan.wire == Wire::Qemu;
        if killed && (may_be_in_the_gap || !self.plan.path.has_relay()) {
            verdict.nowhere = true;
            return;
        }
        verdict.add(
            Category::Owner,
            format!(
                "the source ended with {}, and the writer stays stopped",
                outcome.send
            ),
        );
    }

    fn check_messages(&self, verdict: &mut Verdict) {
        let (outcome, plan) = (self.outcome, self.plan);
        let (sent, received) = (&outcome.send_err, &outcome.receive_err);
        for (end, exit, err, out, args) in [
            (
                End::Source,
                outcome.send,
                sent,
                &outcome.send_out,
                &plan.send,
            ),
            (
                End::Destination,
                outcome.receive,
                received,
                &outcome.receive_out,
                &plan.receive,
            ),
        ] {
            for words in ["panicked", "hangs", "RUST_BACKTRACE", "stack overflow"] {
                let what = format!("the {end:?} printed '{words}': {}", last(err));
                verdict.unless(!err.contains(words), Category::Message, what);
            }
            let Exit::Code(code) = exit else { continue };
            let lines = err.lines().filter(|line| line.starts_with("error: "));
            let errors = lines.count();
            let has_room = plan.full != Some(end);
            // Who fails before it begins has no report.
            let expected = match (code != 0, has_room) {
                (false, true) => errors == 0,
                (true, true) | (false, false) => errors == 1,
                (true, false) => errors == 1 || errors == 2,
            };
            let is_asked = plan.monitored && end == End::Source;
            let is_lost = plan.path == plan::Path::Pipe
                || is_asked
                || self.fired(|what| *what == What::FileLimit);
            if !(expected || is_lost) {
                let what = format!("{errors} errors with {code} by the {end:?}: {}", last(err));
                verdict.add(Category::Message, what);
            }
            let has_json = is_asked || args.iter().any(|arg| arg == "--json");
            if has_json && has_room {
                check_json(end, code, out, verdict);
            }
        }
    }
}

/// The JSON of an end says the same as its exit code.
fn check_json(end: End, code: i32, out: &str, verdict: &mut Verdict) {
    let guest = match code {
        0 => "destination",
        5 => "unknown",
        _ => "source",
    };
    let Some(at) = out.find('{') else {
        // Who fails before it begins prints none.
        let what = format!("the {end:?} printed no JSON");
        verdict.unless(code != 0, Category::Message, what);
        return;
    };
    let says_so = serde_json::from_str::<serde_json::Value>(&out[at..])
        .is_ok_and(|json| json["guest"] == guest && (json["status"] == "completed") == (code == 0));
    let what = format!(
        "the {end:?} ended with {code}, and its JSON is {}",
        &out[at..]
    );
    verdict.unless(says_so, Category::Message, what);
}

fn last(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

/// Whether a process that should run does, within a moment.
pub(crate) fn runs_soon(process: &Process) -> bool {
    let started = Instant::now();
    while process.is_stopped() {
        if started.elapsed() > Duration::from_secs(5) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Whether an image holds what its writer's records say.
pub(crate) fn verify(image: &Path, records: &Path, which: &str, verdict: &mut Verdict) {
    let verified = churn::verify(image, records).and_then(|verified| verified.into_result(image));
    if let Err(error) = verified {
        verdict.add(
            Category::Difference,
            format!("{which} is not what the writer left: {}", error.one_line()),
        );
    }
}
