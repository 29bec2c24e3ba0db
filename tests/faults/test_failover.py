"""An environment's operational broker dies: its devices end at the bootstrap broker, and the group's policy places them.

On real Mosquittos, with reactivation policy `operator`, which must not stand in the way here: the service itself cannot
reach the broker either. They stay although their home returns, also when the other place has trouble; an operator sends
them home, into the OU where they were.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import update

from device_sdk.core.identity import Policy
from device_sdk.simulator import Fleet
from service.installation import domain_environments
from service.mqtt.port import Role
from service.operations.accounts import THIS_MACHINE
from service.operations.commands import Commands, Request
from service.operations.requests import raise_catalogue_rev
from service.storage.tables import registration_group
from tests.support.site import ENVIRONMENT, GROUP, OU, seed_of_run, until
from tests.support.two_places import EAST, TwoPlaces, two_places

POLICY = Policy(
    backoff_first_s=0.2,
    backoff_max_s=0.5,
    request_timeout_s=0.5,
    connect_timeout_s=5,
    rung_span_s=0.5,
    placement_trial_s=20.0,
)
EAST_OU = "acme/east"
DEVICES = 2
WITHIN_S = 90

pytestmark = [pytest.mark.mosquitto, pytest.mark.timeout(300)]


async def set_policy(site: TwoPlaces) -> None:
    """Shorter than the command line allows: nobody waits for five minutes here."""
    values = {"failover_environment": EAST, "failover_ou": EAST_OU, "failover_after_s": 1, "reactivation": "operator"}
    async with site.database() as database, database.write() as transaction:
        group = update(registration_group).where(registration_group.c.group_id == GROUP)
        await transaction.connection.execute(group.values(values))
        await raise_catalogue_rev(transaction.connection)


def places(site: TwoPlaces) -> list[tuple[object, ...]]:
    """(environment, OU, home environment, home OU, whether it moves) with how many things are there."""
    columns = "environment, ou, home_environment, home_ou, move_environment IS NOT NULL"
    return site.query(f"SELECT {columns}, count(*) FROM thing GROUP BY {columns}")


def told(site: TwoPlaces, kind: str) -> int:
    ((count,),) = site.query("SELECT count(*) FROM event WHERE kind = ?", kind)
    return int(count)


async def heard(fleet: Fleet, verb: str) -> None:
    """Until each device was answered this from now on."""
    since = time.monotonic()
    serials = {device.identity.serial for device in fleet.devices}
    await until(
        lambda: serials <= {r.serial for r in fleet.replies if r.at > since and r.verb == verb and r.ok}, WITHIN_S
    )


async def send_home(site: TwoPlaces) -> None:
    """As `firstlight reprovision --group G --environment local`."""
    asked = {"id": "home", "selector": {"group": GROUP}, "arguments": {"environment": ENVIRONMENT}}
    async with site.database() as database:
        commands = Commands(database, domain_environments(site.settings), random_bytes=os.urandom)
        status = await commands.submit(THIS_MACHINE, "reprovision", Request.model_validate(asked))
    assert status.command.changed == DEVICES


async def trouble_in_the_east(site: TwoPlaces, fleet: Fleet) -> None:
    """Its broker is away until each device has asked where it belongs: nobody can be let in meanwhile."""
    await site.stop_east(Role.OPERATIONAL)
    for _ in range(2):
        await heard(fleet, "hello")
    await site.start_east(Role.OPERATIONAL)
    await heard(fleet, "online")


@pytest.mark.parametrize("troubled", [False, pytest.param(True, marks=pytest.mark.long)])
async def test_devices_of_a_dead_broker_are_placed_elsewhere_and_stay_until_they_are_sent_home(
    tmp_path: Path, troubled: bool
) -> None:
    async with two_places(tmp_path) as site:
        serials = [f"T-{number}" for number in range(DEVICES)]
        await site.register(serials)
        await set_policy(site)
        await site.start_service(level="warning")
        rng = random.Random(seed_of_run())
        fleet = Fleet([site.identity(one) for one in serials], seed=rng.getrandbits(64), policy=POLICY, jitter_s=0.2)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(fleet.run(stop))
            try:
                await until(lambda: told(site, "confirmed") == DEVICES, WITHIN_S)
                # 1. The broker dies: all are placed elsewhere, and nobody has to approve it.
                await site.stop_broker(Role.OPERATIONAL, signal.SIGKILL)
                there = [(EAST, EAST_OU, ENVIRONMENT, OU, 0, DEVICES)]
                await until(lambda: places(site) == there, WITHIN_S)
                assert told(site, "failed_over") == DEVICES
                # 2. Home is back, and nobody goes there; not even when the other place has trouble in its turn.
                await site.start_broker(Role.OPERATIONAL)
                if troubled:
                    await trouble_in_the_east(site, fleet)
                assert (places(site), told(site, "failed_over")) == (there, DEVICES)
                # 3. An operator sends them home: into the OU where they were.
                await send_home(site)
                await until(lambda: places(site) == [(ENVIRONMENT, OU, None, None, 0, DEVICES)], WITHIN_S)
            finally:
                stop.set()
        assert await site.stop_service() == 0
        assert not [line for line in site.output if "Traceback" in line]
