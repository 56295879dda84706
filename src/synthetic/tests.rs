use super::*;
use crate::page::is_zero;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;

const MIB: u64 = 1 << 20;

fn write_to(path: &Path, bytes: u64, mix: Mix, seed: u64) -> io::Result<()> {
    write_mix(path, bytes, mix, seed, &mut |_| true)
}

/// An image's bytes, and how many of them it takes on disk.
fn image(bytes: u64, mix: Mix, seed: u64) -> (Vec<u8>, u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ram");
    write_to(&path, bytes, mix, seed).expect("an image");
    let taken = path.metadata().expect("it is there").blocks() * 512;
    (std::fs::read(&path).expect("it can be read"), taken)
}

/// How much shorter methods make the data, this many bytes at once: libdeflate, zstd and lz4, all
/// at level 1. A sample spread over the image keeps it short.
fn ratios(data: &[u8], at_once: usize) -> [f64; 3] {
    let level = libdeflater::CompressionLvl::new(1).expect("level 1 exists");
    let mut deflate = libdeflater::Compressor::new(level);
    let mut zstd = zstd::bulk::Compressor::new(1).expect("level 1 exists");
    let mut out = vec![0; 2 * at_once.max(PAGE_SIZE)];
    let mut input = 0;
    let mut output = [0; 3];
    for unit in data.chunks_exact(at_once).step_by(2) {
        let failed = "out is twice as large as the input";
        input += unit.len();
        for (output, len) in output.iter_mut().zip([
            deflate.zlib_compress(unit, &mut out).expect(failed),
            zstd.compress_to_buffer(unit, &mut out[..]).expect(failed),
            lz4_flex::block::compress_into(unit, &mut out).expect(failed),
        ]) {
            // What does not shrink goes as it is.
            *output += len.min(unit.len());
        }
    }
    output.map(|output| input as f64 / f64::from(u32::try_from(output).expect("small")))
}

#[track_caller]
fn within(name: &str, found: f64, expected: f64, off: f64) {
    assert!(
        (found - expected).abs() <= off,
        "{name}: {found:.3} and not {expected} +- {off:.3}"
    );
}

#[test]
fn equal_seeds_give_equal_images_and_others_do_not() {
    let (first, _) = image(MIB, Mix::Busy, 7);
    assert_eq!(first.len() as u64, MIB);
    assert!(first == image(MIB, Mix::Busy, 7).0);
    assert!(first != image(MIB, Mix::Busy, 8).0);
    assert!(first != image(MIB, Mix::Idle, 7).0);
}

/// The table in the documentation, in wide bands, for a guest so small that its shares vary.
#[test]
fn each_mix_has_its_shares_and_its_ratios() {
    // Percent of zero pages, of duplicates among the others; ratios by pages and by 64 of them.
    for (mix, zero, duplicate, pages, batches) in [
        (Mix::Idle, 60.0, 6.0, [2.62, 2.61, 2.03], [2.76, 2.69, 2.12]),
        (Mix::Busy, 7.6, 4.8, [2.58, 2.61, 2.06], [2.70, 2.73, 2.18]),
        (
            Mix::Database,
            5.0,
            2.3,
            [2.48, 2.52, 1.90],
            [2.68, 2.70, 2.05],
        ),
        (Mix::Random, 0.0, 0.0, [1.0; 3], [1.0; 3]),
    ] {
        let (data, taken) = image(16 * MIB, mix, 1);
        let mut seen = HashSet::new();
        let mut full = Vec::new();
        let mut repeated = 0;
        for page in data.chunks_exact(PAGE_SIZE).filter(|page| !is_zero(page)) {
            full.extend_from_slice(page);
            repeated += u32::from(!seen.insert(page));
        }
        let percent = |part: f64, all: usize| 100.0 * part / (all / PAGE_SIZE) as f64;
        let empty = data.len() - full.len();
        let found = percent((empty / PAGE_SIZE) as f64, data.len());
        within(&format!("{mix}, zero"), found, zero, zero / 4.0);
        let found = percent(f64::from(repeated), full.len());
        within(&format!("{mix}, equal"), found, duplicate, duplicate / 2.0);
        for (at_once, expected) in [(PAGE_SIZE, pages), (64 * PAGE_SIZE, batches)] {
            let found = ratios(&full, at_once);
            for ((method, found), expected) in
                ["zlib", "zstd", "lz4"].iter().zip(found).zip(expected)
            {
                let name = format!("{mix}, {method}, {at_once} bytes");
                within(&name, found, expected, (expected - 1.0) * 0.15);
            }
        }
        // Some file systems round holes to larger units: not every zero page need be one.
        assert!(taken <= (data.len() - empty / 2) as u64, "{mix}: {taken}");
    }
}

#[test]
fn mixes_are_read_as_they_are_shown() {
    for mix in Mix::ALL {
        assert_eq!(mix.to_string().parse(), Ok(mix));
        let pages: u32 = mix.shares().iter().map(|share| share.pages).sum();
        assert_eq!(pages, 1000, "{mix}");
    }
    let refused = "lazy".parse::<Mix>().expect_err("there is no such mix");
    assert!(
        refused.allowed().contains("idle, busy, database or random"),
        "{refused}"
    );
}

#[test]
fn an_existing_file_is_never_overwritten() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("precious");
    std::fs::write(&path, "data").expect("a file");
    let error = write(&path, MIB, 1).expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).expect("still there"), b"data");
}

#[test]
fn an_invalid_size_is_refused_and_leaves_no_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // The last is whole pages, but more than any file can have.
    let largest = u64::MAX - (PAGE_SIZE as u64 - 1);
    for bytes in [0, 1, PAGE_SIZE as u64 + 1, u64::MAX, largest] {
        let path = folder.path().join("ram");
        let error = write(&path, bytes, 1).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(!path.exists());
    }
}

#[test]
fn an_interrupted_image_leaves_no_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ram");
    let error = write_mix(&path, MIB, Mix::Busy, 1, &mut |_| false).expect_err("interrupted");
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    assert!(!path.exists());
}

#[test]
fn any_small_size_works_whatever_the_mix_and_the_seed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for seed in 0..64 {
        let path = folder.path().join(seed.to_string());
        let bytes = (1 + seed * 7) * PAGE_SIZE as u64;
        let mix = Mix::ALL[seed as usize % Mix::ALL.len()];
        write_to(&path, bytes, mix, seed).expect("an image");
        assert_eq!(path.metadata().expect("it is there").len(), bytes);
    }
}
