//! `ramferry ctl`: the commands of a monitor, ours or a QEMU's, under virsh's names.

mod capabilities;
mod job;
mod parameters;
mod values;

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::control::job_info::{JobType, PrettyCapacity};
use crate::error::{Error, Kind, Result};
use crate::params::LONGEST_TIMEOUT;
use crate::qmp::{self, Client};
use crate::text::{Quoted, printable};
use crate::transport::Address;
use crate::units::{parse_duration, parse_rate, parse_size};

use super::output::{print, print_json};
use super::params::Checked;

/// How often, and how many times, to look whether a job was cancelled.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: usize = 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ramferry ctl /run/guest.sock migrate-setparameters --level 3 --threads 4
  ramferry ctl unix:m.sock migrate-setparameters --set compress-method=zstd --set max-time=1min
  ramferry ctl m.sock migrate-setcapabilities xbzrle=on auto-converge=off
  ramferry ctl m.sock migrate-setspeed 100
  ramferry ctl m.sock domjobinfo --watch
  ramferry ctl tcp:127.0.0.1:4445 qmp query-status
  ramferry ctl m.sock qmp '{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"tcp:192.0.2.7:4444\"}}'
The monitor is that of ramferry send, receive or monitor, or the QMP socket of a QEMU, which serves \
one client at a time. If it declines a command, its own message is printed, with exit code 1.")]
pub(super) struct CtlArgs {
    /// The monitor: the path of its socket, unix:PATH or tcp:HOST:PORT
    #[arg(value_parser = Checked(qmp::address))]
    socket: Address,
    /// Time limit for connecting and for each answer
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        global = true,
        value_parser = Checked(time_limit)
    )]
    timeout: Duration,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CtlCommand {
    /// Set parameters, all or none; also during a migration
    MigrateSetparameters(parameters::SetParameters),
    /// Print the parameters
    MigrateGetparameters(Show),
    /// Switch capabilities, all or none
    MigrateSetcapabilities {
        /// The capabilities and their states
        #[arg(value_name = "NAME=on|off", required = true, value_parser = Checked(values::switch))]
        switches: Vec<(String, bool)>,
    },
    /// Print the capabilities
    MigrateGetcapabilities(Show),
    /// Set how long the guest may be paused at the end
    MigrateSetmaxdowntime {
        /// Milliseconds, or a time with its unit, such as 1.5s
        #[arg(value_name = "MS", allow_negative_numbers = true, value_parser = Checked(values::downtime))]
        downtime: u64,
    },
    /// Print how many milliseconds the guest may be paused at the end
    MigrateGetmaxdowntime,
    /// Set the maximum bandwidth
    MigrateSetspeed {
        /// MiB/s, or a rate with its unit, such as 1.5Gbit; 0 or negative: no limit
        #[arg(value_name = "MIB/S", allow_negative_numbers = true, value_parser = Checked(speed))]
        speed: Speed,
    },
    /// Print the maximum bandwidth in MiB/s; 0: no limit
    MigrateGetspeed,
    /// Print the size of the cache for deltas, after setting it if --size is given
    MigrateCompcache {
        /// Bytes, or a size with its unit, such as 64MiB
        #[arg(long, value_name = "BYTES", value_parser = Checked(size))]
        size: Option<u64>,
    },
    /// Show the current migration, or the most recent one
    Domjobinfo(job::JobArgs),
    /// Cancel the current migration
    Domjobabort,
    /// Resume a migration that is paused before its last round (pause-before-switchover)
    MigrateContinue {
        /// The state that it waits in
        #[arg(long, default_value = "pre-switchover")]
        state: String,
    },
    /// Run any QMP command, and print what it returns
    Qmp {
        /// A command's name, or a whole request as JSON
        #[arg(value_name = "COMMAND|JSON", value_parser = Checked(request))]
        request: Map<String, Value>,
    },
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Print the monitor's answer as one JSON document
    #[arg(long)]
    json: bool,
}

/// The value of `migrate-setspeed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speed {
    /// Bytes per second; 0 is unlimited.
    Limit(u64),
    /// Below zero: no limit, as in virsh.
    Unlimited,
}

fn time_limit(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok()
        .filter(|time| !time.is_zero() && *time <= LONGEST_TIMEOUT)
        .ok_or_else(|| {
            format!(
                "{} is not a time of more than 0 and up to 1 day, such as 30 (seconds), 500ms or 2min",
                Quoted(text)
            )
        })
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

fn speed(text: &str) -> Result<Speed, String> {
    const MIB: u64 = 1 << 20;
    let speed = match text.parse::<i64>() {
        Ok(..0) => Some(Speed::Unlimited),
        Ok(mib) => mib.unsigned_abs().checked_mul(MIB).map(Speed::Limit),
        // A fraction needs a unit: it would be easily taken for something else.
        Err(_) if text.parse::<f64>().is_ok() => None,
        Err(_) => parse_rate(text).ok().map(Speed::Limit),
    };
    speed.ok_or_else(|| {
        format!(
            "{} is not a whole number of MiB/s, nor a rate with its unit, such as 1.5Gbit; \
             0 or negative: no limit",
            Quoted(text)
        )
    })
}

/// A whole request, or one made from a command's name.
fn request(text: &str) -> Result<Map<String, Value>, String> {
    let trimmed = text.trim();
    if trimmed.starts_with('{') {
        match serde_json::from_str(trimmed) {
            Ok(Value::Object(request)) => Ok(request),
            Ok(_) => Err("a request is a JSON object".to_owned()),
            Err(error) => Err(format!("the request is not a JSON object: {error}")),
        }
    } else if !trimmed.is_empty()
        && trimmed
            .chars()
            .all(|c| c.is_alphanumeric() || "-_.".contains(c))
    {
        Ok(Map::from_iter([("execute".to_owned(), trimmed.into())]))
    } else {
        Err(format!(
            "{} is not a command's name, nor a request such as {{\"execute\": \"query-status\"}}",
            Quoted(text)
        ))
    }
}

pub(super) fn run(args: CtlArgs) -> Result<()> {
    // What is wrong by itself needs no monitor to be refused.
    if let CtlCommand::MigrateSetparameters(args) = &args.command {
        args.check()?;
    }
    let mut client = Client::connect(&args.socket, args.timeout)?;
    match args.command {
        CtlCommand::MigrateSetparameters(args) => args.run(&mut client),
        CtlCommand::MigrateGetparameters(show) => parameters::print_all(&mut client, &show),
        CtlCommand::MigrateSetcapabilities { switches } => {
            capabilities::set(&mut client, &switches)
        }
        CtlCommand::MigrateGetcapabilities(show) => capabilities::print_all(&mut client, &show),
        CtlCommand::MigrateSetmaxdowntime { downtime } => {
            parameters::set_one(&mut client, "downtime-limit", downtime)
        }
        CtlCommand::MigrateGetmaxdowntime => {
            let downtime = parameters::get_one(&mut client, "downtime-limit")?;
            print(&format!("{downtime}\n"))
        }
        CtlCommand::MigrateSetspeed { speed } => {
            let limit = match speed {
                Speed::Limit(limit) => limit,
                Speed::Unlimited if client.greeting().is_ramferry() => 0,
                // The largest that QEMU's type can hold, in whole MiB/s.
                Speed::Unlimited => u64::MAX >> 20 << 20,
            };
            parameters::set_one(&mut client, "max-bandwidth", limit)
        }
        CtlCommand::MigrateGetspeed => {
            let limit = parameters::get_one(&mut client, "max-bandwidth")?;
            print(&format!("{}\n", mib(limit)))
        }
        CtlCommand::MigrateCompcache { size } => {
            if let Some(size) = size {
                parameters::set_one(&mut client, "xbzrle-cache-size", size)?;
            }
            let size = parameters::get_one(&mut client, "xbzrle-cache-size")?;
            print(&format!("Compression cache: {}\n", PrettyCapacity(size)))
        }
        CtlCommand::Domjobinfo(args) => args.run(&mut client),
        CtlCommand::Domjobabort => abort(&mut client),
        CtlCommand::MigrateContinue { state } => {
            client.execute("migrate-continue", &json!({ "state": state }))?;
            Ok(())
        }
        CtlCommand::Qmp { request } => print_json(&client.execute_object(request)?),
    }
}

/// Cancels the job, and makes sure of it: `migrate_cancel` succeeds whatever it does, and a QEMU that
/// receives ignores it.
fn abort(client: &mut Client) -> Result<()> {
    let failed = |text: String| Err(Error::new(Kind::Failed, text));
    let status = job_status(client)?;
    match JobType::of_status(&status) {
        JobType::None => return failed("no job is active".to_owned()),
        over if over.is_over() => {
            return failed(format!("no job is active: the last one is {status}"));
        }
        _ => {}
    }
    client.execute("migrate_cancel", &Value::Null)?;
    let mut cancelling = false;
    for _ in 0..LOOKS {
        // A program that was there for this one migration is gone with it.
        let Ok(status) = job_status(client) else {
            return Ok(());
        };
        match JobType::of_status(&status) {
            JobType::Completed => return failed("it completed before it was cancelled".to_owned()),
            JobType::Failed => return failed("it failed before it was cancelled".to_owned()),
            JobType::Cancelled | JobType::None => return Ok(()),
            JobType::Unbounded => {}
        }
        cancelling = status == "cancelling";
        std::thread::sleep(LOOK);
    }
    if cancelling {
        return Ok(());
    }
    let product = client.greeting().product();
    failed(format!(
        "nothing was cancelled: {product} still receives; cancel the migration at its source"
    ))
}

fn job_status(client: &mut Client) -> Result<String> {
    let answer = client.execute("query-migrate", &Value::Null)?;
    Ok(answer["status"].as_str().unwrap_or("none").to_owned())
}

/// The error for what a monitor declined; by name if it does not have it.
fn declined(client: &Client, what: &str, unknown: Option<&String>, desc: String) -> Error {
    let text = match unknown {
        Some(name) => {
            let product = client.greeting().product();
            format!("{product} has no {what} {}", Quoted(name))
        }
        None => desc,
    };
    Error::new(Kind::Failed, text)
}

/// The error for an answer of the wrong shape.
fn senseless(client: &Client, command: &str) -> Error {
    let product = client.greeting().product();
    Error::new(
        Kind::Failed,
        format!("{product} gave an invalid answer to {command}"),
    )
}

/// A value for people.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => printable(text),
        Value::Number(number) => match number.as_f64() {
            // 30.0 is 30 to people; integers beyond a double's reach are as they are.
            Some(double) if number.is_f64() => double.to_string(),
            _ => number.to_string(),
        },
        other => printable(&other.to_string()),
    }
}

/// Bytes a second as MiB/s, exact as far as six decimals go. What is not zero does not look like it.
fn mib(bytes: u64) -> String {
    let text = format!("{}.{:06}", bytes >> 20, millionths(bytes));
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn millionths(bytes: u64) -> u64 {
    // Rounded up: at most 999 999 and a bit, and the bit is cut.
    ((bytes & 0xf_ffff) * 1_000_000)
        .div_ceil(1 << 20)
        .min(999_999)
}

#[cfg(test)]
mod tests;
