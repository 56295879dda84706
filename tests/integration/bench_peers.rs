//! `ramferry bench --peer`: a QEMU beside our own settings, and everything that may be wrong with it.
//! The peers here are scripts that claim to be a QEMU; our own rows are printed in any case.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use crate::support::qemu::qemu_or_skip;
use crate::support::*;

/// A program of these lines.
fn script(folder: &Folder, lines: &str) -> String {
    let text = folder.path("text");
    let path = folder.path("peer");
    std::fs::write(&text, format!("#!/bin/sh\n{lines}\n")).unwrap();
    // Copied by another process: a file that is open for writing cannot be executed, and what
    // this one has open, each of its children has for a moment.
    let copied = Command::new("cp").args([&text, &path]).status().unwrap();
    assert!(copied.success());
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// The beginning of a script that claims to be a QEMU with four modes.
const SAYS_SO: &str = "[ \"$1\" = --version ] && echo 'QEMU emulator version 10.0.2' && exit";

/// A comparison with a peer, all exports, and no progress.
fn bench(folder: &Folder, peer: &str, more: &[&str]) -> Ended {
    let path = |name: &str| folder.path(name).display().to_string();
    let peer = format!("qemu:{peer}");
    let exports = [
        ("--export-json", path("r.json")),
        ("--export-csv", path("r.csv")),
        ("--export-markdown", path("r.md")),
        ("--report", path("r.html")),
    ];
    let mut args = vec!["bench", "--methods", "lz4,none", "--peer", &peer];
    for (option, file) in &exports {
        args.extend([*option, file]);
    }
    args.extend(more);
    run(&args)
}

const TINY: [&str; 2] = ["--synthetic", "1MiB"];

/// Asserts that what we measured ourselves is printed and exported, and gives the document.
fn ours_are_there(folder: &Folder, ended: &Ended) -> serde_json::Value {
    let text = |name: &str| std::fs::read_to_string(folder.path(name)).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text("r.json")).unwrap();
    assert_eq!(document["status"], "completed", "{ended:?}");
    for setting in document["settings"].as_array().unwrap() {
        assert_eq!(setting["runs"].as_array().unwrap().len(), 3);
    }
    assert!(ended.out.contains("\nlz4 ") && ended.out.contains("Commands for "));
    assert!(text("r.csv").contains("\nsetting,lz4,"));
    assert!(text("r.md").contains("\n| lz4 | "));
    assert!(text("r.html").ends_with("</html>"));
    document
}

/// Asserts that each mode of the peer failed for this reason, wherever that is reported.
fn all_modes_failed(folder: &Folder, ended: &Ended, reason: &str) {
    ended.failed_with(1, &["the peer could not be measured", reason]);
    let document = ours_are_there(folder, ended);
    let peers = document["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 4);
    for peer in peers {
        let why = peer["error-desc"].as_str().unwrap();
        assert!(why.contains(reason) && !why.contains('\n'), "{why}");
        assert!(peer["time"].is_null() && peer["runs"].as_array().unwrap().is_empty());
    }
    assert!(ended.out.contains("warning: QEMU 10.0.2 plain failed: "));
    let lines = ended.err.lines().filter(|line| line.contains("left out"));
    assert_eq!(lines.count(), 4, "each mode is tried once: {ended:?}");
    for name in ["r.csv", "r.md", "r.html"] {
        let text = std::fs::read_to_string(folder.path(name)).unwrap();
        assert!(text.contains("QEMU 10.0.2 plain"), "{name}");
    }
}

#[test]
fn a_peer_that_is_missing_or_is_none_is_refused_before_the_first_run() {
    watchdog!();
    let folder = Folder::new();
    for (lines, words) in [
        ("echo nothing of the kind", "is not a QEMU"),
        ("while :; do echo garbage; done", "is not a QEMU"),
        ("exit 1", "is not a QEMU"),
    ] {
        let peer = script(&folder, lines);
        bench(&folder, &peer, &TINY).failed_with(2, &[&peer, words]);
    }
    bench(&folder, "/no/such/qemu", &TINY).failed_with(2, &["/no/such/qemu", "cannot be run"]);
    let peer = script(&folder, SAYS_SO);
    let odd = ["--synthetic", "1028KiB"];
    bench(&folder, &peer, &odd).failed_with(2, &["whole MiB"]);
}

#[test]
fn a_peer_that_ends_at_once_leaves_our_rows_alone() {
    watchdog!();
    let folder = Folder::new();
    let lines = format!("{SAYS_SO}\necho 'one | two' >&2\necho 'no <such> machine' >&2\nexit 1");
    let ended = bench(&folder, &script(&folder, &lines), &TINY);
    all_modes_failed(&folder, &ended, "exit status: 1: no <such> machine");
}

/// A monitor for a script that has none of its own: whenever the script says with which arguments
/// it was started, this listens where it should, says `words`, and then lets the script go on.
fn monitor(folder: &Folder, words: &'static [u8]) -> (String, JoinHandle<()>) {
    let fifo = |name: &str| {
        let path = folder.path(name);
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        path
    };
    let (started, resume) = (fifo("started"), fifo("resume"));
    let lines = format!(
        "{SAYS_SO}\necho \"$*\" > '{}'\nread -r line < '{}'\nkill -9 $$",
        started.display(),
        resume.display()
    );
    let answering = thread::spawn(move || {
        // One for each mode.
        for _ in 0..4 {
            answer(&started, &resume, words);
        }
    });
    (script(folder, &lines), answering)
}

fn answer(started: &Path, resume: &Path, words: &[u8]) {
    let mut arguments = String::new();
    let mut reader = BufReader::new(std::fs::File::open(started).unwrap());
    reader.read_line(&mut arguments).unwrap();
    let (_, rest) = arguments.split_once("-qmp unix:").unwrap();
    let (path, _) = rest.split_once(",server=on").unwrap();
    let listener = UnixListener::bind(PathBuf::from(path)).unwrap();
    let (mut link, _) = listener.accept().unwrap();
    // Only a script that has come to where it waits hears this; and it is ended as soon as the words
    // are known to be none.
    let mut script = std::fs::OpenOptions::new()
        .write(true)
        .open(resume)
        .unwrap();
    // It may hang up before it has read everything.
    let _ = link.write_all(words);
    let _ = script.write_all(b"go on\n");
    drop(link);
}

const GREETING: &[u8] =
    b"{\"QMP\": {\"version\": {\"qemu\": {\"major\": 10, \"minor\": 0, \"micro\": 2}, \\
    \"package\": \"\"}, \"capabilities\": []}}\n";

#[test]
fn a_peer_that_dies_after_its_greeting_leaves_our_rows_alone() {
    watchdog!();
    let folder = Folder::new();
    let (peer, answering) = monitor(&folder, GREETING);
    let ended = bench(&folder, &peer, &TINY);
    all_modes_failed(&folder, &ended, "QEMU's monitor failed: ");
    answering.join().unwrap();
}

#[test]
fn a_peer_whose_monitor_talks_nonsense_leaves_our_rows_alone() {
    watchdog!();
    let folder = Folder::new();
    let (peer, answering) = monitor(&folder, b"\x1b[31mwhat?\n");
    let ended = bench(&folder, &peer, &TINY);
    all_modes_failed(&folder, &ended, "what?");
    answering.join().unwrap();
}

#[test]
fn the_runs_before_a_peer_dies_count() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let counter = folder.path("starts").display().to_string();
    // Both ends of the first run of the first way, and one more.
    let lines = format!(
        "[ \"$1\" = --version ] && exec {qemu} --version\n\
         echo start >> '{counter}'\n\
         [ \"$(wc -l < '{counter}')\" -gt 3 ] && echo 'out of luck' >&2 && exit 9\n\
         exec {qemu} \"$@\"",
        qemu = qemu.program()
    );
    let pages: Vec<Page> = (0..256).map(Page::Text).collect();
    let (first, later) = (folder.image("a", &pages), folder.image("b", &pages[1..]));
    std::fs::File::options()
        .write(true)
        .open(&later)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let (first, later) = (first.display().to_string(), later.display().to_string());
    let ended = bench(
        &folder,
        &script(&folder, &lines),
        &[&first, "--then", &later],
    );
    ended.succeeded();
    let document = ours_are_there(&folder, &ended);
    let plain = &document["peers"][0];
    let name = plain["name"].as_str().unwrap();
    assert!(
        name.starts_with("QEMU ") && name.ends_with(" plain, bulk only"),
        "{name}"
    );
    assert_eq!(plain["runs"].as_array().unwrap().len(), 1);
    assert!(plain["time"]["median"].as_f64().unwrap() > 0.0);
    assert!(plain["wire-bytes"]["median"].as_f64().unwrap() > f64::from(1 << 20));
    assert_eq!(document["peers"][1]["runs"].as_array().unwrap().len(), 0);
    assert!(
        document["peers"][1]["error-desc"]
            .as_str()
            .unwrap()
            .ends_with("out of luck")
    );
    let notes = document["plan"]["notes"].to_string();
    assert!(notes.contains("bulk stage of the first"), "{notes}");
    assert!(ended.out.contains(", bulk only\n  plain "), "{ended:?}");

    let json = folder.path("r.json").display().to_string();
    let same = run(&["bench", "--compare", &json, &json]);
    same.succeeded();
    assert!(same.out.contains(name), "{same:?}");
    assert!(!same.out.contains("only in the"), "{same:?}");
}

#[test]
fn a_real_qemu_is_in_the_same_tables_and_charts() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("ram", &mixed(1024, 3)).display().to_string();
    let held = allocated(Path::new(&image));
    let ended = bench(&folder, &qemu.program(), &[&image, "--quiet"]);
    ended.succeeded();
    let document = ours_are_there(&folder, &ended);
    for peer in document["peers"].as_array().unwrap() {
        assert!(peer["error-desc"].is_null(), "{peer}");
        assert_eq!(peer["runs"].as_array().unwrap().len(), 3);
        assert!(peer["source-cpu-seconds"]["median"].as_f64().unwrap() > 0.0);
        let way = peer["way"].as_str().unwrap();
        assert!(ended.out.contains(&format!("\n  {way} ")), "{way}");
    }
    assert_eq!(
        held,
        allocated(Path::new(&image)),
        "its holes are as they were"
    );
    let mut page = String::new();
    let file = std::fs::File::open(folder.path("r.html")).unwrap();
    BufReader::new(file).read_to_string(&mut page).unwrap();
    let diamonds = page.matches("<path class=\"mark peer\"").count();
    let counted = document["peers"].as_array().unwrap().iter();
    let counted = counted.filter(|peer| !peer["wire-bytes"].is_null()).count();
    assert_eq!(diamonds, counted);
    assert!(page.contains("whole process"));
}
