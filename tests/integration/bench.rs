//! `ramferry bench` as its users see it: the table, the files, the page in a browser, two results
//! compared, and a comparison that is interrupted.

use ramferry::image::Guest;

use crate::folder::two_states;
use crate::support::*;

/// Small enough for every machine.
const TINY: [&str; 6] = ["bench", "--quiet", "--synthetic", "1MiB", "--seed", "4"];

fn bench(options: &[&str]) -> Ended {
    run(&[&TINY[..], options].concat())
}

#[test]
fn a_matrix_is_measured_recommended_and_exported() {
    watchdog!();
    let folder = Folder::new();
    let path = |name: &str| folder.path(name).display().to_string();
    let (json, csv, markdown, html) = (path("r.json"), path("r.csv"), path("r.md"), path("r.html"));
    let ended = bench(&[
        "--methods",
        "zstd:1,3,none",
        "--compress-threads",
        "1-2",
        "--wire",
        "native",
        "--export-json",
        &json,
        "--export-csv",
        &csv,
        "--export-markdown",
        &markdown,
        "--report",
        &html,
        "--sort",
        "bytes",
    ]);
    ended.succeeded();
    // Which of them is best depends on the machine, and the commands for QEMU on that.
    for words in [
        "zstd:3, 2 threads",
        "Commands for ",
        "virsh migrate",
        "QEMU",
    ] {
        assert!(ended.out.contains(words), "{words}: {ended:?}");
    }
    let text = std::fs::read_to_string(&json).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["status"], "completed");
    let settings = document["settings"].as_array().unwrap();
    assert_eq!(settings.len(), 6);
    for setting in settings {
        assert_eq!(setting["runs"].as_array().unwrap().len(), 3);
        assert_eq!(setting["runs"][0]["digest"], document["image"]["digest"]);
    }
    assert_eq!(std::fs::read_to_string(&csv).unwrap().lines().count(), 8);
    assert!(
        std::fs::read_to_string(&markdown)
            .unwrap()
            .contains("| memcpy |")
    );
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("Compression threads") && page.ends_with("</html>"));

    let same = run(&["bench", "--compare", &json, &json, "--fail-if-slower", "5%"]);
    same.succeeded();
    assert_eq!(
        same.out.matches("no measurable difference").count(),
        6,
        "{same:?}"
    );
    let mut slower = document;
    for setting in slower["settings"].as_array_mut().unwrap() {
        for run in setting["runs"].as_array_mut().unwrap() {
            run["time"] = (run["time"].as_f64().unwrap() * 100.0).into();
        }
    }
    let slow = path("slow.json");
    std::fs::write(&slow, slower.to_string()).unwrap();
    run(&["bench", "--compare", &json, &slow]).succeeded();
    run(&["bench", "--compare", &json, &slow, "--fail-if-slower", "5%"])
        .failed_with(6, &["slower by more than 5 %", "zstd:1"]);
    let compared = run(&["bench", "--compare", &json, &slow, "--json"]);
    let compared: serde_json::Value = serde_json::from_str(&compared.out).unwrap();
    assert_eq!(compared["rows"][0]["verdict"], "slower");
    assert!(compared["rows"][0]["old-ms"].is_f64() && compared["fail-if-slower"].is_null());
    let gate = ["--json", "--fail-if-slower", "5%"];
    let judged = run(&[&["bench", "--compare", &json, &slow], &gate[..]].concat());
    let document: serde_json::Value = serde_json::from_str(&judged.out).unwrap();
    assert_eq!(judged.code, Some(6), "{judged:?}");
    assert_eq!(
        document["fail-if-slower"],
        serde_json::json!({"percent": 5.0, "verdict": "slower"})
    );
    for (more, name) in [
        (&["--runs", "5"][..], "--runs"),
        (&["--export-csv", &csv], "--export-csv"),
        (&["--compress-level", "3"], "--compress-level"),
        (&["--links", "1Gbit"], "--links"),
    ] {
        run(&[&["bench", "--compare", &json, &slow], more].concat())
            .failed_with(2, &[name, "has no effect"]);
    }
    run(&["bench", "--compare", &json, &path("none.json")]).failed_with(2, &["cannot read"]);
    for (args, words) in [
        (
            &["bench", "--then-diff", "x", "--synthetic", "16MiB"][..],
            "--then and --then-diff need IMAGE",
        ),
        (&["bench", "--goal", "downtime"], "needs later images"),
    ] {
        run(args).failed_with(2, &[words]);
    }
    assert_eq!(compared["only-old"].as_array().map(Vec::len), Some(0));

    slower["settings"].as_array_mut().unwrap().truncate(1);
    slower["settings"][0]["runs"]
        .as_array_mut()
        .unwrap()
        .truncate(1);
    slower["status"] = "cancelled".into();
    std::fs::write(&slow, slower.to_string()).unwrap();
    run(&["bench", "--compare", &json, &slow]).succeeded();
    run(&["bench", "--compare", &json, &slow, "--fail-if-slower", "5%"]).failed_with(
        1,
        &[
            "cannot tell whether something became slower",
            "is cancelled, not completed",
            "not measured again: ",
            "too few runs",
        ],
    );
}

#[test]
fn later_images_are_delta_rounds_on_either_wire() {
    watchdog!();
    let folder = Folder::new();
    let pages = |changed: u64| -> Vec<Page> {
        let text =
            (0..64_u64).map(|page| Page::Text(page + changed * u64::from(page.is_multiple_of(8))));
        text.chain([Page::Hole, Page::Zero, Page::Fill(7), Page::Random(changed)])
            .collect()
    };
    let first = folder.image("first", &pages(0));
    let later = folder.image("later", &pages(1000));
    let (first, later) = (first.display().to_string(), later.display().to_string());
    let document = run(&[
        "bench",
        "--quiet",
        "--json",
        &first,
        "--then",
        &later,
        "--methods",
        "zlib:1,none",
        "--xbzrle",
        "off,1MiB",
        "--wire",
        "native,qemu",
        "--goal",
        "downtime",
    ])
    .json();
    let settings = document["settings"].as_array().unwrap();
    assert_eq!(settings.len(), 8);
    for setting in settings {
        assert_eq!(
            setting["runs"][0]["rounds"].as_array().unwrap().len(),
            2,
            "{setting}"
        );
        assert!(setting["downtime"]["median"].as_f64().unwrap() > 0.0);
    }
    assert!(document["links"][0]["best"]["downtime"].is_string());
}

#[test]
fn a_guest_folder_is_measured_with_all_its_blocks_and_later_as_well() {
    watchdog!();
    let folder = Folder::new();
    let [first, later] = two_states(&folder);
    let digest = |path| Guest::open(path).unwrap().digest().unwrap().to_string();
    let path = |path: &std::path::Path| path.display().to_string();
    let (ours, then) = (path(&first), path(&later));
    let args = [
        "bench",
        "--quiet",
        "--json",
        "--methods",
        "zlib:1,none",
        &ours,
    ];
    for (more, rounds, expected) in [
        (&["--wire", "native,qemu"][..], 0, digest(&first)),
        (&["--then", &then], 2, digest(&later)),
    ] {
        let document = run(&[&args[..], more].concat()).json();
        assert_eq!(document["image"]["path"], ours);
        assert_eq!(document["image"]["ram-bytes"], (256 + 64 + 32) * 4096);
        let settings = document["settings"].as_array().unwrap();
        assert_eq!(settings.len(), if rounds == 0 { 4 } else { 2 });
        for run in settings
            .iter()
            .flat_map(|setting| setting["runs"].as_array().unwrap())
        {
            assert_eq!(run["digest"], expected);
            let seen = run["rounds"].as_array().map_or(0, Vec::len);
            assert_eq!(seen, rounds, "{run}");
        }
        let send = document["links"][0]["recommended"]["send"]
            .as_str()
            .unwrap();
        assert!(send.contains(&ours), "{send}");
    }
}

#[test]
fn a_synthetic_guest_has_the_requested_mix() {
    watchdog!();
    let zero = |mix: &str| {
        let ended = bench(&["--json", "--methods", "none", "--mix", mix]);
        let document = ended.json();
        assert_eq!(document["image"]["mix"], mix);
        document["image"]["pages"]["zero"].as_u64().unwrap()
    };
    assert_eq!(zero("random"), 0);
    assert!(zero("idle") > 64, "of 256 pages");
    let folder = Folder::new();
    let image = folder.image("x.ram", &[Page::Text(1)]);
    let image = image.display().to_string();
    run(&["bench", &image, "--mix", "idle"])
        .failed_with(2, &["--mix idle", "synthetic", "x.ram' is an image"]);
}

#[test]
fn an_interrupted_benchmark_ends_after_the_run_in_progress_with_its_table_and_its_files() {
    watchdog!();
    let folder = Folder::new();
    let json = folder.path("r.json");
    let exported = json.display().to_string();
    let mut args = TINY.to_vec();
    args.extend([
        "--methods",
        "lz4",
        "--runs",
        "10000",
        "--export-json",
        &exported,
    ]);
    let program = Program::start(command(&args));
    // It comes with the first run.
    let has_runs = || std::fs::metadata(&json).is_ok_and(|about| about.len() > 0);
    while !has_runs() {
        std::thread::yield_now();
    }
    program.signal(rustix::process::Signal::INT);
    let ended = program.finish();
    assert_eq!(ended.code, Some(130), "{ended:?}");
    let words: Vec<&str> = ended.out.split_whitespace().collect();
    assert!(words.join(" ").contains("up to 10000 runs"), "{ended:?}");
    let document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(document["status"], "cancelled");
    assert!(
        !document["settings"][0]["runs"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn what_cannot_be_measured_or_written_is_found_before_the_first_run() {
    watchdog!();
    for (options, words) in [
        (
            &["--export-json", "/no/folder/r.json"][..],
            "/no/folder/r.json",
        ),
        (&["--methods", "zlib:12"], "zlib supports levels 0 to 9"),
        (&["--max-time", "1ms"], "max-time is too short"),
        (&["--preset", "delta"], "needs later images"),
        (
            &["--mix", "lazy"],
            "allowed are idle, busy, database and random",
        ),
        (
            &["--capability", "auto-converge=on"],
            "a benchmark has none",
        ),
        (
            &["--wire", "qemu", "--methods", "lz4"],
            "the qemu wire supports zlib and none",
        ),
    ] {
        bench(options).failed_with(2, &[words]);
    }
}
