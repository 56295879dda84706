#!/usr/bin/env bash
# With x-ignore-shared on, snapshot-save makes snapshots without the guest's RAM, and reports success.
#
# Version:   QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3); 10.0.2 and 11.1.3 do the same.
# Expected:  migration capabilities concern migration: a snapshot inside a qcow2 is complete by itself, or the job
#            refuses a capability that does not suit it.
# Behaviour: a snapshot is a migration stream, and capabilities stay as they were last set. Once x-ignore-shared is on,
#            as for an upgrade in place, snapshots of a guest whose RAM is a shared file keep the devices only. The job
#            concludes without an error; the size of the VM state is the sole sign. Going back to such a snapshot would
#            pair old devices with whatever the RAM file holds then.
# Output seen (32 MiB of random RAM):
#   capability off: concluded, no error, VM state of 33 MB
#   capability on:  concluded, no error, VM state of 0 MB
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
mkdir -p parts lists/partial debs/partial; : >status
sed 's/^Suites:.*/Suites: bookworm/' /etc/apt/sources.list.d/debian.sources | awk 'BEGIN{RS=""} NR==1' >parts/debian.sources
set -- -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$tmp/parts" -o Dir::State::lists="$tmp/lists" -o Dir::State::status="$tmp/status" \
  -o Dir::Cache="$tmp" -o Dir::Cache::archives="$tmp/debs" -o APT::Sandbox::User=root -o Debug::NoLocking=1
apt-get "$@" update -qq
apt-get "$@" install -qq -y --no-install-recommends --download-only 'qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3' 'qemu-utils=1:7.2+dfsg-7+deb12u18+b3' >/dev/null
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
open('ram', 'wb').write(os.urandom(32 << 20))
subprocess.run(['lib64/ld-linux-x86-64.so.2', '--library-path', f'{lib}:lib/x86_64-linux-gnu', 'usr/bin/qemu-img', 'create', '-q', '-f', 'qcow2', 'disk', '64M'], check=True)
def snapshot(tag, ignore):
    with Qemu('-m', '32', '-object', 'memory-backend-file,id=pc.ram,size=32M,share=on,mem-path=ram', '-M', 'pc,memory-backend=pc.ram',
              '-blockdev', 'driver=qcow2,node-name=disk,file.driver=file,file.filename=disk') as q:
        q('migrate-set-capabilities', capabilities=[{'capability': 'x-ignore-shared', 'state': ignore}])
        q('snapshot-save', **{'job-id': 'save', 'tag': tag, 'vmstate': 'disk', 'devices': ['disk']})
        for _ in range(600):
            job = q('query-jobs')[0]
            if job['status'] == 'concluded': break
            time.sleep(0.1)
        node = [n for n in q('query-named-block-nodes') if n['node-name'] == 'disk'][0]
        size = [s['vm-state-size'] for s in node['image']['snapshots'] if s['name'] == tag][0]
        return job['status'], job.get('error', 'no error'), size // 1000000
seen = []
for what, ignore in ('off', False), ('on', True):
    seen.append(snapshot(what, ignore))
    print('{:15} {}, {}, VM state of {} MB'.format(f'capability {what}:', *seen[-1]))
if [s[:2] for s in seen] != [('concluded', 'no error')] * 2 or seen[0][2] < 33 or seen[1][2] > 1: raise SystemExit('changed')
P
