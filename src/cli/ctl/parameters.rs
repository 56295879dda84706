//! `ctl`'s commands about parameters.

use serde_json::{Map, Value, json};

use crate::cli::output::{print, print_json, report};
use crate::cli::params::Checked;
use crate::error::{Error, Kind, Result};
use crate::params::TABLE;
use crate::qmp::{Client, ClientError};
use crate::text::{Quoted, printable};

use super::values::{self, Amount, Setting};
use super::{Show, declined, senseless, word};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
NAME is one of `ramferry parameters`, or any other parameter of the monitor, such as a QEMU's
multifd-channels. VALUE is written as for ramferry's own options: sizes, rates and times take units.")]
pub(super) struct SetParameters {
    /// compress-level; -1: unchanged
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = Checked(values::amount))]
    level: Option<Amount>,
    /// compress-threads; -1: unchanged
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = Checked(values::amount))]
    threads: Option<Amount>,
    /// decompress-threads; -1: unchanged
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = Checked(values::amount))]
    dthreads: Option<Amount>,
    /// Any parameter (repeatable)
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = Checked(values::setting))]
    settings: Vec<Setting>,
}

impl SetParameters {
    /// The three options that have names of their own, as settings.
    pub(super) fn amounts(&self) -> impl Iterator<Item = (&'static str, Amount)> {
        [
            ("compress-level", self.level),
            ("compress-threads", self.threads),
            ("decompress-threads", self.dthreads),
        ]
        .into_iter()
        .filter_map(|(name, amount)| Some((name, amount?)))
    }

    /// Checks what does not depend on the monitor.
    pub(super) fn check(&self) -> Result<()> {
        let usage = |what: String| Err(Error::new(Kind::Usage, what));
        let names = || {
            let amounts = self.amounts().filter(|(_, amount)| amount.0.is_some());
            let given = self.settings.iter().map(|setting| &*setting.name);
            amounts.map(|(name, _)| name).chain(given)
        };
        if self.amounts().next().is_none() && self.settings.is_empty() {
            return usage("nothing to set: give --level, --threads, --dthreads or --set".into());
        }
        for (at, name) in names().enumerate() {
            let repeatable = values::is_repeatable(name);
            if !repeatable && names().skip(at + 1).any(|other| other == name) {
                return usage(format!("{} is given twice", Quoted(name)));
            }
        }
        Ok(())
    }

    pub(super) fn run(&self, client: &mut Client) -> Result<()> {
        // The type of a parameter that is not ours shows in its current value.
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

pub(super) fn set_one(client: &mut Client, name: &str, value: u64) -> Result<()> {
    set_parameters(client, Map::from_iter([(name.to_owned(), value.into())]))
}

/// The answer to `query-migrate-parameters`.
fn parameters(client: &mut Client) -> Result<Map<String, Value>> {
    match client.execute("query-migrate-parameters", &Value::Null)? {
        Value::Object(parameters) => Ok(parameters),
        _ => Err(senseless(client, "query-migrate-parameters")),
    }
}

/// A parameter that is a number.
pub(super) fn get_one(client: &mut Client, name: &str) -> Result<u64> {
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

/// Prints all parameters.
pub(super) fn print_all(client: &mut Client, show: &Show) -> Result<()> {
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
