#!/usr/bin/env bash
# The first RAM block of a migration stream need not be the guest's RAM, nor NUMA node 0.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3); 10.0.2 and 11.1.3 do the same.
# Expected:  main RAM comes first, and NUMA nodes in the order of their numbers, which is that of their addresses.
# Behaviour: blocks are listed largest first; equal ones in the order of their -object on the command line,
#            whatever node they belong to. The video memory of a display card larger than the guest's RAM precedes it,
#            and node 1 precedes node 0 if its backend was created first. The list holds no address that would tell.
# Output seen (the first three):
#   0000:00:02.0/vga.vram 134217728
#   for-node-1 33554432
#   for-node-0 33554432
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
mkdir -p parts lists/partial debs/partial; : >status
sed 's/^Suites:.*/Suites: bookworm/' /etc/apt/sources.list.d/debian.sources | awk 'BEGIN{RS=""} NR==1' >parts/debian.sources
set -- -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$tmp/parts" -o Dir::State::lists="$tmp/lists" -o Dir::State::status="$tmp/status" \
  -o Dir::Cache="$tmp" -o Dir::Cache::archives="$tmp/debs" -o APT::Sandbox::User=root -o Debug::NoLocking=1
apt-get "$@" update -qq
apt-get "$@" install -qq -y --no-install-recommends --download-only 'qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3' >/dev/null
for deb in debs/*.deb; do dpkg -x "$deb" .; done

nice -n 15 python3 - <<'P'
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
with Qemu('-M', 'pc', '-m', '64', '-device', 'VGA,vgamem_mb=128',
          '-object', 'memory-backend-ram,id=for-node-1,size=32M', '-object', 'memory-backend-ram,id=for-node-0,size=32M',
          '-numa', 'node,nodeid=0,memdev=for-node-0', '-numa', 'node,nodeid=1,memdev=for-node-1') as q:
    q('migrate', uri='exec:cat >part; mv part stream')
    assert q.migrated('completed')['status'] == 'completed'
while not os.path.exists('stream'): time.sleep(0.1)
stream = open('stream', 'rb').read()
at = stream.index(b'\3ram') + 4 + 4 + 4     # name, instance and version of the section; then the sum of all lengths, and the list
left = int.from_bytes(stream[at:at + 8], 'big') & ~0xfff
at += 8
seen = []
while left > 0:
    name = stream[at + 1:at + 1 + stream[at]].decode()
    at += 1 + stream[at]
    seen.append((name, int.from_bytes(stream[at:at + 8], 'big')))
    left -= seen[-1][1]
    at += 8
for name, length in seen[:3]: print(name, length)
if seen[:3] != [('0000:00:02.0/vga.vram', 128 << 20), ('for-node-1', 32 << 20), ('for-node-0', 32 << 20)]: raise SystemExit('changed')
P
