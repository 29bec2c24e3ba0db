"""Letting go of history: events, finished commands with their outcomes, and the audit, each after its own time.

Owns the deletes, a bounded number of rows in one transaction. Numbers of events and audit rows never come back.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Table, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.database import Database
from service.storage.operator_tables import audit, command, command_outcome, event
from service.storage.rows import to_ms


async def prune(
    database: Database, *, events_before: datetime, commands_before: datetime, audit_before: datetime, limit: int
) -> int:
    """Delete what is older, at most `limit` rows of each table, the oldest first; returns how many.

    A command is measured by when it finished; an unfinished one is never old. Raises ServiceError UNAVAILABLE.
    """
    async with database.write() as transaction:
        connection = transaction.connection
        gone = await _numbered(connection, event, events_before, limit)
        gone += await _commands(connection, commands_before, limit)
        gone += await _numbered(connection, audit, audit_before, limit)
        if not gone:
            transaction.abandon()
        return gone


async def _numbered(connection: AsyncConnection, table: Table, before: datetime, limit: int) -> int:
    """Rows are numbered in the order of their time, so that only the oldest need to be looked at."""
    oldest = select(table.c.seq, table.c.at).order_by(table.c.seq).limit(limit)
    last, until = 0, to_ms(before) or 0
    for seq, at in await connection.execute(oldest):
        if at >= until:
            break
        last = seq
    return (await connection.execute(delete(table).where(table.c.seq <= last))).rowcount if last else 0


async def _commands(connection: AsyncConnection, before: datetime, limit: int) -> int:
    """The outcomes of a command may be many: they go page by page, and the command with the last of them."""
    old = select(command.c.command_id).where(command.c.finished_at < to_ms(before)).order_by(command.c.finished_at)
    command_id = (await connection.execute(old.limit(1))).scalar()
    if command_id is None:
        return 0
    of = command_outcome.c.command_id == command_id
    page = select(command_outcome.c.device_id).where(of).limit(limit)
    gone = await connection.execute(delete(command_outcome).where(of, command_outcome.c.device_id.in_(page)))
    if gone.rowcount < limit:
        await connection.execute(delete(command).where(command.c.command_id == command_id))
        return gone.rowcount + 1
    return gone.rowcount
