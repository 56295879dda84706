#!/usr/bin/env bash
# For a page, the low half of XXH3-128 is XXH3-64: the two are one hash and not two.
#
# Version:   xxhash 3.5.0 from PyPI (the C library) and the crate xxhash-rust 0.8.19
# Expected:  a 64-bit and a 128-bit hash of one family are unrelated values, as they are for short inputs; to keep
#            both gives 192 bits, and the low half of one is an independent check of the other.
# Behaviour: from 241 bytes on the low 64 bits of XXH3-128 are exactly XXH3-64, in both implementations. A table keyed by
#            XXH3-64 with XXH3-128 as its proof proves no more than the upper half does.
# Output seen:
#   240 bytes: low half of XXH3-128 equals XXH3-64: C False, Rust False
#   241 bytes: low half of XXH3-128 equals XXH3-64: C True, Rust True
#   4096 bytes: low half of XXH3-128 equals XXH3-64: C True, Rust True
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --target python xxhash==3.5.0
mkdir src
cat >Cargo.toml <<'T'
[package]
name = "look"
version = "0.0.0"
edition = "2021"
[dependencies]
xxhash-rust = { version = "=0.8.19", features = ["xxh3"] }
T
cat >src/main.rs <<'R'
fn main() {
    for length in std::env::args().skip(1) {
        let bytes: Vec<u8> = (0..length.parse().unwrap()).map(|i: usize| (i % 251) as u8).collect();
        println!("{:016x} {:032x}", xxhash_rust::xxh3::xxh3_64(&bytes), xxhash_rust::xxh3::xxh3_128(&bytes));
    }
}
R
CARGO_TARGET_DIR="$tmp/target" CARGO_BUILD_JOBS=1 nice -n 15 cargo run -q -- 240 241 4096 >rust
PYTHONPATH=python python3 - <<'P'
import xxhash
changed = False
for length, line in zip((240, 241, 4096), open('rust')):
    data = bytes(i % 251 for i in range(length))
    c = xxhash.xxh3_64_hexdigest(data), xxhash.xxh3_128_hexdigest(data)
    assert list(c) == line.split(), 'the two implementations disagree'
    same = [h128[16:] == h64 for h64, h128 in (c, line.split())]
    print(f'{length} bytes: low half of XXH3-128 equals XXH3-64: C {same[0]}, Rust {same[1]}')
    changed |= same != [length > 240] * 2
if changed: raise SystemExit('changed')
P
