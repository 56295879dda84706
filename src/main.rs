//! The program: parse, call, map the error to an exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match ramferry::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed, and then the exit code has to do.
            let _ = writeln!(std::io::stderr(), "error: {}", error.one_line());
            ExitCode::from(error.kind().exit_code())
        }
    }
}
