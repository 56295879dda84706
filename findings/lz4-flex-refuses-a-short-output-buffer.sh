#!/usr/bin/env bash
# lz4_flex judges an output buffer by the worst case, not by what the input needs: "does it shrink?" cannot be asked so.
#
# Version:   lz4_flex 0.14.0 (default features), beside libdeflater 1.26.1 and lz4 1.28.1 (the C library's binding)
# Expected:  a block compressor given an output buffer as long as the page fails if the page does not shrink and else
#            succeeds. That is the usual way to find pages which are better sent raw, and the other two work so.
# Behaviour: lz4_flex refuses at once any buffer shorter than its own worst case, 4525 bytes for a page of 4096. A page
#            of zeros, which needs 27 bytes, "does not fit" into 4096 nor into the 4128 bytes of C's LZ4_compressBound.
# Output seen:
#   lz4_flex:  27 bytes needed; room for 27: no, for 4096: no, for 4128: no, for 4524: no, for 4525: yes
#   lz4 (C):   26 bytes needed; room for 26: yes
#   libdeflate: 20 bytes needed; room for 4096: yes
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
mkdir src
cat >Cargo.toml <<'T'
[package]
name = "look"
version = "0.0.0"
edition = "2021"
[dependencies]
lz4_flex = "=0.14.0"
lz4 = "=1.28.1"
libdeflater = "=1.26.1"
T
cat >src/main.rs <<'R'
fn main() {
    let page = [0u8; 4096];
    let mut out = [0u8; 8192];
    let flex = lz4_flex::block::compress_into(&page, &mut out).unwrap();
    let c = lz4::block::compress_to_buffer(&page, None, false, &mut out).unwrap();
    let deflate = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(1).unwrap()).deflate_compress(&page, &mut out).unwrap();

    let fits = |room: usize| lz4_flex::block::compress_into(&page, &mut vec![0; room]).is_ok();
    let word = |yes: bool| if yes { "yes" } else { "no" };
    print!("lz4_flex:  {flex} bytes needed; room");
    let seen: Vec<bool> = [flex, 4096, 4128, 4524, 4525].map(|room| fits(room)).to_vec();
    for (room, yes) in [flex, 4096, 4128, 4524, 4525].iter().zip(&seen) {
        print!("{} for {room}: {}", if *room == flex { "" } else { "," }, word(*yes));
    }
    let c_fits = lz4::block::compress_to_buffer(&page, None, false, &mut vec![0; c]).is_ok();
    let deflate_fits = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(1).unwrap())
        .deflate_compress(&page, &mut [0; 4096]).is_ok();
    println!("\nlz4 (C):   {c} bytes needed; room for {c}: {}", word(c_fits));
    println!("libdeflate: {deflate} bytes needed; room for 4096: {}", word(deflate_fits));
    if seen != [false, false, false, false, true] || !c_fits || !deflate_fits {
        println!("changed");
        std::process::exit(1);
    }
}
R
CARGO_TARGET_DIR="$tmp/target" CARGO_BUILD_JOBS=1 nice -n 15 cargo run -q
