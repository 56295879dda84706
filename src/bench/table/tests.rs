use super::*;
use crate::bench::report::tests::{report, report_of, report_with, run};

fn words(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.trim().starts_with(name));
    let words: Vec<_> = line.expect(name).split_whitespace().collect();
    words.join(" ")
}

#[test]
fn the_table_shows_medians_with_units_and_a_dash_for_what_was_not_measured() {
    let text = table(&report(), Sort::Given, false, None);
    assert_eq!(
        words(&text, "zstd:1"),
        "zstd:1 1000.0 900.0 to 2000.0 1024 256 256.00 4.000 0.500 0.250 0.75"
    );
    assert_eq!(words(&text, "lz4"), "lz4 - - - - - - - - -");
    assert_eq!(
        words(&text, "memcpy"),
        "memcpy 100.0 100.0 to 100.0 10240 - - - - - -"
    );
    assert!(words(&text, "QEMU 7.2.22").ends_with("zlib:1 - - - - - - - - -"));
    assert!(text.contains("A CPU, 2 cores") && text.contains("[MiB/s]"));
    assert!(!text.contains("downtime") && !text.contains('\x1b'));
    assert!(text.lines().all(|line| line.chars().count() <= 130));
}

#[test]
fn dominated_rows_are_dimmed_and_rows_sorted() {
    let report = report_with(&[
        ("none", 500.0, 4000),
        ("zlib:9", 900.0, 5000),
        ("zstd:1", 700.0, 1000),
    ]);
    let text = table(&report, Sort::Bytes, true, None);
    let order: Vec<usize> = ["zstd:1", "none", "zlib:9"]
        .iter()
        .map(|name| text.find(name).expect("its row"))
        .collect();
    assert!(order.is_sorted());
    let dimmed: Vec<&str> = text.lines().filter(|line| line.starts_with(DIM)).collect();
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
fn the_recommendation_is_words_and_then_commands() {
    let text = recommendations(
        &report_with(&[("none", 500.0, 400 << 20), ("zstd:1", 700.0, 100 << 20)]),
        None,
    );
    assert!(
        text.starts_with("unlimited: none, 500.00 ms: nothing is gained"),
        "{text}"
    );
    assert!(text.contains("1Gbit (computed): zstd:1, "), "{text}");
    assert!(text.contains("As commands, for unlimited: none\n"));
    assert!(text.contains("ramferry send guest.ram tcp:HOST:4444 --compress-method none"));
    let nothing = "For QEMU there is nothing to set:\n  virsh migrate --live DOMAIN DESTURI\n";
    assert!(text.ends_with(nothing), "{text}");
}

#[test]
fn each_measured_link_has_its_commands_and_equal_ones_are_told_once() {
    let of = |name: &str, link: Option<&str>, time| {
        let mut setting = report_with(&[(name, 1.0, 1)]).settings[0].setting;
        setting.link = link.and_then(|link| link.parse().ok());
        (setting, vec![run(time, 1 << 28)])
    };
    let text = recommendations(
        &report_of(vec![
            of("lz4", None, 100.0),
            of("zlib:1", None, 200.0),
            of("lz4", Some("1Gbit"), 3000.0),
            of("zlib:1", Some("1Gbit"), 2500.0),
            of("lz4", Some("10Gbit"), 300.0),
            of("zlib:1", Some("10Gbit"), 400.0),
        ]),
        None,
    );
    let commands: Vec<&str> = text.split("\nAs commands, for ").skip(1).collect();
    let [lz4, zlib] = commands[..] else {
        panic!("{text}");
    };
    assert!(lz4.starts_with("unlimited, 10Gbit: lz4\n"));
    assert!(lz4.contains("QEMU has no lz4; the best measured that it has is zlib:1."));
    assert!(zlib.starts_with("1Gbit: zlib:1\n"));
    for words in [
        "(libvirt 9.4 or newer; ",
        "--comp-methods mt ",
        "which 9.1 removed",
    ] {
        assert!(zlib.contains(words), "{words}: {zlib}");
    }
    let text = recommendations(&report_with(&[("lz4", 1.0, 1)]), None);
    assert!(text.contains("QEMU has no lz4: measure zlib"), "{text}");
}

#[test]
fn a_narrow_terminal_gets_fewer_columns_and_shorter_lines() {
    let mut report = report_with(&[
        ("none", 500.0, 400 << 20),
        ("zstd:1", 700.0, 100 << 20),
        ("zlib:9", 900.0, 500 << 20),
    ]);
    report.image.path = "x".repeat(30);
    let all = table(&report, Sort::Given, true, Some(1000));
    assert!(!all.contains("Left out") && all.contains(DIM));
    for width in [75, 80, 100] {
        let text = table(&report, Sort::Given, true, Some(width));
        let longest = text.lines().map(shown_width).max();
        assert!(longest <= Some(width), "{width}: {longest:?}\n{text}");
        assert!(text.contains("Left out") && text.contains("source") && text.contains("sent"));
        let text = recommendations(&report, Some(width));
        let words = text.split("\nAs commands").next().expect("some");
        assert!(
            words.lines().all(|line| line.chars().count() <= width),
            "{words}"
        );
        assert!(words.contains("\n    "));
    }
    assert_eq!(
        wrapped("  a bc  def\ng\n", Some(6)),
        "  a bc\n      def\ng\n"
    );
    assert_eq!(wrapped("a  b\n", None), "a  b\n");
}
