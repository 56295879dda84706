//! What the pages of a synthetic guest are made from: a maker for each class of pages.

use super::PageKind;
use super::random::Random;
use crate::page::PAGE_SIZE;

/// Pages that are kept to be duplicated later.
const KEPT_PAGES: usize = 64;
/// Words in the vocabulary; a power of two.
const WORDS: u32 = 1 << 14;
/// Kinds of instructions; a power of two.
const INSTRUCTIONS: u32 = 1 << 12;
/// Kinds of files, slabs and heaps in a guest, each of which recurs.
const STYLES: u32 = 32;
/// Words of eight bytes in the largest record of a slab.
const MOST_FIELDS: u32 = 128;
/// The byte with which a kernel poisons freed memory.
const POISON: u8 = 0xcc;

/// Up to eight bytes, partly fixed and partly different at each use.
#[derive(Debug, Clone, Copy)]
struct Snippet {
    bytes: u64,
    /// The bits that differ at each use.
    varies: u64,
    len: usize,
}

/// What one field of a kernel's record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// Not in use.
    Zero,
    /// An empty list: it points at itself, twice.
    List,
    /// The same for all of its kind, such as a table of functions.
    Fixed(u64),
    /// Another record.
    Pointer,
    /// A counter, a size or flags.
    Small,
    /// A hash, a time, a random number.
    Number,
    /// Up to eight letters.
    Name,
}

/// What pages of one kind have in common.
#[derive(Debug, Clone)]
struct Style {
    /// Where the vocabulary begins in `words`.
    topic: u32,
    /// Of 256 words of a text, the number that are repetitions.
    sameness: u64,
    /// The percentage of fields or objects that are not in use.
    unused: u64,
    /// The bytes of most objects.
    object: usize,
    /// The fields of a record.
    fields: Vec<Field>,
}

/// What pages are made from.
#[derive(Debug)]
pub(super) struct Maker {
    random: Random,
    words: Vec<([u8; 16], usize)>,
    instructions: Vec<Snippet>,
    kept: Vec<u8>,
    styles: Vec<Style>,
    /// The style of this run.
    style: usize,
    /// What the guest's pointers have in common.
    base: u64,
    /// The next number of a sequence, such as a key.
    sequence: u64,
}

impl Maker {
    pub(super) fn new(mut random: Random) -> Maker {
        let words = (0..WORDS).map(|_| word(&mut random)).collect();
        let instructions = (0..INSTRUCTIONS)
            .map(|_| instruction(&mut random))
            .collect();
        let styles = (0..STYLES)
            .map(|number| style(&mut random, number))
            .collect();
        Maker {
            words,
            instructions,
            kept: Vec::with_capacity(KEPT_PAGES * PAGE_SIZE),
            styles,
            style: 0,
            base: random.next() & 0x7f_ff00_0000,
            sequence: 0,
            random,
        }
    }

    /// The generator of all random numbers.
    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Pages of one run resemble each other: they come from the same file or the same slab.
    pub(super) fn begin_run(&mut self) {
        self.style = self.random.below(STYLES) as usize;
    }

    fn style(&self) -> &Style {
        &self.styles[self.style]
    }

    /// Makes a page out of zeros.
    pub(super) fn page(&mut self, class: PageKind, page: &mut [u8]) {
        match class {
            PageKind::Zero => {}
            PageKind::Text => self.text(page),
            PageKind::Code => self.code(page),
            PageKind::Slab => self.slab(page),
            PageKind::Objects => self.objects(page),
            PageKind::Rows => self.rows(page),
            PageKind::Sparse => self.sparse(page),
            PageKind::Compressed => self.compressed(page),
            PageKind::Duplicate => self.duplicate(page),
            PageKind::Fill => {
                // Nearly always the same byte.
                let draw = self.random.next();
                page.fill(if draw & 31 == 0 {
                    1 + (draw >> 8) as u8 % 255
                } else {
                    POISON
                });
            }
        }
        self.keep(page);
    }

    /// A word with Zipf's distribution: few are common and most are rare.
    fn word(&self, draw: u64) -> &([u8; 16], usize) {
        // The cube of a uniform distribution: half of all draws hit an eighth of the words.
        let even = draw & 0x3fff;
        let rank = (((even * even) >> 14) * even) >> 14;
        let place = (self.style().topic.wrapping_add(rank as u32)) & (WORDS - 1);
        &self.words[place as usize]
    }

    /// Words, and some phrases that occurred before.
    fn text(&mut self, page: &mut [u8]) {
        // Files end within their last page.
        let end = match self.random.below(8) {
            0 => self.random.below(page.len() as u32) as usize,
            _ => page.len(),
        };
        let page = &mut page[..end];
        let mut at = 0;
        while at < page.len() {
            let draw = self.random.next();
            if draw >> 56 < self.style().sameness {
                at = repeat(page, at, draw);
                continue;
            }
            let (word, len) = self.word(draw);
            at = put(page, at, word, *len);
        }
    }

    /// Instructions, few of them common and most rare, and idioms that occurred before.
    fn code(&mut self, page: &mut [u8]) {
        let mut at = 0;
        while at < page.len() {
            let draw = self.random.next();
            if draw >> 56 < self.style().sameness / 2 {
                at = repeat(page, at, draw);
                continue;
            }
            let even = draw & 0xfff;
            let rank = (((even * even) >> 12) * even) >> 12;
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

    /// A kernel's slab: records of equal layout, half of it unused.
    fn slab(&mut self, page: &mut [u8]) {
        let base = 0xffff_8880_0000_0000 | self.base;
        let own = base | (self.random.next() & 0xff_f000);
        let fields = std::mem::take(&mut self.styles[self.style].fields);
        let mut value = 0;
        let mut twice = false;
        for (index, word) in page.chunks_exact_mut(8).enumerate() {
            let draw = self.random.next();
            if twice {
                // The second half of a list entry.
                twice = false;
            } else {
                value = match fields[index % fields.len()] {
                    Field::Zero => 0,
                    Field::List => {
                        twice = true;
                        own | (index as u64 * 8)
                    }
                    Field::Fixed(value) => value,
                    Field::Pointer if draw >> 62 == 0 => 0,
                    Field::Pointer => base | (draw & 0xff_ffc0),
                    Field::Small => (draw & 0x1f) >> (draw >> 8 & 7),
                    Field::Number => draw & 0xffff_ffff,
                    Field::Name => {
                        let (word, len) = self.word(draw);
                        let mut name = [0; 8];
                        let len = (*len - 1).min(8);
                        name[..len].copy_from_slice(&word[..len]);
                        u64::from_le_bytes(name)
                    }
                };
            }
            word.copy_from_slice(&value.to_le_bytes());
        }
        self.styles[self.style].fields = fields;
    }

    /// The heap of an interpreter: small objects, each with a count, a kind and a value.
    fn objects(&mut self, page: &mut [u8]) {
        let heap = 0x7f00_0000_0000 | self.base;
        let kind = 0x55_0000_0000 | self.base & 0xff_ff00_0000;
        let mut at = 0;
        let Style { unused, object, .. } = *self.style();
        while at + 32 <= page.len() {
            let draw = self.random.next();
            if (draw >> 32) % 500 < unused {
                at += object;
                continue;
            }
            let mut words = [1 + (draw & 1), kind | ((draw >> 8 & 3) * 0x1c0), 0, 0];
            let more = self.random.next();
            match draw >> 16 & 7 {
                0..3 => words[2] = more & 0xffff,
                3 => words[2] = more >> 2 | 0x3fe0_0000_0000_0000,
                4..6 => {
                    words[2] = heap | (more & 0xf_fff0);
                    words[3] = heap | (more >> 32 & 0xf_fff0);
                }
                _ => {}
            }
            // Sometimes an object of another size.
            let len = if draw >> 24 & 15 == 0 { 32 } else { object };
            for (word, room) in words.iter().zip(page[at..at + len].chunks_exact_mut(8)) {
                room.copy_from_slice(&word.to_le_bytes());
            }
            at += len;
        }
    }

    /// A page of a table: a head, rows with a key, numbers and texts, and unused room.
    fn rows(&mut self, page: &mut [u8]) {
        let head = [
            self.sequence,
            0x1000_0f80_0018_0001,
            self.base & 0xffff_ffff,
        ];
        for (word, room) in head.iter().zip(page.chunks_exact_mut(8)) {
            room.copy_from_slice(&word.to_le_bytes());
        }
        let end = PAGE_SIZE - self.random.below(PAGE_SIZE as u32 / 3) as usize;
        let page = &mut page[..end];
        let mut at = 24;
        while at < page.len() {
            self.sequence += 1;
            let draw = self.random.next();
            let flags = 0x0900_0000 | (draw & 3);
            at = put(page, at, &flags.to_le_bytes(), 4);
            at = put(page, at, &self.sequence.to_le_bytes(), 8);
            // An amount, and a time that increases slowly.
            at = put(page, at, &(draw >> 8 & 0xf_ffff).to_le_bytes(), 4);
            let time = 0x0002_b5e3_0000_0000 + self.sequence * 997 + (draw >> 40);
            at = put(page, at, &time.to_le_bytes(), 8);
            // One of a few words, an unused column, and some words of text.
            let (state, _) = &self.words
                [(self.style().topic.wrapping_add(draw as u32 >> 2 & 7) & (WORDS - 1)) as usize];
            at = put(page, at, state, 12);
            at = put(page, at, &[0; 8], 8);
            for _ in 0..1 + (draw >> 32 & 3) {
                let draw = self.random.next();
                let (word, len) = self.word(draw);
                at = put(page, at, word, *len);
            }
        }
    }

    /// An almost unused page: short stretches of data, and zeros.
    fn sparse(&mut self, page: &mut [u8]) {
        for _ in 0..1 + self.random.below(8) {
            let draw = self.random.next();
            let start = (draw as usize % PAGE_SIZE) & !7;
            let len = 32 + (draw >> 16) as usize % 224;
            let end = (start + len).min(PAGE_SIZE);
            let stretch = &mut page[start..end];
            match draw >> 61 {
                0 => self.text(stretch),
                1 => self.code(stretch),
                2..6 => self.slab(stretch),
                _ => self.objects(stretch),
            }
        }
    }

    fn compressed(&mut self, page: &mut [u8]) {
        for word in page.chunks_exact_mut(8) {
            word.copy_from_slice(&self.random.next().to_le_bytes());
        }
    }

    /// A copy of an earlier page; the first pages have nothing to copy.
    fn duplicate(&mut self, page: &mut [u8]) {
        let kept = (self.kept.len() / PAGE_SIZE) as u32;
        if kept == 0 {
            self.code(page);
        } else {
            let at = self.random.below(kept) as usize * PAGE_SIZE;
            page.copy_from_slice(&self.kept[at..at + PAGE_SIZE]);
        }
    }

    /// Keeps some pages to be duplicated.
    fn keep(&mut self, page: &[u8]) {
        if self.kept.len() < KEPT_PAGES * PAGE_SIZE {
            self.kept.extend_from_slice(page);
        } else if self.random.below(16) == 0 {
            let at = self.random.below(KEPT_PAGES as u32) as usize * PAGE_SIZE;
            self.kept[at..at + PAGE_SIZE].copy_from_slice(page);
        }
    }
}

/// A random style. How well its pages compress follows from its number, so that guests of different
/// seeds compress alike.
fn style(random: &mut Random, number: u32) -> Style {
    let even = u64::from(number * 64 / STYLES);
    let unused = 25 + u64::from(number * 13 % STYLES * 50 / STYLES);
    let fields = 24 + random.below(MOST_FIELDS - 24);
    Style {
        topic: random.below(WORDS),
        // Few files have many repetitions.
        sameness: 25 + ((even * even * even) >> 11),
        unused,
        object: 24 + 8 * (number as usize & 1),
        fields: (0..fields).map(|_| field(random, unused)).collect(),
    }
}

fn field(random: &mut Random, unused: u64) -> Field {
    let draw = random.next();
    if draw % 100 < unused {
        return Field::Zero;
    }
    match draw >> 8 & 0x3f {
        0..20 => Field::List,
        20..34 => Field::Fixed(0xffff_ffff_a000_0000 | (draw >> 32) & 0xff_ffc0),
        34..42 => Field::Pointer,
        42..58 => Field::Small,
        58..61 => Field::Number,
        _ => Field::Name,
    }
}

/// Copies the first `len` of `bytes` to `page` as far as there is room; gives the end.
fn put(page: &mut [u8], at: usize, bytes: &[u8], len: usize) -> usize {
    let room = page.get_mut(at..).unwrap_or_default();
    match room.get_mut(..bytes.len()) {
        // Copying a fixed length is one move; the excess is overwritten by the next copy.
        Some(room) => room.copy_from_slice(bytes),
        None => {
            let fits = room.len().min(len);
            room[..fits].copy_from_slice(&bytes[..fits]);
        }
    }
    at + len
}

/// Repeats 8 to 39 bytes from anywhere before `at`; gives the end.
fn repeat(page: &mut [u8], at: usize, draw: u64) -> usize {
    let len = 8 + (draw & 31) as usize;
    let len = len.min(at).min(page.len() - at);
    // At the beginning of a page there is nothing to repeat: write a blank.
    if len == 0 {
        page[at] = b' ';
        return at + 1;
    }
    let from = (draw >> 8) as usize % (at - len + 1);
    page.copy_within(from..from + len, at);
    at + len
}

/// A word of 2 to 12 letters and the blank after it.
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
        // Bits are more often 0 than 1, because numbers in programs are mostly small.
        bytes: random.next() & random.next(),
        varies,
        len,
    }
}
