#!/usr/bin/env bash
# A plain `cp` of a sparse diff snapshot may turn pages of zeros into holes, that is: "zero" into "unchanged".
#
# Version:   GNU coreutils 9.1 (Debian 9.1-1) and 9.7 (Debian 9.7-3)
# Expected:  `cp` without options keeps holes as holes and written zeros as written zeros; only --sparse=always looks for
#            zeros to drop. The two versions agree.
# Behaviour: for a file that has a hole anywhere, 9.1 makes a hole of every block of zeros, as with --sparse=always;
#            9.7 keeps the map as it was. In a diff of guest RAM (Firecracker's, or ours) a hole means "as in the layer
#            below", so pages that the guest zeroed get their old content back on restore. cmp finds no difference.
#            (Where cp can clone, on btrfs or xfs, it does and keeps the map: hence --reflink=never here.)
# Output seen (data extents in pages):
#   the diff:           16-32 40-44
#   cp of 9.1:          40-44
#   cp of 9.7:          16-32 40-44
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
fetch() { # fetch SUITE PACKAGE=VERSION: unpacks it and all that it needs into ./SUITE
  mkdir -p "$1/parts" "$1/lists/partial" "$1/debs/partial"; : >"$1/status"
  sed "s/^Suites:.*/Suites: $1/" /etc/apt/sources.list.d/debian.sources | awk 'BEGIN{RS=""} NR==1' >"$1/parts/debian.sources"
  apt="apt-get -qq -y -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$tmp/$1/parts -o Dir::State::lists=$tmp/$1/lists -o Dir::State::status=$tmp/$1/status
    -o Dir::Cache=$tmp/$1 -o Dir::Cache::archives=$tmp/$1/debs -o APT::Sandbox::User=root -o Debug::NoLocking=1"
  $apt update
  $apt install --no-install-recommends --download-only "$2" >/dev/null
  for deb in "$1"/debs/*.deb; do dpkg -x "$deb" "$1"; done
}
cp_of() { # cp_of SUITE SOURCE TARGET
  "$(find "$1" -name ld-linux-x86-64.so.2 -type f)" --library-path "$1/usr/lib/x86_64-linux-gnu:$1/lib/x86_64-linux-gnu" \
    "$(find "$1" -path '*/bin/cp')" --reflink=never "$2" "$3"
}
fetch bookworm coreutils=9.1-1
fetch trixie coreutils=9.7-3

python3 - <<'P'
with open('diff', 'wb') as f:
    f.truncate(64 * 4096)                              # 64 pages, unchanged,
    f.seek(16 * 4096); f.write(bytes(16 * 4096))       # but for 16 that are zero now
    f.seek(40 * 4096); f.write(b'new!' * (4 * 1024))   # and 4 that have other data
P
cp_of bookworm diff copy-9.1
cp_of trixie diff copy-9.7
cmp diff copy-9.1
cmp diff copy-9.7
python3 - <<'P'
import os
def extents(path):
    with open(path, 'rb') as f:
        at, found = 0, []
        while True:
            try: start = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError: return ' '.join(found)
            at = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            found.append(f'{start // 4096}-{at // 4096}')
seen = [extents(f) for f in ('diff', 'copy-9.1', 'copy-9.7')]
for name, e in zip(('the diff: ', 'cp of 9.1:', 'cp of 9.7:'), seen): print(f'{name:19} {e}')
if seen[0] != '16-32 40-44': raise SystemExit('this file system keeps no holes: nothing can be seen here')
if seen != ['16-32 40-44', '40-44', '16-32 40-44']: raise SystemExit('changed')
P
