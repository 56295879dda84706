#!/usr/bin/env python3
"""Sends what is in commands.jsonl to a QMP socket, and prints what comes back, a line each.

    record.py SOCKET < commands.jsonl > transcript.jsonl

A step with "send" is a command and ends with its reply; with "until" it ends when the migration has
come to that state, and all events until then belong to it. A step with "raw" is text as it is.
To record a QEMU:  qemu-system-x86_64 -M pc -m 16 -S -nodefaults -display none \\
                       -qmp unix:SOCKET,server=on,wait=off
"""

import json
import socket
import sys


def main():
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(30)
    link.connect(sys.argv[1])
    stream = link.makefile("rwb", buffering=0)
    lines = link.makefile("rb")

    def hear():
        line = lines.readline()
        if not line:
            raise SystemExit(f"the other end hung up; the last step was {step}")
        return json.loads(line)

    for text in sys.stdin:
        step = json.loads(text)
        if "send" in step:
            stream.write(json.dumps(step["send"]).encode() + b"\n")
        elif "raw" in step:
            stream.write(step["raw"].encode())
        said, events, wanted = None, [], step.get("until")
        while said is None or wanted:
            heard = hear()
            if "event" not in heard:
                said = heard
                if "error" in heard:
                    wanted = None
                continue
            events.append(heard)
            if heard["event"] == "MIGRATION" and heard["data"]["status"] == wanted:
                wanted = None
        print(json.dumps({**step, "said": said, "events": events}), flush=True)


main()
