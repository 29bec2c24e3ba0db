"""Every job and daemon of enrolment by its name, with the schedule that it begins with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

from service.operations import configuration
from service.operations.enrolment import extract, load, requesting, responding, transformation, upkeep
from service.operations.enrolment.working import Ask, Working
from service.operations.job_runs import Job
from service.operations.jobs import Declared, Kind
from service.storage.database import Database

_WORK: Mapping[str, tuple[Kind, str, Callable[[Working], Awaitable[Counter[str]]]]] = {
    "enrolment-request": (Kind.JOB, "*/15 * * * *", requesting.run),
    "enrolment-response": (Kind.JOB, "*/5 * * * *", responding.run),
    "enrolment-upkeep": (Kind.JOB, "17 3 * * *", upkeep.run),
    "extract": (Kind.DAEMON, "*/5 * * * *", extract.run),
    "load": (Kind.DAEMON, "*/5 * * * *", load.run),
    "transformation": (Kind.DAEMON, "*/5 * * * *", transformation.run),
}
DECLARED: Mapping[str, Declared] = {name: Declared(name, kind, cron) for name, (kind, cron, _) in _WORK.items()}


class Table:
    """The jobs on one installation; each run takes the configuration as it is then."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        ask: Ask,
        *,
        clock: Callable[[], datetime],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._database = database
        self._folder = folder
        self._ask = ask
        self._clock = clock
        self._random_bytes = random_bytes

    @property
    def jobs(self) -> Mapping[str, Job]:
        return {name: Job(DECLARED[name], partial(self._work, work)) for name, (_, _, work) in _WORK.items()}

    async def working(self) -> Working:
        config = await configuration.values(self._database)
        return Working(self._database, self._folder, self._ask, self._clock, self._random_bytes, config)

    async def _work(self, work: Callable[[Working], Awaitable[Counter[str]]]) -> Counter[str]:
        return await work(await self.working())
