"""Things for those who speak HTTP: whose API key it is, which owner asks, and a thing made before its device activates.

Owns the look-ups behind the authorisation of service/http/things.py and one change, `create`. Activations are not here:
they go through the pipeline. Keys are compared as SHA-256, in constant time, against a dummy where there is none.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import codes, ids
from service.domain import activation, event
from service.domain.catalogue import Catalogue, Environment
from service.domain.changes import Changes, Trace
from service.domain.credential import CredentialState
from service.domain.device import Device
from service.domain.group import Group
from service.domain.identity import RANDOM_BYTES, uuid7
from service.domain.thing import Thing
from service.errors import Secret, ServiceError
from service.operations import looks, registration
from service.operations.accounts import AccountKind, Operator
from service.operations.looks import Look, Looks
from service.operations.picture import difference
from service.operations.placing import placed
from service.operations.registration import Registration
from service.operations.requests import bad_request, conflict, not_found
from service.operations.selectors import is_within, ou_of
from service.operations.verbs.verb import Role
from service.storage.database import Database
from service.storage.operator_tables import account
from service.storage.store import SqlStore
from service.storage.tables import credential, thing
from service.storage.tables import device as device_table

RandomBytes = Callable[[int], bytes]
VERB = "create-thing"  # what the audit calls it
_NOBODY = bytes(hashlib.sha256().digest_size)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose API key it is."""

    thing_id: str
    credential_id: str
    is_pending: bool


@dataclass(frozen=True, slots=True)
class Created:
    thing: Thing
    is_new: bool
    device_key: Secret | None = None  # of a device that was registered here with a key made for it; seen this once


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an owner asks for, and with what it is made."""

    serial: str
    group_id: str | None
    key: str | None
    now: datetime
    random_bytes: RandomBytes
    trace_id: str

    def look(self, operator: Operator, group_id: str | None, *, outcome: str, cause: str | None = None) -> Look:
        """The audit row; of a serial or a group that is none, without it."""
        legal = group_id is not None and ids.is_group_id(group_id) and ids.is_serial(self.serial)
        device = (str(group_id), self.serial) if legal else None
        selector = {"devices": ["/".join(device)]} if device is not None else {}
        return Look(operator.name, VERB, selector, {}, device, outcome, cause)


async def caller(database: Database, thing_id: str, api_key: bytes) -> Caller:
    """The live credential of this thing that has this API key. Raises ServiceError REFUSED, whatever is wrong."""
    asked = hashlib.sha256(api_key).digest()
    query = (
        select(credential.c.credential_id, credential.c.state, credential.c.api_key_sha256)
        .join(
            thing,
            or_(
                thing.c.holder_device_id == credential.c.device_id,
                thing.c.successor_device_id == credential.c.device_id,
            ),
        )
        .where(
            thing.c.thing_id == thing_id,
            credential.c.state != CredentialState.DROPPED.value,
            credential.c.api_key_sha256.is_not(None),
        )
    )
    async with database.read() as connection:
        rows = (await connection.execute(query)).all() if ids.is_hex_id(thing_id) else []
    found = None
    for row in rows:
        if hmac.compare_digest(row.api_key_sha256, asked):
            found = Caller(thing_id, row.credential_id, row.state == CredentialState.PENDING.value)
    if not rows:
        hmac.compare_digest(_NOBODY, asked)
    if found is None:
        raise ServiceError(codes.REFUSED, "refused", cause="thing_key_wrong")
    return found


async def owner(database: Database, name: str, key: bytes, noted: Looks) -> Operator:
    """The account of this name and key. Raises ServiceError REFUSED, or FORBIDDEN: it may only look."""
    async with database.read() as connection:
        row = (await connection.execute(select(account).where(account.c.name == name))).first()
    same = hmac.compare_digest(_NOBODY if row is None else row.key_sha256, hashlib.sha256(key).digest())
    if row is None or not same or row.disabled_at is not None or row.kind != AccountKind.OPERATOR.value:
        raise ServiceError(codes.REFUSED, "refused", cause="owner_key_wrong")
    if not Role(row.role).may(Role.OPERATOR):
        refused = ServiceError(codes.FORBIDDEN, "this account may only look", cause="owner_role")
        await noted.note(Look(name, VERB, {}, {}, outcome="refused", cause=refused.cause))
        raise refused
    return Operator(name, Role(row.role), row.ou)


async def create(
    database: Database,
    environments: Mapping[str, Environment],
    noted: Looks,
    operator: Operator,
    serial: str,
    *,
    group_id: str | None,
    key: str | None,
    now: datetime,
    random_bytes: RandomBytes,
    trace_id: str,
) -> Created:
    """The thing of a serial; made, and the serial registered, where missing, else unchanged. Audited, refused or not.

    `key`: base64, for a serial that is not registered in a group of kind individual; else one is made. Raises
    ServiceError: BAD_REQUEST, NOT_FOUND, CONFLICT (several devices have this serial), NOT_ALLOCATED, FORBIDDEN, and
    those of the device's state.
    """
    asked = _Asked(serial, group_id, key, now, random_bytes, trace_id)
    try:
        done = await _create(database, environments, operator, asked)
    except ServiceError as error:
        if error.code != codes.UNAVAILABLE:
            await noted.note(asked.look(operator, group_id, outcome="refused", cause=error.cause))
        raise
    if not done.is_new:
        await noted.note(asked.look(operator, done.thing.group_id, outcome="unchanged"))
    return done


async def _create(
    database: Database, environments: Mapping[str, Environment], operator: Operator, asked: _Asked
) -> Created:
    serial, now = asked.serial, asked.now
    async with database.write(audit=False) as transaction:
        batch = await SqlStore(database, environments).within(transaction)
        catalogue = batch.catalogue
        name = (await _group_of(batch.connection, serial, asked.group_id), serial)
        group = catalogue.groups.get(name[0])
        if group is None:
            raise not_found("group_unknown", "no such group")
        loaded = await batch.load(serials=[name])
        before = loaded.by_serial.get(name)
        # 1. What this account may touch: what it may not see is not there.
        _check_scope(operator, group, before)
        device, made = _registered(catalogue, name, before, asked)
        # 2. State of the device, and its place.
        activation.check_state(device)
        if device.thing is not None:
            return Created(device.thing, is_new=False)
        number = loaded.next_numbers.get(group.product_id, 1)
        new = _new_thing(catalogue, group, device, number, asked)
        after = replace(device, thing=new)
        news = (event.of(after, "registered", now),) if before is None else ()
        await batch.save(
            Changes(
                devices=((before, after),),
                numbers={group.product_id: number + 1},
                traces=(Trace(*name, now, asked.trace_id, "create", "thing_created", detail=f"by {operator.name}"),),
                events=placed(news, catalogue),
                counters={"thing_created": 1, **({"device_registered": 1} if before is None else {})},
            )
        )
        was, is_ = difference(before, after)
        look = asked.look(operator, name[0], outcome="changed")
        await looks.add(batch.connection, replace(look, before=was, after=is_), now)
    return Created(new, is_new=True, device_key=made)


def _check_scope(operator: Operator, group: Group, known: Device | None) -> None:
    """Raise ServiceError NOT_FOUND for a device outside of the account's OU, FORBIDDEN for one that would come there."""
    if known is not None and not is_within(ou_of(known, group), operator.scope):
        raise not_found("device_unknown", "no such device")
    if known is None and not is_within(group.default_ou, operator.scope):
        raise ServiceError(
            codes.FORBIDDEN, "the group's OU is outside of this account's", cause="out_of_scope", detail=operator.name
        )


def _new_thing(catalogue: Catalogue, group: Group, device: Device, number: int, asked: _Asked) -> Thing:
    thing_id = uuid7(asked.now, asked.random_bytes(RANDOM_BYTES))
    place = activation.place_of(device, group, catalogue)
    product = catalogue.products[group.product_id]
    return activation.new_thing(thing_id, device, product, number, place, asked.now, group.template_settings)


async def _group_of(connection: AsyncConnection, serial: str, group_id: str | None) -> str:
    if not ids.is_serial(serial):
        raise bad_request("serial_illegal", "a serial is 1 to 128 of A-Z a-z 0-9 . _ : -")
    if group_id is not None:
        return group_id
    query = select(device_table.c.group_id).where(device_table.c.serial == serial).limit(2)
    found = [str(row[0]) for row in await connection.execute(query)]
    if not found:
        raise not_found("device_unknown", "no such device; say group_id to register it")
    if len(found) > 1:
        raise conflict("serial_ambiguous", "several devices have this serial; say group_id")
    return found[0]


def _registered(
    catalogue: Catalogue,
    name: tuple[str, str],
    before: Device | None,
    of: _Asked,
) -> tuple[Device, Secret | None]:
    """The device, registered if need be, with the key that was made for it."""
    asked = Registration(
        *name,
        key=None if of.key is None else registration.parse_key(of.key),
        public_keys=before.public_keys if before else (),
        ou=before.ou if before else None,
        environment=before.environment if before else None,
    )
    known = {} if before is None else {name: before}
    (outcome,), new = registration.decide(catalogue, [asked], known, of.now, of.random_bytes)
    if outcome.result is registration.Result.ERROR:
        code = codes.CONFLICT if outcome.cause == "serial_conflict" else codes.BAD_REQUEST
        raise ServiceError(code, outcome.reason or "", cause=outcome.cause or "")
    return (before or new[0]), outcome.new_key
