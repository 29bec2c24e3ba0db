"""Revoked certificates are remembered from the drop of their credential until they have run out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from service.domain.changes import Changes
from service.domain.credential import CredentialKind, CredentialState
from service.storage.certificate_tables import revoked_certificate
from service.storage.revocations import KEPT, LONGEST_LIFE, Revocations
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.storage import a_credential, a_device, a_thing, new_database

NOW = datetime(2020, 1, 2, tzinfo=UTC)  # all of it is over: whoever looks at the database later finds nothing amiss
END = NOW + timedelta(days=90)


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


def revocations(database, environment="prod", now=NOW):
    return Revocations(database, environment, lambda: now)


async def certified(database, serial, **fields):
    """A device with a certificate of that serial number."""
    device = a_device(f"sn-{serial}")
    given = {"kind": CredentialKind.X509, "certificate_serial": serial, "certificate_expires_at": END, **fields}
    one = a_credential(device, serial.rjust(32, "0"), **given)
    device = replace(device, thing=a_thing(device, name=serial), credentials=(one,))
    await save(database, (None, device))
    return device


async def save(database, *pairs):
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=pairs))


async def drop(database, device):
    (one,) = device.credentials
    after = replace(device, credentials=(replace(one, state=CredentialState.DROPPED, dropped_at=NOW),))
    await save(database, (device, after))
    return after


async def test_a_certificate_is_revoked_by_the_save_that_drops_its_credential_and_for_its_environment_only(database):
    device = await certified(database, "a1", spki_sha256=b"p" * 32)
    await certified(database, "a2")
    assert await revocations(database).serials() == frozenset()
    dropped = await drop(database, device)
    assert await revocations(database).serials() == {0xA1}
    assert await revocations(database, "elsewhere").serials() == frozenset()
    again = replace(dropped, credentials=(replace(dropped.credentials[0], revoked_at=NOW),))
    await save(database, (dropped, again))  # a later change of a dropped row adds nothing
    async with database.read() as connection:
        (row,) = (await connection.execute(select(revoked_certificate))).all()
    assert (row.environment, row.serial, row.spki_sha256) == ("prod", "a1", b"p" * 32)
    assert row.expires_at == int(END.timestamp() * 1000)


async def test_a_save_that_fails_revokes_nothing(database):
    device = await certified(database, "a1")
    (one,) = device.credentials
    after = replace(device, credentials=(replace(one, state=CredentialState.DROPPED, dropped_at=NOW),))
    with pytest.raises(ValueError, match="keeps its id"):
        await save(database, (device, after), (device, replace(after, device_id="another")))
    assert await revocations(database).serials() == frozenset()


async def test_what_has_run_out_is_listed_no_more_and_forgotten_a_day_later(database):
    await drop(database, await certified(database, "a1"))
    await drop(database, await certified(database, "a2", certificate_expires_at=None))
    upkeep = Upkeep(database)
    assert await revocations(database, now=END - timedelta(seconds=1)).serials() == {0xA1, 0xA2}
    assert await revocations(database, now=END).serials() == {0xA2}
    assert await upkeep.prune_revoked(END + KEPT) == 0
    assert await upkeep.prune_revoked(END + KEPT + timedelta(seconds=1)) == 1
    assert await upkeep.prune_revoked(NOW + LONGEST_LIFE + KEPT + timedelta(seconds=1), limit=5) == 1


async def test_a_list_from_before_is_taken_over_once_without_what_is_in_use(database):
    await certified(database, "a1")
    await drop(database, await certified(database, "a2"))
    assert await revocations(database).take_over({0xA1, 0xA2, 0xA3})
    assert await revocations(database).serials() == {0xA2, 0xA3}
    assert not await revocations(database).take_over({0xA4})
    assert await revocations(database, "other").take_over({0xA4})
    assert await revocations(database).serials() == {0xA2, 0xA3}
    assert await revocations(database, now=NOW + LONGEST_LIFE).serials() == frozenset()


async def test_a_canary_s_certificate_is_revoked_without_a_credential(database):
    await revocations(database).add(0xCA, b"c" * 32, NOW + timedelta(minutes=10))
    await revocations(database).add(0xCA, b"c" * 32, NOW + timedelta(minutes=10))
    assert await revocations(database).serials() == {0xCA}
