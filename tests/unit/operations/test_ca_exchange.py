"""The exchange of an environment's certificate authority: what is trusted, who has heard, and what a crash leaves."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import insert, update

from service.brokers.mosquitto.certificates import load_issuer
from service.credentials.authority import Authority
from service.credentials.keyfile import KeyFile
from service.domain.catalogue import Catalogue, Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialState
from service.domain.desired import certificates_of, content
from service.domain.device import DeviceState
from service.operations import ca_exchange, groups
from service.operations.ca_exchange import Place
from service.protocol import encode
from service.storage import tables
from service.storage.database import Database
from service.storage.store import SqlStore
from tests.support.refusals import refused
from tests.support.storage import GROUP, NOW, PRODUCT, a_credential, a_device, a_thing, new_database


@pytest.fixture
async def place(tmp_path):
    """An environment of an installation whose service is stopped."""
    made = Place("prod", tmp_path / "ca" / "prod", tmp_path / "keys.json", tmp_path / "firstlight.db")
    KeyFile.create(made.key_file)
    await (await new_database(made.database, seeded=False)).close()
    database = await opened(made)
    async with database.write() as transaction:
        row = {"product_id": PRODUCT.product_id, "name": PRODUCT.name, "hardware": PRODUCT.hardware}
        await transaction.connection.execute(insert(tables.product), [row])
    await groups.create(database, GROUP, random_bytes=os.urandom)
    await database.close()
    Authority.create(made.directory, "prod", NOW)
    return made


async def opened(place):
    return await Database.open(place.database, KeyFile.load(place.key_file).sealer(), check=False)


def trusted(place):
    return certificates_of((place.directory / "ca.pem").read_text())


LONG_AGO, LATER = (NOW.replace(year=year) for year in (2000, 2999))


async def add(
    place, serial, *, doc=None, heard=True, environment="prod", state=DeviceState.CONFIRMED, created_at=NOW, **fields
):
    """A device; `doc`: the newest document of its credential."""
    device = a_device(serial, state=state, environment=environment, **fields)
    if state is DeviceState.CONFIRMED:
        thing = a_thing(device, thing_id=f"{serial:f>32}", name=serial, environment=environment)
        row = a_credential(
            device, f"{serial:c>32}", state=CredentialState.CONFIRMED, confirmed_at=NOW, desired_doc=doc,
            desired_rev=1, heard_rev=int(heard), environment=environment, created_at=created_at,
        )  # fmt: skip
        device = replace(device, thing=thing, credentials=(row,))
    database = await opened(place)
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, device),)))
    await database.close()


def document(place, encoding="msgpack"):
    return encode.pack({"rev": 1, "trust": {"cas": list(trusted(place))}}, encoding)


async def test_the_next_authority_is_trusted_first_signs_then_and_is_alone_in_the_end(place):
    (old,) = trusted(place)
    told = await ca_exchange.announce(place)
    new = trusted(place)[1]
    assert trusted(place) == (old, new)
    assert (Authority.load(place.directory).ca_pem, told.waiting) == (old, 0)
    names = {x509.load_pem_x509_certificate(one.encode()).subject for one in (old, new)}
    assert len(names) == 2
    issuer = load_issuer(place.directory)
    assert [one.certificate for one in issuer.beside] == list(issuer.trusted)
    assert await refused(ca_exchange.announce(place)) == ("CONFLICT", "ca_announced")
    assert await refused(ca_exchange.forget(place)) == ("CONFLICT", "ca_not_exchanged")
    used = await ca_exchange.use_next(place)
    assert (used.current, used.next, used.previous) == (told.next, None, told.current)
    assert (Authority.load(place.directory).ca_pem, trusted(place)) == (new, (new, old))
    assert len(load_issuer(place.directory).beside) == 1  # whose list goes on being signed
    assert await refused(ca_exchange.announce(place)) == ("CONFLICT", "ca_previous_kept")
    assert await refused(ca_exchange.use_next(place)) == ("CONFLICT", "ca_not_announced")
    await ca_exchange.forget(place)
    assert (trusted(place), load_issuer(place.directory).beside) == ((new,), ())
    await ca_exchange.announce(place)  # and so on
    modes = {path.name: path.stat().st_mode & 0o777 for path in place.directory.rglob("ca.key")}
    assert modes == {"ca.key": 0o600}


async def test_devices_that_have_not_heard_keep_the_old_authority_in_use(place):
    await add(place, "0", doc=document(place))
    await ca_exchange.announce(place)
    await add(place, "1", doc=document(place))
    await add(place, "2", doc=document(place, "json"))
    await add(place, "3", doc=document(place), heard=False)
    await add(place, "5", state=DeviceState.RETIRED)
    await add(place, "6", environment="elsewhere")
    assert (await ca_exchange.status(place)).waiting == 2
    before = trusted(place)
    assert await refused(ca_exchange.use_next(place, at_most=1)) == ("CONFLICT", "ca_untold")
    assert (trusted(place), Authority.load(place.directory).ca_pem) == (before, before[0])
    await ca_exchange.use_next(place, at_most=2)
    assert Authority.load(place.directory).ca_pem == before[1]


async def test_devices_that_cannot_be_told_are_said_apart_and_hold_nothing_up(place):
    await ca_exchange.announce(place)
    await add(place, "1", doc=document(place))
    await add(place, "2", state=DeviceState.REGISTERED, registered_at=LONG_AGO)  # knows what the factory gave it
    await add(place, "3", state=DeviceState.ACTIVATED, registered_at=LONG_AGO)
    await add(place, "4", state=DeviceState.REGISTERED, registered_at=LATER)  # its file names both
    await add(place, "5", state=DeviceState.BLOCKED, registered_at=LONG_AGO)
    await add(place, "6", state=DeviceState.RETIRED, registered_at=LONG_AGO)
    await add(place, "7", state=DeviceState.REGISTERED, registered_at=LONG_AGO, environment="elsewhere")

    def apart(told):
        return told.waiting, told.not_activated, told.blocked

    assert apart(await ca_exchange.status(place)) == (0, 2, 1)
    assert apart(await ca_exchange.use_next(place)) == (0, 2, 1)
    assert apart(await ca_exchange.forget(place)) == (0, 0, 0)


async def test_the_previous_authority_stays_for_as_long_as_a_device_has_a_credential_from_before(place):
    await ca_exchange.announce(place)
    await add(place, "1", doc=document(place), created_at=NOW - timedelta(days=3650))
    await ca_exchange.use_next(place)
    at = (place.directory / "ca.key").stat().st_mtime
    assert await refused(ca_exchange.forget(place)) == ("CONFLICT", "ca_previous_needed")
    database = await opened(place)
    async with database.write() as transaction:
        await transaction.connection.execute(update(tables.credential).values(created_at=int(at * 1000) + 1))
    await database.close()
    assert (await ca_exchange.forget(place)).previous is None


@pytest.mark.parametrize("step", [ca_exchange.announce, ca_exchange.use_next])
async def test_a_step_that_was_cut_off_anywhere_is_done_by_the_same_command(place, step, monkeypatch):
    if step is ca_exchange.use_next:
        await ca_exchange.announce(place)
    whole = {path: path.read_bytes() for path in place.directory.rglob("*") if path.is_file()}
    calls, replaced, renamed, removed = 0, Path.replace, Path.rename, shutil.rmtree

    def cut(real, at):
        def one(*given):
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError("cut off")
            return real(*given)

        return one

    for at in range(1, 20):
        shutil.rmtree(place.directory)
        for path, data in whole.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o600)
        calls = 0
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", cut(replaced, at))
            patched.setattr(Path, "rename", cut(renamed, at))
            patched.setattr(ca_exchange.shutil, "rmtree", cut(removed, at))
            try:
                await step(place)
                break
            except OSError:
                pass
        await step(place)
        assert len(trusted(place)) == 2
        assert (place.next.exists(), place.previous.exists()) == (
            (True, False) if step is ca_exchange.announce else (False, True)
        )
        assert Authority.load(place.directory).ca_pem == trusted(place)[0]
    assert at > 2


def test_devices_are_told_of_an_exchanged_authority_also_when_it_is_the_only_one(tmp_path):
    Authority.create(tmp_path, "prod", NOW)
    pem = (tmp_path / "ca.pem").read_text()
    device = a_device("sn-1")
    row = a_credential(device)
    device = replace(device, thing=a_thing(device), credentials=(row,))

    def told(**fields):
        environments = {"prod": Environment("prod", {}, pem, **fields)}
        catalogue = Catalogue(1, groups={GROUP.group_id: GROUP}, environments=environments)
        return content(device, row, catalogue, NOW).get("trust")

    assert told() is None
    assert told(ca_exchanged=True) == {"cas": [pem]}
