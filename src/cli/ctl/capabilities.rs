//! `ctl`'s commands about capabilities.

use serde_json::{Value, json};

use crate::cli::output::{print, print_json};
use crate::error::{Error, Kind, Result};
use crate::qmp::{Client, ClientError};
use crate::text::{Quoted, printable};

use super::{Show, declined, senseless, word};

/// Switches capabilities, all or none.
pub(super) fn set(client: &mut Client, switches: &[(String, bool)]) -> Result<()> {
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

/// Prints all capabilities.
pub(super) fn print_all(client: &mut Client, show: &Show) -> Result<()> {
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
