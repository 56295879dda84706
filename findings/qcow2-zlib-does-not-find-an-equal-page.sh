#!/usr/bin/env bash
# In a qcow2's zlib clusters a page that follows an equal page is not found: the window is 4 KiB, whatever the cluster.
#
# Version:   qemu-img 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3), gzip 1.12, python3's zlib
# Expected:  a cluster of 64 KiB is one deflate stream, and deflate looks back 32 KiB, as gzip and QEMU's own migration
#            do. 16 equal pages in a cluster take the room of one. zlib against zstd is a matter of some per cent.
# Behaviour: QEMU writes these streams with a window of 4096 bytes, of which a match can reach a little less. The copy
#            of a page lies 4096 bytes back, just out of reach, so that RAM with equal pages stays as large as it was,
#            while half pages repeated shrink well. zstd clusters have no such limit.
# Output seen (4 MiB of random blocks, one for each cluster, repeated through it):
#   blocks of 2048 bytes: qcow2 with zlib 0.12, with zstd 0.11, gzip 0.04 of the image
#   blocks of 4096 bytes: qcow2 with zlib 1.08, with zstd 0.14, gzip 0.07 of the image
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
mkdir -p parts lists/partial debs/partial; : >status
sed 's/^Suites:.*/Suites: bookworm/' /etc/apt/sources.list.d/debian.sources | awk 'BEGIN{RS=""} NR==1' >parts/debian.sources
set -- -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$tmp/parts" -o Dir::State::lists="$tmp/lists" -o Dir::State::status="$tmp/status" \
  -o Dir::Cache="$tmp" -o Dir::Cache::archives="$tmp/debs" -o APT::Sandbox::User=root -o Debug::NoLocking=1
apt-get "$@" update -qq
apt-get "$@" install -qq -y --no-install-recommends --download-only 'qemu-utils=1:7.2+dfsg-7+deb12u18+b3' >/dev/null
for deb in debs/*.deb; do dpkg -x "$deb" .; done

nice -n 15 python3 - <<'P'
import gzip, os, random, subprocess
CLUSTER, CLUSTERS = 1 << 16, 64
lib = 'usr/lib/x86_64-linux-gnu'
os.environ['QEMU_MODULE_DIR'] = f'{lib}/qemu'
def qemu_img(*words):
    subprocess.run(['lib64/ld-linux-x86-64.so.2', '--library-path', f'{lib}:lib/x86_64-linux-gnu', 'usr/bin/qemu-img', *words], check=True)
def shares(block):
    source = random.Random(block)
    raw = b''.join(source.randbytes(block) * (CLUSTER // block) for _ in range(CLUSTERS))
    with open('raw', 'wb') as f: f.write(raw)
    sizes = []
    for kind in 'zlib', 'zstd':
        qemu_img('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', f'compression_type={kind}', 'raw', kind)
        qemu_img('compare', '-q', '-f', 'raw', '-F', 'qcow2', 'raw', kind)
        sizes.append(os.path.getsize(kind) / len(raw))
    sizes.append(len(gzip.compress(raw, 6)) / len(raw))
    print('blocks of {} bytes: qcow2 with zlib {:.2f}, with zstd {:.2f}, gzip {:.2f} of the image'.format(block, *sizes))
    return sizes
near, far = shares(2048), shares(4096)
if not (max(near) < 0.3 and far[0] > 1 and max(far[1:]) < 0.3): raise SystemExit('changed')
P
