//! What has to be known before the first run: whether it makes sense, what the image holds, what
//! a setting has to do.

use std::path::Path;

use super::alone::Alone;
use super::matrix::Setting;
use super::{Request, budget};
use crate::caps::Capability;
use crate::codec::Method;
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::inspect;
use crate::inspect::{Contents, Pages};
use crate::page::PAGE_SIZE;

/// Whether what was asked for makes sense.
pub(super) fn check(request: &Request) -> Result<()> {
    let usage = |why: &str| Err(Error::new(Kind::Usage, why));
    if request.settings.is_empty() || request.runs == 0 {
        return usage("there is nothing to measure");
    }
    let compresses = |setting: &Setting| setting.compression.method != Method::None;
    if !request.caps.has(Capability::Compress) && request.settings.iter().any(compresses) {
        return usage("without the capability compress only the method none can be measured");
    }
    if request.caps.has(Capability::AutoConverge) {
        return usage("auto-converge slows down a writer, and in a comparison there is none");
    }
    if request.caps.has(Capability::PauseBeforeSwitchover) {
        return usage(
            "with pause-before-switchover a migration waits, and here nobody lets it go on",
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

/// The numbers of compressing threads that settings have, each once.
pub(super) fn distinct_threads(settings: &[Setting]) -> Vec<u8> {
    let mut threads: Vec<u8> = settings.iter().map(|one| one.compress_threads).collect();
    threads.sort_unstable();
    threads.dedup();
    threads
}

/// What a setting has to do.
pub(super) fn work(
    setting: &Setting,
    alone: Option<Alone>,
    data_bytes: f64,
    cores: usize,
) -> budget::Work {
    budget::Work {
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
pub(super) fn page_classes(image: &Path) -> Result<Pages> {
    let found = inspect::inspect(image, &|_, _| {})?;
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
