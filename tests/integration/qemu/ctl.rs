//! `ramferry ctl` on a real QEMU's monitor.

use serde_json::{Value, json};

use super::gate::Gate;
use crate::support::qemu::{Machine, Qemu, qemu_or_skip};
use crate::support::{Ended, Folder, Page, Program, command, mixed, run, watchdog};

/// A second monitor besides that of the tests, at this path.
struct Ctl(String);

impl Ctl {
    /// Starts a machine that has one.
    fn of(folder: &Folder, machine: Machine<'_>) -> (Ctl, Qemu) {
        let path = folder.path("monitor").to_str().unwrap().to_owned();
        let at = format!("unix:{path},server=on,wait=off");
        (Ctl(path), machine.args(["-qmp", &at]).start())
    }

    #[track_caller]
    fn run(&self, args: &str) -> Ended {
        let args: Vec<&str> = args.split(' ').collect();
        run(&[&["ctl", &self.0], &args[..]].concat())
    }

    /// What a command prints that works.
    #[track_caller]
    fn out(&self, args: &str) -> String {
        let ended = self.run(args);
        ended.succeeded();
        assert_eq!(ended.err, "");
        ended.out
    }

    fn watch(&self) -> Program {
        let args = [
            "ctl",
            &self.0,
            "domjobinfo",
            "--watch",
            "--interval",
            "10ms",
        ];
        Program::start(command(&args))
    }
}

/// More than a closed gate takes, so that a migration stays under way.
fn guest(folder: &Folder) -> std::path::PathBuf {
    let mut pages = mixed(1024, 3);
    pages.extend((0..1024).map(Page::Random));
    folder.image("ram", &pages)
}

#[test]
fn parameters_and_capabilities_are_set_and_read() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let (ctl, mut qemu) = Ctl::of(&folder, qemu.source(&guest(&folder)));
    let now = |qemu: &mut Qemu| qemu.qmp("query-migrate-parameters", json!({}));

    let set = "migrate-setparameters --set multifd-channels=4 --set multifd-compression=zstd \
               --set downtime-limit=1.5s --set max-bandwidth=1Gbit --set cpu-throttle-tailslow=on";
    assert_eq!(ctl.out(set), "");
    let parameters = now(&mut qemu);
    assert_eq!(parameters["multifd-channels"], 4);
    assert_eq!(parameters["multifd-compression"], "zstd");
    assert_eq!(parameters["downtime-limit"], 1500);
    assert_eq!(parameters["max-bandwidth"], 125_000_000);
    assert_eq!(parameters["cpu-throttle-tailslow"], true);

    // All or nothing.
    ctl.run("migrate-setparameters --set downtime-limit=7 --set multifd-channels=0")
        .failed_with(1, &["expects a value between 1 and 255"]);
    ctl.run("migrate-setparameters --set connections=2")
        .failed_with(1, &["QEMU ", " has no parameter connections"]);
    assert_eq!(now(&mut qemu), parameters);

    let text = ctl.run("migrate-getparameters");
    text.succeeded();
    assert!(
        text.out
            .contains("max-bandwidth: 125000000 bytes per second\n"),
        "{text:?}"
    );
    assert!(text.out.contains("multifd-compression: zstd\n"), "{text:?}");
    let document: Value = serde_json::from_str(&ctl.out("migrate-getparameters --json")).unwrap();
    assert_eq!(document, parameters);

    if parameters.get("compress-level").is_some() {
        assert_eq!(
            ctl.out("migrate-setparameters --level 3 --threads 4 --dthreads -1"),
            ""
        );
        let parameters = now(&mut qemu);
        assert_eq!(parameters["compress-level"], 3);
        assert_eq!(parameters["compress-threads"], 4);
        assert_eq!(parameters["decompress-threads"], 2);
        ctl.run("migrate-setparameters --level 10").failed_with(
            1,
            &["Parameter 'compress_level' expects a value between 0 and 9"],
        );
    } else {
        ctl.run("migrate-setparameters --level 3")
            .failed_with(1, &["QEMU ", " has no parameter compress-level"]);
        assert!(
            text.err.contains("has no compress-level, compress-threads"),
            "{text:?}"
        );
    }

    assert_eq!(
        ctl.out("migrate-setcapabilities xbzrle=on auto-converge=on"),
        ""
    );
    assert_eq!(ctl.out("migrate-setcapabilities auto-converge=off"), "");
    let text = ctl.out("migrate-getcapabilities");
    for line in ["xbzrle: on\n", "auto-converge: off\n", "events: on\n"] {
        assert!(text.contains(line), "{text}");
    }
    ctl.run("migrate-setcapabilities xbzrle=off telepathy=on")
        .failed_with(1, &["QEMU ", " has no capability telepathy"]);
    let document: Value = serde_json::from_str(&ctl.out("migrate-getcapabilities --json")).unwrap();
    assert_eq!(document, qemu.qmp("query-migrate-capabilities", json!({})));
    let xbzrle = json!({"capability": "xbzrle", "state": true});
    assert!(document.as_array().unwrap().contains(&xbzrle));
}

#[test]
fn downtime_speed_and_cache_are_set_and_read() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let (ctl, mut qemu) = Ctl::of(&folder, qemu.source(&guest(&folder)));
    let mut now = |name: &str| qemu.qmp("query-migrate-parameters", json!({}))[name].take();

    assert_eq!(ctl.out("migrate-setmaxdowntime 700"), "");
    assert_eq!(now("downtime-limit"), 700);
    assert_eq!(ctl.out("migrate-getmaxdowntime"), "700\n");
    ctl.run("migrate-setmaxdowntime 2000001")
        .failed_with(2, &["0 to 2000000"]);

    assert_eq!(ctl.out("migrate-getspeed"), "128\n");
    assert_eq!(ctl.out("migrate-setspeed 100"), "");
    assert_eq!(now("max-bandwidth"), 100 << 20);
    assert_eq!(ctl.out("migrate-getspeed"), "100\n");
    assert_eq!(ctl.out("migrate-setspeed -1"), "");
    assert_eq!(ctl.out("migrate-getspeed"), "17592186044415\n");

    assert_eq!(
        ctl.out("migrate-compcache"),
        "Compression cache: 64.000 MiB\n"
    );
    assert_eq!(
        ctl.out("migrate-compcache --size 16777216"),
        "Compression cache: 16.000 MiB\n"
    );
    assert_eq!(now("xbzrle-cache-size"), 16 << 20);
    ctl.run("migrate-compcache --size 5000")
        .failed_with(1, &["a power of two"]);

    let version: Value = serde_json::from_str(&ctl.out("qmp query-version")).unwrap();
    assert!(version["qemu"]["major"].is_u64(), "{version}");
    ctl.run("qmp nope")
        .failed_with(1, &["The command nope has not been found"]);
    ctl.run("qmp {\"bogus\":1}")
        .failed_with(1, &["QMP input member 'bogus' is unexpected"]);
    ctl.run("migrate-continue")
        .failed_with(1, &["Migration not in expected state"]);
}

#[test]
fn a_migration_is_watched_changed_and_completes() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let image = guest(&folder);
    let there = Folder::in_memory();
    let target = qemu.destination(&folder.path("out"), 8 << 20);
    let (there, mut destination) = Ctl::of(&there, target);
    assert_eq!(there.out("domjobinfo"), "Job type:         None        \n");
    destination.migrate_incoming(&format!("unix:{}", folder.path("link").display()));
    let gate = Gate::to_unix(&folder, &folder.path("link"));
    let (ctl, mut source) = Ctl::of(&folder, qemu.source(&image));
    ctl.run("domjobabort").failed_with(1, &["no job is active"]);
    ctl.out("migrate-setcapabilities xbzrle=on");

    let uri = gate.uri();
    let request = json!({"execute": "migrate", "arguments": {"uri": uri}}).to_string();
    run(&["ctl", &ctl.0, "qmp", &request]).succeeded();
    source.wait_status("active");
    let text = ctl.out("domjobinfo");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "Job type:         Unbounded   ");
    assert_eq!(lines[1], "Operation:        Outgoing migration");
    assert!(
        lines[2].starts_with("Time elapsed:     ") && lines[2].ends_with(" ms"),
        "{text}"
    );
    assert!(
        text.contains("Page size:        4096         bytes\n"),
        "{text}"
    );
    assert!(
        text.contains("Expected downtime: 300          ms\n"),
        "{text}"
    );
    assert!(text.contains("Compression cache: 64.000 MiB\n"), "{text}");
    let raw = ctl.out("domjobinfo --rawstats");
    assert!(
        raw.starts_with("Job type: 2\n\noperation: 5\ntime_elapsed: "),
        "{raw}"
    );

    gate.let_through(64 << 10);
    destination.wait_status("active");
    let text = there.out("domjobinfo");
    assert_eq!(
        text,
        "Job type:         Unbounded   \nOperation:        Incoming migration\n"
    );

    // In flight.
    ctl.out("migrate-setspeed 50");
    ctl.out("migrate-setmaxdowntime 900");
    assert_eq!(
        ctl.out("migrate-compcache --size 32MiB"),
        "Compression cache: 32.000 MiB\n"
    );
    assert!(
        ctl.out("domjobinfo")
            .contains("Compression cache: 32.000 MiB\n")
    );

    // One client at a time: the watcher has it from now on.
    let mut watcher = ctl.watch();
    assert_eq!(watcher.out_line(), "Job type:         Unbounded   ");
    gate.open();
    assert_eq!(source.wait_migration(), "completed");
    assert_eq!(destination.wait_migration(), "completed");
    let text = there.out("domjobinfo");
    assert_eq!(
        text,
        "Job type:         Completed   \nOperation:        Incoming migration\n"
    );
    let ended = watcher.finish();
    ended.succeeded();
    let last = ended.out.split("\n\n").last().unwrap();
    assert!(
        last.starts_with("Job type:         Completed   \nOperation:        Outgoing"),
        "{last}"
    );
    assert!(last.contains("\nTotal downtime:   ") && last.contains("Memory remaining: 0.000 B\n"));

    let reply = source.query_migrate();
    let raw: Value = serde_json::from_str(&ctl.out("domjobinfo --json")).unwrap();
    for (key, member) in [
        ("memory_processed", &reply["ram"]["transferred"]),
        ("memory_constant", &reply["ram"]["duplicate"]),
        ("memory_normal", &reply["ram"]["normal"]),
        ("memory_iteration", &reply["ram"]["dirty-sync-count"]),
        ("compression_cache", &reply["xbzrle-cache"]["cache-size"]),
        ("time_elapsed", &reply["total-time"]),
        ("downtime", &reply["downtime"]),
    ] {
        assert_eq!(&raw[key], member, "{key}");
    }
    assert_eq!(
        (&raw["job_type"], &raw["success"]),
        (&json!(3), &json!(true))
    );
    ctl.run("domjobabort")
        .failed_with(1, &["the last one is completed"]);
    gate.finish();
}

#[test]
fn a_migration_is_aborted_and_its_watcher_says_so() {
    let Some(qemu) = qemu_or_skip() else { return };
    watchdog!();
    let folder = Folder::in_memory();
    let (ctl, mut source) = Ctl::of(&folder, qemu.source(&guest(&folder)));
    let gate = Gate::to_file(&folder, &folder.path("stream"));
    source.migrate(&gate.uri());
    source.wait_status("active");
    assert_eq!(ctl.out("domjobabort"), "");
    assert_eq!(source.wait_migration(), "cancelled");
    let expected = "Job type:         Cancelled   \nOperation:        Outgoing migration\n";
    assert_eq!(ctl.out("domjobinfo"), expected);
    let watcher = ctl.watch().finish();
    watcher.failed_with(1, &["the migration was cancelled"]);
    assert_eq!(watcher.out, expected);

    // Without a listener it fails, and says why.
    source.migrate(&format!("unix:{}", folder.path("nothing").display()));
    assert_eq!(source.wait_migration(), "failed");
    let text = ctl.out("domjobinfo");
    assert!(
        text.starts_with("Job type:         Failed      \n"),
        "{text}"
    );
    assert!(
        text.contains("Error message:    Failed to connect"),
        "{text}"
    );
    ctl.watch()
        .finish()
        .failed_with(1, &["the migration failed: Failed to connect"]);
}
