"""Connections that have become read-only are made anew: all of them, each closed, under nobody who reads."""

from __future__ import annotations

import asyncio
import gc

import aiosqlite
import pytest
from sqlalchemy import func, select, text

from service.errors import ServiceError
from service.storage import tables
from tests.support.storage import new_database
from tests.unit.storage.test_database import add_row, count, save_devices


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


def open_connections():
    return sum(isinstance(one, aiosqlite.Connection) and one._connection is not None for one in gc.get_objects())


async def make_read_only(database):
    """What a writer is like whose file could not be opened for writing."""
    async with database.write() as transaction:
        await transaction.connection.execute(text("PRAGMA query_only = ON"))
        transaction.abandon()


async def test_a_writer_that_has_become_read_only_is_made_anew(tmp_path):
    before = open_connections()
    database = await new_database(tmp_path / "db")
    await make_read_only(database)
    async with database.write() as transaction:
        await add_row(transaction.connection, 1)
    assert await count(database, tables.counter) == 1
    await database.close()
    assert open_connections() == before


async def test_no_connection_is_closed_under_somebody_who_reads(database, monkeypatch):
    monkeypatch.setattr("service.storage.connections.READERS_WAIT_S", 0.05)
    await make_read_only(database)
    async with database.read() as connection:
        with pytest.raises(ServiceError) as refused:
            await save_devices(database, [1])
        assert (refused.value.code, refused.value.cause) == ("UNAVAILABLE", "storage_read_only")
        assert (await connection.execute(select(func.count()).select_from(tables.counter))).scalar_one() == 0
    await save_devices(database, [1])
    assert await count(database, tables.device) == 1


async def test_while_connections_are_made_anew_readers_are_put_off_and_a_cancelled_writer_loses_none(tmp_path):
    before = open_connections()
    database = await new_database(tmp_path / "db")
    await make_read_only(database)
    async with database.read():
        writing = asyncio.create_task(save_devices(database, [1]))
        with pytest.raises(ServiceError) as refused:  # noqa: PT012 - the moment when it begins is not ours to choose
            while True:
                async with database.read():
                    await asyncio.sleep(0)
        assert refused.value.retry_after_s is not None
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    await save_devices(database, [2])
    assert await count(database, tables.device) == 1
    await database.close()
    assert open_connections() == before
