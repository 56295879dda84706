//! What every codec promises, over all methods, levels and engines.

use super::*;
use crate::page::PAGE_SIZE;

/// Pseudo-random words from a seed (splitmix64).
fn random(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    random(seed)
        .flat_map(u64::to_le_bytes)
        .take(length)
        .collect()
}

/// `pages` pages of each class that guest memory has, by name.
fn classes(pages: usize) -> Vec<(&'static str, Vec<u8>)> {
    let length = pages * PAGE_SIZE;
    let words = [
        "page ", "round ", "of ", "the ", "guest ", "memory ", "is ", "sent ", "\n",
    ];
    let text: Vec<u8> = random(1)
        .flat_map(|word| words[(word % 9) as usize].bytes())
        .take(length)
        .collect();
    let pointers = random(2)
        .flat_map(|word| (0xffff_8880_0000_0000 | (word & 0x3fff_ffc0)).to_le_bytes())
        .take(length)
        .collect();
    let mut half_zero = vec![0; length];
    for (page, noise) in half_zero
        .chunks_exact_mut(PAGE_SIZE)
        .zip(random_bytes(3, length).chunks_exact(PAGE_SIZE))
    {
        page[PAGE_SIZE / 2..].copy_from_slice(&noise[PAGE_SIZE / 2..]);
    }
    vec![
        ("zero", vec![0; length]),
        ("fill", vec![0x5a; length]),
        ("text", text),
        ("random", random_bytes(4, length)),
        ("pointers", pointers),
        ("half zero", half_zero),
    ]
}

/// Every method that compresses, with each engine and these levels where it has them.
fn settings(levels: &[u8]) -> Vec<CodecSettings> {
    let mut all = Vec::new();
    for method in [Method::Zlib, Method::Gzip, Method::Lz4, Method::Zstd] {
        let engines: &[ZlibEngine] = match method {
            Method::Zlib | Method::Gzip => &ZlibEngine::ALL,
            _ => &[ZlibEngine::Libdeflate],
        };
        for &zlib_engine in engines {
            for &level in levels
                .iter()
                .filter(|level| method.levels().contains(level))
            {
                all.push(CodecSettings {
                    method,
                    level,
                    zlib_engine,
                });
            }
        }
    }
    all
}

/// The payload, which must be there when `out` has room for everything.
fn payload(settings: CodecSettings, plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0; plain.len() * 2 + 100];
    let mut encoder = encoder(settings).expect("a level of the method");
    match encoder.encode(plain, &mut out) {
        Ok(Encoded::Done(length)) => out.truncate(length),
        other => panic!("{settings:?}: {other:?}"),
    }
    out
}

/// A short text whose payloads are short as well.
fn small() -> Vec<u8> {
    b"a guest's memory, a guest's memory, and once more a guest's memory".to_vec()
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    for (pages, levels) in [
        (1, &[0, 1, 3, 6, 9, 19][..]),
        (16, &[1, 6]),
        (64, &[1]),
        (256, &[1]),
    ] {
        for (class, plain) in classes(pages) {
            for settings in settings(levels) {
                // One byte less than the batch, as a sender gives it.
                let mut out = vec![0; plain.len() - 1];
                let mut encoder = encoder(settings).expect("a level of the method");
                let mut decoder = decoder(settings.method);
                // Twice: what is left of the first batch must not matter.
                for _ in 0..2 {
                    match encoder.encode(&plain, &mut out).expect("no failure") {
                        Encoded::Done(length) => {
                            assert_ne!(class, "random", "{settings:?}");
                            let mut made = vec![0xee; plain.len()];
                            decoder.decode(&out[..length], &mut made).expect("sound");
                            assert!(made == plain, "{settings:?} {class} {pages}");
                        }
                        Encoded::WouldGrow => assert_eq!(class, "random", "{settings:?}"),
                    }
                }
            }
        }
    }
}

#[test]
fn each_zlib_engine_reads_what_the_other_wrote() {
    use std::io::Read;

    for (class, plain) in classes(4) {
        for settings in settings(&[1, 6, 9]) {
            let body = payload(settings, &plain);
            let mut made = Vec::new();
            // zlib-rs as reader: of its own and of libdeflate's. The decoder is libdeflate's.
            match settings.method {
                Method::Zlib => flate2::read::ZlibDecoder::new(&body[..]).read_to_end(&mut made),
                Method::Gzip => flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut made),
                _ => continue,
            }
            .expect("sound");
            assert!(made == plain, "{settings:?} {class}");
            let mut made = vec![0; plain.len()];
            decoder(settings.method)
                .decode(&body, &mut made)
                .expect("sound");
            assert!(made == plain, "{settings:?} {class}");
        }
    }
}

#[test]
fn random_data_would_grow_and_the_next_batch_is_not_harmed() {
    let noise = random_bytes(5, 16 * PAGE_SIZE);
    let text = classes(16).swap_remove(2).1;
    for settings in settings(&[0, 1, 2, 3, 4, 9]) {
        let mut encoder = encoder(settings).expect("a level of the method");
        let mut out = vec![0; noise.len() - 1];
        for room in [0, 20, 100, 5_000, 40_000, noise.len() - 1] {
            let grown = encoder
                .encode(&noise, &mut out[..room])
                .expect("no failure");
            assert_eq!(grown, Encoded::WouldGrow, "{settings:?}");
            let Encoded::Done(length) = encoder.encode(&text, &mut out).expect("no failure") else {
                panic!("{settings:?}: text shrinks");
            };
            let mut made = vec![0; text.len()];
            decoder(settings.method)
                .decode(&out[..length], &mut made)
                .expect("sound");
            assert!(made == text, "{settings:?}");
        }
    }
}

#[test]
fn a_payload_fits_exactly_or_would_grow() {
    let plain = small();
    for settings in settings(&[1]) {
        let body = payload(settings, &plain);
        let mut encoder = encoder(settings).expect("a level of the method");
        for room in 0..body.len() {
            let grown = encoder.encode(&plain, &mut vec![0; room]);
            assert_eq!(grown, Ok(Encoded::WouldGrow), "{settings:?} {room}");
        }
        // An engine may want a few bytes more than it uses.
        let fits = encoder.encode(&plain, &mut vec![0; body.len() + 16]);
        assert_eq!(fits, Ok(Encoded::Done(body.len())), "{settings:?}");
    }
}

#[test]
fn truncated_payload_is_an_error() {
    let plain = small();
    for settings in settings(&[1, 6]) {
        let body = payload(settings, &plain);
        let mut decoder = decoder(settings.method);
        let mut made = vec![0; plain.len()];
        for length in 0..body.len() {
            assert!(
                decoder.decode(&body[..length], &mut made).is_err(),
                "{settings:?} {length}"
            );
        }
        decoder.decode(&body, &mut made).expect("whole");
        assert_eq!(made, plain);
    }
}

#[test]
fn extended_payload_is_an_error() {
    let plain = small();
    for settings in settings(&[1, 6]) {
        let body = payload(settings, &plain);
        let mut decoder = decoder(settings.method);
        let mut made = vec![0; plain.len()];
        for tail in 1..40 {
            for fill in [0, 1, 0x80, 0xff] {
                let mut longer = body.clone();
                longer.resize(body.len() + tail, fill);
                assert!(
                    decoder.decode(&longer, &mut made).is_err(),
                    "{settings:?} {tail} {fill}"
                );
            }
        }
    }
}

#[test]
fn a_second_or_skippable_zstd_frame_is_an_error() {
    let zstd = settings(&[1])
        .into_iter()
        .next_back()
        .expect("zstd is last");
    let plain = small();
    let body = payload(zstd, &plain);
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7];
    let empty = payload(zstd, &[]);
    let mut made = vec![0; plain.len()];
    for wrong in [
        [&body[..], &empty].concat(),
        [&body[..], &skippable].concat(),
        [&skippable[..], &body].concat(),
        skippable.to_vec(),
    ] {
        assert!(decoder(Method::Zstd).decode(&wrong, &mut made).is_err());
        assert!(decoder(Method::Zstd).decode(&wrong, &mut []).is_err());
    }
}

#[test]
fn zstd_frames_carry_neither_size_nor_checksum() {
    let zstd = settings(&[1])
        .into_iter()
        .next_back()
        .expect("zstd is last");
    let body = payload(zstd, &small());
    // Frame header descriptor: size flag, single segment, checksum and dictionary bits are 0.
    assert_eq!(body[4], 0);
}

#[test]
fn other_lengths_than_announced_are_errors() {
    let plain = small();
    for settings in settings(&[1, 6]) {
        let body = payload(settings, &plain);
        let mut decoder = decoder(settings.method);
        for length in (0..plain.len()).chain(plain.len() + 1..plain.len() + 20) {
            let error = decoder
                .decode(&body, &mut vec![0; length])
                .expect_err("another length");
            match error {
                CodecError::TooShort { made, expected, .. } => {
                    assert_eq!((made, expected), (plain.len(), length), "{settings:?}");
                }
                _ => assert!(length < plain.len(), "{settings:?} {error}"),
            }
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    let plain = small();
    for settings in settings(&[1, 6]) {
        let body = payload(settings, &plain);
        let mut decoder = decoder(settings.method);
        let mut made = vec![0; plain.len()];
        for bit in 0..body.len() * 8 {
            let mut flipped = body.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let sound = decoder.decode(&flipped, &mut made).is_ok();
            // Methods with a check value notice, unless the bit means nothing, such as padding.
            if sound && matches!(settings.method, Method::Zlib | Method::Gzip) {
                assert_eq!(made, plain, "{settings:?} {bit}");
            }
        }
    }
}

#[test]
fn arbitrary_bytes_never_panic() {
    for method in Method::ALL {
        let mut decoder = decoder(method);
        let mut made = vec![0; 2 * PAGE_SIZE];
        for seed in 0..500 {
            let mut body = random_bytes(seed, (seed as usize * 7) % 300);
            // With a header that lets them get further.
            let header: &[u8] = match method {
                Method::Zlib => &[0x78, 0x01],
                Method::Gzip => &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff],
                Method::Zstd => &[0x28, 0xb5, 0x2f, 0xfd, 0, 0x58],
                Method::None | Method::Lz4 => &[],
            };
            let sound = decoder.decode(&body, &mut made).is_ok();
            assert!(!sound || method == Method::Lz4);
            body.splice(..0, header.iter().copied());
            let _ = decoder.decode(&body, &mut made);
        }
    }
}

#[test]
fn none_never_compresses_and_copies_exactly() {
    let none = CodecSettings {
        method: Method::None,
        level: 0,
        zlib_engine: ZlibEngine::default(),
    };
    let plain = vec![0; PAGE_SIZE];
    let mut encoder = encoder(none).expect("none");
    assert_eq!(
        encoder.encode(&plain, &mut vec![0; 2 * PAGE_SIZE]),
        Ok(Encoded::WouldGrow)
    );
    let mut decoder = decoder(Method::None);
    let mut made = [0; 3];
    decoder.decode(&[1, 2, 3], &mut made).expect("as long");
    assert_eq!(made, [1, 2, 3]);
    assert!(decoder.decode(&[1, 2], &mut made).is_err());
    assert!(decoder.decode(&[1, 2, 3, 4], &mut made).is_err());
}

#[test]
fn levels_outside_the_range_are_errors_that_name_it() {
    for method in Method::ALL {
        for level in 0..=255 {
            let made = encoder(CodecSettings {
                method,
                level,
                zlib_engine: ZlibEngine::default(),
            });
            let highest = *method.levels().end();
            match made {
                Ok(_) => assert!(level <= highest, "{method} {level}"),
                Err(error) => {
                    assert!(level > highest, "{method} {level}");
                    let text = error.to_string();
                    for part in [method.name(), &level.to_string(), &highest.to_string()] {
                        assert!(text.contains(part), "{text}");
                    }
                }
            }
        }
    }
}

#[test]
fn level_0_is_the_default_level() {
    let plain = classes(4).swap_remove(2).1;
    for with_default in settings(&[0]) {
        let explicit = CodecSettings {
            level: with_default.method.default_level(),
            ..with_default
        };
        assert!(
            payload(with_default, &plain) == payload(explicit, &plain),
            "{with_default:?}"
        );
    }
}

#[test]
fn names_and_numbers_of_methods_lead_back() {
    for (number, method) in (0..).zip(Method::ALL) {
        assert_eq!(method as u8, number);
        assert_eq!(Method::from_wire(number), Some(method));
        assert_eq!(method.name().parse(), Ok(method));
    }
    assert_eq!(Method::from_wire(5), None);
    assert!("brotli".parse::<Method>().is_err());
    for engine in ZlibEngine::ALL {
        assert_eq!(engine.name().parse(), Ok(engine));
    }
}
