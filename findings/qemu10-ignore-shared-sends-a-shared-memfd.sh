#!/usr/bin/env bash
# x-ignore-shared: QEMU 10 sends the RAM of a shared memfd, QEMU 7.2 left it out.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3), 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1); 11.1.3 as 10.0.2.
# Expected:  x-ignore-shared leaves out every RAM block that is mapped shared (share=on), as its name says, and the
#            two versions agree, for the stream's configuration section lists the capability and both ends check it.
# Behaviour: newer QEMUs leave out shared blocks of a *named file* only. For a memfd (share=on, its default, and what
#            a VMM hands over by file descriptor) or a shared memory-backend-ram they send every page, with the
#            capability on and without a word. A tool that carries the RAM itself pays for it twice.
# Output seen:
#   QEMU 7.2.22 memory-backend-file,share=on,mem-path=ram: RAM left out
#   QEMU 7.2.22 memory-backend-memfd:                      RAM left out
#   QEMU 7.2.22 memory-backend-ram,share=on:               RAM left out
#   QEMU 10.0.2 memory-backend-file,share=on,mem-path=ram: RAM left out
#   QEMU 10.0.2 memory-backend-memfd:                      RAM sent
#   QEMU 10.0.2 memory-backend-ram,share=on:               RAM sent
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
fetch() { # fetch FOLDER SUITES PACKAGE...: unpacks the packages and all that they need into FOLDER
  mkdir -p "$1/parts" "$1/lists/partial" "$1/debs/partial"; : >"$1/status"
  sed "s/^Suites:.*/Suites: $2/" /etc/apt/sources.list.d/debian.sources | awk 'BEGIN{RS=""} NR==1' >"$1/parts/debian.sources"
  apt="apt-get -qq -y -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$tmp/$1/parts -o Dir::State::lists=$tmp/$1/lists -o Dir::State::status=$tmp/$1/status
    -o Dir::Cache=$tmp/$1 -o Dir::Cache::archives=$tmp/$1/debs -o APT::Sandbox::User=root -o Debug::NoLocking=1"
  $apt update; folder=$1; shift 2
  $apt install --no-install-recommends --download-only "$@" >/dev/null
  for deb in "$folder"/debs/*.deb; do dpkg -x "$deb" "$folder"; done
}
fetch 7.2.22 bookworm 'qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3'
fetch 10.0.2 'bookworm bookworm-backports' -t bookworm-backports 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1'

nice -n 15 python3 - <<'P'
import json, os, subprocess, time
MARK = b'page of a guest\n' * 256

def sent(version, backend):
    """Whether a stream that is made with x-ignore-shared holds the page that is at 16 MiB of the guest's RAM."""
    with open('ram', 'wb') as f: f.truncate(32 << 20)
    lib = f'{version}/usr/lib/x86_64-linux-gnu'
    os.environ['QEMU_MODULE_DIR'] = f'{lib}/qemu'
    p = subprocess.Popen([f'{version}/lib64/ld-linux-x86-64.so.2', '--library-path', f'{lib}:{version}/lib/x86_64-linux-gnu',
        f'{version}/usr/bin/qemu-system-x86_64', '-L', f'{version}/usr/share/qemu', '-L', f'{version}/usr/share/seabios', '-accel', 'tcg', '-S',
        '-nodefaults', '-display', 'none', '-qmp', 'stdio', '-m', '32', '-object', backend + ',id=m,size=32M', '-M', 'pc,memory-backend=m',
        '-device', 'loader,file=mark,addr=0x1000000,force-raw=on'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    def qmp(command, **arguments):
        print(json.dumps({'execute': command, 'arguments': arguments}), file=p.stdin, flush=True)
        while True:
            reply = json.loads(p.stdout.readline())
            if 'error' in reply: raise SystemExit(f'{command}: {reply}')
            if 'return' in reply: return reply['return']
    try:
        p.stdout.readline()
        qmp('qmp_capabilities')
        qmp('migrate-set-capabilities', capabilities=[{'capability': 'x-ignore-shared', 'state': True}])
        qmp('migrate', uri='exec:cat >part; mv part stream')
        while qmp('query-migrate')['status'] not in ('completed', 'failed'): time.sleep(0.1)
    finally: p.kill(); p.wait()
    while not os.path.exists('stream'): time.sleep(0.1)
    stream = open('stream', 'rb').read()
    os.remove('stream')
    assert b'x-ignore-shared' in stream
    return MARK in stream

open('mark', 'wb').write(MARK)
seen = []
for version in '7.2.22', '10.0.2':
    for backend in 'memory-backend-file,share=on,mem-path=ram', 'memory-backend-memfd', 'memory-backend-ram,share=on':
        seen.append(sent(version, backend))
        print(f'QEMU {version} {backend + ":":42} RAM {"sent" if seen[-1] else "left out"}')
if seen != [False, False, False, False, True, True]: raise SystemExit('changed')
P
