//! `ramferry bench`: options to a benchmark, its report to tables and files.

mod args;
mod console;
mod plan;
mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::bench::judge::compare;
use crate::bench::measure::scratch::Scratch;
use crate::bench::show::export::Exports;
use crate::bench::show::terminal::{self, Look};
use crate::bench::{self, Bench};
use crate::error::{Error, Kind, Result};
use crate::grid::terminal_width;
use crate::image::{Guest, ImageFormat, Later};
use crate::synthetic::{self, Mix};
use crate::text::printable;
use crate::units::format_bytes;

use super::output::{print, print_json};
pub(super) use args::BenchArgs;
use console::Console;
use plan::{BenchPlan, CompareFiles, ImageSource, Measurement};
use view::View;

pub(super) fn run(args: BenchArgs) -> Result<()> {
    match BenchPlan::new(args)? {
        BenchPlan::Compare(files) => compare_files(&files),
        BenchPlan::Measure(plan) => measure(&plan),
    }
}

/// Compares two reports instead of measuring.
fn compare_files(files: &CompareFiles) -> Result<()> {
    let comparison = compare::files(&files.old, &files.new)?;
    let gate = files
        .fail_if_slower
        .map(|percent| (percent, comparison.gate(percent)));
    if files.json {
        let gate = gate.as_ref().map(|(percent, outcome)| {
            let verdict = match outcome {
                Ok(()) => "passed",
                Err(error) if error.kind() == Kind::Slower => "slower",
                Err(_) => "cannot-tell",
            };
            serde_json::json!({ "percent": percent, "verdict": verdict })
        });
        let mut document = serde_json::json!(&comparison);
        document["fail-if-slower"] = gate.into();
        print_json(&document)?;
    } else {
        print(&comparison.text())?;
    }
    gate.map_or(Ok(()), |(_, outcome)| outcome)
}

fn measure(plan: &Measurement) -> Result<()> {
    let exports = plan.exports()?;
    let console = Console::new(plan.quiet);
    // Before anything is created that a signal would leave behind.
    let stop = console.stop_on_signals()?;
    let (scratch, image) = place(plan, &console, &stop)?;
    let mut bench = Bench::prepare(plan.request(&image), &scratch)?;
    for note in notes(&bench) {
        console.line(&note);
    }
    if plan.dry_run {
        return print(&forecast(&bench));
    }
    console.line(&announcement(&bench));
    let outcome = bench.measure(&stop, &mut View::new(&bench, &exports, &console));
    console.end_bar();
    finish(plan, &bench, &exports, &console, outcome)
}

/// Prints and exports the results. After an interrupted benchmark, those that there are.
fn finish(
    plan: &Measurement,
    bench: &Bench,
    exports: &Exports,
    console: &Console,
    outcome: Result<()>,
) -> Result<()> {
    let report = bench.report();
    let exported = exports.write(&report);
    if !report.has_runs() {
        for path in exports.older() {
            let path = printable(&path.display().to_string());
            console.line(&format!("nothing was measured: '{path}' stays as it was"));
        }
    } else if exported.is_ok() {
        console.keeps(exports.kept());
    }
    console.over();
    if plan.json {
        print_json(&report)?;
    } else if report.has_runs() {
        let look = look(plan.verbose);
        print(&terminal::summary(&report, plan.sort, look))?;
        if exports.is_empty() {
            console.line("tip: --report FILE.html draws charts");
        }
        if report.image.mix.is_some() {
            console.line("tip: pass an image of your own guest to measure it instead");
        }
    }
    // Last, because their readers may let them wait.
    let exported = exported.and_then(|()| exports.write_pipes(&report));
    let peer = bench.peer_failure().map_or(Ok(()), Err);
    // A failed measurement matters more than a failed export.
    outcome.and(exported).and(peer)
}

/// As wide as the terminal, with rows of less interest dimmed on one.
fn look(verbose: bool) -> Look {
    let (dim, width) = match terminal_width() {
        Some(width) => (true, width),
        None => (false, Look::default().width),
    };
    Look {
        dim,
        width,
        codecs: verbose,
    }
}

/// Finds room for the received RAM, and for the guest if that is synthetic; gives the guest's path.
fn place(plan: &Measurement, console: &Console, stop: &AtomicBool) -> Result<(Scratch, PathBuf)> {
    match &plan.image {
        ImageSource::File(image) => {
            let peer = plan.peer.as_ref().map_or(0, |_| peer_bytes(image));
            let bytes = output_bytes(image, &plan.then, plan.image_format)?.max(peer);
            let scratch = Scratch::with_room_for(bytes, plan.scratch.as_deref())?;
            Ok((scratch, image.clone()))
        }
        ImageSource::Synthetic { bytes, mix, seed } => {
            // The image and the received RAM; a peer needs another copy of the image.
            let copies = 2 + u64::from(plan.peer.is_some());
            let needed = bytes.saturating_mul(copies);
            let scratch = Scratch::with_room_for(needed, plan.scratch.as_deref())?;
            let image = scratch.path().join("guest.ram");
            console.line(&format!(
                "synthesising a guest of {} ({mix}, seed {seed}) in {}",
                format_bytes(*bytes),
                scratch.parent().display()
            ));
            synthesise(&image, *bytes, (*mix, *seed), console, stop)?;
            Ok((scratch, image))
        }
    }
}

/// The most that a peer's copy of the image and its received RAM may take.
fn peer_bytes(image: &Path) -> u64 {
    let bytes = std::fs::metadata(image).map_or(0, |about| about.len());
    bytes.saturating_mul(2)
}

/// The most that the received RAM may take.
fn output_bytes(image: &Path, then: &[Later], format: ImageFormat) -> Result<u64> {
    let mut bytes = 0_u64;
    for image in std::iter::once(image).chain(then.iter().map(|later| later.path.as_path())) {
        bytes = bytes.saturating_add(bench::data_bytes(&Guest::open_as(image, format)?)?);
    }
    Ok(bytes)
}

fn synthesise(
    image: &Path,
    bytes: u64,
    (mix, seed): (Mix, u64),
    console: &Console,
    stop: &AtomicBool,
) -> Result<()> {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot write the synthetic guest '{}'", image.display())]
    struct GuestNotWritten {
        image: PathBuf,
        #[source]
        source: io::Error,
    }
    console.start_bar(bytes);
    let mut go_on = |done: u64| {
        console.bar(|bar| {
            bar.set_position(done);
            bar.set_message(format!("{} of RAM", format_bytes(done)));
        });
        !stop.load(Ordering::Relaxed)
    };
    let written = synthetic::write_mix(image, bytes, mix, seed, &mut go_on);
    console.end_bar();
    written.map_err(|source| {
        if source.kind() == io::ErrorKind::Interrupted {
            return Error::interrupted();
        }
        let image = image.to_owned();
        Error::new(Kind::Failed, GuestNotWritten { image, source })
    })
}

/// Notes for the user before the first run.
fn notes(bench: &Bench) -> Vec<String> {
    let notes = bench.notes().iter().map(|note| format!("note: {note}"));
    let dropped = bench.dropped();
    let dropped = (!dropped.is_empty())
        .then(|| format!("left out to fit into --max-time: {}", dropped.join("; ")));
    notes.chain(dropped).collect()
}

/// What follows, and how long it will take.
fn announcement(bench: &Bench) -> String {
    let runs = match bench.runs() {
        1 => "1 run".to_owned(),
        runs => format!("{runs} runs"),
    };
    let expected = about(bench.expected());
    format!("{runs} of each setting, expected to take about {expected}")
}

/// Every setting with the expected time of a run, and all of it together.
fn forecast(bench: &Bench) -> String {
    let each = bench.forecast();
    let width = each.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or(0);
    let mut text: String = each
        .iter()
        .map(|(name, time)| format!("{name:width$}  {:>7} a run\n", about(*time)))
        .collect();
    text.push_str(&announcement(bench));
    text.push('\n');
    text
}

/// A duration that is only a forecast, with two significant digits.
fn about(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 0.095 => format!("{:.0} ms", s * 1e3),
        s if s < 0.95 => format!("{:.0} ms", (s * 100.0).round() * 10.0),
        s if s < 9.5 => format!("{s:.1} s"),
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 570.0 => format!("{:.1} min", s / 60.0),
        s if s < 5970.0 => format!("{:.0} min", s / 60.0),
        s if s < 34_200.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests;
