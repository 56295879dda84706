//! `ramferry bench`: words to a [`bench::Request`], its report to words.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::bench::measurement::Transport;
use crate::bench::scratch::{self, Scratch};
use crate::bench::sweep::{self, Setting};
use crate::bench::{self, Bench, Task, synthetic};
use crate::caps::Caps;
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::page::PAGE_SIZE;
use crate::params::Params;
use crate::stats::{Snapshot, Status};
use crate::units::{format_bytes, format_duration, parse_size};

use super::params::BothArgs;
use super::{print_json, unprintable};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ramferry bench
  ramferry bench guest.ram --methods none,lz4,zstd:1-5,zlib:1,zlib:6 --runs 5
  ramferry bench t0.ram --then t1.ram --then t2.ram --compress-threads 4
  ramferry bench guest.ram --link 1Gbit/5ms --json > result.json
Every run is a real migration whose result is proven. The runs of all settings are interleaved, and
the table shows their medians; --json has every run.")]
pub(super) struct BenchArgs {
    /// A raw RAM image; without one, a guest is synthesised
    image: Option<PathBuf>,
    /// The same guest's RAM at a later time: a delta round over what changed (may be repeated)
    #[arg(long, value_name = "IMAGE", requires = "image")]
    then: Vec<PathBuf>,
    /// What to compare: METHOD, METHOD:LEVEL or METHOD:A-B, separated by commas
    #[arg(
        long,
        value_name = "LIST",
        conflicts_with_all = ["compress-method", "compress-level"],
        long_help = "\
What to compare: METHOD, METHOD:LEVEL or METHOD:A-B, separated by commas. A method without a level \
gets level 1.

Without this option: what --compress-method and --compress-level say, next to no compression; or, \
without those too, none,lz4,zstd:1,zstd:3,zlib:1,zlib:6."
    )]
    methods: Option<String>,
    /// How often each setting is measured
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    runs: u32,
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
    /// A folder for temporary files, instead of /dev/shm or the system's
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Print one JSON document instead of the table
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    params: BothArgs,
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
fn settings(methods: Option<&str>, given: Given, params: &Params) -> Result<Vec<Setting>> {
    let list = match methods {
        Some(list) => list,
        None if !given.method_or_level => return Ok(sweep::QUICK.to_vec()),
        None => &format!("none,{}", params.compress_method),
    };
    sweep::parse(list, params.compress_level).map_err(|error| Error::new(Kind::Usage, error))
}

pub(super) fn run(args: BenchArgs) -> Result<()> {
    let (params, caps) = args.params.into_parts(Caps::default())?;
    let settings = settings(args.methods.as_deref(), args.given, &params)?;
    // Before anything is made that a signal would leave behind.
    let interrupted = interrupt_on_signal()?;

    let (scratch, image) = match &args.image {
        Some(image) => (
            scratch_for(args.scratch, output_bytes(image, &args.then)?)?,
            None,
        ),
        None => {
            // The image, and what arrives of it.
            let scratch = scratch_for(args.scratch, args.synthetic.saturating_mul(2))?;
            let image = scratch.path().join("guest.ram");
            if !args.quiet {
                tell(&format!(
                    "synthesising a guest of {} (seed {}) in {}: its mix of pages is modelled on \
                     measured guests, but an image of yours says more",
                    format_bytes(args.synthetic),
                    args.seed,
                    scratch.parent().display()
                ));
            }
            synthesise(&image, args.synthetic, args.seed, &interrupted)?;
            (scratch, Some(image))
        }
    };
    let request = bench::Request {
        seed: image.is_some().then_some(args.seed),
        image: image.or(args.image).unwrap_or_default(),
        then: args.then,
        settings,
        runs: args.runs,
        transport: args.transport,
        params,
        caps,
    };
    let mut bench = Bench::prepare(request, &scratch)?;
    let outcome = if args.quiet {
        bench.measure(&interrupted, &mut ())
    } else {
        let mut view = View::new(bench.tasks(), args.runs);
        bench.measure(&interrupted, &mut view)
    };
    let report = bench.report();
    if args.json {
        print_json(&report)?;
    } else if report.has_runs() {
        // Of a comparison that was interrupted, what there is.
        print_text(&report.table())?;
    }
    outcome
}

/// A folder for temporary files, where the user says or where there is room.
fn scratch_for(parent: Option<PathBuf>, bytes: u64) -> Result<Scratch> {
    match parent {
        Some(parent) => Scratch::new_in(&parent),
        None => Scratch::with_room_for(bytes),
    }
}

/// The most that what arrives may take.
fn output_bytes(image: &Path, then: &[PathBuf]) -> Result<u64> {
    let mut bytes = 0_u64;
    for image in std::iter::once(image).chain(then.iter().map(PathBuf::as_path)) {
        bytes = bytes.saturating_add(bench::data_bytes(&Guest::open(image)?)?);
    }
    Ok(bytes)
}

fn synthesise(image: &Path, bytes: u64, seed: u64, interrupted: &AtomicBool) -> Result<()> {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot write the synthesised guest '{}'", image.display())]
    struct NotWritten {
        image: PathBuf,
        #[source]
        source: io::Error,
    }
    synthetic::write_unless(image, bytes, seed, interrupted).map_err(|source| {
        if source.kind() == io::ErrorKind::Interrupted {
            return Error::interrupted();
        }
        let image = image.to_owned();
        Error::new(Kind::Failed, NotWritten { image, source })
    })
}

/// What becomes true with SIGINT or SIGTERM; a second one ends the program.
fn interrupt_on_signal() -> Result<Arc<AtomicBool>> {
    let failed = |error| Error::new(Kind::Failed, error).in_stage("start");
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                if flag.swap(true, Ordering::Relaxed) {
                    scratch::remove_all();
                    std::process::exit(i32::from(Kind::Interrupted.exit_code()));
                }
            }
        })
        .map_err(failed)?;
    Ok(interrupted)
}

/// Says something on standard error. It may be closed: that is no reason not to go on.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints on standard output; a reader that has gone is no error.
fn print_text(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(unprintable),
    }
}

/// Steps of the bar for each task.
const STEPS: u64 = 1000;

/// Shows a comparison on standard error: a bar on a terminal, a line for each task elsewhere.
struct View {
    bar: Option<ProgressBar>,
    tasks: usize,
    runs: u32,
    /// Where the task in hand begins.
    base: u64,
    name: String,
}

impl View {
    fn new(tasks: usize, runs: u32) -> View {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(tasks as u64 * STEPS);
            if let Ok(style) =
                ProgressStyle::with_template("[{bar:30}] {percent:>3}%  {msg}  ETA {eta}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        View {
            bar,
            tasks,
            runs,
            base: 0,
            name: String::new(),
        }
    }

    /// The task in words.
    fn words(&self, task: &Task) -> String {
        if task.run == 0 {
            format!("warming up with {}", task.name)
        } else {
            format!("run {} of {}: {}", task.run, self.runs, task.name)
        }
    }
}

impl bench::Watch for View {
    fn begin(&mut self, task: &Task) {
        self.base = task.number as u64 * STEPS;
        self.name = self.words(task);
        if let Some(bar) = &self.bar {
            bar.set_position(self.base);
            bar.set_message(self.name.clone());
        }
    }

    fn progress(&mut self, now: &Snapshot) {
        let Some(bar) = &self.bar else { return };
        bar.set_position(self.base + part_done(now));
        let done = format_bytes(now.total.pages() * PAGE_SIZE as u64);
        bar.set_message(format!("{}, {done} of RAM", self.name));
    }

    fn end(&mut self, task: &Task, time: Duration) {
        match &self.bar {
            Some(bar) => bar.set_position(self.base + STEPS),
            None => tell(&format!(
                "{} of {}: {}, {}",
                task.number + 1,
                self.tasks,
                self.name,
                format_duration(time)
            )),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How much of a migration is done, of [`STEPS`]: the bulk stage is nearly all of it.
fn part_done(now: &Snapshot) -> u64 {
    let ram_pages = now.ram_bytes / PAGE_SIZE as u64;
    if now.round > 1 || now.status == Status::Device {
        STEPS * 9 / 10
    } else {
        // Before the first round there are no pages at all.
        now.total.pages().min(ram_pages) * (STEPS * 9 / 10) / ram_pages.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn args(words: &[&str]) -> Result<BenchArgs, clap::Error> {
        match Cli::try_parse_from([&["ramferry", "bench"], words].concat())?.command {
            Command::Bench(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    fn chosen(words: &[&str]) -> String {
        let args = args(words).expect("options");
        let (params, _) = args
            .params
            .into_parts(Caps::default())
            .expect("they fit together");
        let settings = settings(args.methods.as_deref(), args.given, &params).expect("settings");
        let names: Vec<_> = settings.iter().map(ToString::to_string).collect();
        names.join(",")
    }

    #[test]
    fn what_is_compared_comes_from_the_list_or_the_parameters_or_is_the_quick_choice() {
        assert_eq!(chosen(&[]), "none,lz4,zstd:1,zstd:3,zlib:1,zlib:6");
        assert_eq!(
            chosen(&["--methods", "gzip,zstd:2-3"]),
            "gzip:1,zstd:2,zstd:3"
        );
        assert_eq!(
            chosen(&["--compress-method=zstd", "--compress-level=9"]),
            "none,zstd:9"
        );
        assert_eq!(chosen(&["--compress-level=0"]), "none,zlib:6");
        assert_eq!(chosen(&["--compress-method=none"]), "none");
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for words in [
            &["--methods=lz4", "--compress-method=zstd"][..],
            &["--methods=zstd", "--compress-level=3"],
            &["x.ram", "--synthetic=1MiB"],
            &["x.ram", "--seed=2"],
            &["--then=x.ram"],
            &["--runs=0"],
            &["--transport=rdma"],
            &["--link=tcp"],
            &["--synthetic=0"],
            &["--synthetic=5000"],
        ] {
            let error = args(words).expect_err("refused");
            assert_eq!(error.exit_code(), 2, "{words:?}");
        }
        let bad_list = args(&["--methods=zlib:12"]).expect("a word");
        let error = run(bad_list).expect_err("no such level");
        assert_eq!(error.kind(), Kind::Usage);
    }

    #[test]
    fn the_bar_never_goes_beyond_its_task() {
        let mut now = Snapshot::default();
        assert_eq!(part_done(&now), 0);
        now.ram_bytes = 1000 * PAGE_SIZE as u64;
        now.total.zero = 500;
        assert_eq!(part_done(&now), STEPS * 9 / 20);
        now.total.zero = 5000;
        assert_eq!(part_done(&now), STEPS * 9 / 10);
        now.status = Status::Device;
        assert!(part_done(&now) < STEPS);
    }
}
