#!/usr/bin/env bash
# A background snapshot of a paused guest leaves it running (QEMU 7.2) or paused as it was (10.0).
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3), 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1). Needs
#            userfaultfd with write protection; prints "skipped" where QEMU refuses the capability.
# Expected:  the snapshot saves a guest with hardly a stop, so it leaves the guest in the state it found. A running one
#            runs on; one that was paused on purpose, while its disks are copied say, stays paused.
# Behaviour: 7.2 pauses the guest for its devices' state and then starts it, whether or not it ran before. The guest
#            writes to disks and RAM that were thought to stand still; the only sign is a RESUME event. 10.0 remembers.
# Output seen:
#   QEMU 7.2.22: paused, completed, running; events STOP RESUME
#   QEMU 10.0.2: paused, completed, paused; events STOP
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
fetch() { # fetch FOLDER SUITE PACKAGE: unpacks the package of bookworm or its backports and all that it needs into FOLDER
  mkdir -p "$1/parts" "$1/lists/partial" "$1/debs/partial"; : >"$1/status"
  sed "s/^Suites:.*/Suites: bookworm bookworm-backports/" /etc/apt/sources.list.d/debian.sources | awk 'BEGIN{RS=""} NR==1' >"$1/parts/debian.sources"
  apt="apt-get -qq -y -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$tmp/$1/parts -o Dir::State::lists=$tmp/$1/lists -o Dir::State::status=$tmp/$1/status
    -o Dir::Cache=$tmp/$1 -o Dir::Cache::archives=$tmp/$1/debs -o APT::Sandbox::User=root -o Debug::NoLocking=1"
  $apt update
  $apt install --no-install-recommends --download-only -t "$2" "$3" >/dev/null
  for deb in "$1"/debs/*.deb; do dpkg -x "$deb" "$1"; done
}
fetch 7.2.22 bookworm 'qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3'
fetch 10.0.2 bookworm-backports 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1'

nice -n 15 python3 - <<'P'
import glob, json, os, subprocess, time

def look(version):
    lib = f'{version}/usr/lib/x86_64-linux-gnu'
    os.environ['QEMU_MODULE_DIR'] = f'{lib}/qemu'
    loader = [f for f in glob.glob(f'{version}/**/ld-linux-x86-64.so.2', recursive=True) if os.path.isfile(f)][0]
    p = subprocess.Popen([loader, '--library-path', f'{lib}:{version}/lib/x86_64-linux-gnu', f'{version}/usr/bin/qemu-system-x86_64',
        '-L', f'{version}/usr/share/qemu', '-L', f'{version}/usr/share/seabios', '-accel', 'tcg', '-nodefaults', '-display', 'none', '-qmp', 'stdio',
        '-m', '32'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    events = []
    def qmp(command, **arguments):
        print(json.dumps({'execute': command, 'arguments': arguments}), file=p.stdin, flush=True)
        while True:
            reply = json.loads(p.stdout.readline())
            if 'event' in reply: events.append(reply['event'])
            if 'error' in reply and command == 'migrate-set-capabilities':
                print('skipped:', reply['error']['desc'])
                raise SystemExit(0)
            if 'error' in reply: raise SystemExit(f'{command}: {reply}')
            if 'return' in reply: return reply['return']
    try:
        p.stdout.readline()
        qmp('qmp_capabilities')
        qmp('stop')
        before = qmp('query-status')['status']
        qmp('migrate-set-capabilities', capabilities=[{'capability': 'background-snapshot', 'state': True}])
        qmp('migrate', uri='exec:cat >/dev/null')
        while (result := qmp('query-migrate')['status']) not in ('completed', 'failed'): time.sleep(0.1)
        for _ in range(20): # the guest starts, if it does, a moment after "completed"
            if qmp('query-status')['status'] == 'running': break
            time.sleep(0.1)
        return before, result, qmp('query-status')['status'], ' '.join(events)
    finally: p.kill(); p.wait()

seen = []
for version in '7.2.22', '10.0.2':
    seen.append(look(version))
    print('QEMU {}: {}, {}, {}; events {}'.format(version, *seen[-1]))
if seen != [('paused', 'completed', 'running', 'STOP RESUME'), ('paused', 'completed', 'paused', 'STOP')]: raise SystemExit('changed')
P
