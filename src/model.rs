//! The pipelines of both ends under the model checker [shuttle](https://docs.rs/shuttle): the real
//! `source/pipeline.rs`, `destination/pipeline.rs`, `barrier.rs`, `prove.rs`, `pool.rs` and session context,
//! joined by connections in memory, with wires that do nothing but carry page numbers.
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" cargo test --release --target-dir target/shuttle --lib model::
//! ```
//!
//! Each test runs [`SCHEDULES`] schedules, half of them random and half by probabilistic concurrency testing
//! (few switches at the worst moments); `RAMFERRY_SCHEDULES` sets another number. The schedule also chooses
//! the shape: connections, threads, rounds, which of them changes meanwhile. A failure prints its schedule,
//! which `shuttle::replay` runs again.
//!
//! What is checked: nothing deadlocks or runs for ever; every batch is placed once, in its round, and in a
//! lane's order; no page of a round is placed before all of the one before are; the proof finds just what was
//! placed last; an injected error is the one that is reported, and no end succeeds with it; a cancel ends both
//! ends; threads that come and go lose nothing; buffers come back. What is not: system calls (a connection
//! is a queue here, and an abort's event a step of the monitor in `sync/channel.rs`), weak memory orderings
//! (every atomic is sequentially consistent), and time.

use std::sync::{Arc, Mutex as StdMutex, OnceLock};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner};

use crate::caps::{Capability, Caps};
use crate::destination::model as destination;
use crate::error::Kind;
use crate::image::{Guest, Output};
use crate::page::{Digest, PAGE_SIZE, PageIndex};
use crate::params::Params;
use crate::round::Round;
use crate::session::{CancelledBy, Context};
use crate::settings::Settings;
use crate::source::model as source;
use crate::sync::channel::{self, Receiver, Sender, choose};
use crate::sync::thread;

mod parts;

/// The number of schedules for each test.
const SCHEDULES: usize = 300;
/// Pages of the guest; each is a batch.
pub(crate) const PAGES: u64 = 5;
/// The words of an injected error.
pub(crate) const PLANNED: &str = "planned";

/// Runs `model` under many schedules.
fn check(model: impl Fn() + Send + Sync + Copy + 'static) {
    // All tests share the output of `files`.
    static ONE: StdMutex<()> = StdMutex::new(());
    let _one = crate::sync::lock(&ONE);
    let schedules = std::env::var("RAMFERRY_SCHEDULES").ok();
    let schedules = schedules.map_or(SCHEDULES, |text| text.parse().expect("a number"));
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.max_steps = MaxSteps::FailAfter(100_000);
    config.silence_warnings = true;
    let half = schedules.div_ceil(2);
    let ran = Runner::new(RandomScheduler::new(half), config.clone()).run(model)
        + Runner::new(PctScheduler::new(3, half), config).run(model);
    println!("{ran} schedules");
}

/// What goes over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    Begin(Round),
    Page(Round, u64),
    End { round: Round, last: bool },
}

/// Where an error is injected, if anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Encode,
    Seal,
    Place,
    /// The connections disagree about the last round.
    Disagree,
    /// The system refuses to start a thread.
    Thread,
}

/// The shape of a migration, as the schedule chooses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) connections: usize,
    pub(crate) rounds: u32,
    pub(crate) lanes: bool,
    pub(crate) pause: bool,
    pub(crate) fault: Fault,
    /// The round and page where it is injected.
    pub(crate) at: (Round, u64),
}

impl Plan {
    fn choose(fault: Fault) -> Plan {
        let rounds = 1 + choose(3) as u32;
        let round = Round(1 + choose(rounds as usize) as u32);
        let pages = pages_of(round);
        Plan {
            connections: 1 + choose(2),
            rounds,
            lanes: choose(3) == 0,
            pause: choose(4) == 0,
            fault,
            at: (round, pages[choose(pages.len())]),
        }
    }

    /// Whether this is the place of the injected error.
    pub(crate) fn fails(&self, fault: Fault, at: (Round, u64)) -> bool {
        self.fault == fault && self.at == at
    }
}

/// Round 1 sends every page, later ones some.
pub(crate) fn pages_of(round: Round) -> Vec<u64> {
    let later = u64::from(round.0);
    (0..PAGES)
        .filter(|page| round.is_first() || page % 3 == later % 3 || *page == 0)
        .collect()
}

/// What a page holds after this round.
pub(crate) fn contents(round: Round, page: u64) -> Vec<u8> {
    vec![(u64::from(round.0) * 16 + page + 1) as u8; PAGE_SIZE]
}

/// The guest's RAM after all rounds.
fn expected(plan: &Plan) -> Digest {
    let mut digest = Digest::default();
    let seed = files().1.blocks()[0].seed();
    for page in 0..PAGES {
        let last = (1..=plan.rounds)
            .map(Round)
            .filter(|&round| pages_of(round).contains(&page))
            .last();
        digest.add(seed.hash(PageIndex(page), &contents(last.unwrap(), page)));
    }
    digest
}

/// A guest and an output, which all schedules share: round 1 overwrites every page.
fn files() -> &'static (Arc<Guest>, Output) {
    static FILES: OnceLock<(Arc<Guest>, Output)> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let bytes = PAGES * PAGE_SIZE as u64;
        let image = folder.path().join("image");
        std::fs::write(&image, vec![1; bytes as usize]).unwrap();
        let guest = Guest::open(&image).unwrap();
        let blocks = [(guest.blocks()[0].name().to_owned(), bytes)];
        let output = Output::image(&folder.path().join("output"), &blocks, false).unwrap();
        // Both are open; the folder may go.
        (Arc::new(guest), output)
    })
}

fn context(plan: &Plan) -> Context {
    let params = Params {
        compress_threads: 1 + choose(3) as u8,
        decompress_threads: 1 + choose(3) as u8,
        compress_wait_thread: choose(4) > 0,
        batch_pages: Some(1),
        ..Params::default()
    };
    let mut caps = Caps::default();
    caps.switch(Capability::PauseBeforeSwitchover, plan.pause);
    Context::new(Settings { params, caps }).unwrap()
}

/// Changes the numbers of threads, as a client of the monitor does.
fn operate(context: &Context, changes: usize) {
    for _ in 0..changes {
        let (encoders, decoders) = (1 + choose(3) as u8, 1 + choose(3) as u8);
        let wait = choose(3) > 0;
        let changed = context.tuning.update(|params| {
            params.compress_threads = encoders;
            params.decompress_threads = decoders;
            params.compress_wait_thread = wait;
            Ok::<(), ()>(())
        });
        changed.unwrap();
    }
}

/// How a migration ended, at each end.
struct Ended {
    source: crate::error::Result<()>,
    destination: crate::error::Result<Digest>,
}

impl Ended {
    fn words(&self) -> [Option<String>; 2] {
        [self.source.as_ref().err(), self.destination.as_ref().err()]
            .map(|error| error.map(crate::Error::one_line))
    }
}

/// Who is cancelled while the migration runs, if anybody is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cancelled {
    Neither,
    Source,
    Destination,
}

/// One migration from the first batch to the proof.
fn migrate(plan: &Plan, cancelled: Cancelled) -> Ended {
    let (guest, output) = files();
    let (from, to) = (context(plan), context(plan));
    let (senders, receivers): (Vec<Sender<Item>>, Vec<Receiver<Item>>) = (0..plan.connections)
        .map(|_| channel::bounded(1 + choose(2)))
        .unzip();
    let destination = StdMutex::new(None);
    let mut source = None;
    thread::scope(|scope| {
        let (from, to, slot) = (&from, &to, &destination);
        scope.spawn(move || {
            let ended = destination::receive(output, to, receivers, *plan);
            *slot.lock().unwrap() = Some(ended);
        });
        scope.spawn(move || {
            operate(from, 2);
            if cancelled == Cancelled::Source {
                // It must not wait at the gate for ever.
                from.cancel(CancelledBy::Monitor);
            } else {
                from.gate.open();
            }
        });
        scope.spawn(move || {
            operate(to, 2);
            if cancelled == Cancelled::Destination {
                to.cancel(CancelledBy::Monitor);
            }
        });
        source = Some(source::send(guest, from, senders, *plan));
    });
    Ended {
        source: source.unwrap(),
        destination: destination.into_inner().unwrap().unwrap(),
    }
}

#[test]
fn every_page_is_placed_once_and_in_order_whatever_threads_come_and_go() {
    check(|| {
        let plan = Plan::choose(Fault::None);
        let ended = migrate(&plan, Cancelled::Neither);
        assert_eq!(ended.words(), [None, None], "{plan:?}");
        assert_eq!(ended.destination.ok(), Some(expected(&plan)), "{plan:?}");
    });
}

#[test]
fn an_error_of_the_source_is_the_one_that_it_reports() {
    check(|| {
        let plan = Plan::choose([Fault::Encode, Fault::Seal][choose(2)]);
        let [source, destination] = migrate(&plan, Cancelled::Neither).words();
        assert!(source.is_some_and(|line| line.starts_with(PLANNED)));
        assert!(destination.is_some());
    });
}

#[test]
fn an_error_of_the_destination_is_the_one_that_it_reports() {
    check(|| {
        let plan = Plan::choose(Fault::Place);
        let [_, destination] = migrate(&plan, Cancelled::Neither).words();
        let destination = destination.expect("a failure");
        assert!(destination.starts_with(PLANNED), "{destination}");
    });
}

#[test]
fn connections_that_disagree_about_the_last_round_fail() {
    check(|| {
        let mut plan = Plan::choose(Fault::Disagree);
        plan.connections = 2;
        let [_, destination] = migrate(&plan, Cancelled::Neither).words();
        let destination = destination.expect("a failure");
        assert!(destination.starts_with(PLANNED), "{destination}");
    });
}

#[test]
fn a_thread_that_the_system_refuses_fails_the_migration_with_that_reason() {
    check(|| {
        thread::refuse_after(choose(10) as isize);
        let plan = Plan::choose(Fault::Thread);
        let words = migrate(&plan, Cancelled::Neither).words();
        let reason = "refused on purpose";
        let has = |line: &Option<String>| line.as_ref().is_some_and(|l| l.contains(reason));
        // With one encoder or decoder fewer it may end well, if the others are done first.
        assert!(words == [None, None] || words.iter().any(has), "{words:?}");
    });
}

#[test]
fn a_cancel_ends_both_ends_and_neither_succeeds_alone() {
    check(|| {
        let plan = Plan::choose(Fault::None);
        let side = [Cancelled::Source, Cancelled::Destination][choose(2)];
        let ended = migrate(&plan, side);
        // The source's last item may be on the link when the destination is cancelled, not the reverse.
        let words = ended.words();
        assert!(
            ended.source.is_ok() || ended.destination.is_err(),
            "{words:?}"
        );
        let own = match side {
            Cancelled::Destination => ended.destination.err(),
            _ => ended.source.err(),
        };
        if let Some(error) = own {
            assert_eq!(error.kind(), Kind::Interrupted, "{words:?}");
        }
    });
}
