//! `ramferry bench`: words to a [`bench::Request`], its report to words.

mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::advice::Goal;
use crate::bench::judge::compare;
use crate::bench::measure::axes::{Axes, Matrix};
use crate::bench::measure::memcpy::copy_threads;
use crate::bench::measure::methods;
use crate::bench::measure::preset::Preset;
use crate::bench::measure::scratch::{self, Scratch};
use crate::bench::measure::workload::Transport;
use crate::bench::peer::{self, PeerSpec};
use crate::bench::show::export::{Exports, Form};
use crate::bench::show::table::{self, Look, Sort};
use crate::bench::{self, Bench, BenchRequest};
use crate::caps::Caps;
use crate::error::{Error, Kind, Result};
use crate::grid::terminal_width;
use crate::image::{Guest, ImageFormat};
use crate::page::PAGE_SIZE;
use crate::params::Params;
use crate::synthetic::{self, Mix};
use crate::text::printable;
use crate::units::{format_bytes, format_duration, parse_duration, parse_size};

use super::format::FormatArg;
use super::output::{print, print_json, report as tell};
use super::params::{BenchParams, Checked};
use super::{exit_code, signals};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ramferry bench
  ramferry bench guest.ram --methods none,lz4,zstd:1-5,zlib:1,6 --runs 5 --report r.html
  ramferry bench guest.ram --preset links --max-time 5min --export-json r.json
  ramferry bench t0.ram --then t1.ram --then t2.ram --preset delta
  ramferry bench guest.ram --methods zstd:1 --compress-threads 1,2,4 --links 1Gbit,200Mbit/20ms
  ramferry bench --compare old.json new.json --fail-if-slower 5%
Every run is a real migration whose result is proven. The runs of all settings are interleaved, and
the table shows their medians; --json has every run. Ctrl-C ends it after the run in hand, and what
was measured is printed and exported; a second one ends it at once.")]
pub(super) struct BenchArgs {
    /// A raw RAM image or a guest folder; without one, a guest is synthesised
    image: Option<PathBuf>,
    /// The same guest's RAM at a later time: a delta round over what changed (may be repeated)
    #[arg(long, value_name = "IMAGE", requires = "image")]
    then: Vec<PathBuf>,
    #[command(flatten)]
    format: FormatArg,
    #[command(flatten)]
    matrix: MatrixArgs,
    #[command(flatten)]
    effort: EffortArgs,
    /// A QEMU whose own ways (of the bulk stage) are measured beside: qemu[:BINARY[,DATADIR]]
    #[arg(long, value_name = "PEER", value_parser = Checked(str::parse::<PeerSpec>))]
    peer: Option<PeerSpec>,
    /// What joins the two ends: unix or tcp
    #[arg(long, value_name = "KIND", default_value_t = Transport::Unix)]
    transport: Transport,
    /// The size of the synthesised guest
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256MiB",
        value_parser = image_size,
        conflicts_with = "image"
    )]
    synthetic: u64,
    /// What the synthesised guest is made from: equal seeds give equal guests
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "image")]
    seed: u64,
    /// What its pages hold: idle, busy, database or random [default: busy]
    #[arg(
        long,
        value_name = "MIX",
        value_parser = Checked(str::parse::<Mix>),
        long_help = "\
What the pages of the synthesised guest hold [default: busy]:
  idle      most of its memory was never used
  busy      little of its memory is free; the nearest to a real guest that was measured
  database  most of its memory holds tables
  random    nothing of it compresses"
    )]
    mix: Option<Mix>,
    /// A folder for temporary files, instead of /dev/shm or the system's
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    params: BenchParams,
}

/// What is compared: every combination of these.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What is compared")]
struct MatrixArgs {
    /// Where to start from: quick, levels, threads, links or delta
    #[arg(long, value_name = "NAME", default_value_t = Preset::Quick, value_parser = Checked(str::parse::<Preset>))]
    preset: Preset,
    /// Methods: METHOD, METHOD:LEVEL or METHOD:A-B, separated by commas
    #[arg(
        long,
        value_name = "LIST",
        conflicts_with_all = ["compress-method", "compress-level"],
        long_help = "\
Methods: METHOD, METHOD:LEVEL or METHOD:A-B, separated by commas. A bare level is one more of the \
method before it: zlib:1-3,9,zstd:1,3,lz4,none. A method without a level gets level 1.

Without this option: what --compress-method and --compress-level say, next to no compression; or, \
without those too, what the preset has."
    )]
    methods: Option<String>,
    /// Numbers of compressing threads: 1,2,4-8 [default: one a core]
    #[arg(long, value_name = "LIST")]
    compress_threads: Option<String>,
    /// Numbers of decompressing threads [default: 2]
    #[arg(long, value_name = "LIST")]
    decompress_threads: Option<String>,
    /// Pages in a batch [default: auto]
    #[arg(long, value_name = "LIST")]
    batch_pages: Option<String>,
    /// Numbers of connections [default: 1]
    #[arg(long, value_name = "LIST")]
    connections: Option<String>,
    /// Delta caches, for rounds over later images: off or sizes [default: 64MiB]
    #[arg(long, value_name = "LIST")]
    xbzrle: Option<String>,
    /// What compresses for zlib and gzip: libdeflate, zlib-rs [default: libdeflate]
    #[arg(long, value_name = "LIST")]
    zlib_engine: Option<String>,
    /// Links that are emulated: unlimited or RATE[/DELAY] [default: unlimited]
    #[arg(long, visible_alias = "link", value_name = "LIST")]
    links: Option<String>,
    /// Formats of the stream: native, qemu [default: native]
    #[arg(long, value_name = "LIST")]
    wire: Option<String>,
}

/// How thoroughly it is measured.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How it is measured")]
struct EffortArgs {
    /// How often each setting is measured, at least
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(3..=10_000)
    )]
    runs: u32,
    /// For how long each setting is measured, at least
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    min_time: Option<Duration>,
    /// How long all of it may take: what does not fit is left out, and named
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_time: Option<Duration>,
    /// What the recommendation is for: time, bytes, cpu or downtime
    #[arg(long, value_name = "GOAL", default_value_t = Goal::Time, value_parser = Checked(str::parse::<Goal>))]
    goal: Goal,
}

/// What is made of it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Results")]
struct OutputArgs {
    /// The order of the rows: given, time, bytes, ratio, cpu or downtime
    #[arg(long, value_name = "ORDER", default_value_t = Sort::Given, value_parser = Checked(str::parse::<Sort>))]
    sort: Sort,
    /// Print one JSON document instead of the table
    #[arg(long)]
    json: bool,
    /// Write the JSON document, with every run, to a file
    #[arg(long, value_name = "FILE")]
    export_json: Option<PathBuf>,
    /// Write a line for each setting to a file
    #[arg(long, value_name = "FILE")]
    export_csv: Option<PathBuf>,
    /// Write the table to a file, as Markdown
    #[arg(long, value_name = "FILE")]
    export_markdown: Option<PathBuf>,
    /// Write a page with charts to a file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Compare two files of --export-json instead of measuring
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with_all = ["image", "json"])]
    compare: Option<Vec<PathBuf>>,
    /// With --compare: end with exit code 6 if a setting got slower by more than this, beyond the noise
    #[arg(long, value_name = "PERCENT", requires = "compare", value_parser = Checked(compare::parse_percent))]
    fail_if_slower: Option<f64>,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

/// Reads the size of an image.
fn image_size(text: &str) -> Result<u64, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    if size > 0 && size.is_multiple_of(PAGE_SIZE as u64) {
        Ok(size)
    } else {
        Err(format!("a guest has whole pages of {PAGE_SIZE} bytes"))
    }
}

/// Whether the method or the level was given, rather than left at its default.
#[derive(Debug, Clone, Copy, Default)]
struct Given {
    method_or_level: bool,
}

impl clap::Args for Given {
    fn augment_args(command: clap::Command) -> clap::Command {
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        command
    }
}

impl clap::FromArgMatches for Given {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Given, clap::Error> {
        let mut given = Given::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        let given =
            |name| matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine);
        self.method_or_level = given("compress-method") || given("compress-level");
        Ok(())
    }
}

/// What is to be compared.
fn matrix(
    args: &MatrixArgs,
    given: Given,
    params: &Params,
    caps: &Caps,
    later_rounds: bool,
) -> Result<Matrix> {
    let usage = |error| Error::new(Kind::Usage, error);
    if args.preset == Preset::Delta && !later_rounds {
        let what = "the preset delta needs later images: give --then";
        return Err(Error::new(Kind::Usage, what));
    }
    let (list, level) = match &args.methods {
        Some(list) => (list.clone(), 1),
        None if given.method_or_level => (
            format!("none,{}", params.compress_method),
            params.compress_level,
        ),
        None => (args.preset.methods().to_owned(), 1),
    };
    let methods = methods::parse(&list, level).map_err(|error| Error::new(Kind::Usage, error))?;
    let cores = copy_threads();
    let params = Params {
        compress_threads: u8::try_from(cores).unwrap_or(u8::MAX),
        ..params.clone()
    };
    let mut axes = Axes::of(methods, &params, caps);
    args.preset.apply(&mut axes, cores);
    for (axis, list) in [
        ("compress-threads", &args.compress_threads),
        ("decompress-threads", &args.decompress_threads),
        ("batch-pages", &args.batch_pages),
        ("connections", &args.connections),
        ("xbzrle", &args.xbzrle),
        ("zlib-engine", &args.zlib_engine),
        ("links", &args.links),
        ("wire", &args.wire),
    ] {
        if let Some(list) = list {
            axes.set(axis, list).map_err(usage)?;
        }
    }
    axes.matrix(later_rounds).map_err(usage)
}

/// The files to write.
fn exports(args: &OutputArgs, images: &[&Path]) -> Result<Exports> {
    let files: Vec<(Form, PathBuf)> = [
        (Form::Json, &args.export_json),
        (Form::Csv, &args.export_csv),
        (Form::Markdown, &args.export_markdown),
        (Form::Html, &args.report),
    ]
    .into_iter()
    .filter_map(|(form, path)| Some((form, path.clone()?)))
    .collect();
    Exports::open(&files, images, args.sort)
}

/// Compares two documents instead of measuring.
fn compare_files(old: &Path, new: &Path, fail_if_slower: Option<f64>) -> Result<()> {
    let comparison = compare::files(old, new)?;
    print(&comparison.text())?;
    let Some(percent) = fail_if_slower else {
        return Ok(());
    };
    let slower = comparison.slower(percent);
    let names: Vec<&str> = slower.iter().map(|row| &row.name[..]).collect();
    if names.is_empty() {
        return Ok(());
    }
    let what = format!("slower by more than {percent} %: {}", names.join("; "));
    Err(Error::new(Kind::Slower, what))
}

pub(super) fn run(args: BenchArgs) -> Result<()> {
    if let Some([old, new]) = args.output.compare.as_deref() {
        return compare_files(old, new, args.output.fail_if_slower);
    }
    if let (Some(mix), Some(image)) = (args.mix, &args.image) {
        let what = format!(
            "--mix {mix} is for a guest that is synthesised, and '{}' is an image: give one of them",
            printable(&image.display().to_string())
        );
        return Err(Error::new(Kind::Usage, what));
    }
    let mix = args.mix.unwrap_or_default();
    let (params, caps) = args.params.into_parts(Caps::default())?;
    let matrix = matrix(
        &args.matrix,
        args.given,
        &params,
        &caps,
        !args.then.is_empty(),
    )?;
    let images: Vec<&Path> = args
        .image
        .iter()
        .chain(&args.then)
        .map(PathBuf::as_path)
        .collect();
    let exports = exports(&args.output, &images)?;
    let quiet = args.output.quiet;
    // Before anything is made that a signal would leave behind.
    let interrupted = interrupt_on_signal()?;

    let (scratch, image) = match &args.image {
        Some(image) => {
            let peer = args.peer.as_ref().map_or(0, |_| peer_bytes(image));
            let bytes = output_bytes(image, &args.then, args.format.into())?.max(peer);
            (scratch_for(args.scratch, bytes)?, None)
        }
        None => {
            // The image, and what arrives of it; a peer needs a whole copy of it besides.
            let copies = 2 + u64::from(args.peer.is_some());
            let scratch = scratch_for(args.scratch, args.synthetic.saturating_mul(copies))?;
            let image = scratch.path().join("guest.ram");
            if !quiet {
                tell(&format!(
                    "synthesising a guest of {} ({mix}, seed {}) in {}",
                    format_bytes(args.synthetic),
                    args.seed,
                    scratch.parent().display()
                ));
            }
            synthesise(&image, args.synthetic, (mix, args.seed), &interrupted)?;
            (scratch, Some(image))
        }
    };
    let request = BenchRequest {
        synthetic: image.is_some().then_some((mix, args.seed)),
        image: image.or(args.image).unwrap_or_default(),
        image_format: args.format.into(),
        then: args.then,
        settings: matrix.settings,
        notes: matrix.notes,
        runs: args.effort.runs,
        min_time: args.effort.min_time.unwrap_or_default(),
        max_time: args.effort.max_time,
        goal: args.effort.goal,
        transport: args.transport,
        params,
        caps,
        peer: args.peer,
    };
    let mut bench = Bench::prepare(request, &scratch)?;
    if !quiet {
        for line in announcement(&bench) {
            tell(&line);
        }
    }
    let mut view = view::View::new(&bench, &exports, quiet);
    let outcome = bench.measure(&interrupted, &mut view);
    drop(view);
    let report = bench.report();
    // The outcome of what was measured weighs more than that of writing it down.
    let exported = exports.write(&report, true);
    if args.output.json {
        print_json(&report)?;
    } else if report.has_runs() {
        // Of a comparison that was interrupted, what there is.
        let look = look();
        print(&format!(
            "{}\n{}",
            table::table(&report, args.output.sort, look),
            table::recommendations(&report, Some(look.width))
        ))?;
        if !quiet && args.output.report.is_none() {
            tell("with --report FILE.html there are charts of it");
        }
        if !quiet && report.image.mix.is_some() {
            tell("with an image of a guest of yours, the numbers are that guest's");
        }
    }
    let peer = bench.peer_failure().map_or(Ok(()), Err);
    outcome.and(exported).and(peer)
}

/// As wide as the terminal, and with dimmed rows on one.
fn look() -> Look {
    let usual = Look::default();
    match terminal_width() {
        Some(width) => Look { dim: true, width },
        _ => usual,
    }
}

/// What will be done, and how long that will take.
fn announcement(bench: &Bench) -> Vec<String> {
    let mut lines: Vec<String> = bench
        .notes()
        .iter()
        .map(|note| format!("note: {note}"))
        .collect();
    if !bench.dropped().is_empty() {
        lines.push(format!(
            "left out to fit into --max-time: {}",
            bench.dropped().join("; ")
        ));
    }
    lines.push(format!(
        "{} runs of each setting are expected to take {}",
        bench.runs(),
        format_duration(bench.expected())
    ));
    lines
}

/// A folder for temporary files, where the user says or where there is room.
fn scratch_for(parent: Option<PathBuf>, bytes: u64) -> Result<Scratch> {
    match parent {
        Some(parent) => Scratch::new_in(&parent),
        None => Scratch::with_room_for(bytes),
    }
}

/// The most that a peer's copy of the image and what arrives there may take.
fn peer_bytes(image: &Path) -> u64 {
    let bytes = std::fs::metadata(image).map_or(0, |about| about.len());
    bytes.saturating_mul(2)
}

/// The most that what arrives may take.
fn output_bytes(image: &Path, then: &[PathBuf], format: ImageFormat) -> Result<u64> {
    let mut bytes = 0_u64;
    for image in std::iter::once(image).chain(then.iter().map(PathBuf::as_path)) {
        bytes = bytes.saturating_add(bench::data_bytes(&Guest::open_as(image, format)?)?);
    }
    Ok(bytes)
}

fn synthesise(
    image: &Path,
    bytes: u64,
    (mix, seed): (Mix, u64),
    interrupted: &AtomicBool,
) -> Result<()> {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot write the synthesised guest '{}'", image.display())]
    struct NotWritten {
        image: PathBuf,
        #[source]
        source: io::Error,
    }
    synthetic::write_mix(image, bytes, mix, seed, interrupted).map_err(|source| {
        if source.kind() == io::ErrorKind::Interrupted {
            return Error::interrupted();
        }
        let image = image.to_owned();
        Error::new(Kind::Failed, NotWritten { image, source })
    })
}

/// What becomes true with SIGINT or SIGTERM; a second one ends the program.
fn interrupt_on_signal() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    signals::on_each(signals::catch()?, move || {
        if flag.swap(true, Ordering::Relaxed) {
            peer::kill_all();
            scratch::remove_all();
            std::process::exit(i32::from(exit_code(Kind::Interrupted)));
        }
    })?;
    Ok(interrupted)
}

#[cfg(test)]
mod tests;
