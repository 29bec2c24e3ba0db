"""One run of a job, from its lease to its end. The scheduler of a service runs it, and so does `firstlight job run`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from service.errors import ServiceError
from service.operations import jobs
from service.operations.jobs import Declared, RunState, Started
from service.storage.database import Database

log = logging.getLogger("firstlight.jobs")
KEEP_S = jobs.LEASE.total_seconds() / 4

Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Job:
    """What a job is and does: counts of what came of it."""

    declared: Declared
    work: Callable[[], Awaitable[Counts]]


async def run(
    database: Database, job: Job, started: Started, *, owner: str, clock: Callable[[], datetime], keep_s: float = KEEP_S
) -> RunState:
    """Work it off, keeping its lease; what it raises ends the run as failed and goes no further."""
    state = RunState.FAILED
    result: dict[str, int] = {}
    cause: str | None = "stopped"
    working = asyncio.ensure_future(job.work())
    keeping = asyncio.create_task(_keep(database, started, owner, clock, keep_s), name=f"lease of {started.name}")
    try:
        await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            cause = "its lease was lost"
            return RunState.LOST
        try:
            state, result, cause = RunState.DONE, dict(working.result()), None
        except ServiceError as error:
            cause = error.public
            log.warning("%s failed: %s", started.name, error)
        except Exception:
            cause = "a fault of the service"
            log.exception("%s failed", started.name)
        return state
    finally:
        for task in (working, keeping):
            task.cancel()
        await asyncio.gather(working, keeping, return_exceptions=True)
        await jobs.finish(database, started.run_id, owner=owner, state=state, result=result, cause=cause, now=clock())


async def _keep(database: Database, started: Started, owner: str, clock: Callable[[], datetime], keep_s: float) -> None:
    """Ends when the lease is lost."""
    while True:
        await asyncio.sleep(keep_s)
        try:
            if not await jobs.keep(database, started.run_id, owner=owner, now=clock()):
                return
        except ServiceError as error:
            log.warning("the lease of %s waits: %s", started.name, error)  # there are further tries before it lapses
