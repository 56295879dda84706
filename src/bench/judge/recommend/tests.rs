use super::*;
use crate::bench::judge::noise::disturbed;
use crate::bench::report::tests::{report_of, report_with, run};

fn of(rows: &[(&str, f64, u64)]) -> Vec<LinkReport> {
    report_with(rows).links
}

#[test]
fn the_fastest_is_recommended_over_each_link_with_its_reason() {
    // Plain: 400 MiB in 0.5 s; zstd: 100 MiB in 0.7 s; zlib: 90 MiB in 3 s.
    let links = of(&[
        ("none", 500.0, 400 << 20),
        ("zstd:1", 700.0, 100 << 20),
        ("zlib:6", 3000.0, 90 << 20),
    ]);
    let chosen: Vec<(&str, &str, bool)> = links
        .iter()
        .map(|link| (&link.link[..], &link.recommended.setting[..], link.measured))
        .collect();
    assert_eq!(
        chosen,
        [
            ("unlimited", "none", true),
            ("10Gbit", "none", false),
            ("1Gbit", "zstd:1", false),
            ("100Mbit", "zlib:6", false),
        ]
    );
    let unlimited = &links[0];
    assert_eq!(unlimited.best["bytes"], "zlib:6");
    // Plain takes 0.7 s at 400 MiB * 8 / 0.7 s.
    let even = &unlimited.break_even[0];
    assert_eq!((&even.setting[..], even.verdict), ("zstd:1", "below"));
    let rate = even.bits_per_second.expect("a rate");
    assert!((rate - (400_u64 << 20) as f64 * 8.0 / 0.7).abs() < 1.0);
    assert!(
        unlimited
            .recommended
            .reason
            .contains("zstd:1 pays below 4.79 Gbit/s")
    );
    let slow = &links[2];
    // 100 MiB at 1 Gbit/s are 0.839 s, 400 are 3.355.
    assert!(
        slow.recommended
            .reason
            .starts_with("838.86 ms: 4.00 times as fast as none (3.36 s)")
    );
    assert!(slow.recommended.reason.contains("limited by the link"));
    assert!(slow.break_even.is_empty(), "computed rates say nothing new");
}

#[test]
fn a_measured_link_is_not_computed_again() {
    let row = |name: &str, link: Option<&str>, time, bytes| {
        let mut setting = report_with(&[(name, 1.0, 1)]).settings[0].setting;
        setting.link = link.and_then(|link| link.parse().ok());
        (setting, vec![run(time, bytes)])
    };
    let links = report_of(vec![
        row("none", None, 500.0, 400 << 20),
        row("none", Some("1Gbit"), 3400.0, 400 << 20),
    ])
    .links;
    let names: Vec<_> = links
        .iter()
        .map(|link| (&link.link[..], link.measured))
        .collect();
    assert_eq!(
        names,
        [
            ("unlimited", true),
            ("1Gbit", true),
            ("10Gbit", false),
            ("100Mbit", false)
        ]
    );
    let only = report_of(vec![row("none", Some("1Gbit"), 3400.0, 400 << 20)]).links;
    assert_eq!(
        only.len(),
        1,
        "nothing is computed from a link with a limit"
    );
    assert_eq!(only[0].recommended.limit, Limit::Link);
}

#[test]
fn plain_is_compared_with_what_compresses_and_not_with_itself() {
    let mut rows = report_with(&[
        ("none", 500.0, 900),
        ("none", 510.0, 900),
        ("lz4", 700.0, 400),
    ]);
    rows.settings[1].setting.compress_threads = 1;
    let rows = rows.settings.into_iter().map(|row| (row.setting, row.runs));
    let links = report_of(rows.collect()).links;
    let reason = &links[0].recommended.reason;
    assert!(
        reason.contains("lz4, 8 threads takes 700.00 ms"),
        "{reason}"
    );
}

#[test]
fn qemu_gets_the_best_that_it_has() {
    let links = of(&[
        ("lz4", 400.0, 200),
        ("zstd:1", 500.0, 150),
        ("none", 600.0, 900),
    ]);
    let chosen = &links[0].recommended;
    assert_eq!(
        (&chosen.setting[..], chosen.qemu_setting.as_deref()),
        ("lz4", Some("zstd:1"))
    );
    assert!(chosen.qemu_compress.is_none(), "it never had zstd");
    let links = of(&[("lz4", 400.0, 200)]);
    let chosen = &links[0].recommended;
    assert!(chosen.qemu_setting.is_none() && chosen.virsh.is_none() && chosen.qmp.is_empty());
}

#[test]
fn other_programs_are_named_where_neither_link_nor_cpu_was_the_limit() {
    let quiet = of(&[("none", 2000.0, 900)]);
    let reason = &quiet[0].recommended.reason;
    assert_eq!(quiet[0].recommended.limit, Limit::Waiting);
    assert!(
        reason.ends_with(
            "the two ends waited for each other; neither the link nor ramferry's CPU time was the limit"
        ),
        "{reason}"
    );
    let mut busy = run(2000.0, 900);
    // 0.8 of these are ours.
    busy.machine_cpu_seconds = Some(3.2);
    let setting = report_with(&[("none", 1.0, 1)]).settings[0].setting;
    let report = report_of(vec![(setting, vec![busy])]);
    let reason = &report.links[0].recommended.reason;
    assert!(
        reason.contains("; other programs used 1.2 of 2 cores; neither"),
        "{reason}"
    );
    let warning = disturbed(&report).expect("a good part of the machine");
    assert!(warning.contains("load average 0.50 before"), "{warning}");
    assert_eq!(disturbed(&report_with(&[("none", 2000.0, 900)])), None);
}

#[test]
fn one_that_takes_less_but_within_the_tolerance_is_named() {
    let mut dear = run(690.0, 100 << 20);
    dear.source_cpu_seconds.insert("total", 0.75);
    let named = report_with(&[("zstd:1", 1.0, 1), ("zstd:3", 1.0, 1)]).settings;
    let rows = named.iter().map(|row| row.setting);
    let runs = [run(700.0, 100 << 20), dear].map(|run| vec![run]);
    let links = report_of(rows.zip(runs).collect()).links;
    let chosen = &links[0].recommended;
    assert_eq!(chosen.setting, "zstd:1");
    let words = "; zstd:3 is as good within 2 % and takes 0.25 CPU s more; ";
    assert!(chosen.reason.contains(words), "{}", chosen.reason);
}
