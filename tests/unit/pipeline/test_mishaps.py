"""Device cores and the service together, when a device forgets everything, is there twice, or finds its brokers gone."""

from __future__ import annotations

import pytest

from tests.support.mishaps import add_clone, lose_flash, take_away_clones
from tests.unit.pipeline.test_device_lives import events, in_service, place, until_there


@pytest.mark.parametrize("image_too", [False, True])
async def test_a_device_that_has_forgotten_everything_comes_in_again_as_the_same_thing(tmp_path, image_too) -> None:
    async with in_service(tmp_path, "sn-1") as world:
        (unit,) = world.units
        thing = world.rows("SELECT thing_id, name, ou FROM thing")
        ((old,),) = world.rows("SELECT credential_id FROM credential WHERE state = 'confirmed'")
        lose_flash(unit, image_too=image_too)
        await world.calm()
        assert world.unfinished() == []
        assert world.rows("SELECT thing_id, name, ou FROM thing") == thing
        ((new,),) = world.rows("SELECT credential_id FROM credential WHERE state = 'confirmed'")
        assert new != old
        assert set(world.gates["prod"].logins) == {new}


async def until_in_or_frozen(world, unit) -> None:
    for _ in range(30):
        await world.exchange()
        if (unit.connected is not None and unit.client.status.state == "online") or "frozen" in events(world):
            return
        await world.advance(20)
    raise AssertionError(str((unit.connected, unit.client.status)))


@pytest.mark.parametrize("with_flash", [False, True])
async def test_two_devices_of_one_serial_are_noticed_and_the_one_that_is_left_goes_on(tmp_path, with_flash) -> None:
    async with in_service(tmp_path, "sn-1", clone_policy="freeze") as world:
        (unit,) = world.units
        thing = world.rows("SELECT thing_id, name, ou FROM thing")
        clone = add_clone(world, unit, with_flash=with_flash)
        for _ in range(20):  # boot counters that run side by side tell nobody anything
            unit.power_off()
            unit.power_up()
        for number in range(8):  # in turn, each with power while the other has none
            on, off = (clone, unit) if number % 2 == 0 else (unit, clone)
            off.power_off()
            on.power_up()
            await until_in_or_frozen(world, on)
            assert world.audit() == []
        assert {"clone_suspected", "frozen"} <= set(events(world))
        await take_away_clones(world)
        await world.calm()
        assert world.unfinished() == []
        assert world.rows("SELECT thing_id, name, ou FROM thing") == thing


async def test_a_device_whose_brokers_are_gone_for_long_goes_where_its_group_says_and_stays(tmp_path) -> None:
    async with in_service(tmp_path, "sn-1", failover_environment="east", failover_after_s=120) as world:
        (unit,) = world.units
        world.go_dark("prod")
        await until_there(world, unit, "east", steps=200)
        assert (place(world), "failed_over" in events(world)) == ([("east", "acme")], True)
        world.lighten()
        for _ in range(10):
            await world.exchange()
            await world.advance(120)
        assert place(world) == [("east", "acme")]
        assert events(world).count("failed_over") == 1
