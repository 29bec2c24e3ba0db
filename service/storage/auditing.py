"""What an operator's transaction changes, as audit rows of that same transaction.

Owns the one mechanism: while a transaction is somebody's, temporary triggers on the writer's connection note every row
that is added, changed or removed, in whatever operation; at the end they become audit rows with before and after. So an
operation cannot forget its audit. The pipeline's transactions are nobody's and pay nothing; commands over a fleet write
rows of their own (operations/command_rows.py) and say so. Holds no secret: of a column of bytes it notes only that it
was set or changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import Boolean, Column, LargeBinary, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.certificate_tables import revoked_certificate
from service.storage.enrolment_tables import (
    enrolment_batch,
    enrolment_device,
    enrolment_transaction,
    workflow_event,
)
from service.storage.job_tables import admin_session, job_run, taken_file
from service.storage.operator_tables import audit, command, command_outcome, event
from service.storage.rows import to_ms
from service.storage.tables import counter, device, image, meta, metadata, trace

THIS_MACHINE = "local"  # who works on the database itself
EACH = 20  # rows of one table in one transaction that have an audit row each; of more, one row says how many
PICTURED = 200  # rows of one transaction that are noted with their columns, the later ones with their keys only
# What operations leave behind rather than change. An image is named by its version.
NOT_AUDITED = frozenset(
    {audit, command, command_outcome, counter, event, image, meta, trace}
    # What jobs, sessions and the exchange with providers write down of themselves, in tables that are records already.
    | {admin_session, job_run, taken_file}
    | {enrolment_batch, enrolment_device, enrolment_transaction, workflow_event}
    # Follows from the drop of a credential, which is audited.
    | {revoked_certificate}
)
# Counters of the service's own, and what an audit row says by itself.
_IGNORED = frozenset(
    {"product.next_number", "account.event_cursor"}
    | {"job.next_due_at", "config_entry.changed_at", "config_entry.changed_by"}
)
# Text that is no more to be seen than a column of bytes.
_SECRET = frozenset({"admin_user.password_hash"})
# A credential's row is mostly the protocol's.
_ONLY: Mapping[str, frozenset[str]] = {
    "credential": frozenset({"state", "environment", "drop_cause", "awaits_operator", "approved"})
}
_OWNER = {
    "device": "device_id",
    "credential": "device_id",
    "device_public_key": "device_id",
    "thing": "holder_device_id",
}


@dataclass(frozen=True, slots=True)
class Acting:
    """Who changes things just now, and by which operation."""

    who: str
    what: str


_who: ContextVar[str | None] = ContextVar("who", default=None)
_what: ContextVar[str | None] = ContextVar("what", default=None)


@contextmanager
def acting(what: str, who: str | None = None) -> Iterator[None]:
    """What is written inside is called so; `who`: and is this account's, whoever opened the database."""
    tokens = _what.set(what), _who.set(who or _who.get())
    try:
        yield
    finally:
        _what.reset(tokens[0])
        _who.reset(tokens[1])


def acting_for(who: str, what: str) -> AbstractContextManager[None]:
    """An operation on somebody's behalf, called `what` unless a command has given it a name."""
    return acting(called(what), who)


def called(what: str) -> str:
    """The name of the command that is under way, else `what`."""
    return _what.get() or what


def actor(default: str | None) -> Acting | None:
    """Who acts now: as `acting` says, else `default`; None: nobody, and nothing is audited."""
    who = _who.get() or default
    return None if who is None else Acting(who, called("change"))


# Of each table what the transaction changed: how many rows, the first and the last of them, whether it took them away.
_TABLES = """
SELECT one.of AS of, rows, one.key AS first, one.after IS NULL AS gone, other.key AS last
FROM (SELECT of, count(*) AS rows, min(seq) AS low, max(seq) AS high FROM changed_row GROUP BY of)
JOIN changed_row AS one ON one.seq = low JOIN changed_row AS other ON other.seq = high
ORDER BY low
"""
_FEW = f"""
SELECT of, key, owner, before, after FROM changed_row
WHERE of IN (SELECT of FROM changed_row GROUP BY of HAVING count(*) <= {EACH}) ORDER BY seq
"""  # noqa: S608 - a number of our own


async def settle(connection: AsyncConnection, of: Acting) -> None:
    """Turn what the triggers have noted into audit rows, before the commit."""
    tables = (await connection.exec_driver_sql(_TABLES)).all()
    if not tables:
        return
    each = (await connection.exec_driver_sql(_FEW)).all()
    await connection.exec_driver_sql("DELETE FROM changed_row")
    names = await _names(connection, {row.owner for row in each if row.owner is not None})
    rows = [_row(of, _Changed(row.of, row.key, row.owner, _map(row.before), _map(row.after)), names) for row in each]
    rows += [_many(of, one) for one in tables if one.rows > EACH]
    await connection.execute(insert(audit), rows)


async def note(
    connection: AsyncConnection,
    of: Acting,
    subject: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    """One row for a change that is not in the database: a configuration, a key file. No secrets."""
    await connection.execute(insert(audit), [_values(of, subject, before, after)])


@dataclass(frozen=True, slots=True)
class _Changed:
    table: str
    key: str
    owner: str | None  # device_id
    before: dict[str, Any] | None
    after: dict[str, Any] | None


async def _names(connection: AsyncConnection, device_ids: set[str]) -> dict[str, tuple[str, str]]:
    """(group, serial) of these devices: few, as the rows of more are only counted."""
    query = select(device.c.device_id, device.c.group_id, device.c.serial).where(device.c.device_id.in_(device_ids))
    return {row.device_id: (row.group_id, row.serial) for row in await connection.execute(query)} if device_ids else {}


def _row(of: Acting, one: _Changed, names: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    before, after = _difference(one.table, one.before, one.after)
    group_id, serial = names.get(one.owner or "", (None, None))
    return _values(of, {one.table: one.key}, before, after) | {"group_id": group_id, "serial": serial}


def _many(of: Acting, table: Any) -> dict[str, Any]:
    """`table`: a row of _TABLES."""
    counted = {"rows": table.rows, "first": table.first, "last": table.last}
    return _values(of, {table.of: table.rows}, counted if table.gone else None, None if table.gone else counted)


def _values(
    of: Acting, subject: Mapping[str, Any], before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> dict[str, Any]:
    outcome = "added" if before is None else "removed" if after is None else "changed"
    return {
        "at": to_ms(datetime.now(UTC)),
        "account": of.who,
        "verb": of.what,
        "selector": _text(subject),
        "arguments": "{}",
        "group_id": None,
        "serial": None,
        "before": None if before is None else _text(before),
        "after": None if after is None else _text(after),
        "outcome": outcome,
    }


def _difference(
    table: str, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What differs, of a row that was there before and after; else all that is set."""
    flags = _flags(table)
    was, now = before or {}, after or {}
    both = before is not None and after is not None
    names = [name for name in {**was, **now} if not both or was.get(name) != now.get(name)]

    def part(of: dict[str, Any] | None) -> dict[str, Any] | None:
        if of is None:
            return None
        found = {name: bool(of[name]) if name in flags and of[name] is not None else of[name] for name in names}
        return {name: value for name, value in found.items() if value is not None}

    return part(before), part(after)


@cache
def _flags(table: str) -> frozenset[str]:
    return frozenset(one.name for one in metadata.tables[table].columns if isinstance(one.type, Boolean))


@cache
def arm() -> str:
    """The script that sets the triggers; for a connection outside of a transaction."""
    columns = "seq INTEGER PRIMARY KEY, of TEXT, key TEXT, owner TEXT, before TEXT, after TEXT"
    lines = [f"CREATE TEMP TABLE IF NOT EXISTS changed_row ({columns});"]
    for table in _audited():
        shown = _shown(table)
        differs = " OR ".join(f"OLD.{_quoted(one)} IS NOT NEW.{_quoted(one)}" for one in shown)
        was, now = _picture(shown, "OLD"), _picture(shown, "NEW")
        over = _picture(shown, "NEW", since="OLD")
        for what, when, row, before, after in (
            ("INSERT", "", "NEW", "NULL", now),
            ("UPDATE", f"WHEN {differs}", "NEW", was, over),
            ("DELETE", "", "OLD", was, "NULL"),
        ):
            values = f"'{table.name}', {_key(table, row)}, {_owner(table, row)}, {before}, {after}"
            noted = f"INSERT INTO changed_row (of, key, owner, before, after) VALUES ({values});"  # noqa: S608 - names of our own
            on = f"changed_{table.name}_{what.lower()} AFTER {what} ON main.{table.name}"
            lines.append(f"CREATE TEMP TRIGGER {on} {when} BEGIN {noted} END;")
    return "\n".join(lines)


@cache
def disarm() -> str:
    """The script that takes them away again."""
    names = [f"changed_{one.name}_{what}" for one in _audited() for what in ("insert", "update", "delete")]
    return "\n".join(f"DROP TRIGGER IF EXISTS temp.{name};" for name in names)


def _audited() -> list[Table]:
    return [one for one in metadata.tables.values() if one not in NOT_AUDITED]


def _shown(table: Table) -> list[Column[Any]]:
    only = _ONLY.get(table.name)
    return [
        one
        for one in table.columns
        if f"{table.name}.{one.name}" not in _IGNORED and (only is None or one.name in only)
    ]


def _picture(columns: Sequence[Column[Any]], row: str, since: str | None = None) -> str:
    """The row as a JSON object. Bytes and secrets are not shown."""
    parts = []
    for one in columns:
        value = f"{row}.{_quoted(one)}"
        if isinstance(one.type, LargeBinary) or str(one) in _SECRET:
            word = "'set'" if since is None else f"iif({since}.{_quoted(one)} IS {value}, 'set', 'changed')"
            value = f"iif({value} IS NULL, NULL, {word})"
        parts.append(f"'{one.name}', {value}")
    # An import would spend a third of its time on pictures that nobody sees.
    seen = "(SELECT coalesce(max(seq), 0) FROM changed_row)"
    return f"iif({seen} < {PICTURED}, json_object({', '.join(parts)}), '{{}}')"


def _key(table: Table, row: str) -> str:
    return " || ' ' || ".join(f"{row}.{_quoted(one)}" for one in table.primary_key.columns)


def _owner(table: Table, row: str) -> str:
    name = _OWNER.get(table.name)
    return f"{row}.{name}" if name is not None else "NULL"


def _quoted(one: Column[Any]) -> str:
    return f'"{one.name}"'


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), ensure_ascii=False, separators=(",", ":"))


def _map(text: str | None) -> dict[str, Any] | None:
    return None if text is None else dict(json.loads(text))
