//! Reading back in pieces finds what a single pass at the end would find.

use proptest::prelude::*;

use super::*;
use crate::params::Params;

const BLOCKS: [(&str, u64); 3] = [("pc.ram", 1200), ("vga", 70), ("rom", 1)];

fn output(folder: &tempfile::TempDir) -> Output {
    let blocks = BLOCKS.map(|(name, pages)| (name.to_owned(), pages * PAGE_SIZE as u64));
    Output::folder(&folder.path().join("out"), &blocks, false).unwrap()
}

fn context() -> Context {
    Context::new(Params::default()).unwrap()
}

/// What a round does to neighbouring pages of a block.
#[derive(Debug, Clone, Copy)]
struct Change {
    block: usize,
    range: PageRange,
    /// 0: they are cleared.
    byte: u8,
}

impl Change {
    fn new(block: usize, start: u64, count: u64, byte: u8) -> Change {
        let (start, end) = (start.min(BLOCKS[block].1), start + count);
        let range = PageRange::between(start, end.min(BLOCKS[block].1));
        Change { block, range, byte }
    }

    /// Makes the change as a decoder does.
    fn make(self, proof: &Proof, output: &Output, is_bulk: bool) {
        let block = &output.blocks()[self.block];
        proof.touch(self.block, [self.range].into_iter());
        if self.byte > 0 {
            let bytes = vec![self.byte; self.range.count as usize * PAGE_SIZE];
            block.place(self.range.start, &bytes).unwrap();
        } else if !is_bulk && self.range.count > 0 {
            block.clear(self.range).unwrap();
        }
    }
}

/// Makes all rounds while a thread reads back. Returns what that and a single pass find.
fn prove(rounds: &[Vec<Change>], context: &Context) -> (Vec<Digest>, Digest) {
    let folder = tempfile::tempdir().unwrap();
    let mut output = output(&folder);
    let proof = Proof::default();
    std::thread::scope(|scope| {
        for (number, changes) in rounds.iter().enumerate() {
            for change in changes {
                change.make(&proof, &output, number == 0);
            }
            if proof.end_round(number + 1 == rounds.len(), &output) {
                scope.spawn(|| proof.run(&output, context).unwrap());
            }
        }
        proof.stop();
    });
    let found = proof.finish(&output, context).unwrap();
    (found, Digest(output.sum_hashes().unwrap().0))
}

fn sum(blocks: &[Digest]) -> Digest {
    let mut sum = Digest::default();
    blocks.iter().for_each(|block| sum.add(block.0));
    sum
}

fn change() -> impl Strategy<Value = Change> {
    (0..BLOCKS.len(), 0_u64..1200, 1_u64..700, 0_u8..4)
        .prop_map(|(block, start, count, byte)| Change::new(block, start, count, byte))
}

proptest! {
    #[test]
    fn several_rounds_are_proven_as_a_single_pass_proves_them(
        rounds in proptest::collection::vec(proptest::collection::vec(change(), 0..6), 2..6),
    ) {
        let (found, walked) = prove(&rounds, &context());
        prop_assert_eq!(found.len(), BLOCKS.len());
        prop_assert_eq!(sum(&found), walked);
    }
}

#[test]
fn each_blocks_digest_is_its_own() {
    let all = |byte| (0..3).map(move |block| Change::new(block, 0, 1200, byte));
    let rounds = [all(1).collect(), vec![Change::new(1, 3, 5, 2)], Vec::new()];
    let (found, walked) = prove(&rounds, &context());
    assert_eq!(sum(&found), walked);
    for (block, (digest, (name, pages))) in found.iter().zip(BLOCKS).enumerate() {
        let seed = crate::page::BlockSeed::new(name);
        let mut expected = Digest::default();
        for page in 0..pages {
            let byte = if block == 1 && (3..8).contains(&page) {
                2
            } else {
                1
            };
            expected.add(seed.hash(PageIndex(page), &[byte; PAGE_SIZE]));
        }
        assert_eq!(*digest, expected, "{name}");
    }
}

/// A round of all pages and one of a single page; returns each block's digest.
fn after_the_bulk(context: &Context, then: impl FnOnce(&Proof, &Output)) -> Vec<Digest> {
    let folder = tempfile::tempdir().unwrap();
    let output = output(&folder);
    let proof = Proof::default();
    Change::new(0, 0, 1200, 1).make(&proof, &output, true);
    proof.end_round(false, &output);
    then(&proof, &output);
    proof.end_round(true, &output);
    proof.finish(&output, context).unwrap()
}

/// Lets the thread read until nothing is due, and no further.
fn read_all_that_is_due(proof: &Proof, output: &Output) {
    let mut held = sync::lock(&proof.held);
    let mut reader = ReadBack::default();
    let mut cursor = Cursor::default();
    loop {
        let window = proof.take(&mut cursor, output.blocks()).unwrap();
        if window.is_empty() {
            break;
        }
        for step in steps(&window, output.blocks(), &mut held).unwrap() {
            let hashes = reader.read(output.blocks(), step).unwrap();
            held.note(output.blocks(), step, hashes);
        }
    }
}

#[test]
fn a_foreign_change_is_found_before_the_page_is_read_back_and_not_after() {
    let context = context();
    let damage = |output: &Output| {
        let block = &output.blocks()[0];
        block.place(PageIndex(77), &[9; PAGE_SIZE]).unwrap();
    };
    let good = after_the_bulk(&context, |_, _| {});
    let before = after_the_bulk(&context, |proof, output| {
        damage(output);
        read_all_that_is_due(proof, output);
    });
    assert_ne!(before, good);
    let after = after_the_bulk(&context, |proof, output| {
        read_all_that_is_due(proof, output);
        damage(output);
    });
    assert_eq!(after, good, "this is what the module's description admits");
    let touched_again = after_the_bulk(&context, |proof, output| {
        read_all_that_is_due(proof, output);
        Change::new(0, 70, 10, 1).make(proof, output, false);
        damage(output);
    });
    assert_ne!(touched_again, good);
}

#[test]
fn what_was_read_is_not_read_again_unless_it_was_touched() {
    after_the_bulk(&context(), |proof, output| {
        assert_eq!(proof.due(), BLOCKS.iter().map(|block| block.1).sum::<u64>());
        read_all_that_is_due(proof, output);
        assert_eq!(proof.due(), 0);
        Change::new(0, 70, 10, 2).make(proof, output, false);
        assert_eq!(proof.due(), 0, "its round is not over");
        proof.end_round(false, output);
        assert_eq!(proof.due(), 10);
        Change::new(0, 75, 10, 3).make(proof, output, false);
        assert_eq!(proof.due(), 5, "what is about to change need not be read");
    });
}

/// A bitmap alone would have 32 Mi words to look through, and each page a hash to look up.
#[test]
fn what_is_only_announced_is_neither_marked_nor_read() {
    let folder = tempfile::tempdir().unwrap();
    let pages = MAX_PAGES;
    let blocks = [("pc.ram".to_owned(), pages * PAGE_SIZE as u64)];
    let Ok(output) = Output::image(&folder.path().join("out"), &blocks, false) else {
        return; // A file system without files of 4 TiB.
    };
    let proof = Proof::default();
    let block = &output.blocks()[0];
    let places = [0, pages / 2, pages - 1].map(PageIndex);
    for page in places {
        block.place(page, &[7; PAGE_SIZE]).unwrap();
    }
    assert!(proof.end_round(false, &output));
    let (mut cursor, mut taken) = (Cursor::default(), Vec::new());
    loop {
        let window = proof.take(&mut cursor, output.blocks()).unwrap();
        if window.is_empty() {
            break;
        }
        taken.extend(window);
    }
    // A hole is at least as long as what a file system allocates at once.
    let count: u64 = taken.iter().map(|(_, range)| range.count).sum();
    assert!(count <= 3 * WINDOW, "{count}");
    for page in places {
        let is_there = |(_, range): &Stretch| range.pages().any(|one| one == page);
        assert!(taken.iter().any(is_there), "{page:?} in {taken:?}");
    }
    assert_eq!(proof.due(), 0);
}

#[test]
fn one_round_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let output = output(&folder);
    let proof = Proof::default();
    Change::new(0, 0, 10, 1).make(&proof, &output, true);
    proof.end_round(true, &output);
    assert!(!proof.is_begun());
}

#[test]
fn a_file_that_became_shorter_is_an_error_even_if_all_of_it_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let output = output(&folder);
    let proof = Proof::default();
    Change::new(0, 0, 1200, 1).make(&proof, &output, true);
    proof.end_round(false, &output);
    read_all_that_is_due(&proof, &output);
    let path = folder.path().join("out.partial/pc.ram");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(PAGE_SIZE as u64).unwrap();
    let error = proof.finish(&output, &context()).unwrap_err();
    let cause = error.cause::<ImageError>().unwrap();
    assert!(
        matches!(cause, ImageError::Truncated { size: 4096, .. }),
        "{error}"
    );
}

#[test]
fn an_abort_ends_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = output(&folder);
    let (proof, context) = (Proof::default(), context());
    Change::new(0, 0, 1200, 1).make(&proof, &output, true);
    proof.end_round(false, &output);
    context.abort.raise();
    proof.run(&output, &context).unwrap();
    assert!(proof.due() > 0);
    let error = proof.finish(&output, &context).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
}
