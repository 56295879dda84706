#!/bin/sh
# A memfd of huge pages shows no holes, takes no write(2), and yet has nothing allocated.
#
# Version:   Linux 6.18 (memfd_create with MFD_HUGETLB; no huge page need be free or reserved)
# Expected:  a memfd is a memfd: SEEK_DATA finds no data in a new one, pwrite fills it, and MFD_HUGETLB only changes the
#            size of its pages.
# Behaviour: on hugetlbfs SEEK_HOLE is the generic one: the whole file is data, although not a block is allocated. So
#            skipping holes, the cheap way to save a sparse guest, reads all of it. pwrite is EINVAL: a restorer that
#            works on tmpfs by pwrite has to map here. pread does work, and gives zeros without allocating.
# Output seen:
#   memfd:           first data none, pwrite 4096, pread 4096
#   huge page memfd: first data 0, next hole 4194304, allocated 0, pwrite Invalid argument, pread 4096
set -eu
python3 - <<'P'
import os
def attempt(call):
    try: return call()
    except OSError as problem: return problem.strerror
plain, huge = os.memfd_create('ram'), os.memfd_create('ram', os.MFD_HUGETLB)
for fd in plain, huge: os.ftruncate(fd, 4 << 20)
page = bytes(4096)
def look(fd):
    return [attempt(lambda: os.lseek(fd, 0, os.SEEK_DATA)), attempt(lambda: os.lseek(fd, 0, os.SEEK_HOLE)), os.fstat(fd).st_blocks,
            attempt(lambda: os.pwrite(fd, page, 0)), attempt(lambda: len(os.pread(fd, 4096, 0)))]
a, b = look(plain), look(huge)
print(f'memfd:           first data {"none" if a[0] == "No such device or address" else a[0]}, pwrite {a[3]}, pread {a[4]}')
print('huge page memfd: first data {}, next hole {}, allocated {}, pwrite {}, pread {}'.format(*b))
if a != ['No such device or address', 0, 0, 4096, 4096] or b != [0, 4 << 20, 0, 'Invalid argument', 4096]: raise SystemExit('changed')
P
