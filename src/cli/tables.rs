//! `ramferry parameters` and `ramferry capabilities`: the two tables, for people or as JSON.

use std::io::{self, ErrorKind, Write};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::caps::Capability;
use crate::params::{Parameter, TABLE};

/// How wide a table may be where there is no terminal to ask.
const WIDTH_WITHOUT_TERMINAL: u16 = 100;

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
    meaning: &'static str,
}

/// A row of `ramferry capabilities --json`. The names of the fields are stable.
#[derive(Serialize)]
struct CapabilityRow {
    name: &'static str,
    default: bool,
    available: bool,
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
        let mut table = table(["name", "type", "default", "range", "side", "meaning"]);
        table.add_rows(parameter_rows().iter().map(|row| {
            [
                row.name,
                row.kind,
                row.default,
                row.range,
                row.side,
                row.meaning,
            ]
        }));
        text(&mut table)
    })
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
            available: capability.available(),
            meaning: capability.meaning(),
        };
        document(&Capability::ALL.map(row))?
    } else {
        let mut table = table(["name", "default", "available", "meaning"]);
        table.add_rows(Capability::ALL.map(|capability| {
            [
                capability.name(),
                if capability.default_state() {
                    "on"
                } else {
                    "off"
                },
                if capability.available() { "yes" } else { "no" },
                capability.meaning(),
            ]
        }));
        text(&mut table)
    })
}

/// An empty table, as wide as the terminal.
fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    if table.width().is_none() {
        table.set_width(WIDTH_WITHOUT_TERMINAL);
    }
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
        let mut table = table(["name", "meaning"]);
        table.set_width(40);
        table.add_rows(TABLE.iter().map(|row| [row.name, row.meaning]));
        let text = text(&mut table);
        for row in TABLE {
            assert!(text.contains(row.name), "names stay whole");
        }
        for line in text.lines() {
            assert!(line.chars().count() <= 40, "{line}");
        }
    }

    #[test]
    fn every_parameter_is_in_the_json_with_every_field() {
        let json = document(&parameter_rows()).expect("plain values");
        let rows: Vec<serde_json::Map<_, _>> = serde_json::from_str(&json).expect("an array");
        assert_eq!(rows.len(), TABLE.len());
        for row in &rows {
            assert_eq!(row.len(), 9, "a unit that is not set is null, not left out");
        }
        assert_eq!(rows[0]["name"], "compress-method");
        assert_eq!(rows[0]["type"], "string");
        assert_eq!(rows[0]["unit"], serde_json::Value::Null);
    }
}
