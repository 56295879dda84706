#!/usr/bin/env bash
# memmap2 maps a block device as an empty slice and calls it a success.
#
# Version:   memmap2 0.9.12, Linux 6.18. Needs root for a loop device; without one /dev/zero shows the same.
# Expected:  Mmap::map of an image that lies on a volume (LVM, as Proxmox keeps saved RAM) gives the volume's bytes, or
#            fails: mmap(2) with a length of 0 is EINVAL.
# Behaviour: the length is taken from stat, which says 0 for devices, and a length of 0 is made to work. The result is
#            Ok with no bytes in it: a digest or a comparison of it succeeds. With MmapOptions::len the device maps well.
# Output seen:
#   a device of 1048576 bytes: map gives 0 bytes, with its length given 1048576 bytes
set -eu
tmp=$(mktemp -d); loop=
trap 'test -z "$loop" || losetup -d "$loop"; rm -rf "$tmp"' EXIT; cd "$tmp"
truncate -s 1M volume
loop=$(losetup -r -f --show volume 2>/dev/null) || loop=
mkdir src
cat >Cargo.toml <<'T'
[package]
name = "look"
version = "0.0.0"
edition = "2021"
[dependencies]
memmap2 = "=0.9.12"
T
cat >src/main.rs <<'R'
fn main() -> std::io::Result<()> {
    let device = std::fs::File::open(std::env::args().nth(1).unwrap())?;
    let whole = unsafe { memmap2::Mmap::map(&device)? };
    let told = unsafe { memmap2::MmapOptions::new().len(1 << 20).map(&device)? };
    println!("a device of 1048576 bytes: map gives {} bytes, with its length given {} bytes", whole.len(), told.len());
    if (whole.len(), told.len()) != (0, 1 << 20) || told[1000] != 0 {
        println!("changed");
        std::process::exit(1);
    }
    Ok(())
}
R
CARGO_TARGET_DIR="$tmp/target" CARGO_BUILD_JOBS=1 nice -n 15 cargo run -q -- "${loop:-/dev/zero}"
