//! `ramferry parameters` and `ramferry capabilities`: the two tables, for people or as JSON.

use serde::Serialize;

use crate::caps::Capability;
use crate::error::Result;
use crate::grid::{terminal_width, wrapped};
use crate::params::{Parameter, TABLE};

use super::output::{print, print_json};

/// A row of `ramferry parameters --json`. The names of the fields are stable.
#[derive(Serialize)]
struct ParameterRow {
    name: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    default: &'static str,
    range: &'static str,
    unit: Option<&'static str>,
    side: &'static str,
    runtime: bool,
    since: &'static str,
    repeatable: bool,
    meaning: &'static str,
}

/// A row of `ramferry capabilities --json`. The names of the fields are stable.
#[derive(Serialize)]
struct CapabilityRow {
    name: &'static str,
    default: bool,
    available: bool,
    /// Why it is not available.
    reason: Option<&'static str>,
    meaning: &'static str,
}

/// Prints the parameters.
pub(super) fn parameters(json: bool) -> Result<()> {
    if json {
        return print_json(&parameter_rows());
    }
    print(&parameter_list(terminal_width()))
}

impl ParameterRow {
    fn full_kind(&self) -> String {
        let unit = self
            .unit
            .map_or_else(String::new, |unit| format!(", {unit}"));
        let repeatable = if self.repeatable { ", repeatable" } else { "" };
        format!("{}{unit}{repeatable}", self.kind)
    }

    fn running(&self) -> &'static str {
        if self.runtime {
            "can be changed"
        } else {
            "fixed"
        }
    }
}

/// The parameters for people: in a terminal a paragraph each, elsewhere one line each, with tabs
/// between the fields.
fn parameter_list(width: Option<usize>) -> String {
    let rows = parameter_rows();
    if let Some(width) = width {
        let paragraphs = rows.iter().map(|row| {
            let running = if row.runtime {
                "can be changed during a migration"
            } else {
                "cannot be changed during a migration"
            };
            format!(
                "{} ({}, default {})\n  {}.\n  Allowed: {}. {}; {running}; since {}.\n",
                row.name,
                row.full_kind(),
                row.default,
                row.meaning,
                row.range,
                row.side,
                row.since
            )
        });
        return wrapped(&paragraphs.collect::<Vec<_>>().join("\n"), Some(width));
    }
    let heading = "name\ttype\tdefault\trange\tside\tduring a migration\tsince\tmeaning\n";
    let lines = rows.iter().map(|row| {
        let kind = row.full_kind();
        let fields = [
            row.name,
            &kind,
            row.default,
            row.range,
            row.side,
            row.running(),
            row.since,
            row.meaning,
        ];
        fields.join("\t") + "\n"
    });
    std::iter::once(heading.to_owned()).chain(lines).collect()
}

fn parameter_rows() -> Vec<ParameterRow> {
    let row = |row: &Parameter| ParameterRow {
        name: row.name,
        kind: row.kind.name(),
        default: row.default,
        range: row.range,
        unit: row.unit,
        side: row.side.name(),
        runtime: row.runtime,
        since: row.since,
        repeatable: row.repeatable,
        meaning: row.meaning,
    };
    TABLE.iter().map(row).collect()
}

fn capability_rows() -> [CapabilityRow; Capability::ALL.len()] {
    Capability::ALL.map(|capability| CapabilityRow {
        name: capability.name(),
        default: capability.default_state(),
        available: capability.available(),
        reason: capability.unavailable(),
        meaning: capability.meaning(),
    })
}

/// Prints the capabilities.
pub(super) fn capabilities(json: bool) -> Result<()> {
    if json {
        return print_json(&capability_rows());
    }
    print(&capability_list(terminal_width()))
}

/// The capabilities for people, in the same form as [`parameter_list`].
fn capability_list(width: Option<usize>) -> String {
    let default = |row: &CapabilityRow| if row.default { "on" } else { "off" };
    let rows = capability_rows();
    let rows = rows.iter();
    let Some(width) = width else {
        let lines = rows.map(|row| {
            let available = row
                .reason
                .map_or("yes".to_owned(), |why| format!("no: {why}"));
            let fields = [row.name, default(row), &available, row.meaning];
            fields.join("\t") + "\n"
        });
        let heading = "name\tdefault\tavailable\tmeaning\n".to_owned();
        return std::iter::once(heading).chain(lines).collect();
    };
    let paragraphs = rows.map(|row| {
        let unavailable = row
            .reason
            .map_or_else(String::new, |why| format!("\n  Not available: {why}."));
        let (name, default, meaning) = (row.name, default(row), row.meaning);
        format!("{name} (default {default})\n  {meaning}.{unavailable}\n")
    });
    wrapped(&paragraphs.collect::<Vec<_>>().join("\n"), Some(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [80, 100, 200] {
            let text = parameter_list(Some(width)) + &capability_list(Some(width));
            for row in TABLE {
                assert!(text.contains(row.name), "names stay whole");
            }
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{line}");
            }
        }
    }

    #[test]
    fn without_a_terminal_each_parameter_is_one_whole_line() {
        let text = parameter_list(None);
        for row in TABLE {
            let mut lines = text.lines();
            let line = lines.find(|line| line.starts_with(&format!("{}\t", row.name)));
            let line = line.expect(row.name);
            let rest = [row.kind.name(), row.default, row.range, row.side.name()];
            for what in rest.into_iter().chain([row.since, row.meaning]) {
                assert!(line.contains(what), "{what} in {line}");
            }
            assert!(row.unit.is_none_or(|unit| line.contains(unit)), "{line}");
        }
    }

    #[test]
    fn every_parameter_is_in_the_json_with_every_field() {
        let json = serde_json::to_string(&parameter_rows()).expect("plain values");
        let rows: Vec<serde_json::Map<_, _>> = serde_json::from_str(&json).expect("an array");
        assert_eq!(rows.len(), TABLE.len());
        for row in &rows {
            assert_eq!(
                row.len(),
                10,
                "a unit that is not set is null, not left out"
            );
        }
        assert_eq!(rows[0]["name"], "compress-method");
        assert_eq!(rows[0]["type"], "string");
        assert_eq!(rows[0]["unit"], serde_json::Value::Null);
    }
}
