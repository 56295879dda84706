//! A synthetic guest RAM image, for people who have no real one at hand.
//!
//! Figures from it are only worth something if it compresses like a guest. It therefore mixes
//! kinds of pages as a running Linux guest has them, in runs, as a guest has them: page cache with
//! text and machine code, kernel slabs full of pointers, half-empty heaps, data that is compressed
//! already, copies of pages from elsewhere, pages filled with one byte, and zero pages.
//! Of the pages that are not zero, it comes within 10 % of these ratios of a real guest of 1 GiB:
//!
//! | bytes at once | libdeflate 1 | zstd 1 | lz4 |
//! |---|---|---|---|
//! | 4 KiB | 2.24 | 2.27 | 1.78 |
//! | 64 KiB | 2.38 | 2.40 | 1.92 |
//!
//! It says nothing about how a guest *changes*, and a real image is always the better choice.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::page::PAGE_SIZE;

/// Pages made before they are written: enough for few system calls, and it stays in the cache.
const CHUNK_PAGES: usize = 64;
/// How many pages are kept to be duplicated later.
const KEPT_PAGES: usize = 64;

/// A kind of page. Behind each: libdeflate's and lz4's ratio at level 1 and 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Never used, or freed and wiped.
    Zero,
    /// Page cache: files of words. 2.2, 1.3.
    Text,
    /// Page cache: programs and libraries. 2.1, 1.7.
    Code,
    /// Kernel slabs and other records full of pointers. 2.8, 1.8.
    Pointers,
    /// Heaps that are partly in use. 6, 6.
    Heap,
    /// What is compressed or encrypted already. 1, 1.
    Compressed,
    /// A copy of a page elsewhere.
    Duplicate,
    /// One byte all over, such as a poison pattern. 200 and more.
    Fill,
}

/// How common a kind of page is and how it clusters.
#[derive(Debug, Clone, Copy)]
struct Share {
    class: Class,
    /// Of a thousand pages.
    pages: u32,
    /// How many such pages follow each other on average.
    run: u32,
}

const fn share(class: Class, pages: u32, run: u32) -> Share {
    Share { class, pages, run }
}

/// The mix, tuned by measurement against the ratios above.
const MIX: [Share; 8] = [
    share(Class::Zero, 300, 24),
    share(Class::Text, 115, 24),
    share(Class::Code, 190, 32),
    share(Class::Pointers, 135, 8),
    share(Class::Heap, 120, 8),
    share(Class::Compressed, 100, 16),
    share(Class::Duplicate, 15, 2),
    share(Class::Fill, 25, 2),
];

/// Writes a new image of `bytes` bytes to `path`. Equal sizes and seeds give equal images. Zero
/// pages, about 30 of 100, are holes. Needs less than 1 MiB of memory.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if there is such a file: an image is never overwritten.
/// [`io::ErrorKind::InvalidInput`] if `bytes` is 0 or no multiple of the page size, 4096. And
/// whatever creating and writing the file may meet.
pub fn write(path: &Path, bytes: u64, seed: u64) -> io::Result<()> {
    write_unless(path, bytes, seed, &AtomicBool::new(false))
}

/// As [`write()`], but gives up when `interrupted` becomes true: a large image takes a while.
///
/// # Errors
/// As [`write()`], and [`io::ErrorKind::Interrupted`].
pub fn write_unless(
    path: &Path,
    bytes: u64,
    seed: u64,
    interrupted: &AtomicBool,
) -> io::Result<()> {
    if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE as u64) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("an image of {bytes} bytes is not possible: a multiple of {PAGE_SIZE} is"),
        ));
    }
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    fill(&file, bytes, seed, interrupted).inspect_err(|_| {
        // Half an image is of no use and would stand in the way of the next attempt. The first
        // error is the one to tell.
        let _ = std::fs::remove_file(path);
    })
}

fn fill(file: &File, bytes: u64, seed: u64, interrupted: &AtomicBool) -> io::Result<()> {
    file.set_len(bytes)?;
    let mut guest = Guest::new(seed);
    let mut chunk = Vec::with_capacity(CHUNK_PAGES * PAGE_SIZE);
    // Where the chunk belongs in the file.
    let mut offset = 0;
    let mut left = bytes / PAGE_SIZE as u64;
    while left > 0 {
        if interrupted.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (class, run) = guest.random.run();
        let run = u64::from(run).min(left);
        left -= run;
        if class == Class::Zero {
            flush(file, &mut chunk, &mut offset)?;
            offset += run * PAGE_SIZE as u64;
            continue;
        }
        guest.begin_run();
        for _ in 0..run {
            let end = chunk.len();
            chunk.resize(end + PAGE_SIZE, 0);
            guest.page(class, &mut chunk[end..]);
            if chunk.len() == CHUNK_PAGES * PAGE_SIZE {
                flush(file, &mut chunk, &mut offset)?;
            }
        }
    }
    flush(file, &mut chunk, &mut offset)
}

/// Writes the pages that have gathered.
fn flush(file: &File, chunk: &mut Vec<u8>, offset: &mut u64) -> io::Result<()> {
    file.write_all_at(chunk, *offset)?;
    *offset += chunk.len() as u64;
    chunk.clear();
    Ok(())
}

/// SplitMix64: a handful of instructions a number, and the same numbers everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; its bias is below 2^-32 for the small bounds used here.
    fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// The class of the next pages and how many of them come.
    fn run(&mut self) -> (Class, u32) {
        // Shares are in pages, but runs are drawn: long runs are drawn less often.
        let weight = |share: &Share| share.pages * 1000 / share.run;
        let mut drawn = self.below(MIX.iter().map(weight).sum());
        for share in &MIX {
            if drawn < weight(share) {
                return (share.class, 1 + self.below(2 * share.run - 1));
            }
            drawn -= weight(share);
        }
        unreachable!("a number below the sum of all weights falls to one of them")
    }
}

/// A stretch of up to eight bytes, in parts fixed and in parts different each time.
#[derive(Debug, Clone, Copy)]
struct Snippet {
    bytes: u64,
    /// The bits that differ from use to use.
    varies: u64,
    len: usize,
}

/// What pages are made from.
#[derive(Debug)]
struct Guest {
    random: Random,
    words: Vec<([u8; 16], usize)>,
    instructions: Vec<Snippet>,
    kept: Vec<u8>,
    /// Where this run's vocabulary begins in `words`.
    topic: u32,
    /// What this run's pointers have in common.
    base: u64,
    /// How much this run's pages repeat themselves: of 256 words, so many are repetitions.
    sameness: u64,
}

/// Words in the vocabulary; a power of two.
const WORDS: u32 = 1 << 14;
/// Kinds of instructions; a power of two.
const INSTRUCTIONS: u32 = 1 << 10;

impl Guest {
    fn new(seed: u64) -> Guest {
        let mut random = Random(seed);
        let words = (0..WORDS).map(|_| word(&mut random)).collect();
        let instructions = (0..INSTRUCTIONS)
            .map(|_| instruction(&mut random))
            .collect();
        Guest {
            random,
            words,
            instructions,
            kept: Vec::with_capacity(KEPT_PAGES * PAGE_SIZE),
            topic: 0,
            base: 0,
            sameness: 0,
        }
    }

    /// Pages of one run resemble each other: they come from the same file or the same slab.
    fn begin_run(&mut self) {
        self.topic = self.random.below(WORDS);
        self.base = 0xffff_8880_0000_0000 | (self.random.next() & 0x7f_ff00_0000);
        self.sameness = 5 + u64::from(self.random.below(34));
    }

    /// Makes a page out of zeros.
    fn page(&mut self, class: Class, page: &mut [u8]) {
        match class {
            Class::Zero => {}
            Class::Text => self.text(page),
            Class::Code => self.code(page),
            Class::Pointers => self.pointers(page),
            Class::Heap => self.heap(page),
            Class::Compressed => self.compressed(page),
            Class::Duplicate => self.duplicate(page),
            Class::Fill => page.fill(1 + self.random.below(255) as u8),
        }
        self.keep(page);
    }

    /// Words after Zipf, few common and most rare, and here and there a phrase that came before.
    fn text(&mut self, page: &mut [u8]) {
        let mut at = 0;
        while at < page.len() {
            let draw = self.random.next();
            if draw >> 56 < self.sameness {
                at = repeat(page, at, draw);
                continue;
            }
            // The cube of an even distribution: half of all draws fall on an eighth of the words.
            let even = draw & 0x3fff;
            let rank = (((even * even) >> 14) * even) >> 14;
            let place = (self.topic.wrapping_add(rank as u32)) & (WORDS - 1);
            let (word, len) = &self.words[place as usize];
            at = put(page, at, word, *len);
        }
    }

    /// Instructions, few common and most rare, and idioms that came before.
    fn code(&mut self, page: &mut [u8]) {
        let mut at = 0;
        while at < page.len() {
            let draw = self.random.next();
            if draw >> 56 < 2 * self.sameness {
                at = repeat(page, at, draw);
                continue;
            }
            let even = draw & 0x3ff;
            let rank = (((even * even) >> 10) * even) >> 10;
            let snippet = self.instructions[rank as usize];
            let operands = draw.rotate_left(29) & snippet.varies;
            at = put(
                page,
                at,
                &(snippet.bytes ^ operands).to_le_bytes(),
                snippet.len,
            );
        }
    }

    /// A slab: records of equal layout, whose fields are pointers, counters, flags or unused.
    fn pointers(&mut self, page: &mut [u8]) {
        let layout = self.random.next();
        for (index, field) in page.chunks_exact_mut(8).enumerate() {
            // Records of 16 words; two bits of the layout say what each holds.
            let kind = layout >> (2 * (index % 16)) & 3;
            let draw = self.random.next();
            let value = match kind {
                0 => self.base | (draw & 0xff_ffc0),
                1 => draw & 0xff,
                2 => 0,
                _ if draw >> 62 == 0 => draw & 0xffff_ffff,
                _ => self.base | (draw & 0xffc0),
            };
            field.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Short objects with gaps between them, which stay zero.
    fn heap(&mut self, page: &mut [u8]) {
        let mut at = 0;
        while at < page.len() {
            let draw = self.random.next();
            for _ in 0..draw & 3 {
                let bytes = self.random.next();
                at = put(page, at, &bytes.to_le_bytes(), 8);
            }
            at += (draw >> 8) as usize % (12 * self.sameness as usize);
        }
    }

    fn compressed(&mut self, page: &mut [u8]) {
        for word in page.chunks_exact_mut(8) {
            word.copy_from_slice(&self.random.next().to_le_bytes());
        }
    }

    /// A page that was already somewhere else; the first ones have nothing to repeat.
    fn duplicate(&mut self, page: &mut [u8]) {
        let kept = (self.kept.len() / PAGE_SIZE) as u32;
        if kept == 0 {
            self.code(page);
        } else {
            let at = self.random.below(kept) as usize * PAGE_SIZE;
            page.copy_from_slice(&self.kept[at..at + PAGE_SIZE]);
        }
    }

    /// Remembers a page now and then.
    fn keep(&mut self, page: &[u8]) {
        if self.kept.len() < KEPT_PAGES * PAGE_SIZE {
            self.kept.extend_from_slice(page);
        } else if self.random.below(16) == 0 {
            let at = self.random.below(KEPT_PAGES as u32) as usize * PAGE_SIZE;
            self.kept[at..at + PAGE_SIZE].copy_from_slice(page);
        }
    }
}

/// Copies the first `len` of `bytes` to `page` as far as there is room, and gives where they end.
fn put(page: &mut [u8], at: usize, bytes: &[u8], len: usize) -> usize {
    let room = page.get_mut(at..).unwrap_or_default();
    match room.get_mut(..bytes.len()) {
        // Copying all of a fixed length is one move; what is too much is overwritten by the next.
        Some(room) => room.copy_from_slice(bytes),
        None => {
            let fits = room.len().min(len);
            room[..fits].copy_from_slice(&bytes[..fits]);
        }
    }
    at + len
}

/// Repeats 8 to 39 bytes from anywhere before `at`, and gives where they end.
fn repeat(page: &mut [u8], at: usize, draw: u64) -> usize {
    let len = 8 + (draw & 31) as usize;
    let len = len.min(at).min(page.len() - at);
    // At the page's beginning there is nothing to repeat: a blank then.
    if len == 0 {
        page[at] = b' ';
        return at + 1;
    }
    let from = (draw >> 8) as usize % (at - len + 1);
    page.copy_within(from..from + len, at);
    at + len
}

/// A word of 2 to 12 letters and the blank behind it.
fn word(random: &mut Random) -> ([u8; 16], usize) {
    const COMMON: &[u8; 32] = b"etaoinshrdlucmfwypvbgketaoinsret";
    let mut letters = [b' '; 16];
    let len = 2 + (random.below(6) + random.below(6)) as usize;
    for letter in &mut letters[..len] {
        *letter = COMMON[random.below(32) as usize];
    }
    (letters, len + 1)
}

/// An instruction of 1 to 7 bytes. Most vary in a register or not at all, some in an address.
fn instruction(random: &mut Random) -> Snippet {
    let len = 1 + (random.below(4) + random.below(4)) as usize;
    let varies = match random.below(8) {
        0..=3 => 0,
        4 | 5 => 0x38 << 8,
        6 => 0xf8 << 16,
        _ => 0xffff << 16,
    };
    Snippet {
        // Bits are more often 0 than 1, as numbers in programs are more often small.
        bytes: random.next() & random.next(),
        varies,
        len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::is_zero;
    use std::os::unix::fs::MetadataExt;

    const MIB: u64 = 1 << 20;

    fn image(bytes: u64, seed: u64) -> (tempfile::TempDir, Vec<u8>, u64) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ram");
        write(&path, bytes, seed).expect("an image");
        let taken = path.metadata().expect("it is there").blocks() * 512;
        let data = std::fs::read(&path).expect("it can be read");
        (folder, data, taken)
    }

    #[test]
    fn equal_seeds_give_equal_images_and_others_do_not() {
        let (_a, first, _) = image(2 * MIB, 7);
        let (_b, again, _) = image(2 * MIB, 7);
        let (_c, other, _) = image(2 * MIB, 8);
        assert_eq!(first.len() as u64, 2 * MIB);
        assert!(first == again);
        assert!(first != other);
    }

    #[test]
    fn about_a_third_of_the_pages_is_zero_and_takes_no_space() {
        let (_folder, data, taken) = image(32 * MIB, 1);
        let zero = data.chunks_exact(PAGE_SIZE).filter(|page| is_zero(page));
        let zero = zero.count() as u64 * PAGE_SIZE as u64;
        let percent = zero * 100 / (32 * MIB);
        assert!((25..=35).contains(&percent), "{percent} %");
        // Some file systems round holes to larger units: not every zero page need be one.
        assert!(taken <= 32 * MIB - zero / 2, "{taken} bytes on disk");
    }

    #[test]
    fn it_compresses_like_a_guest() {
        let (_folder, data, _) = image(32 * MIB, 1);
        let full: Vec<u8> = data
            .chunks_exact(PAGE_SIZE)
            .filter(|page| !is_zero(page))
            .flatten()
            .copied()
            .collect();
        let level = libdeflater::CompressionLvl::new(1).expect("level 1 exists");
        let mut deflate = libdeflater::Compressor::new(level);
        let mut zstd = zstd::bulk::Compressor::new(1).expect("level 1 exists");
        let mut out = vec![0; 1 << 17];
        for (size, expected) in [
            (PAGE_SIZE, [2.24, 2.27, 1.78]),
            (16 * PAGE_SIZE, [2.38, 2.40, 1.92]),
        ] {
            let mut input = 0;
            let mut output = [0; 3];
            // A sample spread over the image keeps the test short.
            for unit in full.chunks_exact(size).step_by(3) {
                let failed = "out is twice as large as the input";
                input += size;
                output[0] += deflate.zlib_compress(unit, &mut out).expect(failed);
                output[1] += zstd.compress_to_buffer(unit, &mut out[..]).expect(failed);
                output[2] += lz4_flex::block::compress_into(unit, &mut out).expect(failed);
            }
            for (output, expected) in output.into_iter().zip(expected) {
                let ratio = input as f64 / output as f64;
                let off = (ratio / expected - 1.0).abs();
                assert!(off < 0.1, "{size}: {ratio:.3} instead of {expected}");
            }
        }
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
    fn a_size_that_no_image_can_have_is_refused_and_leaves_no_file() {
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
        let error = write_unless(&path, MIB, 1, &AtomicBool::new(true)).expect_err("interrupted");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert!(!path.exists());
    }

    #[test]
    fn any_small_size_works_whatever_the_seed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for seed in 0..64 {
            let path = folder.path().join(seed.to_string());
            let bytes = (1 + seed * 7) * PAGE_SIZE as u64;
            write(&path, bytes, seed).expect("an image");
            assert_eq!(path.metadata().expect("it is there").len(), bytes);
        }
    }
}
