"""Commands in the database: their rows, outcomes and audit. Owns the statements, no rule."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import func, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.device import Device
from service.operations.events import Recorded
from service.operations.outcomes import Outcome, Result
from service.operations.picture import difference
from service.storage.operator_tables import audit, command, command_outcome
from service.storage.rows import from_ms, to_ms


class CommandState(StrEnum):
    RUNNING = "running"  # the service's turn, or whoever runs it
    PAUSED = "paused"  # an operator's turn
    CANCELLED = "cancelled"  # what was done stays done
    DONE = "done"
    EXPIRED = "expired"  # its time was over before all was done
    FAILED = "failed"  # it can never go on: its verb or its account is gone


OPEN = (CommandState.RUNNING, CommandState.PAUSED)
_STEERED = {CommandState.PAUSED: "pause", CommandState.RUNNING: "resume", CommandState.CANCELLED: "cancel"}


@dataclass(frozen=True, slots=True)
class Command:
    command_id: str
    account: str
    request_id: str
    digest: bytes
    verb: str
    selector: Mapping[str, Any]
    arguments: Mapping[str, Any]  # without secrets
    dry_run: bool
    state: CommandState
    created_at: datetime
    expected_rev: int | None = None
    rate: int | None = None  # devices a second
    expires_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cursor: str = ""  # device_id up to which it is done
    total: int = 0  # selected when it was asked for
    done: int = 0
    changed: int = 0
    unchanged: int = 0
    refused: int = 0
    lease_owner: str | None = None  # who works on it now; another one begins when the lease has run out
    lease_expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """A command and a page of what came of it."""

    command: Command
    outcomes: tuple[Outcome, ...] = ()
    later: Mapping[str, int] = field(default_factory=dict)  # events that followed, by kind: moved, move_failed, ...
    after: str | None = None  # give it to see the next page of outcomes
    failed: tuple[Recorded, ...] = ()  # devices that failed after their page was done, by the number of the event
    failed_after: int | None = None  # give it to see the next page of them
    result: Mapping[str, object] = field(default_factory=dict)  # shown once, to whoever asked


_TIMES = ("created_at", "expires_at", "started_at", "finished_at", "lease_expires_at")
_MAPS = ("selector", "arguments")
_NAMES = tuple(one.name for one in fields(Command))
_COLUMNS = tuple(command.c[name] for name in _NAMES)


async def find(
    connection: AsyncConnection, command_id: str | None = None, *, account: str = "", request_id: str = ""
) -> Command | None:
    """By its id, or by who asked and the id of the request."""
    query = select(*_COLUMNS)
    if command_id is not None:
        query = query.where(command.c.command_id == command_id)
    else:
        query = query.where(command.c.account == account, command.c.request_id == request_id)
    row = (await connection.execute(query)).first()
    return None if row is None else _command_of(tuple(row))


async def listed(
    connection: AsyncConnection, *, account: str | None, limit: int, running: bool = False
) -> list[Command]:
    """The newest first; `running`: those that somebody has to work on, the oldest first."""
    query = select(*_COLUMNS).limit(limit)
    if running:
        query = query.where(command.c.state == CommandState.RUNNING.value).order_by(command.c.created_at)
    else:
        query = query.order_by(command.c.created_at.desc())
    if account is not None:
        query = query.where(command.c.account == account)
    return [_command_of(tuple(row)) for row in await connection.execute(query)]


async def count_running(connection: AsyncConnection, account: str) -> int:
    """How many commands of this account somebody has to work on."""
    running = command.c.state == literal_column("'running'")  # as the partial index says it
    query = select(func.count()).select_from(command).where(running, command.c.account == account)
    return int((await connection.execute(query)).scalar_one())


async def add(connection: AsyncConnection, one: Command) -> None:
    await connection.execute(insert(command), [_row(one)])


async def put(connection: AsyncConnection, before: Command, after: Command) -> None:
    was, now = _row(before), _row(after)
    changed = {name: value for name, value in now.items() if value != was[name]}
    if changed:
        await connection.execute(update(command).where(command.c.command_id == after.command_id).values(**changed))


async def add_outcomes(connection: AsyncConnection, one: Command, outcomes: Sequence[Outcome], now: datetime) -> None:
    """A device has one outcome of a command."""
    if outcomes:
        await connection.execute(
            insert(command_outcome),
            [
                {
                    "command_id": one.command_id,
                    "device_id": of.device_id,
                    "group_id": of.group_id,
                    "serial": of.serial,
                    "result": of.result.value,
                    "code": of.code,
                    "cause": of.cause,
                    "reason": of.reason,
                    "at": to_ms(now),
                }
                for of in outcomes
            ],
        )


async def outcomes_page(
    connection: AsyncConnection, command_id: str, *, after: str, limit: int, result: Result | None = None
) -> list[Outcome]:
    of = command_outcome.c
    query = (
        select(of.device_id, of.group_id, of.serial, of.result, of.code, of.cause, of.reason)
        .where(of.command_id == command_id, of.device_id > after)
        .order_by(of.device_id)
        .limit(limit)
    )
    if result is not None:
        query = query.where(of.result == result.value)
    return [
        Outcome(row[0], row[1], row[2], Result(row[3]), row[4], row[5], row[6])
        for row in await connection.execute(query)
    ]


async def add_audit(
    connection: AsyncConnection, one: Command, now: datetime, outcome: str, cause: str | None = None
) -> None:
    """One row for the command as a whole."""
    await connection.execute(insert(audit), [_audit(one, now, outcome, cause)])


async def add_steered(connection: AsyncConnection, by: str, before: Command, after: Command, now: datetime) -> None:
    """One row for who paused, resumed or cancelled a command, or found it so."""
    outcome = Result.UNCHANGED if after.state is before.state else Result.CHANGED
    row = {
        **_audit(after, now, outcome.value, None, whole=False),
        "account": by,
        "verb": _STEERED[after.state],
        "before": _json({"state": before.state.value}),
        "after": _json({"state": after.state.value}),
    }
    await connection.execute(insert(audit), [row])


async def add_audits(
    connection: AsyncConnection,
    one: Command,
    now: datetime,
    changed: Iterable[tuple[Device | None, Device]],
    refused: Iterable[Outcome],
) -> None:
    """A row for each device: before and after, or why not. Selector and arguments stand in the command's own row."""
    rows = []
    for before, after in changed:
        was, is_ = difference(before, after)
        rows.append(
            {
                **_audit(one, now, Result.CHANGED.value, None, whole=False),
                "group_id": after.group_id,
                "serial": after.serial,
                "before": _json(was),
                "after": _json(is_),
            }
        )
    rows += [
        {
            **_audit(one, now, of.result.value, of.cause, whole=False),
            "group_id": of.group_id,
            "serial": of.serial,
            "before": None,
            "after": None,
        }
        for of in refused
    ]
    if rows:
        await connection.execute(insert(audit), rows)


def _audit(one: Command, now: datetime, outcome: str, cause: str | None, *, whole: bool = True) -> dict[str, Any]:
    return {
        "at": to_ms(now),
        "account": one.account,
        "command_id": one.command_id,
        "verb": one.verb,
        "selector": _json(one.selector) if whole else "{}",
        "arguments": _json(one.arguments) if whole else "{}",
        "outcome": ("dry run, " if one.dry_run else "") + outcome,
        "cause": cause,
    }


def _row(one: Command) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(one, name) for name in _NAMES}
    row |= {name: to_ms(row[name]) for name in _TIMES}
    row |= {name: _json(row[name]) for name in _MAPS}
    return {**row, "state": one.state.value}


def _command_of(row: tuple[Any, ...]) -> Command:
    values = dict(zip(_NAMES, row, strict=True))
    values |= {name: from_ms(values[name]) for name in _TIMES}
    values |= {name: json.loads(values[name]) for name in _MAPS}
    values |= {
        "state": CommandState(values["state"]),
        "dry_run": bool(values["dry_run"]),
        "total": values["total"] or 0,
    }
    return Command(**values)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), ensure_ascii=False, separators=(",", ":"))


def ended(one: Command, state: CommandState, now: datetime) -> Command:
    return replace(one, state=state, finished_at=now, lease_owner=None, lease_expires_at=None)
