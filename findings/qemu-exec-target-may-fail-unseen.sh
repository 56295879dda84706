#!/usr/bin/env bash
# A migration to `exec:COMMAND` is "completed" whatever COMMAND's exit status, and the monitor is mute until it ends.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3); 10.0.2 and 11.1.3 do the same.
# Expected:  a command that fails (no room left, a broken ssh, gzip that cannot write) fails the migration, as its
#            closing the pipe early does; or QEMU does not wait for the command at all.
# Behaviour: QEMU waits for the command after the last byte, but only for its end: exit status 3 is a success. Meanwhile
#            QMP gives no answer, to anything, for as long as the command takes to flush. So "completed" does not say
#            that the file is whole, and a client's time-out for a dead QEMU must allow for the slowest disk. To show a
#            failure the command has to leave a mark of its own.
# Output seen:
#   exec:cat >/dev/null; exit 3            completed, exit status reported: no
#   exec:cat >/dev/null; sleep 3; exit 3   completed, longest wait for an answer: 3 s
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
def save(command):
    with Qemu('-m', '32') as q:
        q('migrate', uri=command)
        longest, status = 0, 'setup'
        while status not in ('completed', 'failed'):
            start = time.monotonic()
            info = q('query-migrate')
            status, longest = info['status'], max(longest, time.monotonic() - start)
            time.sleep(0.05)
        return status, 'error-desc' in info, longest
quick, slow = 'exec:cat >/dev/null; exit 3', 'exec:cat >/dev/null; sleep 3; exit 3'
status, told, _ = save(quick)
print(f'{quick:38} {status}, exit status reported: {"yes" if told else "no"}')
slow_status, _, longest = save(slow)
print(f'{slow:38} {slow_status}, longest wait for an answer: {longest:.0f} s')
if status != 'completed' or told or slow_status != 'completed' or longest < 2: raise SystemExit('changed')
P
