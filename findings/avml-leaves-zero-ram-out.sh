#!/usr/bin/env bash
# AVML leaves 16 MiB stretches of zeros out of its images: "not there" means zero, and a reader reports it as unreadable.
#
# Version:   the crate avml 0.21.0, volatility3 2.28.2 from PyPI
# Expected:  LiME's format has one record per range of "System RAM", with every byte of it, and no way to say "zeros";
#            what no record covers was not RAM or could not be read. Zeros are for the compressed format to squeeze.
# Behaviour: avml cuts ranges at every 16 MiB and drops the pieces that are all zero, in the compressed format and in
#            plain LiME alike. volatility3 takes the gap as memory that was not acquired: reading there is an error,
#            though the guest had RAM there and its content is known. A converter must fill gaps inside RAM with zeros.
# How:       48 MiB of RAM at 0, of which the middle third is zero, are written by the library that the tool is made of.
# Output seen:
#   Lime:           records 0x0-0xffffff 0x2000000-0x2ffffff
#   AvmlCompressed: records 0x0-0xffffff 0x2000000-0x2ffffff
#   volatility3 at 0x800000: data
#   volatility3 at 0x1800000: not acquired
#   volatility3 at 0x2800000: data
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --target python volatility3==2.28.2
mkdir src
cat >Cargo.toml <<'T'
[package]
name = "look"
version = "0.0.0"
edition = "2021"
[dependencies]
avml = { version = "=0.21.0", default-features = false }
[profile.dev]
debug = false
T
cat >src/main.rs <<'R'
use avml::image::{Block, Format, Image};
fn main() {
    let third = 16 << 20;
    let ram: Vec<u8> = (0..3 * third).map(|at| if at / third == 1 { 0 } else { 0x55 }).collect();
    for format in [Format::Lime, Format::AvmlCompressed] {
        let mut image = Image::from_streams(format, std::io::Cursor::new(&ram), Vec::new());
        image.write_blocks(&[Block { offset: 0, range: 0..ram.len() as u64 }]).unwrap();
        std::fs::write(format!("{format:?}"), image.dst).unwrap();
    }
}
R
CARGO_TARGET_DIR="$tmp/target" CARGO_BUILD_JOBS=1 nice -n 15 cargo run -q

PYTHONPATH=python nice -n 15 python3 - <<'P'
import os
from volatility3.framework import contexts, exceptions
from volatility3.framework.layers import lime, physical
seen = []
for name, magic in ('Lime', b'EMiL'), ('AvmlCompressed', b'AVML'):
    records, at, image = [], 0, open(name, 'rb').read()
    while (at := image.find(magic, at)) >= 0:           # a header: magic, version, start, end (inclusive), 8 bytes
        records.append('-'.join(hex(int.from_bytes(image[at + n:at + n + 8], 'little')) for n in (8, 16)))
        at += 32
    seen.append(' '.join(records))
    print(f'{name + ":":15} records {seen[-1]}')

context = contexts.Context()
context.config['file.location'] = 'file://' + os.path.abspath('Lime')
context.layers.add_layer(physical.FileLayer(context, 'file', 'file'))
context.config['ram.base_layer'] = 'file'
layer = lime.LimeLayer(context, 'ram', 'ram')
for at in 0x800000, 0x1800000, 0x2800000:
    try: word = 'zeros' if layer.read(at, 4096) == bytes(4096) else 'data'
    except exceptions.InvalidAddressException: word = 'not acquired'
    seen.append(word)
    print(f'volatility3 at {at:#x}: {word}')
if seen != ['0x0-0xffffff 0x2000000-0x2ffffff'] * 2 + ['data', 'not acquired', 'data']: raise SystemExit('changed')
P
