use super::*;
use crate::bench::measure::axes::Axes;
use crate::bench::measure::methods;
use crate::bench::measure::scratch::Scratch;
use crate::bench::measure::workload::Transport;
use crate::page::PAGE_SIZE;
use crate::synthetic;
use std::sync::atomic::{AtomicBool, Ordering};

use std::path::Path;

fn scratch() -> Scratch {
    Scratch::new_in(&std::env::temp_dir()).expect("a folder")
}

fn request(folder: &Path, settings: &str) -> BenchRequest {
    let image = folder.join("ram");
    if !image.exists() {
        synthetic::write(&image, 1 << 20, 3).expect("an image");
    }
    BenchRequest {
        image_format: ImageFormat::Detect,
        paused: false,
        image,
        synthetic: Some((Mix::default(), 3)),
        then: vec![],
        settings: matrix(settings),
        notes: vec![],
        runs: 2,
        min_time: Duration::ZERO,
        max_time: None,
        goal: Goal::Time,
        transport: Transport::Unix,
        params: Params::default(),
        caps: Caps::default(),
        peer: None,
    }
}

fn matrix(methods: &str) -> Vec<Setting> {
    let methods = methods::parse(methods, 1).expect("methods");
    let axes = Axes::of(methods, &Params::default(), &Caps::default());
    axes.matrix(false).expect("settings").settings
}

/// Records the progress.
#[derive(Default)]
struct Notes {
    begun: Vec<String>,
    ended: usize,
    done: Vec<String>,
    counted: usize,
}

impl Watch for Notes {
    fn begin(&mut self, task: &Task) {
        assert_eq!(task.number, self.begun.len());
        self.begun.push(format!("{} {}", task.run, task.name));
    }

    fn end(&mut self, _: &Task, _: Duration) {
        self.ended += 1;
    }

    fn setting_done(&mut self, report: &BenchReport, index: usize) {
        self.done.push(report.settings[index].name.clone());
    }

    fn counted(&mut self, bench: &Bench) -> Result<()> {
        self.counted += 1;
        assert!(bench.report().has_runs());
        Ok(())
    }
}

#[test]
fn everything_is_measured_in_turn_after_a_warm_up() {
    let scratch = scratch();
    let mut bench =
        Bench::prepare(request(scratch.path(), "none,zstd:1"), &scratch).expect("it makes sense");
    let mut notes = Notes::default();
    bench
        .measure(&AtomicBool::new(false), &mut notes)
        .expect("it works");
    assert_eq!(
        notes.begun,
        [
            "0 none",
            "1 memcpy",
            "1 the codecs alone",
            "1 none",
            "1 zstd:1",
            "2 memcpy",
            "2 the codecs alone",
            "2 none",
            "2 zstd:1"
        ]
    );
    assert_eq!((notes.ended, bench.tasks()), (9, 9));
    assert_eq!(bench.copies.len(), 2);
    assert_eq!(
        (notes.done, notes.counted),
        (vec!["none".into(), "zstd:1".into()], 4)
    );
    for runs in &bench.runs {
        assert_eq!(runs.len(), 2);
        assert!(runs.iter().all(|run| run.digest == bench.digest));
    }
}

#[test]
fn a_stopped_benchmark_ends_after_the_run_in_progress_and_keeps_its_results() {
    /// Interrupts after this many tasks.
    struct Impatient<'a>(usize, &'a AtomicBool);
    impl Watch for Impatient<'_> {
        fn end(&mut self, task: &Task, _: Duration) {
            self.1.store(task.number >= self.0, Ordering::Relaxed);
        }
    }
    let scratch = scratch();
    let mut bench =
        Bench::prepare(request(scratch.path(), "none,lz4"), &scratch).expect("it makes sense");
    let interrupted = AtomicBool::new(false);
    let error = bench
        .measure(&interrupted, &mut Impatient(3, &interrupted))
        .expect_err("interrupted");
    assert_eq!(error.kind(), Kind::Interrupted);
    assert_eq!((bench.runs[0].len(), bench.runs[1].len()), (1, 0));
    assert_eq!(bench.status, Status::Cancelled);
}

#[test]
fn an_image_that_changes_during_the_benchmark_is_detected_and_the_setting_named() {
    let scratch = scratch();
    let request = request(scratch.path(), "zstd:3");
    let image = request.image.clone();
    let mut bench = Bench::prepare(request, &scratch).expect("it makes sense");
    std::fs::remove_file(&image).expect("it is there");
    synthetic::write(&image, 1 << 20, 4).expect("another image");
    let error = bench
        .measure(&AtomicBool::new(false), &mut ())
        .expect_err("another digest");
    assert_eq!(error.kind(), Kind::Differs);
    assert!(error.one_line().starts_with("with zstd:3: "));
}

#[test]
fn invalid_requests_are_refused_before_anything_is_measured() {
    let scratch = scratch();
    let fine = request(scratch.path(), "none");
    let mut without_compression = request(scratch.path(), "none,lz4");
    without_compression
        .caps
        .set("compress", false)
        .expect("a capability");
    for bad in [
        BenchRequest {
            settings: vec![],
            ..fine.clone()
        },
        BenchRequest {
            runs: 0,
            ..fine.clone()
        },
        without_compression,
    ] {
        let error = Bench::prepare(bad, &scratch).expect_err("it makes no sense");
        assert_eq!(error.kind(), Kind::Usage);
    }
    let missing = BenchRequest {
        image: scratch.path().join("missing"),
        ..fine
    };
    let error = Bench::prepare(missing, &scratch).expect_err("no image");
    assert_eq!(error.kind(), Kind::Failed);
}

#[test]
fn each_setting_is_measured_for_its_minimum_time_within_the_maximum_of_all() {
    let scratch = scratch();
    let long = BenchRequest {
        min_time: Duration::from_secs(1),
        max_time: Some(Duration::from_secs(3600)),
        ..request(scratch.path(), "none")
    };
    let mut bench = Bench::prepare(long, &scratch).expect("it makes sense");
    bench
        .measure(&AtomicBool::new(false), &mut ())
        .expect("it works");
    let sum: f64 = bench.runs[0].iter().map(|run| run.time).sum();
    assert!(sum >= 1000.0, "{sum}");
    let impossible = BenchRequest {
        max_time: Some(Duration::from_millis(1)),
        ..request(scratch.path(), "none")
    };
    let error = Bench::prepare(impossible, &scratch).expect_err("not in a millisecond");
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.one_line().contains("max-time is too short"));
}

#[test]
fn the_report_has_the_conditions_the_page_classes_and_the_codec_alone() {
    let scratch = scratch();
    let mut bench =
        Bench::prepare(request(scratch.path(), "none,lz4"), &scratch).expect("it makes sense");
    bench
        .measure(&AtomicBool::new(false), &mut ())
        .expect("it works");
    let report = bench.report();
    assert_eq!(report.image.pages.all() * PAGE_SIZE as u64, 1 << 20);
    assert!(report.image.pages.zero > 0 && report.image.pages.other > 0);
    let [plain, lz4] = &report.settings[..] else {
        panic!("two settings");
    };
    assert!(plain.codec_alone.is_none() && plain.codec_bytes_per_second.is_none());
    assert!(lz4.codec_alone.is_some() && lz4.codec_bytes_per_second.is_some());
    assert!(plain.limit.is_some() && plain.peak_anonymous_bytes.is_some());
    let links: Vec<_> = report
        .links
        .iter()
        .map(|link| (&link.link[..], link.measured))
        .collect();
    assert_eq!(
        links,
        [
            ("unlimited", true),
            ("10Gbit", false),
            ("1Gbit", false),
            ("100Mbit", false)
        ]
    );
}
