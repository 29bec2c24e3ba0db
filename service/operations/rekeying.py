"""Rotation of the key that seals secrets at rest, and with it of the key that server nonces are made with.

Owns the order of steps: new keys into the key file (server nonces of the key before stay good until the next
rotation), every sealed value sealed again page by page, old keys out of the file when no value uses them. A crash at
any point leaves every value readable; running it again goes on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Column, String, bindparam, cast, func, select, update

from service.credentials.keyfile import KeyFile
from service.operations import audits
from service.operations.backups import take_over
from service.operations.sealed import SEALED
from service.storage.database import Database
from service.storage.sealing import KID_BYTES, Sealer

PAGE = 1000
LARGE_PAGE = 10  # of tables whose values may have a megabyte and more
_LARGE = frozenset({"manifest_secret", "enrolment_batch"})


@dataclass(frozen=True, slots=True)
class Rotated:
    kid: str  # the key that everything is sealed with now
    resealed: int
    retired: list[str]  # ids of the keys that were taken out of the file


async def rotate(key_file: Path, database_path: Path) -> Rotated:
    """Rotate the sealing key; the service must be stopped, because it would go on sealing with the old one.

    Raises KeyFileError, SealError, ServiceError CONFLICT (the database is in use), UNAVAILABLE.
    """
    await asyncio.to_thread(take_over, database_path)
    keys = await asyncio.to_thread(KeyFile.load, key_file)
    if len(keys.seal_keys) == 1:  # else a rotation was cut short: go on with its key
        keys = keys.rotate()
        await asyncio.to_thread(keys.write, key_file)
    database = await Database.open(database_path, keys.sealer(), check=False)
    try:
        resealed = await reseal(database, keys.seal_current)
        left = await kids_in_use(database)
        await audits.note(database, {"keys": keys.seal_current}, after={"resealed": resealed})
    finally:
        await database.close()
    retired: list[str] = []
    if left <= {keys.seal_current}:
        retired = sorted(set(keys.seal_keys) - {keys.seal_current})
        await asyncio.to_thread(keys.retire_seal_keys().write, key_file)
    return Rotated(keys.seal_current, resealed, retired)


async def reseal(database: Database, kid: str, *, page: int = PAGE) -> int:
    """Seal every value again that is not sealed under `kid`, a page a transaction; returns how many."""
    done = 0
    for table, key, column, aad in SEALED:
        after = ""
        while True:
            async with database.write(audit=False) as transaction:  # `rotate` says it once
                connection = transaction.connection
                query = (
                    select(key, column)
                    .where(column.is_not(None), _kid_of(column) != kid, key > after)
                    .order_by(key)
                    .limit(min(page, LARGE_PAGE) if table.name in _LARGE else page)
                )
                found = (await connection.execute(query)).all()
                if not found:
                    transaction.abandon()
                    break
                statement = update(table).where(key == bindparam("of")).values({column.name: bindparam("sealed")})
                await connection.execute(
                    statement, [_sealed_again(database.sealer, row[0], row[1], aad(row[0])) for row in found]
                )
            after = found[-1][0]
            done += len(found)
    return done


async def kids_in_use(database: Database) -> set[str]:
    """Ids of the keys that some value is sealed under."""
    used: set[str] = set()
    async with database.read() as connection:
        for _, _, column, _ in SEALED:
            query = select(_kid_of(column)).where(column.is_not(None)).distinct()
            used.update((await connection.execute(query)).scalars())
    return used


def _kid_of(column: Column[Any]) -> Any:
    return cast(func.substr(column, 1, KID_BYTES), String)


def _sealed_again(sealer: Sealer, of: str, sealed: bytes, aad: bytes) -> dict[str, object]:
    return {"of": of, "sealed": sealer.seal(sealer.open(sealed, aad), aad)}
