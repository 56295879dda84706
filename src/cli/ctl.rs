//! `ramferry ctl`: a monitor's commands, ours or a QEMU's, under the names that virsh and the
//! original request gave them.

mod job;
mod values;

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::control::client::{Client, ClientError};
use crate::control::job_info::{JobType, PrettyCapacity};
use crate::error::{Error, Kind, Result};
use crate::params::{LONGEST_TIMEOUT, TABLE};
use crate::text::{Quoted, printable};
use crate::transport::Address;
use crate::units::{parse_duration, parse_rate, parse_size};

use super::output::{print, print_json, report};
use super::params::Checked;
use values::{Amount, Setting};

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
one client at a time. What it declines is told in its own words, with exit code 1.")]
pub(super) struct CtlArgs {
    /// The monitor: the path of its socket, unix:PATH or tcp:HOST:PORT
    #[arg(value_parser = Checked(monitor))]
    socket: Address,
    /// How long connecting and each answer may take
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10",
        global = true,
        value_parser = Checked(time_limit)
    )]
    timeout: Duration,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CtlCommand {
    /// Set parameters, all or none, also while a migration runs
    MigrateSetparameters(SetParameters),
    /// Print the parameters
    MigrateGetparameters(Show),
    /// Switch capabilities, all or none
    MigrateSetcapabilities {
        /// Which, and how
        #[arg(value_name = "NAME=on|off", required = true, value_parser = Checked(values::switch))]
        switches: Vec<(String, bool)>,
    },
    /// Print the capabilities
    MigrateGetcapabilities(Show),
    /// Set how long the guest may stand still at the end
    MigrateSetmaxdowntime {
        /// Milliseconds, or a time with its unit, such as 1.5s
        #[arg(value_name = "MS", allow_negative_numbers = true, value_parser = Checked(values::downtime))]
        downtime: u64,
    },
    /// Print how many milliseconds the guest may stand still at the end
    MigrateGetmaxdowntime,
    /// Set how fast a migration may be
    MigrateSetspeed {
        /// MiB/s, or a rate with its unit, such as 1.5Gbit; 0 or negative: no limit
        #[arg(value_name = "MIB/S", allow_negative_numbers = true, value_parser = Checked(speed))]
        speed: Speed,
    },
    /// Print how many MiB/s a migration may send; 0: no limit
    MigrateGetspeed,
    /// Print the size of the cache for deltas, after setting it
    MigrateCompcache {
        /// Bytes, or a size with its unit, such as 64MiB
        #[arg(long, value_name = "BYTES", value_parser = Checked(size))]
        size: Option<u64>,
    },
    /// Tell about the migration that runs, or the last one of a monitor that goes on
    Domjobinfo(job::JobArgs),
    /// Cancel the migration that runs
    Domjobabort,
    /// Have a migration go on that waits before its last round (pause-before-switchover)
    MigrateContinue {
        /// What it waits in
        #[arg(long, default_value = "pre-switchover")]
        state: String,
    },
    /// Have any command executed, and print what it returns
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

#[derive(Debug, clap::Args)]
#[command(after_help = "\
NAME is one of `ramferry parameters`, or what else the monitor has, such as a QEMU's multifd-channels.
VALUE is written as for ramferry's own options, so sizes, rates and times take units.")]
struct SetParameters {
    /// compress-level; -1: as it is
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = Checked(values::amount))]
    level: Option<Amount>,
    /// compress-threads; -1: as it is
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = Checked(values::amount))]
    threads: Option<Amount>,
    /// decompress-threads; -1: as it is
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = Checked(values::amount))]
    dthreads: Option<Amount>,
    /// Any parameter (may be repeated)
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = Checked(values::setting))]
    settings: Vec<Setting>,
}

/// What `migrate-setspeed` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speed {
    /// Bytes a second; 0 is no limit.
    Limit(u64),
    /// Below zero: as virsh has it, no limit worth the name.
    Unlimited,
}

/// Reads the monitor's address. A path needs no scheme.
fn monitor(text: &str) -> Result<Address, String> {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    let address = match scheme {
        Some("tcp" | "unix") => text.parse(),
        Some("file" | "fd" | "exec") => {
            return Err(format!(
                "no monitor can be at {}: it is at a path, unix:PATH or tcp:HOST:PORT",
                Quoted(text)
            ));
        }
        _ => format!("unix:{text}").parse::<Address>(),
    };
    address.map_err(|error| error.to_string())
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

/// A whole request, or one made of a command's name.
fn request(text: &str) -> Result<Map<String, Value>, String> {
    let trimmed = text.trim();
    if trimmed.starts_with('{') {
        match serde_json::from_str(trimmed) {
            Ok(Value::Object(request)) => Ok(request),
            Ok(_) => Err("a request is a JSON object".to_owned()),
            Err(error) => Err(format!("the request is no JSON object: {error}")),
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

/// Does what was asked for.
pub(super) fn run(args: CtlArgs) -> Result<()> {
    // What is wrong by itself is told without a monitor.
    if let CtlCommand::MigrateSetparameters(args) = &args.command {
        args.check()?;
    }
    let mut client = Client::connect(&args.socket, args.timeout)?;
    match args.command {
        CtlCommand::MigrateSetparameters(args) => args.run(&mut client),
        CtlCommand::MigrateGetparameters(show) => get_parameters(&mut client, &show),
        CtlCommand::MigrateSetcapabilities { switches } => set_capabilities(&mut client, &switches),
        CtlCommand::MigrateGetcapabilities(show) => get_capabilities(&mut client, &show),
        CtlCommand::MigrateSetmaxdowntime { downtime } => {
            set_one(&mut client, "downtime-limit", downtime)
        }
        CtlCommand::MigrateGetmaxdowntime => {
            let downtime = get_one(&mut client, "downtime-limit")?;
            print(&format!("{downtime}\n"))
        }
        CtlCommand::MigrateSetspeed { speed } => {
            let limit = match speed {
                Speed::Limit(limit) => limit,
                Speed::Unlimited if client.greeting().is_ramferry() => 0,
                // The largest that QEMU's type can hold, in whole MiB/s.
                Speed::Unlimited => u64::MAX >> 20 << 20,
            };
            set_one(&mut client, "max-bandwidth", limit)
        }
        CtlCommand::MigrateGetspeed => {
            let limit = get_one(&mut client, "max-bandwidth")?;
            print(&format!("{}\n", mib(limit)))
        }
        CtlCommand::MigrateCompcache { size } => {
            if let Some(size) = size {
                set_one(&mut client, "xbzrle-cache-size", size)?;
            }
            let size = get_one(&mut client, "xbzrle-cache-size")?;
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

// ---- parameters

impl SetParameters {
    /// The three of the request's command, as settings.
    fn amounts(&self) -> impl Iterator<Item = (&'static str, Amount)> {
        [
            ("compress-level", self.level),
            ("compress-threads", self.threads),
            ("decompress-threads", self.dthreads),
        ]
        .into_iter()
        .filter_map(|(name, amount)| Some((name, amount?)))
    }

    /// What can be told without knowing the monitor.
    fn check(&self) -> Result<()> {
        let usage = |what: String| Err(Error::new(Kind::Usage, what));
        let names = || {
            let amounts = self.amounts().filter(|(_, amount)| amount.0.is_some());
            let given = self.settings.iter().map(|setting| &*setting.name);
            amounts.map(|(name, _)| name).chain(given)
        };
        if self.amounts().next().is_none() && self.settings.is_empty() {
            return usage(
                "nothing is to be set: give --level, --threads, --dthreads or --set".into(),
            );
        }
        for (at, name) in names().enumerate() {
            let repeatable = values::is_repeatable(name);
            if !repeatable && names().skip(at + 1).any(|other| other == name) {
                return usage(format!("{} is given twice", Quoted(name)));
            }
        }
        Ok(())
    }

    fn run(&self, client: &mut Client) -> Result<()> {
        // Which type a parameter of somebody else's has is told by the value that it has now.
        let foreign = self.settings.iter().any(|setting| setting.value.is_none());
        let now = if foreign {
            parameters(client)?
        } else {
            Map::new()
        };
        let mut arguments = Map::new();
        for (name, amount) in self.amounts() {
            if let Some(amount) = amount.0 {
                arguments.insert(name.to_owned(), amount.into());
            }
        }
        for setting in &self.settings {
            let value = match &setting.value {
                Some(value) => value.clone(),
                None => values::like(&setting.name, &setting.text, now.get(&setting.name))
                    .map_err(|error| Error::new(Kind::Usage, error))?,
            };
            if values::is_repeatable(&setting.name) {
                let list = arguments.entry(setting.name.clone());
                if let Some(list) = list.or_insert_with(|| json!([])).as_array_mut() {
                    list.push(value);
                }
            } else {
                arguments.insert(setting.name.clone(), value);
            }
        }
        set_parameters(client, arguments)
    }
}

fn set_parameters(client: &mut Client, arguments: Map<String, Value>) -> Result<()> {
    let names: Vec<String> = arguments.keys().cloned().collect();
    match client.execute("migrate-set-parameters", &Value::Object(arguments)) {
        Ok(_) => Ok(()),
        Err(ClientError::Declined { desc, .. }) => {
            let unknown = names
                .iter()
                .find(|name| desc == format!("Parameter '{name}' is unexpected"));
            Err(declined(client, "parameter", unknown, desc))
        }
        Err(error) => Err(error.into()),
    }
}

/// What a monitor declines because it does not have it is told so.
fn declined(client: &Client, what: &str, unknown: Option<&String>, desc: String) -> Error {
    let text = match unknown {
        Some(name) => {
            let product = client.greeting().product();
            format!("{product} has no {what} {}: {desc}", Quoted(name))
        }
        None => desc,
    };
    Error::new(Kind::Failed, text)
}

fn set_one(client: &mut Client, name: &str, value: u64) -> Result<()> {
    set_parameters(client, Map::from_iter([(name.to_owned(), value.into())]))
}

/// Everything that `query-migrate-parameters` tells.
fn parameters(client: &mut Client) -> Result<Map<String, Value>> {
    match client.execute("query-migrate-parameters", &Value::Null)? {
        Value::Object(parameters) => Ok(parameters),
        _ => Err(senseless(client, "query-migrate-parameters")),
    }
}

fn senseless(client: &Client, command: &str) -> Error {
    let product = client.greeting().product();
    Error::new(
        Kind::Failed,
        format!("the answer of {product} to {command} makes no sense"),
    )
}

/// A parameter that is a number.
fn get_one(client: &mut Client, name: &str) -> Result<u64> {
    let parameters = parameters(client)?;
    match parameters.get(name) {
        Some(value) => value
            .as_u64()
            .ok_or_else(|| senseless(client, "query-migrate-parameters")),
        None => {
            let product = client.greeting().product();
            let text = format!("{product} has no parameter {name}");
            Err(Error::new(Kind::Failed, text))
        }
    }
}

fn get_parameters(client: &mut Client, show: &Show) -> Result<()> {
    let parameters = parameters(client)?;
    if show.json {
        return print_json(&parameters);
    }
    // Ours first, in the order of their table; then what else there is.
    let known = TABLE
        .iter()
        .filter_map(|row| Some((row.name, parameters.get(row.name)?, row.unit)));
    let others = parameters
        .iter()
        .filter(|(name, _)| TABLE.iter().all(|row| row.name != *name))
        .map(|(name, value)| (&**name, value, None));
    let mut text = String::new();
    for (name, value, unit) in known.chain(others) {
        let unit = unit.filter(|_| value.is_number());
        let unit = unit.map_or(String::new(), |unit| format!(" {unit}"));
        text.push_str(&format!("{}: {}{unit}\n", printable(name), word(value)));
    }
    print(&text)?;
    let missing: Vec<&str> = ["compress-level", "compress-threads", "decompress-threads"]
        .into_iter()
        .filter(|name| !parameters.contains_key(*name))
        .collect();
    if !missing.is_empty() {
        let product = client.greeting().product();
        report(&format!("note: {product} has no {}", missing.join(", ")));
    }
    Ok(())
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

// ---- capabilities

fn set_capabilities(client: &mut Client, switches: &[(String, bool)]) -> Result<()> {
    for (at, (name, _)) in switches.iter().enumerate() {
        if switches.iter().skip(at + 1).any(|(other, _)| other == name) {
            let text = format!("{} is given twice", Quoted(name));
            return Err(Error::new(Kind::Usage, text));
        }
    }
    let list: Vec<Value> = switches
        .iter()
        .map(|(name, on)| json!({"capability": name, "state": on}))
        .collect();
    match client.execute("migrate-set-capabilities", &json!({ "capabilities": list })) {
        Ok(_) => Ok(()),
        Err(ClientError::Declined { desc, .. }) => {
            let unknown = switches
                .iter()
                .map(|(name, _)| name)
                .find(|name| desc.ends_with(&format!("does not accept value '{name}'")));
            Err(declined(client, "capability", unknown, desc))
        }
        Err(error) => Err(error.into()),
    }
}

fn get_capabilities(client: &mut Client, show: &Show) -> Result<()> {
    let answer = client.execute("query-migrate-capabilities", &Value::Null)?;
    if show.json {
        return print_json(&answer);
    }
    let Some(list) = answer.as_array() else {
        return Err(senseless(client, "query-migrate-capabilities"));
    };
    let mut text = String::new();
    for capability in list {
        let name = capability["capability"].as_str().unwrap_or("?");
        let state = word(&capability["state"]);
        text.push_str(&format!("{}: {state}\n", printable(name)));
    }
    print(&text)
}

// ---- jobs

fn abort(client: &mut Client) -> Result<()> {
    // migrate_cancel is content with anything; whoever aborts wants to know.
    let answer = client.execute("query-migrate", &Value::Null)?;
    let status = answer["status"].as_str().unwrap_or("none");
    match JobType::of_status(status) {
        JobType::None => Err(Error::new(Kind::Failed, "no job is active")),
        over if over.is_over() => {
            let text = format!("no job is active: the last one is {status}");
            Err(Error::new(Kind::Failed, text))
        }
        _ => {
            client.execute("migrate_cancel", &Value::Null)?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
