//! Whole migrations of a synthetic guest over a unix socket, both ends in one process: methods by
//! compressing threads, next to a plain copy of the image, so that a number means something.
//!
//! What counts is the time of the migration itself; making room for the next one is outside.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ramferry::bench::measure::memcpy::{copy_threads, memcpy};
use ramferry::bench::measure::methods;
use ramferry::bench::measure::migrate::{Variant, migrate};
use ramferry::bench::measure::scratch::Scratch;
use ramferry::bench::measure::workload::{Transport, Workload};
use ramferry::image::Guest;
use ramferry::synthetic;
use ramferry::wire::Format;
use ramferry::{Caps, Params};

const IMAGE: u64 = 64 << 20;
const SEED: u64 = 7;
const THREADS: [u8; 2] = [1, 2];

fn image(folder: &Path) -> PathBuf {
    let path = folder.join("guest.ram");
    synthetic::write(&path, IMAGE, SEED).expect("there is room for a small image");
    path
}

fn pipeline(criterion: &mut Criterion) {
    let scratch = Scratch::with_room_for(2 * IMAGE, None).expect("a place for temporary files");
    let image = image(scratch.path());
    let expected = Guest::open(&image)
        .and_then(|guest| guest.digest())
        .expect("it was just written");
    let workload = Workload::new(image.clone(), vec![], Transport::Unix, &scratch)
        .expect("a place for a socket");
    let interrupted = AtomicBool::new(false);

    let mut group = criterion.benchmark_group("pipeline");
    group.throughput(Throughput::Bytes(IMAGE));
    group.bench_function(BenchmarkId::new("memcpy", copy_threads()), |bencher| {
        bencher.iter(|| memcpy(&image, copy_threads()).expect("it can be read"));
    });
    for setting in methods::parse("none,lz4,zstd,zlib", 1).expect("they have level 1") {
        for threads in THREADS {
            let variant = Variant {
                params: Params {
                    compress_threads: threads,
                    ..setting.apply(&Params::default())
                },
                caps: Caps::default(),
                wire: Format::Native,
            };
            group.bench_function(BenchmarkId::new(setting.to_string(), threads), |bencher| {
                bencher.iter_custom(|count| {
                    (0..count)
                        .map(|_| {
                            migrate(&workload, &variant, expected, &interrupted, &mut |_| {})
                                .expect("it arrives")
                                .duration()
                        })
                        .sum::<Duration>()
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
    targets = pipeline
}
criterion_main!(benches);
