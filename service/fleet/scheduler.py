"""The scheduler: begins every job that is due or asked for, in the running service.

Owns the loop. What is due, and that no job runs beside itself, is decided in the database (operations/jobs.py), so several
services and the command line do not disturb each other.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from service.errors import ServiceError
from service.operations import configuration, job_runs, jobs
from service.operations.job_runs import Job
from service.storage.database import Database

log = logging.getLogger("firstlight.scheduler")
WATCH_S = 1.0


class Scheduler:
    """`run` it in a task; cancelled, it ends the runs under way as failed."""

    def __init__(
        self,
        database: Database,
        table: Mapping[str, Job],
        *,
        clock: Callable[[], datetime],
        watch_s: float = WATCH_S,
    ) -> None:
        self._database = database
        self._table = table
        self._clock = clock
        self._watch_s = watch_s
        self._owner = secrets.token_hex(8)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            declared = False
            while True:
                try:
                    if not declared:
                        await jobs.declare(
                            self._database, {name: one.declared for name, one in self._table.items()}, self._clock()
                        )
                        declared = True
                    await self._look(group)
                except ServiceError as error:
                    log.warning("the jobs wait: %s", error)
                await asyncio.sleep(self._watch_s)

    async def _look(self, group: asyncio.TaskGroup) -> None:
        config = await configuration.values(self._database)
        missed_after = timedelta(seconds=config["jobs.missed_after_s"])
        started = await jobs.take_due(self._database, owner=self._owner, now=self._clock(), missed_after=missed_after)
        for one in started:
            group.create_task(self._work(one), name=f"job {one.name}")

    async def _work(self, started: jobs.Started) -> None:
        job = self._table.get(started.name)
        try:
            if job is None:  # a row of a version that had this job
                await jobs.finish(
                    self._database, started.run_id, owner=self._owner, state=jobs.RunState.FAILED, result={},
                    cause="there is no such job in this version", now=self._clock(),
                )  # fmt: skip
                return
            await job_runs.run(self._database, job, started, owner=self._owner, clock=self._clock)
        except ServiceError as error:
            log.warning("the end of %s could not be stored: %s", started.name, error)  # its lease lapses
        except Exception:  # one job must not end the others, or the service
            log.exception("the run of %s broke off", started.name)
