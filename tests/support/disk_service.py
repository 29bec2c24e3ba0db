"""A process whose disk is faulty: the pipeline over a real database, and devices that speak to it by hand.

Run with tests/support/faulty_disk.c preloaded (see disk_journal.py). `cut`: devices come one group after the other, and
each reply is written to the file `answers` when it has come. `faults`: the same while the n-th operation fails.
`openings`: the same while each of SQLite's files can once not be opened for writing. Prints one JSON line for each round
of `faults` and `openings`; leaves with an error when a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import errno
import json
import os
import random
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

from sqlalchemy import event

from service.credentials.keyfile import KeyFile
from service.domain.catalogue import Endpoint, Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialKind
from service.mqtt.port import Role
from service.pipeline.bounds import Bounds
from service.pipeline.service import Pipeline
from service.storage import connections
from service.storage.database import Database
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.fake_link import FakeClock, FakeGate, FakeLink
from tests.support.pipeline_site import MemoryImages, Peer, registered
from tests.support.storage import a_sealer, new_database

ENVIRONMENTS = {"prod": Environment("prod", {CredentialKind.API_KEY: Endpoint("broker.example", 8883, tls=False)})}
FILE = "firstlight.db"
AT_ONCE = 3  # devices in one go, so that a batch has more than one message


async def seed(data: Path, devices: int) -> None:
    database = await new_database(data / FILE)
    async with SqlStore(database, ENVIRONMENTS).batch() as batch:
        await batch.save(Changes(devices=tuple((None, registered(f"sn-{number}")) for number in range(devices))))
    await database.close()


@asynccontextmanager
async def serving(data: Path, *, careless: bool = False):
    """`careless`: SQLite asks the disk for nothing, so that a power cut loses what was answered."""
    connections.CHECKPOINT_PAGES = 60  # many checkpoints in a short run
    database = await Database.open(data / FILE, a_sealer())
    if careless:
        engine = database._connections.engine
        event.listen(engine.sync_engine, "connect", lambda one, _: one.cursor().execute("PRAGMA synchronous=OFF"))
        await engine.dispose()
    clock = FakeClock()
    links = {("prod", role): FakeLink(role) for role in Role}
    pipeline = Pipeline(
        store=SqlStore(database, ENVIRONMENTS),
        upkeep=Upkeep(database),
        gates={"prod": FakeGate()},
        images=MemoryImages(),
        keys=KeyFile.create(data.parent / "keys.json"),
        authorities={},
        bounds=Bounds(),
        clock=clock.wall,
        monotonic=clock.monotonic,
    )
    for link in links.values():
        link.deliver = pipeline.deliver
        pipeline.attach(link)
    task = asyncio.create_task(pipeline.run())
    await asyncio.sleep(0)
    try:
        yield SimpleNamespace(links=links, clock=clock, database=database)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await database.close()


class Device:
    """Activates, comes online and reports; a refusal must be UNAVAILABLE, and the same request is made again."""

    def __init__(self, site: SimpleNamespace, serial: str, answers: int) -> None:
        self.peer = Peer(site, serial)
        self.answers = answers
        self.refused = 0

    async def ask(self, verb: str, step, *, again: bool) -> bool:
        """True: answered. `again`: the disk works, so nothing else than success is allowed."""
        n = self.peer.n
        reply = await step()
        if reply["ok"]:
            told = {
                "serial": self.peer.serial,
                "verb": verb,
                "credential_id": self.peer.credential_id,
                "n": self.peer.n,
            }
            told["thing_id"] = self.peer.grant["thing_id"]
            os.write(self.answers, json.dumps(told).encode() + b"\n")
            return True
        assert not again, (verb, reply)
        assert reply["code"] == "UNAVAILABLE", (verb, reply)
        assert 5 <= reply["retry_after_s"] <= 15, reply
        self.peer.n = n
        self.refused += 1
        return False

    async def live(self, *, faulty: bool = False) -> None:
        """`faulty`: the disk may fail until the first refusal; then it works again, and the same request succeeds."""
        for verb in ("activate", "online", "report"):
            step = getattr(self.peer, verb)
            if not await self.ask(verb, step, again=not faulty):
                LIBRARY.faulty_disk_arm(0, 0, 0, 0)
                assert await self.ask(verb, step, again=True)


LIBRARY = ctypes.CDLL(None)


async def cut(data: Path, devices: int, *, careless: bool) -> None:
    answers = os.open(data / "answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    async with serving(data, careless=careless) as site:
        for first in range(0, devices, AT_ONCE):
            async with asyncio.TaskGroup() as group:
                for number in range(first, min(first + AT_ONCE, devices)):
                    group.create_task(Device(site, f"sn-{number}", answers).live())


async def faults(data: Path, rounds: int, rng: random.Random, most: int, *, opens: bool) -> None:
    """In each round one device lives its life, and the n-th operation from its beginning fails."""
    answers = os.open(data / "answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    async with serving(data) as site:
        for number in range(rounds):
            fault = {
                "n": number % most + 1,
                "m": rng.choice((1, 1, 2, 5, 50)),
                "error": rng.choice(("EIO", "ENOSPC", "EACCES") if opens else ("EIO", "ENOSPC")),
            }
            LIBRARY.faulty_disk_arm(fault["n"], fault["m"], getattr(errno, fault["error"]), int(opens))
            device = Device(site, f"sn-{number}", answers)
            try:
                await device.live(faulty=True)
            except BaseException:
                print(json.dumps({"broken": fault}), flush=True)
                raise
            hits = LIBRARY.faulty_disk_hits()
            LIBRARY.faulty_disk_arm(0, 0, 0, 0)
            print(json.dumps({**fault, "hits": hits, "refused": device.refused}), flush=True)


async def openings(data: Path) -> None:
    """All connections are opened anew, and one file cannot be opened for writing while that happens."""
    answers = os.open(data / "answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    async with serving(data) as site:
        cases = [(ending, error) for ending in (FILE, f"{FILE}-wal", f"{FILE}-shm") for error in ("EIO", "EACCES")]
        for number, (ending, error) in enumerate(cases):
            async with site.database._lock:
                site.database._connections.suspect()
                await site.database._connections.renew()
                LIBRARY.faulty_disk_arm_open(ending.encode(), getattr(errno, error))
            device = Device(site, f"sn-{number}", answers)
            await device.live(faulty=True)
            found = {"ending": ending, "error": error, "hits": LIBRARY.faulty_disk_hits(), "refused": device.refused}
            print(json.dumps(found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("cut", "faults", "openings"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--devices", type=int, default=30)
    parser.add_argument("--most", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--careless", action="store_true")
    parser.add_argument("--opens", action="store_true", help="opening a file fails as well")
    given = parser.parse_args()
    if given.what == "cut":
        asyncio.run(cut(given.data, given.devices, careless=given.careless))
    elif given.what == "openings":
        asyncio.run(openings(given.data))
    else:
        asyncio.run(faults(given.data, given.devices, random.Random(given.seed), given.most, opens=given.opens))


if __name__ == "__main__":
    main()
