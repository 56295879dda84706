//! `ramferry parameters` and `ramferry capabilities`: the two tables, for people or as JSON.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::caps::Capability;
use crate::error::Result;
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
    print(&parameter_table(Table::new().width()))
}

/// What was found out of a parameter in words of their own.
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

/// The parameters for people: in a terminal as wide as that is, with what would make it too wide
/// below each other; elsewhere one line for each, however long.
fn parameter_table(width: Option<u16>) -> String {
    let rows = parameter_rows();
    if width.is_none() {
        let mut table = table(
            [
                "name",
                "type",
                "default",
                "range",
                "side",
                "during a migration",
                "since",
                "meaning",
            ],
            None,
        );
        table.add_rows(rows.iter().map(|row| {
            [
                row.name,
                &row.full_kind(),
                row.default,
                row.range,
                row.side,
                row.running(),
                row.since,
                row.meaning,
            ]
            .map(str::to_owned)
        }));
        return text(&mut table);
    }
    let header = [
        "name, type\nside; during a migration; since",
        "default",
        "range",
        "meaning",
    ];
    let mut table = table(header, width);
    table.add_rows(rows.iter().map(|row| {
        let (kind, running) = (row.full_kind(), row.running());
        [
            format!(
                "{}\n{kind}\n{}; {running}; {}",
                row.name, row.side, row.since
            ),
            row.default.to_owned(),
            row.range.to_owned(),
            row.meaning.to_owned(),
        ]
    }));
    text(&mut table)
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

/// Prints the capabilities.
pub(super) fn capabilities(json: bool) -> Result<()> {
    let rows = Capability::ALL.map(|capability| CapabilityRow {
        name: capability.name(),
        default: capability.default_state(),
        available: capability.available(),
        reason: capability.unavailable(),
        meaning: capability.meaning(),
    });
    if json {
        return print_json(&rows);
    }
    let header = ["name", "default", "available", "meaning"];
    let mut table = table(header, Table::new().width());
    table.add_rows(rows.map(|row| {
        let available = row
            .reason
            .map_or("yes".to_owned(), |why| format!("no: {why}"));
        let default = if row.default { "on" } else { "off" };
        [row.name, default, &available, row.meaning].map(str::to_owned)
    }));
    print(&text(&mut table))
}

/// An empty table, as wide as this, or with lines as long as they are.
fn table<const COLUMNS: usize>(header: [&str; COLUMNS], width: Option<u16>) -> Table {
    let mut table = Table::new();
    table.set_header(header);
    match width {
        Some(width) => table
            .load_style(presets::UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width),
        // Rules between lines would only be in a program's way.
        None => table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled),
    };
    table
}

fn text(table: &mut Table) -> String {
    // Names are there to be copied: they are never broken over two lines.
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    format!("{}\n", table.trim_fmt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_the_table_may_be() {
        for width in [80, 100, 200] {
            let text = parameter_table(Some(width));
            for row in TABLE {
                assert!(text.contains(row.name), "names stay whole");
            }
            for line in text.lines() {
                assert!(line.chars().count() <= width.into(), "{line}");
            }
        }
    }

    #[test]
    fn without_a_terminal_each_parameter_is_one_whole_line() {
        let text = parameter_table(None);
        for row in TABLE {
            let mut lines = text.lines();
            let line = lines.find(|line| line.trim_start().starts_with(&format!("{} ", row.name)));
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
