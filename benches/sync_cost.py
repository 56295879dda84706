#!/usr/bin/env python3
"""What it costs that the output is on disk before it counts as proven: `receive` with and without --no-sync.

usage: sync_cost.py IMAGE FOLDER... [--pairs N] [--ramferry BIN]

Alternating pairs of migrations over a unix socket into each folder (on ext4, on tmpfs, ...); prints the medians of both
and of the differences. IMAGE is best on /dev/shm. Writeback of one run is over before the next begins (sync).
"""
import argparse, os, statistics, subprocess, tempfile, time


def migrate(options, folder, sync):
    link, output = os.path.join(folder, 'link'), os.path.join(folder, 'guest.ram')
    os.sync()
    extra = [] if sync else ['--no-sync']
    receiver = subprocess.Popen(
        [options.ramferry, 'receive', f'unix:{link}', output, '-q', *extra], stdout=subprocess.DEVNULL)
    while not os.path.exists(link):
        time.sleep(0.001)
    start = time.monotonic()
    sent = subprocess.run([options.ramferry, 'send', options.image, f'unix:{link}', '-q'])
    took = time.monotonic() - start
    if sent.returncode or receiver.wait(60):
        raise SystemExit('a migration failed')
    os.unlink(output)
    if os.path.exists(link):
        os.unlink(link)
    return took * 1000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('image')
    parser.add_argument('folder', nargs='+')
    parser.add_argument('--pairs', type=int, default=7)
    parser.add_argument('--ramferry', default='target/release/ramferry')
    options = parser.parse_args()
    for parent in options.folder:
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            pairs = []
            for number in range(options.pairs + 1):
                order = [True, False] if number % 2 else [False, True]
                took = {sync: migrate(options, folder, sync) for sync in order}
                if number:  # the first pair only warms up
                    pairs.append((took[True], took[False]))
        synced, loose = (statistics.median(side) for side in zip(*pairs))
        costs = sorted(a - b for a, b in pairs)
        print(f'{parent}: synced {synced:.0f} ms, --no-sync {loose:.0f} ms, '
              f'cost {statistics.median(costs):.0f} ms ({costs[0]:.0f} to {costs[-1]:.0f})')


if __name__ == '__main__':
    main()
