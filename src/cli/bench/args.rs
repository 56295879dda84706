//! What was typed: the options of `ramferry bench`.

use std::path::PathBuf;
use std::time::Duration;

use crate::advice::Goal;
use crate::bench::judge::compare;
use crate::bench::measure::preset::Preset;
use crate::bench::measure::workload::Transport;
use crate::bench::peer::PeerSpec;
use crate::bench::show::rows::Sort;
use crate::cli::format::{FormatArg, PausedArg};
use crate::cli::later::LaterArgs;
use crate::cli::params::{BenchParams, Checked, ImagePath};
use crate::page::PAGE_SIZE;
use crate::synthetic::Mix;
use crate::text::Quoted;
use crate::units::{parse_duration, parse_size};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ramferry bench
  ramferry bench guest.ram --methods none,lz4,zstd:1-5,zlib:1,6 --runs 5 --report r.html
  ramferry bench guest.ram --preset links --max-time 5min --export-json r.json
  ramferry bench t0.ram --then t1.ram --then t2.ram --preset delta
  ramferry bench guest.ram --methods zstd:1 --compress-threads 1,2,4 --links 1Gbit,200Mbit/20ms
  ramferry bench --compare old.json new.json --fail-if-slower 5%
Every run is a real migration whose result is verified. The runs of all settings are interleaved, and
the table shows their medians; --json has every run. Ctrl-C ends the benchmark after the run in
progress, and the results so far are printed and exported; a second Ctrl-C ends it immediately.")]
pub(in crate::cli) struct BenchArgs {
    // The first, as each field takes its values out of clap's.
    #[command(flatten)]
    pub(super) explicit: ExplicitMethod,
    /// A raw RAM image or a guest folder [default: a synthetic guest]
    #[arg(value_parser = ImagePath)]
    pub(super) image: Option<PathBuf>,
    #[command(flatten)]
    pub(super) then: LaterArgs,
    #[command(flatten)]
    pub(super) format: FormatArg,
    #[command(flatten)]
    pub(super) at_rest: PausedArg,
    #[command(flatten)]
    pub(super) matrix: MatrixArgs,
    #[command(flatten)]
    pub(super) effort: EffortArgs,
    /// Also measure a QEMU's own modes of migration (bulk stage only): qemu[:BINARY[,DATADIR]]
    #[arg(long, value_name = "PEER", value_parser = Checked(str::parse::<PeerSpec>))]
    pub(super) peer: Option<PeerSpec>,
    /// Connection between the two ends: unix or tcp
    #[arg(long, value_name = "KIND", default_value_t = Transport::Unix)]
    pub(super) transport: Transport,
    /// Size of the synthetic guest
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256MiB",
        value_parser = image_size,
        conflicts_with = "image"
    )]
    pub(super) synthetic: u64,
    /// Seed of the synthetic guest: equal seeds give equal guests
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "image")]
    pub(super) seed: u64,
    /// Pages of the synthetic guest: idle, busy, database or random [default: busy]
    #[arg(
        long,
        value_name = "MIX",
        value_parser = Checked(str::parse::<Mix>),
        long_help = "\
Pages of the synthetic guest [default: busy]:
  idle      most memory was never used
  busy      little memory is free; modelled on a real guest that was measured
  database  most memory holds tables
  random    nothing compresses"
    )]
    pub(super) mix: Option<Mix>,
    /// Folder for temporary files [default: /dev/shm, or the system's folder if that is too small]
    #[arg(long, value_name = "DIR")]
    pub(super) scratch: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    pub(super) params: BenchParams,
}

/// Every combination of these is measured.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Settings to compare")]
pub(super) struct MatrixArgs {
    /// Starting point: quick, levels, threads, links or delta
    #[arg(long, value_name = "NAME", default_value_t = Preset::Quick, value_parser = Checked(str::parse::<Preset>))]
    pub(super) preset: Preset,
    /// Methods: all, or METHOD, METHOD:LEVEL and METHOD:A-B, separated by commas
    #[arg(
        long,
        value_name = "LIST",
        conflicts_with_all = ["compress-method", "compress-level"],
        long_help = "\
Methods: METHOD, METHOD:LEVEL or METHOD:A-B, separated by commas. A bare level is another level of \
the method before it: zlib:1-3,9,zstd:1,3,lz4,none. A method without a level gets level 1. 'all' is \
every method.

Default: the method of --compress-method and --compress-level, beside no compression; without those \
options, the methods of the preset."
    )]
    pub(super) methods: Option<String>,
    /// Compression threads: 1,2,4-8 [default: one per core; the default of send is 8]
    #[arg(long, value_name = "LIST")]
    pub(super) compress_threads: Option<String>,
    /// Decompression threads [default: 2]
    #[arg(long, value_name = "LIST")]
    pub(super) decompress_threads: Option<String>,
    /// Pages in a batch [default: auto]
    #[arg(long, value_name = "LIST")]
    pub(super) batch_pages: Option<String>,
    /// Number of connections [default: 1]
    #[arg(long, value_name = "LIST")]
    pub(super) connections: Option<String>,
    /// Delta cache for rounds over later images: off or sizes [default: 64MiB]
    #[arg(long, value_name = "LIST")]
    pub(super) xbzrle: Option<String>,
    /// Library for zlib and gzip: libdeflate, zlib-rs [default: libdeflate]
    #[arg(long, value_name = "LIST")]
    pub(super) zlib_engine: Option<String>,
    /// Emulated links: unlimited or RATE[/DELAY] [default: unlimited]
    #[arg(long, visible_alias = "link", value_name = "LIST")]
    pub(super) links: Option<String>,
    /// Stream formats: native, qemu [default: native]
    #[arg(long, value_name = "LIST")]
    pub(super) wire: Option<String>,
}

/// How thoroughly to measure.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Effort")]
pub(super) struct EffortArgs {
    /// Minimum number of runs of each setting
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = Checked(runs)
    )]
    pub(super) runs: u32,
    /// Minimum time for each setting
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) min_time: Option<Duration>,
    /// Maximum time of the benchmark: settings that do not fit are left out and listed
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) max_time: Option<Duration>,
    /// What the recommendation optimises: time, bytes, cpu or downtime
    #[arg(long, value_name = "GOAL", default_value_t = Goal::Time, value_parser = Checked(str::parse::<Goal>))]
    pub(super) goal: Goal,
}

/// What becomes of the results.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Results")]
pub(super) struct OutputArgs {
    /// Order of the rows: given, time, bytes, ratio, cpu or downtime
    #[arg(long, value_name = "ORDER", default_value_t = Sort::Given, value_parser = Checked(str::parse::<Sort>))]
    pub(super) sort: Sort,
    /// Print a JSON document instead of the table
    #[arg(long)]
    pub(super) json: bool,
    /// Write the JSON document, with every run, to a file
    #[arg(long, value_name = "FILE")]
    pub(super) export_json: Option<PathBuf>,
    /// Write a CSV file with one line per setting
    #[arg(long, value_name = "FILE")]
    pub(super) export_csv: Option<PathBuf>,
    /// Write the table to a Markdown file
    #[arg(long, value_name = "FILE")]
    pub(super) export_markdown: Option<PathBuf>,
    /// Write an HTML page with charts to a file
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Compare two files of --export-json instead of measuring
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with = "image")]
    pub(super) compare: Option<Vec<PathBuf>>,
    /// With --compare: exit with code 6 if a setting became slower by more than PERCENT, beyond the noise;
    /// with 1 if that cannot be told, as of fewer than three runs in each file
    #[arg(long, value_name = "PERCENT", requires = "compare", value_parser = Checked(compare::parse_percent))]
    pub(super) fail_if_slower: Option<f64>,
    /// Do not show progress
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Also print how fast each codec is alone and in the pipeline
    #[arg(long, short)]
    pub(super) verbose: bool,
    /// Print what would be measured and how long it would take, and stop
    #[arg(long, conflicts_with = "compare")]
    pub(super) dry_run: bool,
}

/// Parses the size of an image.
fn image_size(text: &str) -> Result<u64, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    if size > 0 && size.is_multiple_of(PAGE_SIZE as u64) {
        Ok(size)
    } else {
        Err(format!(
            "the size of a guest is a multiple of {PAGE_SIZE} bytes"
        ))
    }
}

/// What was given explicitly. clap's values do not show that, as every parameter has a default.
#[derive(Debug, Clone, Default)]
pub(super) struct ExplicitMethod {
    /// The method or the level.
    pub(super) given: bool,
    /// The first option that means nothing to a comparison of files.
    pub(super) not_for_compare: Option<String>,
}

/// What a comparison of files takes, by clap's names.
const FOR_COMPARE: [&str; 4] = ["compare", "fail_if_slower", "json", "quiet"];

impl clap::Args for ExplicitMethod {
    fn augment_args(command: clap::Command) -> clap::Command {
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        command
    }
}

impl clap::FromArgMatches for ExplicitMethod {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<ExplicitMethod, clap::Error> {
        let mut given = ExplicitMethod::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        let given =
            |name| matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine);
        self.given = given("compress-method") || given("compress-level");
        let ids = matches.ids().map(clap::Id::as_str);
        // Groups, which have the names of types, are not options.
        let mut others = ids.filter(|id| {
            id.starts_with(char::is_lowercase) && !FOR_COMPARE.contains(id) && given(id)
        });
        self.not_for_compare = others.next().map(|id| id.replace('_', "-"));
        Ok(())
    }
}

/// Reads a number of runs.
fn runs(text: &str) -> Result<u32, String> {
    let runs = text.parse().ok();
    runs.filter(|runs| (1..=10_000).contains(runs))
        .ok_or_else(|| {
            format!(
                "invalid number of runs {}: allowed are 1 to 10000",
                Quoted(text)
            )
        })
}
