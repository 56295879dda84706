#!/usr/bin/env bash
# Where a guest's RAM above 4 GiB lies depends on the vendor of its CPU model and on how far it may grow.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3); 10.0.2 and 11.1.3 do the same.
# Expected:  machine type and size of RAM settle the physical layout: high RAM begins at 4 GiB on q35.
# Behaviour: with an AMD CPU model, a machine type of 7.1 or newer, and room to grow (maxmem) that would reach the
#            HyperTransport area below 1 TiB, high RAM begins at 1 TiB, however small the guest is now. The RAM block
#            in the migration stream is the same in all cases: nothing there tells where its bytes belong.
# How:       max-ram-below-4g=16M gives a 32 MiB guest a high part.
# Output seen:
#   pc-q35-7.2 Nehalem    maxmem=980G: high RAM at 0x100000000
#   pc-q35-7.2 Opteron_G1 maxmem=960G: high RAM at 0x100000000
#   pc-q35-7.2 Opteron_G1 maxmem=980G: high RAM at 0x10000000000
#   pc-q35-7.0 Opteron_G1 maxmem=980G: high RAM at 0x100000000
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
import re
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
seen = []
for machine, cpu, maxmem in ('7.2', 'Nehalem', '980G'), ('7.2', 'Opteron_G1', '960G'), ('7.2', 'Opteron_G1', '980G'), ('7.0', 'Opteron_G1', '980G'):
    with Qemu('-M', f'pc-q35-{machine},max-ram-below-4g=16M', '-m', f'32M,maxmem={maxmem},slots=1', '-cpu', f'{cpu},phys-bits=48') as q:
        tree = q('human-monitor-command', **{'command-line': 'info mtree'})
    seen.append(int(re.search(r'([0-9a-f]{16})-[0-9a-f]{16} .*alias ram-above-4g @pc.ram', tree)[1], 16))
    print(f'pc-q35-{machine} {cpu:10} maxmem={maxmem}: high RAM at {seen[-1]:#x}')
if seen != [1 << 32, 1 << 32, 1 << 40, 1 << 32]: raise SystemExit('changed')
P
