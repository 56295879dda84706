//! What arrives of a guest that is written meanwhile is what its writer left, byte for byte: with
//! every method, pattern and way to stop the writer, on every kind of link.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ramferry::codec::Method;
use ramferry::source::WriterChoice;
use ramferry::stats::Report;
use ramferry::transport::Address;
use ramferry::wire::Format;
use ramferry::writer::churn::Pattern;
use ramferry::{Caps, Params};

use crate::support::live::{Call, Churn, Own, send_live, send_live_as};
use crate::support::{Destination, Folder, assert_same, digest, mixed, params, unix, watchdog};

const PAGES: u64 = 1024;

struct Scene {
    folder: Folder,
    image: PathBuf,
    output: PathBuf,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let folder = Folder::new();
        Scene {
            image: folder.image("ram", &mixed(PAGES as usize, seed)),
            output: folder.path("out"),
            folder,
        }
    }

    /// A migration that works. Afterwards the writer is stopped.
    #[track_caller]
    fn migrate(&self, writer: WriterChoice, caps: Caps, params: Params) -> (Report, Report) {
        let socket = unix(&self.folder.path("socket"));
        let destination = Destination::start(&socket, &self.output, Params::default());
        let to = destination.address();
        let sent = send_live(&self.image, &to, writer, caps, params)
            .wait()
            .unwrap_or_else(|error| panic!("{}", error.one_line()));
        let received = destination.handle.wait().unwrap();
        self.check(&sent, &received);
        (sent, received)
    }

    /// What the qemu wire brings is a guest folder, with the RAM in a file of the block's name.
    fn ram(&self) -> PathBuf {
        match self.output.is_dir() {
            true => self.output.join("pc.ram"),
            false => self.output.clone(),
        }
    }

    #[track_caller]
    fn check(&self, sent: &Report, received: &Report) {
        let ram = self.ram();
        assert_same(&ram, &self.image);
        let digest = digest(&ram);
        assert_eq!(sent.digest, Some(digest));
        assert_eq!(received.digest, Some(digest));
    }
}

/// The rounds that there will be in any case: all that are allowed, and the last.
fn three_rounds() -> [(&'static str, &'static str); 2] {
    [("downtime-limit", "0"), ("max-rounds", "2")]
}

/// Every method on one and on several connections. Xbzrle and the compression of deltas take turns
/// such that all four patterns together have every combination.
fn every_method(pattern: Pattern) {
    let scene = Scene::new(11);
    let writer = Churn::start(
        &scene.image,
        &[
            &["--pattern", pattern.name()][..],
            &["--rate", "4000", "--working-set", "2MiB"],
        ]
        .concat(),
    );
    let settings = Method::ALL
        .into_iter()
        .flat_map(|method| [(method, "1"), (method, "4")]);
    for (turn, (method, connections)) in settings.enumerate() {
        let turn = turn + pattern as usize;
        let (xbzrle, delta_compress) = (turn & 1 == 0, ["on", "off"][turn >> 1 & 1]);
        let what = format!("{method}, {connections} connections, {xbzrle}, {delta_compress}");
        let mut caps = Caps::default();
        caps.set("xbzrle", xbzrle).unwrap();
        let mut params = params(&three_rounds());
        params
            .set_all(&[
                ("compress-method", method.name()),
                ("connections", connections),
                ("delta-compress", delta_compress),
            ])
            .unwrap();
        let choice = if turn.is_multiple_of(3) {
            let (stop, resume) = writer.commands();
            WriterChoice::Commands { stop, resume }
        } else {
            writer.by_pid()
        };
        let (sent, _) = scene.migrate(choice, caps, params);
        assert_eq!(sent.rounds.len(), 3, "{what}");
        let deltas: u64 = sent.rounds.iter().map(|round| round.delta).sum();
        assert!(xbzrle || deltas == 0, "{what}");
        writer.stands_still();
        writer.verify(&scene.output);
        writer.resume();
        writer.writes_on();
    }
}

#[test]
fn random_writes_arrive_with_every_method() {
    watchdog!();
    every_method(Pattern::Random);
}

#[test]
fn sequential_writes_arrive_with_every_method() {
    watchdog!();
    every_method(Pattern::Sequential);
}

#[test]
fn writes_to_a_hot_set_arrive_with_every_method() {
    watchdog!();
    every_method(Pattern::Hotset);
}

#[test]
fn counters_arrive_with_every_method() {
    watchdog!();
    every_method(Pattern::Counter);
}

#[test]
fn a_writer_of_this_process_is_stopped_once_and_released() {
    watchdog!();
    let scene = Scene::new(12);
    let own = Own::start(&scene.image, 256, Duration::from_micros(200), 5);
    let limits = [
        // Everything fits: the bulk stage and the last round.
        (&[("downtime-limit", "2000")][..], 2, 2),
        (&[("downtime-limit", "300ms")], 2, 31),
        (&[("downtime-limit", "0"), ("max-rounds", "7")], 8, 8),
    ];
    for (method, (values, least, most)) in Method::ALL.into_iter().zip(limits.iter().cycle()) {
        let mut params = params(values);
        params.set_text("compress-method", method.name()).unwrap();
        let (sent, received) = scene.migrate(own.choice(), Caps::default(), params);
        assert!((least..=most).contains(&&sent.rounds.len()), "{values:?}");
        assert_eq!(sent.rounds.len(), received.rounds.len());
        assert!(sent.downtime.is_some());
        assert_eq!(own.calls(), [Call::Stop, Call::Release]);
        own.start_again();
        own.writes_on();
    }
}

#[test]
fn deltas_are_what_small_changes_travel_as() {
    watchdog!();
    let scene = Scene::new(13);
    let own = Own::start(&scene.image, 64, Duration::from_micros(50), 6);
    let mut params = params(&[("xbzrle-cache-size", "8MiB")]);
    params
        .set_all(&[("downtime-limit", "0"), ("max-rounds", "5")])
        .unwrap();
    let (sent, received) = scene.migrate(own.choice(), Caps::default(), params);
    let deltas = |report: &Report| report.rounds.iter().map(|round| round.delta).sum::<u64>();
    assert!(deltas(&sent) > 0);
    assert_eq!(deltas(&sent), deltas(&received));
}

/// Sends to a file, then receives from it.
#[track_caller]
fn by_file(scene: &Scene, format: Format, writer: WriterChoice, caps: Caps) -> (Report, Report) {
    // A file is not replaced by a folder.
    let _ = std::fs::remove_file(&scene.output);
    let file = Address::File(scene.folder.path(&format!("{format:?}.stream")));
    let sent = send_live_as(
        format,
        &scene.image,
        &file,
        writer,
        caps,
        params(&three_rounds()),
    )
    .wait()
    .unwrap_or_else(|error| panic!("{}", error.one_line()));
    let received = Destination::start(&file, &scene.output, Params::default());
    (sent, received.handle.wait().unwrap())
}

#[test]
fn a_live_guest_can_be_stored_and_received_later() {
    watchdog!();
    let scene = Scene::new(14);
    let writer = Churn::start(&scene.image, &["--rate", "4000", "--working-set", "1MiB"]);
    for (format, caps) in [
        (Format::Native, Caps::default()),
        (Format::Qemu, Caps::for_qemu()),
    ] {
        let (sent, received) = by_file(&scene, format, writer.by_pid(), caps);
        writer.stands_still();
        writer.verify(&scene.ram());
        scene.check(&sent, &received);
        assert_eq!(sent.rounds.len(), 3);
        writer.resume();
        writer.writes_on();
    }
}

#[test]
fn a_live_guest_crosses_the_qemu_wire() {
    watchdog!();
    for (xbzrle, compress, method) in [
        (true, false, "none"),
        (false, false, "none"),
        (true, true, "zlib"),
    ] {
        let scene = Scene::new(15);
        let writer = Churn::start(&scene.image, &["--rate", "4000", "--working-set", "1MiB"]);
        let mut caps = Caps::for_qemu();
        caps.set("xbzrle", xbzrle).unwrap();
        caps.set("compress", compress).unwrap();
        let mut params = params(&three_rounds());
        if compress {
            params.set_text("compress-method", method).unwrap();
        }
        let socket = unix(&scene.folder.path("socket"));
        let destination = Destination::start(&socket, &scene.output, Params::default());
        let to = destination.address();
        let sent = send_live_as(
            Format::Qemu,
            &scene.image,
            &to,
            writer.by_pid(),
            caps,
            params,
        )
        .wait()
        .unwrap_or_else(|error| panic!("{}", error.one_line()));
        let received = destination.handle.wait().unwrap();
        writer.stands_still();
        writer.verify(&scene.ram());
        scene.check(&sent, &received);
        assert_eq!(sent.rounds.len(), 3);
    }
}

#[test]
fn an_idle_writer_is_stopped_for_a_short_time() {
    watchdog!();
    let scene = Scene::new(16);
    let own = Own::start(&scene.image, 1, Duration::from_secs(3600), 7);
    let (sent, _) = scene.migrate(own.choice(), Caps::default(), Params::default());
    assert_eq!(sent.rounds.len(), 2);
    assert!(!exists(&scene.output.with_extension("partial")));
    // What it would be in a release build, an order of magnitude less, is for measurements.
    let downtime = sent.downtime.unwrap();
    assert!(downtime < Duration::from_secs(2), "{downtime:?}");
}

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}
