//! Parameters that change while a migration runs: they take effect, they show in the statistics,
//! and what arrives is what was sent all the same.

use std::path::PathBuf;
use std::time::Duration;

use ramferry::stats::Status;
use ramferry::{Caps, Kind, Migration};

use crate::support::{
    Destination, Folder, Page, assert_same, later, mixed, params, source, unix, until, watchdog,
};

/// A slow migration of 4 MiB, the first half of which is text.
struct Scene {
    folder: Folder,
    states: Vec<PathBuf>,
    destination: Destination,
    source: Migration,
}

impl Scene {
    fn start(values: &[(&str, &str)]) -> Scene {
        let folder = Folder::new();
        let mut first: Vec<Page> = (0..512).map(Page::Text).collect();
        first.extend(mixed(512, 9));
        let states = vec![
            folder.image("t0", &first),
            folder.image("t1", &later(&first, 10)),
        ];
        let socket = unix(&folder.path("socket"));
        let destination = Destination::start(&socket, &folder.path("out"), params(&[]));
        destination.address();
        let slowly = [&[("max-bandwidth", "64KiB"), ("batch-pages", "4")], values].concat();
        let source = source(&states, &socket, Caps::default(), params(&slowly)).unwrap();
        Scene {
            folder,
            states,
            destination,
            source,
        }
    }

    /// Waits until `pages` more pages are sent.
    fn proceed(&self, pages: u64) {
        let goal = self.source.query().total.pages() + pages;
        until(|| self.source.query().total.pages() >= goal);
    }

    fn change(&self, values: &[(&str, &str)]) {
        self.source.change(values).unwrap();
    }
}

#[test]
fn methods_levels_and_threads_change_in_the_middle_of_a_migration() {
    watchdog!();
    let scene = Scene::start(&[("compress-method", "zlib"), ("compress-threads", "1")]);
    scene.proceed(8);
    assert_eq!(scene.source.query().total.plain, 0, "text shrinks");
    assert_eq!(scene.source.report().method, Some("zlib"));

    scene.change(&[("compress-threads", "4"), ("compress-level", "9")]);
    assert_eq!(
        (scene.source.report().threads, scene.source.report().level),
        (4, Some(9))
    );
    // What was encoded before the change goes out first: 1 + 4 encoders, and the channels.
    scene.proceed(4 * 12);
    let compressed = scene.source.query().total.compressed;

    scene.change(&[
        ("compress-method", "zstd"),
        ("compress-level", "19"),
        ("compress-threads", "2"),
    ]);
    scene.proceed(4 * 12);
    assert!(scene.source.query().total.compressed > compressed);
    let report = scene.source.report();
    assert_eq!(
        (report.method, report.level, report.threads),
        (Some("zstd"), Some(19), 2)
    );

    scene.change(&[("compress-method", "none"), ("max-bandwidth", "256KiB")]);
    until(|| scene.source.query().total.plain > 0);
    let now = scene.source.query();
    assert_eq!(now.status, Status::Active);
    assert!(now.total.pages() < 512, "it was text that went plain");

    scene.change(&[
        ("compress-method", "lz4"),
        ("compress-level", "1"),
        ("max-bandwidth", "0"),
    ]);
    let sent = scene.source.wait().unwrap();
    let received = scene.destination.handle.wait().unwrap();
    assert_same(&scene.folder.path("out"), &scene.states[1]);
    assert_eq!(sent.digest, received.digest);
    assert_eq!((sent.method, sent.threads), (Some("lz4"), 2));
    assert!(sent.rounds[0].plain > 0 && sent.rounds[0].compressed > 0);
    assert_eq!(sent.rounds[0].pages, 1024);
    for (sent, received) in sent.rounds.iter().zip(&received.rounds) {
        assert_eq!(
            (sent.plain, sent.compressed, sent.delta, sent.wire_bytes),
            (
                received.plain,
                received.compressed,
                received.delta,
                received.wire_bytes
            )
        );
    }
}

#[test]
fn the_bandwidth_is_obeyed_and_lifted_at_once() {
    watchdog!();
    let scene = Scene::start(&[("compress-method", "none"), ("compress-threads", "1")]);
    scene.proceed(1);
    let begin = std::time::Instant::now();
    let before = scene.source.query().wire_bytes;
    scene.proceed(24);
    let (bytes, time) = (scene.source.query().wire_bytes - before, begin.elapsed());
    // The counter moves a frame of four pages at a time, and may lag by a frame.
    let most = 65536.0 * time.as_secs_f64() + 3.0 * 17000.0;
    assert!((bytes as f64) < most, "{bytes} bytes in {time:?}");
    // The rest of 4 MiB would take a minute.
    scene.change(&[("max-bandwidth", "0")]);
    scene.source.wait().unwrap();
    scene.destination.handle.wait().unwrap();
    assert_same(&scene.folder.path("out"), &scene.states[1]);
}

#[test]
fn a_change_that_is_not_allowed_is_refused_by_name_and_changes_nothing() {
    watchdog!();
    let scene = Scene::start(&[("compress-method", "zlib")]);
    scene.proceed(1);
    let before = scene.source.params();
    for row in ramferry::params::TABLE.iter().filter(|row| !row.runtime) {
        let error = scene
            .source
            .change(&[("compress-level", "2"), (row.name, row.default)])
            .expect_err(row.name);
        assert_eq!(error.kind(), Kind::Usage);
        assert_eq!(
            error.to_string(),
            format!("{} cannot be changed during a migration", row.name)
        );
    }
    for (name, value, what) in [
        ("compress-speed", "1", "not supported"),
        ("compress-threads", "0", "1 to 255"),
        ("compress-level", "10", "0 to 9"),
    ] {
        let error = scene
            .source
            .change(&[("max-bandwidth", "0"), (name, value)])
            .expect_err(name);
        assert_eq!(error.kind(), Kind::Usage);
        let words = error.to_string();
        assert!(words.contains(what) && words.contains(name), "{words}");
    }
    assert_eq!(scene.source.params(), before);
    scene.source.cancel();
    scene.source.join().unwrap_err();
}

/// What QEMU's own threads could not do.
#[test]
fn threads_that_come_and_go_at_both_ends_all_the_time_lose_nothing() {
    watchdog!();
    for connections in ["1", "4"] {
        let scene = Scene::start(&[
            ("max-bandwidth", "8MiB"),
            ("batch-pages", "1"),
            ("connections", connections),
        ]);
        let mut counts = ["1", "40", "3", "255", "2", "8"].iter().cycle();
        while !scene.source.ends_within(Duration::from_millis(1)) {
            let count = *counts.next().unwrap();
            scene.change(&[("compress-threads", count)]);
            scene
                .destination
                .handle
                .change(&[("decompress-threads", count)])
                .unwrap();
        }
        let sent = scene.source.wait().unwrap();
        let received = scene.destination.handle.wait().unwrap();
        assert_eq!(sent.digest, received.digest);
        assert_same(&scene.folder.path("out"), &scene.states[1]);
    }
}
