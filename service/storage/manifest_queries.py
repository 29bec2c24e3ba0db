"""Manifests and their items: into their tables and out of them. Owns the statements; decides nothing.

The bytes of a secret item are sealed at rest and opened here; those of an image stay in its file.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.manifest import Item, ItemKind, Manifest, Need
from service.domain.warehouse import DeviceType
from service.errors import Secret
from service.storage.rows import from_ms, to_ms
from service.storage.sealing import Sealer, manifest_secret_aad
from service.storage.tables import registration_group, release_key
from service.storage.warehouse_tables import device_type, manifest, manifest_item, manifest_secret


@dataclass(frozen=True, slots=True)
class Listed:
    """A manifest without its items."""

    manifest_id: str
    product_id: str
    name: str
    static: bool
    items: int
    size: int  # bytes of all items together
    created_at: datetime | None


async def ids_by_name(connection: AsyncConnection, names: Collection[str]) -> dict[tuple[str, str], str]:
    """(product, name) -> id of the manifests that are called so."""
    query = select(manifest.c.product_id, manifest.c.name, manifest.c.manifest_id).where(manifest.c.name.in_(names))
    return {(row[0], row[1]): row[2] for row in await connection.execute(query)}


async def listed(connection: AsyncConnection, product_id: str | None = None) -> list[Listed]:
    """The newest first."""
    of = manifest.c
    query = (
        select(manifest, func.count(), func.sum(manifest_item.c.size))
        .join(manifest_item, manifest_item.c.manifest_id == of.manifest_id)
        .group_by(of.manifest_id)
        .order_by(of.created_at.desc(), of.manifest_id)
    )
    if product_id is not None:
        query = query.where(of.product_id == product_id)
    return [
        Listed(row.manifest_id, row.product_id, row.name, bool(row.static), row[-2], row[-1], from_ms(row.created_at))
        for row in await connection.execute(query)
    ]


async def manifests(connection: AsyncConnection, sealer: Sealer, ids: Collection[str]) -> dict[str, Manifest]:
    """Whole manifests by id, the secrets opened."""
    if not ids:
        return {}
    query = select(manifest).where(manifest.c.manifest_id.in_(ids))
    heads = (await connection.execute(query)).all()
    of = manifest_item.c
    rows = select(manifest_item, manifest_secret.c.content_sealed).outerjoin(
        manifest_secret, manifest_secret.c.secret_id == of.secret_id
    )
    items: dict[str, list[Item]] = {}
    for row in await connection.execute(rows.where(of.manifest_id.in_(ids)).order_by(of.manifest_id, of.position)):
        items.setdefault(row.manifest_id, []).append(_item(row, sealer))
    return {
        one.manifest_id: Manifest(one.manifest_id, one.product_id, one.name, tuple(items.get(one.manifest_id, ())))
        for one in heads
    }


async def ids_for(connection: AsyncConnection, types: Collection[DeviceType]) -> dict[str, str]:
    """Which manifest `stage` gives for each of these device types, by its name: its own, else the product's static one."""
    found = {one.name: one.manifest_id for one in types if one.manifest_id is not None}
    wanted = [one for one in types if one.manifest_id is None]
    if wanted:
        query = (
            select(registration_group.c.group_id, manifest.c.manifest_id)
            .join(manifest, manifest.c.product_id == registration_group.c.product_id)
            .where(registration_group.c.group_id.in_({one.group_id for one in wanted}), manifest.c.static)
        )
        static = {row[0]: row[1] for row in await connection.execute(query)}
        found |= {one.name: static[one.group_id] for one in wanted if one.group_id in static}
    return found


async def with_retired_keys(connection: AsyncConnection, ids: Collection[str]) -> frozenset[str]:
    """Those of these manifests of which an item is signed by a release key that was retired."""
    query = select(manifest_item.c.manifest_id).join(release_key, release_key.c.key_id == manifest_item.c.key_id)
    found = await connection.execute(
        query.where(manifest_item.c.manifest_id.in_(ids), release_key.c.retired_at.is_not(None))
    )
    return frozenset(found.scalars())


async def given_and_signed_by(connection: AsyncConnection, key_id: str) -> list[tuple[str, str]]:
    """(manifest, whose it is) of every manifest that `stage` gives now and of which this key has signed an item."""
    of = manifest.c
    signed = of.manifest_id.in_(select(manifest_item.c.manifest_id).where(manifest_item.c.key_id == key_id))
    label = literal("manifest ") + of.name
    static = select(label, literal("product ") + of.product_id).where(signed, of.static)
    own = (
        select(label, literal("device type ") + device_type.c.name)
        .join(device_type, device_type.c.manifest_id == of.manifest_id)
        .where(signed)
    )
    return [(row[0], row[1]) for query in (static, own) for row in await connection.execute(query)]


async def add(connection: AsyncConnection, sealer: Sealer, made: Manifest, now: datetime) -> None:
    """A new manifest with all its items. Its images are stored already."""
    head = {
        "manifest_id": made.manifest_id,
        "product_id": made.product_id,
        "name": made.name,
        "static": False,
        "created_at": to_ms(now),
    }
    await connection.execute(insert(manifest), [head])
    secrets = [
        {
            "secret_id": _secret_id(made, one),
            "content_sealed": sealer.seal(one.secret.reveal(), manifest_secret_aad(_secret_id(made, one))),
        }
        for one in made.items
        if one.secret is not None
    ]
    if secrets:
        await connection.execute(insert(manifest_secret), secrets)
    rows = [_row(made, one, position) for position, one in enumerate(made.items)]
    await connection.execute(insert(manifest_item), rows)


async def make_static(connection: AsyncConnection, product_id: str, manifest_id: str) -> None:
    """From now on it is the product's static manifest, and no other."""
    of_product = update(manifest).where(manifest.c.product_id == product_id)
    await connection.execute(of_product.where(manifest.c.static).values(static=False))
    await connection.execute(of_product.where(manifest.c.manifest_id == manifest_id).values(static=True))


def _secret_id(of: Manifest, item: Item) -> str:
    return f"{of.manifest_id}/{item.name}"


def _row(of: Manifest, item: Item, position: int) -> dict[str, Any]:
    return {
        "manifest_id": of.manifest_id,
        "name": item.name,
        "position": position,
        "version": item.version,
        "kind": item.kind.value,
        "size": item.size,
        "sha256": item.sha256,
        "signature": item.signature,
        "key_id": item.key_id,
        "needs": json.dumps([[need.name, need.at_least] for need in item.needs]),
        "image_id": item.image_id,
        "content": item.content,
        "secret_id": None if item.secret is None else _secret_id(of, item),
    }


def _item(row: Any, sealer: Sealer) -> Item:
    secret = None
    if row.secret_id is not None:
        secret = Secret(sealer.open(row.content_sealed, manifest_secret_aad(row.secret_id)))
    return Item(
        name=row.name,
        kind=ItemKind(row.kind),
        version=row.version,
        size=row.size,
        sha256=row.sha256,
        signature=row.signature,
        key_id=row.key_id,
        needs=tuple(Need(*one) for one in json.loads(row.needs)),
        image_id=row.image_id,
        content=row.content,
        secret=secret,
    )
