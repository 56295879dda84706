#!/usr/bin/env bash
# A virtio-mem device over a memory-backend-file with share=off empties the file when QEMU starts.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3); 10.0.2 and 11.1.3 do the same, with a warning on stderr.
# Expected:  share=off maps the file privately: what a guest does to its memory does not reach the file, and one image
#            can be the template of many guests. The same object as the guest's main memory keeps to that.
# Behaviour: virtio-mem starts with all of its memory unplugged and discards it. Discarding memory that has a file
#            punches a hole into the file, privately mapped or not. Before the guest's first instruction the file is one
#            hole, for all who map it. A RAM image kept as a template, or a saved guest's, is gone.
# Output seen (a file of 64 MiB, every byte 1):
#   share=off, the guest's main memory:  67108864 bytes still there
#   share=off, virtio-mem:               0 bytes still there
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
def kept(*options):
    open('image', 'wb').write(b'\1' * (64 << 20))
    with Qemu('-object', 'memory-backend-file,id=ram,size=64M,share=off,mem-path=image', *options) as q: q('query-status')
    return open('image', 'rb').read().count(1)
main = kept('-m', '64', '-M', 'pc,memory-backend=ram')
print(f"share=off, the guest's main memory:  {main} bytes still there")
plugged = kept('-m', '32M,maxmem=1G', '-device', 'virtio-mem-pci,memdev=ram')
print(f'share=off, virtio-mem:               {plugged} bytes still there')
if (main, plugged) != (64 << 20, 0): raise SystemExit('changed')
P
