//! The monitor as QEMU's own clients have it, and next to what a real QEMU answered.
//!
//! The clients are the package `qemu.qmp` from PyPI, which `tests/run.sh` installs. What the QEMU
//! answered was recorded by `tests/qmp/record.py`; each difference that is meant is listed here with
//! its reason, and one that is none any more fails as well.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Folder, Page, Program, assert_same, command, watchdog};

/// The Python that has `qemu.qmp`; `None`, said loudly, where there is none and none is required.
fn python() -> Option<PathBuf> {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/qmp-clients/bin/python");
    let python = std::env::var_os("RAMFERRY_QMP_PYTHON").map_or(usual, PathBuf::from);
    let works = Command::new(&python)
        .args(["-c", "import qemu.qmp"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if works {
        return Some(python);
    }
    assert!(
        std::env::var_os("RAMFERRY_REQUIRE_QMP").is_none(),
        "{} has no qemu.qmp, and it is required",
        python.display()
    );
    eprintln!("SKIPPED: no qemu.qmp; `sh tests/run.sh` installs it");
    None
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/qmp")
        .join(name)
}

/// A guest of 4 MiB, and a monitor that is to send it.
struct Scene {
    folder: Folder,
    image: PathBuf,
    socket: PathBuf,
    monitor: Program,
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let guest: Vec<Page> = (0..1024).map(Page::Text).collect();
        let image = folder.image("guest.ram", &guest);
        let socket = folder.path("monitor");
        let uri = format!("unix:{}", socket.display());
        let args = ["monitor", &uri, "--image", image.to_str().unwrap()];
        let mut monitor = Program::start(command(&args));
        assert_eq!(monitor.out_line(), format!("monitor at {uri}"));
        Scene {
            folder,
            image,
            socket,
            monitor,
        }
    }

    /// A destination that listens, its address and its output.
    fn destination(&self, name: &str) -> (Program, String, PathBuf) {
        let output = self.folder.path(name);
        let uri = format!(
            "unix:{}",
            self.folder.path(&format!("{name}.sock")).display()
        );
        let mut program = Program::start(command(&["receive", &uri, output.to_str().unwrap()]));
        assert_eq!(program.listening(), uri);
        (program, uri, output)
    }
}

#[test]
fn qemus_own_client_drives_a_whole_migration() {
    watchdog!();
    let Some(python) = python() else { return };
    let scene = Scene::new();
    let (first, first_uri, cancelled) = scene.destination("first");
    let (second, second_uri, arrived) = scene.destination("second");
    let driven = Command::new(python)
        .arg(script("drive.py"))
        .arg(&scene.socket)
        .args([&first_uri, &second_uri])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&driven.stderr);
    assert!(driven.status.success(), "{words}");
    first.finish().failed_with(1, &[]);
    second.finish().succeeded();
    scene.monitor.finish().succeeded();
    assert!(!cancelled.exists());
    assert_same(&arrived, &scene.image);
    assert!(!scene.socket.exists());
}

/// As in QEMU's own documents, where `migrate -d` became `migrate uri=`.
#[test]
fn a_session_typed_into_qmp_shell_migrates() {
    watchdog!();
    let Some(python) = python() else { return };
    let scene = Scene::new();
    let (destination, uri, arrived) = scene.destination("out");
    let mut shell = Command::new(python.with_file_name("qmp-shell"))
        .arg(&scene.socket)
        .env("HOME", scene.folder.path(""))
        .env("PYTHONUNBUFFERED", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut keys = shell.stdin.take().unwrap();
    let mut screen = BufReader::new(shell.stdout.take().unwrap()).lines();
    let mut type_in = |line: &str| {
        writeln!(keys, "{line}").unwrap();
        // A prompt, and events that came meanwhile, may precede it.
        loop {
            let shown = screen.next().expect("it goes on").unwrap();
            assert!(!shown.contains("\"error\""), "{line}: {shown}");
            if shown.contains("\"return\"") {
                return shown;
            }
        }
    };
    type_in("migrate-set-capabilities capabilities=[{\"capability\":\"compress\",\"state\":true}]");
    type_in("migrate-set-parameters compress-level=1 compress-threads=2 decompress-threads=2");
    let set = type_in("query-migrate-parameters");
    assert!(set.contains("\"compress-threads\": 2"), "{set}");
    type_in(&format!("migrate uri={uri}"));
    while !type_in("query-migrate").contains("\"status\": \"completed\"") {}
    type_in("quit");
    destination.finish().succeeded();
    scene.monitor.finish().succeeded();
    // Nothing more is typed: it ends.
    drop(keys);
    let _ = shell.wait();
    assert_same(&arrived, &scene.image);
}

// ---- next to a real QEMU

/// What was said and what came back, step by step.
fn transcript(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What kind of value it is. Where QEMU's schema has a `number`, a whole one is written without a point.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A list of named things, by their names.
fn by_name(list: &[Value]) -> Option<BTreeMap<&str, &Value>> {
    let named = list.iter().map(|each| {
        let mut keys = ["name", "capability"].iter();
        let name = keys.find_map(|key| each.get(key)?.as_str())?;
        Some((name, each))
    });
    named.collect()
}

/// Where the two differ: in what keys there are, in the kind of a value, and in the words of errors,
/// states and events.
fn differences(path: &str, qemus: &Value, ours: &Value, found: &mut Vec<String>) {
    match (qemus, ours) {
        (Value::Object(qemus), Value::Object(ours)) => {
            let of = |map: &serde_json::Map<String, Value>| {
                let pairs = map.iter().map(|(key, value)| (key.clone(), value.clone()));
                pairs.collect::<BTreeMap<_, _>>()
            };
            members(path, &of(qemus), &of(ours), found);
        }
        (Value::Array(qemus), Value::Array(ours)) => match (by_name(qemus), by_name(ours)) {
            (Some(qemus), Some(ours)) => {
                let of = |map: BTreeMap<&str, &Value>| {
                    let pairs = map
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value.clone()));
                    pairs.collect::<BTreeMap<_, _>>()
                };
                members(path, &of(qemus), &of(ours), found);
            }
            _ => {
                if qemus != ours {
                    found.push(format!("{path}: {qemus:?} is {ours:?}"));
                }
            }
        },
        (Value::String(theirs), Value::String(own)) => {
            let is_free = path.ends_with("package");
            if theirs != own && !is_free {
                found.push(format!("{path}: '{theirs}' is '{own}'"));
            }
        }
        _ if kind(qemus) != kind(ours) => {
            found.push(format!("{path}: a {} is a {}", kind(qemus), kind(ours)));
        }
        _ => {}
    }
}

fn members(
    path: &str,
    qemus: &BTreeMap<String, Value>,
    ours: &BTreeMap<String, Value>,
    found: &mut Vec<String>,
) {
    for (key, value) in qemus {
        match ours.get(key) {
            Some(own) => differences(&format!("{path}.{key}"), value, own, found),
            None => found.push(format!("{path}.{key}: only QEMU has it")),
        }
    }
    for key in ours.keys().filter(|key| !qemus.contains_key(*key)) {
        found.push(format!("{path}.{key}: only we have it"));
    }
}

/// What is reported between two steps: the events' names and their states and rounds.
fn events(step: &Value) -> Vec<String> {
    let events = step["events"].as_array().unwrap().iter().map(|event| {
        let data = event.get("data").map_or(String::new(), Value::to_string);
        format!("{} {data}", event["event"].as_str().unwrap())
    });
    events.collect()
}

/// A difference that is meant: how what is found begins and ends, and why it is so.
struct Meant(&'static str, &'static str, &'static str);

impl Meant {
    fn covers(&self, line: &str) -> bool {
        line.starts_with(self.0) && line.ends_with(self.1)
    }
}

const QEMU_ONLY: &str = ": only QEMU has it";
const WE_ONLY: &str = ": only we have it";

const MEANT: &[Meant] = &[
    Meant(
        r#"{"arguments":{"enable":["bogus"]},"execute":"qmp_capabilities"}.error.desc"#,
        "'Parameter 'enable' does not accept value 'bogus''",
        "QEMU names the parameter 'null'",
    ),
    Meant(
        r#"{"execute":"query-commands"}.return."#,
        QEMU_ONLY,
        "what else a QEMU does is not ours",
    ),
    Meant(
        r#"{"execute":"query-status"}.return.status"#,
        "'prelaunch' is 'paused'",
        "an image at rest is not a guest that was never started",
    ),
    Meant(
        r#""{'execute': 'query-status'}\n".return.status"#,
        "'prelaunch' is 'paused'",
        "the same",
    ),
    Meant(
        r#"{"execute":"query-migrate-parameters"}.return."#,
        QEMU_ONLY,
        "of storage, of TLS, of post-copy, of multifd: nothing that is done here",
    ),
    Meant(
        r#"{"execute":"query-migrate-parameters"}.return."#,
        WE_ONLY,
        "the parameters that QEMU does not have",
    ),
    Meant(
        r#"{"execute":"query-migrate-capabilities"}.return."#,
        QEMU_ONLY,
        "what is not done here",
    ),
    Meant(
        r#"{"arguments":{"state":"pre-switchover"},"execute":"migrate-continue"}.error.desc"#,
        "'Migration not in expected state: none'",
        "QEMU takes a URI that is none for a migration that failed; here nothing has begun",
    ),
    Meant(
        r#"{"execute":"query-migrate"}.return.error-desc"#,
        "'cannot connect to tcp:127.0.0.1:1 within 10 s: Connection refused (os error 111)'",
        "our own words for what went wrong on the way",
    ),
    Meant(
        r#"{"execute":"query-migrate"}.return."#,
        WE_ONLY,
        "what QEMU does not count, or counts only where its capability is on",
    ),
    Meant(
        r#"{"arguments":{"uri":"exec:cat >/dev/null"},"execute":"migrate"}, events"#,
        "",
        "the state 'device' is reported: while it lasts the destination proves what it holds",
    ),
    Meant(
        r#"{"execute":"quit"}, events"#,
        "is []",
        "there is no machine to shut down",
    ),
];

#[test]
fn replies_errors_and_events_are_those_of_a_real_qemu_but_for_what_is_meant() {
    watchdog!();
    let scene = Scene::new();
    let recorded = Command::new("python3")
        .arg(script("record.py"))
        .arg(&scene.socket)
        .stdin(std::fs::File::open(script("commands.jsonl")).unwrap())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&recorded.stderr);
    assert!(recorded.status.success(), "{words}");
    scene.monitor.finish().succeeded();

    let qemus = transcript(&std::fs::read_to_string(script("qemu-7.2.jsonl")).unwrap());
    let ours = transcript(&String::from_utf8(recorded.stdout).unwrap());
    let steps = transcript(&std::fs::read_to_string(script("commands.jsonl")).unwrap());
    assert_eq!(qemus.len(), steps.len(), "the recording is of other steps");
    assert_eq!(ours.len(), steps.len());
    let mut found = Vec::new();
    for ((qemus, ours), step) in qemus.iter().zip(&ours).zip(&steps) {
        let name = ["send", "raw", "wait"].iter().find_map(|key| step.get(key));
        let name = name.map_or(String::new(), Value::to_string);
        differences(&name, &qemus["said"], &ours["said"], &mut found);
        let (theirs, own) = (events(qemus), events(ours));
        if theirs != own {
            found.push(format!("{name}, events: {theirs:?} is {own:?}"));
        }
    }
    let unmeant: Vec<&String> = found
        .iter()
        .filter(|line| !MEANT.iter().any(|meant| meant.covers(line)))
        .collect();
    assert!(unmeant.is_empty(), "{unmeant:#?}");
    for meant in MEANT {
        let Meant(begin, end, why) = meant;
        assert!(
            found.iter().any(|line| meant.covers(line)),
            "{begin} ... {end} is not a difference any more ({why})"
        );
    }
}
