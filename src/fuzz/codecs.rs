//! Compressed bodies and deltas.

use std::path::Path;

use crate::codec::{self, CodecSettings, Decoders, Encoded, Method, ZlibEngine};
use crate::delta::{self, Delta};
use crate::page::PAGE_SIZE;

/// The most bytes that a body is to decode to.
const MOST: usize = 64 << 10;

/// The first byte chooses the method, the next three the settings and the expected length. The rest
/// is decoded, which gives that many bytes or an error; and encoded, which comes back.
pub(super) fn codec(data: &[u8], _: &Path) -> bool {
    let Some((&[method, level, low, high], rest)) = data.split_first_chunk() else {
        return false;
    };
    let method = Method::ALL[usize::from(method) % Method::ALL.len()];
    let len = usize::from(u16::from_le_bytes([low, high]));
    let mut decoders = Decoders::default();
    let mut plain = Vec::new();
    let decoded = decoders.decode((method, rest), len, &mut plain);
    let decoded = decoded.map(<[u8]>::len).ok();
    assert!(decoded.is_none_or(|made| made == len));
    assert!(plain.len() <= MOST);

    let levels = method.levels();
    let settings = CodecSettings {
        method,
        level: level % (levels.end() + 1),
        zlib_engine: ZlibEngine::ALL[usize::from(level >> 7)],
    };
    let mut encoder = codec::encoder(settings).expect("an allowed level");
    for room in [rest.len().saturating_sub(1), 2 * rest.len() + 64] {
        let mut body = vec![0; room];
        let encoded = encoder.encode(rest, &mut body).expect("it is encoded");
        let Encoded::Done(len) = encoded else {
            continue;
        };
        // What a failed body left behind in the decoder must not matter.
        let decoded = decoders.decode((method, &body[..len]), rest.len(), &mut plain);
        assert_eq!(decoded, Ok(rest));
    }
    decoded.is_some()
}

/// As a delta, the input is refused or makes one page, always the same. As an edit of a page (the
/// place and the bytes) its delta leads back to it.
pub(super) fn xbzrle(data: &[u8], _: &Path) -> bool {
    let (mut one, mut other) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    let outcome = delta::decode(data, &mut one);
    assert_eq!(delta::decode(data, &mut other), outcome);
    assert_eq!(one, other);
    if outcome.is_ok() && one != [0; PAGE_SIZE] {
        round_trip(&[0; PAGE_SIZE], &one);
    }

    let old: [u8; PAGE_SIZE] = std::array::from_fn(|at| (at / 7) as u8);
    let mut new = old;
    let mut rest = data;
    while let Some((&[low, high, len], after)) = rest.split_first_chunk() {
        let at = usize::from(u16::from_le_bytes([low, high])) % PAGE_SIZE;
        let len = usize::from(len).min(after.len()).min(PAGE_SIZE - at);
        new[at..at + len].copy_from_slice(&after[..len]);
        rest = &after[len..];
    }
    round_trip(&old, &new);
    outcome.is_ok()
}

fn round_trip(old: &[u8; PAGE_SIZE], new: &[u8; PAGE_SIZE]) {
    let mut out = [0; PAGE_SIZE];
    match delta::encode(old, new, &mut out) {
        Delta::Unchanged => assert_eq!(old, new),
        Delta::Encoded(len) => {
            let mut page = *old;
            assert_eq!(delta::decode(&out[..len], &mut page), Ok(()));
            assert_eq!(&page, new);
        }
        Delta::Overflow => assert_ne!(old, new),
    }
}
