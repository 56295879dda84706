#!/usr/bin/env bash
# multifd in QEMU 10: an all-zero page that arrives for the first time is not written at the destination.
#
# Version:   QEMU 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1); 11.1.3 does the same.
# Expected:  when both ends say "completed", the destination's RAM equals the source's, whatever lay in the
#            destination's backing file before; multifd changes how pages travel, not what arrives.
# Behaviour: true without multifd. With it, the destination takes its memory to be fresh (zero) and only notes the
#            page as received. A backing file with old bytes (share=on, say a slot used again) keeps them in every
#            page that is zero at the source; the migration is reported as completed all the same.
# Output seen:
#   plain:   source completed, destination completed, old bytes left 0, RAM equal True
#   multifd: source completed, destination completed, old bytes left 33554432, RAM equal False
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
import json, os, subprocess, time
lib = 'usr/lib/x86_64-linux-gnu'
os.environ['QEMU_MODULE_DIR'] = f'{lib}/qemu'
SIZE = 32 << 20

class Qemu:
    def __init__(self, ram, *more):
        self.p = subprocess.Popen(['lib64/ld-linux-x86-64.so.2', '--library-path', f'{lib}:lib/x86_64-linux-gnu', 'usr/bin/qemu-system-x86_64',
            '-L', 'usr/share/qemu', '-L', 'usr/share/seabios', '-accel', 'tcg', '-S', '-nodefaults', '-display', 'none', '-qmp', 'stdio',
            '-m', '32', '-object', f'memory-backend-file,id=m,size=32M,share=on,mem-path={ram}', '-M', 'pc,memory-backend=m', *more],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.p.stdout.readline()
        self('qmp_capabilities')
    def __call__(self, command, **arguments):
        print(json.dumps({'execute': command, 'arguments': arguments}), file=self.p.stdin, flush=True)
        while True:
            reply = json.loads(self.p.stdout.readline())
            if 'error' in reply: raise SystemExit(f'{command}: {reply}')
            if 'return' in reply: return reply['return']
    def end(self):
        for _ in range(600):
            status = self('query-migrate').get('status')
            if status in ('completed', 'failed'): return status
            time.sleep(0.1)

def migrate(*capabilities):
    with open('source.ram', 'wb') as f: f.truncate(SIZE)             # all zero, but for the firmware that QEMU puts into ROM
    with open('destination.ram', 'wb') as f: f.write(b'\xaa' * SIZE) # what an earlier guest left behind
    qemus = [Qemu('destination.ram', '-incoming', 'defer'), Qemu('source.ram')]
    try:
        for q in qemus: q('migrate-set-capabilities', capabilities=[{'capability': c, 'state': True} for c in capabilities])
        qemus[0]('migrate-incoming', uri='unix:socket')
        qemus[1]('migrate', uri='unix:socket')
        ends = qemus[1].end(), qemus[0].end()
    finally:
        for q in qemus: q.p.kill(); q.p.wait()
    a, b = (open(f, 'rb').read() for f in ('source.ram', 'destination.ram'))
    seen = f'source {ends[0]}, destination {ends[1]}, old bytes left {b.count(0xaa)}, RAM equal {a == b}'
    print(f'{"multifd:" if capabilities else "plain:  "} {seen}')
    return seen

seen = migrate(), migrate('multifd')
if seen != ('source completed, destination completed, old bytes left 0, RAM equal True',
            'source completed, destination completed, old bytes left 33554432, RAM equal False'): raise SystemExit('changed')
P
