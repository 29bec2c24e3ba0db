"""The connections of this process to one SQLite file: how each is set up, and how all of them are made anew.

Owns the pool and the one writer's connection. Knows nothing of transactions, locks among tasks or tables; database.py
does.

Making anew: where SQLite may not open a file for writing it opens it for reading, without a word, and never tries again.
For the database and its log that lasts as long as the connection; for the shared memory beside it ("-shm") as long as
any connection of this process. So one failed open() at a bad moment would leave a service that can never write again.
The only cure is to close every connection, and that is what `renew` does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service.storage.errors import READ_ONLY, unavailable
from service.storage.schema import BUSY_TIMEOUT_S

READERS = 4
CHECKPOINT_PAGES = 4000  # 16 MiB of log: a batch writes one or two, and a checkpoint costs as much as a batch
WRITER_CACHE_KIB = 16 * 1024  # pages that a connection keeps in memory, at most
READER_CACHE_KIB = 4 * 1024
READERS_WAIT_S = 1.0  # for those who read when all connections are to be closed
_LOOK_S = 0.005


class Connections:
    """`reader` for anybody; `writer` and `renew` for one task at a time. `close` at the end."""

    def __init__(self, path: Path, max_pages: int | None) -> None:
        self.engine = _engine(path, max_pages)
        self._path = path
        self._writer: AsyncConnection | None = None
        self._suspect = False
        self._renewal: asyncio.Task[bool] | None = None
        self._closing = False  # nobody may begin to read

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[AsyncConnection]:
        """Raises ServiceError UNAVAILABLE while all connections are closed."""
        if self._closing:
            raise unavailable(READ_ONLY, "all connections are being closed")
        async with self.engine.connect() as connection:
            yield connection

    async def writer(self) -> AsyncConnection:
        """The writer's connection; a new one where the last was broken by a cancelled task."""
        if self._writer is not None and (self._writer.closed or self._writer.invalidated):
            await self._put_writer_away()
        if self._writer is None:
            connection = await self.engine.connect()
            raw = await connection.get_raw_connection()
            await pragma(raw.driver_connection, f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
            self._writer = await connection.execution_options(firstlight_writes=True)
        return self._writer

    def suspect(self) -> None:
        """SQLite has said "read-only" to one of these connections: the next `renew` closes them."""
        self._suspect = True

    async def renew(self) -> None:
        """Close all connections if one is suspect and the file can be written; the next to come are opened anew.

        Waits up to READERS_WAIT_S for those who read. Raises ServiceError UNAVAILABLE where they do not end by then.
        """
        if self._renewal is None:
            if not (self._suspect and is_writable(self._path)):
                return
            # In a task of its own: a caller that is cancelled half-way must not leave connections to nobody.
            self._renewal = asyncio.create_task(self._renew(), name="connections made anew")
        if not await asyncio.shield(self._renewal):
            raise unavailable(READ_ONLY, f"readers did not end within {READERS_WAIT_S} s")

    async def close(self) -> None:
        if self._renewal is not None:
            await asyncio.wait([self._renewal])
        self._closing = True
        try:
            await self._quiet()
            await self._put_writer_away()
            await self.engine.dispose()
        finally:
            self._closing = False

    async def _renew(self) -> bool:
        self._closing = True
        try:
            if not await self._quiet():
                return False
            await self._put_writer_away()
            await self.engine.dispose()
            self._suspect = False
            return True
        finally:
            self._closing = False
            self._renewal = None

    async def _quiet(self) -> bool:
        """Wait until nobody but the writer has a connection; whether it came to that in time.

        A connection that is out while the pool is disposed of would come back to a pool that nobody closes any more.
        The pool is asked, because a cancelled reader gives its connection back a little after it has ended.
        """
        ours = 0 if self._writer is None else 1
        try:
            async with asyncio.timeout(READERS_WAIT_S):
                while self.engine.pool.checkedout() > ours:  # type: ignore[attr-defined]  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            return False
        return True

    async def _put_writer_away(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()


def is_writable(path: Path) -> bool:
    """Whether the system would let us write the file. It is not opened: closing it would end SQLite's own locks on it."""
    return os.access(path, os.W_OK)


async def pragma(driver: Any, statement: str) -> Any:
    """Run a pragma on aiosqlite's own connection, where SQLAlchemy begins no transaction; its first row."""
    cursor = await driver.execute(statement)
    row = await cursor.fetchone()
    await cursor.close()
    return row


def _engine(path: Path, max_pages: int | None) -> AsyncEngine:
    url = URL.create("sqlite+aiosqlite", database=str(path))
    engine = create_async_engine(
        url,
        pool_size=READERS + 1,
        max_overflow=0,
        hide_parameters=True,  # of a statement that fails: they would stand in the log
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
