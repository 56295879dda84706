//! One measurement: a migration with both ends in this process, or a plain copy.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde::Serialize;

use crate::caps::Caps;
use crate::control::Migration;
use crate::error::{Error, Kind, Result};
use crate::image::{Guest, ImageError, RAW_BLOCK_NAME};
use crate::page::{Digest, PAGE_SIZE};
use crate::params::Params;
use crate::settings::Settings;
use crate::stats::{RoundReport, Snapshot};
use crate::sys::{process_cpu_time, trim_memory};
use crate::transport::{Address, TransportError};
use crate::wire::Format;

use super::scratch::Scratch;

/// How often it is looked whether a migration is over. What is reported as its time does not
/// depend on it.
const POLL: Duration = Duration::from_millis(5);
/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(10);
/// How often a watcher hears how far it is.
const WATCH: Duration = Duration::from_millis(100);

/// What joins the two ends. A slower link can be emulated on top, by the parameter `link`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// A unix socket: the cheapest link there is.
    #[default]
    Unix,
    /// TCP over the loopback interface, with what TCP costs.
    Tcp,
}

names!(
    "transport",
    Transport {
        Unix: "unix",
        Tcp: "tcp"
    }
);

/// What all migrations of a comparison have in common.
#[derive(Debug)]
pub struct Course {
    image: PathBuf,
    then: Vec<PathBuf>,
    address: Address,
    output: PathBuf,
    /// The one block of a raw image, which stays a raw image on the qemu wire too.
    block: Option<String>,
    /// Holds the socket until all is over: the folder of the output may be on a file system
    /// without sockets, or its name may be too long for one.
    _socket: Option<Scratch>,
}

impl Course {
    /// Migrations of `image`, and of its later states `then` as delta rounds, over `transport`. What
    /// arrives is written to `scratch`.
    ///
    /// # Errors
    /// When there is no place for a socket.
    pub fn new(
        image: PathBuf,
        then: Vec<PathBuf>,
        transport: Transport,
        scratch: &Scratch,
    ) -> Result<Course> {
        let (address, socket) = match transport {
            Transport::Unix => {
                let folder = Scratch::new_in(&std::env::temp_dir())?;
                (Address::Unix(folder.path().join("link")), Some(folder))
            }
            Transport::Tcp => {
                let host = "127.0.0.1".to_owned();
                (Address::Tcp { host, port: 0 }, None)
            }
        };
        Ok(Course {
            block: (!image.is_dir()).then(|| RAW_BLOCK_NAME.to_owned()),
            image,
            then,
            address,
            output: scratch.path().join("arrived.ram"),
            _socket: socket,
        })
    }

    /// The image that is sent first.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Its later states.
    pub fn then(&self) -> &[PathBuf] {
        &self.then
    }
}

/// How one migration differs from the others of its comparison.
#[derive(Debug, Clone)]
pub struct How {
    /// Every parameter, of both ends.
    pub params: Params,
    /// What may be used.
    pub caps: Caps,
    /// In which format.
    pub wire: Format,
}

/// One migration, measured.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Run {
    /// Milliseconds from the source's start until the destination has confirmed that it took over.
    pub time: f64,
    /// Milliseconds from the last round's beginning to the proof, if there are rounds after the
    /// bulk stage: without them it is all but the set-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime: Option<f64>,
    /// Bytes of RAM that were handled, in all rounds together, holes included.
    pub ram_bytes: u64,
    /// Every byte from source to destination, on all connections.
    pub wire_bytes: u64,
    /// Every byte from destination to source.
    pub return_bytes: u64,
    /// Bytes of guest RAM for each byte on the wire.
    pub ratio: f64,
    /// Bytes that went into compressed bodies.
    pub codec_bytes: u64,
    /// The source's CPU seconds by stage, and their `total`.
    pub source_cpu_seconds: BTreeMap<&'static str, f64>,
    /// The destination's CPU seconds by stage, and their `total`.
    pub destination_cpu_seconds: BTreeMap<&'static str, f64>,
    /// CPU seconds of this process meanwhile: both ends, and what belongs to no stage.
    pub process_cpu_seconds: f64,
    /// CPU seconds of the whole machine meanwhile: this process, and whatever else ran. To 10 ms;
    /// null where the system does not tell.
    pub machine_cpu_seconds: Option<f64>,
    /// What both ends took of anonymous memory at the most, sampled every 10 ms; null where the
    /// system does not tell.
    pub peak_anonymous_bytes: Option<u64>,
    /// The rounds, if there are more than the bulk stage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<RoundReport>,
    /// What both ends say arrived.
    pub digest: Digest,
}

impl Run {
    /// The source's CPU seconds, all stages.
    pub fn source_cpu(&self) -> f64 {
        total(&self.source_cpu_seconds)
    }

    /// The destination's CPU seconds, all stages.
    pub fn destination_cpu(&self) -> f64 {
        total(&self.destination_cpu_seconds)
    }

    /// How long it took.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.time.max(0.0) / 1e3)
    }
}

fn total(seconds: &BTreeMap<&'static str, f64>) -> f64 {
    seconds.get("total").copied().unwrap_or(0.0)
}

/// Migrates once. `watch` hears now and then how far the source is. What has arrived is removed
/// again, which is not part of the time.
///
/// # Errors
/// Of kind [`Kind::Differs`] when the ends do not agree with each other and with `expected` on
/// what arrived, of kind [`Kind::Interrupted`] when `interrupted` became true, and whatever ends
/// a migration before its time.
pub fn migrate(
    course: &Course,
    how: &How,
    expected: Digest,
    interrupted: &AtomicBool,
    watch: &mut dyn FnMut(&Snapshot),
) -> Result<Run> {
    // What earlier runs have freed is not this one's.
    trim_memory();
    let memory_before = anonymous_bytes();
    let mut memory = memory_before;
    let machine_before = machine_cpu_seconds();
    let cpu_before = process_cpu_time();
    let outcome = both_ends(course, how, interrupted, &mut memory, watch);
    let process_cpu = process_cpu_time().saturating_sub(cpu_before);
    let machine_cpu = machine_cpu_seconds()
        .zip(machine_before)
        .map(|(after, before)| (after - before).max(0.0));
    // Each run gets fresh memory for its output, as a migration in earnest does.
    let _ =
        std::fs::remove_file(&course.output).or_else(|_| std::fs::remove_dir_all(&course.output));
    let (source, destination) = outcome?;
    let source_report = source.report();
    let destination_report = destination.report();
    let digest = verified(expected, source_report.digest, destination_report.digest)?;
    let pages: u64 = source_report.rounds.iter().map(|round| round.pages).sum();
    let mut rounds = source_report.rounds;
    let mut downtime = source_report.downtime;
    if rounds.len() < 2 {
        rounds.clear();
        downtime = None;
    }
    Ok(Run {
        time: source_report.total_time,
        downtime,
        ram_bytes: pages * PAGE_SIZE as u64,
        wire_bytes: source_report.wire_bytes,
        return_bytes: source_report.return_bytes,
        ratio: source_report.ratio.unwrap_or(0.0),
        codec_bytes: source_report.compression.map_or(0, |compression| {
            (compression.compression_rate * compression.compressed_size as f64).round() as u64
        }),
        source_cpu_seconds: source_report.cpu_seconds,
        destination_cpu_seconds: destination_report.cpu_seconds,
        process_cpu_seconds: process_cpu.as_secs_f64(),
        machine_cpu_seconds: machine_cpu,
        peak_anonymous_bytes: memory
            .zip(memory_before)
            .map(|(most, before)| most.saturating_sub(before)),
        rounds,
        digest,
    })
}

/// The digest that all agree on.
fn verified(
    expected: Digest,
    source: Option<Digest>,
    destination: Option<Digest>,
) -> Result<Digest> {
    if source == Some(expected) && destination == Some(expected) {
        return Ok(expected);
    }
    let word = |digest: Option<Digest>| digest.map_or("none".to_owned(), |known| known.to_string());
    Err(Error::new(
        Kind::Differs,
        format!(
            "the digest of the image is {expected}, the source says {}, the destination {}",
            word(source),
            word(destination)
        ),
    ))
}

/// Starts both ends and waits for their ends.
fn both_ends(
    course: &Course,
    how: &How,
    interrupted: &AtomicBool,
    memory: &mut Option<u64>,
    watch: &mut dyn FnMut(&Snapshot),
) -> Result<(Migration, Migration)> {
    let (listening, address) = bounded(1);
    let mut destination = Migration::receive(&course.output)
        .from(course.address.clone())
        .settings(how.params.clone())
        .block(course.block.clone().filter(|_| how.wire == Format::Qemu))
        .on_listening(move |address| {
            let _ = listening.send(address.clone());
        })
        .start()?;
    let address = listening_at(&address, &mut destination, interrupted)?;
    let source = Migration::send(&course.image)
        .to(address)
        .settings(Settings::new(how.params.clone(), how.caps))
        .then(&course.then)
        .format(how.wire)
        .start()?;

    let mut looked = Instant::now();
    while !source.ends_within(SAMPLE) {
        *memory = (*memory).max(anonymous_bytes());
        if interrupted.load(Ordering::Relaxed) {
            source.cancel();
        }
        if looked.elapsed() >= WATCH {
            looked = Instant::now();
            watch(&source.query());
        }
    }
    let sent = source.join();
    if sent.is_err() {
        // It may never have reached the destination, which would wait for it for ever.
        destination.cancel();
    }
    let received = destination.join();
    match (sent, received) {
        (Ok(()), Ok(())) => Ok((source, destination)),
        // A source that only says that the link broke knows less than the other end.
        (Err(sent), Err(received))
            if matches!(sent.cause(), Some(TransportError::Closed))
                && received.kind() != Kind::Interrupted =>
        {
            Err(received)
        }
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
    }
}

/// Where the destination listens, as soon as it does.
fn listening_at(
    address: &Receiver<Address>,
    destination: &mut Migration,
    interrupted: &AtomicBool,
) -> Result<Address> {
    loop {
        match address.recv_timeout(POLL) {
            Ok(address) => return Ok(address),
            Err(RecvTimeoutError::Timeout) => {
                if interrupted.load(Ordering::Relaxed) {
                    destination.cancel();
                }
            }
            // It ended without ever having listened.
            Err(RecvTimeoutError::Disconnected) => {
                destination.join()?;
                return Err(Error::new(Kind::Failed, "the destination did not listen"));
            }
        }
    }
}

/// This process's anonymous memory, if the system tells.
fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// CPU seconds that all programs of this machine have used since it was started, if it tells.
fn machine_cpu_seconds() -> Option<f64> {
    let ticks = busy_ticks(&std::fs::read_to_string("/proc/stat").ok()?)?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The ticks in which the processors were neither idle nor waiting for a disk, of a `/proc/stat`.
fn busy_ticks(stat: &str) -> Option<u64> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?;
    let mut ticks = 0_u64;
    // user nice system idle iowait irq softirq steal; what follows is in these already.
    for (at, number) in numbers.split_whitespace().take(8).enumerate() {
        let number: u64 = number.parse().ok()?;
        if !matches!(at, 3 | 4) {
            ticks = ticks.checked_add(number)?;
        }
    }
    Some(ticks)
}

/// The threads that [`memcpy`] uses: one a core.
pub fn copy_threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Copies all data of an image out of a fresh map, with `threads` threads, and gives how long it
/// took, opening and mapping included. It is the least that a source has to do: what lies
/// between it and a migration without compression is what moving and proving cost.
///
/// # Errors
/// When the image cannot be read.
///
/// # Panics
/// When `threads` is 0.
pub fn memcpy(image: &Path, threads: usize) -> Result<Duration> {
    assert!(threads > 0);
    // A source's usual batch: what is copied stays in the cache, for whoever is next.
    const STEP: u64 = 64;
    let start = Instant::now();
    let guest = Guest::open(image)?;
    let steps = guest.ram().data_steps(STEP)?;
    let next = AtomicUsize::new(0);
    let copy = || -> Result<(), ImageError> {
        let mut buffer = vec![0; STEP as usize * PAGE_SIZE];
        while let Some((block, range)) = steps.get(next.fetch_add(1, Ordering::Relaxed)) {
            block.copy(*range, &mut buffer)?;
            std::hint::black_box(&buffer);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(copy)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests;
