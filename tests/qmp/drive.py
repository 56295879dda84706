#!/usr/bin/env python3
"""Drives whole migrations through a monitor with QEMU's own client: connect, negotiate, set
capabilities and parameters, start, watch events, change parameters in flight, query, cancel, start
again, complete.

    drive.py SOCKET FIRST-URI SECOND-URI

Ends with 0 if all of it is as it is with a QEMU.
"""

import asyncio
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient

LIMIT = 600


async def status(events, *wanted):
    """Waits for one of these states, and returns what was reported until then."""
    seen = []
    while True:
        event = await events.get()
        assert {"seconds", "microseconds"} <= event["timestamp"].keys(), event
        seen.append((event["event"], *event.get("data", {}).values()))
        if event["event"] == "MIGRATION" and event["data"]["status"] in wanted:
            return seen


async def drive(path, first, second):
    client = QMPClient("drive")
    events = EventListener()
    client.register_listener(events)
    await client.connect(path)
    assert client.greeting is not None

    names = {command["name"] for command in await client.execute("query-commands")}
    assert {"migrate", "migrate-set-parameters", "query-migrate", "quit"} <= names
    assert await client.execute("query-migrate") == {}

    capabilities = {"events": True, "xbzrle": False, "compress": True}
    changes = [{"capability": name, "state": state} for name, state in capabilities.items()]
    assert await client.execute("migrate-set-capabilities", {"capabilities": changes}) == {}
    listed = await client.execute("query-migrate-capabilities")
    listed = {each["capability"]: each["state"] for each in listed}
    assert listed.items() >= capabilities.items(), listed

    settings = {"compress-level": 1, "compress-threads": 2, "max-bandwidth": 65536}
    assert await client.execute("migrate-set-parameters", settings) == {}
    # What is not named stays as it is.
    assert await client.execute("migrate-set-parameters", {"compress-level": 2}) == {}
    parameters = await client.execute("query-migrate-parameters")
    assert parameters["compress-level"] == 2, parameters
    assert parameters["compress-threads"] == 2, parameters
    try:
        await client.execute("migrate-set-parameters", {"compress-level": 256})
        raise AssertionError("256 is not a level")
    except ExecuteError as error:
        assert error.error_class == "GenericError", error
        assert str(error) == "Parameter 'compress-level' expects uint8_t", error

    assert await client.execute("migrate", {"uri": first}) == {}
    seen = await status(events, "active")
    assert seen == [("MIGRATION", "setup"), ("MIGRATION_PASS", 1), ("MIGRATION", "active")], seen
    # The event may arrive before the first round has counted its pages.
    while (info := await client.execute("query-migrate"))["ram"]["remaining"] == 0:
        assert info["status"] == "active", info
    changes = {"compress-level": 9, "compress-threads": 1, "max-bandwidth": 131072}
    await client.execute("migrate-set-parameters", changes)
    parameters = await client.execute("query-migrate-parameters")
    assert parameters.items() >= changes.items(), parameters
    try:
        await client.execute("migrate", {"uri": second})
        raise AssertionError("one at a time")
    except ExecuteError as error:
        assert str(error) == "There's a migration process in progress", error
    await client.execute("migrate_cancel")
    seen = await status(events, "cancelled")
    assert seen[-2:] == [("MIGRATION", "cancelling"), ("MIGRATION", "cancelled")], seen
    info = await client.execute("query-migrate")
    assert info["status"] == "cancelled", info

    await client.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})
    assert await client.execute("migrate", {"uri": second}) == {}
    seen = await status(events, "completed", "failed")
    assert seen[-1] == ("MIGRATION", "completed"), seen
    info = await client.execute("query-migrate")
    assert info["status"] == "completed" and info["ram"]["remaining"] == 0, info
    assert (await client.execute("query-status"))["status"] == "postmigrate"
    assert await client.execute("quit") == {}
    try:
        await client.disconnect()
    except EOFError:
        pass  # A monitor that quits hangs up, and may be first.


asyncio.run(asyncio.wait_for(drive(*sys.argv[1:]), LIMIT))
