use super::*;
use crate::bench::report::tests::{peer, report, report_of, report_with, run};

fn words(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.trim().starts_with(name));
    let words: Vec<_> = line.expect(name).split_whitespace().collect();
    words.join(" ")
}

#[test]
fn the_table_shows_medians_with_units_and_a_dash_for_what_was_not_measured() {
    let text = summary(&report(), Sort::Given, Look::default());
    assert_eq!(
        words(&text, "zstd:1"),
        "zstd:1 1000 100.0 900.0 1.00 1024 256 256.00 4.000 0.500 0.250 0.75"
    );
    assert_eq!(words(&text, "lz4"), "lz4 - - - - - - - - - - -");
    assert_eq!(
        words(&text, "memcpy"),
        "memcpy 100.0 - 100.0 - 10240 - - - - - -"
    );
    assert_eq!(words(&text, "QEMU"), "QEMU 7.2.22");
    assert_eq!(
        words(&text, "multifd"),
        "multifd zlib:1 - - - - - - - - - - -"
    );
    assert!(text.contains("A CPU, 2 cores") && text.contains("MiB/s"));
    assert!(!text.contains(" down") && !text.contains('\x1b'));
}

#[test]
fn no_line_is_wider_than_the_terminal_whatever_the_report() {
    let mut rows = Vec::new();
    for setting in report_with(&[("none", 1.0, 1), ("zstd:19", 1.0, 1)]).settings {
        for link in ["unlimited", "1Gbit/20ms"] {
            let mut setting = setting.setting.over(link.parse().ok());
            for (threads, pages, cache) in [(1, None, None), (128, Some(256), Some(1 << 30))] {
                setting.compress_threads = threads;
                setting.batch_pages = pages;
                setting.xbzrle = cache;
                let mut run = run(123_456.789, 123_456_789);
                run.downtime = Some(12_345.6);
                rows.push((setting, vec![run]));
            }
        }
    }
    let mut report = report_of(rows);
    report.image.then = vec!["x".to_owned()];
    report.image.path = "a long path/".repeat(20);
    report.peers = vec![peer(
        "compress zlib:1, 128 threads",
        &[(1e5, None), (9e5, None)],
    )];
    report.peers[0].error_desc = Some("it has ended: ".repeat(20));
    for width in [80, 100, 200] {
        let look = Look {
            dim: false,
            width,
            codecs: true,
        };
        let text =
            table(&report, Sort::Given, look) + &advice::recommendations(&report, Some(width));
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
}

#[test]
fn rows_of_each_link_and_of_each_peer_are_grouped_without_its_name() {
    let mut rows = Vec::new();
    for (method, time) in [("none", 900.0), ("lz4", 500.0)] {
        let setting = report_with(&[(method, 1.0, 1)]).settings[0].setting;
        rows.push((setting, vec![run(time, 1 << 28)]));
        let slow = setting.over("1Gbit".parse().ok());
        rows.push((slow, vec![run(time * 2.0, 1 << 28)]));
    }
    let mut report = report_of(rows);
    report
        .peers
        .insert(0, peer("plain", &[(700.0, Some(1 << 30))]));
    report.peers[1].error_desc = Some("gone".to_owned());
    let text = table(&report, Sort::Time, Look::default());
    let rows: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with('─'))
        .take_while(|line| !line.starts_with("±:"))
        .filter_map(|line| line.split("  ").find(|word| !word.is_empty()))
        .filter(|line| !line.starts_with('─'))
        .collect();
    assert_eq!(
        rows,
        [
            "memcpy",
            "over unlimited",
            "lz4",
            "none",
            "over 1Gbit",
            "lz4",
            "none",
            "QEMU 7.2.22",
            "plain",
            "multifd zlib:1"
        ]
    );
    assert!(text.contains("warning: QEMU 7.2.22 multifd zlib:1 failed: gone\n"));
    assert!(text.contains("not emulated"));
}

#[test]
fn the_codec_alone_is_compared_with_the_pipeline_over_the_link_that_limits_least() {
    let mut rows = Vec::new();
    for setting in report_with(&[("none", 1.0, 1), ("zstd:1", 1.0, 1)]).settings {
        for link in ["1Gbit".parse().ok(), None] {
            let mut run = run(1000.0, 1 << 28);
            if setting.name == "none" {
                run.codec_bytes = 0;
            }
            rows.push((setting.setting.over(link), vec![run]));
        }
    }
    let verbose = Look {
        codecs: true,
        ..Look::default()
    };
    assert!(!table(&report_of(rows.clone()), Sort::Given, Look::default()).contains("codec alone"));
    let text = table(&report_of(rows), Sort::Given, verbose);
    let (_, codecs) = text.split_once("The codec alone").expect("its table");
    assert_eq!(words(codecs, "memcpy"), "memcpy - - - - - 5120");
    assert_eq!(words(codecs, "none"), "none - - - - - 512");
    // 0.25 s alone, 0.4 s in the pipeline.
    assert_eq!(
        words(codecs, "zstd:1"),
        "zstd:1 0.250 0.400 +60 2048 1280 512"
    );
    assert_eq!(codecs.matches("zstd:1").count(), 1);
    let plain = table(&report_with(&[("none", 1.0, 1)]), Sort::Given, verbose);
    assert!(!plain.contains("The codec alone"));
}

#[test]
fn dominated_rows_are_dimmed_and_rows_sorted() {
    let report = report_with(&[
        ("none", 500.0, 4000),
        ("zlib:9", 900.0, 5000),
        ("zstd:1", 700.0, 1000),
    ]);
    let look = Look {
        dim: true,
        ..Look::default()
    };
    let text = table(&report, Sort::Bytes, look);
    let (text, _) = text.split_once("±:").expect("the end of the table");
    let order: Vec<usize> = ["zstd:1", "none", "zlib:9"]
        .iter()
        .map(|name| text.find(name).expect("its row"))
        .collect();
    assert!(order.is_sorted());
    let dimmed: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("\x1b[2m"))
        .collect();
    assert!(
        matches!(dimmed[..], [line] if line.contains("zlib:9")),
        "{dimmed:?}"
    );
    for sort in Sort::ALL {
        assert_eq!(sort.to_string().parse(), Ok(sort));
    }
    assert!("size".parse::<Sort>().is_err());
}

#[test]
fn the_recommendation_comes_first_then_the_table_and_then_the_commands() {
    let report = report_with(&[("none", 500.0, 400 << 20), ("zstd:1", 700.0, 100 << 20)]);
    let text = summary(&report, Sort::Given, Look::default());
    let at = |words: &str| {
        text.find(words)
            .unwrap_or_else(|| panic!("{words}: {text}"))
    };
    let order = [
        at("\nRecommended settings (goal: shortest time)\n"),
        at("\nunlimited: none, 500.00 ms: compression gains nothing, zstd:1 takes"),
        at("\n    fewest bytes (within 2 %): zstd:1\n"),
        at("1Gbit (computed): zstd:1, "),
        at("\nsetting "),
        at("\nCommands for unlimited, 10Gbit: none\n"),
        at("ramferry send guest.ram tcp:HOST:4444 --compress-method none"),
        at("QEMU needs no setting:\n  virsh migrate --live DOMAIN DESTURI\n"),
        at("\nCommands for 1Gbit, 100Mbit: zstd:1\n"),
        at("QEMU with multifd"),
    ];
    assert!(order.is_sorted(), "{text}");
}

#[test]
fn a_disturbed_measurement_is_marked_before_everything_else() {
    let mut report = report_with(&[("none", 2000.0, 900)]);
    assert!(!summary(&report, Sort::Given, Look::default()).contains("do not trust"));
    report.settings[0].runs[0].machine_cpu_seconds = Some(3.2);
    let text = summary(&report, Sort::Given, Look::default());
    let warning = text.find("warning: other programs used 1.2 of 2 cores");
    assert!(warning < text.find("Recommended"), "{text}");
}

#[test]
fn links_with_the_same_best_setting_share_their_commands() {
    let of = |name: &str, link: Option<&str>, time| {
        let mut setting = report_with(&[(name, 1.0, 1)]).settings[0].setting;
        setting.link = link.and_then(|link| link.parse().ok());
        (setting, vec![run(time, 1 << 28)])
    };
    let report = report_of(vec![
        of("lz4", None, 100.0),
        of("zlib:1", None, 200.0),
        of("lz4", Some("1Gbit"), 3000.0),
        of("zlib:1", Some("1Gbit"), 2500.0),
        of("lz4", Some("10Gbit"), 300.0),
        of("zlib:1", Some("10Gbit"), 400.0),
    ]);
    let commands = commands_by_link(&report);
    let chosen: Vec<&str> = commands.iter().map(|one| &one.chosen[..]).collect();
    assert_eq!(chosen, ["unlimited, 10Gbit, 100Mbit: lz4", "1Gbit: zlib:1"]);
    let text = |at: usize| {
        let blocks = commands[at].blocks.iter();
        let text = blocks.map(|block| format!("{}\n{}\n", block.words, block.lines.join("\n")));
        text.collect::<String>()
    };
    let words = "QEMU does not support lz4; the best measured setting that it supports is zlib:1.";
    assert!(text(0).contains(words), "{}", text(0));
    for words in [
        "libvirt 9.4 or newer, ",
        "--comp-methods mt ",
        "which 9.1 removed",
    ] {
        assert!(text(1).contains(words), "{words}: {}", text(1));
    }
    let only_lz4 = report_with(&[("lz4", 1.0, 1)]);
    let text = summary(&only_lz4, Sort::Given, Look::default());
    assert!(
        text.contains("QEMU does not support lz4: measure zlib"),
        "{text}"
    );
}

#[test]
fn a_narrow_terminal_gets_fewer_columns_and_shorter_lines() {
    let mut report = report_with(&[
        ("none", 500.0, 400 << 20),
        ("zstd:1", 700.0, 100 << 20),
        ("zlib:9", 900.0, 500 << 20),
    ]);
    report.image.path = "x".repeat(30);
    let of = |width| {
        let look = Look {
            dim: true,
            width,
            codecs: true,
        };
        summary(&report, Sort::Given, look)
    };
    assert!(!of(100).contains("Not shown") && of(100).contains('\x1b'));
    for width in [55, 60, 65] {
        let text = of(width).replace("\x1b[2m", "").replace("\x1b[0m", "");
        assert!(text.contains("Not shown") && text.contains("source") && text.contains("sent"));
        // JSON stays on one line, to be copied.
        let lines = text.lines().filter(|line| !line.trim().starts_with('{'));
        let longest = lines.map(|line| line.chars().count()).max();
        assert!(longest <= Some(width), "{width}: {longest:?}\n{text}");
        assert!(text.contains(" \\\n      --"), "{text}");
    }
}
