#!/usr/bin/env bash
# One line that is not JSON gets as many QMP answers as it has words.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3); 10.0.2 and 11.1.3 do the same.
# Expected:  one request, one line, one answer: a broken line gets one error, and the next answer belongs to the next line.
# Behaviour: the parser does not resynchronise at the line's end but at the next token, so each bad word gets its own
#            error object. A client that reads one answer for each line it wrote is out of step from then on and takes
#            the left-over errors for the results of its following commands. Only matching by "id" keeps it right.
# Output seen:
#   sent: query status please
#   4 answers: error, error, error, prelaunch
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
with Qemu('-M', 'none') as q:
    line = 'query status please'
    print('sent:', line)
    print(line, file=q.p.stdin, flush=True)
    print(json.dumps({'execute': 'query-status', 'id': 'next'}), file=q.p.stdin, flush=True)
    answers = []
    while not answers or answers[-1].get('id') != 'next': answers.append(json.loads(q.p.stdout.readline()))
seen = ['error' if 'error' in a else a['return']['status'] for a in answers]
print(f'{len(seen)} answers: {", ".join(seen)}')
if seen != ['error'] * 3 + ['prelaunch']: raise SystemExit('changed')
P
