//! A link that breaks, at every frame and in the middle of each, in both directions. Until Commit
//! has left the source, a cut leaves the source in charge and no OUTPUT; after that the source
//! says that it does not know, and never that all is well or that nothing happened.

use std::path::PathBuf;

use ramferry::stats::Report;
use ramferry::wire::native::{FrameKind, HEADER_LEN, HELLO_HEAD_LEN, Header};
use ramferry::{Caps, Error, Kind, Migration};

use crate::support::{
    Cut, CuttingRelay, Destination, Folder, assert_same, later, mixed, params, source, unix, until,
    watchdog,
};

/// What passed over a link: where each record begins and ends, and what it is; the greeting is none
/// of the kinds.
struct Record {
    kind: Option<FrameKind>,
    start: usize,
    end: usize,
}

fn records(bytes: &[u8]) -> Vec<Record> {
    let body = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let mut records = vec![Record {
        kind: None,
        start: 0,
        end: HELLO_HEAD_LEN + body + 8,
    }];
    loop {
        let start = records.last().unwrap().end;
        if start == bytes.len() {
            return records;
        }
        let header = bytes[start..start + HEADER_LEN].try_into().unwrap();
        let header = Header::from_bytes(header).unwrap();
        records.push(Record {
            kind: Some(header.kind.unwrap()),
            start,
            end: start + HEADER_LEN + header.rest_len(),
        });
    }
}

/// A guest in two states that is migrated over a relay, again and again, always alike.
struct Scene {
    folder: Folder,
    states: Vec<PathBuf>,
    output: PathBuf,
}

/// What became of one run.
struct Run {
    source: Result<Report, Error>,
    /// `None`: the source never got through to it, so that it listens still.
    destination: Option<Result<Report, Error>>,
    forth: Vec<u8>,
    back: Vec<u8>,
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let first = mixed(64, 3);
        let states = vec![
            folder.image("t0", &first),
            folder.image("t1", &later(&first, 4)),
        ];
        Scene {
            output: folder.path("out"),
            folder,
            states,
        }
    }

    fn run(&self, cut: Cut) -> Run {
        let (near, far) = (self.folder.path("near"), self.folder.path("far"));
        let _ = std::fs::remove_file(&near);
        let destination = Destination::start(&unix(&far), &self.output, params(&[]));
        destination.address();
        let relay = CuttingRelay::start(&near, &far, cut);
        let settings = params(&[("compress-threads", "1"), ("batch-pages", "16")]);
        let source = source(&self.states, &unix(&near), Caps::default(), settings)
            .unwrap()
            .wait();
        let (forth, back) = relay.finish();
        // Without a whole hello it goes on listening, and says so.
        let greeted = !back.is_empty() || cut.back == 0;
        let destination = if greeted {
            Some(destination.handle.wait())
        } else {
            let line = destination.dropped.recv().unwrap();
            assert!(line.contains("closed before its hello"), "{line}");
            destination.handle.cancel();
            let error = destination.handle.join().unwrap_err();
            assert_eq!(error.kind(), Kind::Interrupted);
            None
        };
        Run {
            source,
            destination,
            forth,
            back,
        }
    }

    /// Runs with a cut, before Commit has passed or not, and checks what must hold at both ends.
    #[track_caller]
    fn check(&self, cut: Cut, commit: Commit) {
        let _ = std::fs::remove_file(&self.output);
        let run = self.run(cut);
        let error = run.source.expect_err("the link broke");
        let what = format!("{cut:?}: {}", error.one_line());
        if commit == Commit::NotSent {
            assert_eq!(error.kind(), Kind::Failed, "{what}");
        } else {
            assert_eq!(error.kind(), Kind::OutcomeUnknown, "{what}");
            assert!(what.contains("outcome unknown"), "{what}");
        }
        if commit == Commit::Passed {
            run.destination.unwrap().expect(&what);
            assert_same(&self.output, &self.states[1]);
        } else {
            if let Some(received) = run.destination {
                let error = received.expect_err(&what);
                assert_eq!(error.kind(), Kind::Failed, "{what}, {}", error.one_line());
            }
            assert!(!self.output.exists(), "{what}: there is an output");
        }
        let partial = self.folder.path("out.partial");
        assert!(!partial.exists(), "{what}: a partial file is left");
    }

    /// A whole run: what passes in each direction.
    fn recorded(&self) -> (Vec<Record>, Vec<Record>) {
        let run = self.run(Cut::NEVER);
        run.source.unwrap();
        run.destination.unwrap().unwrap();
        assert_same(&self.output, &self.states[1]);
        (records(&run.forth), records(&run.back))
    }
}

/// How far Commit came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    NotSent,
    Sent,
    Passed,
}

/// The places of a record where a link can break: before it, within it, and before its last byte.
fn places(record: &Record) -> [usize; 3] {
    [
        record.start,
        record.start.midpoint(record.end),
        record.end - 1,
    ]
}

#[test]
fn a_cut_anywhere_on_the_way_to_the_destination_leaves_the_source_in_charge_or_says_unknown() {
    watchdog!();
    let scene = Scene::new();
    let (forth, _) = scene.recorded();
    let kinds: Vec<_> = forth.iter().filter_map(|record| record.kind).collect();
    assert!(kinds.len() > 8, "too few frames for a test: {kinds:?}");
    assert_eq!(
        kinds[kinds.len() - 3..],
        [FrameKind::RoundEnd, FrameKind::Finish, FrameKind::Commit]
    );
    for record in forth {
        for forth in places(&record) {
            let commit = match record.kind {
                Some(FrameKind::Commit) => Commit::Sent,
                _ => Commit::NotSent,
            };
            scene.check(
                Cut {
                    forth,
                    ..Cut::NEVER
                },
                commit,
            );
        }
    }
}

#[test]
fn a_cut_anywhere_on_the_way_back_leaves_the_source_in_charge_or_says_unknown() {
    watchdog!();
    let scene = Scene::new();
    let (_, back) = scene.recorded();
    let kinds: Vec<_> = back.iter().map(|record| record.kind).collect();
    assert_eq!(
        kinds,
        [None, Some(FrameKind::Proven), Some(FrameKind::Committed)]
    );
    for record in back {
        for back in places(&record) {
            let commit = match record.kind {
                Some(FrameKind::Committed) => Commit::Passed,
                _ => Commit::NotSent,
            };
            scene.check(Cut { back, ..Cut::NEVER }, commit);
        }
    }
}

#[test]
fn a_cut_leaves_an_older_output_as_it_was() {
    watchdog!();
    let scene = Scene::new();
    let (forth, back) = scene.recorded();
    std::fs::write(&scene.output, b"old").unwrap();
    let commit = forth.last().unwrap().start;
    let proven = back[1].start;
    for cut in [
        Cut {
            forth: commit,
            ..Cut::NEVER
        },
        Cut {
            forth: commit / 2,
            ..Cut::NEVER
        },
        Cut {
            back: proven,
            ..Cut::NEVER
        },
    ] {
        let run = scene.run(cut);
        run.source.unwrap_err();
        run.destination.unwrap().unwrap_err();
        assert_eq!(std::fs::read(&scene.output).unwrap(), b"old", "{cut:?}");
        assert_eq!(scene.folder.names(), ["near", "out", "t0", "t1"]);
    }
}

#[test]
fn a_migration_cancelled_on_either_side_ends_on_both() {
    watchdog!();
    for by_source in [true, false] {
        let scene = Scene::new();
        let socket = unix(&scene.folder.path("socket"));
        let mut destination = Destination::start(&socket, &scene.output, params(&[]));
        destination.address();
        let slowly = params(&[("max-bandwidth", "16KiB"), ("compress-method", "none")]);
        let mut source = source(&scene.states, &socket, Caps::default(), slowly).unwrap();
        until(|| destination.handle.query().wire_bytes > 0 || destination.handle.query().round > 0);
        let (first, second): (&mut Migration, &mut Migration) = if by_source {
            (&mut source, &mut destination.handle)
        } else {
            (&mut destination.handle, &mut source)
        };
        first.cancel();
        assert_eq!(first.join().unwrap_err().kind(), Kind::Interrupted);
        let error = second.join().unwrap_err();
        assert_eq!(error.kind(), Kind::Failed, "{}", error.one_line());
        assert!(!scene.output.exists());
        assert!(!scene.folder.path("out.partial").exists());
    }
}

#[test]
fn a_handle_that_is_dropped_cancels_its_migration() {
    watchdog!();
    let scene = Scene::new();
    let socket = unix(&scene.folder.path("socket"));
    let destination = Destination::start(&socket, &scene.output, params(&[]));
    destination.address();
    let slowly = params(&[("max-bandwidth", "16KiB"), ("compress-method", "none")]);
    let source = source(&scene.states, &socket, Caps::default(), slowly).unwrap();
    until(|| destination.handle.query().round > 0);
    drop(source);
    let error = destination.handle.wait().unwrap_err();
    assert_eq!(error.kind(), Kind::Failed, "{}", error.one_line());
    assert!(!scene.output.exists());
}

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn no_thread_and_no_descriptor_outlives_a_migration_however_it_ends() {
    // Nothing else runs in the process of its own that this starts.
    watchdog!();
    let scene = Scene::new();
    // What the process sets up once is not a leak.
    let (forth, back) = scene.recorded();
    let (threads, descriptors) = ("/proc/self/task", "/proc/self/fd");
    let once = |cut| {
        let run = scene.run(cut);
        assert_eq!(run.source.is_ok(), cut == Cut::NEVER);
    };
    once(Cut::NEVER);
    let before = (entries(threads), entries(descriptors));
    let (middle, last) = (forth.len() / 2, forth.len() - 1);
    for cut in [
        Cut::NEVER,
        Cut {
            forth: forth[0].end / 2,
            ..Cut::NEVER
        },
        Cut {
            forth: forth[1].start,
            ..Cut::NEVER
        },
        Cut {
            forth: forth[middle].end - 1,
            ..Cut::NEVER
        },
        Cut {
            forth: forth[last].start,
            ..Cut::NEVER
        },
        Cut {
            back: 0,
            ..Cut::NEVER
        },
        Cut {
            back: back[1].start,
            ..Cut::NEVER
        },
        Cut {
            back: back[2].start,
            ..Cut::NEVER
        },
    ] {
        for _ in 0..3 {
            once(cut);
        }
        assert_eq!(entries(descriptors), before.1, "descriptors after {cut:?}");
        // A thread that has been joined may take a moment to vanish from the list, and pools end
        // theirs by themselves; one that stays runs into the watchdog.
        until(|| entries(threads) <= before.0);
    }
}
