//! What goes wrong while a guest is written: whatever it is, before Commit the writer goes on, OUTPUT
//! is as it was, and a second attempt works; from Commit on this side does not resume the writer, and
//! the source says that it does not know.

use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ramferry::source::WriterChoice;
use ramferry::transport::Address;
use ramferry::wire::Format;
use ramferry::wire::native::FrameKind;
use ramferry::{Caps, Error, Kind, Migration, Params};

use crate::support::live::{
    Call, Moment, Own, Relay, Seen, Then, Way, moment, send_live, send_live_as,
};
use crate::support::{Destination, Folder, assert_same, mixed, params, unix, watchdog};

const PAGES: usize = 256;
const OLD: &[u8] = b"what was there before";

/// Rounds 1 and 2 while the writer runs, and round 3 while it does not.
const LAST_ROUND: u32 = 3;

fn three_rounds() -> Params {
    params(&[
        ("downtime-limit", "0"),
        ("max-rounds", "2"),
        ("batch-pages", "16"),
        ("compress-method", "lz4"),
        // The source waits for its turn meanwhile, so that the writer has changed pages by round 2.
        ("max-bandwidth", "8MiB"),
    ])
}

struct Scene {
    folder: Folder,
    image: PathBuf,
    output: PathBuf,
    own: Own,
}

/// What became of a migration.
struct Ended {
    source: Result<(), Error>,
    destination: Option<Result<(), Error>>,
    notices: Vec<String>,
    saw_commit: bool,
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let image = folder.image("ram", &mixed(PAGES, 21));
        let output = folder.path("out");
        std::fs::write(&output, OLD).unwrap();
        Scene {
            own: Own::start(&image, 128, Duration::from_micros(100), 3),
            folder,
            image,
            output,
        }
    }

    fn far(&self) -> PathBuf {
        self.folder.path("far")
    }

    fn near(&self) -> PathBuf {
        self.folder.path("near")
    }

    fn destination(&self) -> Destination {
        let destination = Destination::start(&unix(&self.far()), &self.output, Params::default());
        destination.address();
        destination
    }

    fn source(&self, address: &Address, writer: WriterChoice) -> Migration {
        send_live(
            &self.image,
            address,
            writer,
            Caps::default(),
            three_rounds(),
        )
    }

    /// Over a relay, which calls `act` when the record comes that is meant.
    fn over_a_relay(
        &self,
        when: impl FnMut(&Seen) -> bool + Send + 'static,
        act: impl FnMut() -> Then + Send + 'static,
        during: impl FnOnce(&Migration, &Destination),
    ) -> Ended {
        let destination = self.destination();
        let relay = Relay::at(&self.near(), &self.far(), when, act);
        let source = self.source(&unix(&self.near()), self.own.choice());
        during(&source, &destination);
        let outcome = source.join();
        // One that was never greeted listens for another source.
        let greeted = destination.handle.query().ram_bytes > 0;
        if !greeted {
            destination.handle.cancel();
        }
        let ended = destination.handle.join();
        Ended {
            source: outcome,
            destination: greeted.then_some(ended),
            notices: source.query().notices,
            saw_commit: relay.saw_commit(),
        }
    }

    /// The writer runs, nothing was touched, and another attempt works.
    #[track_caller]
    fn as_before(&self, what: &str) {
        assert!(!self.own.is_paused(), "{what}: {:?}", self.own.calls());
        assert!(!self.own.calls().contains(&Call::Release), "{what}");
        self.own.writes_on();
        assert_eq!(std::fs::read(&self.output).unwrap(), OLD, "{what}");
        self.no_partial(what);
        self.works(what);
    }

    #[track_caller]
    fn no_partial(&self, what: &str) {
        assert!(
            !self.folder.path("out.partial").exists(),
            "{what}: a partial file"
        );
    }

    /// A migration without faults, after which all is as before.
    #[track_caller]
    fn works(&self, what: &str) {
        let destination = self.destination();
        self.source(&unix(&self.far()), self.own.choice())
            .wait()
            .unwrap_or_else(|error| panic!("again after {what}: {}", error.one_line()));
        destination.handle.wait().unwrap();
        assert_same(&self.output, &self.image);
        self.again();
    }

    fn again(&self) {
        std::fs::write(&self.output, OLD).unwrap();
        self.own.start_again();
    }
}

/// A place in a migration's course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(Way, Option<FrameKind>, u32);

impl Place {
    fn is(self, seen: &Seen) -> bool {
        let Place(way, kind, round) = self;
        seen.way == way && seen.kind == kind && (round == 0 || seen.round == round)
    }
}

/// Whether it says that this side does not resume the writer.
fn says_stopped(notices: &[String]) -> bool {
    (notices.iter()).any(|note| note.contains("the writer stays stopped"))
}

/// Each message of the course, in its order, up to Commit.
fn before_commit() -> [Place; 8] {
    [
        Place(Way::Forth, None, 0),
        Place(Way::Back, None, 0),
        Place(Way::Forth, Some(FrameKind::Pages), 1),
        Place(Way::Forth, Some(FrameKind::Pages), 2),
        Place(Way::Forth, Some(FrameKind::RoundEnd), 2),
        Place(Way::Forth, Some(FrameKind::RoundEnd), LAST_ROUND),
        Place(Way::Forth, Some(FrameKind::Finish), 0),
        Place(Way::Back, Some(FrameKind::Proven), 0),
    ]
}

#[test]
fn a_cut_before_commit_leaves_the_writer_running() {
    watchdog!();
    let scene = Scene::new();
    for place in before_commit() {
        let what = format!("a cut at {place:?}");
        let ended = scene.over_a_relay(move |seen| place.is(seen), || Then::Cut, |_, _| {});
        let error = ended.source.expect_err(&what);
        assert_eq!(error.kind(), Kind::Failed, "{what}: {}", error.one_line());
        if let Some(outcome) = ended.destination {
            outcome.expect_err(&what);
        }
        assert!(!ended.saw_commit, "{what}");
        assert!(!says_stopped(&ended.notices), "{what}");
        scene.as_before(&what);
    }
}

#[test]
fn a_cut_from_commit_on_leaves_the_writer_stopped_and_the_outcome_unknown() {
    watchdog!();
    let scene = Scene::new();
    for (place, arrived) in [
        (Place(Way::Forth, Some(FrameKind::Commit), 0), false),
        (Place(Way::Back, Some(FrameKind::Committed), 0), true),
    ] {
        let what = format!("a cut at {place:?}");
        let ended = scene.over_a_relay(move |seen| place.is(seen), || Then::Cut, |_, _| {});
        let error = ended.source.expect_err(&what);
        assert_eq!(error.kind(), Kind::OutcomeUnknown, "{what}");
        assert!(error.one_line().contains("outcome unknown"), "{what}");
        assert!(says_stopped(&ended.notices), "{what}");
        assert!(scene.own.is_paused(), "{what}");
        assert_eq!(scene.own.calls(), [Call::Stop, Call::Release], "{what}");
        assert_eq!(ended.destination.unwrap().is_ok(), arrived, "{what}");
        if arrived {
            assert_same(&scene.output, &scene.image);
        } else {
            assert_eq!(std::fs::read(&scene.output).unwrap(), OLD);
        }
        scene.no_partial(&what);
        scene.again();
        scene.works(&what);
    }
}

/// Cancels when `moment` comes.
fn cancel_at(moment: Moment, by_source: bool) -> impl FnOnce(&Migration, &Destination) {
    move |source, destination| {
        let handle = if by_source {
            source
        } else {
            &destination.handle
        };
        moment.act(|| handle.cancel());
    }
}

#[test]
fn a_cancel_on_either_side_before_the_proof_is_out_leaves_the_writer_running() {
    watchdog!();
    let scene = Scene::new();
    for by_source in [true, false] {
        // Until it has read a greeting, a destination that is cancelled leaves the source waiting.
        for place in before_commit().into_iter().skip(2) {
            let what = format!("a cancel at {place:?}, by the source: {by_source}");
            let (mut hold, moment) = moment();
            let ended = scene.over_a_relay(
                move |seen| place.is(seen),
                move || {
                    hold();
                    Then::Pass
                },
                cancel_at(moment, by_source),
            );
            if !by_source && place.1 == Some(FrameKind::Proven) {
                // The source has Proven before it hears of a cancel, so the destination waits for it.
                assert!(ended.source.is_ok() && scene.own.is_paused(), "{what}");
                ended.destination.unwrap().expect(&what);
                assert_same(&scene.output, &scene.image);
                scene.again();
                continue;
            }
            let error = ended.source.expect_err(&what);
            let (mine, other) = (error.kind(), ended.destination.unwrap().expect_err(&what));
            let interrupted = if by_source { mine } else { other.kind() };
            assert_eq!(
                interrupted,
                Kind::Interrupted,
                "{what}: {}",
                error.one_line()
            );
            assert!(!ended.saw_commit, "{what}");
            scene.as_before(&what);
        }
    }
}

#[test]
fn a_cancel_after_commit_waits_for_the_answer_and_changes_nothing() {
    watchdog!();
    let scene = Scene::new();
    for kind in [FrameKind::Commit, FrameKind::Committed] {
        let (mut hold, moment) = moment();
        let ended = scene.over_a_relay(
            move |seen| seen.kind == Some(kind),
            move || {
                hold();
                Then::Pass
            },
            cancel_at(moment, true),
        );
        ended.source.unwrap();
        assert!(scene.own.is_paused());
        ended.destination.unwrap().unwrap();
        assert_same(&scene.output, &scene.image);
        scene.again();
    }
}

#[test]
fn a_cancel_while_a_command_has_the_whole_stream_waits_for_its_exit_code() {
    watchdog!();
    let scene = Scene::new();
    let [reached, go_on] = ["reached", "go-on"].map(|name| {
        let path = scene.folder.path(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        path
    });
    for code in [0, 3] {
        let command = format!(
            "cat >/dev/null; echo >{}; read line <{}; exit {code}",
            reached.display(),
            go_on.display()
        );
        let source = scene.source(&Address::Exec(command), scene.own.choice());
        std::fs::read(&reached).unwrap();
        source.cancel();
        std::fs::write(&go_on, "go\n").unwrap();
        let outcome = source.wait();
        assert_eq!(outcome.is_ok(), code == 0, "{outcome:?}");
        assert_eq!(scene.own.is_paused(), code == 0);
        scene.own.start_again();
    }
}

#[test]
fn a_cancel_while_connecting_or_agreeing_never_touches_the_writer() {
    watchdog!();
    let scene = Scene::new();
    // It accepts, and says nothing.
    let deaf = UnixListener::bind(scene.near()).unwrap();
    let source = scene.source(&unix(&scene.near()), scene.own.choice());
    let (_held, _) = deaf.accept().unwrap();
    source.cancel();
    assert_eq!(source.wait().unwrap_err().kind(), Kind::Interrupted);
    assert_eq!(scene.own.calls(), []);
    scene.as_before("a cancel while agreeing");
    // There is no listener.
    let error = scene
        .source(&unix(&scene.folder.path("nothing")), scene.own.choice())
        .wait()
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert_eq!(scene.own.calls(), []);
    scene.as_before("no listener");
}

#[test]
fn a_cancel_while_the_writer_is_being_stopped_resumes_it() {
    watchdog!();
    let scene = Scene::new();
    let destination = scene.destination();
    let (mut hold, moment) = moment();
    let writer = scene.own.choice_that(move |call| {
        if call == Call::Stop {
            hold();
        }
        Ok(())
    });
    let source = scene.source(&unix(&scene.far()), writer);
    moment.act(|| source.cancel());
    assert_eq!(source.wait().unwrap_err().kind(), Kind::Interrupted);
    destination.handle.wait().unwrap_err();
    assert_eq!(scene.own.calls(), [Call::Stop, Call::Resume]);
    scene.as_before("a cancel during the stop");
}

#[test]
fn a_writer_that_cannot_be_stopped_or_panics_runs_on() {
    watchdog!();
    let scene = Scene::new();
    for panics in [false, true] {
        let destination = scene.destination();
        let writer = scene.own.choice_that(move |call| match call {
            Call::Stop if panics => panic!("on purpose"),
            Call::Stop => Err(Error::new(Kind::Failed, "it will not")),
            _ => Ok(()),
        });
        let source = scene.source(&unix(&scene.far()), writer);
        let error = source.wait().unwrap_err();
        let words = if panics { "on purpose" } else { "it will not" };
        assert!(error.one_line().contains(words), "{}", error.one_line());
        destination.handle.wait().unwrap_err();
        scene.as_before(words);
    }
}

#[test]
fn the_order_is_stop_last_round_proof_release_commit() {
    watchdog!();
    let scene = Scene::new();
    let (tell, course) = mpsc::channel();
    let (relay_tells, writer_tells) = (tell.clone(), tell);
    let destination = scene.destination();
    let _relay = Relay::start(&scene.near(), &scene.far(), move |seen| {
        let kind = seen.kind.filter(|kind| *kind != FrameKind::Pages);
        if let Some(kind) = kind {
            let _ = relay_tells.send(format!("{kind:?} {}", seen.round));
        }
        Then::Pass
    });
    let writer = scene.own.choice_that(move |call| {
        let _ = writer_tells.send(format!("{call:?}"));
        Ok(())
    });
    scene.source(&unix(&scene.near()), writer).wait().unwrap();
    destination.handle.wait().unwrap();
    let course: Vec<String> = course.try_iter().collect();
    let at = |word: &str| {
        let found = course.iter().position(|told| told == word);
        found.unwrap_or_else(|| panic!("no {word} in {course:?}"))
    };
    let order = [
        "RoundEnd 1",
        "Stop",
        "RoundEnd 3",
        "Finish 0",
        "Proven 0",
        "Release",
        "Commit 0",
        "Committed 0",
    ];
    assert!(order.is_sorted_by_key(|word| at(word)), "{course:?}");
}

#[test]
fn on_the_qemu_wire_too_only_the_answer_counts_once_the_writer_was_let_go() {
    watchdog!();
    let scene = Scene::new();
    for cancels in [false, true] {
        let _ = std::fs::remove_file(scene.near());
        let listener = UnixListener::bind(scene.near()).unwrap();
        let (mut hold, moment) = moment();
        let writer = scene.own.choice_that(move |call| {
            if call == Call::Release {
                hold();
            }
            Ok(())
        });
        let mut params = three_rounds();
        params.set_text("compress-method", "none").unwrap();
        let (caps, to) = (Caps::for_qemu(), unix(&scene.near()));
        let source = send_live_as(Format::Qemu, &scene.image, &to, writer, caps, params);
        let (peer, _) = listener.accept().unwrap();
        // The return path is alive: PONG 1, as QEMU answers.
        std::io::Write::write_all(&mut &peer, &[0, 2, 0, 4, 0, 0, 0, 1]).unwrap();
        let reading = peer.try_clone().unwrap();
        let reader = thread::spawn(move || std::io::copy(&mut &reading, &mut std::io::sink()));
        moment.act(|| match cancels {
            true => {
                source.cancel();
                // SHUT 0: the guest is loaded.
                std::io::Write::write_all(&mut &peer, &[0, 1, 0, 4, 0, 0, 0, 0]).unwrap();
            }
            false => peer.shutdown(Shutdown::Both).unwrap(),
        });
        match source.join() {
            Ok(()) => assert!(cancels),
            Err(error) => {
                assert!(!cancels, "{}", error.one_line());
                assert_eq!(error.kind(), Kind::OutcomeUnknown, "{}", error.one_line());
                assert!(says_stopped(&source.query().notices));
            }
        }
        assert!(scene.own.is_paused());
        drop(source);
        reader.join().unwrap().unwrap();
        scene.again();
    }
}

// ---- the image

#[test]
fn an_image_that_is_cut_short_in_any_round_is_an_error() {
    watchdog!();
    for round in [1, 2, LAST_ROUND] {
        let scene = Scene::new();
        let (image, own) = (scene.image.clone(), &scene.own);
        let whole = std::fs::read(&image).unwrap().len() as u64;
        let cut = move || {
            let file = std::fs::File::options().write(true).open(&image).unwrap();
            // Beyond what the writer writes, which would make it whole again.
            file.set_len(whole / 2 + 4096).unwrap();
            Then::Pass
        };
        let kind = if round == 1 {
            FrameKind::Pages
        } else {
            FrameKind::RoundEnd
        };
        let before = round.max(2) - 1;
        let place = Place(Way::Forth, Some(kind), before);
        let ended = if round == LAST_ROUND {
            let destination = scene.destination();
            let writer = own.choice_that(move |call| {
                if call == Call::Stop {
                    cut();
                }
                Ok(())
            });
            let outcome = scene.source(&unix(&scene.far()), writer).wait();
            Ended {
                source: outcome.map(drop),
                destination: Some(destination.handle.wait().map(drop)),
                notices: Vec::new(),
                saw_commit: false,
            }
        } else {
            scene.over_a_relay(move |seen| place.is(seen), cut, |_, _| {})
        };
        let error = ended.source.expect_err("it was cut short");
        assert_eq!(error.kind(), Kind::Failed);
        assert!(error.one_line().contains("ram"), "{}", error.one_line());
        ended.destination.unwrap().unwrap_err();
        assert!(!ended.saw_commit);
        own.writes_on();
        assert_eq!(std::fs::read(&scene.output).unwrap(), OLD);
        scene.no_partial("cut short");
        let file = std::fs::File::options()
            .write(true)
            .open(&scene.image)
            .unwrap();
        file.set_len(whole).unwrap();
        scene.works("cut short");
    }
}

#[test]
fn an_image_whose_name_goes_to_another_file_before_the_last_round_fails_by_name() {
    watchdog!();
    let scene = Scene::new();
    let other = scene.folder.image("other", &mixed(PAGES, 99));
    let image = scene.image.clone();
    let place = Place(Way::Forth, Some(FrameKind::RoundEnd), 1);
    let ended = scene.over_a_relay(
        move |seen| place.is(seen),
        move || {
            std::fs::rename(&other, &image).unwrap();
            Then::Pass
        },
        |_, _| {},
    );
    let line = ended.source.unwrap_err().one_line();
    assert!(line.contains("was replaced by another file"), "{line}");
    let line = ended.destination.unwrap().unwrap_err().one_line();
    assert!(line.contains("was replaced by another file"), "{line}");
}
