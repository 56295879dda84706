#!/usr/bin/env bash
# pmemsave from 0 to the size of the RAM is not the RAM: the part above the PCI hole is lost, without an error.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3); 10.0.2 and 11.1.3 do the same.
# Expected:  `pmemsave val=0 size=RAM` gives all of the RAM, or an error where an address has none.
# Behaviour: the addresses are physical, RAM above the hole begins at 4 GiB, and addresses that nothing answers read as
#            zeros and count as a success. The file has exactly the size of the RAM, so that a
#            check of the length passes, and the guest's last part is replaced by zeros.
# How:       max-ram-below-4g=16M splits a small guest as 4 GiB split a large one.
# Output seen:
#   saved 33554432 bytes of 33554432; pages of the low half found: 1 of 1, of the high half: 0 of 1
#   bytes in the file's second half that are not zero: 0
#   saving 4096 bytes at 1 TiB, where nothing is: success, all zero
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
SIZE = 32 << 20
ram = bytearray(SIZE)
ram[8 << 20:(8 << 20) + 4096] = b'L' * 4096
ram[24 << 20:(24 << 20) + 4096] = b'H' * 4096
open('ram', 'wb').write(ram)
with Qemu('-m', '32', '-object', 'memory-backend-file,id=m,size=32M,share=on,mem-path=ram', '-M', 'pc,memory-backend=m,max-ram-below-4g=16M') as q:
    q('pmemsave', val=0, size=SIZE, filename=os.path.abspath('saved'))
    q('pmemsave', val=1 << 40, size=4096, filename=os.path.abspath('nothing'))
saved, nothing = open('saved', 'rb').read(), open('nothing', 'rb').read()
seen = len(saved), saved.count(b'L' * 4096), saved.count(b'H' * 4096), SIZE // 2 - saved[SIZE // 2:].count(0), nothing == bytes(4096)
print(f'saved {seen[0]} bytes of {SIZE}; pages of the low half found: {seen[1]} of 1, of the high half: {seen[2]} of 1')
print(f'bytes in the file\'s second half that are not zero: {seen[3]}')
print(f'saving 4096 bytes at 1 TiB, where nothing is: success, {"all zero" if seen[4] else "something else"}')
if seen != (SIZE, 1, 0, 0, True): raise SystemExit('changed')
P
