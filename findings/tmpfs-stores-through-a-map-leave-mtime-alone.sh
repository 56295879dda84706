#!/bin/sh
# Stores through a shared map do not change a tmpfs file's time of modification if the page was read before.
#
# Version:   Linux 6.18; prints "skipped" on a kernel older than 6 or where /dev/shm is no tmpfs.
# Expected:  what mmap(2) says: after a store to a MAP_SHARED mapping mtime and ctime move at the latest with the next
#            msync(2). An image that a VM wrote to all day therefore looks newer than yesterday's copy.
# Behaviour: on tmpfs the kernel sees a store only if it faults. A page that was read first is already mapped writable:
#            storing to it faults no more. A page's first access being a store moves the time, once, and never again for
#            this mapping; msync and munmap do nothing. So rsync, make, backup programs and caches that compare size and
#            time skip a guest's RAM on /dev/shm as unchanged. On a disk's file system every msync starts it anew.
# Output seen (each of 3 rounds stores to all pages, then calls msync):
#   tmpfs, first access is a load:      same, same, same
#   tmpfs, first access is a store:     changed, same, same
#   ext2/ext3, first access is a load:  changed, changed, changed      (so stat calls ext4; only if $TMPDIR is on a disk)
set -eu
[ "$(stat -f -c %T /dev/shm)" = tmpfs ] && [ "$(uname -s)" = Linux ] && [ "$(uname -r | cut -d. -f1)" -ge 6 ] ||
  { echo 'skipped: another kernel, or no tmpfs at /dev/shm'; exit 0; }
tmp=$(mktemp -d); shm=$(mktemp -d -p /dev/shm); trap 'rm -rf "$tmp" "$shm"' EXIT
python3 - "$shm" "$tmp" <<'P'
import mmap, os, subprocess, sys
SIZE, PAGE = 1 << 20, 4096
def rounds(folder, load_first):
    path = os.path.join(folder, 'image')
    with open(path, 'wb') as f: f.write(b'x' * SIZE)
    fd, seen = os.open(path, os.O_RDWR), []
    with mmap.mmap(fd, SIZE) as m:
        if load_first: assert sum(m[at] for at in range(0, SIZE, PAGE)) == SIZE // PAGE * ord('x')
        for round in range(3):
            os.utime(path, (1, 1))
            for at in range(0, SIZE, PAGE): m[at] = round
            m.flush()
            seen.append('same' if os.stat(path).st_mtime == 1 else 'changed')
        assert os.pread(fd, 1, 0) == b'\2'   # the bytes did change
    os.close(fd)
    return seen
def show(what, seen, right):
    print(f'{what:35} {", ".join(seen)}')
    if seen != right: raise SystemExit('changed')
shm, tmp = sys.argv[1:]
show('tmpfs, first access is a load:', rounds(shm, True), ['same'] * 3)
show('tmpfs, first access is a store:', rounds(shm, False), ['changed', 'same', 'same'])
kind = subprocess.run(['stat', '-f', '-c', '%T', tmp], capture_output=True, text=True).stdout.strip()
if kind in ('ext2/ext3', 'xfs', 'btrfs'): show(f'{kind}, first access is a load:', rounds(tmp, True), ['changed'] * 3)
P
