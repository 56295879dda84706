//! The table of parameters is the same wherever a user meets it: in `--help`, on a monitor and in
//! `ramferry parameters`.

use std::collections::BTreeMap;

use serde_json::Value;

use ramferry::Params;

use crate::support::{Folder, Program, command, run, watchdog};

/// A command's options under "Parameters", each with its help in one line.
fn options(command: &str) -> BTreeMap<String, String> {
    let help = run(&[command, "--help"]);
    help.succeeded();
    let (_, section) = help.out.split_once("\nParameters:\n").unwrap();
    let mut options = BTreeMap::new();
    let mut name = None;
    for line in section.lines() {
        // A heading, or the end.
        if line.starts_with(|c: char| !c.is_whitespace()) {
            break;
        }
        if let Some(option) = line.strip_prefix("      --") {
            let option = option.split_whitespace().next().unwrap();
            name = Some(option.to_owned());
        } else if let Some(name) = &name {
            let text: &mut String = options.entry(name.clone()).or_default();
            for word in line.split_whitespace() {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(word);
            }
        }
    }
    options.remove("capability").expect("it is there, too");
    options
}

#[test]
fn the_help_and_the_table_tell_the_same_row_by_row() {
    watchdog!();
    let rows = run(&["parameters", "--json"]).json();
    let rows = rows.as_array().unwrap();
    for (command, other_side) in [("send", "destination"), ("receive", "source")] {
        let mut options = options(command);
        for row in rows.iter().filter(|row| row["side"] != other_side) {
            let text = |field: &str| row[field].as_str().unwrap();
            let running = match &row["runtime"] {
                Value::Bool(true) => "Can be changed during a migration.",
                _ => "Fixed during a migration.",
            };
            let unit = match row["unit"].as_str() {
                Some(unit @ ("milliseconds" | "percent")) => format!(" ({unit})"),
                _ => String::new(),
            };
            let expected = format!(
                "{}{unit}. Allowed: {}. {running} [default: {}]",
                text("meaning"),
                text("range"),
                text("default")
            );
            assert_eq!(options.remove(text("name")), Some(expected), "{command}");
        }
        let none: BTreeMap<String, String> = BTreeMap::new();
        assert_eq!(options, none, "{command} has what is not in the table");
    }
}

#[test]
fn without_a_terminal_each_row_is_one_whole_line() {
    watchdog!();
    for table in ["parameters", "capabilities"] {
        let shown = run(&[table]);
        shown.succeeded();
        let rows = run(&[table, "--json"]).json();
        let rows = rows.as_array().unwrap();
        let lines: Vec<&str> = shown.out.lines().collect();
        assert_eq!(lines.len(), rows.len() + 1, "and a heading");
        for (line, row) in lines[1..].iter().zip(rows) {
            for text in row.as_object().unwrap().values().filter_map(Value::as_str) {
                assert!(line.contains(text), "{text} in {line}");
            }
        }
    }
}

/// A parameter without a value is absent, as a QEMU has it.
#[test]
fn a_monitor_has_just_the_parameters_of_the_table_at_their_defaults() {
    watchdog!();
    let folder = Folder::new();
    let uri = format!("unix:{}", folder.path("monitor").display());
    let mut monitor = Program::start(command(&["monitor", &uri]));
    assert_eq!(monitor.out_line(), format!("monitor at {uri}"));
    let mut told = run(&["ctl", &uri, "qmp", "query-migrate-parameters"]).json();
    let told = told.as_object_mut().unwrap();
    for row in run(&["parameters", "--json"]).json().as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let mut params = Params::default();
        if row["repeatable"] == false {
            let default = row["default"].as_str().unwrap();
            params.set_text(name, default).unwrap();
        }
        let value = serde_json::to_value(params.get(name).unwrap()).unwrap();
        let expected = Some(value).filter(|value| !value.is_null());
        assert_eq!(told.remove(name), expected, "{name}");
    }
    assert!(told.is_empty(), "what is not in the table: {told:?}");
    run(&["ctl", &uri, "qmp", "quit"]).succeeded();
    monitor.finish().succeeded();
}
