//! Codecs over batches of guest-like pages: every method at its fastest level, both zlib engines,
//! next to a plain copy, so that a number means something.
//!
//! Content comes from a fixed seed. With `RAMFERRY_IMAGE=FILE` the pages of a real image that are
//! not zero are used instead, 4 MiB from its middle.
#![allow(missing_docs)]

use std::hint::black_box;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ramferry::codec::{CodecSettings, Encoded, Method, ZlibEngine, decoder, encoder};
use ramferry::page::{PAGE_SIZE, is_zero};

/// Pages in a batch.
const BATCHES: [usize; 3] = [16, 64, 128];

/// Bytes of content: more than any cache near the core holds.
const CONTENT: usize = 4 << 20;

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

/// Pages as a guest has them, in turn: text, code-like bytes, tables of pointers, half empty
/// pages, and one in eight that does not compress.
fn generated() -> Vec<u8> {
    let mut next = random(7);
    let mut content = Vec::with_capacity(CONTENT);
    for page in 0..CONTENT / PAGE_SIZE {
        let end = content.len() + PAGE_SIZE;
        while content.len() < end {
            let word = next();
            match page % 8 {
                0 | 1 => {
                    const WORDS: [&str; 8] = [
                        "kernel ", "module ", "page ", "of ", "the ", "driver ", "is ", "loaded\n",
                    ];
                    content.extend_from_slice(WORDS[(word % 8) as usize].as_bytes());
                }
                2 | 3 => {
                    const OPCODES: [u8; 8] = [0x48, 0x89, 0x8b, 0xe8, 0x0f, 0x83, 0x85, 0xc3];
                    content.push(OPCODES[(word % 8) as usize]);
                    if word & 0x300 == 0 {
                        content.extend_from_slice(&word.to_le_bytes()[2..5]);
                    }
                }
                4 | 5 => content
                    .extend_from_slice(&(0xffff_8880_0000_0000 | word & 0xf_ffc0).to_le_bytes()),
                6 if end - content.len() > PAGE_SIZE / 2 => content.extend_from_slice(&[0; 64]),
                _ => content.extend_from_slice(&word.to_le_bytes()),
            }
        }
        content.truncate(end);
    }
    content
}

/// Pages of an image that are not zero, as many as there are from its middle on.
fn of_image(path: &str) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let middle = file.metadata()?.len() / 2 / PAGE_SIZE as u64 * PAGE_SIZE as u64;
    file.seek(SeekFrom::Start(middle))?;
    let mut content = Vec::with_capacity(CONTENT);
    let mut page = [0; PAGE_SIZE];
    while content.len() < CONTENT && file.read_exact(&mut page).is_ok() {
        if !is_zero(&page) {
            content.extend_from_slice(&page);
        }
    }
    Ok(content)
}

fn content() -> Vec<u8> {
    match std::env::var("RAMFERRY_IMAGE") {
        Ok(path) => of_image(&path).expect("RAMFERRY_IMAGE names a readable image"),
        Err(_) => generated(),
    }
}

/// What is measured, by name.
fn codecs() -> Vec<(String, CodecSettings)> {
    let settings = |method, level, zlib_engine| CodecSettings {
        method,
        level,
        zlib_engine,
    };
    let libdeflate = ZlibEngine::Libdeflate;
    let mut all: Vec<_> = [
        settings(Method::Lz4, 1, libdeflate),
        settings(Method::Zstd, 1, libdeflate),
        settings(Method::Zstd, 3, libdeflate),
        settings(Method::Gzip, 1, libdeflate),
    ]
    .into_iter()
    .map(|settings| (format!("{}-{}", settings.method, settings.level), settings))
    .collect();
    for engine in ZlibEngine::ALL {
        let name = format!("zlib-1-{engine}");
        all.push((name, settings(Method::Zlib, 1, engine)));
    }
    all
}

fn compress(criterion: &mut Criterion) {
    let content = content();
    let mut group = criterion.benchmark_group("compress");
    for pages in BATCHES {
        let batch = pages * PAGE_SIZE;
        let batches: Vec<_> = content.chunks_exact(batch).collect();
        assert!(!batches.is_empty(), "too few pages in the image");
        group.throughput(Throughput::Bytes((batches.len() * batch) as u64));
        let mut out = vec![0; batch - 1];
        group.bench_function(BenchmarkId::new("memcpy", pages), |bencher| {
            bencher.iter(|| {
                for plain in &batches {
                    out.copy_from_slice(&black_box(plain)[1..]);
                    black_box(&out);
                }
            });
        });
        for (name, settings) in codecs() {
            let mut encoder = encoder(settings).expect("a level of the method");
            group.bench_function(BenchmarkId::new(name, pages), |bencher| {
                bencher.iter(|| {
                    for plain in &batches {
                        black_box(encoder.encode(black_box(plain), &mut out).expect("encodes"));
                    }
                });
            });
        }
    }
    group.finish();
}

fn decompress(criterion: &mut Criterion) {
    let content = content();
    let mut group = criterion.benchmark_group("decompress");
    for pages in BATCHES {
        let batch = pages * PAGE_SIZE;
        let batches: Vec<_> = content.chunks_exact(batch).collect();
        assert!(!batches.is_empty(), "too few pages in the image");
        let mut made = vec![0; batch];
        group.throughput(Throughput::Bytes((batches.len() * batch) as u64));
        group.bench_function(BenchmarkId::new("memcpy", pages), |bencher| {
            bencher.iter(|| {
                for plain in &batches {
                    made.copy_from_slice(black_box(plain));
                    black_box(&made);
                }
            });
        });
        for (name, settings) in codecs() {
            let mut encoder = encoder(settings).expect("a level of the method");
            let bodies: Vec<_> = batches
                .iter()
                .filter_map(|plain| {
                    let mut out = vec![0; batch - 1];
                    match encoder.encode(plain, &mut out).expect("encodes") {
                        Encoded::Done(length) => {
                            out.truncate(length);
                            Some(out)
                        }
                        Encoded::WouldGrow => None,
                    }
                })
                .collect();
            // Batches that do not shrink never reach a decoder.
            group.throughput(Throughput::Bytes((bodies.len() * batch) as u64));
            let mut decoder = decoder(settings.method);
            group.bench_function(BenchmarkId::new(name, pages), |bencher| {
                bencher.iter(|| {
                    for body in &bodies {
                        decoder
                            .decode(black_box(body), &mut made)
                            .expect("what was encoded");
                        black_box(&made);
                    }
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = compress, decompress
}
criterion_main!(benches);
