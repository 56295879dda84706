//! `ramferry parameters` and `ramferry capabilities`: the two tables, for people or as JSON.

use std::io::{self, ErrorKind, Write};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::caps::Capability;
use crate::params::{Parameter, TABLE};

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

/// Prints the parameters to stdout. A reader that has gone away is no error.
///
/// # Errors
/// When stdout cannot be written to.
pub(super) fn parameters(json: bool) -> io::Result<()> {
    print(&if json {
        document(&parameter_rows())?
    } else {
        parameter_table(Table::new().width())
    })
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

/// Prints the capabilities to stdout. A reader that has gone away is no error.
///
/// # Errors
/// When stdout cannot be written to.
pub(super) fn capabilities(json: bool) -> io::Result<()> {
    print(&if json {
        let row = |capability: Capability| CapabilityRow {
            name: capability.name(),
            default: capability.default_state(),
            available: capability.unavailable().is_none(),
            reason: capability.unavailable(),
            meaning: capability.meaning(),
        };
        document(&Capability::ALL.map(row))?
    } else {
        let width = Table::new().width();
        let mut table = table(["name", "default", "available", "meaning"], width);
        table.add_rows(Capability::ALL.map(|capability| {
            let available = match capability.unavailable() {
                None => "yes".to_owned(),
                Some(reason) => format!("no: {reason}"),
            };
            let default = if capability.default_state() {
                "on"
            } else {
                "off"
            };
            [capability.name(), default, &available, capability.meaning()].map(str::to_owned)
        }));
        text(&mut table)
    })
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

fn document(rows: &impl Serialize) -> io::Result<String> {
    let mut json = serde_json::to_string_pretty(rows)?;
    json.push('\n');
    Ok(json)
}

fn print(text: &str) -> io::Result<()> {
    write_to(&mut io::stdout().lock(), text)
}

/// `ramferry parameters | head` closes the pipe early, and that is the reader's right.
fn write_to(out: &mut impl Write, text: &str) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails each write with an error of this kind.
    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error_but_a_full_disk_is() {
        assert!(write_to(&mut Failing(ErrorKind::BrokenPipe), "x").is_ok());
        assert!(write_to(&mut Failing(ErrorKind::StorageFull), "x").is_err());
    }

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
        let json = document(&parameter_rows()).expect("plain values");
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
