//! `ramferry ctl` and ramferry's own monitor.

use ramferry::caps::Capability;
use ramferry::params::TABLE;
use serde_json::Value;

use crate::support::{Ended, Program, assert_same, command, run, watchdog};
use crate::support::{Files, SLOW};

/// A monitor, by the path of its socket.
struct Ctl(String);

impl Ctl {
    fn at(files: &Files) -> Ctl {
        Ctl(files.folder.path("m").to_str().unwrap().to_owned())
    }

    fn uri(&self) -> String {
        format!("unix:{}", self.0)
    }

    fn run(&self, args: &[&str]) -> Ended {
        run(&[&["ctl", &self.0], args].concat())
    }

    /// What a command prints that works.
    #[track_caller]
    fn out(&self, args: &str) -> String {
        let ended = self.run(&args.split(' ').collect::<Vec<_>>());
        ended.succeeded();
        assert_eq!(ended.err, "", "{args}");
        ended.out
    }

    fn watch(&self, interval: &str) -> Program {
        let args = [
            "ctl",
            &self.0,
            "domjobinfo",
            "--watch",
            "--interval",
            interval,
        ];
        Program::start(command(&args))
    }

    /// An idle monitor that is to send the image.
    fn idle(files: &Files) -> (Ctl, Program) {
        let ctl = Ctl::at(files);
        let uri = ctl.uri();
        let mut program = Program::start(command(&["monitor", &uri, "--image", files.image()]));
        assert_eq!(program.out_line(), format!("monitor at {uri}"));
        (ctl, program)
    }

    /// A program that does one migration and has a monitor.
    fn of(files: &Files, args: &[&str]) -> (Ctl, Program) {
        let ctl = Ctl::at(files);
        let uri = ctl.uri();
        let args = [args, &["--monitor", &uri]].concat();
        let mut program = Program::start(command(&args));
        while program.err_line() != format!("monitor at {uri}") {}
        (ctl, program)
    }
}

/// The next line of a watched job that begins so.
fn line(watcher: &mut Program, label: &str) -> String {
    loop {
        let line = watcher.out_line();
        if line.starts_with(label) {
            return line;
        }
    }
}

#[test]
fn every_parameter_and_capability_is_set_and_read() {
    watchdog!();
    let files = Files::small();
    let (ctl, monitor) = Ctl::idle(&files);
    for row in TABLE {
        let words = row.default.split(' ');
        let sets = words.map(|word| format!(" --set {}={word}", row.name));
        assert_eq!(
            ctl.out(&format!(
                "migrate-setparameters{}",
                sets.collect::<String>()
            )),
            ""
        );
    }
    let set = "migrate-setparameters --level 3 --threads 4 --dthreads -1 --set compress-method=zstd \
               --set max-time=1.5s --set link=1Gbit/20ms --set batch-pages=7 --set delta-compress=off";
    assert_eq!(ctl.out(set), "");
    let text = ctl.out("migrate-getparameters");
    for line in [
        "compress-method: zstd\n",
        "compress-level: 3\n",
        "compress-threads: 4\n",
        "decompress-threads: 2\n",
        "max-time: 1.5 seconds\n",
        "batch-pages: 7 pages\n",
        "delta-compress: off\n",
        "timeout: 30 seconds\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    ctl.out("migrate-setparameters --set max-time=none --set link=off --set batch-pages=auto");
    let now: Value = serde_json::from_str(&ctl.out("migrate-getparameters --json")).unwrap();
    for name in ["max-time", "link", "batch-pages"] {
        assert!(now.get(name).is_none(), "{now}");
    }
    // All or nothing.
    let set = ["migrate-setparameters", "--threads", "9", "--level", "30"];
    ctl.run(&set).failed_with(
        1,
        &["Parameter 'compress_level' expects a value between 0 and "],
    );
    let set = [
        "migrate-setparameters",
        "--threads",
        "9",
        "--set",
        "multifd-channels=2",
    ];
    ctl.run(&set)
        .failed_with(1, &["ramferry", " has no parameter multifd-channels"]);
    assert_eq!(
        now,
        serde_json::from_str::<Value>(&ctl.out("migrate-getparameters --json")).unwrap()
    );

    assert_eq!(ctl.out("migrate-setcapabilities events=on xbzrle=off"), "");
    let text = ctl.out("migrate-getcapabilities");
    assert!(
        text.contains("xbzrle: off\n") && text.contains("events: on\n"),
        "{text}"
    );
    assert_eq!(text.lines().count(), Capability::ALL.len());
    ctl.run(&["migrate-setcapabilities", "telepathy=on"])
        .failed_with(1, &["ramferry", " has no capability telepathy"]);

    assert_eq!(ctl.out("migrate-setmaxdowntime 1.5s"), "");
    assert_eq!(ctl.out("migrate-getmaxdowntime"), "1500\n");
    assert_eq!(ctl.out("migrate-setspeed 100"), "");
    assert_eq!(ctl.out("migrate-getspeed"), "100\n");
    assert_eq!(ctl.out("migrate-setspeed -1"), "");
    assert_eq!(ctl.out("migrate-getspeed"), "0\n");
    assert_eq!(
        ctl.out("migrate-compcache --size 16777216"),
        "Compression cache: 16.000 MiB\n"
    );
    assert_eq!(ctl.out("domjobinfo"), "Job type:         None        \n");
    ctl.run(&["domjobabort"])
        .failed_with(1, &["no job is active"]);
    ctl.run(&["migrate-continue"])
        .failed_with(1, &["Migration not in expected state"]);
    ctl.run(&["qmp", "nope"])
        .failed_with(1, &["The command nope has not been found"]);
    assert_eq!(ctl.out("qmp quit"), "{}\n");
    monitor.finish().succeeded();
}

#[test]
fn level_threads_and_speed_change_in_flight_and_the_watcher_sees_it() {
    watchdog!();
    let files = Files::new();
    let receiver = files.receiver(&[]);
    let (ctl, monitor) = Ctl::idle(&files);
    ctl.out("migrate-setparameters --set compress-method=zstd --level 1 --threads 2 --set batch-pages=1");
    ctl.out("migrate-setparameters --set max-bandwidth=64KiB");
    let uri = files.uri();
    let request = format!("{{\"execute\":\"migrate\",\"arguments\":{{\"uri\":\"{uri}\"}}}}");
    assert_eq!(ctl.out(&format!("qmp {request}")), "{}\n");

    let mut watcher = ctl.watch("10ms");
    assert_eq!(
        line(&mut watcher, "Operation:"),
        "Operation:        Outgoing migration"
    );
    let before = line(&mut watcher, "Codec:");
    assert_eq!(before, "Codec:            zstd level 1, 2 threads");
    ctl.out("migrate-setparameters --level 5 --threads 4");
    while line(&mut watcher, "Codec:") != "Codec:            zstd level 5, 4 threads" {}
    assert!(line(&mut watcher, "Current bandwidth:").ends_with("/s"));
    ctl.out("migrate-setspeed -1");
    let ended = watcher.finish();
    ended.succeeded();
    let last = ended.out.split("\n\n").last().unwrap();
    assert!(
        last.starts_with("Job type:         Completed   \n"),
        "{last}"
    );
    assert!(
        last.contains("\nMemory remaining: 0.000 B\nMemory total:     2.000 MiB\n"),
        "{last}"
    );
    ctl.run(&["domjobabort"])
        .failed_with(1, &["the last one is completed"]);
    ctl.out("qmp quit");
    monitor.finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}

/// However rarely the watcher prints: it sees the end before the monitor goes.
const DAY: &str = "1440min";

#[test]
fn a_watcher_sees_how_a_program_with_one_migration_ends() {
    watchdog!();
    let files = Files::new();
    let uri = files.uri();
    let (ctl, receiver) = Ctl::of(&files, &["receive", &uri, files.output()]);
    let sender = files.sender(&SLOW);
    let mut watcher = ctl.watch("10ms");
    assert_eq!(
        line(&mut watcher, "Operation:"),
        "Operation:        Incoming migration"
    );
    line(&mut watcher, "Codec:            2 threads");
    drop(sender);
    watcher.finish().failed_with(1, &["the migration failed: "]);
    receiver.finish().failed_with(1, &[]);

    let receiver = files.receiver(&[]);
    let (ctl, sender) = Ctl::of(
        &files,
        &[&["send", files.image(), &uri], &SLOW[..]].concat(),
    );
    let mut watcher = ctl.watch(DAY);
    line(&mut watcher, "Operation:");
    ctl.out("migrate-setspeed 0");
    let ended = watcher.finish();
    ended.succeeded();
    assert!(
        ended.out.contains("\n\nJob type:         Completed   \n"),
        "{}",
        ended.out
    );
    sender.finish().succeeded();
    receiver.finish().succeeded();
}

#[test]
fn a_watcher_reports_an_aborted_migration() {
    watchdog!();
    let files = Files::new();
    let uri = files.uri();
    let receiver = files.receiver(&[]);
    let (ctl, sender) = Ctl::of(
        &files,
        &[&["send", files.image(), &uri], &SLOW[..]].concat(),
    );
    let mut watcher = ctl.watch(DAY);
    line(&mut watcher, "Operation:");
    assert_eq!(ctl.out("domjobabort"), "");
    let ended = watcher.finish();
    ended.failed_with(1, &["the migration was cancelled"]);
    let last = "\n\nJob type:         Cancelled   \nOperation:        Outgoing migration\n";
    assert!(ended.out.ends_with(last), "{}", ended.out);
    sender.finish().failed_with(130, &[]);
    receiver.finish().failed_with(1, &[]);
    files.nothing_changed(None);
}

#[test]
fn a_migration_that_waits_says_so_and_continues_on_command() {
    watchdog!();
    let files = Files::small();
    let uri = files.uri();
    let receiver = files.receiver(&[]);
    let pause = [
        "--then",
        files.image(),
        "--capability",
        "pause-before-switchover=on",
    ];
    let (ctl, sender) = Ctl::of(
        &files,
        &[&["send", files.image(), &uri], &pause[..]].concat(),
    );
    let mut watcher = ctl.watch("10ms");
    while line(&mut watcher, "Migration status:") != "Migration status: pre-switchover" {}
    assert_eq!(ctl.out("migrate-continue"), "");
    watcher.finish().succeeded();
    sender.finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&files.output, &files.image);
}
