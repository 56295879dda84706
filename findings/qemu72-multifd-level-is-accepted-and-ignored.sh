#!/usr/bin/env bash
# QEMU 7.2 takes multifd-zlib-level and multifd-zstd-level over QMP, says success, and stays at level 1.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3); 10.0.2 applies and checks them.
# Expected:  migrate-set-parameters either sets what it was given or fails.
# Behaviour: both levels are neither applied nor checked (99 succeeds, for levels that end at 9 and 20), while the other
#            multifd parameters in the same command take effect. Only the property on the command line,
#            -global migration.multifd-zstd-level=N, works. A benchmark of levels over QMP measured level 1 each time.
# Output seen:
#   set to 9 and 20 over QMP: channels 5, zlib level 1, zstd level 1
#   set to 99 over QMP:       channels 5, zlib level 1, zstd level 1
#   set to 9 and 20 by -global: channels 5, zlib level 9, zstd level 20
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
def levels(q, what):
    now = q('query-migrate-parameters')
    seen.append([now[p] for p in ('multifd-channels', 'multifd-zlib-level', 'multifd-zstd-level')])
    print('{} channels {}, zlib level {}, zstd level {}'.format(what, *seen[-1]))

seen = []
with Qemu('-M', 'none') as q:
    q('migrate-set-parameters', **{'multifd-channels': 5, 'multifd-zlib-level': 9, 'multifd-zstd-level': 20})
    levels(q, 'set to 9 and 20 over QMP:')
    q('migrate-set-parameters', **{'multifd-zlib-level': 99, 'multifd-zstd-level': 99})
    levels(q, 'set to 99 over QMP:      ')
with Qemu('-M', 'none', *(o for p in ('channels=5', 'zlib-level=9', 'zstd-level=20') for o in ('-global', f'migration.multifd-{p}'))) as q:
    levels(q, 'set to 9 and 20 by -global:')
if seen != [[5, 1, 1], [5, 1, 1], [5, 9, 20]]: raise SystemExit('changed')
P
