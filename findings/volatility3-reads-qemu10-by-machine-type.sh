#!/usr/bin/env bash
# Whether volatility3 can read a saved QEMU stream hangs on the guest's machine type, with the same QEMU.
#
# Version:   volatility3 2.28.2 from PyPI, QEMU 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)
# Expected:  the stream's format is the QEMU version's, so a reader copes with all guests of a QEMU or with none.
# Behaviour: a machine type of 10.0 or newer adds one command (switchover start) between the RAM sections, which the
#            reader does not know: no layer, although its pages come before it. The same guest with -M of 9.2
#            reads in full. The default machine type is the newest, so "newer QEMU" is what one sees.
# Output seen:
#   pc-i440fx-9.2:  8192 of 8192 pages right
#   pc-i440fx-10.0: QEMU unknown section encountered: 8
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
mkdir -p parts lists/partial debs/partial; : >status
sed 's/^Suites:.*/Suites: bookworm bookworm-backports/' /etc/apt/sources.list.d/debian.sources | awk 'BEGIN{RS=""} NR==1' >parts/debian.sources
set -- -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$tmp/parts" -o Dir::State::lists="$tmp/lists" -o Dir::State::status="$tmp/status" \
  -o Dir::Cache="$tmp" -o Dir::Cache::archives="$tmp/debs" -o APT::Sandbox::User=root -o Debug::NoLocking=1
apt-get "$@" update -qq
apt-get "$@" install -qq -y --no-install-recommends --download-only -t bookworm-backports 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1' >/dev/null
for deb in debs/*.deb; do dpkg -x "$deb" .; done
python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --target python volatility3==2.28.2

PYTHONPATH=python nice -n 15 python3 - <<'P'
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
from volatility3.framework import contexts, exceptions
from volatility3.framework.layers import physical, qemu
PAGE = 4096
ram = b''.join((n * 2654435761 & 0xffffffff).to_bytes(4, 'little') * (PAGE // 4) for n in range((32 << 20) // PAGE))

def read(machine):
    open('ram', 'wb').write(ram)
    with Qemu('-m', '32', '-object', 'memory-backend-file,id=pc.ram,size=32M,share=on,mem-path=ram', '-M', f'{machine},memory-backend=pc.ram') as q:
        q('migrate', uri='exec:cat >part; mv part stream')
        assert q.migrated('completed')['status'] == 'completed'
    while not os.path.exists('stream'): time.sleep(0.1)
    os.rename('stream', 'image')
    context = contexts.Context()
    context.config['file.location'] = 'file://' + os.path.abspath('image')
    context.layers.add_layer(physical.FileLayer(context, 'file', 'file'))
    context.config['qemu.base_layer'] = 'file'
    try: layer = qemu.QemuSuspendLayer(context, 'qemu', 'qemu')
    except exceptions.LayerException as problem: return str(problem)
    right = sum(layer.read(at, PAGE) == ram[at:at + PAGE] for at in range(0, len(ram), PAGE))
    return f'{right} of {len(ram) // PAGE} pages right'

seen = []
for machine in 'pc-i440fx-9.2', 'pc-i440fx-10.0':
    seen.append(read(machine))
    print(f'{machine + ":":15} {seen[-1]}')
if seen != ['8192 of 8192 pages right', 'QEMU unknown section encountered: 8']: raise SystemExit('changed')
P
