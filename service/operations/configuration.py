"""Configuration that is changed while the service runs: named entries in the database, each with a type and a default.

Owns the list of entries and the audited change. What decides how the service starts stands in firstlight.toml.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert as upsert

from service.operations.requests import bad_request, not_found
from service.storage.auditing import acting_for
from service.storage.database import Database
from service.storage.job_tables import config_entry
from service.storage.rows import from_ms, to_ms


@dataclass(frozen=True, slots=True)
class Entry:
    default: bool | int
    help: str
    least: int = 0
    most: int = 0


ENTRIES: Mapping[str, Entry] = {
    "enrolment.events_on_success": Entry(default=False, help="a workflow event for each order that was enrolled"),
    "enrolment.events_on_failure": Entry(
        default=True, help="a workflow event, with the provider's messages, otherwise"
    ),
    "enrolment.settle_s": Entry(5, "a file younger than this may still be written, and waits", 0, 3600),
    "enrolment.check_every_s": Entry(300, "how often a provider is asked what became of a transaction", 1, 86400),
    "enrolment.max_attempts": Entry(10, "how often a provider that gives no answer is sent a batch", 1, 1000),
    "enrolment.answer_within_s": Entry(259_200, "a transaction that waits longer is overdue", 60, 31_536_000),
    "enrolment.history_kept_d": Entry(400, "days that finished transactions, batches and events are kept", 1, 3650),
    "enrolment.files_kept_d": Entry(90, "days that files in done and failed are kept", 1, 3650),
    "enrolment.hashes_kept_d": Entry(400, "days that a taken file is known; older documents are refused", 7, 3650),
    "jobs.runs_kept_d": Entry(90, "days that runs are kept", 1, 3650),
    "jobs.missed_after_s": Entry(60, "a run that is later than this was missed", 1, 86400),
}


@dataclass(frozen=True, slots=True)
class Shown:
    name: str
    value: bool | int
    default: bool | int
    help: str
    changed_at: datetime | None
    changed_by: str | None


async def values(database: Database) -> dict[str, Any]:
    """Every entry's value."""
    return {one.name: one.value for one in await show(database)}


async def show(database: Database) -> list[Shown]:
    async with database.read() as connection:
        found = {row.name: row for row in await connection.execute(select(config_entry))}
    return [_shown(name, entry, found.get(name)) for name, entry in ENTRIES.items()]


async def put(database: Database, name: str, text: str, *, by: str, now: datetime) -> Shown:
    """Set an entry to a value in words. Raises ServiceError NOT_FOUND, BAD_REQUEST."""
    entry = ENTRIES.get(name)
    if entry is None:
        raise not_found("config_unknown", f"no configuration entry {name[:64]!r}; there are {', '.join(ENTRIES)}")
    value = _value(name, entry, text)
    changed = {"value": json.dumps(value), "changed_at": to_ms(now), "changed_by": by}
    statement = upsert(config_entry).values(name=name, **changed)
    with acting_for(by, "config-set"):
        async with database.write() as transaction:
            await transaction.connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changed))
    return Shown(name, value, entry.default, entry.help, now, by)


def _value(name: str, entry: Entry, text: str) -> bool | int:
    if isinstance(entry.default, bool):
        words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        if text.strip().lower() not in words:
            raise bad_request("config_illegal", f"{name} is true or false")
        return words[text.strip().lower()]
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()) or not entry.least <= int(digits[:9]) <= entry.most:
        raise bad_request("config_illegal", f"{name} is a number from {entry.least} to {entry.most}")
    return int(digits)


def _shown(name: str, entry: Entry, row: Any) -> Shown:
    if row is None or row.value is None:
        return Shown(name, entry.default, entry.default, entry.help, None, None)
    return Shown(name, json.loads(row.value), entry.default, entry.help, from_ms(row.changed_at), row.changed_by)
