//! What is done before the first run: checking the request, reading the images, making a plan.

use std::path::Path;
use std::time::{Duration, Instant};

use super::measure::budget::{self, Budget, BudgetLimits, RunWork};
use super::measure::codec_speed::{CodecRun, Codecs, PageSample};
use super::measure::conditions::BenchConditions;
use super::measure::scratch::Scratch;
use super::measure::setting::{Setting, names};
use super::measure::workload::Workload;
use super::peer::{PeerWorkload, QemuPeer};
use super::{Bench, BenchRequest};
use crate::caps::Capability;
use crate::codec::Method;
use crate::error::{Error, Kind, Result};
use crate::image::{Guest, ImageFormat};
use crate::inspect;
use crate::inspect::{Contents, Pages};
use crate::page::{Digest, PAGE_SIZE};
use crate::stats::Status;
use crate::writer;

impl Bench {
    /// Checks the request, reads every image once, which also brings them into the page cache, and
    /// runs every codec alone, from which the durations of the runs are forecast. Received RAM will
    /// be written to `scratch`.
    ///
    /// # Errors
    /// Of kind [`Kind::Usage`] if the request makes no sense or no setting fits into its time; and
    /// images that cannot be read.
    pub fn prepare(mut request: BenchRequest, scratch: &Scratch) -> Result<Bench> {
        let begin = Instant::now();
        check(&request)?;
        let conditions = BenchConditions::now();
        let images = Images::read(&request)?;
        let data_bytes = images.sample.data_bytes();
        let mut codecs = Codecs::of(images.sample, &request.settings, &request.params);
        codecs.run()?;
        let mut peer = peer(&request, images.first, scratch)?;
        let mut expected: Vec<Duration> = (request.settings.iter().enumerate())
            .map(|(at, setting)| work(setting, codecs.last(at), data_bytes, conditions.cores))
            .map(|work| budget::expected(&work))
            .collect();
        let pages = page_classes(&request.image)?;
        let budget = fit(&request, &expected, &codecs, peer.as_ref(), begin)?;
        let dropped = drop_unfit(&mut request, &mut expected, peer.as_mut(), &budget);
        request.notes.extend(notes(&request, conditions.cores));
        Ok(Bench {
            codecs: codecs.instead_of(&request.settings, &request.params),
            peer,
            workload: Workload::new(
                request.image.clone(),
                request.then.clone(),
                request.transport,
                scratch,
            )?
            .paused(request.paused),
            scratch: scratch.parent().to_owned(),
            ram_bytes: images.last.pages() * PAGE_SIZE as u64,
            data_bytes: self::data_bytes(&images.last)?,
            pages,
            digest: images.digest,
            dropped,
            names: names(&request.settings),
            expected,
            runs: vec![Vec::new(); request.settings.len()],
            copies: Vec::new(),
            status: Status::None,
            error: None,
            conditions,
            budget,
            request,
        })
    }
}

/// Whether the request makes sense.
fn check(request: &BenchRequest) -> Result<()> {
    let usage = |why: &str| Err(Error::new(Kind::Usage, why));
    if request.settings.is_empty() || request.runs == 0 {
        return usage("there is nothing to measure");
    }
    let compresses = |setting: &Setting| setting.compression.method != Method::None;
    if !request.caps.has(Capability::Compress) && request.settings.iter().any(compresses) {
        return usage("with the capability compress off, only the method none can be measured");
    }
    if request.caps.has(Capability::AutoConverge) {
        return usage("auto-converge slows down a writer, and a benchmark has none");
    }
    if request.caps.has(Capability::PauseBeforeSwitchover) {
        return usage(
            "pause-before-switchover waits for a command to continue, which a benchmark never gives",
        );
    }
    for setting in &request.settings {
        setting
            .apply(&request.params)
            .validate()
            .map_err(|error| Error::new(Kind::Usage, error))?;
    }
    Ok(())
}

/// The images of a request, each of them read once.
struct Images {
    sample: PageSample,
    last: Guest,
    /// The digest of the first image.
    first: Digest,
    /// The digest of the last one: what must arrive.
    digest: Digest,
}

impl Images {
    fn read(request: &BenchRequest) -> Result<Images> {
        let mut last = Guest::open_as(&request.image, request.image_format)?;
        // The note comes with every migration that is measured.
        let digest_of = |guest: &Guest| writer::digest(guest, request.paused, drop);
        let first = digest_of(&last)?;
        let sample = PageSample::of(&last)?;
        let mut digest = first;
        for later in &request.then {
            last = last.open_later(later)?;
            digest = digest_of(&last)?;
        }
        Ok(Images {
            sample,
            last,
            first,
            digest,
        })
    }
}

fn peer(request: &BenchRequest, digest: Digest, scratch: &Scratch) -> Result<Option<QemuPeer>> {
    let Some(spec) = request.peer.clone() else {
        return Ok(None);
    };
    let settings = &request.settings;
    let decompress_threads = settings.iter().map(|one| one.decompress_threads).max();
    let workload = PeerWorkload {
        image: &request.image,
        digest,
        later_rounds: !request.then.is_empty(),
        threads: &distinct_threads(settings),
        decompress_threads: decompress_threads.unwrap_or(1),
    };
    QemuPeer::new(spec, &workload, scratch).map(Some)
}

/// Fits the settings, and after them the peer's modes, into the time that is left.
fn fit(
    request: &BenchRequest,
    expected: &[Duration],
    codecs: &Codecs,
    peer: Option<&QemuPeer>,
    begin: Instant,
) -> Result<Budget> {
    let cores = super::measure::memcpy::copy_threads();
    let of_peer = peer.map_or_else(Vec::new, |peer| peer.expected(codecs.data_bytes(), cores));
    let each: Vec<Duration> = (expected.iter().enumerate())
        .map(|(at, time)| time.saturating_add(codecs.share(at)))
        .chain(of_peer)
        .collect();
    let plain = |one: &Setting| one.compression.method == Method::None;
    let limits = BudgetLimits {
        runs: request.runs,
        min_time: request.min_time,
        max_time: request.max_time,
        spent: begin.elapsed(),
    };
    budget::fit(
        &each,
        &request.settings.iter().map(plain).collect::<Vec<_>>(),
        &limits,
    )
    .map_err(|error| Error::new(Kind::Usage, error))
}

/// Removes what does not fit into the budget; gives the names of that.
fn drop_unfit(
    request: &mut BenchRequest,
    expected: &mut Vec<Duration>,
    peer: Option<&mut QemuPeer>,
    budget: &Budget,
) -> Vec<String> {
    let all = request.settings.len();
    let (kept, kept_of_peer) = budget.kept.split_at(all.min(budget.kept.len()));
    let mut names = names(&request.settings);
    if let Some(peer) = peer {
        names.extend(peer.names());
        peer.keep(kept_of_peer);
    }
    let mut keep = kept.iter();
    request
        .settings
        .retain(|_| keep.next().copied().unwrap_or(false));
    let mut keep = kept.iter();
    expected.retain(|_| keep.next().copied().unwrap_or(false));
    let dropped = names.into_iter().zip(&budget.kept);
    dropped
        .filter(|(_, kept)| !**kept)
        .map(|(name, _)| name)
        .collect()
}

/// What a reader of the result has to know about the settings.
fn notes(request: &BenchRequest, cores: usize) -> Vec<String> {
    let mut notes = Vec::new();
    let most = request.settings.iter().map(|one| one.compress_threads);
    let most = most.max().unwrap_or(0);
    if usize::from(most) > cores {
        notes.push(format!(
            "{most} compression threads share {cores} cores with the destination"
        ));
    }
    if request.peer.is_some() && !request.then.is_empty() {
        let note = "a peer has no later images: its rows are the bulk stage of the first image";
        notes.push(note.to_owned());
    }
    notes
}

/// The bytes that lie in data extents.
///
/// # Errors
/// When an image can no longer be examined.
pub fn data_bytes(guest: &Guest) -> Result<u64> {
    let mut pages = 0;
    for block in guest.blocks() {
        let ranges = block.data_ranges()?;
        pages += ranges.iter().map(|range| range.count).sum::<u64>();
    }
    Ok(pages * PAGE_SIZE as u64)
}

/// The numbers of compression threads that settings have, each once.
fn distinct_threads(settings: &[Setting]) -> Vec<u8> {
    let mut threads: Vec<u8> = settings.iter().map(|one| one.compress_threads).collect();
    threads.sort_unstable();
    threads.dedup();
    threads
}

/// What a run of a setting has to do.
fn work(setting: &Setting, alone: Option<CodecRun>, data_bytes: f64, cores: usize) -> RunWork {
    RunWork {
        data_bytes,
        alone,
        bits_per_second: setting.link.map(|link| link.bits_per_second() as f64),
        delay: setting.link.map_or(0.0, |link| link.delay().as_secs_f64()),
        compress_threads: usize::from(setting.compress_threads),
        decompress_threads: usize::from(setting.decompress_threads),
        cores,
    }
}

/// An image's pages by what they hold.
fn page_classes(image: &Path) -> Result<Pages> {
    let found = inspect::inspect_as(image, ImageFormat::Raw, &|_, _| {})?;
    let blocks = match found.contents {
        Contents::RawImage(image) => image.blocks,
        Contents::GuestFolder(folder) => folder.image.blocks,
        _ => Vec::new(),
    };
    let mut pages = Pages::default();
    for block in blocks {
        let of_block = block.census.pages;
        pages.zero += of_block.zero;
        pages.one_byte += of_block.one_byte;
        pages.duplicate += of_block.duplicate;
        pages.other += of_block.other;
    }
    Ok(pages)
}
