#!/usr/bin/env python3
"""Ends the destination at chosen moments, with or without the power of its disk, and checks what the exit codes promised.

usage: power_loss.py IMAGE [--runs N] [--ramferry BIN] [--no-sync] [--keep-power] [--seed N]

As root: the output lies on an ext4 in a file, mounted over a loop device. At a random moment around the end of a
migration the receiver is killed (SIGKILL), and the file system is shut down without writing anything more
(FS_IOC_SHUTDOWN, as xfstests does it): what was not synced is lost, as with the power. Then the file system is
mounted again, which replays its journal. With --keep-power only the receiver is killed.

Every run begins with an older output, which --force replaces. What must hold afterwards:
  * the source ended with 0: the output is the new image, byte by byte;
  * otherwise the output is the new image or the old one, whole, and after a failure before Commit the old one.
--no-sync shows what is at stake: there it does not hold.
"""
import argparse, collections, fcntl, hashlib, os, random, shutil, signal, struct, subprocess, sys, tempfile, time

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
NO_LOG_FLUSH = 2


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def digest(path):
    """Of a file's bytes; None if there is none."""
    try:
        with open(path, 'rb') as file:
            return hashlib.file_digest(file, 'blake2b').hexdigest()
    except FileNotFoundError:
        return None


class Disk:
    """An ext4 whose power can fail."""

    def __init__(self, folder, size):
        self.backing, self.mount = os.path.join(folder, 'disk'), os.path.join(folder, 'mnt')
        os.mkdir(self.mount)
        with open(self.backing, 'wb') as file:
            file.truncate(size)
        run('mkfs.ext4', '-q', '-F', self.backing)
        self.on()

    def on(self):
        run('mount', '-o', 'loop', self.backing, self.mount)

    def off(self):
        run('umount', self.mount)

    def fail(self):
        folder = os.open(self.mount, os.O_RDONLY)
        fcntl.ioctl(folder, SHUTDOWN, struct.pack('I', NO_LOG_FLUSH))
        os.close(folder)


def migrate(options, disk, folder, delay):
    """One migration whose destination ends after `delay` (None: by itself). Returns both ends' exit codes and the time."""
    link, output = os.path.join(folder, 'link'), os.path.join(disk.mount, 'guest.ram')
    if os.path.exists(link):
        os.unlink(link)
    extra = ['--no-sync'] if options.no_sync else []
    quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    receiver = subprocess.Popen([options.ramferry, 'receive', f'unix:{link}', output, '--force', '-q', *extra], **quiet)
    while not os.path.exists(link):
        time.sleep(0.001)
    start = time.monotonic()
    sender = subprocess.Popen([options.ramferry, 'send', options.image, f'unix:{link}', '-q'], **quiet)
    if delay is not None:
        time.sleep(delay)
        receiver.send_signal(signal.SIGKILL)
        if not options.keep_power:
            disk.fail()
    codes = sender.wait(60), receiver.wait(60)
    return *codes, time.monotonic() - start


def check(options, source, found, old, new):
    """What is wrong with the output, if anything."""
    if found not in (old, new):
        return 'the output is neither the old nor the new image'
    if source == 0 and found != new:
        return 'the source ended with 0, and the output is the old image'
    if source not in (0, 5) and found != old:
        return f'the source ended with {source}, and the output is the new image'
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('image')
    parser.add_argument('--runs', type=int, default=10)
    parser.add_argument('--ramferry', default='target/release/ramferry')
    parser.add_argument('--no-sync', action='store_true')
    parser.add_argument('--keep-power', action='store_true')
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit('this mounts a file system: run it as root')
    random.seed(options.seed)
    size, new = os.path.getsize(options.image), digest(options.image)
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(folder, 3 * size + (64 << 20))
        output = os.path.join(disk.mount, 'guest.ram')
        try:
            whole = min(migrate(options, disk, folder, None)[2] for _ in range(3))
            print(f'a migration takes {whole * 1000:.0f} ms')
            outcomes, wrong = collections.Counter(), 0
            for number in range(options.runs):
                with open(output, 'wb') as file:
                    file.write(bytes(8192))
                    file.flush()
                    os.fsync(file.fileno())
                old = digest(output)
                for name in os.listdir(disk.mount):
                    if name.startswith('guest.ram.'):
                        path = os.path.join(disk.mount, name)
                        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
                os.sync()
                # Most of it around the end, where something is decided.
                delay = whole * random.uniform(0.7, 1.2)
                source, _, _ = migrate(options, disk, folder, delay)
                if not options.keep_power:
                    disk.off()
                    disk.on()
                found = digest(output)
                fault = check(options, source, found, old, new)
                outcomes[source, 'new' if found == new else 'old' if found == old else 'neither'] += 1
                if fault:
                    wrong += 1
                    print(f'run {number}, after {delay * 1000:.0f} ms: {fault}')
            for (source, found), count in sorted(outcomes.items()):
                print(f'the source ended with {source}, the output is {found}: {count}')
            print(f'{options.runs} runs, {wrong} broken promises')
        finally:
            disk.off()
    sys.exit(1 if wrong else 0)


if __name__ == '__main__':
    main()
