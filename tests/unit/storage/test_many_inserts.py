"""Many new rows are written by other statements than few are, and are the same rows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from service.domain.changes import Changes
from service.domain.event import Event
from service.errors import Secret
from service.operations import audits
from service.storage import operator_tables, store, tables
from service.storage.sealing import device_key_aad
from tests.support.storage import GROUP, NOW, a_device, a_sealer, new_database


def new_devices(count):
    """Some columns are NULL in all of them, some in a few, some 0 in a few."""
    return [
        a_device(
            f"sn-{number}",
            device_id=f"{number:032x}",
            key=Secret(bytes([number]) * 32) if number % 3 else None,
            ou="acme" if number % 2 else None,
            boot_count=number % 4,
            registered_at=NOW + timedelta(seconds=number),
        )
        for number in range(1, count + 1)
    ]


async def stored(folder, devices):
    """Rows of devices (their keys opened) and events, and the audit, of a database that took them at once."""
    database = await new_database(folder, changed_by="local")
    events = tuple(Event("registered", GROUP.group_id, one.serial, ou=one.ou, at=NOW) for one in devices)
    async with store.SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple((None, one) for one in devices), events=events))
    sealer = a_sealer()
    async with database.read() as connection:
        found = [dict(row) for row in (await connection.execute(select(tables.device))).mappings()]
        told = [dict(row) for row in (await connection.execute(select(operator_tables.event))).mappings()]
    for row in found:
        sealed = row["key_sealed"]
        row["key_sealed"] = None if sealed is None else sealer.open(sealed, device_key_aad(row["device_id"]))
    audited = [(one.selector, one.after) for one in await audits.page(database) if "device" in one.selector]
    await database.close()
    return found, told, audited


@pytest.mark.parametrize("count", [30, 33, 7])
async def test_many_new_devices_are_stored_as_few_are(tmp_path, monkeypatch, count):
    devices = new_devices(count)
    one_by_one = await stored(tmp_path / "few", devices)
    monkeypatch.setattr(store, "MANY", 5)
    monkeypatch.setattr(store, "TOGETHER", 10)
    assert await stored(tmp_path / "many", devices) == one_by_one
    found, told, _ = one_by_one
    assert len(found) == len(told) == count


async def test_many_new_devices_are_one_line_of_audit(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MANY", 5)
    _, _, audited = await stored(tmp_path / "db", new_devices(30))
    assert audited == [({"device": 30}, {"rows": 30, "first": f"{1:032x}", "last": f"{30:032x}"})]


async def test_a_statement_has_no_more_values_than_sqlite_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MANY", 5)
    monkeypatch.setattr(store, "MOST_VALUES", 60)
    found, _, _ = await stored(tmp_path / "db", new_devices(30))
    assert len(found) == 30
