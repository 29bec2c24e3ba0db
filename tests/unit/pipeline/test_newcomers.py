"""Logins that another process has promised are let in here, however many of them wait."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service import newcomers
from service.domain.changes import Changes
from service.newcomers import Newcomers
from service.storage.store import SqlStore
from tests.support.storage import NOW, a_credential, a_device, a_thing, new_database


class Granted:
    """What a granter is asked for."""

    def __init__(self):
        self.logins = []

    def has_seen(self, credential_id):
        return credential_id in self.logins

    def submit(self, login, done):
        self.logins.append(login.credential_id)
        done(None)


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


async def add(database, numbers, environment="prod", at=NOW):
    pairs = []
    for number in numbers:
        device = a_device(f"sn-{number}")
        one = a_credential(device, f"{number:032x}", environment=environment, created_at=at)
        thing = replace(a_thing(device), name=f"Thermometer {number}")
        pairs.append((None, replace(device, thing=thing, credentials=(one,))))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple(pairs)))


async def test_more_that_wait_than_a_page_has_keep_nobody_out(database, monkeypatch):
    monkeypatch.setattr(newcomers, "PAGE", 3)
    granted, now = Granted(), [NOW]
    keeper = Newcomers(
        database,
        SqlStore(database, {}),
        {"prod": granted},
        Ed25519PrivateKey.generate(),
        clock=lambda: now[0],
    )
    await add(database, range(10))
    await add(database, [10], "east")
    assert await keeper.look() == 10
    await add(database, [11], at=NOW + timedelta(seconds=1))
    now[0] += timedelta(seconds=2)
    assert await keeper.look() == 1
    assert sorted(granted.logins) == [f"{number:032x}" for number in (*range(10), 11)]
    assert await keeper.look() == 0
