"""Exchange of the service key, which devices of kind `public_key` know the service by, and of the key of labels.

Owns the order of steps. The service key goes in two: the new one is announced in `trust`, proven by the present one; when
the devices have heard, it takes its place. A crash leaves the key file as it was or as it is to be.

A service that runs takes the file over within a second (rotation.py), and only when every one has said so the documents
are compared, because it is the service that writes the keys into them. Where one does not say so the step ends there:
the file is changed, devices know both keys, and the service goes on with what it has until it is started again.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, exists, func, literal, or_, select

from service.credentials.changing_keys import changing
from service.credentials.keyfile import KeyFile, OldLabelKey
from service.domain.device import DeviceState
from service.domain.group import KeyKind
from service.operations import audits
from service.operations.rekeying import TAKEN_OVER_S, is_stopped, settled
from service.operations.requests import conflict, raise_catalogue_rev
from service.storage.database import Database
from service.storage.rows import from_ms
from service.storage.tables import credential, device, label, registration_group

_OUT_OF_USE = (DeviceState.REPLACED.value, DeviceState.RETIRED.value)


@dataclass(frozen=True, slots=True)
class ServiceKeys:
    """The public service keys. `untold`: devices of kind `public_key` in service that have not said to know the next one.

    Beside them those that cannot be told, because they have no credential: `blocked`, and `not_activated`. Which key they
    know is not known here: the one of their file.
    """

    current: bytes
    next: bytes | None
    untold: int
    blocked: int = 0
    not_activated: int = 0


@dataclass(frozen=True, slots=True)
class LabelKeys:
    previous: int  # older keys whose labels are still good
    until: datetime | None  # when the last label of them expires


async def announce(
    key_file: Path,
    database_path: Path,
    *,
    random_bytes: Callable[[int], bytes] = os.urandom,
    taken_over_s: float = TAKEN_OVER_S,
) -> ServiceKeys:
    """Make the next service key and have devices told; the present one goes on proving.

    Raises KeyFileError; ServiceError CONFLICT (one is announced already, a service has not taken the keys over),
    UNAVAILABLE.
    """
    with changing(key_file):
        keys = await asyncio.to_thread(KeyFile.load, key_file)
        if keys.service_next is not None:
            raise conflict("service_key_announced", "a next service key is announced already; use it, or wait")
        keys = keys.announce_service_key(random_bytes=random_bytes)
        await _change(keys, key_file, database_path, taken_over_s, {"service_key": "next"}, {"announced": _shown(keys)})
    return await status(keys, database_path)


async def use_next(
    key_file: Path, database_path: Path, *, at_most: int = 0, taken_over_s: float = TAKEN_OVER_S
) -> ServiceKeys:
    """Let the announced service key take the place of the present one, which is gone for good.

    Devices without a credential do not count: nothing can be told to them, however long one waits.

    Raises KeyFileError; ServiceError CONFLICT: none is announced, a service has not taken the keys over, or more than
    `at_most` devices in service could not know it any more. UNAVAILABLE.
    """
    with changing(key_file):
        keys = await asyncio.to_thread(KeyFile.load, key_file)
        if keys.service_next is None:
            raise conflict("service_key_not_announced", "no next service key is announced: rotate it first")
        before = await status(keys, database_path)
        if before.untold > at_most:
            raise conflict(
                "service_key_untold",
                f"{before.untold} devices of kind public_key have not said that they know the next service key",
                devices=before.untold,
            )
        keys = keys.use_next_service_key()
        await _change(keys, key_file, database_path, taken_over_s, {"service_key": "current"}, {"used": _shown(keys)})
    return replace(await status(keys, database_path), blocked=before.blocked, not_activated=before.not_activated)


async def rotate_labels(
    key_file: Path,
    database_path: Path,
    *,
    now: datetime | None = None,
    random_bytes: Callable[[int], bytes] = os.urandom,
    taken_over_s: float = TAKEN_OVER_S,
) -> LabelKeys:
    """Sign labels by a new key from now on; those that are printed are good until they expire.

    Raises KeyFileError; ServiceError CONFLICT (a service has not taken the keys over), UNAVAILABLE.
    """
    now = now or datetime.now(UTC)
    with changing(key_file):
        stopped = await asyncio.to_thread(is_stopped, database_path)
        before = await asyncio.to_thread(KeyFile.load, key_file)
        database = await Database.open(database_path, before.sealer(), check=False)
        try:
            until = await _last_label(database) or now
            keys = before.rotate_labels(until, now, random_bytes=random_bytes)
            await asyncio.to_thread(keys.write, key_file)
            await settled(database, keys, None if stopped else taken_over_s)
            keys = await _with_late_labels(database, keys, before, key_file, until)
            await audits.note(database, {"label_key": "current"}, after={"previous": len(keys.label_previous)})
        finally:
            await database.close()
    return LabelKeys(len(keys.label_previous), max((one.until for one in keys.label_previous), default=None))


async def _last_label(database: Database) -> datetime | None:
    """When the last label expires."""
    async with database.read() as connection:
        return from_ms((await connection.execute(select(func.max(label.c.expires_at)))).scalar())


async def _with_late_labels(
    database: Database, keys: KeyFile, before: KeyFile, key_file: Path, until: datetime
) -> KeyFile:
    """A label that was made under the key before, while it was exchanged, may expire later than all of before."""
    last = await _last_label(database)
    if last is None or last <= until:
        return keys
    late = OldLabelKey(before.label_key(), last)
    keys = replace(keys, label_previous=(late, *(one for one in keys.label_previous if one.key != late.key)))
    await asyncio.to_thread(keys.write, key_file)
    return keys


async def status(keys: KeyFile, database_path: Path) -> ServiceKeys:
    """The service keys and how many devices have still to hear of the next. Raises ServiceError UNAVAILABLE."""
    following = keys.told_service_keys()[1] if keys.service_next is not None else None
    counts = (0, 0, 0)
    if following is not None:
        database = await Database.open(database_path, keys.sealer(), check=False)
        try:
            async with database.read() as connection:
                found = (await connection.execute(_without(following))).one()
                counts = (int(found[0]), int(found[1]), int(found[2]))
        finally:
            await database.close()
    return ServiceKeys(keys.service_public_key(), following, *counts)


def _without(key: bytes) -> Any:
    """Devices in use whose newest document does not name this key, or was not heard; blocked; without a credential."""
    of, state = credential.c, device.c.state
    text = base64.urlsafe_b64encode(key).decode("ascii").rstrip("=")
    named: ColumnElement[bool] = or_(
        func.instr(of.desired_doc, literal(key)) > 0, func.instr(of.desired_doc, literal(text.encode("ascii"))) > 0
    )
    in_service = exists().where(of.device_id == device.c.device_id, of.state == "confirmed")
    is_blocked = state == DeviceState.BLOCKED.value
    told = in_service.where(of.heard_rev == of.desired_rev, named)
    counts = [func.count().filter(one) for one in (in_service & ~told, is_blocked, ~in_service & ~is_blocked)]
    return (
        select(*counts)
        .select_from(device.join(registration_group, registration_group.c.group_id == device.c.group_id))
        .where(registration_group.c.key_kind == KeyKind.PUBLIC_KEY.value, state.not_in(_OUT_OF_USE))
    )


async def _change(
    keys: KeyFile,
    key_file: Path,
    database_path: Path,
    taken_over_s: float,
    subject: dict[str, object],
    after: dict[str, object],
) -> None:
    """Write the file; when every service has it, a new revision of the catalogue has every document compared."""
    stopped = await asyncio.to_thread(is_stopped, database_path)
    await asyncio.to_thread(keys.write, key_file)
    database = await Database.open(database_path, keys.sealer(), check=False)
    try:
        await audits.note(database, subject, after=after)
        await settled(database, keys, None if stopped else taken_over_s)
        async with database.write() as transaction:
            await raise_catalogue_rev(transaction.connection)
    finally:
        await database.close()


def _shown(keys: KeyFile) -> list[str]:
    return [base64.b64encode(one).decode("ascii") for one in keys.told_service_keys()]
