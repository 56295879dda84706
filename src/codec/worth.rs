//! Whether a page is worth a compressor's time, judged by its bytes.

use crate::page::PAGE_SIZE;

use super::Method;

/// Whether to look for incompressible pages before compressing with this method. zstd and lz4
/// notice them quickly by themselves. Deflate spends a fifth of its time on the seventh of a real
/// guest's pages that are encrypted or already compressed.
pub(crate) fn sets_aside(method: Method) -> bool {
    matches!(method, Method::Zlib | Method::Gzip)
}

/// Whether a page looks like random bytes, judged by a sample of 128 of them.
///
/// It counts pairs of equal bytes: 128 random ones have 32 on average, plus or minus 6; text and
/// machine code have hundreds. On real guest RAM fewer than 1 page in 1000 is misjudged, and that
/// page is merely sent uncompressed.
pub(crate) fn looks_random(page: &[u8]) -> bool {
    const STRETCH: usize = 16;
    const MOST_PAIRS: u32 = 54;
    let mut seen = [0_u8; 256];
    let mut pairs = 0;
    for part in page.chunks_exact(PAGE_SIZE / 8) {
        for &byte in &part[8..8 + STRETCH] {
            let before = &mut seen[usize::from(byte)];
            pairs += u32::from(*before);
            *before += 1;
        }
    }
    pairs < MOST_PAIRS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_pages_are_distinguished_from_those_that_compress() {
        let mut state = 1_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..PAGE_SIZE).map(|_| random()).collect();
        assert!(looks_random(&noise));
        let text: Vec<u8> = b"The quick brown fox jumps over the lazy dog. "
            .iter()
            .copied()
            .cycle()
            .take(PAGE_SIZE)
            .collect();
        let pointers: Vec<u8> = (0..PAGE_SIZE as u64 / 8)
            .flat_map(|at| (0xffff_8880_0000_0000_u64 + at * 7919).to_le_bytes())
            .collect();
        let base64: Vec<u8> = noise.iter().map(|byte| b'0' + byte % 64).collect();
        for page in [text, pointers, base64, vec![7; PAGE_SIZE]] {
            assert!(!looks_random(&page));
        }
    }
}
