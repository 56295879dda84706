//! What happens when a stage fails or panics: an error at both ends, and nothing left behind.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::fault::{Armed, Site};
use crate::page::PAGE_SIZE;
use crate::params::Params;
use crate::session::Context;
use crate::{destination, source};

/// Longer than any of it takes, shorter than anybody's patience.
const WATCHDOG: Duration = Duration::from_secs(20);
const PAGES: usize = 512;

fn image(folder: &Path) -> Vec<u8> {
    let bytes: Vec<u8> = (0..PAGES * PAGE_SIZE)
        .map(|at| ((at / 64 * 2_654_435_761) >> 7) as u8 ^ at as u8)
        .collect();
    std::fs::write(folder.join("ram"), &bytes).unwrap();
    bytes
}

/// Both ends in one process, with a fault armed at one of them.
fn migrate(
    folder: &Path,
    connections: u8,
    fault: Armed,
    at_source: bool,
) -> (Result<()>, Result<()>) {
    let params = Params {
        connections,
        compress_threads: 3,
        batch_pages: Some(8),
        timeout: Duration::from_secs(10),
        ..Params::default()
    };
    let contexts = [(); 2].map(|()| Arc::new(Context::new(params.clone()).unwrap()));
    *contexts[usize::from(!at_source)]
        .faults
        .armed
        .lock()
        .unwrap() = Some(fault);
    let address = format!("unix:{}", folder.join("sock").display());
    let sending = source::Request::new(folder.join("ram"), address.parse().unwrap());
    let receiving = destination::Request {
        address: address.parse().unwrap(),
        output: folder.join("out"),
        block: None,
        caps: Caps::default(),
        force: false,
    };
    let (ended, end) = mpsc::channel::<(bool, Result<()>)>();
    let (source_end, destination_end) = (ended.clone(), ended);
    let [source_context, destination_context] = contexts;
    let (bound, listening) = mpsc::channel();
    std::thread::spawn(move || {
        let tell = |_: &_| bound.send(()).unwrap();
        let outcome = destination::run(&receiving, &destination_context, &tell, &|_| {});
        destination_end.send((false, outcome)).unwrap();
    });
    listening.recv_timeout(WATCHDOG).expect("nobody listens");
    std::thread::spawn(move || {
        let outcome = source::run(&sending, &source_context);
        source_end.send((true, outcome)).unwrap();
    });
    let mut outcomes = [None, None];
    for _ in 0..2 {
        let (is_source, outcome) = end.recv_timeout(WATCHDOG).expect("an end hangs");
        outcomes[usize::from(!is_source)] = Some(outcome);
    }
    let [source, destination] = outcomes.map(Option::unwrap);
    (source, destination)
}

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn anonymous_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs `test` in a process of its own, where no other test's threads get in the way.
fn alone(name: &str, test: impl FnOnce()) {
    const MARK: &str = "RAMFERRY_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return test();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--test-threads=1", "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_fault_in_any_stage_is_an_error_at_both_ends_and_leaves_nothing_behind() {
    alone(
        "control::tests::a_fault_in_any_stage_is_an_error_at_both_ends_and_leaves_nothing_behind",
        || {
            // These panics are on purpose; their traces only hide what matters.
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if panic.payload_as_str() != Some("an injected panic") {
                    usual(panic);
                }
            }));
            let folder = tempfile::tempdir().unwrap();
            image(folder.path());
            let in_use = || (count("/proc/self/task"), count("/proc/self/fd"));
            let before = in_use();
            let mut memory = None;
            for pass in 0..2 {
                every_fault(folder.path());
                // A thread has done its work a moment before the system forgets it.
                let started = std::time::Instant::now();
                while in_use() != before {
                    let now = in_use();
                    assert!(
                        started.elapsed() < WATCHDOG,
                        "left behind: {now:?}, not {before:?}"
                    );
                    std::thread::yield_now();
                }
                let grown = anonymous_kib() - *memory.get_or_insert_with(anonymous_kib);
                assert!(
                    grown < 8 * 1024,
                    "memory grew by {grown} KiB in pass {pass}"
                );
            }
        },
    );
}

fn every_fault(folder: &Path) {
    let sites = [
        (Site::Scan, true),
        (Site::Encode, true),
        (Site::Send, true),
        (Site::Finish, true),
        (Site::Receive, false),
        (Site::Decode, false),
        (Site::Finish, false),
    ];
    for (site, at_source) in sites {
        for panics in [false, true] {
            for connections in [1, 4] {
                for after in [0, 9] {
                    // The last stage is passed once.
                    let after = if site == Site::Finish { 0 } else { after };
                    let fault = Armed {
                        site,
                        after,
                        panics,
                    };
                    let case = format!("{fault:?} {connections}");
                    let (source, destination) = migrate(folder, connections, fault, at_source);
                    let (guilty, other) = if at_source {
                        (source, destination)
                    } else {
                        (destination, source)
                    };
                    let text = guilty.expect_err(&case).one_line();
                    assert!(text.contains("an injected"), "{case}: {text}");
                    other.expect_err(&case);
                    let left: Vec<_> = std::fs::read_dir(folder)
                        .unwrap()
                        .map(|entry| entry.unwrap().file_name())
                        .collect();
                    assert_eq!(left, ["ram"], "{case}");
                }
            }
        }
    }
}

#[test]
fn the_other_end_is_told_why() {
    let folder = tempfile::tempdir().unwrap();
    image(folder.path());
    let fault = Armed {
        site: Site::Decode,
        after: 3,
        panics: false,
    };
    let (source, _) = migrate(folder.path(), 4, fault, false);
    let told: Error = source.unwrap_err();
    assert!(told.one_line().contains("an injected error"), "{told}");
}

#[test]
fn without_a_fault_it_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = image(folder.path());
    let never = Armed {
        site: Site::Scan,
        after: u32::MAX,
        panics: false,
    };
    let (source, destination) = migrate(folder.path(), 4, never, true);
    source.unwrap();
    destination.unwrap();
    assert!(std::fs::read(folder.path().join("out")).unwrap() == bytes);
}
