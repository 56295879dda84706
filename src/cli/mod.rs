//! The command line: words to requests, results to words. No policy.

mod bench;
mod churn;
mod ctl;
mod digest;
mod dropped;
mod inspect;
mod migrate;
mod monitor;
mod params;
mod probe;
mod progress;
mod signals;
mod summary;
mod tables;

use clap::{Parser, Subcommand};

use crate::error::{Error, Kind, Result};
use crate::text::printable_json;
use crate::writer::guard;

/// Moves a virtual machine's RAM: compressed by a pool of threads, as deltas after the bulk stage,
/// proven on arrival.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
#[command(args_override_self = true)]
#[command(after_help = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 what arrived differs, 4 refused by the peer, \
5 outcome unknown, 6 slower than before, 130 interrupted.
tcp: is neither encrypted nor authenticated: use it on a network that you trust, or through a tunnel.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send a guest's RAM
    Send(migrate::SendArgs),
    /// Receive a guest's RAM into a raw image or a guest folder
    Receive(migrate::ReceiveArgs),
    /// Ask a listening destination what it can
    Probe(probe::ProbeArgs),
    /// Compare compression settings by real migrations, both ends in one process
    Bench(Box<bench::BenchArgs>),
    /// Print the RAM digest of an image or a guest folder
    Digest(digest::DigestArgs),
    /// Tell what a file is and what it holds: a stream, an image, a guest folder
    Inspect(inspect::InspectArgs),
    /// Write into an image at a steady rate, or prove what such a writer left
    Churn(churn::ChurnArgs),
    /// Listen for clients that speak QMP, and migrate as they say
    Monitor(monitor::MonitorArgs),
    /// Tell a running migration's monitor, or a QEMU's, what to do
    Ctl(ctl::CtlArgs),
    /// Resume a stopped writer when the program that stopped it is gone
    #[command(name = guard::COMMAND, hide = true)]
    ResumeGuard {
        /// PID:STARTED
        targets: Vec<String>,
    },
    /// List the parameters
    Parameters(TableArgs),
    /// List the capabilities
    Capabilities(TableArgs),
}

#[derive(Debug, clap::Args)]
struct TableArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What the program's exit code and its one line on standard error say.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Send(args) => migrate::send(args),
            Command::Receive(args) => migrate::receive(args),
            Command::Probe(args) => probe::run(args),
            Command::Bench(args) => bench::run(*args),
            Command::Digest(args) => digest::run(&args),
            Command::Inspect(args) => inspect::run(&args),
            Command::Churn(args) => churn::run(args),
            Command::Monitor(args) => monitor::run(args),
            Command::Ctl(args) => ctl::run(args),
            Command::ResumeGuard { targets } => guard::serve(&targets),
            Command::Parameters(args) => tables::parameters(args.json).map_err(unprintable),
            Command::Capabilities(args) => tables::capabilities(args.json).map_err(unprintable),
        }
    }
}

/// Standard output could not be written.
fn unprintable(error: std::io::Error) -> Error {
    Error::new(Kind::Failed, error).in_stage("print")
}

/// Prints a document on standard output; a reader that has gone is no error.
fn print_json(document: &impl serde::Serialize) -> Result<()> {
    use std::io::Write;
    let text = serde_json::to_string_pretty(document)
        .map_err(|error| Error::new(Kind::Failed, error).in_stage("print"))?;
    let mut text = printable_json(&text);
    text.push('\n');
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(unprintable),
    }
}
