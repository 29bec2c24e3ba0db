"""What a service that was away finds out by itself when it returns."""

from __future__ import annotations

from device_sdk.wire import topics
from tests.support.lifecycle import World


async def test_a_version_released_while_no_service_ran_is_pushed_to_a_connected_device_that_is_silent(tmp_path):
    world = await World.create(tmp_path, ["sn-1"])
    try:
        await world.calm()
        (unit,) = world.units
        await world.kill_service()
        await world.release("3.0", 3)
        assert not world.down
        await world.start_service()
        await world.upkeep()
        assert {topics.parse(topic)[1:] for _, topic, _ in world.down} == {(unit.connected[1], "dn", "desired")}
        await world.calm()
        assert world.unfinished() == []
        assert unit.installer.booted()["name"] == "3.0"
    finally:
        await world.close()
