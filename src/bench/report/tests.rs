use super::*;
use crate::bench::matrix::Axes;
use crate::bench::sweep;
use crate::caps::Caps;
use crate::params::Params;

/// A run of so many milliseconds and bytes of a guest of 1 GiB.
pub(in crate::bench) fn run(time: f64, wire_bytes: u64) -> Run {
    Run {
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

fn settings(methods: &str) -> Vec<Setting> {
    let methods = sweep::parse(methods, 1).expect("methods");
    let axes = Axes::of(methods, &Params::default(), &Caps::default());
    axes.matrix(false).expect("settings").settings
}

/// A report of these rows: settings and the runs of each.
pub(in crate::bench) fn report_of(rows: Vec<(Setting, Vec<Run>)>) -> Report {
    let all: Vec<Setting> = rows.iter().map(|(setting, _)| *setting).collect();
    let mut report = Report {
        schema: SCHEMA,
        schema_version: SCHEMA_VERSION,
        status: Status::Completed,
        error_desc: None,
        version: "0",
        conditions: Conditions {
            cpu_model: Some("A CPU".to_owned()),
            cores: 2,
            kernel: None,
            governor: None,
            load: Some([0.5, 0.25, 0.125]),
            codecs: BTreeMap::from([("zstd", "zstd-sys 2".to_owned())]),
        },
        image: Image {
            path: "guest.ram".to_owned(),
            mix: None,
            seed: None,
            then: vec![],
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
        },
        settings: rows
            .into_iter()
            .zip(crate::bench::matrix::names(&all))
            .map(|((setting, runs), name)| SettingReport::new(setting, name, &runs, None, 2))
            .collect(),
        peers: vec![PeerReport::new(
            "QEMU 7.2.22 multifd zlib:1".to_owned(),
            &[],
            1 << 30,
        )],
        links: vec![],
    };
    compare_settings(&mut report);
    report
}

/// A setting with three runs and one without any.
pub(in crate::bench) fn report() -> Report {
    let [zstd, lz4] = settings("zstd:1,lz4")[..] else {
        panic!("two");
    };
    let runs = [2000.0, 900.0, 1000.0].map(|time| run(time, 1 << 28));
    report_of(vec![(zstd, runs.to_vec()), (lz4, vec![])])
}

/// Settings with one run each: name, milliseconds, bytes.
pub(in crate::bench) fn report_with(rows: &[(&str, f64, u64)]) -> Report {
    let of = |(name, time, bytes): &(&str, f64, u64)| (settings(name)[0], vec![run(*time, *bytes)]);
    report_of(rows.iter().map(of).collect())
}

#[test]
fn the_document_has_every_run_and_what_is_made_of_them_under_stable_names() {
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
        "codecs cores cpu-model governor kernel load"
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
        "codec-alone codec-bytes-per-second cpu-seconds-per-gib destination-cpu-seconds \
         dominated-by downtime limit name outliers parameters peak-anonymous-bytes \
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
        "best break-even link measured recommended times"
    );
    assert_eq!(
        names(&json["peers"][0]).join(" "),
        "cpu-seconds-per-gib destination-cpu-seconds name outliers ram-bytes-per-second ratio runs \
         slow-first-run source-cpu-seconds time wire-bytes"
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
