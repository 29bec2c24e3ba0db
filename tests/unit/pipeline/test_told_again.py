"""What is pushed reaches a connected, silent device: absences of the link and of the service are made up for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from device_sdk.wire import codes
from service.domain.catalogue import Endpoint, Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialKind
from service.domain.event import Event
from service.errors import ServiceError
from service.pipeline.telling import SURE_AFTER, Progress
from tests.support.fake_link import START
from tests.support.fake_store import FakeBatch
from tests.support.lifecycle import World
from tests.support.pipeline_site import OLD, Peer, catalogue, group, registered, running

SURE_S = SURE_AFTER.total_seconds()
ELSEWHERE = Environment("east", {CredentialKind.API_KEY: Endpoint("east.example", 8883, tls=False)})


async def in_service(site, serial="sn-1"):
    """An activated device that has its document and says nothing more."""
    peer = Peer(site, serial)
    assert (await peer.activate())["ok"]
    rev = peer.document((await peer.online())["desired"])["rev"]
    await peer.report(desired_rev=rev)
    return peer


def retarget(site):
    """By whatever process: every device is to run another version."""
    world = site.store.catalogue
    products = {"thermometer": replace(world.products["thermometer"], target=OLD)}
    site.set_catalogue(replace(world, products=products))


async def change_device(site):
    """An operator's change of one device, which an event tells."""
    async with site.store.batch() as batch:
        before = site.store.device("line-1", "sn-1")
        after = replace(before, thing=replace(before.thing, settings={"rate": 5}, settings_rev=1))
        event = Event("settings_changed", before.group_id, before.serial)
        await batch.save(Changes(devices=((before, after),), events=(event,)))


async def pushed(site):
    """How many different documents a round of the ticker brings onto the wire."""
    site.op.published.clear()
    await site.pipeline.ticker.tick()
    await site.settle()
    return len({payload for topic, payload in site.op.published if topic.endswith("/dn/desired")})


async def change_catalogue(site):
    retarget(site)


@pytest.mark.parametrize("change", [change_catalogue, change_device])
async def test_what_was_pushed_while_the_link_was_down_is_pushed_when_it_is_up(tmp_path, change):
    async with running(tmp_path) as site:
        await in_service(site)
        site.op.down = True
        await change(site)
        assert await pushed(site) == 0
        site.clock.advance(10 * SURE_S)  # however long that was
        assert await pushed(site) == 0
        site.op.down = False
        site.pipeline.link_connected(site.op)
        assert await pushed(site) == 1


@pytest.mark.parametrize("change", [change_catalogue, change_device])
async def test_what_was_pushed_just_before_the_link_was_lost_is_pushed_again(tmp_path, change):
    async with running(tmp_path) as site:
        peer = await in_service(site)
        await change(site)
        assert await pushed(site) == 1
        site.clock.advance(SURE_S - 1)
        site.pipeline.link_connected(site.op)
        assert await pushed(site) == 1
        await peer.report(desired_rev=2)
        site.pipeline.link_connected(site.op)
        assert await pushed(site) == 0  # the device has said that it knows


@pytest.mark.parametrize("change", [change_catalogue, change_device])
async def test_progress_is_remembered_only_when_it_is_sure(tmp_path, change):
    async with running(tmp_path) as site:
        await in_service(site)
        await pushed(site)
        site.clock.advance(SURE_S)
        await pushed(site)
        before = (dict(site.upkeep.tended), dict(site.upkeep.refreshed))
        await change(site)
        assert await pushed(site) == 1
        site.clock.advance(SURE_S - 1)
        await pushed(site)
        assert (site.upkeep.tended, site.upkeep.refreshed) == before  # a service killed now starts from there
        site.clock.advance(1)
        await pushed(site)
        assert (site.upkeep.tended, site.upkeep.refreshed) != before


def test_what_never_becomes_sure_takes_no_more_memory():
    progress = Progress(0)
    for number in range(1, 1001):
        progress.advance(number, START + timedelta(seconds=number))
    assert len(progress._told) <= 100
    assert not progress.settle(START)
    assert progress.settle(START + timedelta(seconds=1000) + SURE_AFTER)
    assert (progress.sure, progress.value) == (1000, 1000)


def test_what_was_told_before_the_clock_was_set_back_becomes_sure():
    progress = Progress(0)
    progress.advance(1, START + timedelta(days=365))
    assert not progress.settle(START)
    assert not progress.settle(START + SURE_AFTER - timedelta(seconds=1))
    assert progress.settle(START + SURE_AFTER)
    assert progress.sure == 1


async def test_a_push_whose_batch_was_not_stored_comes_in_a_later_round(tmp_path, monkeypatch):
    async with running(tmp_path) as site:
        await in_service(site)
        real = FakeBatch.save

        async def full(*_):
            raise ServiceError(codes.UNAVAILABLE, "the disk is full", cause="storage_full")

        monkeypatch.setattr(FakeBatch, "save", full)
        retarget(site)
        assert await pushed(site) == 0
        monkeypatch.setattr(FakeBatch, "save", real)
        assert await pushed(site) == 1


async def test_a_broker_that_is_away_holds_up_no_other_environment(tmp_path):
    world = catalogue(group())
    world = replace(world, environments={**world.environments, "east": ELSEWHERE})
    async with running(tmp_path, world=world, devices=[registered()]) as site:
        await in_service(site)
        site.links["east", site.op.role].down = True
        await change_device(site)
        assert await pushed(site) == 1
        site.clock.advance(SURE_S)
        await pushed(site)
        assert set(site.upkeep.tended) == {"prod"}


async def test_a_service_killed_right_after_a_push_pushes_again_at_its_start(tmp_path):
    world = await World.create(tmp_path, ["sn-1"])
    try:
        await world.calm()
        (unit,) = world.units
        await world.operate("set-settings", unit, settings={"rate": 5})
        assert world.down
        world.down.clear()  # lost with the service's socket
        await world.kill_service()
        await world.start_service()
        await world.upkeep()
        await world.calm()
        assert world.unfinished() == []
        assert unit.product.values == {"rate": 5}
    finally:
        await world.close()
