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
from service.storage.tables import meta

LOOKED = "looked"  # the outcome of an audit row of what changes nothing
_LOOKED_TO = "looks_pruned_to"  # a name in `meta`


async def prune(
    database: Database, *, events_before: datetime, commands_before: datetime, audit_before: datetime, limit: int
) -> int:
    """Delete what is older, at most `limit` rows of each table, the oldest first; returns how many.

    A command is measured by when it finished; an unfinished one is never old. What only looked goes from the audit with
    the commands, which it outnumbers. Raises ServiceError UNAVAILABLE.
    """
    async with database.write() as transaction:
        connection = transaction.connection
        gone = await _numbered(connection, event, events_before, limit)
        gone += await _commands(connection, commands_before, limit)
        gone += await _numbered(connection, audit, audit_before, limit)
        looks, came_further = await _looks(connection, commands_before, limit)
        gone += looks
        if not gone and not came_further:
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


async def _looks(connection: AsyncConnection, before: datetime, limit: int) -> tuple[int, bool]:
    """How many went, and whether any row was passed. How far it has come is remembered, as other rows stay between."""
    done_to = (await connection.execute(select(meta.c.value).where(meta.c.name == _LOOKED_TO))).scalar() or 0
    rows = select(audit.c.seq, audit.c.at).where(audit.c.seq > done_to).order_by(audit.c.seq).limit(limit)
    last, until = done_to, to_ms(before) or 0
    for seq, at in await connection.execute(rows):
        if at >= until:
            break
        last = seq
    if last == done_to:
        return 0, False
    passed = (audit.c.seq > done_to, audit.c.seq <= last, audit.c.outcome == LOOKED)
    gone = (await connection.execute(delete(audit).where(*passed))).rowcount
    await connection.execute(delete(meta).where(meta.c.name == _LOOKED_TO))
    await connection.execute(meta.insert().values(name=_LOOKED_TO, value=last))
    return gone, True


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
