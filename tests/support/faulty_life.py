"""Devices that live through one fault of the service: activation, firmware, a new target, a command, a lost flash.

Owns the way that every case goes, and the process that is started again when it ends, as systemd does. What must hold
at the end is the auditor's, and that every device is where it would be without the fault.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from device_sdk.core.identity import Policy
from device_sdk.simulator import Fleet
from service.domain.group import Reactivation
from service.installation import domain_environments
from service.operations.accounts import THIS_MACHINE
from service.operations.commands import Commands, Request
from service.pipeline.service import utc_now
from tests.support import auditor
from tests.support.site import GROUP, Site, made_site, until

SERIALS = ("T-1", "T-2")
IMAGE_BYTES = 20_001
POLICY = Policy(chunk_size=4096, backoff_first_s=0.2, backoff_max_s=1.0, request_timeout_s=0.5, connect_timeout_s=5)
WITHIN_S = 300.0  # for each of three ways; time is not what is tried
LOOK_S = 0.1
SETTINGS = {"interval": 5}


@dataclass(frozen=True, slots=True)
class Lived:
    seconds: float
    ends: int  # how often the process ended by itself


class FaultyService:
    """`firstlight serve` with a fault, and without one when it has to be started again."""

    def __init__(self, site: Site, fault: str, hit: Path) -> None:
        self.site, self.hit = site, hit
        self.ends = 0
        self._module = (
            "tests.faults.service_failpoints",
            {"FIRSTLIGHT_TEST_FAULT": fault, "FIRSTLIGHT_TEST_FAULT_HIT": str(hit)},
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self._start()
        keeper = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _start(self) -> None:
        module, environment = self._module if not self.ends else ("service", {})
        await self.site.start_service(well=False, level="warning", module=module, more=environment)

    async def _keep(self) -> None:
        while True:
            await self.site.ended()
            self.ends += 1
            await self._start()


async def live_through(folder: Path, fault: str) -> Lived:
    """`fault` is name:n:action. Raises AssertionError with what is broken, or when the fault was never met."""
    async with made_site(folder, reactivation=Reactivation.OPEN) as site:
        await site.register(SERIALS)
        await site.add_version("2.0", 2, random.Random(2).randbytes(IMAGE_BYTES))
        await site.add_version("3.0", 3, random.Random(3).randbytes(IMAGE_BYTES), target=False)
        service = FaultyService(site, fault, folder / "hit")
        began = time.monotonic()
        fleets: list[Fleet] = []
        try:
            async with service.running():
                await _live(site, fleets)
                assert service.hit.exists(), f"{fault} was never passed"
        except (AssertionError, TimeoutError) as error:
            states = [f"{one.identity.serial}: {one.status}" for fleet in fleets for one in fleet.devices]
            rows = [str(site.query(f"SELECT * FROM {name}")) for name in ("command", "thing", "device")]
            raise AssertionError("\n".join([fault, repr(error), *states, *rows, site.log()[-3000:]])) from error
        seconds = time.monotonic() - began
        assert await site.stop_service() == 0, site.log()[-3000:]
        _judge(site, fleets)
        return Lived(seconds, service.ends)


async def _live(site: Site, fleets: list[Fleet]) -> None:
    path = site.settings.database_path
    everyone = {(GROUP, serial) for serial in SERIALS}
    lives: list[asyncio.Task[None]] = []
    stops: list[asyncio.Event] = []

    def power_up(*serials: str) -> asyncio.Event:
        fleet = Fleet([site.identity(one) for one in serials], seed=len(fleets), policy=POLICY, jitter_s=0.0)
        fleets.append(fleet)
        stops.append(asyncio.Event())
        lives.append(asyncio.create_task(fleet.run(stops[-1])))
        return stops[-1]

    try:
        last = power_up(SERIALS[-1])
        power_up(*SERIALS[:-1])
        await until(lambda: auditor.confirmed_devices(path) == everyone, WITHIN_S, LOOK_S)
        # What operators want: another version, and settings, which the service works off a device a page.
        await site.set_target("3.0")
        await _command(site)
        await until(lambda: auditor.confirmed_devices(path) == everyone and _worked_off(site), WITHIN_S, LOOK_S)
        # One device has lost its flash: the credential that it had is dropped when the new one is confirmed.
        last.set()
        power_up(SERIALS[-1])
        await until(lambda: _dropped(site) and auditor.confirmed_devices(path) == everyone, WITHIN_S, LOOK_S)
    finally:
        for stop in stops:
            stop.set()
        await asyncio.gather(*lives)


async def _command(site: Site) -> None:
    async with site.database() as database:
        commands = Commands(database, domain_environments(site.settings), random_bytes=os.urandom, clock=utc_now)
        asked = {"id": "settings", "selector": {"group": GROUP}, "arguments": {"settings": SETTINGS}, "rate": 1}
        await commands.submit(THIS_MACHINE, "set-settings", Request.model_validate(asked))


def _worked_off(site: Site) -> bool:
    return site.query("SELECT settings_rev FROM thing") == [(1,)] * len(SERIALS) and site.query(
        "SELECT state FROM command"
    ) == [("done",)]


def _dropped(site: Site) -> bool:
    """The first credential of the last device is gone, at the broker too."""
    query = (
        "SELECT 1 FROM credential JOIN device USING (device_id)"
        " WHERE serial = ? AND credential.state = 'dropped' AND confirmed_at IS NOT NULL AND revoked_at IS NOT NULL"
    )
    return site.query(query, SERIALS[-1]) != []


def _judge(site: Site, fleets: list[Fleet]) -> None:
    replies = [one for fleet in fleets for one in fleet.replies]
    told = auditor.told_by(replies)
    assert auditor.audit(site.settings.database_path, told) == []
    confirmed = site.query("SELECT serial, count(*) FROM credential JOIN device USING (device_id)"
                           " WHERE credential.state = 'confirmed' GROUP BY serial")  # fmt: skip
    assert dict(confirmed) == dict.fromkeys(SERIALS, 1)
    outcomes = site.query("SELECT result, count(*) FROM command_outcome GROUP BY result")
    assert outcomes == [("changed", len(SERIALS))]
    assert site.query("SELECT count(*), count(DISTINCT thing_id) FROM thing") == [(len(SERIALS), len(SERIALS))]
