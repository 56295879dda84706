use super::*;
use crate::bench::judge::summarize;
use crate::bench::measure::axes::Axes;
use crate::bench::measure::codec_speed::CodecRun;
use crate::bench::measure::methods;
use crate::bench::peer::{PeerMode, PeerRun};
use crate::caps::Caps;
use crate::codec::Method;
use crate::params::Params;
use crate::round::Round;
use crate::stats::{RoundReport, RoundStats, Tally};
use std::time::Duration;

/// A run of `time` milliseconds and `wire_bytes` bytes, of a guest of 1 GiB.
pub(in crate::bench) fn run(time: f64, wire_bytes: u64) -> BenchRun {
    BenchRun {
        time,
        downtime: None,
        ram_bytes: 1 << 30,
        wire_bytes,
        return_bytes: 100,
        ratio: (1_u64 << 30) as f64 / wire_bytes as f64,
        codec_bytes: 1 << 29,
        source_cpu_seconds: BTreeMap::from([("codec", 0.4), ("read", 0.1), ("total", 0.5)]),
        destination_cpu_seconds: BTreeMap::from([("place", 0.25), ("total", 0.25)]),
        process_cpu_seconds: 0.8,
        machine_cpu_seconds: Some(0.9),
        peak_anonymous_bytes: Some(17 << 20),
        rounds: vec![],
        digest: Digest(7),
    }
}

/// A mode of a QEMU: milliseconds, and bytes if it counts them.
pub(in crate::bench) fn peer(way: &str, runs: &[(f64, Option<u64>)]) -> PeerReport {
    let mode = PeerMode {
        peer: "QEMU 7.2.22".to_owned(),
        name: way.to_owned(),
        bulk_only: false,
        capability: way.starts_with("multifd").then_some("multifd"),
        source_parameters: serde_json::json!({"max-bandwidth": 1_u64 << 40}),
        destination_parameters: serde_json::json!({}),
    };
    let run = |(time, wire_bytes): &(f64, Option<u64>)| PeerRun {
        time: *time,
        wire_bytes: *wire_bytes,
        source_cpu_seconds: 0.25,
        destination_cpu_seconds: 0.5,
    };
    let runs: Vec<PeerRun> = runs.iter().map(run).collect();
    PeerReport::new(mode, &runs, None, 1 << 30)
}

/// What a codec does alone: at 2 GiB a second, the 0.5 GiB of a run take 0.25 s.
fn alone(setting: &Setting) -> Option<CodecReport> {
    let run = |rate: f64| CodecRun {
        sample_bytes: 8 << 20,
        ratio: 2.5,
        compress_bytes_per_second: rate * GIB,
        decompress_bytes_per_second: 4.0 * GIB,
    };
    let runs = [2.0, 1.75, 2.5].map(run);
    CodecReport::of(64, &runs).filter(|_| setting.compression.method != Method::None)
}

fn settings(methods: &str) -> Vec<Setting> {
    let methods = methods::parse(methods, 1).expect("methods");
    let axes = Axes::of(methods, &Params::default(), &Caps::default());
    axes.matrix(false).expect("settings").settings
}

/// A report of these rows: settings and the runs of each.
pub(in crate::bench) fn report_of(rows: Vec<(Setting, Vec<BenchRun>)>) -> BenchReport {
    let all: Vec<Setting> = rows.iter().map(|(setting, _)| *setting).collect();
    let mut report = BenchReport {
        schema: SCHEMA,
        schema_version: SCHEMA_VERSION,
        status: Status::Completed,
        error_desc: None,
        version: "0",
        conditions: BenchConditions {
            started: Some("2026-01-31 23:59 UTC".to_owned()),
            cpu_model: Some("A CPU".to_owned()),
            cores: 2,
            kernel: None,
            governor: None,
            load: Some([0.5, 0.25, 0.125]),
            codecs: BTreeMap::from([("zstd", "zstd-sys 2".to_owned())]),
        },
        image: ImageReport {
            path: "guest.ram".to_owned(),
            mix: None,
            seed: None,
            then: vec![],
            diffs: vec![],
            ram_bytes: 1 << 30,
            data_bytes: 1 << 29,
            digest: Digest(7),
            pages: Pages {
                zero: 1 << 17,
                one_byte: 10,
                duplicate: 20,
                other: (1 << 17) - 30,
            },
        },
        plan: PlanReport {
            runs: 3,
            min_time: 0.0,
            max_time: None,
            expected_time: 9000.0,
            dropped: vec![],
            notes: vec![],
            goal: Goal::Time,
            transport: Transport::Unix,
            scratch: "/tmp".to_owned(),
            parameters: BTreeMap::new(),
            capabilities: BTreeMap::new(),
        },
        memcpy: Memcpy {
            threads: 2,
            runs: vec![100.0],
            time: Summary::of([100.0]),
            ram_bytes_per_second: Summary::of([10.0 * GIB]),
            data_bytes_per_second: Summary::of([5.0 * GIB]),
        },
        settings: rows
            .into_iter()
            .zip(crate::bench::measure::setting::names(&all))
            .map(|((setting, runs), name)| {
                summarize::setting((setting, name), &runs, alone(&setting), 2, 1 << 29)
            })
            .collect(),
        peers: vec![peer("multifd zlib:1", &[])],
        links: vec![],
    };
    summarize::compare_settings(&mut report);
    report
}

/// A setting with three runs and one without any.
pub(in crate::bench) fn report() -> BenchReport {
    let [zstd, lz4] = settings("zstd:1,lz4")[..] else {
        panic!("two");
    };
    let runs = [2000.0, 900.0, 1000.0].map(|time| run(time, 1 << 28));
    report_of(vec![(zstd, runs.to_vec()), (lz4, vec![])])
}

/// Settings with one run each: name, milliseconds, bytes.
pub(in crate::bench) fn report_with(rows: &[(&str, f64, u64)]) -> BenchReport {
    let of = |(name, time, bytes): &(&str, f64, u64)| (settings(name)[0], vec![run(*time, *bytes)]);
    report_of(rows.iter().map(of).collect())
}

#[test]
fn the_document_has_every_run_and_its_summaries_under_stable_names() {
    let json = serde_json::to_value(report()).expect("plain values");
    let names = |value: &serde_json::Value| -> Vec<String> {
        let members = value.as_object().expect("an object");
        members.keys().cloned().collect()
    };
    assert_eq!(
        (&json["schema"], &json["schema-version"]),
        (&"ramferry-bench".into(), &1.into())
    );
    assert_eq!(
        names(&json).join(" "),
        "conditions error-desc image links memcpy peers plan schema schema-version settings status version"
    );
    assert_eq!(
        names(&json["conditions"]).join(" "),
        "codecs cores cpu-model governor kernel load started"
    );
    assert_eq!(
        names(&json["image"]).join(" "),
        "data-bytes digest mix pages path ram-bytes seed then"
    );
    assert_eq!(
        names(&json["plan"]).join(" "),
        "capabilities dropped expected-time goal max-time min-time notes parameters runs scratch \
         transport"
    );
    let setting = &json["settings"][0];
    assert_eq!(
        names(setting).join(" "),
        "codec-alone codec-alone-cpu-seconds codec-bytes-per-second codec-cpu-seconds \
         cpu-seconds-per-gib data-bytes-per-second decompress-bytes-per-second \
         destination-cpu-seconds dominated-by downtime limit name outliers parameters \
         peak-anonymous-bytes \
         ram-bytes-per-second ratio runs slow-first-run source-cpu-seconds time wire-bytes \
         wire-bytes-per-second"
    );
    assert_eq!(
        names(&setting["parameters"]).join(" "),
        "batch-pages compress-level compress-method compress-threads connections \
         decompress-threads link wire xbzrle-cache-size zlib-engine"
    );
    assert_eq!(
        names(&setting["runs"][0]).join(" "),
        "codec-bytes destination-cpu-seconds digest machine-cpu-seconds peak-anonymous-bytes process-cpu-seconds \
         ram-bytes ratio return-bytes source-cpu-seconds time wire-bytes"
    );
    assert_eq!(
        names(&json["links"][0]).join(" "),
        "best best-tolerance break-even link measured recommended times"
    );
    assert_eq!(
        names(&json["peers"][0]).join(" "),
        "bulk-only capability cpu-seconds-per-gib destination-cpu-seconds destination-parameters \
         error-desc name outliers peer ram-bytes-per-second ratio runs slow-first-run \
         source-cpu-seconds source-parameters time way wire-bytes wire-bytes-per-second"
    );
    assert_eq!(names(&setting["time"]).join(" "), "mad max median min");
    assert_eq!(setting["time"]["median"], 1000.0);
    assert_eq!(setting["time"]["mad"], 100.0);
    assert_eq!(setting["ram-bytes-per-second"]["max"], GIB / 0.9);
    assert_eq!(setting["runs"][0]["time"], 2000.0);
    assert_eq!(setting["runs"][0]["source-cpu-seconds"]["codec"], 0.4);
    assert!(json["settings"][1]["time"].is_null());
}

#[test]
fn settings_are_dominated_only_by_those_over_the_same_link() {
    let mut slow = settings("zstd:1")[0];
    slow.link = "1Gbit".parse().ok();
    let fast = settings("none")[0];
    let report = report_of(vec![
        (fast, vec![run(100.0, 1000)]),
        (slow, vec![run(900.0, 5000)]),
    ]);
    assert_eq!(report.settings[1].dominated_by, None);
    let report = report_with(&[("none", 100.0, 1000), ("zstd:1", 900.0, 5000)]);
    assert_eq!(report.settings[1].dominated_by.as_deref(), Some("none"));
}

#[test]
fn the_codec_alone_is_reported_beside_the_codec_in_the_pipeline() {
    let report = report();
    let zstd = &report.settings[0];
    assert_eq!(zstd.codec_alone_cpu_seconds, Some(0.25), "the median rate");
    assert_eq!(zstd.codec_cpu_seconds.map(|one| one.median), Some(0.4));
    let rate = |summary: Option<Summary>| summary.map(|one| one.median / GIB);
    assert_eq!(rate(zstd.codec_bytes_per_second), Some(1.25));
    // Half of the guest is zero.
    assert_eq!(rate(zstd.data_bytes_per_second), Some(0.5));
    assert_eq!(zstd.decompress_bytes_per_second, None, "the runs have none");
    let plain = &report_with(&[("none", 1000.0, 1000)]).settings[0];
    assert_eq!(plain.codec_alone_cpu_seconds, None);
}

#[test]
fn what_a_peer_does_not_count_is_unknown() {
    let known = peer("plain", &[(500.0, Some(1 << 29)), (1000.0, Some(1 << 29))]);
    assert_eq!(known.name, "QEMU 7.2.22 plain");
    assert_eq!(known.ratio.map(|ratio| ratio.median), Some(2.0));
    let rate = known.wire_bytes_per_second.map(|rate| rate.max / GIB);
    assert_eq!(rate, Some(1.0));
    assert_eq!(known.cpu_seconds_per_gib.map(|cpu| cpu.median), Some(0.75));
    let unknown = peer("multifd zlib:1", &[(500.0, None)]);
    assert!(unknown.time.is_some() && unknown.ram_bytes_per_second.is_some());
    assert_eq!(
        (
            unknown.wire_bytes,
            unknown.ratio,
            unknown.wire_bytes_per_second
        ),
        (None, None, None)
    );
}

/// A document with something in every part of it.
fn whole_document() -> BenchReport {
    let mut rows = Vec::new();
    for (method, time, bytes) in [("none", 500.0, 400 << 20), ("zstd:1", 700.0, 100 << 20)] {
        for (link, part) in [(None, 1.0), ("1Gbit/5ms".parse().ok(), 2.0)] {
            let setting = settings(method)[0].over(link);
            let run = |factor: f64| {
                let mut run = run(time * part * factor, bytes);
                let round = |number, wire_bytes| {
                    RoundReport::from(&RoundStats {
                        round: Round(number),
                        time: Duration::from_millis(5 * u64::from(number)),
                        wire_bytes,
                        tally: Tally {
                            zero: 3,
                            delta: 2,
                            ..Tally::default()
                        },
                    })
                };
                run.downtime = Some(time / 16.0);
                run.rounds = vec![round(1, bytes - 4096), round(2, 4096)];
                let stages = BTreeMap::from([("codec", 0.125), ("place", 0.25), ("total", 0.375)]);
                if setting.compression.method != Method::None {
                    run.destination_cpu_seconds = stages;
                } else {
                    run.codec_bytes = 0;
                }
                run
            };
            rows.push((setting, [1.0, 1.5, 1.25].map(run).to_vec()));
        }
    }
    let mut report = report_of(rows);
    report.image.then = vec!["later.ram".to_owned()];
    report.plan = PlanReport {
        max_time: Some(60_000.0),
        dropped: vec!["zlib:9".to_owned()],
        notes: vec!["a note".to_owned()],
        parameters: BTreeMap::from([("max-bandwidth", Value::Number(0))]),
        capabilities: BTreeMap::from([("xbzrle", true)]),
        ..report.plan
    };
    let mut failed = peer("multifd zstd:1", &[(900.0, None)]);
    failed.error_desc = Some("QEMU does not answer".to_owned());
    report.peers = vec![
        peer(
            "plain",
            &[(600.0, Some(410 << 20)), (650.0, Some(410 << 20))],
        ),
        peer("multifd zlib:1", &[(800.0, None)]),
        failed,
    ];
    report
}

/// The whole document as it is stored in `fixtures/bench/report.json`: a member that changes its
/// name, its place or its meaning fails here, and needs another [`SCHEMA_VERSION`]. One that is
/// added, or other words, do not: `RAMFERRY_BLESS=1 cargo test --lib bench::report` writes it anew.
#[test]
fn the_document_equals_the_stored_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/bench/report.json");
    let mut made = serde_json::to_string_pretty(&whole_document()).expect("plain values");
    made.push('\n');
    if std::env::var_os("RAMFERRY_BLESS").is_some() {
        std::fs::write(path, &made).expect("it can be written");
    }
    let stored = std::fs::read_to_string(path).expect("it is there");
    let differs = made
        .lines()
        .zip(stored.lines())
        .enumerate()
        .find(|(_, (made, stored))| made != stored);
    if let Some((line, (made, stored))) = differs {
        panic!(
            "line {}: '{}' was '{}'",
            line + 1,
            made.trim(),
            stored.trim()
        );
    }
    assert_eq!(made.len(), stored.len());
}
