//! A plain copy of the image's data: the least that a source has to do.

use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::image::{Guest, ImageError, ImageFormat};
use crate::page::PAGE_SIZE;

/// The number of threads for [`memcpy`]: one per core.
pub fn copy_threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Copies all data of an image out of a new memory map, with `threads` threads; gives how long it took,
/// opening and mapping included. A source has to do at least this: the difference to a migration without
/// compression is the cost of moving and verifying.
///
/// # Errors
/// The image cannot be read.
///
/// # Panics
/// If `threads` is 0.
pub fn memcpy(image: &Path, threads: usize) -> Result<Duration> {
    assert!(threads > 0);
    // A source's usual batch, which stays in the cache.
    const STEP: u64 = 64;
    let start = Instant::now();
    let guest = Guest::open_as(image, ImageFormat::Raw)?;
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
mod tests {
    use super::*;
    use crate::bench::measure::scratch::Scratch;
    use crate::synthetic;

    #[test]
    fn a_copy_works_with_any_number_of_threads_and_reports_a_missing_image() {
        let scratch = Scratch::new_in(&std::env::temp_dir()).expect("a folder");
        let image = scratch.path().join("ram");
        synthetic::write(&image, 2 << 20, 1).expect("an image");
        for threads in [1, 3] {
            assert!(memcpy(&image, threads).expect("it can be read") > Duration::ZERO);
        }
        assert!(memcpy(&scratch.path().join("missing"), 1).is_err());
    }
}
