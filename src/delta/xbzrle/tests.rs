//! XBZRLE against a naive reference, known vectors, and broken deltas.

use proptest::prelude::*;

use super::*;

type Page = [u8; PAGE_SIZE];

/// The encoding byte by byte, straight from its description.
fn reference(old: &Page, new: &Page, limit: usize) -> Option<Vec<u8>> {
    fn put(out: &mut Vec<u8>, length: usize) {
        if length < 0x80 {
            out.push(length as u8);
        } else {
            out.extend([(length & 0x7f | 0x80) as u8, (length >> 7) as u8]);
        }
    }
    let limit = limit.min(PAGE_SIZE);
    let mut out = Vec::new();
    let mut at = 0;
    while at < PAGE_SIZE {
        if out.len() + 2 > limit {
            return None;
        }
        let start = at;
        while at < PAGE_SIZE && old[at] == new[at] {
            at += 1;
        }
        if at == PAGE_SIZE {
            break;
        }
        put(&mut out, at - start);
        if out.len() + 2 > limit {
            return None;
        }
        let start = at;
        while at < PAGE_SIZE && old[at] != new[at] {
            at += 1;
        }
        put(&mut out, at - start);
        if out.len() + (at - start) > limit {
            return None;
        }
        out.extend(&new[start..at]);
    }
    Some(out)
}

/// Encodes, compares with the reference, and decodes again what there is.
fn check(old: &Page, new: &Page, limit: usize) -> Delta {
    let mut out = vec![0xee; limit];
    let delta = encode(old, new, &mut out);
    match (delta, reference(old, new, limit)) {
        (Delta::Unchanged, Some(expected)) => {
            assert!(expected.is_empty());
            assert_eq!(old, new);
        }
        (Delta::Encoded(length), Some(expected)) => {
            assert_eq!(&out[..length], expected);
            let mut page = *old;
            decode(&out[..length], &mut page).expect("what encode writes");
            assert_eq!(&page, new);
        }
        (Delta::Overflow, None) => {}
        (delta, expected) => panic!("{delta:?}, the reference gives {expected:?}"),
    }
    delta
}

fn encoded(old: &Page, new: &Page) -> Vec<u8> {
    let mut out = vec![0; PAGE_SIZE];
    match encode(old, new, &mut out) {
        Delta::Encoded(length) => out.truncate(length),
        delta => panic!("{delta:?}"),
    }
    out
}

#[test]
fn an_equal_page_is_unchanged() {
    for fill in [0, 7] {
        let page = [fill; PAGE_SIZE];
        assert_eq!(check(&page, &page, PAGE_SIZE), Delta::Unchanged);
    }
}

#[test]
fn known_pages_have_known_deltas() {
    let old = [0; PAGE_SIZE];
    let mut new = old;
    new[PAGE_SIZE - 1] = 1;
    assert_eq!(encoded(&old, &new), [0xff, 0x1f, 1, 1]);

    new[0] = 2;
    assert_eq!(encoded(&old, &new), [0, 1, 2, 0xfe, 0x1f, 1, 1]);

    let mut new = old;
    new[3..6].copy_from_slice(&[9, 8, 7]);
    new[7] = 6;
    assert_eq!(encoded(&old, &new), [3, 3, 9, 8, 7, 1, 1, 6]);

    let mut new = old;
    new[128..256].fill(5);
    let delta = encoded(&old, &new);
    assert_eq!(delta[..4], [0x80, 1, 0x80, 1]);
    assert_eq!(delta[4..], [5; 128]);
}

#[test]
fn a_byte_changed_anywhere_is_found() {
    let old = [0x55; PAGE_SIZE];
    for at in 0..PAGE_SIZE {
        let mut new = old;
        new[at] ^= 0x80;
        assert!(matches!(
            check(&old, &new, PAGE_SIZE),
            Delta::Encoded(3 | 4)
        ));
    }
}

#[test]
fn an_equal_byte_anywhere_ends_a_run() {
    let old = [0x55; PAGE_SIZE];
    for at in 0..PAGE_SIZE {
        let mut new = [0xaa; PAGE_SIZE];
        new[at] = 0x55;
        // 3 equal bytes more let it fit.
        new[at.saturating_sub(8)..at].fill(0x55);
        check(&old, &new, PAGE_SIZE);
    }
}

#[test]
fn a_page_changed_throughout_overflows() {
    let (old, new) = ([0; PAGE_SIZE], [1; PAGE_SIZE]);
    assert_eq!(check(&old, &new, PAGE_SIZE), Delta::Overflow);
}

#[test]
fn isolated_changes_overflow_where_qemu_gives_up() {
    let old = [0; PAGE_SIZE];
    let every_second = |count: usize| {
        let mut new = old;
        new.iter_mut()
            .step_by(2)
            .take(count)
            .for_each(|byte| *byte = 1);
        check(&old, &new, PAGE_SIZE)
    };
    assert_eq!(every_second(2047), Delta::Overflow);
    // 1365 changes are 4095 bytes: they fit, but not the test before the equal rest.
    assert_eq!(every_second(1365), Delta::Overflow);
    assert_eq!(every_second(1364), Delta::Encoded(4092));
}

#[test]
fn a_delta_of_a_whole_page_is_accepted_when_nothing_remains() {
    // 4 bytes of lengths, 4092 of the page's last bytes.
    let old = [0; PAGE_SIZE];
    let mut new = [1; PAGE_SIZE];
    new[..4].fill(0);
    assert_eq!(check(&old, &new, PAGE_SIZE), Delta::Encoded(4095));
    new[3] = 1;
    assert_eq!(check(&old, &new, PAGE_SIZE), Delta::Encoded(PAGE_SIZE));
    new[2] = 1;
    assert_eq!(check(&old, &new, PAGE_SIZE), Delta::Overflow);
}

#[test]
fn every_limit_is_kept() {
    let old = [0; PAGE_SIZE];
    let mut new = old;
    new[100..110].fill(1);
    new[300..310].fill(2);
    for limit in 0..64 {
        let delta = check(&old, &new, limit);
        assert_eq!(
            delta == Delta::Overflow,
            limit < 2 + 10 + 3 + 10 + 2,
            "{limit}"
        );
    }
    // Longer outputs allow no more than a page.
    let new = [1; PAGE_SIZE];
    assert_eq!(check(&old, &new, 3 * PAGE_SIZE), Delta::Overflow);
}

#[test]
fn broken_deltas_are_errors_with_their_place() {
    use DeltaError::*;
    let refused = |delta: &[u8]| decode(delta, &mut [0; PAGE_SIZE]).expect_err("broken");
    assert_eq!(refused(&[0; PAGE_SIZE + 1]), TooLong { given: 4097 });
    assert_eq!(refused(&[5]), Truncated { at: 0, left: 1 });
    assert_eq!(refused(&[5, 1]), Truncated { at: 1, left: 1 });
    assert_eq!(refused(&[0x85, 1]), Truncated { at: 2, left: 0 });
    assert_eq!(refused(&[5, 1, 9, 5]), Truncated { at: 3, left: 1 });
    assert_eq!(refused(&[0x80, 0x80, 1, 1]), BadLength { at: 0 });
    assert_eq!(refused(&[1, 0x80, 0x81, 1]), BadLength { at: 1 });
    assert_eq!(refused(&[0, 1, 9, 0, 1, 9]), EmptyRun { at: 3 });
    assert_eq!(refused(&[1, 0, 9]), EmptyRun { at: 1 });
    assert_eq!(refused(&[0x81, 0x20, 1, 9]), PastPage { at: 0, end: 4097 });
    assert_eq!(refused(&[0x80, 0x20, 1, 9]), PastPage { at: 2, end: 4097 });
    let past_page = [0xff, 0x1f, 2, 9, 9];
    assert_eq!(refused(&past_page), PastPage { at: 2, end: 4097 });
    let past_delta = PastDelta {
        at: 1,
        run: 3,
        left: 2,
    };
    assert_eq!(refused(&[1, 3, 9, 9]), past_delta);
}

#[test]
fn what_other_encoders_may_write_is_accepted() {
    // A run of new bytes may cover equal ones, lengths may be longer than need be, and an
    // empty delta changes nothing.
    let mut page = [0; PAGE_SIZE];
    decode(&[2, 3, 1, 0, 1], &mut page).expect("covers an equal byte");
    assert_eq!(page[..6], [0, 0, 1, 0, 1, 0]);
    decode(&[0x80, 0, 0x81, 0, 7], &mut page).expect("long form of 0 and 1");
    assert_eq!(page[..3], [7, 0, 1]);
    decode(&[], &mut page).expect("empty");
}

#[test]
fn every_truncation_is_an_error_or_ends_between_pairs() {
    let old = [0; PAGE_SIZE];
    let mut new = old;
    new[10..20].fill(1);
    new[1000..1200].fill(2);
    let delta = encoded(&old, &new);
    for length in 1..delta.len() {
        let result = decode(&delta[..length], &mut old.clone());
        assert_eq!(result.is_ok(), length == 12, "{length}");
    }
}

/// Pages that differ in runs of all lengths and places, some of them in single bytes.
fn pages() -> impl Strategy<Value = (Box<Page>, Box<Page>)> {
    let runs = prop::collection::vec(
        (
            0..PAGE_SIZE,
            prop_oneof![1..4_usize, 1..200_usize, 1..4096_usize],
            any::<u8>(),
            1..4_usize,
        ),
        0..40,
    );
    (any::<u64>(), runs).prop_map(|(seed, runs)| {
        let mut old = Box::new([0; PAGE_SIZE]);
        for (at, byte) in old.iter_mut().enumerate() {
            *byte = (seed.rotate_left((at % 64) as u32) >> 8) as u8;
        }
        let mut new = old.clone();
        for (start, length, byte, step) in runs {
            let end = (start + length).min(PAGE_SIZE);
            for byte_of_run in new[start..end].iter_mut().step_by(step) {
                *byte_of_run = byte_of_run.wrapping_add(byte | 1);
            }
        }
        (old, new)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn encoding_equals_the_reference_and_decodes((old, new) in pages(), limit in prop_oneof![
        4 => Just(PAGE_SIZE), 1 => 0..PAGE_SIZE,
    ]) {
        check(&old, &new, limit);
    }

    #[test]
    fn scattered_changes_equal_the_reference(
        places in prop::collection::vec(0..PAGE_SIZE, 0..1500),
        fill in any::<u8>(),
    ) {
        let old = [fill; PAGE_SIZE];
        let mut new = old;
        for at in places {
            new[at] = new[at].wrapping_add(1 + (at % 3) as u8);
        }
        check(&old, &new, PAGE_SIZE);
    }

    #[test]
    fn decoding_arbitrary_bytes_never_panics(
        delta in prop::collection::vec(prop_oneof![any::<u8>(), 0..4_u8], 0..200),
    ) {
        let _ = decode(&delta, &mut [0; PAGE_SIZE]);
    }
}
