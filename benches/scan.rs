//! What finding out costs: copying an image out of its map, looking for zeroes and hashing what
//! is none, and comparing with what was sent when nothing has changed, next to a plain copy in
//! memory, so that a number means something.
//!
//! Bytes are those of the data extents, for holes are never touched.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ramferry::bench::scratch::Scratch;
use ramferry::bench::synthetic;
use ramferry::dirty::{PageHashes, compare};
use ramferry::image::{Block, Guest};
use ramferry::page::{PAGE_SIZE, PageIndex, PageRange};

const IMAGE: u64 = 64 << 20;
const SEED: u64 = 7;
/// Pages that are read at once: 256 KiB stay in a core's second-level cache.
const STEP: u64 = 64;

/// The data extents in steps.
fn steps(block: &Block) -> Vec<PageRange> {
    let data = block.image().data_ranges().expect("it can be examined");
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
        block.image().copy(*range, bytes).expect("it can be read");
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
    let scratch = Scratch::with_room_for(IMAGE).expect("a place for temporary files");
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
            let (changed, _) = compare::changed(&guest, &sent).expect("it can be read");
            assert_eq!(changed[0].count(), 0);
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = scan
}
criterion_main!(benches);
