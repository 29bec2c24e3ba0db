"""A fleet is sent to another environment while an update is running, under a service that is killed again and again.

At the end every device is in the new place, or reported as failed and at work in the old one; groups, secrets and
serials are byte for byte what they were.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from device_sdk.core.identity import Policy
from device_sdk.simulator import Fleet
from service.mqtt.port import Role
from tests.support import auditor
from tests.support.site import ENVIRONMENT, OU, seed_of_run, until
from tests.support.two_places import EAST, TwoPlaces, two_places

POLICY = Policy(
    chunk_size=4096,
    backoff_first_s=0.2,
    backoff_max_s=2.0,
    request_timeout_s=1.0,
    connect_timeout_s=5,
    rung_span_s=2.0,
    # Above the half minute for which a device is held that could not announce its move to a service that was dead.
    placement_trial_s=60.0,
)
SECOND_OU = "acme/second"

pytestmark = pytest.mark.mosquitto


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("devices", "kills", "within_s"),
    [
        pytest.param(8, 2, 240, id="eight_devices"),
        pytest.param(50, 6, 480, id="fifty_devices", marks=pytest.mark.long),
    ],
)
async def test_every_device_ends_in_the_new_place_or_at_work_in_the_old_one(
    tmp_path: Path, devices: int, kills: int, within_s: float
) -> None:
    rng = random.Random(seed_of_run())
    async with two_places(tmp_path) as site:
        serials = [f"T-{number:03}" for number in range(devices)]
        await site.register(serials)
        await site.add_version("2.0", 2, rng.randbytes(64 * 1024))
        target = await site.add_version("3.0", 3, rng.randbytes(1024 * 1024), target=False)
        burned = site.factory_data()
        await site.start_service(level="warning")
        fleet = Fleet(
            [site.identity(serial) for serial in serials],
            seed=rng.getrandbits(64),
            policy=POLICY,
            jitter_s=1.0,
            target=target,
        )
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(fleet.run(stop))
            try:
                await until(lambda: installed(site) == {"2.0": devices}, 240)
                await site.set_target("3.0")
                await until(lambda: downloading(site) > 0, 240)
                await site.reprovision(EAST, SECOND_OU)
                await disturb(site, rng, kills)
                await ended(site, fleet, within_s)
                await speak_once_more(site, fleet, within_s)
            finally:
                stop.set()
        assert site.factory_data() == burned
        await judge(site, fleet)


def installed(site: TwoPlaces) -> dict[str, int]:
    query = "SELECT v.name, count(*) FROM thing t JOIN version v ON v.version_id = t.installed_version_id GROUP BY 1"
    return dict(site.query(query))


def downloading(site: TwoPlaces) -> int:
    return site.query("SELECT count(*) FROM device WHERE fw_state = 'downloading'")[0][0]


def places(site: TwoPlaces) -> dict[str, str]:
    """Environment by serial, of things that are not on their way."""
    return dict(
        site.query(
            "SELECT d.serial, t.environment FROM thing t JOIN device d ON d.device_id = t.holder_device_id"
            " WHERE t.move_environment IS NULL"
        )
    )


async def disturb(site: TwoPlaces, rng: random.Random, kills: int) -> None:
    """The service dies so many times; meanwhile the new place's bootstrap broker is away for a while."""
    away = rng.randrange(kills)
    for number in range(kills):
        await asyncio.sleep(rng.uniform(0.1, 1.5))  # the random moment, not a wait for something
        if number == away:
            await site.stop_east(Role.BOOTSTRAP)
        await site.stop_service(signal.SIGKILL)
        await asyncio.sleep(rng.uniform(0, 0.5))
        await site.start_service(well=False, level="warning")
    await asyncio.sleep(rng.uniform(0.5, 3))
    await site.start_east(Role.BOOTSTRAP)


async def ended(site: TwoPlaces, fleet: Fleet, within_s: float) -> None:
    """Every device runs the target, and no move is open any more."""
    serials = {device.identity.serial for device in fleet.devices}

    def over() -> bool:
        return installed(site) == {"3.0": len(serials)} and places(site).keys() == serials

    try:
        await until(over, within_s)
    except TimeoutError:
        told = [
            f"{d.identity.serial}: {d.status}" for d in fleet.devices if places(site).get(d.identity.serial) != EAST
        ]
        raise AssertionError(f"{installed(site)} {places(site)}\n{told}\n{site.log()[-3000:]}") from None
    failed = {serial for (serial,) in site.query("SELECT DISTINCT serial FROM event WHERE kind = 'move_failed'")}
    stayed = {serial for serial, environment in places(site).items() if environment == ENVIRONMENT}
    assert stayed <= failed, "a device stayed and nobody was told why"
    causes = [cause for (cause,) in site.query("SELECT data ->> 'cause' FROM event WHERE kind = 'move_failed'")]
    assert all(causes), causes
    print(f"{len(serials - stayed)} arrived, {len(stayed)} stayed; {len(causes)} moves failed: {sorted(set(causes))}")
    assert len(stayed) * 2 < len(serials), "most must arrive, for their environment was away for seconds only"
    ous = dict(site.query("SELECT environment, min(ou) FROM thing GROUP BY environment"))
    assert ous.get(EAST, SECOND_OU) == SECOND_OU
    assert ous.get(ENVIRONMENT, OU) == OU


async def speak_once_more(site: TwoPlaces, fleet: Fleet, within_s: float) -> None:
    """After one more restart of the service and of both operational brokers every device is answered."""
    await site.stop_service(signal.SIGKILL)
    await site.stop_broker(Role.OPERATIONAL, signal.SIGKILL)
    await site.stop_east(Role.OPERATIONAL)
    await site.start_broker(Role.OPERATIONAL)
    await site.start_east(Role.OPERATIONAL)
    await site.start_service(level="warning")
    since = time.monotonic()
    serials = {device.identity.serial for device in fleet.devices}
    await until(
        lambda: serials <= {r.serial for r in fleet.replies if r.at > since and r.verb == "online" and r.ok}, within_s
    )


async def judge(site: TwoPlaces, fleet: Fleet) -> None:
    await until(lambda: site.query("SELECT 1 FROM credential WHERE state = 'dropped' AND revoked_at IS NULL") == [], 30)
    assert await site.stop_service() == 0
    told = auditor.told_by(fleet.replies)
    assert auditor.audit(site.settings.database_path, told) == []
    for line in site.output:
        assert "Traceback" not in line, line[:4000]
