#!/usr/bin/env bash
# XBZRLE: the second copy of a page goes out in full; deltas begin with the third, however large the cache is.
#
# Version:   QEMU 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1); 7.2.22 does the same.
# Expected:  a cache (64 MiB) larger than the guest (32 MiB) holds every page after the first pass, so the first page
#            that is sent again is a delta already.
# Behaviour: the first pass does not fill the cache. The second sending of a page is a miss, goes out as a full page and
#            is put into the cache; only the third can be a delta. Pages dirtied twice gain nothing from XBZRLE.
# How:       64 pages are written to (by qtest) all through a slow migration; the stream's records are then read.
# Output seen (P full page, X delta):
#   64 pages written to; the copies of one: PPX
#   second copies that are deltas: 0, third copies that are: some
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
mkdir -p parts lists/partial debs/partial; : >status
sed 's/^Suites:.*/Suites: bookworm bookworm-backports/' /etc/apt/sources.list.d/debian.sources | awk 'BEGIN{RS=""} NR==1' >parts/debian.sources
set -- -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$tmp/parts" -o Dir::State::lists="$tmp/lists" -o Dir::State::status="$tmp/status" \
  -o Dir::Cache="$tmp" -o Dir::Cache::archives="$tmp/debs" -o APT::Sandbox::User=root -o Debug::NoLocking=1
apt-get "$@" update -qq
apt-get "$@" install -qq -y --no-install-recommends --download-only -t bookworm-backports 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1' >/dev/null
for deb in debs/*.deb; do dpkg -x "$deb" .; done

nice -n 15 python3 - <<'P'
import socket
import json, os, subprocess, time
lib = 'usr/lib/x86_64-linux-gnu'
os.environ['QEMU_MODULE_DIR'] = f'{lib}/qemu'

class Qemu:
    def __init__(self, *options):
        self.p = subprocess.Popen(['lib64/ld-linux-x86-64.so.2', '--library-path', f'{lib}:lib/x86_64-linux-gnu', 'usr/bin/qemu-system-x86_64',
            '-L', 'usr/share/qemu', '-L', 'usr/share/seabios', '-accel', 'tcg', '-S', '-nodefaults', '-display', 'none', '-qmp', 'stdio', *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.p.stdout.readline()
        self('qmp_capabilities')
    def __call__(self, command, **arguments):
        print(json.dumps({'execute': command, 'arguments': arguments}), file=self.p.stdin, flush=True)
        while True:
            reply = json.loads(self.p.stdout.readline())
            if 'error' in reply: raise SystemExit(f'{command}: {reply}')
            if 'return' in reply: return reply['return']
    def migrated(self, *ends):
        for _ in range(600):
            info = self('query-migrate')
            if info.get('status') in ('failed', *ends): return info
            time.sleep(0.1)
        return {'status': 'timeout'}
    def __enter__(self): return self
    def __exit__(self, *_): self.p.kill(); self.p.wait()
PAGES = range(0x200000, 0x240000, 0x1000)
with open('ram', 'wb') as f:
    f.truncate(32 << 20)
    f.seek(PAGES.start); f.write(os.urandom(len(PAGES) * 4096))
with Qemu('-m', '32', '-object', 'memory-backend-file,id=m,size=32M,share=on,mem-path=ram', '-M', 'pc,memory-backend=m',
          '-qtest', 'unix:qtest,server=on,wait=off', '-qtest-log', '/dev/null') as q:
    wire = socket.socket(socket.AF_UNIX)
    wire.connect('qtest')
    lines = wire.makefile('rw')
    q('migrate-set-capabilities', capabilities=[{'capability': 'xbzrle', 'state': True}])
    q('migrate-set-parameters', **{'max-bandwidth': 1 << 20, 'downtime-limit': 50}) # a round of the 64 pages takes 200 ms
    q('migrate', uri='exec:cat >part; mv part stream')
    value = 0
    while True:
        for page in PAGES:
            print(f'write {page:#x} 2 {value & 0xffff:#06x}', file=lines, flush=True)
            assert lines.readline().startswith('OK')
        value += 1
        info = q('query-migrate')
        if info['status'] not in ('setup', 'active') or info.get('xbzrle-cache', {}).get('pages', 0) >= len(PAGES): break
    assert q.migrated('completed')['status'] == 'completed'

while not os.path.exists('stream'): time.sleep(0.1)
stream = open('stream', 'rb').read()
number = lambda length: int.from_bytes(stream[at:at + length], 'big')
copies = {page: '' for page in PAGES}
at = stream.index(b'\3ram') - 5                 # the section that begins the RAM
while stream[at] in (1, 2, 3):
    at += 17 if stream[at] == 1 else 5
    while True:                                 # its records, up to the one that ends the section
        word = number(8); at += 8
        offset, flags = word & ~0xfff, word & 0xfff
        if flags == 0x10: break
        if flags == 0x04:                       # the list of blocks
            while offset > 0:
                at += 1 + stream[at]
                offset -= number(8); at += 8
            continue
        if not flags & 0x20: name = stream[at + 1:at + 1 + stream[at]]; at += 1 + stream[at]
        kind = flags & ~0x20
        if name == b'm' and offset in copies: copies[offset] += {0x02: 'Z', 0x08: 'P', 0x40: 'X'}[kind]
        at += {0x02: 1, 0x08: 4096}[kind] if kind != 0x40 else 3 + int.from_bytes(stream[at + 1:at + 3], 'big')
    at += 5                                     # and its footer
second, third = (sum(c[n:n + 1] == 'X' for c in copies.values()) for n in (1, 2))
print(f'{len(PAGES)} pages written to; the copies of one: {max(copies.values(), key=len)[:3]}')
print(f'second copies that are deltas: {second}, third copies that are: {"some" if third else "none"}')
if any(c[:2] != 'PP' for c in copies.values()) or not third: raise SystemExit(f'changed: {copies}')
P
