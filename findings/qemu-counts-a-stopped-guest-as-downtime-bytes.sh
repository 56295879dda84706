#!/usr/bin/env bash
# Migrating a guest that is not running: every byte is counted as "downtime-bytes", yet "downtime" is nearly nothing.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3); 10.0.2 and 11.1.3 do the same.
# Expected:  downtime-bytes is what was sent in the switchover, after the last precopy round, as downtime is its time: the
#            first pass over the RAM is precopy whether or not the vCPUs run.
# Behaviour: bytes are sorted by whether the guest runs at that moment, time by the phase of the migration. For a paused
#            guest (restore, -S, a guest saved to a file) precopy-bytes stays 0 and downtime-bytes is the whole RAM,
#            sent "in" a downtime of a few ms. A rate worked out of the two is nonsense.
# Output seen:
#   precopy-bytes 0, downtime-bytes over 32 MiB True, downtime under half of total-time True
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
open('ram', 'wb').write(b'data' * (8 << 20))
with Qemu('-m', '32', '-object', 'memory-backend-file,id=m,size=32M,share=on,mem-path=ram', '-M', 'pc,memory-backend=m') as q:
    q('migrate-set-parameters', **{'max-bandwidth': 32 << 20}) # about a second
    q('migrate', uri='exec:cat >/dev/null')
    info = q.migrated('completed')
ram = info['ram']
seen = ram['precopy-bytes'], ram['downtime-bytes'] > 32 << 20, info['downtime'] < info['total-time'] / 2
print(f'precopy-bytes {seen[0]}, downtime-bytes over 32 MiB {seen[1]}, downtime under half of total-time {seen[2]}')
if info['status'] != 'completed' or seen != (0, True, True): raise SystemExit('changed')
P
