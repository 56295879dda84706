//! What is printed: documents for programs, tables, summaries, help.

use std::path::{Path, PathBuf};

use ramferry::params::{Side, TABLE};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Ended, Files, Program, assert_same, command, later, mixed, run, start, watchdog,
};

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

#[test]
fn the_documents_of_both_sides_have_the_documented_members_and_agree() {
    watchdog!();
    let files = Files::small();
    let second = files.folder.image("later", &later(&mixed(64, 5), 6));
    let second = second.to_str().unwrap();
    let uri = files.uri();
    let mut receiver = start(&["receive", &uri, files.output(), "--json", "--quiet"]);
    receiver.err_line();
    let sent = files.sender(&["--json", "--then", second, "--compress-level", "3"]);
    let sent = sent.finish();
    let received = receiver.finish();
    sent.succeeded();
    received.succeeded();
    let (sent, received) = (sent.json(), received.json());
    let common = [
        "connections",
        "cpu-seconds",
        "digest",
        "guest",
        "ram",
        "ratio",
        "return-bytes",
        "rounds",
        "setup-time",
        "side",
        "status",
        "threads",
        "total-time",
        "wire-bytes",
    ];
    let mut of_source = [
        &common[..],
        &["compression", "downtime", "level", "method", "xbzrle-cache"],
    ]
    .concat();
    of_source.sort_unstable();
    assert_eq!(keys(&sent), of_source);
    let mut of_destination = [&common[..], &["sync-time", "wire-format"]].concat();
    of_destination.sort_unstable();
    assert_eq!(keys(&received), of_destination);
    for document in [&sent, &received] {
        assert_eq!(
            keys(&document["ram"]),
            [
                "dirty-sync-count",
                "duplicate",
                "mbps",
                "normal",
                "normal-bytes",
                "page-size",
                "pages-per-second",
                "remaining",
                "total",
                "transferred"
            ]
        );
        assert_eq!(
            keys(&document["rounds"][0]),
            [
                "cache-miss",
                "compressed",
                "delta",
                "delta-bytes",
                "overflow",
                "pages",
                "plain",
                "round",
                "time",
                "unchanged",
                "wire-bytes",
                "zero"
            ]
        );
        assert_eq!(document["status"], "completed");
        assert_eq!(document["ram"]["total"], 64 * 4096);
        assert_eq!(document["ram"]["page-size"], 4096);
        assert_eq!(document["ram"]["dirty-sync-count"], 2);
        assert_eq!(document["rounds"].as_array().unwrap().len(), 2);
        assert!(document["cpu-seconds"]["total"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(
        keys(&sent["compression"]),
        [
            "busy",
            "busy-rate",
            "compressed-size",
            "compression-rate",
            "pages"
        ]
    );
    assert_eq!(
        keys(&sent["xbzrle-cache"]),
        [
            "bytes",
            "cache-miss",
            "cache-miss-rate",
            "cache-size",
            "encoding-rate",
            "overflow",
            "pages"
        ]
    );
    assert_eq!(
        (&sent["method"], &sent["level"]),
        (&"zlib".into(), &3.into())
    );
    assert_eq!(
        (&sent["side"], &received["side"]),
        (&"source".into(), &"destination".into())
    );
    for member in ["digest", "wire-bytes", "return-bytes", "connections"] {
        assert_eq!(sent[member], received[member], "{member}");
    }
}

#[test]
fn a_migration_that_fails_still_prints_its_document_and_says_why() {
    watchdog!();
    let files = Files::small();
    let uri = files.uri();
    let failed = run(&[
        "send",
        files.image(),
        &uri,
        "--connect-timeout",
        "100ms",
        "--json",
        "--quiet",
    ]);
    failed.failed_with(1, &["within 0.1 s"]);
    let document = failed.json();
    assert_eq!(document["status"], "failed");
    assert_eq!(document["error-desc"], failed.error());

    let mut receiver = start(&["receive", &uri, files.output(), "--json", "--quiet"]);
    receiver.err_line();
    receiver.signal(Signal::INT);
    let cancelled = receiver.finish();
    cancelled.failed_with(130, &[]);
    assert_eq!(cancelled.json()["status"], "cancelled");
}

#[test]
fn a_summary_on_standard_error_says_what_was_moved() {
    watchdog!();
    let files = Files::small();
    let uri = files.uri();
    let mut receiver = start(&["receive", &uri, files.output()]);
    receiver.listening();
    let sent = run(&["send", files.image(), &uri]);
    let received = receiver.finish();
    for (ended, verb) in [(sent, "sent"), (received, "received")] {
        ended.succeeded();
        assert!(ended.err.starts_with(verb), "{ended:?}");
        for what in ["256.00 KiB", "arrived and proven", "digest", "ratio"] {
            assert!(ended.err.contains(what), "no {what:?} in {ended:?}");
        }
    }
}

#[test]
fn of_a_format_without_checksums_nothing_is_called_proven() {
    watchdog!();
    let files = Files::small();
    let stream = format!("file:{}", files.folder.path("stream").display());
    run(&["send", files.image(), &stream, "--wire", "qemu", "-q"]).succeeded();
    let received = run(&["receive", &stream, files.output(), "--json"]);
    received.succeeded();
    assert_eq!(received.json()["wire-format"], "qemu");
    let words = "arrived (read back as it was placed; QEMU's format has no checksums)";
    assert!(received.err.contains(words), "{received:?}");
    assert!(!received.err.contains("proven"), "{received:?}");
}

#[test]
fn tables_for_programs_have_a_row_for_everything() {
    watchdog!();
    let rows = run(&["parameters", "--json"]).json();
    let names: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    let expected: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(names, expected);
    for row in rows.as_array().unwrap() {
        assert_eq!(
            keys(row),
            [
                "default",
                "meaning",
                "name",
                "range",
                "repeatable",
                "runtime",
                "side",
                "since",
                "type",
                "unit"
            ]
        );
    }
    let rows = run(&["capabilities", "--json"]).json();
    for (row, name) in rows.as_array().unwrap().iter().zip(["compress", "xbzrle"]) {
        assert_eq!(row["name"], name);
        let expected = ["available", "default", "meaning", "name", "reason"];
        assert_eq!(keys(row), expected);
    }
    for table in ["parameters", "capabilities"] {
        let shown = run(&[table]);
        shown.succeeded();
        assert!(shown.out.contains("compress"), "{shown:?}");
    }
}

#[test]
fn help_says_that_tcp_is_not_encrypted_wherever_an_address_is_taken() {
    watchdog!();
    for args in [
        &["--help"][..],
        &["-h"],
        &["send", "--help"],
        &["send", "-h"],
        &["receive", "--help"],
        &["receive", "-h"],
        &["probe", "--help"],
        &["probe", "-h"],
    ] {
        let help = run(args);
        help.succeeded();
        let words = help.out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("neither encrypted nor authenticated"),
            "{args:?}"
        );
    }
    for row in TABLE {
        let of = |command| {
            run(&[command, "--help"])
                .out
                .contains(&format!("--{}", row.name))
        };
        assert_eq!(of("send"), row.side != Side::Destination, "{}", row.name);
        assert_eq!(of("receive"), row.side != Side::Source, "{}", row.name);
    }
}

#[test]
fn a_closed_standard_output_is_not_an_error() {
    watchdog!();
    let files = Files::small();
    let digest = ["digest", files.image()];
    for args in [&["parameters"][..], &["capabilities", "--json"], &digest] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended: Ended = Program::start_with_stdout(command(args), writer).finish();
        ended.succeeded();
        assert_eq!(ended.err, "", "{args:?}");
    }
}

#[test]
fn an_image_may_have_a_name_that_is_not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    watchdog!();
    let files = Files::small();
    let name = std::ffi::OsStr::from_bytes(b"ram\xff");
    let odd: PathBuf = Path::new(&files.folder.path("")).join(name);
    std::fs::copy(&files.image, &odd).unwrap();
    let receiver = files.receiver(&[]);
    let mut send = command(&["send"]);
    send.arg(&odd).args([&files.uri(), "--quiet"]);
    Program::start(send).finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}
