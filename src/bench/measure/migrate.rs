//! One measured migration, with both ends in this process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde::Serialize;

use super::machine::{anonymous_bytes, machine_cpu_seconds};
use super::workload::Workload;
use crate::caps::Caps;
use crate::control::Migration;
use crate::error::{Error, Kind, Result};
use crate::image::ImageFormat;
use crate::page::{Digest, PAGE_SIZE};
use crate::params::Params;
use crate::settings::Settings;
use crate::stats::{RoundReport, Snapshot};
use crate::sys::{process_cpu_time, trim_memory};
use crate::transport::{Address, TransportError};
use crate::wire::Format;

/// How often it is looked whether a migration is over. What is reported as its time does not
/// depend on it.
const POLL: Duration = Duration::from_millis(5);
/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(10);
/// How often a watcher hears how far it is.
const WATCH: Duration = Duration::from_millis(100);

/// How one migration differs from the others of its comparison.
#[derive(Debug, Clone)]
pub struct Variant {
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

fn milliseconds(time: Duration) -> f64 {
    // To the microsecond, as in a migration's own document.
    (time.as_secs_f64() * 1e6).round() / 1e3
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
    workload: &Workload,
    variant: &Variant,
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
    let outcome = both_ends(workload, variant, interrupted, &mut memory, watch);
    let process_cpu = process_cpu_time().saturating_sub(cpu_before);
    let machine_cpu = machine_cpu_seconds()
        .zip(machine_before)
        .map(|(after, before)| (after - before).max(0.0));
    // Each run gets fresh memory for its output, as a migration in earnest does.
    let _ = std::fs::remove_file(&workload.output)
        .or_else(|_| std::fs::remove_dir_all(&workload.output));
    let (source, destination) = outcome?;
    let source_report = source.report();
    let destination_report = destination.report();
    let digest = verified(expected, source_report.digest, destination_report.digest)?;
    let pages: u64 = source_report.rounds.iter().map(|round| round.pages).sum();
    let mut rounds = source_report.rounds;
    let mut downtime = source_report.downtime.map(milliseconds);
    if rounds.len() < 2 {
        rounds.clear();
        downtime = None;
    }
    Ok(Run {
        time: milliseconds(source_report.total_time),
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
    workload: &Workload,
    variant: &Variant,
    interrupted: &AtomicBool,
    memory: &mut Option<u64>,
    watch: &mut dyn FnMut(&Snapshot),
) -> Result<(Migration, Migration)> {
    let (listening, address) = bounded(1);
    let mut destination = Migration::receive(&workload.output)
        .from(workload.address.clone())
        .settings(variant.params.clone())
        .block(
            workload
                .block
                .clone()
                .filter(|_| variant.wire == Format::Qemu),
        )
        .on_listening(move |address| {
            let _ = listening.send(address.clone());
        })
        .start()?;
    let address = listening_at(&address, &mut destination, interrupted)?;
    let source = Migration::send(workload.image())
        .to(address)
        // What it begins with was looked at before the first run.
        .image_format(ImageFormat::Raw)
        .settings(Settings::new(variant.params.clone(), variant.caps))
        .then(workload.then())
        .format(variant.wire)
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

#[cfg(test)]
mod tests;
