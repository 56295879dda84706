//! Deltas of pages that changed in typical ways, their application, and the cache around them,
//! next to a plain copy of a page, so that a number means something. Bytes are page bytes.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ramferry::delta::{Cache, Delta, Lookup, decode, encode};
use ramferry::page::PAGE_SIZE;

type Page = [u8; PAGE_SIZE];

/// Pages of each kind: old and new ones fit into the L2 cache together.
const PAGES: usize = 64;

/// Pseudo-random words from a seed (splitmix64).
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// How pages change, by name.
fn kinds() -> Vec<(&'static str, Vec<(Page, Page)>)> {
    fn pairs(change: impl Fn(&mut dyn FnMut() -> u64, &mut Page)) -> Vec<(Page, Page)> {
        let mut next = random(11);
        (0..PAGES)
            .map(|_| {
                let mut old = [0; PAGE_SIZE];
                for word in old.chunks_exact_mut(8) {
                    word.copy_from_slice(&(next() & 0x00ff_0000_00ff_ffff).to_le_bytes());
                }
                let mut new = old;
                change(&mut next, &mut new);
                (old, new)
            })
            .collect()
    }
    fn bump(bytes: &mut [u8]) {
        bytes
            .iter_mut()
            .for_each(|byte| *byte = byte.wrapping_add(1));
    }
    vec![
        ("unchanged", pairs(|_, _| ())),
        (
            "one run of 64",
            pairs(|next, page| {
                let start = next() as usize % (PAGE_SIZE - 64);
                bump(&mut page[start..start + 64]);
            }),
        ),
        (
            "one run of 1000",
            pairs(|_, page| bump(&mut page[1500..2500])),
        ),
        (
            "1 byte",
            pairs(|next, page| bump(&mut page[next() as usize % PAGE_SIZE..][..1])),
        ),
        (
            "16 bytes",
            pairs(|next, page| {
                for _ in 0..16 {
                    bump(&mut page[next() as usize % PAGE_SIZE..][..1]);
                }
            }),
        ),
        (
            "256 bytes",
            pairs(|next, page| {
                for _ in 0..256 {
                    bump(&mut page[next() as usize % PAGE_SIZE..][..1]);
                }
            }),
        ),
        ("all bytes", pairs(|_, page| bump(page))),
    ]
}

fn deltas(criterion: &mut Criterion) {
    let kinds = kinds();
    let bytes = Throughput::Bytes((PAGES * PAGE_SIZE) as u64);

    let mut group = criterion.benchmark_group("xbzrle encode");
    group.throughput(bytes.clone());
    let mut out = [0; PAGE_SIZE];
    group.bench_function("memcpy", |bencher| {
        bencher.iter(|| {
            for (old, _) in &kinds[0].1 {
                out.copy_from_slice(black_box(old));
                black_box(&out);
            }
        });
    });
    for (name, pages) in &kinds {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                for (old, new) in pages {
                    black_box(encode(black_box(old), black_box(new), &mut out));
                }
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("xbzrle decode");
    group.throughput(bytes.clone());
    for (name, pages) in &kinds {
        let deltas: Vec<Vec<u8>> = pages
            .iter()
            .filter_map(|(old, new)| match encode(old, new, &mut out) {
                Delta::Encoded(length) => Some(out[..length].to_vec()),
                Delta::Unchanged | Delta::Overflow => None,
            })
            .collect();
        if deltas.is_empty() {
            continue;
        }
        let mut page = pages[0].0;
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                for delta in &deltas {
                    decode(black_box(delta), &mut page).expect("what was encoded");
                    black_box(&page);
                }
            });
        });
    }
    group.finish();

    // Each time, every page changes from the one to the other or back.
    let mut group = criterion.benchmark_group("cache delta");
    group.throughput(bytes);
    for (name, pages) in &kinds {
        let cache = Cache::new((PAGES * PAGE_SIZE) as u64).expect("a power of two");
        for (key, (old, _)) in (0..).zip(pages) {
            assert!(cache.remember(key, old, 1), "an empty cache");
        }
        let mut appended = Vec::with_capacity(PAGES * PAGE_SIZE);
        let mut there = false;
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                there = !there;
                appended.clear();
                for (key, (old, new)) in (0..).zip(pages) {
                    let page = if there { new } else { old };
                    let lookup = cache.delta(key, black_box(page), 2, &mut appended);
                    assert_ne!(lookup, Lookup::Miss);
                }
                black_box(&appended);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = deltas
}
criterion_main!(benches);
