"""Firmware versions of a product, and which of them is its target."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.group import Group
from service.domain.product import Version
from service.images.files import ImageFiles, pages_of
from service.operations.releases import Signature, verify
from service.operations.requests import bad_request, check_text, conflict, not_found, raise_catalogue_rev
from service.storage.catalogue_rows import release_key_of, version_of, version_row
from service.storage.database import Database
from service.storage.rows import from_ms, to_ms
from service.storage.tables import device, image, product, registration_group, release_key, version

_COLUMNS = tuple(one for one in version.columns if one.name != "added_at")


@dataclass(frozen=True, slots=True)
class VersionView:
    version: Version
    is_target: bool
    added_at: datetime | None


async def add(
    database: Database,
    images: ImageFiles,
    *,
    product_id: str,
    name: str,
    image_path: Path,
    signature: Signature,
    description: str = "",
    target: bool = False,
    now: datetime,
) -> VersionView:
    """Add a signed version and, with `target`, make it the product's target in the same commit.

    1. What is signed is this product, hardware and name, by a registered release key that was not retired. 2. The image's bytes are what
    was signed; they are stored and flushed before any row names them. 3. Name and seq are new. The same version again
    changes nothing. Raises ServiceError BAD_REQUEST, NOT_FOUND, CONFLICT, UNAVAILABLE.
    """
    check_text("a description", description, empty=True)
    async with database.read() as connection:
        await _check_signed(connection, product_id, name, signature)
    stored = await images.put(_source(image_path), expected=signature.image_id)
    if stored.size != signature.size:
        raise bad_request("image_size", f"the image has {stored.size} bytes, signed are {signature.size}")
    new = _signed_version(product_id, description, signature)
    async with database.write() as transaction:
        connection = transaction.connection
        await _check_signed(connection, product_id, name, signature)
        known = await _same_name_or_seq(connection, new)
        if known is None:
            await add_image(connection, new.image_id, new.size, now)
            await connection.execute(insert(version), [version_row(new, now)])
        if target:
            await _point(connection, product_id, new)
        await raise_catalogue_rev(connection)
    (added,) = [one for one in await list_all(database, product_id) if one.version.version_id == new.version_id]
    return added


def _signed_version(product_id: str, description: str, signature: Signature) -> Version:
    return Version(
        version_id=signature.version_id,
        product_id=product_id,
        name=signature.name,
        description=description,
        product=signature.product,
        hardware=signature.hardware,
        seq=signature.seq,
        image_id=signature.image_id,
        size=signature.size,
        signature=signature.signature,
        key_id=signature.key_id,
    )


async def list_all(database: Database, product_id: str) -> list[VersionView]:
    """A product's versions by seq, the newest first. Raises ServiceError NOT_FOUND."""
    async with database.read() as connection:
        target = await _target_of(connection, product_id)
        query = select(*_COLUMNS, version.c.added_at).where(version.c.product_id == product_id)
        found = (await connection.execute(query.order_by(version.c.seq.desc()))).all()
    return [VersionView(version_of(row[:-1]), row[0] == target, from_ms(row[-1])) for row in map(tuple, found)]


async def set_target(database: Database, product_id: str, name: str | None) -> Version | None:
    """Make a version the target of its product; None for no target. Devices hear of it within a second.

    Raises ServiceError NOT_FOUND; CONFLICT for a version of a retired release key, and for one below what a device has
    confirmed: it would refuse it.
    """
    async with database.write() as transaction:
        connection = transaction.connection
        await _target_of(connection, product_id)
        found = None
        if name is not None:
            query = select(*_COLUMNS).where(version.c.product_id == product_id, version.c.name == name)
            row = (await connection.execute(query)).first()
            if row is None:
                raise not_found("version_unknown", f"{product_id} has no version {name}")
            found = version_of(tuple(row))
        await _point(connection, product_id, found)
        await raise_catalogue_rev(connection)
    return found


def _source(path: Path) -> Iterator[bytes]:
    """The image's pages; what cannot be read is the operator's mistake, not the store's."""
    try:
        yield from pages_of(path)
    except OSError as error:
        raise bad_request("image_unreadable", f"cannot read {path}: {error.strerror}") from error


async def _check_signed(connection: AsyncConnection, product_id: str, name: str, signature: Signature) -> None:
    query = select(product.c.name, product.c.hardware).where(product.c.product_id == product_id)
    row = (await connection.execute(query)).first()
    if row is None:
        raise not_found("product_unknown", f"no product {product_id}")
    if (signature.product, signature.hardware, signature.name) != (row[0], row[1], name):
        raise bad_request(
            "signature_other",
            f"signed is {signature.product} {signature.name} for {signature.hardware}, not {row[0]} {name} for {row[1]}",
        )
    of = release_key.c
    query = select(of.key_id, of.public_key, of.name, of.retired_at).where(of.key_id == signature.key_id)
    key = (await connection.execute(query)).first()
    if key is None:
        raise bad_request("release_key_unknown", f"no release key {signature.key_id[:32]} is registered")
    check_trusted(signature.name, signature.key_id, {key.key_id} if key.retired_at is not None else ())
    verify(signature, release_key_of(tuple(key)[:3]))


async def _same_name_or_seq(connection: AsyncConnection, new: Version) -> Version | None:
    """The version if it is known already. Raises ServiceError CONFLICT where its name or seq stands for another."""
    of = version.c
    query = select(*_COLUMNS).where(of.product_id == new.product_id, (of.name == new.name) | (of.seq == new.seq))
    for known in [version_of(tuple(row)) for row in await connection.execute(query)]:
        if known.version_id == new.version_id:
            return known
        what = f"name {new.name}" if known.name == new.name else f"seq {new.seq}"
        raise conflict("version_exists", f"another version of {new.product_id} has the {what}")
    return None


async def add_image(connection: AsyncConnection, image_id: str, size: int, now: datetime) -> None:
    """The row of a stored image, if there is none yet. Raises ServiceError CONFLICT: another begins like it."""
    alike = select(image.c.image_id).where(image.c.image_id.between(image_id[:16], image_id[:16] + "g"))
    found = set((await connection.execute(alike)).scalars())
    if found - {image_id}:
        raise conflict("image_prefix_taken", "another image begins with the same 8 bytes; change the image by a byte")
    if not found:
        row = {"image_id": image_id, "size": size, "added_at": to_ms(now)}
        await connection.execute(insert(image), [row])


async def _target_of(connection: AsyncConnection, product_id: str) -> str | None:
    row = (
        await connection.execute(select(product.c.target_version_id).where(product.c.product_id == product_id))
    ).first()
    if row is None:
        raise not_found("product_unknown", f"no product {product_id}")
    return None if row[0] is None else str(row[0])


async def _point(connection: AsyncConnection, product_id: str, target: Version | None) -> None:
    if target is not None:
        check_trusted(target.name, target.key_id, await retired_keys(connection))
        of_product = registration_group.c.product_id == product_id
        highest = select(func.max(device.c.fw_confirmed_seq)).join(registration_group).where(of_product)
        check_not_below(target, (await connection.execute(highest)).scalar() or 0)
    version_id = None if target is None else target.version_id
    statement = update(product).where(product.c.product_id == product_id).values(target_version_id=version_id)
    await connection.execute(statement)


async def legal_target(connection: AsyncConnection, group: Group, text: str) -> str:
    """The id of the version of the group's product that has this name or id, if its devices would take it.

    Raises ServiceError NOT_FOUND, CONFLICT.
    """
    of = version.c
    query = select(*_COLUMNS).where(of.product_id == group.product_id, (of.name == text) | (of.version_id == text))
    row = (await connection.execute(query)).first()
    if row is None:
        raise not_found("version_unknown", f"product {group.product_id} has no version {text[:64]!r}")
    found = version_of(tuple(row))
    check_trusted(found.name, found.key_id, await retired_keys(connection))
    highest = select(func.max(device.c.fw_confirmed_seq)).where(device.c.group_id == group.group_id)
    check_not_below(found, (await connection.execute(highest)).scalar() or 0)
    return found.version_id


async def retired_keys(connection: AsyncConnection) -> frozenset[str]:
    """The ids of the release keys that are trusted no more."""
    found = await connection.execute(select(release_key.c.key_id).where(release_key.c.retired_at.is_not(None)))
    return frozenset(found.scalars())


def check_trusted(name: str, key_id: str, retired: Collection[str]) -> None:
    """Raise ServiceError CONFLICT for the version of that name if the release key that signed it was retired."""
    if key_id in retired:
        raise conflict(
            "release_key_retired",
            f"{name} is signed by release key {key_id[:32]}, which was retired; sign it by another",
        )


def check_not_below(target: Version, confirmed_seq: int) -> None:
    """Raise ServiceError CONFLICT for a version that a device with this confirmed seq refuses."""
    if target.seq < confirmed_seq:
        raise conflict(
            "target_seq_lower",
            f"{target.name} has seq {target.seq}, and seq {confirmed_seq} was confirmed: devices refuse to go back. "
            "Sign the same image again with a higher seq",
        )
