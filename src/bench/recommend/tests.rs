use super::*;
use crate::bench::report::tests::{report_of, report_with, run};

fn of(rows: &[(&str, f64, u64)]) -> Vec<LinkReport> {
    report_with(rows).links
}

#[test]
fn the_fastest_is_recommended_over_each_link_and_its_reason_is_told() {
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
fn the_commands_set_what_was_measured() {
    let mut setting = report_with(&[("zlib:6", 1.0, 1)]).settings[0].setting;
    setting.compress_threads = 3;
    setting.connections = 2;
    setting.batch_pages = Some(16);
    assert_eq!(
        send_command(&setting, "guest.ram", true),
        "ramferry send guest.ram tcp:HOST:4444 --compress-method zlib --compress-level 6 \
         --compress-threads 3 --connections 2 --batch-pages 16 --xbzrle-cache-size 67108864"
    );
    assert_eq!(
        virsh_command(&setting),
        "virsh migrate --live DOMAIN DESTURI --parallel --parallel-connections 3 --comp-methods \
         zlib --comp-zlib-level 6"
    );
    let qmp = qmp_commands(&setting);
    assert_eq!(
        qmp[1].to_string(),
        r#"{"arguments":{"multifd-channels":3,"multifd-compression":"zlib","multifd-zlib-level":6},"execute":"migrate-set-parameters"}"#
    );
    setting.wire = Format::Qemu;
    assert!(send_command(&setting, "g", false).ends_with("--wire qemu --capability compress=on"));
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
    let links = of(&[("lz4", 400.0, 200)]);
    let chosen = &links[0].recommended;
    assert!(chosen.qemu_setting.is_none() && chosen.virsh.is_none() && chosen.qmp.is_empty());
}

#[test]
fn a_path_is_quoted_where_a_shell_would_take_it_apart() {
    assert_eq!(quoted("/a/b-c.ram"), "/a/b-c.ram");
    assert_eq!(quoted("a b"), "'a b'");
    assert_eq!(quoted("it's"), r"'it'\''s'");
    assert_eq!(quoted("-x"), "'./-x'");
    assert_eq!(quoted("$(x)"), "'$(x)'");
}
