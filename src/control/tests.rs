//! What happens when a stage fails or panics: an error at both ends, and no leftovers.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fault::{Armed, Mischief, Site};
use crate::page::PAGE_SIZE;
use crate::params::Params;
use crate::session::{CancelledBy, Context};
use crate::{destination, source};

/// Longer than any of it takes.
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
    // What is read back beside the rounds needs more than one of them.
    let then = if fault.site == Site::Prove {
        vec![folder.join("ram"); 2]
    } else {
        Vec::new()
    };
    run(folder, connections, then, |contexts| {
        *contexts[usize::from(!at_source)]
            .faults
            .armed
            .lock()
            .unwrap() = Some(fault);
    })
}

/// Both ends in one process, `prepare`d: the source's context and the destination's.
fn run(
    folder: &Path,
    connections: u8,
    then: Vec<PathBuf>,
    prepare: impl FnOnce(&[Arc<Context>; 2]),
) -> (Result<()>, Result<()>) {
    let params = Params {
        connections,
        compress_threads: 3,
        batch_pages: Some(8),
        timeout: Duration::from_secs(10),
        ..Params::default()
    };
    let contexts = [(); 2].map(|()| Arc::new(Context::new(params.clone()).unwrap()));
    prepare(&contexts);
    let address = format!("unix:{}", folder.join("sock").display());
    let sending = source::Request {
        then: then.into_iter().map(Into::into).collect(),
        ..source::Request::new(folder.join("ram"), address.parse().unwrap())
    };
    let receiving = destination::Request {
        address: address.parse().unwrap(),
        output: folder.join("out"),
        block: None,
        force: false,
        sync: true,
    };
    let (ended, end) = mpsc::channel::<(bool, Result<()>)>();
    let (source_end, destination_end) = (ended.clone(), ended);
    let [source_context, destination_context] = contexts;
    let (bound, listening) = mpsc::channel();
    std::thread::spawn(move || {
        let on_listening = |_: &_| bound.send(()).unwrap();
        let outcome = destination::run(&receiving, &destination_context, &on_listening, &|_| {});
        destination_end.send((false, outcome)).unwrap();
    });
    listening.recv_timeout(WATCHDOG).expect("it listens");
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
                        "leftovers: {now:?}, not {before:?}"
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
        (Site::Prove, false),
    ];
    for (site, at_source) in sites {
        for panics in [false, true] {
            for connections in [1, 4] {
                for after in [0, 9] {
                    // The last stage is passed once, and the proof at least once.
                    let last = matches!(site, Site::Finish | Site::Prove);
                    let after = if last { 0 } else { after };
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
fn the_other_end_gets_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    image(folder.path());
    let fault = Armed {
        site: Site::Decode,
        after: 3,
        panics: false,
    };
    let (source, _) = migrate(folder.path(), 4, fault, false);
    let error: Error = source.unwrap_err();
    assert!(error.one_line().contains("an injected error"), "{error}");
}

/// The disk loses a bit of what the first of three rounds placed, before it is read back.
#[test]
fn what_the_output_does_not_hold_as_it_was_placed_is_found_whichever_round_placed_it() {
    const BEHIND_ALL_CHANGES: u64 = (PAGES as u64 - 1) * PAGE_SIZE as u64;
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = image(folder.path());
    let mut later = |name: &str, page: usize| {
        bytes[page * PAGE_SIZE..][..100].fill(7);
        bytes[(page + 1) * PAGE_SIZE..][..PAGE_SIZE].fill(0);
        std::fs::write(folder.path().join(name), &bytes).unwrap();
        folder.path().join(name)
    };
    let then = vec![later("ram1", 3), later("ram2", 100)];
    for connections in [1, 4] {
        let partial = folder.path().join("out.partial");
        let flip = move || {
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(partial)
                .unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, BEHIND_ALL_CHANGES).unwrap();
            file.write_all_at(&[byte[0] ^ 1], BEHIND_ALL_CHANGES)
                .unwrap();
        };
        let (source, destination) = run(folder.path(), connections, then.clone(), |contexts| {
            let mischief = Mischief(Box::new(flip));
            *contexts[1].faults.mischief.lock().unwrap() = Some((Site::Prove, mischief));
        });
        for outcome in [source, destination] {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), Kind::Differs, "{error}");
        }
        assert!(!folder.path().join("out").exists());

        let (source, destination) = run(folder.path(), connections, then.clone(), |_| {});
        source.unwrap();
        destination.unwrap();
        assert!(std::fs::read(folder.path().join("out")).unwrap() == bytes);
        std::fs::remove_file(folder.path().join("out")).unwrap();
    }
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

#[test]
fn a_destination_that_is_cancelled_when_the_source_has_let_go_still_says_that_it_took_over() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = image(folder.path());
    let (source, destination) = run(folder.path(), 1, Vec::new(), |contexts| {
        let cancelled = Arc::clone(&contexts[1]);
        let mischief = Mischief(Box::new(move || cancelled.cancel(CancelledBy::Caller)));
        *contexts[1].faults.mischief.lock().unwrap() = Some((Site::Commit, mischief));
    });
    destination.unwrap();
    source.unwrap();
    assert!(std::fs::read(folder.path().join("out")).unwrap() == bytes);
}

/// As [`run`], with a destination that is cancelled when its source has the proof and has not let go.
fn cancelled_between_proven_and_commit(
    folder: &Path,
    then: impl FnOnce(&Context) + Send + 'static,
) -> (Result<()>, Result<()>) {
    run(folder, 1, Vec::new(), |contexts| {
        let [source, destination] = contexts.clone();
        let at_the_source = Arc::clone(&source);
        let mischief = Mischief(Box::new(move || {
            destination.cancel(CancelledBy::Caller);
            then(&at_the_source);
        }));
        *source.faults.mischief.lock().unwrap() = Some((Site::Proven, mischief));
    })
}

#[test]
fn a_destination_that_is_cancelled_after_its_proof_takes_over_if_the_source_lets_go() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = image(folder.path());
    let (source, destination) = cancelled_between_proven_and_commit(folder.path(), |_| {});
    destination.unwrap();
    source.unwrap();
    assert!(std::fs::read(folder.path().join("out")).unwrap() == bytes);
}

#[test]
fn a_destination_that_is_cancelled_after_its_proof_is_cancelled_if_the_source_does_not_let_go() {
    let folder = tempfile::tempdir().unwrap();
    image(folder.path());
    let (source, destination) = cancelled_between_proven_and_commit(folder.path(), |source| {
        source.cancel(CancelledBy::Caller);
    });
    assert_eq!(source.unwrap_err().kind(), Kind::Interrupted);
    assert_ne!(destination.unwrap_err().kind(), Kind::OutcomeUnknown);
    assert!(!folder.path().join("out").exists());
    assert!(!folder.path().join("out.partial").exists());
}
