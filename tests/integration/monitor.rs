//! The monitor at work: whole migrations that clients start, watch, change, hold up and end, in the
//! program.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::live::Churn;
use crate::support::qmp::Qmp;
use crate::support::{
    Ended, Folder, Page, Program, assert_same, command, mixed, run, until, watchdog,
};

/// A guest that does not compress, an idle program with a monitor, and where to.
struct Scene {
    folder: Folder,
    image: PathBuf,
    output: PathBuf,
    monitor: PathBuf,
    uri: String,
}

impl Scene {
    fn new(pages: u64) -> Scene {
        let folder = Folder::new();
        let guest: Vec<Page> = (1..=pages).map(Page::Random).collect();
        Scene {
            image: folder.image("guest.ram", &guest),
            output: folder.path("out.ram"),
            monitor: folder.path("m"),
            uri: format!("unix:{}", folder.path("socket").display()),
            folder,
        }
    }

    /// The program, listening for clients.
    fn start(&self, args: &[&str]) -> Program {
        let at = format!("unix:{}", self.monitor.display());
        let args = [&["monitor", &at], args].concat();
        let mut program = Program::start(command(&args));
        assert_eq!(program.out_line(), format!("monitor at {at}"));
        program
    }

    fn idle(&self) -> Program {
        self.start(&["--image", self.image.to_str().unwrap()])
    }

    fn client(&self) -> Qmp {
        Qmp::connect(&self.monitor)
    }

    fn destination(&self) -> Program {
        let output = self.output.to_str().unwrap();
        let mut program = Program::start(command(&["receive", &self.uri, output, "--force"]));
        program.listening();
        program
    }

    /// The program with a migration of its own and a monitor on it.
    fn attached(&self, args: &[&str]) -> Program {
        let at = format!("unix:{}", self.monitor.display());
        let mut program = Program::start(command(&[args, &["--monitor", &at]].concat()));
        assert_eq!(program.err_line(), format!("monitor at {at}"));
        program
    }

    fn send(&self, args: &[&str]) -> Program {
        let image = self.image.to_str().unwrap();
        self.attached(&[&["send", image, &self.uri], args].concat())
    }
}

fn quit(mut client: Qmp, program: Program) -> Ended {
    client.done("quit", json!({}));
    assert_eq!(client.message(), None);
    program.finish()
}

#[test]
fn a_whole_migration_is_driven_from_a_monitor() {
    watchdog!();
    let scene = Scene::new(1024);
    let (program, destination) = (scene.idle(), scene.destination());
    let mut client = scene.client();
    assert_eq!(client.query(), json!({}));
    assert_eq!(client.state(), "paused");
    client.switch("events", true);
    client.done(
        "migrate-set-parameters",
        json!({"compress-method": "zstd", "compress-level": 3, "compress-threads": 2}),
    );
    client.done("migrate", json!({"uri": scene.uri}));
    assert_eq!(
        client.until("completed"),
        ["setup", "MIGRATION_PASS", "active", "device", "completed"]
    );
    let report = client.query();
    assert_eq!(report["status"], "completed");
    assert_eq!(report["ram"]["total"], 1024 * 4096);
    assert_eq!(report["ram"]["normal"], 1024, "they do not compress");
    assert_eq!(
        (&report["method"], &report["level"]),
        (&json!("zstd"), &json!(3))
    );
    assert_eq!(client.state(), "postmigrate");
    destination.finish().succeeded();
    assert_same(&scene.output, &scene.image);
    let ended = quit(client, program);
    ended.succeeded();
    assert!(!scene.monitor.exists());
}

#[test]
fn both_ends_are_driven_and_the_picked_port_is_reported() {
    watchdog!();
    let (source, destination) = (Scene::new(512), Scene::new(1));
    let output = destination.output.to_str().unwrap();
    let programs = [source.idle(), destination.start(&["--output", output])];
    let (mut here, mut there) = (source.client(), destination.client());
    there.switch("events", true);
    there.done("migrate-incoming", json!({"uri": "tcp:127.0.0.1:0"}));
    assert_eq!(there.state(), "inmigrate");
    let again = json!({"uri": "tcp:127.0.0.1:0", "output": "x"});
    let in_progress = "There's a migration process in progress";
    assert_eq!(there.declined("migrate-incoming", again), in_progress);
    until(|| there.query().get("socket-address").is_some());
    let address = &there.query()["socket-address"][0];
    let (host, port) = (&address["host"], &address["port"]);
    let uri = format!("tcp:{}:{}", host.as_str().unwrap(), port.as_str().unwrap());
    here.switch("events", true);
    here.done("migrate", json!({"uri": uri}));
    here.until("completed");
    assert_eq!(
        there.until("completed"),
        ["setup", "MIGRATION_PASS", "active", "device", "completed"]
    );
    assert_same(&destination.output, &source.image);
    let report = there.query();
    assert_eq!(report["side"], "destination");
    assert_eq!(report["digest"], here.query()["digest"]);
    assert_eq!(there.state(), "paused");
    for (client, program) in [here, there].into_iter().zip(programs) {
        quit(client, program).succeeded();
    }
}

#[test]
fn parameters_change_in_flight_and_the_statistics_show_it_within_a_second() {
    watchdog!();
    let scene = Scene::new(4096);
    let (program, destination) = (scene.idle(), scene.destination());
    let mut client = scene.client();
    client.switch("events", true);
    let slow = json!({"max-bandwidth": 500_000, "compress-threads": 3, "batch-pages": 4});
    client.done("migrate-set-parameters", slow);
    client.done("migrate", json!({"uri": scene.uri}));
    client.until("active");
    until(|| client.query()["ram"]["transferred"].as_u64() > Some(0));
    let begin = Instant::now();
    let change = json!({
        "compress-level": 9, "compress-threads": 2, "xbzrle-cache-size": 1 << 20, "downtime-limit": 50,
        "max-bandwidth": 2_000_000,
    });
    client.done("migrate-set-parameters", change);
    let report = client.query();
    assert_eq!(report["status"], "active");
    assert_eq!(report["level"], 9);
    assert_eq!(report["threads"], 2);
    assert_eq!(report["xbzrle-cache"]["cache-size"], 1 << 20);
    assert_eq!(report["expected-downtime"], 50);
    // 4 Mbit/s before, 16 now. Twice as long as it should take, for a machine that has a lot to do.
    until(|| client.query()["ram"]["mbps"].as_f64() > Some(10.0));
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    // What cannot change is declined, and nothing with it.
    let words = client.declined(
        "migrate-set-parameters",
        json!({"batch-pages": 8, "max-bandwidth": 0}),
    );
    assert_eq!(words, "batch-pages cannot be changed during a migration");
    let params = client.done("query-migrate-parameters", json!({}));
    assert_eq!(params["max-bandwidth"], 2_000_000);
    client.done("migrate-set-parameters", json!({"max-bandwidth": 0}));
    client.until("completed");
    assert!(
        client.query()["total-time"].as_u64() < Some(30_000),
        "not 8 s more"
    );
    destination.finish().succeeded();
    assert_same(&scene.output, &scene.image);
    quit(client, program).succeeded();
}

#[test]
fn one_client_starts_another_cancels_and_the_first_starts_again() {
    watchdog!();
    let scene = Scene::new(4096);
    let (program, destination) = (scene.idle(), scene.destination());
    let (mut one, mut other) = (scene.client(), scene.client());
    one.switch("events", true);
    one.done("migrate-set-parameters", json!({"max-bandwidth": 100_000}));
    one.done("migrate", json!({"uri": scene.uri}));
    other.until("active");
    let in_progress = "There's a migration process in progress";
    assert_eq!(
        other.declined("migrate", json!({"uri": scene.uri})),
        in_progress
    );
    let off = json!({"capabilities": [{"capability": "events", "state": false}]});
    assert_eq!(other.declined("migrate-set-capabilities", off), in_progress);
    other.done("migrate_cancel", json!({}));
    let seen = one.until("cancelled");
    assert_eq!(seen[seen.len() - 2..], ["cancelling", "cancelled"]);
    assert_eq!(
        one.query(),
        json!({"status": "cancelled", "side": "source", "guest": "source"})
    );
    destination.finish().failed_with(1, &[]);
    other.done("migrate_cancel", json!({}));

    let destination = scene.destination();
    one.done("migrate-set-parameters", json!({"max-bandwidth": 0}));
    one.done("migrate", json!({"uri": scene.uri}));
    one.until("completed");
    // The instant that it is over, the next one may be started.
    one.done("migrate", json!({"uri": "unix:/nowhere/at/all"}));
    destination.finish().succeeded();
    assert_same(&scene.output, &scene.image);
    one.until("failed");
    let report = one.query();
    assert!(
        report["error-desc"]
            .as_str()
            .unwrap()
            .contains("/nowhere/at/all"),
        "{report}"
    );
    other.until("completed");
    quit(one, program).succeeded();
}

#[test]
fn clients_that_take_nothing_or_die_concern_neither_a_migration_nor_others() {
    watchdog!();
    let scene = Scene::new(1024);
    let (program, destination) = (scene.idle(), scene.destination());
    let mut client = scene.client();
    client.switch("events", true);
    let mut deaf: Vec<UnixStream> = (0..10)
        .map(|_| UnixStream::connect(&scene.monitor).unwrap())
        .collect();
    for deaf in &mut deaf {
        deaf.set_nonblocking(true).unwrap();
        // As much as it is listened to.
        let _ = deaf.write_all(b"{\"execute\":\"qmp_capabilities\"}");
        let commands = b"{\"execute\":\"query-migrate-parameters\"}".repeat(10_000);
        let _ = deaf.write_all(&commands);
        let mut dies = UnixStream::connect(&scene.monitor).unwrap();
        dies.write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"migrate\"")
            .unwrap();
    }
    client.done("migrate", json!({"uri": scene.uri}));
    client.until("completed");
    destination.finish().succeeded();
    assert_same(&scene.output, &scene.image);
    quit(client, program).succeeded();
}

#[test]
fn a_live_migration_is_started_from_a_monitor_and_its_writer_stops_before_the_last_round() {
    watchdog!();
    let scene = Scene::new(1024);
    let churn = Churn::start(&scene.image, &["--rate", "2000", "--working-set", "1MiB"]);
    let (program, destination) = (scene.idle(), scene.destination());
    let mut client = scene.client();
    client.switch("events", true);
    client.switch("pause-before-switchover", true);
    let pid = churn.program.pid();
    client.done(
        "migrate",
        json!({"uri": scene.uri, "live": true, "pid": [pid]}),
    );
    let seen = client.until("pre-switchover");
    assert_eq!(seen[seen.len() - 2..], ["STOP", "pre-switchover"]);
    assert_eq!(client.state(), "finish-migrate");
    churn.stands_still();
    let report = client.query();
    assert_eq!(report["status"], "pre-switchover");
    assert!(report["expected-downtime"].is_u64() && report.get("downtime").is_none());
    let words = client.declined("migrate-continue", json!({"state": "active"}));
    assert_eq!(words, "Migration not in expected state: pre-switchover");
    client.done("migrate-continue", json!({"state": "pre-switchover"}));
    let seen = client.until("completed");
    assert!(!seen.contains(&"RESUME".to_owned()), "{seen:?}");
    churn.stands_still();
    destination.finish().succeeded();
    churn.verify(&scene.output);
    assert!(client.query()["downtime"].as_u64() > Some(0));
    let words = client.declined("migrate-continue", json!({"state": "pre-switchover"}));
    assert_eq!(words, "Migration not in expected state: completed");
    churn.resume();
    quit(client, program).succeeded();
}

#[test]
fn send_waits_before_the_switchover_until_migrate_continue() {
    watchdog!();
    let scene = Scene::new(256);
    let destination = scene.destination();
    let pause = [
        "--capability",
        "pause-before-switchover=on",
        "--capability",
        "events=on",
    ];
    let program = scene.send(&[&pause[..], &["--then", scene.image.to_str().unwrap()]].concat());
    let mut client = scene.client();
    // It may have arrived already; a later client gets no event of it.
    until(|| client.query()["status"] == "pre-switchover");
    let only = "this program only does the migration that it was started with";
    let migrate = json!({"uri": scene.uri, "image": "x"});
    assert_eq!(client.declined("migrate", migrate), only);
    let incoming = json!({"uri": scene.uri, "output": "x"});
    assert_eq!(client.declined("migrate-incoming", incoming), only);
    client.done("migrate-continue", json!({"state": "pre-switchover"}));
    let seen = client.until("completed");
    assert!(seen.contains(&"device".to_owned()), "{seen:?}");
    // A client that sees the end can still query the result.
    assert_eq!(client.query()["status"], "completed");
    drop(client);
    let ended = program.finish();
    ended.succeeded();
    assert!(ended.err.contains("arrived and proven"), "{ended:?}");
    destination.finish().succeeded();
    assert_same(&scene.output, &scene.image);
    assert!(!scene.monitor.exists());
}

#[test]
fn a_wait_that_no_client_could_end_is_declined_at_once() {
    watchdog!();
    let scene = Scene::new(1);
    let pause = "pause-before-switchover=on";
    let ended = run(&[
        "send",
        scene.image.to_str().unwrap(),
        &scene.uri,
        "--capability",
        pause,
    ]);
    ended.failed_with(
        2,
        &["pause-before-switchover", "--monitor", "migrate-continue"],
    );
}

#[test]
fn a_monitor_ends_what_send_and_receive_do_as_a_signal_does() {
    watchdog!();
    let (source, destination) = (Scene::new(4096), Scene::new(1));
    let output = destination.output.to_str().unwrap().to_owned();
    for at_source in [true, false] {
        for command in ["migrate_cancel", "quit"] {
            let mut receive = destination.attached(&["receive", &source.uri, &output]);
            receive.listening();
            let send = source.send(&["--max-bandwidth", "100000", "--json"]);
            let (mut here, mut there) = (source.client(), destination.client());
            until(|| there.query()["status"] == "active");
            assert_eq!(there.state(), "inmigrate");
            let client = if at_source { &mut here } else { &mut there };
            client.done(command, json!({}));
            drop((here, there));
            let (send, receive) = (send.finish(), receive.finish());
            let (ended, other) = if at_source {
                (&send, &receive)
            } else {
                (&receive, &send)
            };
            assert_eq!(ended.code, Some(130), "{ended:?}");
            assert_eq!(other.code, Some(1), "{other:?}");
            let reason = "cancelled by a client of the monitor";
            assert!(ended.err.contains(reason), "{ended:?}");
            // A source that is cut off in the middle of a frame cannot say it.
            if !at_source {
                let heard = format!("the other side gave up: {reason}");
                assert!(other.err.contains(&heard), "{other:?}");
            }
            let expected = if at_source { "cancelled" } else { "failed" };
            assert_eq!(send.json()["status"], expected);
            assert_eq!(destination.folder.names(), ["guest.ram"]);
        }
    }
}

#[test]
fn the_end_waits_a_second_for_clients_that_may_have_something_to_ask() {
    watchdog!();
    let scene = Scene::new(64);
    let destination = scene.destination();
    let program = scene.send(&["--capability", "pause-before-switchover=on"]);
    let mut client = scene.client();
    until(|| client.query()["status"] == "pre-switchover");
    let mut silent = scene.client();
    let begin = Instant::now();
    client.done("migrate-continue", json!({"state": "pre-switchover"}));
    drop(client);
    program.finish().succeeded();
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert_eq!(silent.message(), None);
    destination.finish().succeeded();
}

#[test]
fn a_signal_ends_the_idle_program_and_one_that_migrates() {
    watchdog!();
    let scene = Scene::new(4096);
    let program = scene.idle();
    let mut client = scene.client();
    program.signal(Signal::TERM);
    assert_eq!(client.message(), None);
    let ended = program.finish();
    ended.succeeded();
    assert!(!scene.monitor.exists());

    let (program, destination) = (scene.idle(), scene.destination());
    let mut client = scene.client();
    client.switch("events", true);
    client.done("migrate-set-parameters", json!({"max-bandwidth": 100_000}));
    client.done("migrate", json!({"uri": scene.uri}));
    client.until("active");
    program.signal(Signal::TERM);
    client.until("cancelled");
    program.finish().failed_with(130, &["interrupted"]);
    destination.finish().failed_with(1, &[]);

    // As does quit, on purpose.
    let (program, destination) = (scene.idle(), scene.destination());
    let mut client = scene.client();
    client.switch("events", true);
    client.done("migrate-set-parameters", json!({"max-bandwidth": 100_000}));
    client.done("migrate", json!({"uri": scene.uri}));
    client.until("active");
    client.done("quit", json!({}));
    client.until("cancelled");
    program.finish().succeeded();
    destination.finish().failed_with(1, &[]);
    assert_eq!(scene.folder.names(), ["guest.ram"]);
}

#[test]
fn a_socket_that_cannot_be_is_named_with_the_reason() {
    watchdog!();
    let scene = Scene::new(1);
    let program = scene.idle();
    let in_use = format!("unix:{}", scene.monitor.display());
    let long = format!("unix:/{}", "x".repeat(107));
    let file = format!("unix:{}", scene.image.display());
    for (uri, code, words) in [
        (&in_use[..], 1, "is already in use"),
        (&long, 2, "at most 107 bytes"),
        (&file, 1, "it exists and is not a socket"),
        ("tcp:127.0.0.1:0", 2, "unix:PATH only"),
        (
            "m.sock",
            2,
            "it does not begin with a scheme: write unix:m.sock",
        ),
        ("unix:/nowhere/at/all", 1, "No such file"),
    ] {
        run(&["monitor", uri]).failed_with(code, &[words]);
        let image = scene.image.to_str().unwrap();
        run(&["send", image, &scene.uri, "--monitor", uri]).failed_with(code, &[words]);
    }
    quit(scene.client(), program).succeeded();
}

/// The most memory that it ever had, in KiB.
fn peak_kib(program: &Program) -> u64 {
    let status = format!("/proc/{}/status", program.pid());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn whatever_clients_send_the_program_stays_small() {
    watchdog!();
    let scene = Scene::new(1);
    let program = scene.idle();
    let mut client = scene.client();
    let before = peak_kib(&program);
    for (begin, piece) in [
        ("{\"execute\":\"", "x"),
        ("", "[\"a\",{\"b\":"),
        ("[", "{\"\":0},"),
        ("{", " "),
    ] {
        let piece = piece.repeat((1 << 20) / piece.len());
        let stream = client.stream.get_mut();
        stream.write_all(begin.as_bytes()).unwrap();
        (0..100).for_each(|_| stream.write_all(piece.as_bytes()).unwrap());
        stream.write_all(b"\n").unwrap();
        let answer = client.message().unwrap();
        let words = answer["error"]["desc"].as_str().unwrap();
        assert!(words.ends_with("limit exceeded"), "{words}");
    }
    // Answers that are never read.
    let mut deaf = UnixStream::connect(&scene.monitor).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let commands = b"{\"execute\":\"qmp_capabilities\"}".repeat(1 << 20);
    assert!(deaf.write_all(&commands).is_err(), "it is not listened to");
    client.done("query-version", json!({}));
    let grown = peak_kib(&program) - before;
    assert!(grown < 32 << 10, "{grown} KiB more");
    let mut rest = Vec::new();
    drop(deaf.read_to_end(&mut rest));
    quit(client, program).succeeded();
}

#[test]
fn images_that_are_mixed_arrive_on_any_wire() {
    watchdog!();
    let scene = Scene::new(1);
    crate::support::write_image(&scene.image, &mixed(1024, 9));
    let program = scene.idle();
    let mut client = scene.client();
    client.switch("events", true);
    for wire in ["native", "qemu"] {
        let destination = scene.destination();
        let block = json!({"uri": scene.uri, "wire": wire});
        client.done("migrate", block);
        client.until("completed");
        // By default a stream for a QEMU is not compressed.
        let compression = client.query().get("compression").is_some();
        assert_eq!(compression, wire == "native");
        destination.finish().succeeded();
        if wire == "native" {
            assert_same(&scene.output, &scene.image);
            std::fs::remove_file(&scene.output).unwrap();
        }
    }
    quit(client, program).succeeded();
}
