"""What tests of commands ask for: requests, the devices that they select, and the rows that they leave."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from service.domain.catalogue import Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialState
from service.domain.device import DeviceState
from service.operations.accounts import Operator
from service.operations.commands import Request
from service.operations.verbs.verb import Role
from service.storage.store import SqlStore
from tests.support.storage import GROUP, NOW, a_credential, a_device, a_thing

ENVIRONMENTS = {"prod": Environment("prod", {}), "test": Environment("test", {})}
ALICE = Operator("alice", Role.OPERATOR, "acme/eu")


class Clock:
    def __init__(self):
        self.now = NOW + timedelta(hours=1)

    def __call__(self):
        return self.now


async def seed(database, *serials, ou="acme/eu", **fields):
    """Confirmed devices, each with a thing in `ou`."""
    made = []
    for number, serial in enumerate(serials):
        device = a_device(serial, state=DeviceState.CONFIRMED, **fields)
        thing = a_thing(
            device,
            ou=ou,
            name=f"Thermometer of {serial}",
            thing_id=f"{serial}{number}".encode().hex().rjust(32, "0")[-32:],
        )
        row = a_credential(
            device, serial.encode().hex().rjust(32, "0"), state=CredentialState.CONFIRMED, confirmed_at=NOW
        )
        made.append(replace(device, thing=thing, credentials=(row,)))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple((None, one) for one in made)))
    return made


async def rows_of(database, table):
    async with database.read() as connection:
        return [row._mapping for row in await connection.execute(table.select())]


def ask(id_="1", **fields):
    return Request.model_validate({"id": id_, **fields})


def named(*serials):
    return {"devices": [f"{GROUP.group_id}/{serial}" for serial in serials]}


class Row:
    def __init__(self, mapping):
        self.__dict__.update(mapping)
