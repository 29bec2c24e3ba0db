"""A command over many devices, with the process killed in the middle: time and memory. `python -m tests.bench.fleet_commands`.

Makes a database of confirmed devices in a temporary folder, begins a command in a process of its own, kills that
process half way, goes on in a second one, and checks that each device was changed once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from service.domain.catalogue import Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialState
from service.domain.device import Device, DeviceState
from service.operations.accounts import THIS_MACHINE
from service.operations.commands import Commands, Request
from service.storage.database import Database
from service.storage.store import SqlStore
from tests.support.storage import GROUP, NOW, a_credential, a_device, a_sealer, a_thing, new_database

PAGE = 2000
ID = "bench"
BEFORE = datetime(2020, 1, 1, tzinfo=UTC)  # of the command


def made(count: int) -> Iterator[Device]:
    for number in range(count):
        device = a_device(f"sn-{number:07}", state=DeviceState.CONFIRMED, registered_at=BEFORE)
        row = a_credential(
            device, f"{number:032x}", state=CredentialState.CONFIRMED, confirmed_at=NOW, desired_doc=b"d" * 300
        )
        yield replace(device, thing=a_thing(device, thing_id=f"{number:032x}"), credentials=(row,))


async def seed(path: Path, count: int) -> None:
    database = await new_database(path)
    page: list[Device] = []
    for device in made(count):
        page.append(device)
        if len(page) == PAGE or device.serial == f"sn-{count - 1:07}":
            async with SqlStore(database, {}).batch() as batch:
                await batch.save(Changes(devices=tuple((None, one) for one in page)))
            page.clear()
    await database.close()


async def work(path: Path, verb: str) -> None:
    """Submit (or find) the command and work it off, saying how far it is."""
    database = await Database.open(path, a_sealer(), check=False)
    commands = Commands(database, {"prod": Environment("prod", {})}, random_bytes=os.urandom)
    arguments = {"attributes": {"site": "hall 3"}} if verb == "set-attributes" else {}
    request = Request.model_validate(
        {"id": ID, "selector": {"group": GROUP.group_id}, "arguments": arguments, "at_most": 10**6}
    )
    status = await commands.submit(THIS_MACHINE, verb, request)
    await commands.run(status.command.command_id, lambda command: print(command.done, flush=True))
    await database.close()
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB", flush=True)


def run(path: Path, verb: str, stop_at: int | None) -> tuple[float, int, str]:
    """One process; killed when it has done so many. (seconds, devices done, last line)."""
    begun = time.monotonic()
    words = [sys.executable, "-m", "tests.bench.fleet_commands", "--worker", str(path), "--verb", verb]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    done, last = 0, ""
    for line in process.stdout:
        last = line.strip()
        if last.isdigit():
            done = int(last)
            if stop_at is not None and done >= stop_at:
                process.send_signal(signal.SIGKILL)
                break
    process.wait()
    process.stdout.close()
    return time.monotonic() - begun, done, last


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--devices", type=int, default=100_000)
    options.add_argument("--verb", default="block")
    options.add_argument("--worker", type=Path)
    given = options.parse_args()
    if given.worker is not None:
        asyncio.run(work(given.worker, given.verb))
        return
    with TemporaryDirectory() as folder:
        path = Path(folder, "firstlight.db")
        begun = time.monotonic()
        asyncio.run(seed(path, given.devices))
        print(f"{given.devices} devices made in {time.monotonic() - begun:.1f} s")
        first_s, first, _ = run(path, given.verb, given.devices // 2)
        print(f"first process: {first} devices in {first_s:.1f} s, then killed")
        second_s, _, last = run(path, given.verb, None)
        print(f"second process: the rest in {second_s:.1f} s, waiting for the lease included; {last}")
        connection = sqlite3.connect(path)
        changed, states = connection.execute("SELECT changed, state FROM command").fetchone()
        events, outcomes, audits = (
            connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in ("event", "command_outcome", "audit")
        )
        revisions = connection.execute("SELECT min(rev), max(rev) FROM thing").fetchone()
        connection.close()
        print(f"{verdict(given.devices, changed, events, outcomes, audits - 1, revisions)} ({states})")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{used.ru_utime + used.ru_stime:.1f} s of processor time in both")
        print(f"{given.devices / (first_s + second_s):.0f} devices/s; the database has {path.stat().st_size >> 20} MiB")


def verdict(devices: int, *counts: object) -> str:
    *numbers, revisions = counts
    right = all(one == devices for one in numbers) and revisions == (1, 1)
    return "each device was changed once" if right else f"WRONG: {counts}"


if __name__ == "__main__":
    main()
