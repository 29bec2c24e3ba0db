"""Manifests: a build is taken into the installation, checked and never changed again; one of a product may be static.

Owns who may sign an item and where its bytes go: over 16 KiB an image of its own, else the row, and a secret sealed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain import manifest
from service.domain.manifest import Item, ItemKind, Manifest, ManifestError
from service.errors import Secret
from service.images.files import ImageFiles, pages_of
from service.operations import builds
from service.operations.builds import Part, Signatures
from service.operations.releases import verify_message
from service.operations.requests import bad_request, conflict, not_found
from service.operations.verbs.warehouse_rows import check_word
from service.operations.versions import add_image, check_trusted
from service.storage import manifest_queries
from service.storage.catalogue_rows import release_key_of
from service.storage.database import Database
from service.storage.manifest_queries import Listed
from service.storage.sealing import Sealer
from service.storage.tables import product, release_key


@dataclass(frozen=True, slots=True)
class ManifestView:
    head: Listed
    items: tuple[Item, ...]  # in the order of installation; secrets show as ***


async def build(
    database: Database,
    images: ImageFiles,
    *,
    product_id: str,
    name: str,
    parts: Sequence[Part],
    signatures: Signatures,
    static: bool = False,
    now: datetime,
) -> ManifestView:
    """Make a manifest of a build; with `static` it is the product's static one from the same commit on.

    1. Every part is signed, for this product, by a registered release key that was not retired. 2. Names, versions,
    sizes, needs and cycles are right, and the document fits a message. 3. The bytes are those that were signed; images
    are stored and flushed before any row names them. The same build again changes nothing. Raises ServiceError
    BAD_REQUEST, NOT_FOUND, CONFLICT, UNAVAILABLE.
    """
    check_word("a manifest", name)
    async with database.read() as connection:
        product_name = await _product_name(connection, product_id)
        await _check_signed(connection, product_name, parts, signatures)
    items = [await asyncio.to_thread(_item, one, signatures) for one in parts]
    try:
        made = manifest.build(product_id, product_name, name, items)
    except ManifestError as error:
        raise bad_request("manifest_illegal", str(error)) from error
    for one in parts:
        if one.is_image:
            await images.put(pages_of(one.path), expected=one.sha256)
    async with database.write() as transaction:
        connection = transaction.connection
        await _check_signed(connection, product_name, parts, signatures)
        if await _is_new(connection, made):
            await _add(connection, database.sealer, made, now)
        if static:
            await manifest_queries.make_static(connection, product_id, made.manifest_id)
    return await show(database, product_id, name)


async def _add(connection: AsyncConnection, sealer: Sealer, made: Manifest, now: datetime) -> None:
    for item in made.items:
        if item.image_id is not None:
            await add_image(connection, item.image_id, item.size, now)
    await manifest_queries.add(connection, sealer, made, now)


async def list_all(database: Database, product_id: str | None = None) -> list[Listed]:
    """The newest first."""
    async with database.read() as connection:
        return await manifest_queries.listed(connection, product_id)


async def show(database: Database, product_id: str, name: str) -> ManifestView:
    """By its name or its id. Raises ServiceError NOT_FOUND."""
    async with database.read() as connection:
        for one in await manifest_queries.listed(connection, product_id):
            if name in (one.name, one.manifest_id):
                found = await manifest_queries.manifests(connection, database.sealer, [one.manifest_id])
                return ManifestView(one, found[one.manifest_id].items)
    raise not_found("manifest_unknown", f"product {product_id} has no manifest {name[:64]!r}")


def _item(part: Part, signatures: Signatures) -> Item:
    signed = signatures[part.name]
    content = None if part.is_image else builds.content_of(part)
    is_secret = part.kind is ItemKind.SECRET
    return Item(
        name=part.name,
        kind=part.kind,
        version=part.version,
        size=part.size,
        sha256=part.sha256,
        signature=signed.signature,
        key_id=signed.key_id,
        needs=part.needs,
        image_id=part.sha256 if part.is_image else None,
        content=None if is_secret else content,
        secret=Secret(content) if is_secret and content is not None else None,
    )


async def _product_name(connection: AsyncConnection, product_id: str) -> str:
    row = (await connection.execute(select(product.c.name).where(product.c.product_id == product_id))).first()
    if row is None:
        raise not_found("product_unknown", f"no product {product_id[:64]!r}")
    return str(row[0])


async def _check_signed(
    connection: AsyncConnection, product_name: str, parts: Sequence[Part], signatures: Signatures
) -> None:
    of = release_key.c
    query = select(of.key_id, of.public_key, of.name, of.retired_at)
    known = {row.key_id: row for row in await connection.execute(query)}
    for one in parts:
        signed = signatures.get(one.name)
        if signed is None:
            raise bad_request("signature_missing", f"{one.name} is not signed")
        key = known.get(signed.key_id)
        if key is None:
            raise bad_request("release_key_unknown", f"no release key {signed.key_id[:32]} is registered")
        check_trusted(one.name, signed.key_id, {key.key_id} if key.retired_at is not None else ())
        verify_message(one.message(product_name), signed.signature, release_key_of(tuple(key)[:3]))


async def _is_new(connection: AsyncConnection, made: Manifest) -> bool:
    """Raises ServiceError CONFLICT where the name stands for another."""
    known = await manifest_queries.ids_by_name(connection, [made.name])
    found = known.get((made.product_id, made.name))
    if found is not None and found != made.manifest_id:
        raise conflict("manifest_exists", f"there is another manifest {made.name} of {made.product_id}")
    return found is None
