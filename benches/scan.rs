//! What finding out costs: copying an image out of its map, looking for zeroes and hashing what
//! is none, and comparing with what was sent when nothing has changed, next to a plain copy in
//! memory, so that a number means something.
//!
//! Then what live migration pays between its rounds: finding the 1 % of an image of 1 GiB that has
//! changed, next to copying all of it out once with the same threads. Their ratio is printed from
//! alternating runs: on a machine that others use as well, it says more than two rates.
//!
//! Bytes are those of the data extents, for holes are never touched.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ramferry::bench::measure::scratch::Scratch;
use ramferry::dirty::{PageHashes, compare};
use ramferry::image::{Block, Guest};
use ramferry::page::{PAGE_SIZE, PageIndex, PageRange};
use ramferry::synthetic;
use rayon::prelude::*;
use rustix::time::{ClockId, clock_gettime};

const IMAGE: u64 = 64 << 20;
/// As large as a small guest, so that it is in no cache.
const LARGE: u64 = if cfg!(debug_assertions) {
    64 << 20
} else {
    1 << 30
};
/// One of this many pages has changed in it.
const CHANGED: usize = 100;
/// Alternating runs of which the ratio is the median.
const PAIRS: usize = 15;
const SEED: u64 = 7;
/// Pages that are read at once: 256 KiB stay in a core's second-level cache.
const STEP: u64 = 64;

/// The data extents in steps.
fn steps(block: &Block) -> Vec<PageRange> {
    let data = block.data_ranges().expect("it can be examined");
    data.into_iter()
        .flat_map(|range| {
            (range.start.0..range.end())
                .step_by(STEP as usize)
                .map(move |start| PageRange::between(start, range.end().min(start + STEP)))
        })
        .collect()
}

/// Calls `each` with the bytes of each step.
fn read(block: &Block, steps: &[PageRange], mut each: impl FnMut(PageRange, &[u8])) {
    let mut buffer = vec![0; STEP as usize * PAGE_SIZE];
    for range in steps {
        let bytes = &mut buffer[..range.count as usize * PAGE_SIZE];
        block.copy(*range, bytes).expect("it can be read");
        each(*range, bytes);
    }
}

/// The hash of each page, 0 for a zero page.
fn hashes<'a>(
    block: &'a Block,
    range: PageRange,
    bytes: &'a [u8],
) -> impl Iterator<Item = (PageIndex, u128)> + 'a {
    range
        .pages()
        .zip(bytes.chunks_exact(PAGE_SIZE))
        .map(|(page, bytes)| (page, block.seed().hash_or_zero(page, bytes)))
}

fn scan(criterion: &mut Criterion) {
    let scratch = Scratch::with_room_for(IMAGE, None).expect("a place for temporary files");
    let path = scratch.path().join("guest.ram");
    synthetic::write(&path, IMAGE, SEED).expect("there is room for a small image");
    let guest = Guest::open(&path).expect("it was just written");
    let block = &guest.blocks()[0];
    let steps = steps(block);

    // All data in memory, for the plain copy; and what a bulk stage would have noted.
    let mut data = Vec::new();
    let sent = PageHashes::new(guest.pages());
    read(block, &steps, |range, bytes| {
        data.extend_from_slice(bytes);
        for (page, hash) in hashes(block, range, bytes) {
            sent.replace(block.key(page), hash);
        }
    });

    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("memcpy", |bencher| {
        let mut buffer = vec![0; STEP as usize * PAGE_SIZE];
        bencher.iter(|| {
            for bytes in black_box(&data).chunks(buffer.len()) {
                buffer[..bytes.len()].copy_from_slice(bytes);
                black_box(&buffer);
            }
        });
    });
    group.bench_function("copy", |bencher| {
        bencher.iter(|| {
            read(block, &steps, |_, bytes| {
                black_box(bytes);
            });
        });
    });
    group.bench_function("copy, zero test and hash", |bencher| {
        bencher.iter(|| {
            let mut sum = 0_u128;
            read(block, &steps, |range, bytes| {
                sum = hashes(block, range, bytes)
                    .map(|(_, hash)| hash)
                    .fold(sum, u128::wrapping_add);
            });
            sum
        });
    });
    // On all cores, as between rounds.
    group.bench_function("changed, when nothing has", |bencher| {
        bencher.iter(|| {
            let (changed, _) = compare::changed(guest.ram(), &sent).expect("it can be read");
            assert_eq!(changed[0].count(), 0);
        });
    });
    group.finish();
}

/// Copies all of it out on rayon's threads, into buffers that stay in the cache.
fn copy_out(block: &Block) {
    steps(block).par_iter().with_max_len(4).for_each_init(
        || vec![0; STEP as usize * PAGE_SIZE],
        |buffer, range| {
            let bytes = &mut buffer[..range.count as usize * PAGE_SIZE];
            block.copy(*range, bytes).expect("it can be read");
            black_box(bytes);
        },
    );
}

fn between_rounds(criterion: &mut Criterion) {
    let scratch = Scratch::with_room_for(LARGE, None).expect("a place for temporary files");
    let path = scratch.path().join("guest.ram");
    synthetic::write(&path, LARGE, SEED).expect("there is room for the image");
    let guest = Guest::open(&path).expect("it was just written");
    let block = &guest.blocks()[0];
    let sent = PageHashes::new(guest.pages());
    let mut data = 0;
    let mut changed = 0;
    read(block, &steps(block), |range, bytes| {
        for (page, hash) in hashes(block, range, bytes) {
            data += 1;
            let other = data % CHANGED == 0;
            changed += u64::from(other);
            sent.replace(block.key(page), hash ^ u128::from(other));
        }
    });
    let find = || {
        let (found, _) = compare::changed(guest.ram(), &sent).expect("it can be read");
        assert_eq!(found[0].count(), changed);
    };

    let mut group = criterion.benchmark_group("between rounds");
    group.throughput(Throughput::Bytes((data * PAGE_SIZE) as u64));
    group.bench_function("copy out", |bencher| bencher.iter(|| copy_out(block)));
    group.bench_function("find 1 % changed", |bencher| bencher.iter(find));
    group.finish();

    // By the clock and by CPU time, which others on the machine disturb less.
    let cpu_time = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let timed = |act: &dyn Fn()| {
        let (start, cpu) = (Instant::now(), cpu_time());
        act();
        (start.elapsed().as_secs_f64(), cpu_time() - cpu)
    };
    let (mut by_clock, mut by_cpu): (Vec<f64>, Vec<f64>) = (0..PAIRS)
        .map(|_| {
            let copy = timed(&|| copy_out(block));
            let find = timed(&find);
            (find.0 / copy.0, find.1 / copy.1)
        })
        .unzip();
    by_clock.sort_by(f64::total_cmp);
    by_cpu.sort_by(f64::total_cmp);
    println!(
        "finding takes {:.2} times the copy, and {:.2} times its CPU time ({:.2} to {:.2}; {PAIRS} pairs)",
        by_clock[PAIRS / 2],
        by_cpu[PAIRS / 2],
        by_cpu[0],
        by_cpu[PAIRS - 1]
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = scan, between_rounds
}
criterion_main!(benches);
