//! Guests made of known pages, and the folders and images that hold them.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use ramferry::image::Guest;
use ramferry::page::{Digest, PAGE_SIZE};

/// What a page of a guest holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    /// Nothing: the file has a hole there.
    Hole,
    /// Zeroes that are stored.
    Zero,
    /// One byte all over.
    Fill(u8),
    /// Compresses well.
    Text(u64),
    /// Does not compress.
    Random(u64),
    /// Another page, a few bytes of which are others.
    Edited(Box<Page>, u64),
}

/// A small random number generator; equal seeds, equal numbers.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }
}

impl Page {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; PAGE_SIZE];
        match self {
            Page::Hole | Page::Zero => {}
            Page::Fill(byte) => bytes.fill(*byte),
            Page::Text(seed) => {
                const WORDS: [&str; 8] = [
                    "page ", "guest ", "memory ", "cache\n", "0x7fff", "the ", "of ", "kernel ",
                ];
                let mut dice = Dice::new(*seed);
                let mut text = String::new();
                while text.len() < PAGE_SIZE {
                    text.push_str(WORDS[dice.below(8) as usize]);
                }
                bytes.copy_from_slice(&text.as_bytes()[..PAGE_SIZE]);
            }
            Page::Random(seed) => {
                let mut dice = Dice::new(*seed);
                for chunk in bytes.chunks_exact_mut(8) {
                    chunk.copy_from_slice(&dice.next().to_le_bytes());
                }
            }
            Page::Edited(page, seed) => {
                bytes = page.bytes();
                let mut dice = Dice::new(*seed);
                for _ in 0..=dice.below(20) {
                    bytes[dice.below(PAGE_SIZE as u64) as usize] = dice.next() as u8 | 1;
                }
            }
        }
        bytes
    }
}

/// A guest's pages: holes, stored zeroes, one-byte pages, text, random bytes and duplicates, in
/// runs.
pub(crate) fn mixed(pages: usize, seed: u64) -> Vec<Page> {
    let mut dice = Dice::new(seed);
    let mut guest: Vec<Page> = Vec::new();
    while guest.len() < pages {
        let run = 1 + dice.below(9);
        let kind = dice.below(7);
        for _ in 0..run {
            let page = match kind {
                // File systems keep track of holes in larger units than pages.
                0 | 1 => {
                    guest.extend(vec![Page::Hole; 3]);
                    Page::Hole
                }
                2 => Page::Zero,
                3 => Page::Fill(dice.next() as u8 | 1),
                4 => Page::Text(dice.next()),
                5 => Page::Random(dice.next()),
                _ if guest.is_empty() => Page::Zero,
                _ => guest[dice.below(guest.len() as u64) as usize].clone(),
            };
            guest.push(page);
        }
    }
    guest.truncate(pages);
    guest
}

/// The same guest some time later: about a third of the pages are others. Every kind of change
/// occurs: small and large ones, to zero, to a hole, and from a hole to data.
pub(crate) fn later(guest: &[Page], seed: u64) -> Vec<Page> {
    let mut dice = Dice::new(seed);
    guest
        .iter()
        .map(|page| match dice.below(18) {
            0 => Page::Hole,
            1 => Page::Zero,
            2 => Page::Random(dice.next()),
            3 => Page::Text(dice.next()),
            4..=6 => Page::Edited(Box::new(page.clone()), dice.next()),
            _ => page.clone(),
        })
        .collect()
}

/// A folder that vanishes with the test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    /// On a tmpfs, where reading a hole through a shared map fills it; elsewhere if there is none.
    pub(crate) fn in_memory() -> Folder {
        Folder(tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap()))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes an image.
    pub(crate) fn image(&self, name: &str, guest: &[Page]) -> PathBuf {
        let path = self.path(name);
        write_image(&path, guest);
        path
    }

    /// The names of all files, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn write_image(path: &Path, guest: &[Page]) {
    let file = File::create(path).unwrap();
    file.set_len((guest.len() * PAGE_SIZE) as u64).unwrap();
    for (index, page) in guest.iter().enumerate() {
        if *page != Page::Hole {
            file.write_all_at(&page.bytes(), (index * PAGE_SIZE) as u64)
                .unwrap();
        }
    }
}

/// Bytes that a file takes on its disk.
pub(crate) fn allocated(path: &Path) -> u64 {
    // What is still in memory only has no place yet on some file systems.
    File::open(path).unwrap().sync_all().unwrap();
    std::fs::metadata(path).unwrap().blocks() * 512
}

pub(crate) fn digest(path: &Path) -> Digest {
    Guest::open(path).unwrap().digest().unwrap()
}

/// Compares without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(path: &Path, expected: &Path) {
    let (found, expected) = (
        std::fs::read(path).unwrap(),
        std::fs::read(expected).unwrap(),
    );
    assert_same_bytes(&found, &expected);
}

#[track_caller]
pub(crate) fn assert_same_bytes(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    let differ = found
        .chunks(PAGE_SIZE)
        .zip(expected.chunks(PAGE_SIZE))
        .position(|(a, b)| a != b);
    assert_eq!(differ, None, "the first page that differs");
}
