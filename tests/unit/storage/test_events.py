"""Events: numbered in the order of their commits."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import event as listening
from sqlalchemy import select

from service.domain.changes import Changes
from service.domain.event import Event
from service.operations import events
from service.storage import operator_tables
from service.storage.rows import to_ms
from service.storage.store import SqlStore
from tests.support.storage import NOW, a_device, new_database


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


async def test_events_are_numbered_in_the_order_of_their_commits_and_gone_with_an_error(database):
    device, of = a_device(), operator_tables.event.c
    told = [
        Event(kind, device.group_id, device.serial, data={"cause": "ä"}, at=NOW) for kind in ("registered", "moved")
    ]
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, device),), events=(told[0],)))

    async def fails():
        async with SqlStore(database, {}).batch() as batch:
            await batch.save(Changes(events=(told[1],)))
            raise LookupError

    with pytest.raises(LookupError):
        await fails()
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(events=(told[1],)))
    async with database.read() as connection:
        found = [tuple(row) for row in await connection.execute(select(of.seq, of.kind, of.data, of.at))]
    assert found == [(1, "registered", '{"cause":"ä"}', to_ms(NOW)), (2, "moved", '{"cause":"ä"}', to_ms(NOW))]


@pytest.mark.parametrize(
    ("narrowed", "index"),
    [
        ({"thing_id": "f" * 32}, "ix_event_thing"),
        ({"device": ("line-1", "sn-1")}, "ix_event_serial"),
        ({"command_id": "c" * 32}, "ix_event_command"),
        ({}, "SEARCH event USING INTEGER PRIMARY KEY"),
    ],
)
async def test_the_events_of_a_thing_a_device_or_a_command_are_found_by_an_index(database, narrowed, index):
    asked = []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        asked.append((statement, parameters))

    listening.listen(database._connections.engine.sync_engine, "before_cursor_execute", note)
    await events.page(database, after=7, **narrowed)
    listening.remove(database._connections.engine.sync_engine, "before_cursor_execute", note)
    ((statement, parameters),) = [one for one in asked if "FROM event" in one[0]]
    with closing(sqlite3.connect(database.path)) as connection:
        plan = " / ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))
    assert index in plan
    assert "SCAN" not in plan
