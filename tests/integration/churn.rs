//! The writer of our own as a program: it can be stopped, ended and killed at any time, and what it
//! left, or what was migrated meanwhile, is proven.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ramferry::Caps;
use ramferry::writer::churn;
use rustix::process::Signal;

use crate::support::{
    Destination, Ended, Folder, Program, command, mixed, params, run, source, unix, until, watchdog,
};

struct Scene {
    folder: Folder,
    image: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let image = folder.image("ram", &mixed(512, 3));
        Scene { folder, image }
    }

    /// A writer that has begun.
    fn churn(&self, args: &[&str]) -> Program {
        let image = self.image.to_str().unwrap();
        let mut writer = Program::start(command(&[&["churn", "--in-place", image], args].concat()));
        assert_eq!(writer.out_line(), "writing");
        writer
    }

    fn verify(&self, image: &Path) -> Ended {
        let records = churn::records_of(&self.image);
        let [image, records] = [image, &records].map(|path| path.to_str().unwrap());
        run(&["churn", "--verify", image, "--records", records])
    }
}

const FAST: [&str; 6] = ["--rate", "0", "--threads", "3", "--pattern", "hotset"];

#[test]
fn a_writer_that_is_ended_reports_what_it_did_and_leaves_exactly_that() {
    watchdog!();
    for signal in [Signal::INT, Signal::TERM] {
        let scene = Scene::new();
        let writer = scene.churn(&FAST);
        writer.signal(signal);
        let ended = writer.finish();
        ended.succeeded();
        assert!(ended.err.starts_with("wrote "), "{ended:?}");
        let proven = scene.verify(&scene.image);
        proven.succeeded();
        assert!(proven.out.contains("in its 512 pages nothing else"));
    }
}

#[test]
fn a_writer_that_is_killed_leaves_records_that_prove_what_it_left() {
    watchdog!();
    for pattern in churn::Pattern::ALL {
        let scene = Scene::new();
        let writer = scene.churn(&["--rate", "0", "--threads", "3", "--pattern", pattern.name()]);
        writer.signal(Signal::KILL);
        writer.finish();
        scene.verify(&scene.image).succeeded();

        let file = std::fs::File::options()
            .write(true)
            .read(true)
            .open(&scene.image)
            .unwrap();
        let mut byte = [0];
        let at = 100 * 4096 + 4095;
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 16], at).unwrap();
        scene
            .verify(&scene.image)
            .failed_with(3, &["1 pages differ", "first is page 100"]);
    }
}

#[test]
fn what_is_migrated_while_the_writer_is_stopped_is_proven_by_its_records() {
    watchdog!();
    let scene = Scene::new();
    let writer = scene.churn(&FAST);
    writer.signal(Signal::STOP);
    until(|| writer.is_stopped());

    let (socket, output) = (unix(&scene.folder.path("socket")), scene.folder.path("out"));
    let destination = Destination::start(&socket, &output, params(&[]));
    destination.address();
    let images = [scene.image.clone()];
    let sent = source(&images, &socket, Caps::default(), params(&[])).unwrap();
    sent.wait().unwrap();
    destination.handle.wait().unwrap();
    scene.verify(&output).succeeded();
    scene.verify(&scene.image).succeeded();

    writer.signal(Signal::CONT);
    writer.signal(Signal::TERM);
    writer.finish().succeeded();
    scene.verify(&scene.image).succeeded();
}

#[test]
fn a_writer_that_is_ended_while_it_is_stopped_writes_nothing_more() {
    watchdog!();
    let scene = Scene::new();
    for round in 0..8 {
        let writer = scene.churn(&FAST);
        writer.signal(Signal::STOP);
        until(|| writer.is_stopped());
        let stopped = std::time::Instant::now();
        let copy = scene.folder.path(&format!("copy{round}"));
        std::fs::copy(&scene.image, &copy).unwrap();
        // No migration is faster than that.
        until(|| stopped.elapsed() > std::time::Duration::from_millis(30));
        writer.signal(Signal::TERM);
        writer.signal(Signal::CONT);
        writer.finish().succeeded();
        scene.verify(&copy).succeeded();
    }
}

#[test]
fn an_image_of_an_earlier_churn_needs_no_leave_to_be_overwritten_again() {
    watchdog!();
    let scene = Scene::new();
    let writer = scene.churn(&[]);
    writer.signal(Signal::TERM);
    writer.finish().succeeded();
    let image = scene.image.to_str().unwrap();
    run(&["churn", image, "--duration", "1ms"]).succeeded();
    scene.verify(&scene.image).succeeded();
}

#[test]
fn a_document_says_what_was_done_and_what_was_found() {
    watchdog!();
    let scene = Scene::new();
    let image = scene.image.to_str().unwrap();
    let ended = run(&[
        "churn",
        "--in-place",
        image,
        "--duration",
        "20ms",
        "--rate",
        "2000",
        "--working-set",
        "64KiB",
        "--json",
    ]);
    ended.succeeded();
    assert_eq!(ended.err, "writing\n");
    let done = ended.json();
    assert_eq!(done["working-set"], 16);
    assert_eq!(done["asked-rate"], 2000);
    assert!(done["writes"].as_u64().unwrap() <= 50, "{done}");
    assert!(done["seconds"].as_f64().unwrap() >= 0.02, "{done}");

    let found = run(&["churn", "--verify", image, "--json"]);
    found.succeeded();
    let found = found.json();
    assert_eq!(found["writes"], done["writes"]);
    assert_eq!(found["differing"], 0);
    assert!(found["first-differing"].is_null());
}

#[test]
fn what_cannot_be_is_refused_in_a_line() {
    watchdog!();
    let scene = Scene::new();
    let image = scene.image.to_str().unwrap();
    for (args, code, words) in [
        (
            vec!["--working-set", "4MiB"],
            2,
            "the image allows 1 to 512",
        ),
        (
            vec!["--pattern", "counter", "--bytes-per-write", "9"],
            2,
            "allows 1 to 8",
        ),
        (vec!["--verify"], 1, "ram.churn"),
        (
            vec!["--verify", "--records", image],
            1,
            "does not hold records of a churn",
        ),
    ] {
        let in_place = if args[0] == "--verify" {
            &[][..]
        } else {
            &["--in-place"]
        };
        let args = [&["churn", image], in_place, &args[..]].concat();
        run(&args).failed_with(code, &[words]);
    }
    run(&["churn", image]).failed_with(2, &["would be overwritten", "--in-place"]);
    let ended = run(&["churn", image, "--pattern", "wild"]);
    assert_eq!(ended.code, Some(2));
    assert!(
        ended
            .err
            .contains("allowed are random, sequential, hotset and counter")
    );
    let ended = run(&["churn", image, "--verify", "--rate", "5"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(scene.folder.names(), ["ram"]);
}
