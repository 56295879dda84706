//! A short run of every target, the same each time: what is stored, and changes of it that are made
//! without knowing what is covered. `fuzz/` does it for hours, with a sanitizer.

use std::path::Path;

use super::{TARGETS, Target, seeds};

/// Numbers that look random, the same ones in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// What numbers at the limits look like.
const ODD: [u64; 10] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xfff,
    0x1000,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];

/// Changes a few bytes, or a stretch.
fn change(input: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let at = dice.below(input.len());
    let most = if dice.below(4) == 0 { 4096 } else { 16 };
    let len = 1 + dice.below(most);
    let end = (at + len).min(input.len());
    match dice.below(8) {
        _ if input.is_empty() => input.extend_from_slice(other),
        0 => input[at] ^= 1 << dice.below(8),
        1 => input[at] = dice.next() as u8,
        2 | 3 => {
            let number = ODD[dice.below(ODD.len())];
            let bytes = match dice.below(2) {
                0 => number.to_le_bytes(),
                _ => number.to_be_bytes(),
            };
            let width = (1 << dice.below(4)).min(input.len() - at);
            let from = if dice.below(2) == 0 { 0 } else { 8 - width };
            input[at..at + width].copy_from_slice(&bytes[from..from + width]);
        }
        4 => drop(input.drain(at..end)),
        5 => {
            let copy = input[at..end].to_vec();
            let to = dice.below(input.len());
            input.splice(to..to, copy);
        }
        6 => input.truncate(at),
        _ => {
            let from = dice.below(other.len());
            let piece = &other[from..(from + len).min(other.len())];
            input.splice(at..at, piece.iter().copied());
        }
    }
}

/// Runs a target, and names the input that it fails for.
fn attempt(target: &Target, input: &[u8], folder: &Path) -> bool {
    let run = || (target.run)(input, folder);
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{}: {} bytes: {hex}", target.name, input.len());
        std::panic::resume_unwind(panic)
    })
}

fn run(name: &str) {
    let target = super::named(name).expect("a target of this name");
    let folder = tempfile::tempdir().expect("a folder");
    let mut stored = (target.seeds)();
    assert!(!stored.is_empty(), "there is nothing to begin with");
    stored.extend(seeds::corpus(name).expect("the corpus"));
    // Otherwise only the way to the first error would be tried.
    let accepted = stored
        .iter()
        .filter(|input| attempt(target, input, folder.path()));
    assert_ne!(accepted.count(), 0, "no stored input is accepted");
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for _ in 0..target.tries {
        let mut input = stored[dice.below(stored.len())].clone();
        for _ in 0..=dice.below(4) {
            let other = dice.below(stored.len());
            change(&mut input, &stored[other], &mut dice);
        }
        attempt(target, &input, folder.path());
    }
}

/// A test for each target, so that they run side by side and a failure has a name.
macro_rules! short_runs {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn every_target_has_a_short_run() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

short_runs!(
    hello,
    frame,
    page_set,
    message,
    return_path,
    tail,
    xbzrle,
    codec,
    monitor_json,
    monitor_client,
    guest_json,
    words,
    inspect,
    qemu_parser,
    send,
    receive_qemu,
    receive_native,
);

#[test]
fn a_corpus_is_read_as_it_was_packed() {
    let inputs = vec![vec![1, 2, 3], Vec::new(), vec![0; 300]];
    let packed = seeds::packed(&inputs);
    assert_eq!(seeds::unpacked(&packed), Some(inputs));
    assert_eq!(seeds::unpacked(&packed[..packed.len() - 1]), None);
}
