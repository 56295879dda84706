#!/usr/bin/env bash
# A core of dump-guest-memory is not all of the RAM as soon as the guest has a VGA card.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3); 10.0.2 and 11.1.3 do the same.
# Expected:  "dump guest memory" holds every byte of guest RAM, whichever devices are plugged in, so that its digest can
#            be compared with that of the RAM's backing file or of the RAM in a migration stream.
# Behaviour: it holds what lies at physical addresses. A VGA card covers 0xA0000-0xBFFFF, so the 128 KiB of RAM behind
#            its window are missing from the core (pmemsave misses them too), while the migration stream carries them.
#            The core's length does not show it: firmware and video memory, which are not RAM of the guest, are in it.
# Output seen:
#   no VGA card: marks in the core 16384, in pmemsave's file 16384, in the migration stream 16384
#   a VGA card:  marks in the core 0, in pmemsave's file 0, in the migration stream 16384
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
MARK = b'is here!' # 16384 of them stand in the RAM at 0xA0000
def marks(*card):
    ram = bytearray(32 << 20)
    ram[0xA0000:0xC0000] = MARK * (0x20000 // len(MARK))
    open('ram', 'wb').write(ram)
    with Qemu('-m', '32', '-object', 'memory-backend-file,id=m,size=32M,share=on,mem-path=ram', '-M', 'pc,memory-backend=m', *card) as q:
        q('dump-guest-memory', paging=False, protocol='file:core')
        q('pmemsave', val=0, size=len(ram), filename=os.path.abspath('saved'))
        q('migrate', uri='exec:cat >part; mv part stream')
        assert q.migrated('completed')['status'] == 'completed'
    while not os.path.exists('stream'): time.sleep(0.1)
    found = [open(f, 'rb').read().count(MARK) for f in ('core', 'saved', 'stream')]
    os.remove('stream')
    return found

seen = []
for name, card in ('no VGA card:', []), ('a VGA card: ', ['-device', 'VGA']):
    seen.append(marks(*card))
    print(f'{name} marks in the core {seen[-1][0]}, in pmemsave\'s file {seen[-1][1]}, in the migration stream {seen[-1][2]}')
if seen != [[16384, 16384, 16384], [0, 0, 16384]]: raise SystemExit('changed')
P
