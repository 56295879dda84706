//! `ramferry churn`: arguments to a [`churn::Request`], results to text.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::units::{format_bytes, format_duration, parse_duration, parse_size};
use crate::writer::churn::{self, Ending, Pattern, Request, Summary};

use super::output::{announce, print, print_json, report};
use super::params::{Checked, ImagePath};
use super::signals;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cp --sparse=always guest.ram scratch.ram
  ramferry churn --in-place scratch.ram --rate 5000 --working-set 64MiB
  ramferry churn scratch.ram --pattern hotset --rate 0 --threads 2 --duration 30s --json
  ramferry churn --verify scratch.ram
  ramferry churn --verify out.ram --records scratch.ram.churn
Prints 'writing' on standard output (with --json: on standard error) when the first write is done; \
writes until --duration is over or SIGINT, SIGTERM or SIGHUP comes, and reports what it did.
The records in IMAGE.churn keep what the working set held before, so they are as large. They \
replace those of an earlier churn.")]
pub(super) struct ChurnArgs {
    /// A raw RAM image
    #[arg(value_parser = ImagePath)]
    image: PathBuf,
    /// Where to write: random, sequential, hotset (90 % of the writes to 10 % of the pages) or
    /// counter (a number at each page's beginning)
    #[arg(long, default_value_t = Pattern::Random, value_parser = Checked(str::parse::<Pattern>))]
    pattern: Pattern,
    /// Writes per second, each within one page; 0: as many as possible
    #[arg(
        long,
        value_name = "PAGES/S",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(0..=churn::MOST_RATE)
    )]
    rate: u64,
    /// How much of the image is written, from its beginning [default: all]
    #[arg(long, value_name = "SIZE", value_parser = Checked(parse_size))]
    working_set: Option<u64>,
    /// Bytes in each write, 1 to 4096 [default: 64; counter: 8, also its maximum]
    #[arg(long, value_name = "N")]
    bytes_per_write: Option<u32>,
    /// Number of threads that write
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(churn::MOST_THREADS))
    )]
    threads: u32,
    /// When to end [default: at a signal]
    #[arg(long, value_name = "TIME", value_parser = Checked(parse_duration))]
    duration: Option<Duration>,
    /// Random seed; the same seed repeats the same writes [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where the records are [default: IMAGE.churn]
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// Overwrite IMAGE even though no earlier churn keeps records of it
    #[arg(long)]
    in_place: bool,
    /// Write nothing; check that the image holds exactly what the writer of the records left
    #[arg(
        long,
        conflicts_with_all = [
            "pattern", "rate", "working_set", "bytes_per_write", "threads", "duration", "seed",
            "in_place",
        ]
    )]
    verify: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: ChurnArgs) -> Result<()> {
    let records = args
        .records
        .unwrap_or_else(|| churn::records_of(&args.image));
    if args.verify {
        return verify(&args.image, &records, args.json);
    }
    let request = Request {
        image: args.image,
        records,
        in_place: args.in_place,
        pattern: args.pattern,
        working_set: args.working_set,
        bytes_per_write: args
            .bytes_per_write
            .unwrap_or(args.pattern.default_bytes_per_write()),
        threads: args.threads,
        seed: args.seed.unwrap_or_else(another_seed),
        rate: args.rate,
        duration: args.duration,
    };
    let failed = |error| Error::new(Kind::Failed, error).in_stage("at the start");
    let end = Arc::new(Ending::new().map_err(failed)?);
    signals::set_on_each(end.flag())?;
    let raise = Arc::clone(&end);
    signals::on_each(signals::catch()?, move || raise.raise())?;
    let json = args.json;
    let summary = churn::run(&request, &end, || {
        if json {
            report("writing");
        } else {
            announce("writing");
        }
    })?;
    if json {
        return print_json(&summary);
    }
    report(&text(&summary));
    Ok(())
}

fn text(summary: &Summary) -> String {
    format!(
        "wrote {} times {} to {} pages in {}: {:.0} writes per second{}",
        summary.writes,
        format_bytes(summary.bytes_per_write.into()),
        summary.pages,
        format_duration(Duration::from_secs_f64(summary.seconds)),
        summary.rate,
        match summary.asked_rate {
            0 => String::new(),
            asked => format!(" of {asked} asked for"),
        }
    )
}

fn verify(image: &Path, records: &Path, json: bool) -> Result<()> {
    let verified = churn::verify(image, records)?;
    if json {
        print_json(&verified)?;
    } else if verified.first_differing.is_none() {
        print(&format!(
            "{} holds all {} writes, and in its {} pages nothing else\n",
            image.display(),
            verified.writes,
            verified.pages
        ))?;
    }
    verified.into_result(image)
}

/// Taken from the clock, so that two runs write different bytes.
fn another_seed() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |time| time.as_nanos() as u64)
}
