"""The statements of the hot way: what one batch reads.

Owns the one joined query for devices with their things and credentials, and the snapshot of the catalogue. Keys come
in as one JSON parameter (json_each), so that a statement is the same for 1 and for 256 of them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Select, String, and_, bindparam, column, func, or_, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.catalogue import Catalogue, Environment, MoreEndpoint, Ou
from service.domain.credential import Credential
from service.domain.device import Device
from service.domain.group import OldSecret
from service.domain.product import Endorsement
from service.storage import catalogue_rows, rows
from service.storage.certificate_tables import revoked_certificate
from service.storage.sealing import Sealer
from service.storage.tables import (
    bootstrap_endpoint,
    credential,
    device,
    device_public_key,
    endorsement,
    group_secret,
    meta,
    ou,
    product,
    registration_group,
    release_key,
    thing,
    version,
)

_DEVICE_COLUMNS = len(device.columns)
_THING_COLUMNS = len(thing.columns)
_VERSION_COLUMNS = tuple(one for one in version.columns if one.name != "added_at")


def _wanted() -> Any:
    """Ids of the devices that the asked serials and credentials belong to, each once."""
    serials = func.json_each(bindparam("serials", type_=String)).table_valued(column("value", String), name="asked")
    ids = func.json_each(bindparam("credential_ids", type_=String)).table_valued(column("value", String), name="logins")
    known = func.json_each(bindparam("device_ids", type_=String)).table_valued(column("value", String), name="known")
    by_serial = select(device.c.device_id).select_from(
        serials.join(
            device,
            and_(
                device.c.group_id == func.json_extract(serials.c.value, "$[0]"),
                device.c.serial == func.json_extract(serials.c.value, "$[1]"),
            ),
        )
    )
    by_credential = select(credential.c.device_id).select_from(
        ids.join(credential, credential.c.credential_id == ids.c.value)
    )
    return by_serial.union(by_credential, select(known.c.value)).cte("wanted")


_KEYS_OF_DEVICE = (
    select(
        func.json_group_array(
            func.json_array(
                device_public_key.c.key_index, device_public_key.c.algorithm, func.hex(device_public_key.c.spki)
            ),
            type_=String,
        )
    )
    .where(device_public_key.c.device_id == device.c.device_id)
    .correlate(device)
    .scalar_subquery()
)


def _devices() -> Select[Any]:
    wanted = _wanted()
    # The thing that a device holds, or is named to take over.
    of_device = or_(thing.c.holder_device_id == device.c.device_id, thing.c.successor_device_id == device.c.device_id)
    return select(_KEYS_OF_DEVICE, *device.columns, *thing.columns, *credential.columns).select_from(
        wanted.join(device, device.c.device_id == wanted.c.device_id)
        .outerjoin(thing, of_device)
        .outerjoin(credential, credential.c.device_id == device.c.device_id)
    )


_DEVICES = _devices()
_SPKI = union(
    *(
        select(of.c.spki_sha256).where(of.c.spki_sha256.in_(bindparam("spki", expanding=True)))
        for of in (credential, revoked_certificate)
    )
)
_NUMBERS = select(product.c.product_id, product.c.next_number)
SELF_REGISTERED = "self_registered:"  # and the group id: a name in `meta`
_SELF_REGISTERED = select(meta.c.name, meta.c.value).where(
    meta.c.name >= SELF_REGISTERED, meta.c.name < SELF_REGISTERED[:-1] + ";"
)
_REV = select(meta.c.value).where(meta.c.name == "catalogue_rev")


async def devices(
    connection: AsyncConnection,
    sealer: Sealer,
    *,
    serials: Collection[tuple[str, str]] = (),
    credential_ids: Collection[str] = (),
    device_ids: Collection[str] = (),
) -> list[Device]:
    """The devices behind these (group_id, serial), credential and device ids, each once, with all that belongs to them."""
    found = await connection.execute(
        _DEVICES,
        {
            "serials": json.dumps(list(serials)),
            "credential_ids": json.dumps(list(credential_ids)),
            "device_ids": json.dumps(list(device_ids)),
        },
    )
    first: dict[str, tuple[Any, ...]] = {}
    credentials: dict[str, list[Credential]] = {}
    split = 1 + _DEVICE_COLUMNS + _THING_COLUMNS
    for row in found.all():
        values = tuple(row)
        device_id = values[1]
        if device_id not in first:
            first[device_id] = values
            credentials[device_id] = []
        if values[split] is not None:
            credentials[device_id].append(rows.credential_of(values[split:]))
    return [_device(values, credentials[device_id], sealer) for device_id, values in first.items()]


def partners_missing(found: Collection[Device]) -> set[str]:
    """Ids of the other devices of a thing that changes hands, where they are not among those found."""
    known = {one.device_id for one in found}
    return {
        device_id
        for one in found
        if one.thing is not None
        for device_id in (one.thing.holder_device_id, one.thing.successor_device_id)
        if device_id is not None and device_id not in known
    }


def _device(values: tuple[Any, ...], credentials: list[Credential], sealer: Sealer) -> Device:
    of_thing = values[1 + _DEVICE_COLUMNS : 1 + _DEVICE_COLUMNS + _THING_COLUMNS]
    if len(credentials) > 1:
        credentials.sort(key=_created_at)
    return rows.device_of(
        values[1 : 1 + _DEVICE_COLUMNS],
        values[0],
        None if of_thing[0] is None else rows.thing_of(of_thing),
        tuple(credentials),
        sealer,
    )


def _created_at(one: Credential) -> Any:
    return one.created_at


async def spki_in_use(connection: AsyncConnection, asked: Collection[bytes]) -> frozenset[bytes]:
    """Of these keys, those that a kept credential has, or a revoked certificate that has not run out."""
    found = await connection.execute(_SPKI, {"spki": list(asked)})
    return frozenset(found.scalars())


async def next_numbers(connection: AsyncConnection) -> dict[str, int]:
    return {row.product_id: row.next_number for row in await connection.execute(_NUMBERS)}


async def self_registered(connection: AsyncConnection) -> dict[str, int]:
    """How many devices of each group have registered themselves so far."""
    found = await connection.execute(_SELF_REGISTERED)
    return {row.name.removeprefix(SELF_REGISTERED): row.value for row in found}


async def catalogue_rev(connection: AsyncConnection) -> int:
    return int((await connection.execute(_REV)).scalar_one())


async def ous(connection: AsyncConnection) -> dict[str, Ou]:
    return {row.path: Ou(*row) for row in await connection.execute(select(ou))}


async def old_secrets(
    connection: AsyncConnection, sealer: Sealer, group_id: str | None = None
) -> dict[str, tuple[OldSecret, ...]]:
    """The secrets of each group, or of one, before its present one."""
    found: dict[str, list[OldSecret]] = {}
    query = select(group_secret).order_by(group_secret.c.group_id, group_secret.c.generation)
    if group_id is not None:
        query = query.where(group_secret.c.group_id == group_id)
    for row in await connection.execute(query):
        found.setdefault(row.group_id, []).append(catalogue_rows.old_secret_of(tuple(row), sealer))
    return {group_id: tuple(of_group) for group_id, of_group in found.items()}


async def more_bootstrap(connection: AsyncConnection) -> dict[str, tuple[MoreEndpoint, ...]]:
    """By environment the endpoints that devices are told; empty for one that had some."""
    found: dict[str, tuple[MoreEndpoint, ...]] = {}
    of = bootstrap_endpoint.c
    for row in await connection.execute(select(bootstrap_endpoint).order_by(of.environment, of.host, of.port)):
        known = found.setdefault(row.environment, ())
        if row.removed_at is None:
            found[row.environment] = (*known, MoreEndpoint(row.host, row.port, row.tls, row.ca_pem))
    return found


async def catalogue(connection: AsyncConnection, sealer: Sealer, environments: Mapping[str, Environment]) -> Catalogue:
    """The whole catalogue, in one transaction's view."""
    rev = await catalogue_rev(connection)
    older = await old_secrets(connection, sealer)
    groups = [
        catalogue_rows.group_of(tuple(row), sealer, older.get(row.group_id, ()))
        for row in await connection.execute(select(registration_group))
    ]
    found = await connection.execute(select(*_VERSION_COLUMNS))
    versions = {one.version_id: one for one in (catalogue_rows.version_of(tuple(row)) for row in found)}
    products = {}
    for *of_product, target in await connection.execute(
        select(product.c.product_id, product.c.name, product.c.hardware, product.c.target_version_id)
    ):
        products[of_product[0]] = catalogue_rows.product_of(of_product, versions.get(target))
    of = release_key.c
    keys = (await connection.execute(select(of.key_id, of.public_key, of.name, of.retired_at))).all()
    vouched = select(of.public_key, endorsement.c.by_key_id, endorsement.c.signature).join(
        endorsement, endorsement.c.key_id == of.key_id
    )
    endorsements = await connection.execute(vouched.order_by(endorsement.c.key_id, endorsement.c.by_key_id))
    return Catalogue(
        rev=rev,
        groups={group.group_id: group for group in groups},
        products=products,
        release_keys={
            row.key_id: catalogue_rows.release_key_of(tuple(row)[:3]) for row in keys if row.retired_at is None
        },
        endorsements=tuple(Endorsement(*row) for row in endorsements),
        more_bootstrap=await more_bootstrap(connection),
        retired_keys=frozenset(row.key_id for row in keys if row.retired_at is not None),
        environments=environments,
        versions=versions,
        ous=await ous(connection),
    )
