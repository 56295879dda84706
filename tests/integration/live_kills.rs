//! Live migrations by the program that are interrupted, killed, or fail for want of something: the
//! writer goes on unless Commit has left the source, and what is said is clear.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ramferry::wire::native::FrameKind;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, prlimit};

use crate::support::live::{Churn, Moment, Relay, Seen, Then, Way, moment};
use crate::support::{
    Dice, Ended, Folder, Program, assert_same, command, mixed, run, signal, until, watchdog,
};

const PAGES: usize = 256;
const OLD: &[u8] = b"what was there before";

struct Scene {
    folder: Folder,
    image: PathBuf,
    output: PathBuf,
    churn: Churn,
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let image = folder.image("ram", &mixed(PAGES, 31));
        let output = folder.path("out");
        std::fs::write(&output, OLD).unwrap();
        Scene {
            churn: Churn::start(&image, &["--rate", "3000", "--working-set", "512KiB"]),
            folder,
            image,
            output,
        }
    }

    fn receive(&self) -> Program {
        let far = format!("unix:{}", text(&self.folder.path("far")));
        let mut receive =
            Program::start(command(&["receive", &far, text(&self.output), "--force"]));
        receive.listening();
        receive
    }

    /// Three rounds, the last of which is without the writer, to `name`.
    fn send_to(&self, name: &str, args: &[&str]) -> Program {
        let to = format!("unix:{}", text(&self.folder.path(name)));
        // One guest is moved again and again here, as if its destination were gone.
        let fixed = ["send", text(&self.image), &to, "--live", "--again"];
        let rounds = ["--downtime-limit", "0", "--max-rounds", "2"];
        let batches = ["--batch-pages", "16", "--compress-method", "lz4"];
        let args = [&fixed[..], &rounds, &batches, args].concat();
        Program::start(command(&args))
    }

    fn send(&self) -> Program {
        self.send_to("near", &["--pid", &self.churn.pid()])
    }

    fn relay(&self, when: impl FnMut(&Seen) -> bool + Send + 'static) -> (Relay, Moment) {
        let (mut hold, moment) = moment();
        let (near, far) = (self.folder.path("near"), self.folder.path("far"));
        let relay = Relay::at(&near, &far, when, move || {
            hold();
            Then::Pass
        });
        (relay, moment)
    }

    /// The writer runs, nothing was touched, and another attempt works.
    #[track_caller]
    fn as_before(&self, what: &str) {
        self.churn.writes_on();
        assert_eq!(std::fs::read(&self.output).unwrap(), OLD, "{what}");
        // What was killed itself cannot clean up; the next attempt does.
        self.works(what);
    }

    #[track_caller]
    fn no_partial(&self, what: &str) {
        let partial = self.folder.path("out.partial");
        assert!(!partial.exists(), "{what}: a partial file is left");
    }

    #[track_caller]
    fn works(&self, what: &str) {
        let receive = self.receive();
        let sent = self.send_to("far", &["--pid", &self.churn.pid()]).finish();
        assert_eq!(sent.code, Some(0), "again after {what}: {sent:?}");
        receive.finish().succeeded();
        self.arrived();
        self.again();
    }

    #[track_caller]
    fn arrived(&self) {
        self.churn.stands_still();
        self.churn.verify(&self.output);
        assert_same(&self.output, &self.image);
    }

    fn again(&self) {
        std::fs::write(&self.output, OLD).unwrap();
        self.churn.resume();
    }
}

#[track_caller]
fn no_claim(ended: &Ended, what: &str) {
    for words in ["arrived", "proven, ", "completed"] {
        assert!(!ended.err.contains(words), "{what}: {ended:?}");
        assert!(!ended.out.contains(words), "{what}: {ended:?}");
    }
}

fn is(way: Way, kind: FrameKind, round: u32) -> impl FnMut(&Seen) -> bool + Send + 'static {
    move |seen| seen.way == way && seen.kind == Some(kind) && (round == 0 || seen.round == round)
}

#[test]
fn a_signal_in_each_phase_ends_it_and_the_writer_goes_on() {
    watchdog!();
    let scene = Scene::new();
    for (number, (way, kind, round)) in [
        (Way::Forth, FrameKind::Pages, 1),
        (Way::Forth, FrameKind::Pages, 2),
        (Way::Forth, FrameKind::RoundEnd, 3),
        (Way::Forth, FrameKind::Finish, 0),
        (Way::Back, FrameKind::Proven, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let number_of = [Signal::INT, Signal::TERM][number % 2];
        let what = format!("{number_of:?} at {kind:?} {round}");
        let receive = scene.receive();
        let (_relay, moment) = scene.relay(is(way, kind, round));
        let send = scene.send();
        let mut ended = None;
        // Only when the source has ended may the record pass.
        moment.act(|| {
            send.signal(number_of);
            ended = Some(send.finish());
        });
        let ended = ended.unwrap();
        ended.failed_with(130, &["interrupted"]);
        no_claim(&ended, &what);
        receive.finish().failed_with(1, &[]);
        scene.no_partial(&what);
        scene.as_before(&what);
    }
    // There is no answer yet.
    let deaf = std::os::unix::net::UnixListener::bind(scene.folder.path("deaf")).unwrap();
    let send = scene.send_to("deaf", &["--pid", &scene.churn.pid()]);
    let (_held, _) = deaf.accept().unwrap();
    send.signal(Signal::INT);
    send.finish().failed_with(130, &["interrupted"]);
    scene.as_before("SIGINT while agreeing");
}

/// How many records a migration has, about: kills are spread over them.
const RECORDS: u64 = 45;

/// Kills one of the two at the N-th record; the other's end.
fn kill_at(scene: &Scene, record: u64, kills_source: bool) -> (Ended, bool) {
    let count = Arc::new(AtomicU64::new(0));
    let receive = scene.receive();
    let (relay, moment) = scene.relay(move |_| count.fetch_add(1, Ordering::Relaxed) == record);
    let send = scene.send();
    let (victim, other) = match kills_source {
        true => (send, receive),
        false => (receive, send),
    };
    let pid = victim.pid();
    let death = std::thread::spawn(move || {
        moment.act_if_it_comes(|| {
            signal(pid, Signal::KILL);
            wait_for_end(pid);
        });
    });
    let survivor = other.finish();
    victim.finish();
    let committed = relay.saw_commit();
    // With it goes the moment, if it has not come.
    drop(relay);
    death.join().unwrap();
    (survivor, committed)
}

/// Waits until all threads of a child have ended; its main thread may have long before.
fn wait_for_end(pid: u32) {
    let pid = Pid::from_raw(pid as i32).unwrap();
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
}

/// `RAMFERRY_LIVE_SEED` repeats what failed.
fn seed() -> u64 {
    std::env::var("RAMFERRY_LIVE_SEED").map_or(4711, |text| text.parse().unwrap())
}

#[test]
fn a_source_that_is_killed_leaves_the_writer_running_unless_commit_was_written() {
    watchdog!();
    let scene = Scene::new();
    let mut dice = Dice::new(seed());
    for _ in 0..8 {
        let record = dice.below(RECORDS);
        let what = format!("seed {}: the source killed at record {record}", seed());
        let (received, committed) = kill_at(&scene, record, true);
        if committed {
            // Commit was held until the source was dead, and has arrived.
            received.succeeded();
            scene.arrived();
            scene.again();
        } else {
            assert_ne!(received.code, Some(0), "{what}: {received:?}");
            no_claim(&received, &what);
            scene.no_partial(&what);
            scene.as_before(&what);
        }
    }
}

#[test]
fn a_destination_that_is_killed_leaves_the_writer_running_unless_commit_was_written() {
    watchdog!();
    let scene = Scene::new();
    let mut dice = Dice::new(seed() + 1);
    for _ in 0..8 {
        let record = dice.below(RECORDS);
        let what = format!("seed {}: the destination killed at record {record}", seed());
        let (sent, committed) = kill_at(&scene, record, false);
        if !committed {
            sent.failed_with(1, &[]);
            no_claim(&sent, &what);
            scene.as_before(&what);
            continue;
        }
        scene.churn.stands_still();
        if sent.code == Some(5) {
            sent.failed_with(5, &["outcome unknown"]);
            assert!(
                sent.err.contains("note: the writer stays stopped"),
                "{what}: {sent:?}"
            );
        } else {
            sent.succeeded();
        }
        scene.again();
    }
}

#[test]
fn a_destination_that_is_killed_at_commit_is_an_unknown_outcome() {
    watchdog!();
    let scene = Scene::new();
    let receive = scene.receive();
    let (_relay, moment) = scene.relay(is(Way::Forth, FrameKind::Commit, 0));
    let pid = scene.churn.pid();
    let send = scene.send_to("near", &["--pid", &pid, "--json", "--quiet"]);
    moment.act(|| {
        receive.signal(Signal::KILL);
        receive.finish();
    });
    let sent = send.finish();
    let stage = "while waiting for the destination to take over";
    sent.failed_with(5, &["outcome unknown", stage]);
    assert_eq!(sent.json()["guest"], "unknown");
    // However quiet it is: that the guest runs nowhere must be known.
    assert!(
        sent.err.contains("note: the writer stays stopped"),
        "{sent:?}"
    );
    no_claim(&sent, "killed at Commit");
    scene.churn.stands_still();
    assert_eq!(std::fs::read(&scene.output).unwrap(), OLD);
    scene.churn.resume();
    scene.works("killed at Commit");
}

#[test]
fn a_writer_that_dies_on_the_way_is_named() {
    watchdog!();
    let scene = Scene::new();
    let receive = scene.receive();
    let (_relay, moment) = scene.relay(is(Way::Forth, FrameKind::Pages, 2));
    let send = scene.send();
    let pid = scene.churn.program.pid();
    moment.act(|| {
        scene.churn.program.signal(Signal::KILL);
        wait_for_end(pid);
    });
    let sent = send.finish();
    sent.failed_with(1, &[&format!("process {pid}"), "has ended"]);
    no_claim(&sent, "the writer died");
    receive.finish().failed_with(1, &[]);
    assert_eq!(std::fs::read(&scene.output).unwrap(), OLD);
    scene.no_partial("the writer died");
}

#[test]
fn a_writer_of_another_user_is_refused_before_anything_is_sent() {
    watchdog!();
    let scene = Scene::new();
    if !rustix::process::geteuid().is_root() {
        let sent = scene.send_to("far", &["--pid", "1"]).finish();
        sent.failed_with(1, &["cannot stop process 1: not permitted"]);
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    // The program and the image, as another user sees them.
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let copy = scene.folder.path("ramferry");
    std::fs::copy(env!("CARGO_BIN_EXE_ramferry"), &copy).unwrap();
    open(&copy, 0o755);
    open(copy.parent().unwrap(), 0o755);
    let mut other = Command::new(&copy);
    other.uid(65534).gid(65534).current_dir("/");
    let mut version = Command::new(&copy);
    version
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .arg("--version");
    if !version.output().is_ok_and(|said| said.status.success()) {
        eprintln!("SKIPPED: a writer of another user: no other user can run the program here");
        return;
    }
    let to = format!("unix:{}", text(&scene.folder.path("far")));
    other.args([
        "send",
        text(&scene.image),
        &to,
        "--live",
        "--pid",
        &scene.churn.pid(),
    ]);
    let sent = Program::start(other).finish();
    sent.failed_with(1, &["not permitted", &scene.churn.pid()]);
    scene.as_before("EPERM");
}

#[test]
fn a_stop_command_that_fails_or_hangs_is_named_and_the_writer_resumed() {
    watchdog!();
    let scene = Scene::new();
    let pid = scene.churn.pid();
    let resume = format!("kill -CONT {pid}");
    for (stop, words) in [
        (
            format!("kill -STOP {pid}; exit 7"),
            &["stop command", "exit status: 7"][..],
        ),
        (
            format!("kill -STOP {pid}; sleep 1000"),
            &["stop command", "did not end within 400"],
        ),
    ] {
        let receive = scene.receive();
        let commands = ["--stop-command", &stop, "--resume-command", &resume];
        let args = [&commands[..], &["--timeout", "400ms"]].concat();
        let sent = scene.send_to("far", &args).finish();
        sent.failed_with(1, words);
        no_claim(&sent, &stop);
        receive.finish().failed_with(1, &[]);
        scene.no_partial(&stop);
        scene.as_before(&stop);
    }
    // A resume command that fails too must not hide why.
    let receive = scene.receive();
    let commands = ["--stop-command", "exit 7", "--resume-command", "exit 8"];
    let sent = scene.send_to("far", &commands).finish();
    sent.failed_with(1, &["stop command", "exit status: 7"]);
    receive.finish().failed_with(1, &[]);
    scene.as_before("both commands fail");
}

#[test]
fn a_signal_while_the_stop_command_hangs_ends_it_and_the_writer_goes_on() {
    watchdog!();
    let scene = Scene::new();
    let pid = scene.churn.pid();
    let receive = scene.receive();
    let stop = format!("kill -STOP {pid}; sleep 1000");
    let resume = format!("kill -CONT {pid}");
    let send = scene.send_to(
        "far",
        &["--stop-command", &stop, "--resume-command", &resume],
    );
    until(|| scene.churn.program.is_stopped());
    send.signal(Signal::TERM);
    let sent = send.finish();
    sent.failed_with(130, &["interrupted"]);
    receive.finish().failed_with(1, &[]);
    scene.no_partial("a signal");
    scene.as_before("a signal while the stop command hangs");
}

#[test]
fn a_destination_without_space_in_a_later_round_is_named() {
    watchdog!();
    let scene = Scene::new();
    for round in [2, 3] {
        let far = format!("unix:{}", text(&scene.folder.path("far")));
        let args = ["receive", &far, text(&scene.output), "--force"];
        let mut receive = Program::start(command(&args));
        receive.listening();
        let (_relay, moment) = scene.relay(is(Way::Forth, FrameKind::RoundEnd, round - 1));
        let send = scene.send();
        moment.act(|| {
            let none = Rlimit {
                current: Some(0),
                maximum: Some(0),
            };
            let pid = Pid::from_raw(receive.pid() as i32);
            prlimit(pid, Resource::Fsize, none).unwrap();
        });
        let sent = send.finish();
        let what = format!("no space in round {round}");
        sent.failed_with(1, &["File too large"]);
        no_claim(&sent, &what);
        let received = receive.finish();
        received.failed_with(1, &["File too large", "round"]);
        no_claim(&received, &what);
        scene.no_partial(&what);
        scene.as_before(&what);
    }
}

#[test]
fn a_live_migration_that_makes_no_sense_is_refused_before_anything_is_done() {
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(16, 1));
    let to = format!("unix:{}", text(&folder.path("far")));
    let send = |args: &[&str]| run(&[&["send", text(&image), &to], args].concat());
    for (args, words) in [
        (&["--live"][..], &["--pid", "--stop-command", "--fuzzy"][..]),
        (&["--live", "--fuzzy", "--pid", "1"], &["give one of them"]),
        (&["--live", "--pid", "0"], &["cannot stop process 0"]),
        (
            &["--live", "--pid", "4194305"],
            &["cannot stop process 4194305"],
        ),
        (
            &["--live", "--fuzzy", "--then", text(&image)],
            &["no later images"],
        ),
    ] {
        send(args).failed_with(2, words);
    }
    for args in [
        &["--pid", "1"][..],
        &["--fuzzy"],
        &["--live", "--stop-command", "true"],
        &["--live", "--resume-command", "true"],
    ] {
        assert_eq!(send(args).code, Some(2), "{args:?}");
    }
}
