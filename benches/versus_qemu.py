#!/usr/bin/env python3
"""Times ramferry against QEMU on the same RAM image, in alternating pairs, and prints medians.

usage: versus_qemu.py IMAGE [--pairs N] [--ramferry BIN] [--compress-qemu BIN] [--multifd-qemu BIN] [--data DIR]

QEMU runs as two stopped guests (-S) whose RAM is IMAGE and a fresh file; ramferry as `send` and `receive` between
the same kinds of file. Outputs are on /dev/shm. Two compressing and two decompressing threads, or two channels.
The capability `compress` needs a QEMU before 9.1 (Debian bookworm's 7.2); its multifd modes run with any.
"wire" is ramferry on both sides of QEMU's own stream; "to QEMU" and "from QEMU" have it on one side.
"""
import argparse, json, os, socket, statistics, subprocess, tempfile, time


class Guest:
    """A stopped QEMU and its monitor."""

    def __init__(self, binary, data, folder, name, image, size, share, extra):
        monitor = os.path.join(folder, name)
        self.process = subprocess.Popen(
            [binary, *(['-L', data] if data else []), '-M', 'pc,memory-backend=ram', '-m', str(size >> 20),
             '-accel', 'tcg', '-nodefaults', '-display', 'none', '-S',
             '-object', f'memory-backend-file,id=ram,size={size},mem-path={image},share={share}',
             '-qmp', f'unix:{monitor},server=on,wait=off', *extra], stdin=subprocess.DEVNULL)
        self.socket = socket.socket(socket.AF_UNIX)
        while self.socket.connect_ex(monitor):
            if self.process.poll() is not None:
                raise SystemExit(f'{binary} has ended')
            time.sleep(0.01)
        self.lines = self.socket.makefile('rw')
        self.lines.readline()
        self.ask('qmp_capabilities')

    def ask(self, command, **arguments):
        self.lines.write(json.dumps({'execute': command, 'arguments': arguments}) + '\n')
        self.lines.flush()
        while True:
            answer = json.loads(self.lines.readline())
            if 'error' in answer:
                raise SystemExit(f'{command}: {answer["error"]["desc"]}')
            if 'return' in answer:
                return answer['return']

    def configure(self, capability, **parameters):
        self.ask('migrate-set-capabilities', capabilities=[{'capability': capability, 'state': True}])
        self.ask('migrate-set-parameters', **parameters)

    def quit(self):
        try:
            self.ask('quit')
        except (OSError, ValueError, SystemExit):
            self.process.kill()
        self.process.wait()


def qemu(binary, data, image, capability, source, destination):
    """Seconds and bytes of one migration between two QEMUs."""
    size = os.path.getsize(image)
    with tempfile.TemporaryDirectory(dir='/dev/shm') as folder:
        out = Guest(binary, data, folder, 'out', os.path.join(folder, 'ram'), size, 'on', ['-incoming', 'defer'])
        guest = Guest(binary, data, folder, 'in', image, size, 'off', [])
        try:
            out.configure(capability, **destination)
            guest.configure(capability, **{'max-bandwidth': 1 << 40, **source})
            uri = f'unix:{folder}/link'
            out.ask('migrate-incoming', uri=uri)
            start = time.monotonic()
            guest.ask('migrate', uri=uri)
            for side in (guest, out):
                while (state := side.ask('query-migrate')).get('status') not in ('completed', 'failed'):
                    time.sleep(0.005)
                if state['status'] == 'failed':
                    raise SystemExit(f'QEMU: {state}')
            seconds = time.monotonic() - start
            return seconds, guest.ask('query-migrate')['ram']['transferred']
        finally:
            guest.quit()
            out.quit()


def ramferry(binary, image, options):
    """Seconds, bytes and CPU seconds of one migration by ramferry, proof included."""
    with tempfile.TemporaryDirectory(dir='/dev/shm') as folder:
        uri, out = f'unix:{folder}/link', os.path.join(folder, 'ram')
        receiver = subprocess.Popen([binary, 'receive', uri, out, '--quiet', '--decompress-threads', '2'],
                                    stdout=subprocess.PIPE)
        receiver.stdout.readline()
        sent = subprocess.run([binary, 'send', image, uri, '--quiet', '--json', '--compress-threads', '2', *options],
                              stdout=subprocess.PIPE, check=True)
        if receiver.wait():
            raise SystemExit('the receiver failed')
        report = json.loads(sent.stdout)
        return report['total-time'] / 1e3, report['wire-bytes']


def to_qemu(binary, qemu_binary, image, options, destination):
    """Seconds and bytes of one migration from ramferry to a QEMU, which has loaded it."""
    size = os.path.getsize(image)
    with tempfile.TemporaryDirectory(dir='/dev/shm') as folder:
        out = Guest(qemu_binary, None, folder, 'out', os.path.join(folder, 'ram'), size, 'on', ['-incoming', 'defer'])
        try:
            out.configure('compress', **destination)
            uri = f'unix:{folder}/link'
            out.ask('migrate-incoming', uri=uri)
            sent = subprocess.run([binary, 'send', image, uri, '--quiet', '--json', '--block', 'ram',
                                   '--compress-threads', '2', *options], stdout=subprocess.PIPE, check=True)
            report = json.loads(sent.stdout)
            return report['total-time'] / 1e3, report['wire-bytes']
        finally:
            out.quit()


def from_qemu(binary, qemu_binary, image, source):
    """Seconds and bytes of one migration from a QEMU to ramferry, proof included."""
    size = os.path.getsize(image)
    with tempfile.TemporaryDirectory(dir='/dev/shm') as folder:
        guest = Guest(qemu_binary, None, folder, 'in', image, size, 'off', [])
        try:
            guest.configure('compress', **{'max-bandwidth': 1 << 40, **source})
            uri = f'unix:{folder}/link'
            receiver = subprocess.Popen([binary, 'receive', uri, os.path.join(folder, 'out'), '--quiet', '--json',
                                         '--decompress-threads', '2'], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            receiver.stderr.readline()
            start = time.monotonic()
            guest.ask('migrate', uri=uri)
            report = json.loads(receiver.stdout.read())
            if receiver.wait():
                raise SystemExit('the receiver failed')
            return time.monotonic() - start, report['wire-bytes']
        finally:
            guest.quit()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('image')
    parser.add_argument('--pairs', type=int, default=7)
    parser.add_argument('--ramferry', default='target/release/ramferry')
    parser.add_argument('--compress-qemu', default='qemu-system-x86_64')
    parser.add_argument('--multifd-qemu', default='qemu-system-x86_64')
    parser.add_argument('--only', default='', help='rows whose first column holds this')
    parser.add_argument('--data', help="where --multifd-qemu's firmware lies, if it is not installed")
    a = parser.parse_args()
    image = os.path.abspath(a.image)
    old, new = (a.compress_qemu, None), (a.multifd_qemu, a.data)
    channels = {'multifd-channels': 2}

    def multifd(method):
        parameters = {**channels, 'multifd-compression': method}
        return 'multifd', parameters, parameters

    compress = 'compress', {'compress-level': 1, 'compress-threads': 2}, {'decompress-threads': 2}
    two = ['--connections', '2']
    wire = ['--wire', 'qemu', '--capability', 'compress=on']
    ours = lambda options: lambda: ramferry(a.ramferry, image, options)
    theirs = lambda which, settings: lambda: qemu(*which, image, *settings)
    table = [
        ('wire, zlib 1', 'compress, zlib 1', ours(wire), theirs(old, compress)),
        ('to QEMU, zlib 1', 'compress, zlib 1',
         lambda: to_qemu(a.ramferry, a.compress_qemu, image, wire, compress[2]), theirs(old, compress)),
        ('from QEMU, zlib 1', 'compress, zlib 1',
         lambda: from_qemu(a.ramferry, a.compress_qemu, image, compress[1]), theirs(old, compress)),
        ('zlib 1', 'compress, zlib 1', ours(['--compress-method', 'zlib']), theirs(old, compress)),
        ('zlib 1', 'multifd zlib 1', ours(['--compress-method', 'zlib', *two]), theirs(new, multifd('zlib'))),
        ('zstd 1', 'multifd zstd 1', ours(['--compress-method', 'zstd', *two]), theirs(new, multifd('zstd'))),
        ('lz4', 'multifd none', ours(['--compress-method', 'lz4', *two]), theirs(new, multifd('none'))),
        ('none', 'multifd none', ours(['--compress-method', 'none', *two]), theirs(new, multifd('none'))),
    ]
    table = [row for row in table if a.only in row[0]]
    results = [[] for _ in table]
    for _ in range(a.pairs):
        for row, (_, _, one, other) in zip(results, table):
            row.append((one(), other()))
    print('| ramferry | MB | ms | QEMU | MB | ms | times as fast (median of pairs, least to most) |')
    print('|---|---|---|---|---|---|---|')
    for row, (ours, theirs, *_) in zip(results, table):
        median = lambda of: statistics.median(map(of, row))
        ratios = [theirs[0] / ours[0] for ours, theirs in row]
        print(f'| {ours} | {median(lambda p: p[0][1]) / 1e6:.1f} | {median(lambda p: p[0][0]) * 1e3:.0f} '
              f'| {theirs} | {median(lambda p: p[1][1]) / 1e6:.1f} | {median(lambda p: p[1][0]) * 1e3:.0f} '
              f'| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |')


if __name__ == '__main__':
    main()
