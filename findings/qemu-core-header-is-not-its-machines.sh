#!/usr/bin/env bash
# The ELF header of a QEMU core: an "Intel 80386" in a 64-bit file, and a header that says it is 8 bytes long.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3); 10.0.2 and 11.1.3 do the same.
# Expected:  a dump by qemu-system-x86_64 is ELF64 for x86-64, e_ehsize is 64, and the two can serve to tell a core of a
#            64-bit guest from others.
# Behaviour: the machine is that of the mode which the vCPUs are in: a guest that is in its firmware, its boot loader or
#            not started yet is EM_386, in an ELF64 file all the same. e_ehsize is 8, the size of a pointer. A reader that
#            takes a core by e_machine, or that checks e_ehsize, refuses good dumps.
# Output seen:
#   class 2 (ELF64), machine 3 (Intel 80386), e_ehsize 8, program headers at 192
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
import struct
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
with Qemu('-M', 'pc', '-m', '32') as q:
    q('dump-guest-memory', paging=False, protocol='file:core')
core = open('core', 'rb').read(64)
assert core[:4] == b'\x7fELF'
machine, phoff, ehsize = struct.unpack_from('<H', core, 18)[0], struct.unpack_from('<Q', core, 32)[0], struct.unpack_from('<H', core, 52)[0]
print(f'class {core[4]} (ELF64), machine {machine} (Intel 80386), e_ehsize {ehsize}, program headers at {phoff}')
if (core[4], machine, ehsize, phoff) != (2, 3, 8, 192): raise SystemExit('changed')
P
