//! A migration as its owner controls it: events in order, a wait before the switchover that ends in
//! every way, a cache that changes its size meanwhile, and one controller with one migration at a
//! time.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ramferry::control::{Control, ControlError, Controller, ReceiveBuilder, RunState, SendBuilder};
use ramferry::params::{TypedParam, TypedValue};
use ramferry::source::Live;
use ramferry::stats::{Event, Status};
use ramferry::transport::Address;
use ramferry::wire::Format;
use ramferry::{Caps, Kind, Migration, Params, Settings};

use crate::support::live::{Call, Own};
use crate::support::{
    Destination, Folder, assert_same, later, mixed, params, unix, until, watchdog,
};

const PAUSE: &str = "pause-before-switchover";

/// A guest in three states, and where it goes.
struct Scene {
    folder: Folder,
    states: Vec<PathBuf>,
    output: PathBuf,
    socket: Address,
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let first = mixed(1024, 5);
        let second = later(&first, 6);
        Scene {
            states: vec![
                folder.image("t0", &first),
                folder.image("t1", &second),
                folder.image("t2", &later(&second, 7)),
            ],
            output: folder.path("out"),
            socket: unix(&folder.path("socket")),
            folder,
        }
    }

    fn destination(&self) -> Destination {
        let destination = Destination::start(&self.socket, &self.output, Params::default());
        destination.address();
        destination
    }

    fn send(&self, caps: Caps) -> SendBuilder {
        Migration::send(&self.states[0])
            .to(self.socket.clone())
            .then(&self.states[1..])
            .settings(Settings::new(Params::default(), caps))
    }

    fn receive(&self) -> ReceiveBuilder {
        Migration::receive(&self.output).from(self.socket.clone())
    }

    /// The first state, while it is being written.
    fn live(&self, writer: &Own, caps: Caps) -> SendBuilder {
        let live = Live::new(writer.choice());
        self.send(caps).then([""; 0]).live(live)
    }

    fn writer(&self) -> Own {
        Own::start(&self.states[0], 64, Duration::from_millis(1), 3)
    }
}

fn caps_for(format: Format) -> Caps {
    match format {
        Format::Qemu => Caps::for_qemu(),
        _ => Caps::default(),
    }
}

fn pausing() -> Caps {
    let mut caps = Caps::default();
    caps.set(PAUSE, true).unwrap();
    caps
}

/// A source whose events are noted.
fn observed(send: SendBuilder, params: Params) -> (Migration, Receiver<Event>) {
    let (sender, events) = mpsc::channel();
    let sender = Mutex::new(sender);
    let observer = move |event| {
        let _ = sender.lock().unwrap().send(event);
    };
    let handle = send.params(params).on_event(observer).start().unwrap();
    (handle, events)
}

fn wait_for(handle: &Migration, status: Status) {
    until(|| handle.query().status == status);
}

#[test]
fn every_state_and_round_is_reported_once_and_in_order() {
    watchdog!();
    let scene = Scene::new();
    let destination = scene.destination();
    let (source, events) = observed(scene.send(Caps::default()), Params::default());
    source.wait().unwrap();
    destination.handle.wait().unwrap();
    assert_eq!(
        events.iter().collect::<Vec<_>>(),
        [
            Event::Migration(Status::Setup),
            Event::Pass(1),
            Event::Migration(Status::Active),
            Event::Pass(2),
            Event::Pass(3),
            Event::Migration(Status::Device),
            Event::Migration(Status::Completed),
        ]
    );
}

#[test]
fn a_stop_of_the_writer_is_reported_before_the_last_round() {
    watchdog!();
    let scene = Scene::new();
    let (destination, writer) = (scene.destination(), scene.writer());
    let settings = params(&[("downtime-limit", "0"), ("max-rounds", "2")]);
    let (source, events) = observed(scene.live(&writer, Caps::default()), settings);
    source.wait().unwrap();
    destination.handle.wait().unwrap();
    let events: Vec<Event> = events.iter().collect();
    let at = |event| events.iter().position(|seen| *seen == event).unwrap();
    assert_eq!(at(Event::Stop) + 1, at(Event::Pass(3)));
    assert!(!events.contains(&Event::Resume));
    assert_same(&scene.output, &scene.states[0]);
}

#[test]
fn with_the_writer_stopped_it_waits_for_leave_and_then_arrives() {
    watchdog!();
    for format in [Format::Native, Format::Qemu] {
        let scene = Scene::new();
        let (destination, writer) = (scene.destination(), scene.writer());
        let mut caps = caps_for(format);
        caps.set(PAUSE, true).unwrap();
        let send = scene.live(&writer, caps).format(format);
        let (source, events) = observed(send, Params::default());
        wait_for(&source, Status::PreSwitchover);
        assert!(writer.is_paused());
        source.proceed().unwrap();
        source.wait().unwrap();
        destination.handle.wait().unwrap();
        let output = match format {
            Format::Qemu => scene.output.join("pc.ram"),
            _ => scene.output.clone(),
        };
        assert_same(&output, &scene.states[0]);
        let states: Vec<Event> = events.iter().collect();
        let after = states
            .iter()
            .skip_while(|event| **event != Event::Stop)
            .filter(|event| !matches!(event, Event::Pass(_)));
        assert_eq!(
            after.copied().collect::<Vec<_>>(),
            [
                Event::Stop,
                Event::Migration(Status::PreSwitchover),
                Event::Migration(Status::Device),
                Event::Migration(Status::Completed),
            ]
        );
    }
}

#[test]
fn one_that_waits_for_leave_can_be_cancelled_and_its_writer_goes_on() {
    watchdog!();
    let scene = Scene::new();
    let (destination, writer) = (scene.destination(), scene.writer());
    let (source, events) = observed(scene.live(&writer, pausing()), Params::default());
    wait_for(&source, Status::PreSwitchover);
    source.cancel();
    assert_eq!(source.join().unwrap_err().kind(), Kind::Interrupted);
    assert_eq!(source.query().status, Status::Cancelled);
    drop(source);
    destination.handle.wait().unwrap_err();
    assert!(!scene.output.exists());
    writer.writes_on();
    let seen: Vec<Event> = events.iter().collect();
    assert_eq!(
        seen[seen.len() - 3..],
        [
            Event::Migration(Status::Cancelling),
            Event::Resume,
            Event::Migration(Status::Cancelled),
        ]
    );
    assert_eq!(writer.calls(), [Call::Stop, Call::Resume]);
}

#[test]
fn one_that_waits_for_leave_hears_when_the_destination_gives_up() {
    watchdog!();
    let scene = Scene::new();
    let destination = scene.destination();
    let (source, _) = observed(scene.send(pausing()), Params::default());
    wait_for(&source, Status::PreSwitchover);
    destination.handle.cancel();
    destination.handle.wait().unwrap_err();
    assert!(source.wait().is_err());
    assert_eq!(scene.folder.names(), ["t0", "t1", "t2"]);
}

#[test]
fn only_one_that_waits_can_be_let_go_on() {
    watchdog!();
    let scene = Scene::new();
    let destination = scene.destination();
    let slowly = params(&[("max-bandwidth", "64KiB")]);
    let (source, _) = observed(scene.send(pausing()), slowly);
    wait_for(&source, Status::Active);
    let early = source.proceed().unwrap_err();
    let words = "Migration not in expected state: active";
    assert_eq!(
        (early.kind(), early.to_string().as_str()),
        (Kind::Usage, words)
    );
    // That it was too early does not open the gate for later.
    source.change(&[("max-bandwidth", "0")]).unwrap();
    wait_for(&source, Status::PreSwitchover);
    source.proceed().unwrap();
    source.wait().unwrap();
    destination.handle.wait().unwrap();
    assert_same(&scene.output, &scene.states[2]);
}

#[test]
fn a_cache_that_changes_its_size_meanwhile_makes_no_difference_to_what_arrives() {
    watchdog!();
    for format in [Format::Native, Format::Qemu] {
        let scene = Scene::new();
        let destination = scene.destination();
        let send = scene.send(caps_for(format)).format(format);
        let slowly = params(&[("max-bandwidth", "4MiB"), ("batch-pages", "4")]);
        let (source, _) = observed(send, slowly);
        // First such that all of the guest fits, so that there is something to lose.
        let mut sizes = ["16MiB", "8MiB"].iter().cycle();
        while source.query().round < 2 && !source.ends_within(Duration::from_millis(2)) {
            let size = sizes.next().unwrap();
            source.change(&[("xbzrle-cache-size", size)]).unwrap();
        }
        let mut sizes = ["2MiB", "16MiB", "1MiB", "32MiB"].iter().cycle();
        while !source.ends_within(Duration::from_millis(2)) {
            let size = sizes.next().unwrap();
            source.change(&[("xbzrle-cache-size", size)]).unwrap();
        }
        let report = source.wait().unwrap();
        assert!(report.xbzrle_cache.unwrap().pages > 0);
        destination.handle.wait().unwrap();
        let output = match format {
            Format::Qemu => scene.output.join("pc.ram"),
            _ => scene.output.clone(),
        };
        assert_same(&output, &scene.states[2]);
    }
}

fn typed(name: &str, value: TypedValue) -> [TypedParam; 1] {
    [TypedParam::new(name, value)]
}

#[test]
fn a_controller_has_one_migration_at_a_time_and_keeps_settings_for_the_next() {
    watchdog!();
    let scene = Scene::new();
    let controller = Controller::default();
    assert!(controller.report().is_none());
    assert_eq!(controller.run_state(), RunState::Paused);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    controller.observe(Box::new(move |event| notes.lock().unwrap().push(event)));
    controller
        .set_params(&typed("max-bandwidth", TypedValue::Ullong(65536)))
        .unwrap();

    let destination = scene.destination();
    controller.migrate(scene.send(Caps::default())).unwrap();
    until(|| controller.report().unwrap().status == Status::Active);
    let busy = [
        controller.migrate(scene.send(Caps::default())),
        controller.receive(scene.receive()),
        controller.set_caps(&[("xbzrle".to_owned(), false)]),
    ];
    for outcome in busy {
        let error = outcome.unwrap_err();
        assert_eq!(error.cause(), Some(&ControlError::InProgress), "{error}");
    }
    let refused = controller.set_params(&[
        TypedParam::new("compress-level", TypedValue::Int(9)),
        TypedParam::new("connections", TypedValue::Int(2)),
    ]);
    assert!(refused.unwrap_err().to_string().contains("connections"));
    assert_eq!(controller.params().compress_level, 1, "all or none");
    controller
        .set_params(&typed("compress-level", TypedValue::Int(9)))
        .unwrap();
    assert_eq!(controller.report().unwrap().level, Some(9));

    controller.cancel();
    let handle = controller.migration().unwrap();
    assert_eq!(handle.join().unwrap_err().kind(), Kind::Interrupted);
    destination.handle.wait().unwrap_err();
    let report = controller.report().unwrap();
    assert_eq!(report.status, Status::Cancelled);
    controller.cancel();

    controller
        .set_params(&[
            TypedParam::new("max-bandwidth", TypedValue::Ullong(0)),
            TypedParam::new("connections", TypedValue::Int(2)),
        ])
        .unwrap();
    controller
        .set_caps(&[("xbzrle".to_owned(), false)])
        .unwrap();
    let destination = scene.destination();
    controller.migrate(scene.send(Caps::default())).unwrap();
    controller.migration().unwrap().join().unwrap();
    destination.handle.wait().unwrap();
    let report = controller.report().unwrap();
    assert_eq!((report.level, report.connections), (Some(9), 2));
    assert!(
        report.xbzrle_cache.is_none(),
        "the controller's settings count"
    );
    assert_eq!(controller.run_state(), RunState::PostMigrate);
    assert_same(&scene.output, &scene.states[2]);

    let seen = seen.lock().unwrap();
    let is_end = |event: &&Event| matches!(event, Event::Migration(status) if !status.is_running());
    let ends: Vec<&Event> = seen.iter().filter(is_end).collect();
    assert_eq!(
        ends,
        [
            &Event::Migration(Status::Cancelled),
            &Event::Migration(Status::Completed)
        ]
    );
}

#[test]
fn a_controller_reports_the_state_of_the_guest() {
    watchdog!();
    let scene = Scene::new();
    let writer = scene.writer();
    let (source, destination) = (Controller::default(), Controller::default());
    let (listening, listens) = mpsc::channel();
    destination
        .receive(
            (scene.receive())
                .on_listening(move |_| listening.send(()).unwrap())
                .on_dropped(|line| panic!("{line}")),
        )
        .unwrap();
    assert_eq!(destination.run_state(), RunState::InMigrate);
    listens.recv().unwrap();

    source.set_caps(&[(PAUSE.to_owned(), true)]).unwrap();
    assert_eq!(
        source
            .proceed(Status::PreSwitchover)
            .unwrap_err()
            .to_string(),
        "Migration not in expected state: none"
    );
    source
        .migrate(scene.live(&writer, Caps::default()))
        .unwrap();
    assert!(matches!(
        source.run_state(),
        RunState::Running | RunState::FinishMigrate
    ));
    until(|| source.report().unwrap().status == Status::PreSwitchover);
    assert_eq!(source.run_state(), RunState::FinishMigrate);
    source.proceed(Status::PreSwitchover).unwrap();
    source.migration().unwrap().join().unwrap();
    destination.migration().unwrap().join().unwrap();
    assert_eq!(source.run_state(), RunState::PostMigrate);
    assert_eq!(destination.run_state(), RunState::Paused);
    assert_same(&scene.output, &scene.states[0]);
}

#[test]
fn to_quit_cancels_what_runs() {
    watchdog!();
    let scene = Scene::new();
    let controller = Controller::default();
    controller.receive(scene.receive()).unwrap();
    controller.quit();
    controller.wait_for_quit();
    let handle = controller.migration().unwrap();
    assert_eq!(handle.join().unwrap_err().kind(), Kind::Interrupted);
}
