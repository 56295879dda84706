#!/usr/bin/env bash
# mapped-ram: where the bitmap says "zero page", the file may hold the page's old bytes.
#
# Version:   QEMU 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)
# Expected:  the pages area of a mapped-ram file is the guest's RAM with holes for zero pages, so that it may be mapped,
#            copied or compared as it is; the bitmap only says quickly what SEEK_HOLE would say as well.
# Behaviour: a page that was sent with data and is all zero at its last sending has its bit cleared and nothing else:
#            no zeros are written, no hole is punched. Read without the bitmap, the page has its old content.
#            (A page whose data changed is overwritten in place, as one would think.)
# How:       pause-before-switchover holds the migration after its first full round; two pages are changed there.
# Output seen:
#   page zeroed after the first round:  bit 0, bytes in the file 55 (in the guest 00)
#   page changed after the first round: bit 1, bytes in the file 77 (in the guest 77)
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
import socket, struct
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
with Qemu('-M', 'pc', '-m', '32', '-qtest', 'unix:qtest,server=on,wait=off', '-qtest-log', '/dev/null') as q:
    wire = socket.socket(socket.AF_UNIX)
    wire.connect('qtest')
    lines = wire.makefile('rw')
    def fill(address, byte):
        print(f'memset {address:#x} 4096 {byte:#x}', file=lines, flush=True)
        assert lines.readline().startswith('OK')
    zeroed, changed = 0x400000, 0x500000
    fill(zeroed, 0x55); fill(changed, 0x66)
    q('migrate-set-capabilities', capabilities=[{'capability': c, 'state': True} for c in ('mapped-ram', 'pause-before-switchover')])
    q('migrate', uri='file:image')
    assert q.migrated('pre-switchover')['status'] == 'pre-switchover'
    fill(zeroed, 0); fill(changed, 0x77)
    q('migrate-continue', state='pre-switchover')
    assert q.migrated('completed')['status'] == 'completed'

image = open('image', 'rb').read()
at = image.index(b'\6pc.ram') + 7
length, version, page_size, bitmap, pages = struct.unpack_from('>QIQQQ', image, at)
assert (length, version, page_size) == (32 << 20, 1, 4096)
seen = []
for name, address, guest in ('zeroed after the first round: ', zeroed, 0), ('changed after the first round:', changed, 0x77):
    n = address // page_size
    data = set(image[pages + address:][:page_size])
    assert len(data) == 1
    seen.append((image[bitmap + n // 8] >> n % 8 & 1, data.pop(), guest))
    print(f'page {name} bit {seen[-1][0]}, bytes in the file {seen[-1][1]:02x} (in the guest {guest:02x})')
if seen != [(0, 0x55, 0), (1, 0x77, 0x77)]: raise SystemExit('changed')
P
