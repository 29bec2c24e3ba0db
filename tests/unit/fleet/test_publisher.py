"""What integrators are told: each at each broker from its own position, however others and other brokers fare."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace

import pytest
from sqlalchemy import func, insert, select

from service.domain import placement
from service.domain.catalogue import Catalogue
from service.domain.changes import Changes
from service.domain.group import MoveMethod
from service.domain.thing import Move
from service.fleet import publisher as publishing
from service.fleet.publisher import Publisher
from service.mqtt.port import LinkDown
from service.operations import accounts, event_positions, events
from service.operations.accounts import AccountKind
from service.storage.operator_tables import event
from service.storage.store import SqlStore
from service.storage.tables import meta
from tests.support.commands import seed
from tests.support.site import until
from tests.support.storage import NOW, new_database


class Wire:
    """A broker's link: takes messages while `up`, or as many as `room` says."""

    def __init__(self) -> None:
        self.up = True
        self.room = 10**6
        self.taken: list[tuple[str, str, int]] = []  # integrator, kind, number

    async def publish(self, topic: str, payload: bytes) -> None:
        if not self.up or self.room == 0:
            raise LinkDown
        self.room -= 1
        _, _, name, kind = topic.split("/")
        self.taken.append((name, kind, json.loads(payload)["seq"]))

    def told(self, name: str) -> list[int]:
        return [seq for who, _, seq in self.taken if who == name]


@pytest.fixture
async def database(tmp_path):
    made = await new_database(tmp_path / "firstlight.db")
    yield made
    await made.close()


async def nobody(_account: str, _fields: dict) -> None:
    raise AssertionError("no operator asked for anything")


async def integrator(database, name: str, ou: str | None = None, environment: str | None = None) -> None:
    await accounts.create(
        database, name, AccountKind.INTEGRATOR, ou=ou, environment=environment, now=NOW, random_bytes=os.urandom
    )


async def happen(database, *ous: str) -> None:
    """One event in each of these OUs."""
    row = {"at": 1, "kind": "blocked", "group_id": "g", "serial": "s", "data": "{}"}
    async with database.write() as transaction:
        await transaction.connection.execute(insert(event), [{**row, "ou": ou} for ou in ous])


async def positions(database) -> int:
    async with database.read() as connection:
        query = select(func.count()).where(meta.c.name.startswith("events_told/"))
        return (await connection.execute(query)).scalar_one()


async def test_each_is_told_what_is_in_its_ou_once_and_a_new_one_from_its_first_moment(database) -> None:
    prod = Wire()
    publisher = Publisher(database, {"prod": prod}, nobody)
    await publisher.look_at("prod")
    await integrator(database, "all")
    await integrator(database, "acme", "acme")
    await integrator(database, "zeta", "zeta")
    await happen(database, "acme/a", "other", "acme")
    await publisher.look_at("prod")
    await integrator(database, "late", "acme")
    await happen(database, "acmeish", "acme/b")
    for _ in range(2):
        await publisher.look_at("prod")
    assert prod.told("all") == [1, 2, 3, 4, 5]
    assert prod.told("acme") == [1, 3, 5]
    assert prod.told("zeta") == []
    assert prod.told("late") == [5]


async def test_a_thing_that_leaves_an_ou_is_told_there_too(database) -> None:
    prod = Wire()
    for name, ou in (("old", "acme/emea"), ("new", "acme/us"), ("sister", "acme/emea/plant-7"), ("other", "zeta")):
        await integrator(database, name, ou)
    (before,) = await seed(database, "sn-1", ou="acme/emea/hall")
    move = Move("acme/us", "prod", MoveMethod.MIGRATE, NOW, NOW)
    moving = replace(before, thing=replace(before.thing, move=move))
    after, told = placement.complete(moving, Catalogue(1), NOW)
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((before, after),), events=told))
    await Publisher(database, {"prod": prod}, nobody).look_at("prod")
    assert [name for name, kind, _ in prod.taken if kind == "moved"] == ["new", "old"]
    for scope, count in (("acme/emea", 1), ("acme/us", 1), ("acme", 1), ("acme/emea/plant-7", 0)):
        found = await events.page(database, scope=scope)
        assert len(found) == count, scope


async def test_a_broker_that_is_away_makes_nobody_miss_or_hear_twice(database) -> None:
    wires = {"prod": Wire(), "east": Wire()}
    publisher = Publisher(database, wires, nobody)
    await integrator(database, "both")
    await integrator(database, "eastern", environment="east")
    await happen(database, "acme", "acme")
    for environment in wires:
        await publisher.look_at(environment)
    wires["east"].up = False
    await happen(database, "acme", "acme", "acme")
    for environment in wires:
        await publisher.look_at(environment)
    assert wires["prod"].told("both") == [1, 2, 3, 4, 5]
    assert wires["east"].told("both") == [1, 2]
    wires["east"].up, wires["east"].room = True, 4  # it goes away again in the middle
    await publisher.look_at("east")
    wires["east"].room = 100
    for environment in wires:
        await publisher.look_at(environment)
    assert wires["prod"].told("both") == wires["east"].told("both") == wires["east"].told("eastern") == [1, 2, 3, 4, 5]
    assert wires["prod"].told("eastern") == []


async def test_a_fault_at_one_broker_holds_up_no_other_and_is_forgotten_when_it_is_gone(database, monkeypatch) -> None:
    class Faulty(Wire):
        async def publish(self, topic: str, payload: bytes) -> None:
            if not self.up:
                raise KeyError("a bug")
            await super().publish(topic, payload)

    monkeypatch.setattr(publishing, "LOOK_S", 0.001)
    prod, east = Faulty(), Wire()
    prod.up = False
    await integrator(database, "billing")
    await happen(database, "acme")
    running = asyncio.create_task(Publisher(database, {"prod": prod, "east": east}, nobody).run())
    try:
        await until(lambda: len(east.told("billing")) == 1)
        prod.up = True
        await until(lambda: prod.told("billing") == east.told("billing"))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_second_process_for_another_environment_tells_its_own_and_takes_nothing_away(database) -> None:
    prod, east = Wire(), Wire()
    here, there = Publisher(database, {"prod": prod}, nobody), Publisher(database, {"east": east}, nobody)
    await here.look_at("prod")
    await there.look_at("east")
    await integrator(database, "erp")
    await happen(database, "acme", "acme")
    await here.look_at("prod")
    await there.look_at("east")
    assert prod.told("erp") == east.told("erp") == [1, 2]


async def test_after_a_restart_each_goes_on_where_it_was(database) -> None:
    first, second = Wire(), Wire()
    await integrator(database, "erp")
    await happen(database, "acme", "acme", "acme")
    first.room = 2
    await Publisher(database, {"prod": first}, nobody).look_at("prod")
    await happen(database, "acme")
    await Publisher(database, {"prod": second}, nobody).look_at("prod")
    assert (first.told("erp"), second.told("erp")) == ([1, 2], [3, 4])


async def test_an_account_of_the_same_name_begins_anew_and_no_position_is_left_behind(database) -> None:
    wire = Wire()
    publisher = Publisher(database, {"prod": wire}, nobody)
    await publisher.look_at("prod")
    await integrator(database, "erp")
    await happen(database, "acme")
    await publisher.look_at("prod")
    await accounts.remove(database, "erp")
    await happen(database, "acme")
    await event_positions.forget_the_gone(database, "prod")
    assert await positions(database) == 0
    await integrator(database, "erp")
    await happen(database, "acme")
    await publisher.look_at("prod")
    assert wire.told("erp") == [1, 3]


async def test_a_disabled_integrator_is_told_nothing_and_later_what_it_missed(database) -> None:
    wire = Wire()
    publisher = Publisher(database, {"prod": wire}, nobody)
    await integrator(database, "erp")
    await publisher.look_at("prod")
    await accounts.disable(database, "erp", now=NOW)
    await happen(database, "acme", "acme")
    await publisher.look_at("prod")
    assert wire.told("erp") == []
    await accounts.enable(database, "erp")
    await publisher.look_at("prod")
    assert wire.told("erp") == [1, 2]


async def test_many_events_are_told_page_by_page(database, monkeypatch) -> None:
    monkeypatch.setattr(publishing, "PAGE", 3)
    wire = Wire()
    publisher = Publisher(database, {"prod": wire}, nobody)
    await integrator(database, "erp", "acme")
    await publisher.look_at("prod")
    await happen(database, *["other"] * 4, *["acme"] * 7, *["other"] * 3)
    await publisher.look_at("prod")
    assert wire.told("erp") == list(range(5, 12))
