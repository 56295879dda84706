#!/usr/bin/env bash
# `lz4 -d image.lz4 /dev/VOLUME` does not write zeros: the volume keeps its old bytes there, and the exit status is 0.
#
# Version:   lz4 1.10.0 (Debian 1.10.0-4; 1.9.4 does the same), zstd 1.5.4 (Debian 1.5.4+dfsg2-5), zstd 1.5.7 (Debian
#            1.5.7+dfsg-1). Needs root for a loop device; prints "skipped" without one.
# Expected:  decompressing gives the bytes that were compressed. Stretches of zeros are skipped to save space only where
#            that is the same thing, in a file that was just made empty.
# Behaviour: "sparse" is the default for every named output, also for a block device, which opening does not empty. lz4
#            seeks over zeros there, checks its checksum over what it decoded and succeeds. RAM restored to a used volume
#            gets old bytes for its zero pages. `lz4 -dc >/dev/VOLUME` and --no-sparse are right. zstd did the same until
#            1.5.4 and is right in 1.5.7.
# Output seen (1 MiB of data between 1 MiB and 2 MiB of zeros, onto a device full of "O"):
#   lz4 1.10.0:              3145727 of 4194304 bytes wrong
#   lz4 1.10.0 --no-sparse:  0 of 4194304 bytes wrong
#   zstd 1.5.4:              3113271 of 4194304 bytes wrong
#   zstd 1.5.7:              0 of 4194304 bytes wrong
set -eu
tmp=$(mktemp -d); loop=
trap 'test -z "$loop" || losetup -d "$loop"; rm -rf "$tmp"' EXIT; cd "$tmp"
truncate -s 4M volume
loop=$(losetup -f --show volume 2>/dev/null) || { loop=; echo 'skipped: no loop device here'; exit 0; }
fetch() { # fetch FOLDER SUITE PACKAGE...: unpacks packages of SUITE and all that they need into FOLDER
  folder=$1 suite=$2; shift 2
  mkdir -p "$folder/parts" "$folder/lists/partial" "$folder/debs/partial"; : >"$folder/status"
  sed "s/^Suites:.*/Suites: $suite/" /etc/apt/sources.list.d/debian.sources | awk 'BEGIN{RS=""} NR==1' >"$folder/parts/debian.sources"
  apt="apt-get -qq -y -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$tmp/$folder/parts -o Dir::State::lists=$tmp/$folder/lists
    -o Dir::State::status=$tmp/$folder/status -o Dir::Cache=$tmp/$folder -o Dir::Cache::archives=$tmp/$folder/debs -o APT::Sandbox::User=root -o Debug::NoLocking=1"
  $apt update
  $apt install --no-install-recommends --download-only "$@" >/dev/null
  for deb in "$folder"/debs/*.deb; do dpkg -x "$deb" "$folder"; done
}
fetch old bookworm zstd=1.5.4+dfsg2-5
fetch new trixie lz4=1.10.0-4 zstd=1.5.7+dfsg-1
tool() { # tool FOLDER NAME ARGUMENT...: runs a tool of FOLDER with its own loader and libraries
  folder=$1 name=$2; shift 2
  loader=$(find "$folder" -name 'ld-linux-x86-64.so.2' -type f | head -1)
  "$loader" --library-path "$folder/usr/lib/x86_64-linux-gnu:$folder/lib/x86_64-linux-gnu" "$folder/usr/bin/$name" "$@"
}
python3 -c 'import random; open("image", "wb").write(bytes(1 << 20) + random.Random(1).randbytes(1 << 20).replace(b"O", b"o") + bytes(2 << 20))'
tool new lz4 -q image image.lz4
tool new zstd -q image -o image.zst
look() { # look WHAT WRONG FOLDER NAME ARGUMENT...: decompresses onto the device and counts the wrong bytes
  what=$1 right=$2; shift 2
  head -c 4M /dev/zero | tr '\0' O >"$loop"
  tool "$@" "$loop"
  wrong=$(cmp -l image "$loop" | wc -l)
  printf '%-24s %s of 4194304 bytes wrong\n' "$what" "$wrong"
  [ "$wrong" = "$right" ] || { echo changed; exit 1; }
}
look 'lz4 1.10.0:' 3145727 new lz4 -q -d -f image.lz4
look 'lz4 1.10.0 --no-sparse:' 0 new lz4 -q -d -f --no-sparse image.lz4
look 'zstd 1.5.4:' 3113271 old zstd -q -d -f image.zst -o
look 'zstd 1.5.7:' 0 new zstd -q -d -f image.zst -o
