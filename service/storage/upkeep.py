"""What the clock asks of the database: deadlines, revocations, rebuilding a broker's list, pruning.

Owns the ticker's queries, each bounded by a page, and the small writes that need no rules. What needs rules (dropping
an expired credential) goes through the store like any message.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, case, delete, exists, func, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.credential import Credential, CredentialKind
from service.domain.device import Device
from service.domain.event import TOUCHING
from service.domain.updates import PATIENCE
from service.storage import history, queries, revocations, rows
from service.storage.database import Database
from service.storage.operator_tables import event
from service.storage.store import add_counters
from service.storage.tables import credential, device, meta, registration_group, thing, trace

PAGE = 1000
# Literals, so that the statement's own text implies the condition of a partial index.
_IS_DROPPED = credential.c.state == literal_column("'dropped'")
_IS_PENDING = credential.c.state == literal_column("'pending'")
_IS_CONFIRMED = credential.c.state == literal_column("'confirmed'")
_PRUNED_TO, _REFRESHED, _TENDED = "traces_pruned_to", "refreshed_rev", "events_tended_to"  # names in `meta`
TRACES_KEPT = 200  # for each device, the newest


class Upkeep:
    """The ticker's view of one database. Every method may raise ServiceError UNAVAILABLE.

    What is pushed to a device is asked for by environment, by the process that serves it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def data_version(self) -> int:
        """Changes whenever another process has written; costs no query."""
        return await self._database.data_version()

    async def catalogue_rev(self) -> int:
        async with self._database.read() as connection:
            return await queries.catalogue_rev(connection)

    async def refreshed_rev(self, environment: str) -> int:
        """The catalogue's revision that every device's document there has been compared with; 0: none yet."""
        return await self._progress(_REFRESHED, environment)

    async def set_refreshed_rev(self, environment: str, rev: int) -> None:
        await self._set_progress(_REFRESHED, environment, rev)

    async def unrevoked(self, *, after: str = "", limit: int = PAGE) -> list[Credential]:
        """Dropped credentials of which a broker has not confirmed yet that they are dead, by credential id."""
        query = (
            select(credential)
            .where(_IS_DROPPED, credential.c.revoked_at.is_(None))
            .where(credential.c.credential_id > after)
            .order_by(credential.c.credential_id)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [rows.credential_of(tuple(row)) for row in await connection.execute(query)]

    async def mark_revoked(self, credential_ids: Collection[str], at: datetime) -> None:
        """Record that the brokers refuse these; each must be dropped, and keeps its first time."""
        if not credential_ids:
            return
        statement = (
            update(credential)
            .where(credential.c.credential_id == bindparam("of"))
            .where(_IS_DROPPED, credential.c.revoked_at.is_(None))
            .values(revoked_at=rows.to_ms(at))
        )
        async with self._database.write() as transaction:
            await transaction.connection.execute(statement, [{"of": one} for one in credential_ids])

    async def pending_expired(self, now: datetime, *, limit: int = PAGE) -> list[str]:
        """Ids of pending credentials whose time is over, the longest over first."""
        query = (
            select(credential.c.credential_id)
            .where(_IS_PENDING, credential.c.expires_at <= rows.to_ms(now))
            .order_by(credential.c.expires_at)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def outlived(self, now: datetime, *, limit: int = PAGE) -> list[str]:
        """Ids of confirmed API keys at the end of the life that their group gives, the oldest first.

        One walk over the confirmed credentials where any group gives one; not for every second.
        """
        of, life_s = credential.c, registration_group.c.credential_life_s
        query = (
            select(of.credential_id)
            .select_from(
                credential.join(device, device.c.device_id == of.device_id).join(
                    registration_group, registration_group.c.group_id == device.c.group_id
                )
            )
            .where(_IS_CONFIRMED, of.kind == CredentialKind.API_KEY.value, life_s.is_not(None))
            .where(of.created_at + life_s * 1000 <= rows.to_ms(now))
            .order_by(of.created_at)
            .limit(limit)
        )
        async with self._database.read() as connection:
            some = select(registration_group.c.group_id).where(life_s.is_not(None)).limit(1)
            if (await connection.execute(some)).first() is None:
                return []
            return list((await connection.execute(query)).scalars())

    async def due(self, now: datetime, *, limit: int = PAGE) -> list[str]:
        """Ids of devices of which some deadline is over, each once."""
        over = rows.to_ms(now)
        moves = select(thing.c.holder_device_id).where(thing.c.move_deadline_at <= over)
        successors = select(thing.c.holder_device_id).where(thing.c.successor_deadline_at <= over)
        retired = select(device.c.device_id).where(device.c.retire_deadline_at <= over)
        transfers = select(device.c.device_id).where(device.c.rekey_deadline_at <= over)
        async with self._database.read() as connection:
            every = moves.union(successors, retired, transfers)
            found = list((await connection.execute(every.limit(limit))).scalars())
            found += (await connection.execute(_silent(now).limit(limit))).scalars()
        return list(dict.fromkeys(found))[:limit]

    async def renewable(self, environment: str, after: datetime, until: datetime) -> list[str]:
        """Ids of its devices whose confirmed credential came to two thirds of its life in (`after`, `until`].

        One walk over the confirmed credentials; not for every second.
        """
        of = credential.c
        life = case(
            (of.certificate_expires_at.is_not(None), of.certificate_expires_at - of.created_at),
            (of.kind == CredentialKind.API_KEY.value, registration_group.c.credential_life_s * 1000),
        )
        due_at = of.created_at + life * 2 / 3
        query = (
            select(of.device_id)
            .select_from(
                credential.join(device, device.c.device_id == of.device_id).join(
                    registration_group, registration_group.c.group_id == device.c.group_id
                )
            )
            .where(_IS_CONFIRMED, of.environment == environment)
            .where(due_at > rows.to_ms(after), due_at <= rows.to_ms(until))
        )
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def tended_to(self, environment: str) -> int:
        """The number of the last event whose device, if it is there, was looked at for a changed document."""
        return await self._progress(_TENDED, environment)

    async def touched(self, environment: str, after: int, *, limit: int = PAGE) -> list[tuple[int, str]]:
        """(number, device id) of events after that one which change what a device is to do, by number.

        Without devices whose confirmed credential is of another environment.
        """
        speaks_elsewhere = _IS_CONFIRMED & (credential.c.environment != environment)
        query = (
            select(event.c.seq, device.c.device_id)
            .join(device, (device.c.group_id == event.c.group_id) & (device.c.serial == event.c.serial))
            .where(event.c.seq > after, event.c.kind.in_(sorted(TOUCHING)))
            .where(~exists().where(credential.c.device_id == device.c.device_id, speaks_elsewhere).correlate(device))
            .order_by(event.c.seq)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [(row[0], row[1]) for row in await connection.execute(query)]

    async def set_tended_to(self, environment: str, number: int) -> None:
        await self._set_progress(_TENDED, environment, number)

    async def delete_dropped(self, dropped_before: datetime, *, limit: int = PAGE) -> int:
        """Delete rows that were dropped before then and revoked; returns how many, at most `limit`."""
        old = (
            select(credential.c.credential_id)
            .where(_IS_DROPPED, credential.c.revoked_at.is_not(None))
            .where(credential.c.dropped_at < rows.to_ms(dropped_before))
            .limit(limit)
        )
        async with self._database.write() as transaction:
            done = await transaction.connection.execute(delete(credential).where(credential.c.credential_id.in_(old)))
            if not done.rowcount:
                transaction.abandon()
            return done.rowcount

    async def prune_revoked(self, now: datetime, *, limit: int = PAGE) -> int:
        """Delete what is kept of revoked certificates that have run out; returns how many, at most `limit`."""
        return await revocations.prune(self._database, now, limit=limit)

    async def confirmed(self, environment: str, *, after: str = "", limit: int = PAGE) -> list[str]:
        """Ids of its confirmed credentials, by credential id after `after`."""
        query = (
            select(credential.c.credential_id)
            .where(_IS_CONFIRMED, credential.c.environment == environment, credential.c.credential_id > after)
            .order_by(credential.c.credential_id)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def live(
        self, *, environment: str | None = None, after: str = "", limit: int = PAGE
    ) -> list[tuple[Device, Credential]]:
        """Every credential that a broker must let in (pending or confirmed) with its device, by credential id.

        For rebuilding a broker's list: the next page begins after the last id of this one; an empty page is the end.
        """
        query = (
            select(credential.c.credential_id)
            .where(credential.c.state != "dropped", credential.c.credential_id > after)
            .order_by(credential.c.credential_id)
            .limit(limit)
        )
        if environment is not None:
            query = query.where(credential.c.environment == environment)
        async with self._database.read() as connection:
            ids = list((await connection.execute(query)).scalars())
            found = await queries.devices(connection, self._database.sealer, credential_ids=ids)
        of = {kept.credential_id: (one, kept) for one in found for kept in one.credentials}
        return [of[one] for one in ids]

    async def credential_ids(self, *, after: str = "", limit: int = PAGE) -> list[tuple[str, str]]:
        """(credential id, state) of every kept row, by id: for audits."""
        query = (
            select(credential.c.credential_id, credential.c.state)
            .where(credential.c.credential_id > after)
            .order_by(credential.c.credential_id)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [(row[0], row[1]) for row in await connection.execute(query)]

    async def add_counters(self, increments: Mapping[str, int]) -> None:
        """Add to counters that no batch carries (refusals of the unproven)."""
        if any(increments.values()):
            async with self._database.write() as transaction:
                await add_counters(transaction.connection, increments)

    async def prune_traces(self, *, keep: int = TRACES_KEPT, limit: int = 2000) -> int:
        """Delete what is older than the newest `keep` steps of each device that got new ones; returns how many.

        Looks at `limit` new steps a call and remembers in the database how far it has come.
        """
        async with self._database.write() as transaction:
            connection = transaction.connection
            done_to = await _fact(connection, _PRUNED_TO)
            new = select(trace.c.step_id, trace.c.group_id, trace.c.serial).where(trace.c.step_id > done_to)
            found = (await connection.execute(new.order_by(trace.c.step_id).limit(limit))).all()
            if not found:
                transaction.abandon()
                return 0
            devices = {(group_id, serial) for _, group_id, serial in found}
            pruned = await connection.execute(
                _PRUNE, [{"of_group": group_id, "of_serial": serial, "keep": keep} for group_id, serial in devices]
            )
            await _set_fact(connection, _PRUNED_TO, found[-1][0])
            return pruned.rowcount

    async def prune_history(
        self, *, events_before: datetime, commands_before: datetime, audit_before: datetime, limit: int = 2000
    ) -> int:
        """Delete events, finished commands and audit rows older than that; at most `limit` rows of each table."""
        return await history.prune(
            self._database,
            events_before=events_before,
            commands_before=commands_before,
            audit_before=audit_before,
            limit=limit,
        )

    async def _progress(self, name: str, environment: str) -> int:
        async with self._database.read() as connection:
            return await _fact(connection, f"{name} {environment}")

    async def _set_progress(self, name: str, environment: str, value: int) -> None:
        async with self._database.write() as transaction:
            await _set_fact(transaction.connection, f"{name} {environment}", value)


def _silent(now: datetime) -> Select[Any]:
    """Ids of devices that have been silent in a firmware state for longer than it may last."""
    waits = [
        (device.c.fw_state == state.value)
        & (func.max(device.c.fw_since, func.coalesce(device.c.fw_deferred_until, 0)) <= rows.to_ms(now - patience))
        for state, patience in PATIENCE.items()
    ]
    return select(device.c.device_id).where(
        # As the partial index says it.
        device.c.fw_state.is_not(None),
        device.c.fw_state != literal_column("'confirmed'"),
        device.c.fw_since <= rows.to_ms(now - min(PATIENCE.values())),
        or_(*waits),
    )


async def _fact(connection: AsyncConnection, name: str) -> int:
    """A number that the database remembers; 0 where it has none yet."""
    return (await connection.execute(select(meta.c.value).where(meta.c.name == name))).scalar() or 0


async def _set_fact(connection: AsyncConnection, name: str, value: int) -> None:
    await connection.execute(delete(meta).where(meta.c.name == name))
    await connection.execute(meta.insert().values(name=name, value=value))


_OF_DEVICE = (trace.c.serial == bindparam("of_serial"), trace.c.group_id == bindparam("of_group"))
_OLDEST_KEPT = (
    select(trace.c.step_id)
    .where(*_OF_DEVICE)
    .order_by(trace.c.step_id.desc())
    .limit(1)
    .offset(bindparam("keep"))
    .scalar_subquery()
)
# No such step: the comparison is with NULL, and nothing is deleted.
_PRUNE = delete(trace).where(*_OF_DEVICE, trace.c.step_id <= _OLDEST_KEPT)
