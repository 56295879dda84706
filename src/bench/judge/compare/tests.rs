use super::*;
use crate::bench::report::tests::{peer, report_of, report_with, run};
use crate::stats::Status;

fn names(rows: &[Unmatched]) -> Vec<&str> {
    rows.iter().map(|row| &*row.name).collect()
}

fn document(name: &str, times: &[f64]) -> ExportedReport {
    let setting = report_with(&[(name, 1.0, 1)]).settings[0].setting;
    let runs = times.iter().map(|time| run(*time, 1000)).collect();
    let text = serde_json::to_string(&report_of(vec![(setting, runs)])).expect("JSON");
    serde_json::from_str(&text).expect("what we write is what we read")
}

#[test]
fn only_what_is_beyond_the_noise_is_slower() {
    let old = document("zstd:1", &[100.0, 101.0, 102.0]);
    let slower = compare(&old, &document("zstd:1", &[110.0, 111.0, 112.0])).expect("rows");
    assert_eq!(slower.rows[0].verdict, Verdict::Slower);
    let error = slower.gate(5.0).expect_err("slower");
    assert_eq!(error.kind(), Kind::Slower);
    assert_eq!(error.to_string(), "slower by more than 5 %: zstd:1");
    assert!(slower.gate(20.0).is_ok());
    assert!(
        slower.text().contains("+9.9 %  slower"),
        "{}",
        slower.text()
    );
    let noisy = compare(&old, &document("zstd:1", &[101.5, 130.0, 140.0])).expect("rows");
    assert_eq!(noisy.rows[0].verdict, Verdict::Same);
    assert!(noisy.gate(5.0).is_ok());
    let faster = compare(&old, &document("zstd:1", &[50.0, 51.0, 52.0])).expect("rows");
    assert_eq!(faster.rows[0].verdict, Verdict::Faster);
    assert!(faster.gate(0.0).is_ok());
    assert!(faster.text().contains("faster"));
}

/// Why a gate over these two cannot tell.
fn doubt(old: &ExportedReport, new: &ExportedReport) -> String {
    let comparison = compare(old, new).expect("a comparison");
    let error = comparison.gate(5.0).expect_err("it cannot tell");
    assert_eq!(error.kind(), Kind::Failed);
    error.to_string()
}

#[test]
fn a_gate_that_could_not_compare_fails_and_says_why() {
    let cannot = "cannot tell whether something became slower: ";
    let three = [100.0, 101.0, 102.0];
    let old = document("zstd:1", &three);
    // Ten times as slow, but once: that is what noise can do.
    for (times, runs) in [(&[1000.0][..], 1), (&[1000.0, 1001.0], 2)] {
        assert_eq!(
            doubt(&old, &document("zstd:1", times)),
            format!("{cannot}too few runs, measure with --runs 3 or more: zstd:1 (3 and {runs})")
        );
    }
    let other = doubt(&old, &document("zstd:3", &three));
    assert_eq!(
        other,
        format!("{cannot}the reports have no setting in common; not measured again: zstd:1")
    );
    let mut more = document("zstd:1", &three);
    more.settings.extend(document("lz4", &three).settings);
    assert_eq!(
        doubt(&more, &old),
        format!("{cannot}not measured again: lz4")
    );
    assert!(
        compare(&old, &more).expect("rows").gate(5.0).is_ok(),
        "one more is no loss"
    );
    let mut without_runs = document("zstd:1", &three);
    without_runs.settings.extend(document("lz4", &[]).settings);
    assert_eq!(
        doubt(&more, &without_runs),
        format!("{cannot}not measured again: lz4")
    );
    // What is known to be slower goes first.
    let slow = document("zstd:1", &[200.0, 201.0, 202.0]);
    let both = compare(&more, &slow)
        .expect("rows")
        .gate(5.0)
        .expect_err("slower");
    assert_eq!(both.kind(), Kind::Slower);
}

#[test]
fn a_report_of_a_benchmark_that_was_not_completed_is_not_taken_at_face_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = |name: &str, status: Status| {
        let setting = report_with(&[("lz4", 1.0, 1)]).settings[0].setting;
        let runs = [1.0, 2.0, 3.0].map(|time| run(time, 1000)).to_vec();
        let mut report = report_of(vec![(setting, runs)]);
        report.status = status;
        let path = folder.path().join(name);
        std::fs::write(&path, serde_json::to_string(&report).expect("JSON")).expect("a file");
        path
    };
    let whole = report("whole", Status::Completed);
    let cancelled = report("cut", Status::Cancelled);
    assert!(files(&whole, &whole).expect("rows").gate(5.0).is_ok());
    for (old, new) in [(&whole, &cancelled), (&cancelled, &whole)] {
        let comparison = files(old, new).expect("rows");
        let error = comparison.gate(5.0).expect_err("it cannot tell");
        assert_eq!(error.kind(), Kind::Failed);
        let line = format!(
            "the benchmark of '{}' is cancelled, not completed",
            cancelled.display()
        );
        assert!(error.to_string().ends_with(&line), "{error}");
        assert!(comparison.text().contains(&line));
    }
}

#[test]
fn modes_of_a_peer_are_compared_by_name_and_are_not_a_reason_to_fail() {
    let with_peer = |way: &str, times: [f64; 3]| {
        let mut report = report_with(&[("lz4", 1.0, 1)]);
        report.peers = vec![
            peer(way, &times.map(|time| (time, None))),
            peer("multifd zlib:1", &[]),
        ];
        let text = serde_json::to_string(&report).expect("JSON");
        serde_json::from_str::<ExportedReport>(&text).expect("what we write")
    };
    let old = with_peer("plain", [100.0, 101.0, 102.0]);
    let slower = compare(&old, &with_peer("plain", [150.0, 151.0, 152.0])).expect("rows");
    assert_eq!(slower.rows.len(), 2);
    assert!(slower.rows[1].verdict == Verdict::Slower && slower.rows[1].peer);
    assert!(
        slower.text().contains("QEMU 7.2.22 plain"),
        "{}",
        slower.text()
    );
    assert!(slower.only_old.is_empty() && slower.only_new.is_empty());
    let of_ours = slower.gate(5.0).expect_err("our one run is too few");
    assert_eq!(of_ours.kind(), Kind::Failed);
    assert!(!of_ours.to_string().contains("QEMU"), "{of_ours}");
    let other = compare(&old, &with_peer("multifd none", [1.0; 3])).expect("rows");
    assert_eq!(names(&other.only_new), ["QEMU 7.2.22 multifd none"]);
    assert_eq!(names(&other.only_old), ["QEMU 7.2.22 plain"]);
}

#[test]
fn settings_over_different_links_have_the_link_in_their_names() {
    let over = |link: Value| {
        let mut document = document("zlib:1", &[1.0]);
        document.settings[0].parameters["link"] = link;
        document
    };
    let found = compare(&over("100Mbit".into()), &over(Value::Null)).expect("no rows");
    assert_eq!(names(&found.only_old), ["zlib:1 over 100Mbit"]);
    assert_eq!(names(&found.only_new), ["zlib:1"]);
}

#[test]
fn settings_match_by_their_parameters() {
    let old = document("zstd:1", &[1.0]);
    let other = compare(&old, &document("zstd:3", &[1.0])).expect("no rows");
    assert!(other.rows.is_empty());
    assert_eq!(names(&other.only_old), ["zstd:1"]);
    assert_eq!(names(&other.only_new), ["zstd:3"]);
}

#[test]
fn other_images_and_other_files_are_refused_and_other_machines_noted() {
    let (old, mut new) = (document("lz4", &[1.0]), document("lz4", &[1.0]));
    new.conditions.cores = 64;
    let noted = compare(&old, &new).expect("rows");
    assert_eq!(noted.notes, ["cores differs: 2, now 64"]);
    new.image.digest = "0".to_owned();
    assert_eq!(
        compare(&old, &new).expect_err("refused").kind(),
        Kind::Usage
    );
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.json");
    assert_eq!(read(&path).expect_err("missing").kind(), Kind::Usage);
    for (text, words) in [
        (&b""[..], "it is empty or cut short"),
        (b"{\"schema\": \"", "it is empty or cut short"),
        (b"\xff", "it is not text"),
        (b"{}", "is not a file of --export-json"),
        (b"[1]", "is not a file of --export-json"),
        (b"{\"schema\": \"other\"}", "is not a file of --export-json"),
    ] {
        std::fs::write(&path, text).expect("a file");
        let error = read(&path).expect_err("refused");
        assert_eq!(error.kind(), Kind::Usage, "{text:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn percentages_are_numbers_of_at_least_zero() {
    assert_eq!(parse_percent("5%"), Ok(5.0));
    assert_eq!(parse_percent("0.5"), Ok(0.5));
    for text in ["", "%", "-1%", "NaN", "inf", "five"] {
        assert!(parse_percent(text).is_err(), "{text}");
    }
}
