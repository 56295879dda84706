#!/usr/bin/env python3
"""Times ramferry against QEMU on the same RAM image, in alternating pairs, and prints medians.

usage: versus_qemu.py IMAGE [--pairs N] [--ramferry BIN] [--compress-qemu BIN] [--multifd-qemu BIN] [--data DIR]

QEMU runs as two stopped guests (-S) whose RAM is IMAGE and a fresh file; ramferry as `send` and `receive` between
the same kinds of file. Outputs are on /dev/shm. Two compressing and two decompressing threads, or two channels.
The capability `compress` needs a QEMU before 9.1 (Debian bookworm's 7.2); its multifd modes run with any.
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('image')
    parser.add_argument('--pairs', type=int, default=7)
    parser.add_argument('--ramferry', default='target/release/ramferry')
    parser.add_argument('--compress-qemu', default='qemu-system-x86_64')
    parser.add_argument('--multifd-qemu', default='qemu-system-x86_64')
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
    table = [
        ('zlib 1', 'compress, zlib 1', ['--compress-method', 'zlib'], old, compress),
        ('zlib 1', 'multifd zlib 1', ['--compress-method', 'zlib', *two], new, multifd('zlib')),
        ('zstd 1', 'multifd zstd 1', ['--compress-method', 'zstd', *two], new, multifd('zstd')),
        ('lz4', 'multifd none', ['--compress-method', 'lz4', *two], new, multifd('none')),
        ('none', 'multifd none', ['--compress-method', 'none', *two], new, multifd('none')),
    ]
    results = [[] for _ in table]
    for _ in range(a.pairs):
        for row, (_, _, options, (binary, data), settings) in zip(results, table):
            row.append((ramferry(a.ramferry, image, options), qemu(binary, data, image, *settings)))
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
