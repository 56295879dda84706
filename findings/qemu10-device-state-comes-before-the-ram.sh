#!/usr/bin/env bash
# A device's full section may come among or before the RAM's, and its place changed between QEMU 10.0 and 11.1.
#
# Version:   QEMU 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1), 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)
# Expected:  a stream is RAM first, device state last: START, PARTs and END of the RAM, and then only FULL sections, so
#            that a tool for RAM may take everything from the first FULL section on as the opaque rest.
# Behaviour: virtio-mem has a second, "early" device section. 10.0 puts it after the RAM's START section, 11.1 before
#            it, both ahead of every page. A FULL section has no length field: a tool that cuts there loses the RAM, and
#            a reader that does not know the device's layout cannot step over it. QEMU 7.2 sends no such section.
# Output seen:
#   QEMU 10.0.2: RAM's START, early device state, first page of the guest's RAM
#   QEMU 11.1.3: early device state, RAM's START, first page of the guest's RAM
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
fetch() { # fetch FOLDER SUITE PACKAGE: unpacks the package of SUITE-backports and all that it needs into FOLDER
  mkdir -p "$1/parts" "$1/lists/partial" "$1/debs/partial"; : >"$1/status"
  sed "s/^Suites:.*/Suites: $2 $2-backports/" /etc/apt/sources.list.d/debian.sources | awk 'BEGIN{RS=""} NR==1' >"$1/parts/debian.sources"
  apt="apt-get -qq -y -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$tmp/$1/parts -o Dir::State::lists=$tmp/$1/lists -o Dir::State::status=$tmp/$1/status
    -o Dir::Cache=$tmp/$1 -o Dir::Cache::archives=$tmp/$1/debs -o APT::Sandbox::User=root -o Debug::NoLocking=1"
  $apt update
  $apt install --no-install-recommends --download-only -t "$2-backports" "$3" >/dev/null
  for deb in "$1"/debs/*.deb; do dpkg -x "$deb" "$1"; done
}
fetch 10.0.2 bookworm 'qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1'
fetch 11.1.3 trixie 'qemu-system-x86=1:11.1.3+ds-1~bpo13+1'

nice -n 15 python3 - <<'P'
import glob, json, os, subprocess, time
MARK = b'page of a guest\n' * 256
open('mark', 'wb').write(MARK)

def order(version):
    lib = f'{version}/usr/lib/x86_64-linux-gnu'
    os.environ['QEMU_MODULE_DIR'] = f'{lib}/qemu'
    loader = [f for f in glob.glob(f'{version}/**/ld-linux-x86-64.so.2', recursive=True) if os.path.isfile(f)][0]
    p = subprocess.Popen([loader, '--library-path', f'{lib}:{version}/lib/x86_64-linux-gnu', f'{version}/usr/bin/qemu-system-x86_64',
        '-L', f'{version}/usr/share/qemu', '-L', f'{version}/usr/share/seabios', '-accel', 'tcg', '-S', '-nodefaults', '-display', 'none', '-qmp', 'stdio',
        '-m', '32M,maxmem=1G', '-device', 'loader,file=mark,addr=0x1000000,force-raw=on',
        '-object', 'memory-backend-ram,id=more,size=64M', '-device', 'virtio-mem-pci,memdev=more'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    def qmp(command, **arguments):
        print(json.dumps({'execute': command, 'arguments': arguments}), file=p.stdin, flush=True)
        while True:
            reply = json.loads(p.stdout.readline())
            if 'error' in reply: raise SystemExit(f'{command}: {reply}')
            if 'return' in reply: return reply['return']
    try:
        p.stdout.readline()
        qmp('qmp_capabilities')
        qmp('migrate', uri='exec:cat >part; mv part stream')
        while qmp('query-migrate')['status'] not in ('completed', 'failed'): time.sleep(0.1)
    finally: p.kill(); p.wait()
    while not os.path.exists('stream'): time.sleep(0.1)
    stream = open('stream', 'rb').read()
    os.remove('stream')
    # the header of the RAM's first section: type, id, name, instance 0, version 4
    ram_start = b'\x03ram' + (0).to_bytes(4, 'big') + (4).to_bytes(4, 'big')
    found = {"RAM's START": stream.find(ram_start), 'early device state': stream.find(b'virtio-mem-device-early'), "first page of the guest's RAM": stream.find(MARK)}
    assert min(found.values()) > 0, found
    return ', '.join(sorted(found, key=found.get))

seen = []
for version in '10.0.2', '11.1.3':
    seen.append(order(version))
    print(f'QEMU {version}: {seen[-1]}')
if seen != ["RAM's START, early device state, first page of the guest's RAM", "early device state, RAM's START, first page of the guest's RAM"]:
    raise SystemExit('changed')
P
