//! Many short live migrations in a row, each with settings and faults at random: none hangs, what
//! arrives is what the writer left, and the writer is as it was promised.
//!
//! `RAMFERRY_LIVE_SEED` sets the seed, which every failure names. `RAMFERRY_LIVE_RUNS` sets how many
//! there are in each of three tests; the default makes 300 of them.

use std::path::PathBuf;
use std::time::Duration;

use ramferry::codec::Method;
use ramferry::source::WriterChoice;
use ramferry::writer::churn::Pattern;
use ramferry::{Caps, Error, Kind, Params};

use crate::support::live::{Call, Churn, Own, Relay, Then, moment, send_live};
use crate::support::{Destination, Dice, Folder, assert_same, mixed, params, unix, watchdog};

const PAGES: u64 = 128;
const OLD: &[u8] = b"what was there before";
/// Records that a migration has, about.
const RECORDS: u64 = 24;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Who writes: this process or another one.
enum Writing {
    Own(Own),
    Churn(Churn),
}

impl Writing {
    fn choice(&self, refuses: bool) -> WriterChoice {
        match self {
            Writing::Own(own) => own.choice_that(move |call| match call {
                Call::Stop if refuses => Err(Error::new(Kind::Failed, "it will not")),
                _ => Ok(()),
            }),
            Writing::Churn(churn) => churn.by_pid(),
        }
    }

    fn is_stopped(&self) -> bool {
        match self {
            Writing::Own(own) => own.is_paused(),
            Writing::Churn(churn) => churn.program.is_stopped(),
        }
    }

    fn writes_on(&self) {
        match self {
            Writing::Own(own) => own.writes_on(),
            Writing::Churn(churn) => churn.writes_on(),
        }
    }

    fn start_again(&self) {
        match self {
            Writing::Own(own) => own.start_again(),
            Writing::Churn(churn) => churn.resume(),
        }
    }
}

/// What is done at a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Cut,
    CancelSource,
    CancelDestination,
    /// The writer does not let itself be stopped, if it is ours.
    Refusal,
}

struct Scene {
    folder: Folder,
    image: PathBuf,
    output: PathBuf,
    writing: Writing,
}

impl Scene {
    fn new(seed: u64, start: impl FnOnce(&std::path::Path) -> Writing) -> Scene {
        let folder = Folder::new();
        let image = folder.image("ram", &mixed(PAGES as usize, seed));
        let output = folder.path("out");
        std::fs::write(&output, OLD).unwrap();
        Scene {
            writing: start(&image),
            folder,
            image,
            output,
        }
    }

    fn run(&self, dice: &mut Dice, what: &str) {
        let (caps, settings) = settings(dice);
        let fault = match dice.below(8) {
            0 | 1 => Fault::Cut,
            2 => Fault::CancelSource,
            3 => Fault::CancelDestination,
            4 if matches!(self.writing, Writing::Own(_)) => Fault::Refusal,
            _ => Fault::None,
        };
        let record = dice.below(RECORDS);
        let what = format!("{what}: {fault:?} at {record}, {settings:?}");
        let (near, far) = (self.folder.path("near"), self.folder.path("far"));
        let destination = Destination::start(&unix(&far), &self.output, Params::default());
        destination.address();
        let (mut hold, comes) = moment();
        let mut number = 0;
        let when = move |_: &_| {
            number += 1;
            number == record + 1
        };
        let relay = Relay::at(&near, &far, when, move || {
            hold();
            match fault {
                Fault::Cut => Then::Cut,
                _ => Then::Pass,
            }
        });
        let source = send_live(
            &self.image,
            &unix(&near),
            self.writing.choice(fault == Fault::Refusal),
            caps,
            settings,
        );
        let (by_source, by_destination) = (source.canceller(), destination.handle.canceller());
        let canceller = std::thread::spawn(move || {
            comes.act_if_it_comes(|| match fault {
                Fault::CancelSource => by_source(),
                Fault::CancelDestination => by_destination(),
                _ => {}
            });
        });
        let sent = source.join();
        if destination.handle.query().ram_bytes == 0 {
            // It was not greeted, and listens on.
            destination.handle.cancel();
        }
        let received = destination.handle.join();
        let notices = source.query().notices;
        let committed = relay.saw_commit();
        // With it goes the moment, if it has not come.
        drop(relay);
        canceller.join().unwrap();
        self.check(&what, (sent, received), committed, &notices);
    }

    fn check(
        &self,
        what: &str,
        (sent, received): (Result<(), Error>, Result<(), Error>),
        committed: bool,
        notices: &[String],
    ) {
        let said = |outcome: &Result<(), Error>| {
            (outcome.as_ref().err()).map_or("it worked".to_owned(), Error::one_line)
        };
        let what = format!(
            "{what}: sent: {}, received: {}",
            said(&sent),
            said(&received)
        );
        assert!(!self.folder.path("out.partial").exists(), "{what}");
        if received.is_ok() {
            assert!(committed, "{what}");
            assert!(self.writing.is_stopped(), "{what}");
            if let Writing::Churn(churn) = &self.writing {
                churn.verify(&self.output);
            }
            assert_same(&self.output, &self.image);
        } else {
            assert_eq!(std::fs::read(&self.output).unwrap(), OLD, "{what}");
        }
        let let_go = (notices.iter()).any(|note| note.contains("the writer stays stopped"));
        match &sent {
            Ok(()) => assert!(received.is_ok(), "{what}"),
            Err(error) if error.kind() == Kind::OutcomeUnknown => assert!(let_go, "{what}"),
            // The destination said that it does not take over, but the writer had been let go.
            Err(_) if let_go => assert!(received.is_err(), "{what}"),
            Err(_) => {
                assert!(received.is_err(), "{what}");
                self.writing.writes_on();
                return;
            }
        }
        assert!(self.writing.is_stopped(), "{what}");
        std::fs::write(&self.output, OLD).unwrap();
        self.writing.start_again();
        self.writing.writes_on();
    }
}

fn settings(dice: &mut Dice) -> (Caps, Params) {
    let mut caps = Caps::default();
    caps.set("xbzrle", dice.below(3) > 0).unwrap();
    caps.set("compress", dice.below(5) > 0).unwrap();
    let methods: Vec<Method> = Method::ALL.into_iter().collect();
    let mut pick = |values: &[&'static str]| values[dice.below(values.len() as u64) as usize];
    let mut params = params(&[
        ("connections", pick(&["1", "1", "2", "4"])),
        ("compress-threads", pick(&["1", "2", "3"])),
        ("decompress-threads", pick(&["1", "2", "3"])),
        ("delta-compress", pick(&["on", "off"])),
        ("batch-pages", pick(&["8", "32", "auto"])),
        ("xbzrle-cache-size", pick(&["64KiB", "1MiB"])),
        ("max-rounds", pick(&["1", "2", "4"])),
        ("downtime-limit", pick(&["0", "0", "300ms"])),
        ("max-bandwidth", pick(&["0", "0", "16MiB"])),
        ("max-time", pick(&["none", "20ms"])),
    ]);
    let method = methods[dice.below(methods.len() as u64) as usize];
    params.set_text("compress-method", method.name()).unwrap();
    (caps, params)
}

fn many(part: u64, scenes: &[Scene]) {
    let seed = from_environment("RAMFERRY_LIVE_SEED", 2024);
    for run in 0..from_environment("RAMFERRY_LIVE_RUNS", 100) {
        let mut dice = Dice::new(seed ^ (part << 32) ^ (run << 40));
        let scene = &scenes[dice.below(scenes.len() as u64) as usize];
        let what = format!("RAMFERRY_LIVE_SEED={seed}, part {part}, run {run}");
        scene.run(&mut dice, &what);
    }
}

fn own(seed: u64, pages: u64, microseconds: u64) -> Scene {
    Scene::new(seed, |image| {
        let interval = Duration::from_micros(microseconds);
        Writing::Own(Own::start(image, pages, interval, seed))
    })
}

#[test]
fn with_a_writer_of_this_process() {
    watchdog!();
    many(1, &[own(51, 4, 200), own(52, PAGES, 500)]);
}

#[test]
fn with_a_writer_of_this_process_that_is_fast() {
    watchdog!();
    many(2, &[own(53, PAGES, 50)]);
}

#[test]
fn with_writers_of_all_patterns_in_other_processes() {
    watchdog!();
    let scenes = Pattern::ALL.map(|pattern| {
        Scene::new(54, |image| {
            let args = ["--pattern", pattern.name(), "--rate", "1000"];
            Writing::Churn(Churn::start(image, &args))
        })
    });
    many(3, &scenes);
}
