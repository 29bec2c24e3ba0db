"""The pipeline's store on the database: one load, one save, one commit.

Owns how aggregates become statements: it compares each device before and after, and writes the differences of all of
them with one statement for each table and set of columns. Implements pipeline/ports.py; decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache, lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import Insert, Table, Update, bindparam, insert, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.catalogue import Catalogue, Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialState
from service.domain.device import Device
from service.pipeline.ports import Loaded
from service.storage import history_rows, queries, revocations, rows
from service.storage.database import Database, Transaction
from service.storage.operator_tables import event
from service.storage.sealing import Sealer
from service.storage.tables import counter, credential, device, device_public_key, meta, product, thing, trace
from service.storage.units import Units
from service.storage.units import save as save_units

Environments = Mapping[str, Environment]
MANY = 512  # rows to insert at a time that are worth a statement of their own: more than any batch of messages has
TOGETHER = 1000  # rows of one such statement, at most
MOST_VALUES = 30_000  # of one statement; SQLite takes 32,766


class SqlStore:
    """Implements ports.Store. `environments` come from the settings and ride along in the catalogue."""

    def __init__(self, database: Database, environments: Environments) -> None:
        self._database = database
        self._environments = environments
        self._catalogue: Catalogue | None = None
        self._units = Units()

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[SqlBatch]:
        async with self._database.write() as transaction:
            batch = SqlBatch(transaction, await self._current(transaction.connection), self._database, self._units)
            yield batch
            if not batch.saved:
                transaction.abandon()

    async def within(self, transaction: Transaction) -> SqlBatch:
        """A batch in a transaction that somebody else has begun and will end: for what is saved beside devices."""
        return SqlBatch(transaction, await self._current(transaction.connection), self._database, self._units)

    async def catalogue(self) -> Catalogue:
        """The newest committed catalogue, for those who only look."""
        async with self._database.read() as connection:
            return await self._current(connection)

    async def _current(self, connection: AsyncConnection) -> Catalogue:
        rev = await queries.catalogue_rev(connection)
        if self._catalogue is None or self._catalogue.rev != rev:
            self._catalogue = await queries.catalogue(connection, self._database.sealer, self._environments)
        return self._catalogue


class SqlBatch:
    """Implements ports.Batch within one immediate transaction."""

    def __init__(self, transaction: Transaction, catalogue: Catalogue, database: Database, units: Units) -> None:
        self._connection = transaction.connection
        self._units = units
        self._catalogue = catalogue
        self._sealer = database.sealer
        self.saved = False  # True: committed at the end

    @property
    def connection(self) -> AsyncConnection:
        """For rows of an operation's own, in the same transaction."""
        return self._connection

    @property
    def sealer(self) -> Sealer:
        return self._sealer

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    async def load(
        self,
        *,
        serials: Collection[tuple[str, str]] = (),
        credential_ids: Collection[str] = (),
        spki: Collection[bytes] = (),
        device_ids: Collection[str] = (),
        claimed: Collection[tuple[str, str]] = (),
    ) -> Loaded:
        """Four queries, whatever is claimed and found: devices, which of them are units, SPKI hashes, numbers. For
        devices that are more than claimed one more for partners, and some for those that are units.
        """
        found = await queries.devices(
            self._connection,
            self._sealer,
            serials=[*serials, *claimed],
            credential_ids=credential_ids,
            device_ids=device_ids,
        )
        only_claimed = _only_claimed(found, serials, credential_ids, device_ids) if claimed else set()
        whole = [one for one in found if one.device_id not in only_claimed]
        if missing := queries.partners_missing(whole):
            partners = await queries.devices(self._connection, self._sealer, device_ids=missing)
            whole += partners
            only_claimed -= {one.device_id for one in partners}
        rest = [one for one in found if one.device_id in only_claimed]
        known = await self._units.find(self._connection, rest + whole)
        found = rest + await self._units.with_units(self._connection, self._sealer, whole, known)
        return Loaded(
            by_serial={(one.group_id, one.serial): one for one in found},
            by_credential={kept.credential_id: one for one in found for kept in one.credentials},
            by_device_id={one.device_id: one for one in found},
            spki_in_use=await queries.spki_in_use(self._connection, spki),
            next_numbers=await queries.next_numbers(self._connection),
            self_registered=await self._self_registered(),
            incomplete=frozenset(one.device_id for one in rest if one.device_id in known or _changes_hands(one)),
        )

    async def save(self, changes: Changes) -> None:
        """Devices, then things, then credentials, as foreign keys ask; dropped credentials before new and confirmed ones."""
        devices, things, credentials, events = _Writes(device), _Writes(thing), _Writes(credential), _Writes(event)
        keys: list[rows.Row] = []
        revoked: list[rows.Row] = []
        there = {
            before.thing.thing_id for before, _ in changes.devices if before is not None and before.thing is not None
        }
        for before, after in changes.devices:
            self._compare_device(before, after, devices, keys)
            _compare_thing(before, after, there, things)
            _compare_credentials(before, after, credentials)
            revoked += revocations.rows_of(before.credentials if before is not None else (), after.credentials)
        for writes in (devices, things, credentials):
            await writes.execute(self._connection)
        await _execute(self._connection, insert(device_public_key), keys)
        await _execute(self._connection, revocations.INSERT, revoked)
        now = datetime.now(UTC)
        await save_units(self._connection, changes.devices)
        for one in changes.events:
            events.insert(history_rows.event_row(one, now))
        await events.execute(self._connection)
        await _execute(self._connection, _INSERT_TRACE, [history_rows.trace_row(step) for step in changes.traces])
        await _execute(
            self._connection,
            _SET_NUMBER,
            [{"of": product_id, "number": number} for product_id, number in changes.numbers.items()],
        )
        await _execute(
            self._connection,
            _ADD_NEWCOMERS,
            [
                {"name": queries.SELF_REGISTERED + group_id, "value": count}
                for group_id, count in changes.self_registered.items()
            ],
        )
        await add_counters(self._connection, changes.counters)
        self.saved = True

    async def _self_registered(self) -> dict[str, int]:
        """Asked only where some group has a quota."""
        if all(one.self_quota is None for one in self._catalogue.groups.values()):
            return {}
        return await queries.self_registered(self._connection)

    def _compare_device(self, before: Device | None, after: Device, writes: _Writes, keys: list[rows.Row]) -> None:
        if before is None:
            row = rows.device_row(after)
            row["key_sealed"] = rows.sealed_key(after, self._sealer)
            writes.insert(row)
            keys.extend(rows.public_key_rows(after))
            return
        if before.device_id != after.device_id or before.public_keys != after.public_keys:
            raise ValueError("a saved device keeps its id and its public keys")
        changed = rows.device_difference(before, after)
        if before.key != after.key:
            changed["key_sealed"] = rows.sealed_key(after, self._sealer)
        writes.update(after.device_id, changed)


def _changes_hands(device: Device) -> bool:
    return device.thing is not None and device.thing.successor_device_id is not None


def _only_claimed(
    found: Sequence[Device],
    serials: Collection[tuple[str, str]],
    credential_ids: Collection[str],
    device_ids: Collection[str],
) -> set[str]:
    """Ids of those that nothing but a claim has named."""
    named, logins, ids = set(serials), set(credential_ids), set(device_ids)
    return {
        one.device_id
        for one in found
        if (one.group_id, one.serial) not in named
        and one.device_id not in ids
        and not any(kept.credential_id in logins for kept in one.credentials)
    }


def _compare_thing(before: Device | None, after: Device, there: set[str], writes: _Writes) -> None:
    """`there`: things that some device of this save had before; a device that comes to one of them inserts nothing.

    What changes in such a thing is written with the device that had it.
    """
    old = before.thing if before is not None else None
    new = after.thing
    if new is None or new is old:
        return
    if old is None or old.thing_id != new.thing_id:
        if new.thing_id not in there:
            writes.insert(rows.thing_row(new))
    else:
        writes.update(new.thing_id, rows.thing_difference(old, new))


def _compare_credentials(before: Device | None, after: Device, writes: _Writes) -> None:
    old = {one.credential_id: one for one in before.credentials} if before is not None else {}
    for one in after.credentials:
        was = old.pop(one.credential_id, None)
        if was is None:
            writes.insert(rows.credential_row(one))
        elif was is not one:
            # Only one may be confirmed at any moment, also between two statements.
            first = one.state is CredentialState.DROPPED
            writes.update(one.credential_id, rows.difference(was, one), first=first)
    if old:
        raise ValueError("a credential's row is dropped, not left out")


class _Writes:
    """What happens to one table: rows to insert, and updates grouped by the columns that they change."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._first: dict[tuple[str, ...], list[rows.Row]] = {}
        self._inserts: list[rows.Row] = []
        self._updates: dict[tuple[str, ...], list[rows.Row]] = {}

    def insert(self, row: rows.Row) -> None:
        self._inserts.append(row)

    def update(self, key: str, changed: rows.Row, *, first: bool = False) -> None:
        if changed:
            groups = self._first if first else self._updates
            groups.setdefault(tuple(changed), []).append({**changed, "key_": key})

    async def execute(self, connection: AsyncConnection) -> None:
        for columns, parameters in self._first.items():
            await _execute(connection, _update(self._table, columns), parameters)
        if len(self._inserts) < MANY:
            await _execute(connection, _insert(self._table), self._inserts)
        else:
            await _insert_many(connection, self._table, self._inserts)
        for columns, parameters in self._updates.items():
            await _execute(connection, _update(self._table, columns), parameters)


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


@cache
def _update(table: Table, columns: tuple[str, ...]) -> Update:
    (key,) = table.primary_key.columns
    return update(table).where(key == bindparam("key_")).values({name: bindparam(name) for name in columns})


_INSERT_TRACE = insert(trace)
_SET_NUMBER = update(product).where(product.c.product_id == bindparam("of")).values(next_number=bindparam("number"))
_ADD = upsert(counter)
_ADD_COUNTER = _ADD.on_conflict_do_update(
    index_elements=[counter.c.name], set_={"value": counter.c.value + _ADD.excluded.value}
)


_ADD_META = upsert(meta)
_ADD_NEWCOMERS = _ADD_META.on_conflict_do_update(
    index_elements=[meta.c.name], set_={"value": meta.c.value + _ADD_META.excluded.value}
)


async def add_counters(connection: AsyncConnection, increments: Mapping[str, int]) -> None:
    await _execute(
        connection, _ADD_COUNTER, [{"name": name, "value": value} for name, value in increments.items() if value]
    )


@cache
def _compiled(statement: Insert | Update, names: tuple[str, ...]) -> tuple[str, itemgetter[Any]]:
    """The statement's text for these parameters, and what puts a row's values in the order of its marks."""
    compiled = statement.compile(dialect=sqlite.dialect(), column_keys=list(names))
    order = compiled.positiontup
    assert order is not None
    return str(compiled), itemgetter(*order)


async def _execute(connection: AsyncConnection, statement: Insert | Update, parameters: list[rows.Row]) -> None:
    """Run the statement for each row. All rows have the same columns.

    The text is compiled once here, because SQLAlchemy's own way of preparing the parameters of each row takes twice
    as long as SQLite does.
    """
    if parameters:
        text, values = _compiled(statement, tuple(parameters[0]))
        await connection.exec_driver_sql(text, [values(row) for row in parameters])


async def _insert_many(connection: AsyncConnection, table: Table, inserts: list[rows.Row]) -> None:
    """Insert many rows that are much alike, hundreds by one statement, in which stands what is NULL or 0 in all of them.

    Otherwise SQLite takes longer to be told the 34 values of each new device than to write them, and gives the
    interpreter's lock back and forth for each.
    """
    alike = {
        name: value
        for name, value in inserts[0].items()
        if (value is None or value == 0) and all(row[name] == value for row in inserts)
    }
    told = tuple(name for name in inserts[0] if name not in alike)
    values = itemgetter(*told)
    together = min(TOGETHER, MOST_VALUES // len(told), len(inserts))
    whole = len(inserts) - len(inserts) % together
    text = _insert_text(table, told, tuple(alike.items()), together)
    for first in range(0, whole, together):
        page = inserts[first : first + together]
        await connection.exec_driver_sql(text, tuple(chain.from_iterable(map(values, page))))
    await _execute(connection, _insert(table), inserts[whole:])


@lru_cache(maxsize=16)
def _insert_text(table: Table, told: tuple[str, ...], alike: tuple[tuple[str, Any], ...], count: int) -> str:
    columns = ", ".join([*told, *(name for name, _ in alike)])
    one = ", ".join([*("?" for _ in told), *("NULL" if value is None else "0" for _, value in alike)])
    return f"INSERT INTO {table.name} ({columns}) VALUES {', '.join([f'({one})'] * count)}"  # noqa: S608 - names of our own
