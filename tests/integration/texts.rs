//! Every help text, and what is printed for typical mistakes, as files: see
//! [`assert_text`](crate::support::assert_text).

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::support::{Folder, Page, Program, assert_text, command, mixed, run, watchdog};

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let list = help.split_once("Commands:\n").map_or("", |(_, list)| list);
    list.lines()
        .take_while(|line| !line.is_empty())
        // Longer descriptions go on in lines that are indented more.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect()
}

fn help(path: &[&str]) -> String {
    let ended = run(&[path, &["--help"]].concat());
    ended.succeeded();
    ended.out
}

#[test]
fn help_is_what_is_stored() {
    watchdog!();
    let top = help(&[]);
    assert_text("help", &top);
    let all = commands(&top);
    assert!(all.len() > 10, "{all:?}");
    for name in &all {
        let text = help(&[name]);
        assert_text(&format!("help-{name}"), &text);
        let parts: BTreeSet<String> = commands(&text).into_iter().collect();
        let mut texts = String::new();
        for part in &parts {
            writeln!(texts, "$ ramferry {name} {part} --help").unwrap();
            writeln!(texts, "{}", help(&[name, part])).unwrap();
        }
        if !parts.is_empty() {
            assert_text(&format!("help-{name}-commands"), &texts);
        }
    }
}

#[test]
fn tables_are_what_is_stored() {
    watchdog!();
    for name in ["parameters", "capabilities"] {
        let ended = run(&[name]);
        ended.succeeded();
        assert_text(name, &ended.out);
    }
}

/// What people type, and what it says. One line each; `IMAGE` exists.
const MISTAKES: &[&str] = &[
    "",
    "sned",
    "send",
    "send missing.ram unix:s",
    "send IMAGE 192.0.2.7:4444",
    "send IMAGE tcp://192.0.2.7:4444",
    "send IMAGE tcp:192.0.2.7",
    "send unix:s IMAGE",
    "send IMAGE unix:s --method zstd",
    "send IMAGE unix:s --compress-method zst",
    "send IMAGE unix:s --compress-method zstd --compress-level 20",
    "send IMAGE unix:s --compress-level 22",
    "send IMAGE unix:s --compress-method zstd:22",
    "send IMAGE unix:s --compress-threads 0",
    "send IMAGE unix:s --max-bandwidth fast",
    "send IMAGE unix:s --link 1Gb",
    "send IMAGE unix:s --xbzrle-cache-size 3MiB",
    "send IMAGE unix:s --capability xbzlre=on",
    "send IMAGE unix:s --capability xbzrle=maybe",
    "send IMAGE unix:s --compression zlib --compression zstd",
    "send IMAGE unix:s --pid 1",
    "send IMAGE unix:s --live",
    "send IMAGE unix:s --wire qemu --connections 2",
    "send IMAGE unix:s --connect-timeout 1ms --timeout never",
    "send IMAGE file:IMAGE",
    "send odd.ram unix:s",
    "send empty.ram unix:s",
    "send core.elf unix:s",
    "send disk.qcow2 unix:s",
    "send . unix:s",
    "send IMAGE unix:s --then smaller.ram",
    "receive unix:s",
    "receive unix:s IMAGE",
    "receive unix:s no/such/folder/out",
    "receive file:missing out",
    "receive file:IMAGE out",
    "inspect missing.ram",
    "digest odd.ram",
    "bench IMAGE --methods all:1",
    "bench IMAGE --methods zst",
    "bench IMAGE --methods lz4 none",
    "bench IMAGE --methods zstd:99",
    "bench IMAGE --links 1Gb",
    "bench IMAGE --goal speed",
    "bench IMAGE --preset all",
    "bench IMAGE --runs 0",
    "bench IMAGE --compare a.json",
    "bench --compare a.json b.json",
    "churn IMAGE",
    "churn --verify IMAGE",
    "churn IMAGE --in-place --pattern zigzag",
    "probe file:x",
    "monitor tcp:127.0.0.1:4444",
    "ctl m.sock domjobinfo",
    "ctl m.sock migrate-setspeed fast",
    "ctl m.sock qmp {broken",
    "completions tcsh",
];

#[test]
fn mistakes_are_answered_with_what_is_stored() {
    watchdog!();
    let folder = Folder::new();
    folder.image("IMAGE", &mixed(64, 1));
    folder.image("smaller.ram", &[Page::Text(1)]);
    for (name, bytes) in [
        ("odd.ram", &[1; 4097][..]),
        ("empty.ram", b""),
        (
            "core.elf",
            &[b"\x7fELF\x02\x01\x01\0", &[0; 4088][..]].concat(),
        ),
        (
            "disk.qcow2",
            &[b"QFI\xfb\0\0\0\x03", &[0; 4088][..]].concat(),
        ),
        ("a.json", b"{}"),
        ("b.json", b"{}"),
    ] {
        std::fs::write(folder.path(name), bytes).unwrap();
    }
    let mut text = String::new();
    for mistake in MISTAKES {
        let args: Vec<&str> = mistake.split_whitespace().collect();
        let mut command = command(&args);
        command.current_dir(folder.path(""));
        let ended = Program::start(command).finish();
        assert_ne!(ended.code, Some(0), "{mistake}: {ended:?}");
        assert_eq!(ended.out, "", "{mistake}");
        writeln!(text, "$ ramferry {mistake}").unwrap();
        // How to get help is the same for all.
        let err = ended.err.split("\n\nUsage: ").next().unwrap();
        writeln!(text, "{}", err.trim_end()).unwrap();
        writeln!(text, "({})\n", ended.code.unwrap()).unwrap();
    }
    assert_text("mistakes", &text);
}
