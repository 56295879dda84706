#!/usr/bin/env bash
# Reading a sparse file on tmpfs through a mapping makes it dense; read(2), and other file systems, do not.
#
# Version:   Linux 6.18 (memfd and tmpfs, the homes of guest RAM), blake3 1.0.8 from PyPI
# Expected:  a read-only look at a hole costs nothing: as for anonymous memory and for ext4 the read fault is answered
#            with the shared zero page or a clean cache page, and the file stays as it was.
# Behaviour: on tmpfs each page that is touched is allocated, even through MAP_PRIVATE with PROT_READ, and from then on
#            SEEK_DATA calls it data. To hash a guest's RAM with blake3's update_mmap costs the host the guest's full
#            size in memory (and a reader that skips holes finds none left); update() from read(2) costs nothing.
# Output seen (a memfd of 1024 pages, all hole):
#   after pread of all of it:           0 pages allocated, data extents: none
#   after one load by a private map:    1 pages allocated, data extents: 500-501
#   after blake3 update_mmap:           1024 pages allocated, data extents: 0-1024
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --target python blake3==1.0.8
PYTHONPATH=python python3 - <<'P'
import mmap, os
from blake3 import blake3
PAGE, PAGES = 4096, 1024
fd = os.memfd_create('ram')
os.ftruncate(fd, PAGES * PAGE)
seen = []
def look(what):
    at, extents = 0, []
    while True:
        try: start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError: break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        extents.append(f'{start // PAGE}-{at // PAGE}')
    seen.append((os.fstat(fd).st_blocks * 512 // PAGE, ' '.join(extents) or 'none'))
    print(f'after {what:29} {seen[-1][0]} pages allocated, data extents: {seen[-1][1]}')

by_read = blake3(os.pread(fd, PAGES * PAGE, 0)).hexdigest()
look('pread of all of it:')
with mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as m: assert m[500 * PAGE] == 0
look('one load by a private map:')
assert blake3().update_mmap(f'/proc/self/fd/{fd}').hexdigest() == by_read
look('blake3 update_mmap:')
if seen != [(0, 'none'), (1, '500-501'), (PAGES, f'0-{PAGES}')]: raise SystemExit('changed')
P
