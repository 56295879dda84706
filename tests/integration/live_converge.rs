//! Guests that change faster than the link carries: what is said about it, how the migration ends all
//! the same or is given up, and how the writer is slowed down.

use std::path::PathBuf;
use std::time::Duration;

use ramferry::{Caps, Params};

use crate::support::live::{Call, Churn, Own, moment, send_live};
use crate::support::{
    Destination, Folder, Page, Program, assert_same, command, mixed, params, unix, watchdog,
};

/// A guest of 1 MiB, a link on which that takes a second, and a writer that is faster.
struct Scene {
    folder: Folder,
    image: PathBuf,
    output: PathBuf,
    churn: Churn,
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let pages: Vec<Page> = (0..256).map(Page::Random).collect();
        let image = folder.image("ram", &pages);
        let output = folder.path("out");
        Scene {
            churn: Churn::start(&image, &["--rate", "20000", "--pattern", "sequential"]),
            folder,
            image,
            output,
        }
    }

    /// Both ends; the source with other arguments besides.
    fn migrate(&self, args: &[&str]) -> (crate::support::Ended, crate::support::Ended) {
        let [image, output] = [&self.image, &self.output].map(|path| path.to_str().unwrap());
        let socket = self.folder.path("socket");
        let uri = format!("unix:{}", socket.to_str().unwrap());
        let mut receive = Program::start(command(&["receive", &uri, output]));
        receive.listening();
        let pid = self.churn.pid();
        let fixed = ["send", image, &uri, "--live", "--pid", &pid];
        let slow = ["--max-bandwidth", "1MiB", "--compress-method", "none"];
        let short = ["--downtime-limit", "300ms", "--capability", "xbzrle=off"];
        let send = command(&[&fixed[..], &slow, &short, args].concat());
        (Program::start(send).finish(), receive.finish())
    }
}

/// What is promised when it does not converge.
const WORDS: [&str; 6] = [
    "the guest changes faster than it can be sent: after ",
    " pages are dirty; the guest dirties ",
    " on the wire, and the link carries ",
    "; the downtime would be ",
    ", and 300.00 ms are allowed; what would help: a downtime limit of ",
    "(auto-converge)",
];

#[test]
fn one_that_does_not_converge_is_stopped_all_the_same_and_arrives() {
    watchdog!();
    let scene = Scene::new();
    let (sent, received) = scene.migrate(&["--max-rounds", "1"]);
    sent.succeeded();
    received.succeeded();
    let note = sent.err.lines().find(|line| line.starts_with("note: "));
    let note = note.unwrap_or_else(|| panic!("no note: {sent:?}"));
    for words in WORDS {
        assert!(note.contains(words), "no {words:?} in {note:?}");
    }
    assert!(
        note.contains("after 1 rounds, which is the limit,"),
        "{note}"
    );
    assert!(
        note.ends_with("; stopping the writer all the same"),
        "{note}"
    );
    assert!(sent.err.contains("\ndowntime "), "{sent:?}");
    scene.churn.stands_still();
    scene.churn.verify(&scene.output);
    assert_same(&scene.output, &scene.image);
}

#[test]
fn one_that_does_not_converge_in_time_is_given_up_if_asked_for() {
    watchdog!();
    let scene = Scene::new();
    let (sent, received) = scene.migrate(&["--max-time", "1500ms", "--timeout-action", "abort"]);
    sent.failed_with(1, &WORDS);
    sent.failed_with(1, &["which is beyond the limit", "timeout-action is abort"]);
    received.failed_with(1, &["the guest changes faster than it can be sent"]);
    assert!(!sent.err.contains("arrived"), "{sent:?}");
    scene.churn.writes_on();
    assert!(!scene.output.exists());
    assert!(!scene.folder.path("out.partial").exists());
}

#[test]
fn a_copy_of_no_single_instant_says_so() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(256, 41));
    let churn = Churn::start(&image, &["--rate", "2000"]);
    let output = folder.path("out");
    let [image, output] = [&image, &output].map(|path| path.to_str().unwrap());
    for uri in ["socket", "stream"].map(|name| folder.path(name)) {
        let listens = uri.ends_with("socket");
        let scheme = if listens { "unix" } else { "file" };
        let uri = format!("{scheme}:{}", uri.to_str().unwrap());
        let send = || Program::start(command(&["send", image, &uri, "--live", "--fuzzy"]));
        let receive = || Program::start(command(&["receive", &uri, output, "--force"]));
        let (sent, received) = if listens {
            let mut receive = receive();
            receive.listening();
            (send().finish(), receive.finish())
        } else {
            (send().finish(), receive().finish())
        };
        sent.succeeded();
        received.succeeded();
        assert!(
            sent.err.contains("not a point-in-time snapshot"),
            "{sent:?}"
        );
        churn.writes_on();
    }
}

#[test]
fn a_fast_writer_is_slowed_down_step_by_step() {
    watchdog!();
    let folder = Folder::new();
    let pages: Vec<Page> = (0..256).map(Page::Random).collect();
    let image = folder.image("ram", &pages);
    let own = Own::start(&image, 256, Duration::from_micros(100), 8);
    let socket = unix(&folder.path("socket"));
    let output = folder.path("out");
    let destination = Destination::start(&socket, &output, Params::default());
    destination.address();
    let mut caps = Caps::default();
    caps.set("auto-converge", true).unwrap();
    caps.set("xbzrle", false).unwrap();
    let params = params(&[
        ("max-bandwidth", "4MiB"),
        ("compress-method", "none"),
        ("downtime-limit", "0"),
        ("max-rounds", "1000"),
    ]);
    let (mut hold, third) = moment();
    let writer = own.choice_that(move |call| {
        if call == Call::Throttle(40) {
            hold();
        }
        Ok(())
    });
    let source = send_live(&image, &socket, writer, caps, params);
    // Then it may end.
    third.act(|| source.change(&[("downtime-limit", "2000")]).unwrap());
    let sent = source.wait().unwrap();
    destination.handle.wait().unwrap();
    let throttles = [0, 20, 30, 40].map(Call::Throttle);
    let last = [Call::Stop, Call::Release];
    assert_eq!(own.calls(), [&throttles[..], &last].concat());
    assert_eq!(sent.cpu_throttle_percentage, Some(40));
    assert_same(&output, &image);
}

#[test]
fn one_that_cannot_be_slowed_down_is_named() {
    watchdog!();
    let scene = Scene::new();
    let (stop, resume) = scene.churn.commands();
    let [image, output] = [&scene.image, &scene.output].map(|path| path.to_str().unwrap());
    let uri = format!("unix:{}", scene.folder.path("socket").to_str().unwrap());
    let mut receive = Program::start(command(&["receive", &uri, output]));
    receive.listening();
    let commands = ["--stop-command", &stop, "--resume-command", &resume];
    let slow = ["--max-bandwidth", "4MiB", "--compress-method", "none"];
    let caps = [
        "--capability",
        "xbzrle=off",
        "--capability",
        "auto-converge=on",
    ];
    let limits = ["--downtime-limit", "0", "--max-time", "3"];
    let fixed = ["send", image, &uri, "--live"];
    let args = [&fixed[..], &commands, &slow, &caps, &limits].concat();
    let sent = Program::start(command(&args)).finish();
    sent.succeeded();
    receive.finish().succeeded();
    assert!(
        sent.err
            .contains("cannot be slowed down: auto-converge has no effect"),
        "{sent:?}"
    );
    scene.churn.verify(&scene.output);
}
