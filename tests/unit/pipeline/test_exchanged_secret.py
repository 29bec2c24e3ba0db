"""A device's core and the service together, when the secret of its group is exchanged and retired."""

from __future__ import annotations

from device_sdk.wire import keys
from service.operations import devices, group_secrets, registration, versions
from tests.support.life_unit import Unit
from tests.support.lifecycle import World
from tests.support.storage import DERIVED, PRODUCT

LINE = DERIVED.group_id


async def burned(world, serial):
    """A device whose key is made from its group's secret, in service."""
    unit = Unit(world, serial)
    unit.key = keys.derive_key(DERIVED.secret.reveal(), serial)
    unit.identity.group_id, unit.identity.key = LINE, unit.key
    asked = registration.Registration(LINE, serial)
    await registration.register(world.database, asked, now=world.clock.wall(), random_bytes=bytes)
    world.units.append(unit)
    unit.power_up()
    await until(world, lambda: is_confirmed(unit))
    return unit


def is_confirmed(unit):
    """Online with the credential that the service has confirmed."""
    found = unit.world.rows("SELECT credential_id FROM credential WHERE state = 'confirmed'")
    is_online = unit.client.status.state == "online" and unit.connected is not None
    return is_online and found == [(unit.connected[1],)]


async def until(world, holds):
    for _ in range(60):
        await world.exchange()
        if holds():
            return
        await world.advance(20)
    raise AssertionError(str([unit.client.status for unit in world.units]))


async def test_a_device_leaves_the_old_secret_by_itself_and_comes_back_when_that_is_retired(tmp_path):
    world = await World.create(tmp_path, [])
    try:
        await versions.set_target(world.database, PRODUCT.product_id, None)
        await world.set_group(default_ou="acme", default_environment="prod")
        unit = await burned(world, "sn-1")
        assert world.rows("SELECT secret_generation, key_sealed FROM device") == [(1, None)]
        now = world.clock.wall()
        await group_secrets.rotate(world.database, LINE, now=now, random_bytes=lambda n: b"new!" * (n // 4))
        await world.upkeep()
        await until(world, lambda: world.rows("SELECT count(*) FROM device WHERE key_sealed NOT NULL") == [(1,)])
        assert [one.devices for one in await group_secrets.list_all(world.database, LINE, now=now)] == [0, 0]
        await group_secrets.retire(world.database, LINE, 1, now=world.clock.wall())
        await until(world, lambda: is_confirmed(unit))
        # With nothing but its key it comes in again, and that is its own.
        for change in (devices.block, devices.unblock):
            await change(world.database, f"{LINE}/sn-1", now=world.clock.wall(), trace_id="0" * 16)
            await world.upkeep()
        await until(world, lambda: is_confirmed(unit))
        assert "refused_group_secret_retired" not in dict(world.rows("SELECT name, value FROM counter"))
    finally:
        await world.close()
