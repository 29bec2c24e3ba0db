"""Exchange of a group's secret: a new one takes over, the ones before are good for less and less, and can be retired.

Owns the rows; what each secret still proves is domain/group_secrets.py's to say. No secret is shown but one that was made
here, once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.device import DeviceState
from service.domain.group import Group, OldSecret
from service.domain.group_secrets import MAX_SECRETS, WITH_SECRET, SecretState, all_of, state_of
from service.errors import Secret
from service.operations.groups import NEW_SECRET_BYTES
from service.operations.requests import bad_request, conflict, not_found, raise_catalogue_rev
from service.storage import catalogue_rows, queries
from service.storage.database import Database
from service.storage.rows import to_ms
from service.storage.sealing import group_secret_aad
from service.storage.tables import device, group_secret, registration_group

MAX_GRACE_S = 3 * 365 * 24 * 3600
_OUT_OF_USE = (DeviceState.REPLACED.value, DeviceState.RETIRED.value)


@dataclass(frozen=True, slots=True)
class SecretView:
    """One secret of a group, without the secret. `devices`: whose key is made from it, and who have no other."""

    generation: int
    state: SecretState
    devices: int
    superseded_at: datetime | None = None
    grace_until: datetime | None = None
    retired_at: datetime | None = None


async def rotate(
    database: Database,
    group_id: str,
    *,
    now: datetime,
    random_bytes: Callable[[int], bytes],
    secret: Secret | None = None,
    grace_s: int = 0,
) -> tuple[list[SecretView], Secret | None]:
    """Give a group a new secret; returns its secrets and, where none was given, the new one, which is seen this once.

    1. For `grace_s` the secret before is as good as the new one. 2. Then it proves only devices that are registered by
    that time. 3. Connected devices are asked to take a key of their own. Raises ServiceError NOT_FOUND, BAD_REQUEST,
    CONFLICT (one of its secrets already; or too many are in use).
    """
    if not 0 <= grace_s <= MAX_GRACE_S:
        raise bad_request("secret_grace_illegal", f"the grace is 0 to {MAX_GRACE_S} seconds")
    made = None if secret is not None else Secret(random_bytes(NEW_SECRET_BYTES))
    new = secret or made
    assert new is not None
    async with database.write() as transaction:
        connection = transaction.connection
        group = await _group(connection, database, group_id)
        assert group.secret is not None
        if any(new == known for _, known in all_of(group)):
            raise conflict("group_secret_used", f"{group_id} has or had this very secret")
        await _make_room(connection, group)
        before = OldSecret(group.secret_generation, group.secret, now, now + timedelta(seconds=grace_s))
        await connection.execute(
            insert(group_secret), [catalogue_rows.old_secret_row(group_id, before, database.sealer)]
        )
        sealed = database.sealer.seal(new.reveal(), group_secret_aad(group_id))
        statement = update(registration_group).where(registration_group.c.group_id == group_id)
        await connection.execute(statement.values(secret_sealed=sealed, secret_generation=group.secret_generation + 1))
        await raise_catalogue_rev(connection)
        views = await _views(connection, await _group(connection, database, group_id), now)
    return views, made


async def retire(
    database: Database, group_id: str, generation: int, *, now: datetime, at_most: int = 0
) -> list[SecretView]:
    """Let a secret prove nobody any more who comes in by bootstrap, for good; one that is retired stays as it is.

    Raises ServiceError NOT_FOUND; CONFLICT for the newest one, and while more than `at_most` devices have no other key.
    """
    async with database.write() as transaction:
        connection = transaction.connection
        group = await _group(connection, database, group_id)
        found = next((one for one in await _views(connection, group, now) if one.generation == generation), None)
        if found is None:
            raise not_found("group_secret_unknown", f"{group_id} has no secret of generation {generation}")
        if found.state is SecretState.NEWEST:
            raise conflict("group_secret_newest", "this is the newest secret: rotate it first")
        if found.state is SecretState.RETIRED:
            transaction.abandon()
        else:
            if found.devices > at_most:
                raise conflict(
                    "group_secret_in_use",
                    f"{found.devices} devices have their key from it and could not come back by themselves",
                    devices=found.devices,
                )
            of = group_secret.c
            statement = update(group_secret).where(of.group_id == group_id, of.generation == generation)
            await connection.execute(statement.values(retired_at=to_ms(now)))
            await raise_catalogue_rev(connection)
        return await _views(connection, await _group(connection, database, group_id), now)


async def list_all(database: Database, group_id: str, *, now: datetime) -> list[SecretView]:
    """The secrets of a group, the newest first; empty for a key kind without. Raises ServiceError NOT_FOUND."""
    async with database.read() as connection:
        return await _views(connection, await _group(connection, database, group_id, any_kind=True), now)


async def _group(connection: AsyncConnection, database: Database, group_id: str, *, any_kind: bool = False) -> Group:
    query = select(registration_group).where(registration_group.c.group_id == group_id)
    row = (await connection.execute(query)).first()
    if row is None:
        raise not_found("group_unknown", f"no group {group_id}")
    older = await queries.old_secrets(connection, database.sealer, group_id)
    group = catalogue_rows.group_of(tuple(row), database.sealer, older.get(group_id, ()))
    if group.key_kind not in WITH_SECRET and not any_kind:
        raise bad_request("group_secret_needless", "only the key kinds derived and group have a group secret")
    return group


async def _views(connection: AsyncConnection, group: Group, now: datetime) -> list[SecretView]:
    if not all_of(group):
        return []
    of = device.c
    query = (
        select(of.secret_generation, func.count())
        .where(of.group_id == group.group_id, of.key_sealed.is_(None), of.state.not_in(_OUT_OF_USE))
        .group_by(of.secret_generation)
    )
    devices: dict[int | None, int] = {row[0]: row[1] for row in await connection.execute(query)}
    newest = SecretView(group.secret_generation, SecretState.NEWEST, devices.get(group.secret_generation, 0))
    return [newest] + [
        SecretView(
            one.generation,
            state_of(one, now),
            devices.get(one.generation, 0),
            one.superseded_at,
            one.grace_until,
            one.retired_at,
        )
        for one in reversed(group.old_secrets)
    ]


async def _make_room(connection: AsyncConnection, group: Group) -> None:
    """Forget retired secrets that no device's key is made from, where there is no room for another. Raises CONFLICT."""
    surplus = len(group.old_secrets) + 2 - MAX_SECRETS
    used = select(device.c.secret_generation).where(device.c.group_id == group.group_id, device.c.key_sealed.is_(None))
    for one in group.old_secrets:
        if surplus <= 0:
            return
        if one.retired_at is None:
            continue
        still = (await connection.execute(used.where(device.c.secret_generation == one.generation).limit(1))).first()
        if still is None:
            of = group_secret.c
            await connection.execute(
                delete(group_secret).where(of.group_id == group.group_id, of.generation == one.generation)
            )
            surplus -= 1
    if surplus > 0:
        raise conflict(
            "group_secrets_full", f"{group.group_id} has {MAX_SECRETS} secrets: retire the oldest, and its devices"
        )
