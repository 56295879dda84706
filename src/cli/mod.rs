//! The command line: options to requests, results to text. No policy.

mod bench;
mod churn;
mod ctl;
mod digest;
mod dropped;
mod format;
mod inspect;
mod later;
mod migrate;
mod monitor;
mod output;
mod package;
mod params;
mod probe;
mod progress;
mod signals;
mod summary;
mod tables;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};

use crate::codec::Method;
use crate::error::{Kind, Result};
use crate::writer::guard;
#[cfg(any(test, fuzzing))]
pub(crate) use inspect::text as inspect_text;
use output::report;

/// Move a virtual machine's RAM: compressed by a pool of threads, sent as deltas after the bulk
/// stage, verified on arrival.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
#[command(args_override_self = true)]
#[command(after_help = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 data differs, 4 refused by the peer, 5 outcome unknown, \
6 slower than allowed, 130 interrupted.
tcp: is neither encrypted nor authenticated: use it on a network that you trust, or through a tunnel.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send a guest's RAM
    Send(migrate::SendArgs),
    /// Receive a guest's RAM into a raw image or a guest folder
    Receive(migrate::ReceiveArgs),
    /// Query what a listening destination supports
    Probe(probe::ProbeArgs),
    /// Compare compression settings with real migrations, both ends in one process
    Bench(Box<bench::BenchArgs>),
    /// Print the RAM digest of an image or a guest folder
    Digest(digest::DigestArgs),
    /// Identify a stream, an image or a guest folder and summarise its contents
    Inspect(inspect::InspectArgs),
    /// Write into an image at a steady rate, or verify what such a writer left
    Churn(churn::ChurnArgs),
    /// Listen for QMP clients, and migrate at their command
    Monitor(monitor::MonitorArgs),
    /// Control a running migration, or a QEMU, through its monitor
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
    /// Print a completion script for a shell
    Completions(package::CompletionsArgs),
    /// Print the man page, or write those of all commands
    Man(package::ManArgs),
}

impl Command {
    /// Whether it catches signals, since there is something to clean up.
    fn ends_cleanly(&self) -> bool {
        matches!(
            self,
            Command::Send(_)
                | Command::Receive(_)
                | Command::Bench(_)
                | Command::Churn(_)
                | Command::Monitor(_)
                | Command::ResumeGuard { .. }
        )
    }
}

#[derive(Debug, clap::Args)]
struct TableArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Cli {
    fn run(self) -> Result<()> {
        if !self.command.ends_cleanly() {
            signals::let_through();
        }
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
            Command::Completions(args) => package::completions(&args),
            Command::Man(args) => package::man(&args),
            Command::Parameters(args) => tables::parameters(args.json),
            Command::Capabilities(args) => tables::capabilities(args.json),
        }
    }
}

/// Runs the program with the arguments of this process: parse, act, map the error to an exit code.
pub fn run() -> ExitCode {
    let ready = signals::hold().and_then(|()| signals::let_large_files_fail());
    match ready.and_then(|()| parse().run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format!("error: {}", error.one_line()));
            ExitCode::from(exit_code(error.kind()))
        }
    }
}

/// Reads the arguments of this process; a mistake ends it.
fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|mut error| {
        // A list of methods that was given as on other programs' command lines.
        if let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg)
            && argument.parse::<Method>().is_ok()
        {
            let tip = "methods are separated by commas: --methods lz4,none";
            let tip = ContextValue::StyledStrs(vec![tip.into()]);
            error.insert(ContextKind::Suggested, tip);
        }
        error.exit()
    })
}

/// The program's exit code for an error.
fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Failed => 1,
        Kind::Usage => 2,
        Kind::Differs => 3,
        Kind::Refused => 4,
        Kind::OutcomeUnknown => 5,
        Kind::Slower => 6,
        Kind::Interrupted => 130,
    }
}
