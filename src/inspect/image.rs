//! A guest's RAM: what its pages hold, and how well they compress; and the rest of a guest folder.
//!
//! It takes one pass over the data extents on all cores, then a small sample on one. Memory: 16 bytes
//! for each page that is neither zero nor one repeated byte, up to [`MAX_HASHES`] of them, and 1 byte
//! per [`BATCH`] pages of data.

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use crate::codec::{self, CodecSettings, Encoded, Method, ZlibEngine};
use crate::codec::{looks_random, sets_aside};
use crate::description::Description;
use crate::error::{Error, Kind, Result};
use crate::image::{self, Guest, ImageError};
use crate::page::{Digest, PAGE_SIZE, PageRange, is_zero};
use crate::pool::{analysis_pool, evenly};
use crate::sync;
use crate::sys::thread_cpu_time;
use crate::text::printable;
use crate::wire::qemu::tail;

use super::OnProgress;
use super::qemu::{self, MAX_TAIL};
use super::report::{
    Census, Damage, DamageSort, GuestBlock, GuestFolder, GuestImage, MethodSample, Pages, Sample,
};

/// Pages that are compressed together. The pipeline's batches have 64 or 128, depending on the method.
const BATCH: u64 = 64;
/// The most pages in the sample: 16 MiB.
const SAMPLE: u64 = 4096;
/// The most hashes that are kept of a block, which takes 256 MiB. If a block has more pages of data,
/// every n-th hash is kept.
const MAX_HASHES: u64 = 16 << 20;
/// The compression level for the sample.
const LEVEL: u8 = 1;

/// Describes the pages of all blocks, and compresses the sample.
pub(super) fn take(guest: &Guest, progress: &OnProgress<'_>) -> Result<GuestImage> {
    let pool = analysis_pool(u8::MAX).map_err(|error| Error::new(Kind::Failed, error))?;
    let mut walks = Vec::new();
    for block in guest.blocks() {
        let extents = block.data_ranges()?;
        walks.push(BlockWalk::new(block, &extents));
    }
    let view = CensusProgress {
        done: AtomicU64::new(0),
        all: walks.iter().map(|walk| walk.census.data_bytes).sum(),
        progress,
    };
    let mut digest = Digest::default();
    let mut blocks = Vec::new();
    for walk in &mut walks {
        let part = pool.install(|| walk.run(&view))?;
        digest.add(part.0);
        blocks.push(GuestBlock {
            name: walk.block.name().to_owned(),
            bytes: walk.block.bytes(),
            digest: part,
            recorded_digest: walk.block.recorded_digest(),
            census: walk.census.clone(),
        });
    }
    Ok(GuestImage {
        digest,
        blocks,
        sample: sample(&walks)?,
    })
}

/// Describes a guest folder, RAM included, and the first block that differs from `guest.json`.
pub(super) fn folder(
    guest: &Guest,
    description: &Description,
    progress: &OnProgress<'_>,
) -> Result<(GuestFolder, Option<Damage>)> {
    let (bytes, state) = match guest.device_state() {
        Some(state) if state.bytes() <= MAX_TAIL as u64 => (state.bytes(), Some(state.read()?)),
        Some(state) => (state.bytes(), None),
        None => (0, None),
    };
    let image = take(guest, progress)?;
    let damage = image.blocks.iter().find_map(|block| {
        let recorded = block.recorded_digest?;
        let (name, found) = (&block.name, block.digest);
        (recorded != found).then(|| Damage {
            offset: None,
            sort: DamageSort::Differs,
            reason: printable(&format!(
                "the digest of block '{name}' is {found}, not {recorded}"
            )),
        })
    });
    let commands = description.commands.iter();
    let folder = GuestFolder {
        machine: description.machine.clone(),
        configuration: qemu::settings(&description.configuration),
        commands: commands.map(|(code, _)| *code).collect(),
        ram_section_id: description.ram_section_id,
        device_state_bytes: bytes,
        devices_skipped: bytes > 0 && state.is_none(),
        devices: state.map_or_else(Vec::new, |state| qemu::devices(&tail::sections(&state))),
        image,
    };
    Ok((folder, damage))
}

/// Counts the bytes done.
struct CensusProgress<'a> {
    done: AtomicU64,
    all: u64,
    progress: &'a OnProgress<'a>,
}

impl CensusProgress<'_> {
    fn add(&self, pages: u64) {
        let bytes = pages * PAGE_SIZE as u64;
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.progress)(done, self.all);
    }
}

/// The pass over one block.
struct BlockWalk<'a> {
    block: &'a image::Block,
    /// The data in batches.
    batches: Vec<PageRange>,
    /// How many pages of each batch are not zero.
    not_zero: Vec<u8>,
    census: Census,
}

/// The result for one batch.
#[derive(Default)]
struct BatchCensus {
    zero: u64,
    one_byte: u64,
    digest: u128,
    not_zero: u8,
}

impl<'a> BlockWalk<'a> {
    fn new(block: &'a image::Block, extents: &[PageRange]) -> BlockWalk<'a> {
        let data: u64 = extents.iter().map(|extent| extent.count).sum();
        let data_bytes = data * PAGE_SIZE as u64;
        BlockWalk {
            block,
            batches: extents
                .iter()
                .flat_map(|extent| extent.steps(BATCH))
                .collect(),
            not_zero: Vec::new(),
            census: Census {
                data_bytes,
                hole_bytes: block.bytes().saturating_sub(data_bytes),
                extents: extents.len() as u64,
                pages: Pages::default(),
                duplicates_sampled: data.div_ceil(MAX_HASHES).max(1),
            },
        }
    }

    /// Reads every page of data. Returns the block's digest.
    fn run(&mut self, view: &CensusProgress<'_>) -> Result<Digest, ImageError> {
        let sampled = self.census.duplicates_sampled;
        let hashes = Mutex::new(Vec::new());
        let parts: Vec<BatchCensus> = evenly(&self.batches)
            .map(|batch| {
                let mut found = Vec::new();
                let part = self.look(*batch, sampled, &mut found)?;
                sync::lock(&hashes).append(&mut found);
                view.add(batch.count);
                Ok(part)
            })
            .collect::<Result<_, ImageError>>()?;
        self.block.check_size()?;

        let mut hashes = sync::ignore_poison(hashes.into_inner());
        let kept = hashes.len() as u64;
        hashes.par_sort_unstable();
        hashes.dedup();
        let repeated = kept - hashes.len() as u64;

        let mut digest = Digest::default();
        let pages = &mut self.census.pages;
        pages.zero = self.census.hole_bytes / PAGE_SIZE as u64;
        for part in &parts {
            pages.zero += part.zero;
            pages.one_byte += part.one_byte;
            digest.add(part.digest);
        }
        let rest = self.block.pages() - pages.zero - pages.one_byte;
        pages.duplicate = repeated.saturating_mul(sampled).min(rest);
        pages.other = rest - pages.duplicate;
        self.not_zero = parts.iter().map(|part| part.not_zero).collect();
        Ok(digest)
    }

    fn look(
        &self,
        batch: PageRange,
        sampled: u64,
        found: &mut Vec<u128>,
    ) -> Result<BatchCensus, ImageError> {
        let mut part = BatchCensus::default();
        self.block.scan(batch, |page, bytes| {
            if is_zero(bytes) {
                part.zero += 1;
                return;
            }
            part.not_zero += 1;
            let hash = self.block.seed().hash(page, bytes);
            part.digest = part.digest.wrapping_add(hash);
            if is_one_byte(bytes) {
                part.one_byte += 1;
            } else {
                // Without a seed, so that equal pages have equal hashes wherever they are.
                let hash = xxh3_128(bytes);
                if ((hash >> 64) as u64).is_multiple_of(sampled) {
                    found.push(hash);
                }
            }
        })?;
        Ok(part)
    }
}

/// Whether all bytes of a page are equal.
fn is_one_byte(page: &[u8]) -> bool {
    page.split_last()
        .is_some_and(|(_, front)| page[1..] == *front)
}

/// Chooses the batches of the sample, spread evenly over the pages that are not zero, of which
/// `not_zero` has the number in each batch and `all` the sum. The chosen batches have `most` at most.
fn choose(not_zero: impl IntoIterator<Item = u8>, all: u64, most: u64) -> Vec<usize> {
    let (mut seen, mut taken) = (0_u64, 0_u64);
    let mut chosen = Vec::new();
    for (at, pages) in not_zero.into_iter().enumerate() {
        let pages = u64::from(pages);
        seen += pages;
        let due = u128::from(seen) * u128::from(most.min(all)) / u128::from(all.max(1));
        if pages > 0 && u128::from(taken + pages) <= due {
            taken += pages;
            chosen.push(at);
        }
    }
    chosen
}

/// Compresses a sample of all blocks with each method, as the pipeline does.
fn sample(walks: &[BlockWalk<'_>]) -> Result<Option<Sample>> {
    let weights = || walks.iter().flat_map(|walk| walk.not_zero.iter().copied());
    let all = weights().map(u64::from).sum();
    let places: Vec<(&image::Block, PageRange)> = {
        let chosen = choose(weights(), all, SAMPLE);
        let mut chosen = chosen.into_iter().peekable();
        walks
            .iter()
            .flat_map(|walk| walk.batches.iter().map(|batch| (walk.block, *batch)))
            .enumerate()
            .filter(|(at, _)| chosen.next_if_eq(at).is_some())
            .map(|(_, place)| place)
            .collect()
    };
    let mut trials = Method::ALL
        .map(Trial::new)
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let mut body = vec![0; BATCH as usize * PAGE_SIZE];
    let mut out = vec![0; BATCH as usize * PAGE_SIZE];
    let mut bytes = 0;
    for (block, batch) in places {
        let len = block.read_some(batch, &mut body, |_, page| !is_zero(page))?;
        bytes += len as u64;
        for trial in &mut trials {
            trial.run(&body[..len], &mut out)?;
        }
    }
    Ok((bytes > 0).then(|| Sample {
        pages: bytes / PAGE_SIZE as u64,
        bytes,
        batch_pages: BATCH,
        methods: trials.iter().map(|trial| trial.outcome(bytes)).collect(),
    }))
}

/// One method on the sample.
struct Trial {
    method: Method,
    encoder: Box<dyn codec::Encoder>,
    /// The pages that are compressed, without those that are not worth it.
    rest: Vec<u8>,
    bytes: u64,
    time: Duration,
}

impl Trial {
    fn new(method: Method) -> Result<Trial> {
        let settings = CodecSettings {
            method,
            level: LEVEL,
            zlib_engine: ZlibEngine::default(),
        };
        Ok(Trial {
            method,
            encoder: codec::encoder(settings).map_err(|error| Error::new(Kind::Failed, error))?,
            rest: Vec::new(),
            bytes: 0,
            time: Duration::ZERO,
        })
    }

    /// Compresses a batch. One that does not shrink counts uncompressed.
    fn run(&mut self, batch: &[u8], out: &mut [u8]) -> Result<()> {
        let start = thread_cpu_time();
        self.rest.clear();
        let mut batch = batch;
        let mut aside = 0;
        if sets_aside(self.method) {
            for page in batch.chunks_exact(PAGE_SIZE) {
                if looks_random(page) {
                    aside += page.len();
                } else {
                    self.rest.extend_from_slice(page);
                }
            }
            batch = &self.rest;
        }
        let mut len = batch.len();
        if self.method == Method::None {
            out[..len].copy_from_slice(batch);
            black_box(&mut *out);
        } else if len > 1
            && let Encoded::Done(shorter) = self
                .encoder
                .encode(batch, &mut out[..len - 1])
                .map_err(|error| Error::new(Kind::Failed, error))?
        {
            len = shorter;
        }
        self.bytes += (aside + len) as u64;
        self.time += thread_cpu_time().saturating_sub(start);
        Ok(())
    }

    fn outcome(&self, sample: u64) -> MethodSample {
        let seconds = self.time.as_secs_f64();
        MethodSample {
            method: self.method.name(),
            level: LEVEL,
            bytes: self.bytes,
            ratio: sample as f64 / self.bytes.max(1) as f64,
            megabytes_per_second: (seconds > 0.0).then(|| sample as f64 / 1e6 / seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn page(seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..PAGE_SIZE)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect()
    }

    #[test]
    fn every_page_is_counted_once_and_the_digest_is_that_of_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ram");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(4096 * PAGE_SIZE as u64).unwrap();
        let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at * PAGE_SIZE as u64).unwrap();
        put(0, &[0; PAGE_SIZE]);
        put(1, &[9; PAGE_SIZE]);
        put(2, &[9; PAGE_SIZE]);
        for at in 3..200 {
            put(at, &page(at % 100));
        }
        let guest = Guest::open(&path).unwrap();
        let seen = AtomicU64::new(0);
        let census = take(&guest, &|done, all| {
            assert!(done <= all);
            seen.fetch_max(done, Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!(census.digest, guest.digest().unwrap());
        let [block] = &census.blocks[..] else {
            panic!("{census:?}");
        };
        assert_eq!(block.digest, census.digest);
        let counts = block.census.pages;
        // 3..100 and 100..103 are new, 103..200 are 3..100 again.
        assert_eq!(
            (counts.one_byte, counts.duplicate, counts.other),
            (2, 97, 100)
        );
        assert_eq!(counts.all(), 4096);
        assert_eq!(
            block.census.data_bytes + block.census.hole_bytes,
            block.bytes
        );
        assert_eq!(seen.into_inner(), block.census.data_bytes);
        assert_eq!(block.census.duplicates_sampled, 1);

        let sample = census.sample.unwrap();
        assert_eq!(sample.pages, 199);
        for method in &sample.methods {
            assert!(method.bytes <= sample.bytes, "{method:?}");
        }
        assert_eq!(sample.methods[0].bytes, sample.bytes, "none");
    }

    #[test]
    fn a_guest_of_zeros_has_no_sample() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ram");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(8 * PAGE_SIZE as u64)
            .unwrap();
        let census = take(&Guest::open(&path).unwrap(), &|_, _| {}).unwrap();
        assert!(census.sample.is_none());
        assert_eq!(census.digest, Digest::default());
        assert_eq!(census.blocks[0].census.pages.zero, 8);
    }

    #[test]
    fn the_sample_is_spread_evenly_and_never_too_large() {
        // All of a small guest.
        assert_eq!(choose([0, 3, 64, 1], 68, 4096), [1, 2, 3]);
        // A large one: as many from its beginning as from its end.
        let chosen = choose([64; 4096], 64 * 4096, 4096);
        assert_eq!(chosen.len(), 64);
        assert!(chosen.windows(2).all(|pair| pair[1] - pair[0] == 64));
        // Uneven weights.
        let weights: Vec<u8> = (0..100_000_u32).map(|at| (at * 7919 % 65) as u8).collect();
        let all = weights.iter().map(|&weight| u64::from(weight)).sum();
        let chosen = choose(weights.iter().copied(), all, 4096);
        let taken: u64 = chosen.iter().map(|&at| u64::from(weights[at])).sum();
        assert!((3900..=4096).contains(&taken), "{taken}");
        assert!(choose([], 0, 4096).is_empty());
    }

    #[test]
    fn a_page_of_one_repeated_byte_is_recognised() {
        let mut page = vec![7; PAGE_SIZE];
        assert!(is_one_byte(&page));
        for at in [0, 1, 2048, PAGE_SIZE - 1] {
            page[at] = 8;
            assert!(!is_one_byte(&page), "byte {at}");
            page[at] = 7;
        }
    }
}
