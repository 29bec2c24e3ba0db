"""Exchange of the service key, which devices of kind `public_key` know the service by, and of the key of labels.

Owns the order of steps. The service key goes in two: the new one is announced in `trust`, proven by the present one; when
the devices have heard, it takes its place. Both rotations need the service stopped, because it holds the keys it started
with. A crash leaves the key file as it was or as it is to be.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, exists, func, literal, or_, select

from service.credentials.keyfile import KeyFile
from service.domain.device import DeviceState
from service.domain.group import KeyKind
from service.operations import audits
from service.operations.backups import take_over
from service.operations.requests import conflict, raise_catalogue_rev
from service.storage.database import Database
from service.storage.rows import from_ms
from service.storage.tables import credential, device, label, registration_group

_OUT_OF_USE = (DeviceState.REPLACED.value, DeviceState.RETIRED.value)


@dataclass(frozen=True, slots=True)
class ServiceKeys:
    """The public service keys. `untold`: devices of kind `public_key` that have not said to know the next one."""

    current: bytes
    next: bytes | None
    untold: int


@dataclass(frozen=True, slots=True)
class LabelKeys:
    previous: int  # older keys whose labels are still good
    until: datetime | None  # when the last label of them expires


async def announce(
    key_file: Path, database_path: Path, *, random_bytes: Callable[[int], bytes] = os.urandom
) -> ServiceKeys:
    """Make the next service key and have devices told; the present one goes on proving.

    Raises KeyFileError; ServiceError CONFLICT (one is announced already, the database is in use), UNAVAILABLE.
    """
    keys = await _stopped(key_file, database_path)
    if keys.service_next is not None:
        raise conflict("service_key_announced", "a next service key is announced already; use it, or wait")
    keys = keys.announce_service_key(random_bytes=random_bytes)
    await asyncio.to_thread(keys.write, key_file)
    return await _tell(keys, database_path, {"service_key": "next"}, {"announced": _shown(keys)})


async def use_next(key_file: Path, database_path: Path, *, at_most: int = 0) -> ServiceKeys:
    """Let the announced service key take the place of the present one, which is gone for good.

    Raises KeyFileError; ServiceError CONFLICT: none is announced, the database is in use, or more than `at_most` devices
    could not know the service any more. UNAVAILABLE.
    """
    keys = await _stopped(key_file, database_path)
    if keys.service_next is None:
        raise conflict("service_key_not_announced", "no next service key is announced: rotate it first")
    untold = (await status(keys, database_path)).untold
    if untold > at_most:
        raise conflict(
            "service_key_untold",
            f"{untold} devices of kind public_key have not said that they know the next service key",
            devices=untold,
        )
    keys = keys.use_next_service_key()
    await asyncio.to_thread(keys.write, key_file)
    return await _tell(keys, database_path, {"service_key": "current"}, {"used": _shown(keys)})


async def rotate_labels(
    key_file: Path,
    database_path: Path,
    *,
    now: datetime | None = None,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> LabelKeys:
    """Sign labels by a new key from now on; those that are printed are good until they expire.

    Raises KeyFileError; ServiceError CONFLICT (the database is in use), UNAVAILABLE.
    """
    now = now or datetime.now(UTC)
    keys = await _stopped(key_file, database_path)
    database = await Database.open(database_path, keys.sealer(), check=False)
    try:
        async with database.read() as connection:
            last = from_ms((await connection.execute(select(func.max(label.c.expires_at)))).scalar())
        keys = keys.rotate_labels(last or now, now, random_bytes=random_bytes)
        await asyncio.to_thread(keys.write, key_file)
        await audits.note(database, {"label_key": "current"}, after={"previous": len(keys.label_previous)})
    finally:
        await database.close()
    return LabelKeys(len(keys.label_previous), max((one.until for one in keys.label_previous), default=None))


async def status(keys: KeyFile, database_path: Path) -> ServiceKeys:
    """The service keys and how many devices have still to hear of the next. Raises ServiceError UNAVAILABLE."""
    following = keys.told_service_keys()[1] if keys.service_next is not None else None
    untold = 0
    if following is not None:
        database = await Database.open(database_path, keys.sealer(), check=False)
        try:
            async with database.read() as connection:
                untold = (await connection.execute(_untold(following))).scalar_one()
        finally:
            await database.close()
    return ServiceKeys(keys.service_public_key(), following, untold)


def _untold(key: bytes) -> Any:
    """Devices in use whose newest document names this key and was heard do not count; nor does anybody else's word."""
    of = credential.c
    text = base64.urlsafe_b64encode(key).decode("ascii").rstrip("=")
    named: ColumnElement[bool] = or_(
        func.instr(of.desired_doc, literal(key)) > 0, func.instr(of.desired_doc, literal(text.encode("ascii"))) > 0
    )
    told = exists().where(
        of.device_id == device.c.device_id, of.state == "confirmed", of.heard_rev == of.desired_rev, named
    )
    return (
        select(func.count())
        .select_from(device.join(registration_group, registration_group.c.group_id == device.c.group_id))
        .where(registration_group.c.key_kind == KeyKind.PUBLIC_KEY.value, device.c.state.not_in(_OUT_OF_USE), ~told)
    )


async def _stopped(key_file: Path, database_path: Path) -> KeyFile:
    await asyncio.to_thread(take_over, database_path)
    return await asyncio.to_thread(KeyFile.load, key_file)


async def _tell(
    keys: KeyFile, database_path: Path, subject: dict[str, object], after: dict[str, object]
) -> ServiceKeys:
    """A new revision of the catalogue has every document compared when the service starts."""
    database = await Database.open(database_path, keys.sealer(), check=False)
    try:
        async with database.write() as transaction:
            await raise_catalogue_rev(transaction.connection)
        await audits.note(database, subject, after=after)
    finally:
        await database.close()
    return await status(keys, database_path)


def _shown(keys: KeyFile) -> list[str]:
    return [base64.b64encode(one).decode("ascii") for one in keys.told_service_keys()]
