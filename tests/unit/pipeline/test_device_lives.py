"""Device cores and the service together: moved, replaced and renewed by operators' commands."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

from service.operations.outcomes import Result
from tests.support.lifecycle import World


@asynccontextmanager
async def in_service(folder, *serials, **group):
    """Activated devices on their target firmware. `group`: columns of their group that differ."""
    world = await World.create(folder, list(serials))
    try:
        if group:
            await world.set_group(**group)
        await world.calm()
        yield world
        await world.calm()
        assert world.unfinished() == []
        assert world.audit(settled=True) == []
    finally:
        await world.close()


def events(world):
    return [kind for (kind,) in world.rows("SELECT kind FROM event ORDER BY seq")]


def place(world):
    return world.rows("SELECT environment, ou FROM thing ORDER BY created_at")


async def until_there(world, unit, environment, steps=60):
    for _ in range(steps):
        await world.exchange()
        if unit.connected is not None and unit.connected[0][0] == environment and unit.client.status.state == "online":
            return
        await world.advance(20)
    raise AssertionError(str((unit.connected, unit.client.status)))


async def test_a_connected_device_is_moved_to_another_environment_by_one_command(tmp_path):
    async with in_service(tmp_path, "sn-1") as world:
        (unit,) = world.units
        thing = world.rows("SELECT thing_id, name FROM thing")
        assert await world.operate("reprovision", unit, ou="acme/b", environment="east") == (Result.CHANGED, None)
        await until_there(world, unit, "east")
        assert place(world) == [("east", "acme/b")]
        assert world.rows("SELECT thing_id, name FROM thing") == thing
        assert events(world)[-3:] == ["move_started", "confirmed", "moved"]
        assert not world.gates["prod"].logins


async def test_a_device_without_power_is_moved_at_its_next_contact(tmp_path):
    async with in_service(tmp_path, "sn-1") as world:
        (unit,) = world.units
        unit.power_off()
        await world.operate("reprovision", unit, environment="east")
        await world.advance(7200)
        unit.power_up()
        await until_there(world, unit, "east")
        assert place(world) == [("east", "acme")]


async def test_a_device_that_cannot_get_there_comes_back_and_its_move_is_told_as_failed(tmp_path):
    async with in_service(tmp_path, "sn-1") as world:
        (unit,) = world.units
        world.go_dark("east")
        await world.operate("reprovision", unit, environment="east")
        await world.exchange()
        assert unit.connected is None
        await until_there(world, unit, "prod")
        await world.exchange()
        assert events(world)[-1] == "move_failed"
        ((data,),) = world.rows("SELECT data FROM event WHERE kind = 'move_failed'")
        assert json.loads(data)["cause"] == "connect_unreachable"
        assert place(world) == [("prod", "acme")]
        world.lighten()
        await world.operate("reprovision", unit, environment="east")
        await until_there(world, unit, "east")


async def test_an_ou_inside_the_environment_costs_no_reconnect(tmp_path):
    async with in_service(tmp_path, "sn-1") as world:
        (unit,) = world.units
        before = unit.connected
        await world.operate("reprovision", unit, ou="acme/b")
        await world.exchange()
        await world.advance(700)
        await world.exchange()
        assert unit.connected == before
        assert place(world) == [("prod", "acme/b")]


async def test_a_move_that_is_taken_back_while_the_device_is_on_its_way_ends_where_it_was(tmp_path):
    async with in_service(tmp_path, "sn-1") as world:
        (unit,) = world.units
        world.go_dark("east")
        await world.operate("reprovision", unit, environment="east")
        await world.exchange()
        assert await world.operate("reprovision", unit, environment="prod") == (Result.CHANGED, None)
        world.lighten()
        await until_there(world, unit, "prod")
        assert place(world) == [("prod", "acme")]


async def test_a_replacement_takes_the_thing_and_the_old_device_is_told(tmp_path):
    async with in_service(tmp_path, "sn-1") as world:
        (old,) = world.units
        thing = world.rows("SELECT thing_id, name, ou, environment FROM thing")
        assert await world.replace(old, "sn-2") == (Result.CHANGED, None)
        new = world.units[1]
        new.power_up()
        await until_there(world, new, "prod")
        assert world.rows("SELECT thing_id, name, ou, environment FROM thing") == thing
        await world.exchange()
        assert old.connected is None or old.connected[0][1] != "operational"
        for _ in range(12):
            await world.advance(20)
            await world.exchange()
        assert old.client.counters.get("replaced", 0) >= 1


async def test_a_replacement_that_is_undone_leaves_the_old_device_at_work(tmp_path):
    async with in_service(tmp_path, "sn-1") as world:
        (old,) = world.units
        await world.replace(old, "sn-2")
        assert await world.operate("undo-replace", old) == (Result.CHANGED, None)
        await world.exchange()
        assert old.client.status.state == "online"


async def test_api_keys_are_renewed_at_two_thirds_of_their_life(tmp_path):
    async with in_service(tmp_path, "sn-1", credential_life_s=9000) as world:
        (unit,) = world.units
        before = unit.connected
        await world.advance(4000)
        await world.exchange()
        assert unit.connected == before
        for _ in range(4):
            await world.advance(1500)
            await world.exchange()
        assert unit.connected[0] == before[0]
        assert unit.connected[1] != before[1]
        assert "renewed" in events(world)
        assert not world.rows("SELECT 1 FROM event WHERE kind = 'clone_suspected'")


async def test_settings_reach_the_device_and_it_says_what_became_of_them(tmp_path):
    async with in_service(tmp_path, "sn-1") as world:
        (unit,) = world.units
        await world.operate("set-settings", unit, settings={"interval": 30})
        await world.exchange()
        assert unit.product.values == {"interval": 30}
        assert world.rows("SELECT settings_state FROM thing") == [("applied",)]


async def test_a_device_that_changes_hands_speaks_with_a_new_key_from_its_renewal_on(tmp_path):
    async with in_service(tmp_path, "sn-1", credential_life_s=9000) as world:
        (unit,) = world.units
        before = world.rows("SELECT key_sealed FROM device")
        assert await world.operate("transfer", unit) == (Result.CHANGED, None)
        for _ in range(8):
            await world.advance(1500)
            await world.exchange()
        assert "rekeyed" in events(world)
        assert world.rows("SELECT key_sealed FROM device") != before
        await world.operate("set-settings", unit, settings={"interval": 30})
        await world.exchange()
        assert unit.product.values == {"interval": 30}
        assert not unit.client.counters.get("mac")


async def test_settings_that_the_product_refuses_are_told_with_the_cause(tmp_path):
    async with in_service(tmp_path, "sn-1") as world:
        (unit,) = world.units
        await world.operate("set-settings", unit, settings={"refuse": True})
        await world.exchange()
        ((data,),) = world.rows("SELECT data FROM event WHERE kind = 'settings_failed'")
        assert json.loads(data)["cause"] == "out_of_range"
        assert unit.product.values == {}
