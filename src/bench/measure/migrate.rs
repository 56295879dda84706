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

/// The interval at which the end of a migration is polled. The reported time does not depend on it.
const POLL: Duration = Duration::from_millis(5);
/// The interval at which memory is sampled.
const SAMPLE: Duration = Duration::from_millis(10);
/// The interval at which progress is reported.
const WATCH: Duration = Duration::from_millis(100);

/// What distinguishes one migration from the others of its benchmark.
#[derive(Debug, Clone)]
pub struct Variant {
    /// The parameters of both ends.
    pub params: Params,
    /// The capabilities of the source.
    pub caps: Caps,
    /// The format of the stream.
    pub wire: Format,
}

/// The measurements of one migration.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BenchRun {
    /// Milliseconds from the source's start until the destination has confirmed the takeover.
    pub time: f64,
    /// Milliseconds from the beginning of the last round to the proof, if there are rounds after the
    /// bulk stage. Without them it is everything but the set-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime: Option<f64>,
    /// Bytes of RAM handled in all rounds together, holes included.
    pub ram_bytes: u64,
    /// Bytes from source to destination, on all connections.
    pub wire_bytes: u64,
    /// Bytes from destination to source.
    pub return_bytes: u64,
    /// Bytes of guest RAM per byte on the wire.
    pub ratio: f64,
    /// Bytes before compression of everything that was sent compressed.
    pub codec_bytes: u64,
    /// The source's CPU seconds by stage, and their `total`.
    pub source_cpu_seconds: BTreeMap<&'static str, f64>,
    /// The destination's CPU seconds by stage, and their `total`.
    pub destination_cpu_seconds: BTreeMap<&'static str, f64>,
    /// CPU seconds of this process during that time: both ends, and what belongs to no stage.
    pub process_cpu_seconds: f64,
    /// CPU seconds of all programs on the machine during that time, in steps of 10 ms; null if the
    /// system does not report them.
    pub machine_cpu_seconds: Option<f64>,
    /// Peak of anonymous memory of both ends, sampled every 10 ms; null if the system does not report
    /// it.
    pub peak_anonymous_bytes: Option<u64>,
    /// The rounds, if there are more than the bulk stage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<RoundReport>,
    /// The digest of the received RAM, on which both ends agree.
    pub digest: Digest,
}

impl BenchRun {
    /// The source's CPU seconds, all stages.
    pub fn source_cpu(&self) -> f64 {
        total(&self.source_cpu_seconds)
    }

    /// The destination's CPU seconds, all stages.
    pub fn destination_cpu(&self) -> f64 {
        total(&self.destination_cpu_seconds)
    }

    /// `time` as a duration.
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

/// Migrates once. `watch` receives the source's progress. The received RAM is removed afterwards, which
/// is not part of the time.
///
/// # Errors
/// Of kind [`Kind::Differs`] if the digests of the ends and `expected` are not equal, of kind
/// [`Kind::Interrupted`] if `interrupted` became true, and every error of a migration.
pub fn migrate(
    workload: &Workload,
    variant: &Variant,
    expected: Digest,
    interrupted: &AtomicBool,
    watch: &mut dyn FnMut(&Snapshot),
) -> Result<BenchRun> {
    // Memory that earlier runs have freed must not count as this one's.
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
    // Each run gets new memory for its output, as a real migration does.
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
    Ok(BenchRun {
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

/// The digest, if all agree on it.
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
            "the digest of the image is {expected}, of the source {}, of the destination {}",
            word(source),
            word(destination)
        ),
    ))
}

/// Runs both ends.
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
        // The output is thrown away, and how fast a disk is not the question.
        .sync(false)
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
        // The format was checked before the first run.
        .image_format(ImageFormat::Raw)
        .paused(workload.paused)
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
        // The source may never have connected, and the destination would wait forever.
        destination.cancel();
    }
    let received = destination.join();
    match (sent, received) {
        (Ok(()), Ok(())) => Ok((source, destination)),
        // If the source reports only a broken link, the destination knows more.
        (Err(sent), Err(received))
            if matches!(sent.cause(), Some(TransportError::Closed))
                && received.kind() != Kind::Interrupted =>
        {
            Err(received)
        }
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
    }
}

/// Waits for the address on which the destination listens.
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
            // It ended without listening.
            Err(RecvTimeoutError::Disconnected) => {
                destination.join()?;
                return Err(Error::new(Kind::Failed, "the destination did not listen"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
