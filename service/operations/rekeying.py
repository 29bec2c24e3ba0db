"""Rotation of the key that seals secrets at rest, and with it of the key that server nonces are made with.

Owns the order of steps: new keys into the key file (server nonces of the key before stay good until the next
rotation), every sealed value sealed again page by page, old keys out of the file when no value uses them. A crash at
any point leaves every value readable; running it again goes on.

While a service runs there are two more. It says in `meta` which keys it uses, and nothing is sealed again before it has
said the new ones. And the old key stays in the file for another KEPT_S, because some other process may still seal
with it; running the rotation again takes it out.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Column, String, and_, bindparam, cast, delete, func, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from service.credentials.changing_keys import changing
from service.credentials.keyfile import KeyFile
from service.errors import ServiceError
from service.operations import audits
from service.operations.backups import take_over
from service.operations.requests import conflict
from service.operations.sealed import SEALED
from service.storage.database import Database
from service.storage.sealing import KID_BYTES, Sealer
from service.storage.tables import meta

PAGE = 1000
LARGE_PAGE = 10  # of tables whose values may have a megabyte and more
_LARGE = frozenset({"manifest_secret", "enrolment_batch"})
KEPT_S = 600.0  # how long after a rotation beside a running service the old key stays: longer than any command runs
TAKEN_OVER_S = 20.0  # for the service, which looks every second
PAUSE_S = 0.01  # between two pages, so that others get the write lock
_LOOK_S = 0.2
_SEALS_WITH = "seals_with:"  # and the environments that a service serves: a name in `meta`; its value is the key's id
_USES = "uses_keys:"  # and the same; its value is KeyFile.mark()


def _all_of(prefix: str) -> Any:
    return and_(meta.c.name >= prefix, meta.c.name < prefix[:-1] + ";")


@dataclass(frozen=True, slots=True)
class Rotated:
    kid: str  # the key that everything is sealed with now
    resealed: int
    retired: list[str]  # ids of the keys that were taken out of the file
    kept: list[str]  # ids of those that stay in it: a service runs; run it again later


async def rotate(
    key_file: Path, database_path: Path, *, kept_s: float = KEPT_S, taken_over_s: float = TAKEN_OVER_S
) -> Rotated:
    """Rotate the sealing key, beside a running service or without one.

    Raises KeyFileError, SealError, ServiceError CONFLICT (the database is in use by something that has not taken the new
    keys over), UNAVAILABLE.
    """
    with changing(key_file):
        stopped = await asyncio.to_thread(is_stopped, database_path)
        keys = await asyncio.to_thread(KeyFile.load, key_file)
        if len(keys.seal_keys) == 1:  # else a rotation was cut short, or has kept its old key: go on with the new one
            keys = keys.rotate()
            await asyncio.to_thread(keys.write, key_file)
        # Before anything is sealed again, which might take longer.
        age_s = time.time() - (await asyncio.to_thread(key_file.stat)).st_mtime
        resealed, clean = await _reseal_all(database_path, keys, None if stopped else taken_over_s)
        old = sorted(set(keys.seal_keys) - {keys.seal_current})
        # A service that was started meanwhile may have begun with the old key.
        stopped = stopped and await asyncio.to_thread(is_stopped, database_path)
        if not clean or not (stopped or age_s >= kept_s):
            return Rotated(keys.seal_current, resealed, [], old)
        await asyncio.to_thread(keys.retire_seal_keys().write, key_file)
        return Rotated(keys.seal_current, resealed, old, [])


async def _reseal_all(database_path: Path, keys: KeyFile, wait_s: float | None) -> tuple[int, bool]:
    """(how many were sealed again, whether all now are); before, services have `wait_s` for the keys. None: none runs."""
    database = await Database.open(database_path, keys.sealer(), check=False)
    try:
        await settled(database, keys, wait_s)
        resealed = await reseal(database, keys.seal_current)
        left = await kids_in_use(database)
        await audits.note(database, {"keys": keys.seal_current}, after={"resealed": resealed})
    finally:
        await database.close()
    return resealed, left <= {keys.seal_current}


async def say_keys(database: Database, who: str, keys: KeyFile) -> None:
    """A service says which keys it uses from now on. `who`: the same name at its next start."""
    rows = [
        {"name": _SEALS_WITH + who, "value": int(keys.seal_current, 16)},
        {"name": _USES + who, "value": keys.mark()},
    ]
    said = insert(meta)
    said = said.on_conflict_do_update(index_elements=[meta.c.name], set_={"value": said.excluded.value})
    async with database.write(audit=False) as transaction:
        await transaction.connection.execute(said, rows)


def is_stopped(database_path: Path) -> bool:
    """Whether nobody has the database open. Raises ServiceError UNAVAILABLE."""
    try:
        take_over(database_path)
    except ServiceError as error:
        if error.cause != "database_live":
            raise
        return False
    return True


async def settled(database: Database, keys: KeyFile, wait_s: float | None) -> None:
    """Every service that runs uses these keys; they have `wait_s` for it. None: none runs, and what they have said of
    themselves is forgotten, so that one that is set up no more is not waited for the next time.

    Raises ServiceError CONFLICT.
    """
    if wait_s is not None:
        await _taken_over(database, keys, wait_s)
        return
    async with database.write(audit=False) as transaction:
        await transaction.connection.execute(delete(meta).where(or_(_all_of(_SEALS_WITH), _all_of(_USES))))


async def _taken_over(database: Database, keys: KeyFile, within_s: float) -> None:
    """Wait until every service that has said anything uses these keys. Raises ServiceError CONFLICT."""
    sealing = select(meta.c.name).where(_all_of(_SEALS_WITH))
    using = select(meta.c.name).where(_all_of(_USES), meta.c.value == keys.mark())
    end = time.monotonic() + within_s
    while True:
        async with database.read() as connection:
            all_of_them = {one.removeprefix(_SEALS_WITH) for one in (await connection.execute(sealing)).scalars()}
            have_it = {one.removeprefix(_USES) for one in (await connection.execute(using)).scalars()}
        if all_of_them and all_of_them <= have_it:
            return
        if time.monotonic() >= end:
            raise conflict(
                "keys_not_taken_over",
                "the keys are changed, and a service that runs has not taken them over: its log says why; start it"
                " again, and a rotation goes on when it is run again",
            )
        await asyncio.sleep(_LOOK_S)


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
            await asyncio.sleep(PAUSE_S)
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
