"""The audit: who asked what, and what it changed.

Owns the page that is read, and the note of a change outside of the database. What commands and other operations change in
it is audited where it is written (command_rows.py, storage/auditing.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from service.storage import auditing
from service.storage.database import Database
from service.storage.operator_tables import audit
from service.storage.rows import from_ms

MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class AuditLine:
    seq: int
    at: datetime | None
    account: str
    command_id: str | None
    verb: str
    device: str | None  # GROUP/SERIAL; None: the command as a whole
    outcome: str
    cause: str | None
    selector: dict[str, Any]
    arguments: dict[str, Any]
    before: dict[str, Any] | None
    after: dict[str, Any] | None


async def page(
    database: Database,
    *,
    after: int = 0,
    limit: int = 100,
    account: str | None = None,
    command_id: str | None = None,
    device: tuple[str, str] | None = None,
) -> list[AuditLine]:
    """The next lines by number, at most 1000."""
    query = select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(min(limit, MAX_PAGE))
    if account is not None:
        query = query.where(audit.c.account == account)
    if command_id is not None:
        query = query.where(audit.c.command_id == command_id)
    if device is not None:
        query = query.where(audit.c.group_id == device[0], audit.c.serial == device[1])
    async with database.read() as connection:
        return [_line(row) for row in await connection.execute(query)]


async def note(
    database: Database,
    subject: Mapping[str, Any],
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """One line for a change outside of the database: a configuration, a file of keys. No secrets."""
    async with database.write() as transaction:
        acts = auditing.actor(database.changed_by)
        if acts is not None:
            await auditing.note(transaction.connection, acts, subject, before, after)


def _line(row: Any) -> AuditLine:
    return AuditLine(
        row.seq,
        from_ms(row.at),
        row.account,
        row.command_id,
        row.verb,
        None if row.serial is None else f"{row.group_id}/{row.serial}",
        row.outcome,
        row.cause,
        json.loads(row.selector),
        json.loads(row.arguments),
        None if row.before is None else json.loads(row.before),
        None if row.after is None else json.loads(row.after),
    )
