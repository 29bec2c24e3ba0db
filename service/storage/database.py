"""One SQLite database: how it is opened, read and written.

Owns the transactions: one writer at a time, guarded by a lock, and readers beside it. Every write is one BEGIN
IMMEDIATE transaction. Knows nothing of what the tables mean; store.py, upkeep.py and the operations do. SQLite's errors
leave here as ServiceError UNAVAILABLE; connections that are read-only for no lasting reason are made anew
(connections.py says how that comes about).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction

from service.errors import ServiceError
from service.storage.auditing import THIS_MACHINE, actor, arm, disarm, settle
from service.storage.connections import Connections, pragma
from service.storage.errors import BUSY, READ_ONLY, unavailable, unavailable_on_error
from service.storage.schema import check_current, schema_of
from service.storage.sealing import Sealer

_WRITABLE = "firstlight_writable"  # of a connection that was seen to write
_NOTING = "firstlight_noting"


class Database:
    """An open database. Use `Database.open`; call `close` at the end."""

    def __init__(self, path: Path, sealer: Sealer, connections: Connections, changed_by: str | None) -> None:
        self.path = path
        self.sealer = sealer
        self.changed_by = changed_by
        self._connections = connections
        self._lock = asyncio.Lock()
        self._in_vain_at = float("-inf")  # when one of us last gave up waiting for another process

    @classmethod
    async def open(
        cls,
        path: Path,
        sealer: Sealer,
        *,
        check: bool = True,
        max_pages: int | None = None,
        changed_by: str | None = THIS_MACHINE,
    ) -> Database:
        """Open a database that has the newest schema; `schema.migrate` makes or upgrades one.

        `check` reads the whole file once for damage. `max_pages` bounds the file's size in pages of 4 KiB. `changed_by`
        is whom the audit names for what is written; None, for the service's own work, audits nothing. Raises
        ServiceError UNAVAILABLE: no database, another schema, damaged, locked.
        """
        if not path.is_file():  # noqa: ASYNC240 - one look before anything runs
            check_current(None)
        database = cls(path, sealer, Connections(path, max_pages), changed_by)
        try:
            async with database.read() as connection:
                check_current(await connection.run_sync(schema_of))
                if check:
                    await _check(connection)
        except BaseException:
            await database.close()
            raise
        return database

    async def close(self) -> None:
        async with self._lock:
            await self._connections.close()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One consistent snapshot to read from. Raises ServiceError UNAVAILABLE."""
        with self._watched():
            async with self._connections.reader() as connection:
                yield connection

    @asynccontextmanager
    async def write(self, *, audit: bool = True) -> AsyncIterator[Transaction]:
        """One immediate transaction: committed durably at a clean exit, rolled back at an error.

        Waits for the other writers of this process, and up to 5 s for those of others; who was waiting when one of us
        gave up after these 5 s gives up too. What it changes is audited, if somebody acts (auditing.py); `audit=False`
        for a transaction that writes audit rows of its own. Raises ServiceError UNAVAILABLE; nothing is half written.
        """
        asked_at = asyncio.get_running_loop().time()
        async with self._lock:
            if asked_at < self._in_vain_at:
                raise unavailable(BUSY, "the writer before has waited in vain")
            with self._watched():
                acting = actor(self.changed_by) if audit else None
                connection, begun = await self._begin(noting=acting is not None)
                transaction = Transaction(connection)
                try:
                    yield transaction
                    if acting is not None and not transaction.abandoned:
                        await settle(connection, acting)
                except BaseException:
                    await begun.rollback()
                    raise
                if transaction.abandoned:
                    await begun.rollback()
                    return
                try:
                    await begun.commit()
                except BaseException:
                    # The disk did not take it: whatever state SQLite is in, closing this connection ends it.
                    await connection.invalidate()
                    raise

    async def data_version(self) -> int:
        """A number that changes whenever another process (or a reader's connection) has written the database."""
        async with self._lock:
            with self._watched():
                connection = await self._writer()
                # Outside of a transaction: inside one, the number is that of the transaction's snapshot.
                raw = await connection.get_raw_connection()
                return int((await pragma(raw.driver_connection, "PRAGMA data_version"))[0])

    async def _arm(self, connection: AsyncConnection, *, wanted: bool) -> None:
        """Whether the writer's connection notes what is changed; that is kept with the connection."""
        if connection.info.get(_NOTING, False) is not wanted:
            raw = await connection.get_raw_connection()
            await _script(raw.driver_connection, arm() if wanted else disarm())
            connection.info[_NOTING] = wanted

    async def _begin(self, *, noting: bool) -> tuple[AsyncConnection, AsyncTransaction]:
        """The writer in an immediate transaction. If it turns out to be read-only, all connections are made anew, once."""
        try:
            with self._watched():
                return await self._begin_once(noting=noting)
        except ServiceError as error:
            if error.cause != READ_ONLY:
                raise
        return await self._begin_once(noting=noting)

    async def _begin_once(self, *, noting: bool) -> tuple[AsyncConnection, AsyncTransaction]:
        connection = await self._writer()
        await self._arm(connection, wanted=noting)
        begun = await connection.begin()
        if not connection.info.get(_WRITABLE, False):
            # BEGIN IMMEDIATE begins to read where the file could only be opened for that; a write says so at once.
            try:
                await connection.exec_driver_sql("DELETE FROM meta WHERE 0")
            except BaseException:
                await begun.rollback()
                raise
            connection.info[_WRITABLE] = True
        return connection, begun

    async def _writer(self) -> AsyncConnection:
        await self._connections.renew()
        return await self._connections.writer()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """SQLite's errors as ServiceError UNAVAILABLE; one that says "read-only" is remembered."""
        try:
            with unavailable_on_error():
                yield
        except ServiceError as error:
            if error.cause == READ_ONLY:
                self._connections.suspect()
            elif error.cause == BUSY:
                self._in_vain_at = asyncio.get_running_loop().time()
            raise


class Transaction:
    """What `Database.write` gives: a connection, and a way to leave without a commit or an error."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self.abandoned = False

    def abandon(self) -> None:
        """Roll back at the end instead of committing."""
        self.abandoned = True


async def _script(driver: Any, script: str) -> None:
    await (await driver.executescript(script)).close()


async def _check(connection: AsyncConnection) -> None:
    """Raises ServiceError UNAVAILABLE. Not integrity_check: docs/architecture.md, "Failing storage", says why."""
    first = (await connection.execute(text("PRAGMA quick_check(1)"))).scalar_one()
    if first != "ok":
        raise unavailable("storage_corrupt", str(first))
