"""Opening, writing and failing: every fault of the disk is UNAVAILABLE and leaves nothing half-written."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy import event, func, insert, select, text
from sqlalchemy.exc import IntegrityError

from service.domain.changes import Changes, Trace
from service.errors import Secret, ServiceError
from service.storage import tables
from service.storage.database import Database
from service.storage.store import SqlStore
from tests.support.storage import DERIVED, GROUP, NOW, a_credential, a_device, a_sealer, a_thing, new_database


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


async def count(database, table):
    async with database.read() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


def add_row(connection, n):
    return connection.execute(insert(tables.counter), [{"name": f"n{n}", "value": n}])


async def save_devices(database, numbers, *, padding=0):
    pairs = []
    for n in numbers:
        device = a_device(f"sn-{n}")
        one = a_credential(device, f"{n:032x}", grant=b"g" * padding)
        pairs.append((None, replace(device, thing=a_thing(device), credentials=(one,))))
    steps = tuple(Trace(GROUP.group_id, f"sn-{n}", NOW, "0" * 16, "activate", "activated") for n in numbers)
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple(pairs), traces=steps, counters={"activated": len(pairs)}))


async def test_every_connection_is_durable_and_checks_foreign_keys(database):
    async with database.read() as reader, database.write() as writer:
        for connection in (reader, writer.connection):
            asked = [text(f"PRAGMA {name}") for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")]
            assert [(await connection.execute(one)).scalar_one() for one in asked] == ["wal", 1, 2, 5000]


async def test_a_write_is_kept_and_an_error_or_an_abandoned_one_is_not(database):
    async with database.write() as transaction:
        await add_row(transaction.connection, 1)

    async def failing():
        async with database.write() as transaction:
            await add_row(transaction.connection, 2)
            raise LookupError

    with pytest.raises(LookupError):
        await failing()
    async with database.write() as transaction:
        await add_row(transaction.connection, 3)
        transaction.abandon()
    async with database.read() as connection:
        assert list((await connection.execute(select(tables.counter.c.name))).scalars()) == ["n1"]


async def test_writers_of_one_process_take_turns(database):
    async def add(n):
        async with database.write() as transaction:
            await add_row(transaction.connection, n)

    await asyncio.gather(*(add(n) for n in range(50)))
    assert await count(database, tables.counter) == 50


async def test_a_reader_sees_one_snapshot_while_others_write(database):
    async with database.read() as connection:
        before = (await connection.execute(select(func.count()).select_from(tables.counter))).scalar_one()
        async with database.write() as transaction:
            await add_row(transaction.connection, 1)
        assert (await connection.execute(select(func.count()).select_from(tables.counter))).scalar_one() == before
    assert await count(database, tables.counter) == before + 1


async def test_a_cancelled_write_leaves_nothing_and_the_next_one_works(database):
    begun = asyncio.Event()

    async def stuck():
        async with database.write() as transaction:
            await add_row(transaction.connection, 1)
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stuck())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.write() as transaction:
        await add_row(transaction.connection, 2)
    assert await count(database, tables.counter) == 1


async def test_a_write_cancelled_inside_a_statement_does_not_lock_the_database(database):
    slow = text(
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000000) SELECT max(x) FROM n"
    )
    inside = asyncio.Event()

    async def stuck():
        async with database.write() as transaction:
            await add_row(transaction.connection, 1)
            inside.set()
            await transaction.connection.execute(slow)

    task = asyncio.create_task(stuck())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.write() as transaction:
        await add_row(transaction.connection, 2)
    assert await count(database, tables.counter) == 1


async def test_data_version_changes_when_another_process_writes_and_not_when_we_do(database):
    first = await database.data_version()
    async with database.write() as transaction:
        await add_row(transaction.connection, 1)
    assert await database.data_version() == first
    with closing(sqlite3.connect(database.path)) as other:
        other.execute("INSERT INTO counter VALUES ('other', 1)")
        other.commit()
    assert await database.data_version() != first


async def test_a_database_that_another_process_holds_is_unavailable(database, monkeypatch):
    monkeypatch.setattr("service.storage.connections.BUSY_TIMEOUT_S", 0.01)
    impatient = await Database.open(database.path, a_sealer(), check=False)
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ServiceError) as refused:
            await save_devices(impatient, [1])
        other.execute("ROLLBACK")
    assert (refused.value.code, refused.value.cause) == ("UNAVAILABLE", "storage_busy")
    assert 5 <= refused.value.retry_after_s <= 15
    await save_devices(impatient, [1])
    await impatient.close()


async def test_when_one_writer_has_waited_in_vain_those_behind_it_do_not_wait_in_turn(database, monkeypatch):
    monkeypatch.setattr("service.storage.connections.BUSY_TIMEOUT_S", 0.2)
    impatient = await Database.open(database.path, a_sealer(), check=False)
    tries = []

    def note(_connection, _cursor, statement, *_):
        tries.extend([statement] if statement == "BEGIN IMMEDIATE" else [])

    event.listen(impatient._connections.engine.sync_engine, "before_cursor_execute", note)
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = await asyncio.gather(*(save_devices(impatient, [n]) for n in range(6)), return_exceptions=True)
        assert [(one.cause, one.code) for one in refused] == [("storage_busy", "UNAVAILABLE")] * 6
        assert len(tries) == 1
        with pytest.raises(ServiceError):
            await save_devices(impatient, [6])  # who comes later waits for itself
        assert len(tries) == 2
        other.execute("ROLLBACK")
    await save_devices(impatient, [7])
    assert await count(impatient, tables.device) == 1
    await impatient.close()


async def test_a_full_disk_is_unavailable_and_leaves_no_half_batch(tmp_path):
    database = await new_database(tmp_path / "db", max_pages=240)
    saved = 0
    refused = None
    while refused is None and saved < 10_000:
        try:
            await save_devices(database, range(saved, saved + 10), padding=1000)
            saved += 10
        except ServiceError as error:
            refused = error
    assert (refused.code, refused.cause) == ("UNAVAILABLE", "storage_full")
    assert 5 <= refused.retry_after_s <= 15
    assert saved > 0
    for table in (tables.device, tables.thing, tables.credential, tables.trace):
        assert await count(database, table) == saved
    async with database.read() as connection:
        assert (await connection.execute(select(tables.counter.c.value))).scalar_one() == saved
    await database.close()
    roomy = await Database.open(database.path, a_sealer())  # whole, and goes on when there is room
    await save_devices(roomy, range(5000, 5010))
    assert await count(roomy, tables.device) == saved + 10
    await roomy.close()


async def test_a_read_only_database_is_unavailable(database, monkeypatch):
    monkeypatch.setattr("service.storage.connections.is_writable", lambda _: False)  # root may always write
    async with database.write() as transaction:
        await transaction.connection.execute(text("PRAGMA query_only = ON"))
        transaction.abandon()
    with pytest.raises(ServiceError) as refused:
        await save_devices(database, [1])
    assert (refused.value.code, refused.value.cause) == ("UNAVAILABLE", "storage_read_only")
    assert refused.value.retry_after_s is not None
    assert await count(database, tables.device) == 0


@pytest.mark.parametrize("fault", ["file_size", "permissions"])
async def test_what_the_system_forbids_is_unavailable_and_leaves_nothing_half_written(tmp_path, fault):
    database = await new_database(tmp_path / "db")
    await save_devices(database, range(10))
    await database.close()
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", FAULT, fault, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["code"] == "UNAVAILABLE"
    assert said["cause"] in {"storage_full", "storage_io_error", "storage_read_only", "storage_gone"}
    assert 5 <= said["retry_after_s"] <= 15
    assert said["devices"] == said["things"] == said["expected"]


FAULT = """
import asyncio, json, os, resource, sys
from pathlib import Path
from sqlalchemy import text
from service.errors import ServiceError
from service.storage import rows, tables
from service.storage.database import Database
from tests.support.storage import a_sealer
from tests.unit.storage.test_database import count, save_devices

fault, folder = sys.argv[1], Path(sys.argv[2])

async def main():
    database = await Database.open(folder / "db", a_sealer())
    expected = 10
    await save_devices(database, range(10, 20))
    expected += 10
    if fault == "file_size":
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, most))
    else:
        await database.close()
        (folder / "db").chmod(0o444)
        folder.chmod(0o555)
        database = None
        if os.geteuid() == 0:
            for parent in folder.parents:
                if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
                    parent.chmod(0o755)
            os.seteuid(65534)
    error = None
    try:
        if database is None:
            database = await Database.open(folder / "db", a_sealer())
        for n in range(100, 200):
            await save_devices(database, range(n * 10, n * 10 + 10), padding=2000)
            expected += 10
    except ServiceError as refused:
        error = refused
    if fault == "file_size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    else:
        if os.getuid() == 0:
            os.seteuid(0)
        folder.chmod(0o755)
        (folder / "db").chmod(0o600)
    if database is not None:
        await database.close()
    database = await Database.open(folder / "db", a_sealer())
    print(json.dumps({
        "code": error.code, "cause": error.cause, "retry_after_s": error.retry_after_s, "expected": expected,
        "devices": await count(database, tables.device), "things": await count(database, tables.thing),
    }))
    await save_devices(database, [9999])
    await database.close()

asyncio.run(main())
"""


async def test_a_damaged_file_is_found_at_start(tmp_path):
    path = tmp_path / "db"
    database = await new_database(path)
    await save_devices(database, range(200), padding=500)
    await database.close()
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2 // 4096 * 4096
    raw[middle : middle + 2 * 4096] = b"\x55" * 2 * 4096
    path.write_bytes(raw)
    with pytest.raises(ServiceError) as refused:
        await Database.open(path, a_sealer())
    assert (refused.value.code, refused.value.cause) == ("UNAVAILABLE", "storage_corrupt")


async def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "db"
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(ServiceError) as refused:
        await Database.open(path, a_sealer())
    assert refused.value.cause == "storage_corrupt"


async def test_no_byte_of_the_database_files_shows_a_secret(tmp_path):
    path = tmp_path / "db"
    database = await new_database(path)
    key = Secret(b"canary-device-key-0123456789abcd")
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, a_device(key=key)),)))
    async with SqlStore(database, {}).batch() as batch:
        loaded = (await batch.load(serials=[(GROUP.group_id, "sn-1")])).by_serial[GROUP.group_id, "sn-1"]
        assert loaded.key == key
        assert batch.catalogue.groups[DERIVED.group_id].secret == DERIVED.secret
    dump = b"".join(one.read_bytes() for one in tmp_path.iterdir())
    await database.close()
    dump += path.read_bytes()
    assert b"sn-1" in dump
    for secret in (key.reveal(), DERIVED.secret.reveal()):
        for form in (secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret)):
            assert form not in dump


_INSERT_GROUP = (
    "INSERT INTO registration_group"
    " (group_id, product_id, key_kind, secret_sealed, self_registration, pending_expiry_s, reactivation)"
)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE product SET target_version_id = 'nothing'",
        "DELETE FROM registration_group",
        _INSERT_GROUP + " VALUES ('x', 'thermometer', 'group', x'00', 0, 60, 'open')",
        _INSERT_GROUP + " VALUES ('x', 'thermometer', 'derived', NULL, 0, 60, 'open')",
        "INSERT INTO image SELECT '0123456789abcdef' || printf('%048d', value), 1, 1 FROM json_each('[1, 2]')",
        "UPDATE credential SET state = 'lost'",
        "UPDATE credential SET state = 'dropped'",
    ],
)
async def test_the_schema_itself_refuses_a_broken_invariant(database, statement):
    await save_devices(database, [1])
    with closing(sqlite3.connect(database.path)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)


async def test_an_error_of_a_statement_does_not_show_its_values(database):
    async def twice():
        async with database.write() as transaction:
            for _ in range(2):
                await add_row(transaction.connection, 1234567)

    with pytest.raises(IntegrityError) as caught:
        await twice()
    assert "UNIQUE" in str(caught.value)
    assert "1234567" not in str(caught.value)
