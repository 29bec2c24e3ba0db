"""Jobs and daemons: their schedules, who wants a run, and the runs that there were.

Owns the rows of job and job_run. A run holds a lease in the database, so it never runs beside itself, whoever starts it
and from whatever process; a run whose lease lapses counts as lost. Schedules are cron expressions of five fields, UTC.
Times that passed while nobody looked, or while the last run still ran, are recorded as missed, and not made up for: each
run deals with everything that waits. What a job does is not known here; job_runs.py runs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from cronsim import CronSim, CronSimError
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.operations.notes import note
from service.operations.requests import bad_request, conflict, not_found
from service.storage.auditing import acting_for
from service.storage.database import Database
from service.storage.job_tables import job, job_run
from service.storage.rows import from_ms, to_ms

LEASE = timedelta(seconds=30)
MISSED_ROWS = 20  # of one gap; the oldest of them stands for those before it
MAX_GAP = 10_000  # times of a schedule that are counted
KEPT_RUNS = 500  # of each job
MAX_CRON_CHARS = 100


class Kind(StrEnum):
    JOB = "job"
    DAEMON = "daemon"


class RunState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"  # its process is gone
    MISSED = "missed"  # it was due, and nobody ran it


@dataclass(frozen=True, slots=True)
class Declared:
    """A job that the code has, and the schedule that it begins with (disabled)."""

    name: str
    kind: Kind
    cron: str


@dataclass(frozen=True, slots=True)
class Run:
    run_id: int
    job: str
    state: RunState
    due_at: datetime | None
    account: str | None  # who has asked for it
    started_at: datetime | None
    finished_at: datetime | None
    result: Mapping[str, Any]
    cause: str | None


@dataclass(frozen=True, slots=True)
class View:
    name: str
    kind: Kind
    enabled: bool
    cron: str | None
    next_due_at: datetime | None
    wanted_by: str | None  # somebody waits for a run
    last: Run | None  # that was not missed
    missed: int  # since the last run that was done
    running: bool


@dataclass(frozen=True, slots=True)
class Started:
    run_id: int
    name: str


async def declare(database: Database, declared: Mapping[str, Declared], now: datetime) -> None:
    """A row for each job that the code has; those that are there stay as they are."""
    async with database.read() as connection:
        known = set((await connection.execute(select(job.c.name))).scalars())
    missing = [one for name, one in declared.items() if name not in known]
    if missing:
        rows = [
            {"name": one.name, "kind": one.kind.value, "enabled": False, "cron": one.cron, "changed_at": to_ms(now)}
            for one in missing
        ]
        async with database.write(audit=False) as transaction:  # the code has them, nobody has made them
            await transaction.connection.execute(upsert(job).on_conflict_do_nothing(), rows)


async def list_all(database: Database, kind: Kind | None = None) -> list[View]:
    query = select(job).order_by(job.c.kind, job.c.name)
    if kind is not None:
        query = query.where(job.c.kind == kind.value)
    async with database.read() as connection:
        return [await _view(connection, row) for row in (await connection.execute(query)).all()]


async def show(database: Database, name: str) -> View:
    """Raises ServiceError NOT_FOUND."""
    async with database.read() as connection:
        return await _view(connection, await _row(connection, name))


async def runs(database: Database, name: str, *, limit: int = 50) -> list[Run]:
    """The newest first. Raises ServiceError NOT_FOUND."""
    async with database.read() as connection:
        await _row(connection, name)
        query = select(job_run).where(job_run.c.job == name).order_by(job_run.c.run_id.desc()).limit(min(limit, 500))
        return [_run_of(row) for row in await connection.execute(query)]


async def schedule(database: Database, name: str, cron: str, *, by: str, now: datetime) -> View:
    """Raises ServiceError NOT_FOUND, BAD_REQUEST."""
    cron = " ".join(cron.split())
    due = next_after(cron, now)
    return await _change(database, name, "schedule", by, now, cron=cron, next_due_at=to_ms(due))


async def set_enabled(database: Database, name: str, *, enabled: bool, by: str, now: datetime) -> View:
    """Times that pass while it is disabled are not missed. Raises ServiceError NOT_FOUND."""
    async with database.read() as connection:
        cron = (await _row(connection, name)).cron
    due = next_after(cron, now) if enabled and cron else None
    word = "enable" if enabled else "disable"
    return await _change(database, name, word, by, now, enabled=enabled, next_due_at=to_ms(due))


async def want(database: Database, name: str, *, by: str, now: datetime) -> View:
    """Have the service run it as soon as it does not run. Raises ServiceError NOT_FOUND."""
    return await _change(database, name, "run", by, now, run_wanted_at=to_ms(now), run_wanted_by=by)


async def begin(database: Database, name: str, *, owner: str, by: str, now: datetime) -> Started:
    """Begin a run here and now. Raises ServiceError NOT_FOUND, CONFLICT: it runs already."""
    async with database.write(audit=False) as transaction:
        connection = transaction.connection
        await _row(connection, name)
        await _lose_lapsed(connection, now)
        if await _is_running(connection, name):
            raise conflict("job_running", f"{name} is running")
        await note(connection, by, "job-run", {"name": name}, now)
        return Started(await _start(connection, name, owner, now, account=by), name)


async def take_due(database: Database, *, owner: str, now: datetime, missed_after: timedelta) -> list[Started]:
    """Begin everything that is due or asked for, and record what was missed."""
    async with database.read() as connection:
        if not await _anything(connection, now):
            return []
    started = []
    async with database.write() as transaction:
        connection = transaction.connection
        await _lose_lapsed(connection, now)
        for row in (await connection.execute(select(job).order_by(job.c.name))).all():
            run_id = await _due(connection, row, owner, now, missed_after)
            if run_id is not None:
                started.append(Started(run_id, row.name))
    return started


async def keep(database: Database, run_id: int, *, owner: str, now: datetime) -> bool:
    """Prolong the lease; false where it was lost."""
    async with database.write() as transaction:
        done = await transaction.connection.execute(
            update(job_run)
            .where(
                job_run.c.run_id == run_id, job_run.c.state == RunState.RUNNING.value, job_run.c.lease_owner == owner
            )
            .values(lease_expires_at=to_ms(now + LEASE))
        )
        return bool(done.rowcount)


async def finish(
    database: Database,
    run_id: int,
    *,
    owner: str,
    state: RunState,
    result: Mapping[str, Any],
    cause: str | None,
    now: datetime,
) -> None:
    """End a run of ours; one that was lost meanwhile stays lost."""
    of = job_run.c
    async with database.write() as transaction:
        connection = transaction.connection
        await connection.execute(
            update(job_run)
            .where(of.run_id == run_id, of.state == RunState.RUNNING.value, of.lease_owner == owner)
            .values(
                state=state.value, finished_at=to_ms(now), result=json.dumps(dict(result)), cause=cause,
                lease_owner=None, lease_expires_at=None,
            )
        )  # fmt: skip
        name = (await connection.execute(select(of.job).where(of.run_id == run_id))).scalar()
        kept = select(of.run_id).where(of.job == name).order_by(of.run_id.desc()).limit(1).offset(KEPT_RUNS)
        oldest = (await connection.execute(kept)).scalar()
        if oldest is not None:
            await connection.execute(delete(job_run).where(of.job == name, of.run_id <= oldest))


async def prune_runs(database: Database, before: datetime, *, limit: int = 1000) -> int:
    """Delete what ended, or was missed, before then and before the last run that was done: that one is always shown."""
    of, other = job_run.c, job_run.alias()
    ended = func.coalesce(of.finished_at, of.due_at)  # a run that is running has no end
    last = select(func.max(other.c.run_id)).where(other.c.job == of.job, other.c.state == RunState.DONE.value)
    old = select(of.run_id).where(
        of.state != RunState.RUNNING.value, ended < to_ms(before), of.run_id < last.scalar_subquery()
    )
    async with database.write() as transaction:
        gone = await transaction.connection.execute(delete(job_run).where(of.run_id.in_(old.limit(limit))))
        return gone.rowcount


def next_after(cron: str, now: datetime) -> datetime:
    """When a schedule is due next. Raises ServiceError BAD_REQUEST."""
    if len(cron) > MAX_CRON_CHARS or len(cron.split()) != 5:
        raise bad_request("cron_illegal", "a schedule has five fields: minute hour day month weekday, in UTC")
    try:
        return next(CronSim(cron, now))
    except (CronSimError, StopIteration) as error:
        raise bad_request("cron_illegal", f"that schedule is never due, or no schedule: {error}") from error


async def _anything(connection: AsyncConnection, now: datetime) -> bool:
    due = select(job.c.name).where(
        (job.c.enabled & (job.c.next_due_at <= to_ms(now))) | job.c.run_wanted_at.is_not(None)
    )
    lapsed = select(job_run.c.run_id).where(
        job_run.c.state == RunState.RUNNING.value, job_run.c.lease_expires_at < to_ms(now)
    )
    return any([(await connection.execute(query.limit(1))).first() is not None for query in (due, lapsed)])


async def _due(connection: AsyncConnection, row: Any, owner: str, now: datetime, missed_after: timedelta) -> int | None:
    running = await _is_running(connection, row.name)
    run_id = None
    if row.run_wanted_at is not None and not running:
        await _set(connection, row.name, run_wanted_at=None, run_wanted_by=None)
        run_id, running = await _start(connection, row.name, owner, now, account=row.run_wanted_by), True
    if not row.enabled or row.next_due_at is None or row.next_due_at > (to_ms(now) or 0):
        return run_id
    times = _times(row.cron, from_ms(row.next_due_at), now)
    await _set(connection, row.name, next_due_at=to_ms(next_after(row.cron, now)))
    in_time = now - times[-1] <= missed_after
    missed = times[:-1] if in_time else times
    await _miss(connection, row.name, missed, "nobody_ran")
    if in_time and running:
        await _miss(connection, row.name, times[-1:], "still_running")
    elif in_time:
        run_id = await _start(connection, row.name, owner, now, due_at=times[-1])
    return run_id


def _times(cron: str, first: datetime | None, now: datetime) -> list[datetime]:
    """Every time that was due from `first` up to now, at most the first ones of a very long gap."""
    assert first is not None
    found = [first]
    for at in CronSim(cron, first):
        if at > now or len(found) >= MAX_GAP:
            break
        found.append(at)
    return found


async def _miss(connection: AsyncConnection, name: str, times: list[datetime], cause: str) -> None:
    if not times:
        return
    before = len(times) - MISSED_ROWS
    rows = [
        {"job": name, "state": RunState.MISSED.value, "due_at": to_ms(at), "cause": cause, "result": "{}"}
        for at in times[-MISSED_ROWS:]
    ]
    if before > 0:
        rows[0]["result"] = json.dumps({"missed_before": before})
    await connection.execute(insert(job_run), rows)


async def _start(
    connection: AsyncConnection,
    name: str,
    owner: str,
    now: datetime,
    *,
    account: str | None = None,
    due_at: datetime | None = None,
) -> int:
    row = {
        "job": name,
        "state": RunState.RUNNING.value,
        "due_at": to_ms(due_at),
        "account": account,
        "started_at": to_ms(now),
        "lease_owner": owner,
        "lease_expires_at": to_ms(now + LEASE),
    }
    made = await connection.execute(insert(job_run).values(**row))
    assert made.inserted_primary_key is not None
    return int(made.inserted_primary_key[0])


async def _lose_lapsed(connection: AsyncConnection, now: datetime) -> None:
    await connection.execute(
        update(job_run)
        .where(job_run.c.state == RunState.RUNNING.value, job_run.c.lease_expires_at < to_ms(now))
        .values(state=RunState.LOST.value, finished_at=to_ms(now), cause="its process is gone", lease_owner=None)
    )


async def _is_running(connection: AsyncConnection, name: str) -> bool:
    query = select(job_run.c.run_id).where(job_run.c.job == name, job_run.c.state == RunState.RUNNING.value)
    return (await connection.execute(query)).first() is not None


async def _change(database: Database, name: str, word: str, by: str, now: datetime, **values: Any) -> View:
    with acting_for(by, f"job-{word}"):
        async with database.write() as transaction:
            connection = transaction.connection
            await _row(connection, name)
            await _set(connection, name, changed_at=to_ms(now), **values)
            return await _view(connection, await _row(connection, name))


async def _set(connection: AsyncConnection, name: str, **values: Any) -> None:
    await connection.execute(update(job).where(job.c.name == name).values(**values))


async def _row(connection: AsyncConnection, name: str) -> Any:
    row = (await connection.execute(select(job).where(job.c.name == name))).first()
    if row is None:
        raise not_found("job_unknown", f"no job or daemon {name[:64]!r}")
    return row


async def _view(connection: AsyncConnection, row: Any) -> View:
    of = job_run.c
    ran = select(job_run).where(of.job == row.name, of.state != RunState.MISSED.value)
    last = (await connection.execute(ran.order_by(of.run_id.desc()).limit(1))).first()
    done = select(func.coalesce(func.max(of.run_id), 0)).where(of.job == row.name, of.state == RunState.DONE.value)
    since = (await connection.execute(done)).scalar_one()
    missed = select(of.result).where(of.job == row.name, of.state == RunState.MISSED.value, of.run_id > since)
    counted = [1 + json.loads(text).get("missed_before", 0) for text in (await connection.execute(missed)).scalars()]
    return View(
        row.name,
        Kind(row.kind),
        bool(row.enabled),
        row.cron,
        from_ms(row.next_due_at),
        row.run_wanted_by,
        None if last is None else _run_of(last),
        sum(counted),
        last is not None and last.state == RunState.RUNNING.value,
    )


def _run_of(row: Any) -> Run:
    return Run(
        row.run_id,
        row.job,
        RunState(row.state),
        from_ms(row.due_at),
        row.account,
        from_ms(row.started_at),
        from_ms(row.finished_at),
        json.loads(row.result),
        row.cause,
    )
