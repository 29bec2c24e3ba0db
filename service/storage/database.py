"""One SQLite database: how it is opened, read and written.

Owns the connections: one writer, guarded by a lock, and a pool of readers. Every write is one BEGIN IMMEDIATE
transaction. Knows nothing of what the tables mean; store.py, upkeep.py and the operations do. SQLite's errors leave
here as ServiceError UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service.storage.auditing import THIS_MACHINE, actor, arm, disarm, settle
from service.storage.errors import unavailable, unavailable_on_error
from service.storage.schema import BUSY_TIMEOUT_S, check_current, schema_of
from service.storage.sealing import Sealer

READERS = 4
CHECKPOINT_PAGES = 4000  # 16 MiB of log: a batch writes one or two, and a checkpoint costs as much as a batch
WRITER_CACHE_KIB = 16 * 1024  # pages that a connection keeps in memory, at most
READER_CACHE_KIB = 4 * 1024


class Database:
    """An open database. Use `Database.open`; call `close` at the end."""

    def __init__(self, path: Path, sealer: Sealer, engine: AsyncEngine, changed_by: str | None) -> None:
        self.path = path
        self.sealer = sealer
        self.changed_by = changed_by
        self._engine = engine
        self._armed = False  # whether the writer's connection notes what is changed
        self._lock = asyncio.Lock()
        self._writer: AsyncConnection | None = None

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
        database = cls(path, sealer, _engine(path, max_pages), changed_by)
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
            if self._writer is not None:
                await self._writer.close()
                self._writer = None
            await self._engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One consistent snapshot to read from. Raises ServiceError UNAVAILABLE."""
        with unavailable_on_error():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self, *, audit: bool = True) -> AsyncIterator[Transaction]:
        """One immediate transaction: committed durably at a clean exit, rolled back at an error.

        Waits for the other writers of this process, and up to 5 s for those of others. What it changes is audited, if
        somebody acts (auditing.py); `audit=False` for a transaction that writes audit rows of its own. Raises
        ServiceError UNAVAILABLE; nothing is half written.
        """
        async with self._lock:
            with unavailable_on_error():
                connection = await self._open_writer()
                acting = actor(self.changed_by) if audit else None
                await self._arm(connection, wanted=acting is not None)
                begun = await connection.begin()
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
            with unavailable_on_error():
                connection = await self._open_writer()
                # Outside of a transaction: inside one, the number is that of the transaction's snapshot.
                raw = await connection.get_raw_connection()
                return int((await _pragma(raw.driver_connection, "PRAGMA data_version"))[0])

    async def _arm(self, connection: AsyncConnection, *, wanted: bool) -> None:
        if self._armed is not wanted:
            raw = await connection.get_raw_connection()
            await _script(raw.driver_connection, arm() if wanted else disarm())
            self._armed = wanted

    async def _open_writer(self) -> AsyncConnection:
        """The writer's connection; a new one where the last was broken by a cancelled task."""
        if self._writer is not None and (self._writer.closed or self._writer.invalidated):
            await self._writer.close()
            self._writer = None
        if self._writer is None:
            connection = await self._engine.connect()
            self._armed = False
            raw = await connection.get_raw_connection()
            await _pragma(raw.driver_connection, f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
            self._writer = await connection.execution_options(firstlight_writes=True)
        return self._writer


class Transaction:
    """What `Database.write` gives: a connection, and a way to leave without a commit or an error."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self.abandoned = False

    def abandon(self) -> None:
        """Roll back at the end instead of committing."""
        self.abandoned = True


def _engine(path: Path, max_pages: int | None) -> AsyncEngine:
    url = URL.create("sqlite+aiosqlite", database=str(path))
    engine = create_async_engine(
        url,
        pool_size=READERS + 1,
        max_overflow=0,
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
    )

    def connected(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA journal_mode=WAL")  # kept in the file; a restored one does not have it yet
        cursor.execute("PRAGMA synchronous=FULL")  # a reply that was given is never forgotten
        cursor.execute(f"PRAGMA cache_size=-{READER_CACHE_KIB}")
        cursor.execute("PRAGMA secure_delete=FAST")
        cursor.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        cursor.execute(f"PRAGMA journal_size_limit={CHECKPOINT_PAGES * 4096 * 2}")
        if max_pages is not None:
            cursor.execute(f"PRAGMA max_page_count={int(max_pages)}")
        cursor.close()

    def begin(connection: Any) -> None:
        writes = connection.get_execution_options().get("firstlight_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", begin)
    return engine


async def _pragma(driver: Any, statement: str) -> Any:
    """Run a pragma on aiosqlite's own connection, where SQLAlchemy begins no transaction; its first row."""
    cursor = await driver.execute(statement)
    row = await cursor.fetchone()
    await cursor.close()
    return row


async def _script(driver: Any, script: str) -> None:
    await (await driver.executescript(script)).close()


async def _check(connection: AsyncConnection) -> None:
    first = (await connection.execute(text("PRAGMA quick_check(1)"))).scalar_one()
    if first != "ok":
        raise unavailable("storage_corrupt", str(first))
