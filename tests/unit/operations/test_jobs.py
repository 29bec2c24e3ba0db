"""Jobs: schedules that survive, runs that never overlap, and what was missed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from service.errors import ServiceError
from service.fleet.scheduler import Scheduler
from service.operations import audits, job_runs, jobs
from service.operations.job_runs import Job
from service.operations.jobs import Declared, Kind, RunState

START = datetime(2030, 1, 1, 12, 0, 30, tzinfo=UTC)
NIGHTLY = Declared("nightly", Kind.JOB, "0 3 * * *")
LOAD = Declared("load", Kind.DAEMON, "*/5 * * * *")
LATE = timedelta(seconds=60)


@pytest.fixture
async def with_jobs(database):
    await jobs.declare(database, {one.name: one for one in (NIGHTLY, LOAD)}, START)
    return database


async def due(database, now: datetime, owner: str = "one") -> list[str]:
    return [one.name for one in await jobs.take_due(database, owner=owner, now=now, missed_after=LATE)]


async def enable(database, name: str = "load", now: datetime = START):
    return await jobs.set_enabled(database, name, enabled=True, by="local", now=now)


async def end(database, name: str, owner: str = "one", now: datetime = START) -> None:
    (run,) = [one for one in await jobs.runs(database, name) if one.state is RunState.RUNNING]
    await jobs.finish(database, run.run_id, owner=owner, state=RunState.DONE, result={"files": 2}, cause=None, now=now)


async def test_a_new_job_is_shown_with_its_schedule_and_does_nothing_until_it_is_enabled(with_jobs) -> None:
    names = [(one.name, one.kind, one.enabled, one.cron) for one in await jobs.list_all(with_jobs)]
    assert names == [("load", Kind.DAEMON, False, "*/5 * * * *"), ("nightly", Kind.JOB, False, "0 3 * * *")]
    assert [one.name for one in await jobs.list_all(with_jobs, Kind.JOB)] == ["nightly"]
    assert await due(with_jobs, START + timedelta(days=1)) == []
    assert (await enable(with_jobs)).next_due_at == START.replace(minute=5, second=0)
    assert await due(with_jobs, START + timedelta(minutes=4)) == []
    assert await due(with_jobs, START + timedelta(minutes=5)) == ["load"]


async def test_a_schedule_and_its_next_time_survive_a_restart(with_jobs) -> None:
    await enable(with_jobs)
    view = await jobs.schedule(with_jobs, "load", " 30  4 * * 1 ", by="alice", now=START)
    assert (view.cron, view.next_due_at) == ("30 4 * * 1", datetime(2030, 1, 7, 4, 30, tzinfo=UTC))
    await jobs.declare(with_jobs, {"load": LOAD}, START + timedelta(days=1))  # the next start of the service
    again = await jobs.show(with_jobs, "load")
    assert (again.cron, again.enabled, again.next_due_at) == (view.cron, True, view.next_due_at)
    assert await due(with_jobs, datetime(2030, 1, 7, 4, 30, 10, tzinfo=UTC)) == ["load"]
    verbs = [(one.verb, one.account) for one in await audits.page(with_jobs)]
    assert verbs == [("job-enable", "local"), ("job-schedule", "alice")]


@pytest.mark.parametrize("cron", ["", "* * * *", "* * * * * *", "61 * * * *", "0 0 31 2 *", "@daily", "x" * 200])
async def test_what_is_no_schedule_is_refused_and_changes_nothing(with_jobs, cron: str) -> None:
    with pytest.raises(ServiceError) as refused:
        await jobs.schedule(with_jobs, "load", cron, by="local", now=START)
    assert refused.value.cause == "cron_illegal"
    assert (await jobs.show(with_jobs, "load")).cron == LOAD.cron


async def test_a_run_never_overlaps_itself_and_the_time_that_passed_is_shown_as_missed(with_jobs) -> None:
    await enable(with_jobs)
    at = START.replace(minute=5)
    assert await due(with_jobs, at) == ["load"]
    with pytest.raises(ServiceError) as refused:
        await jobs.begin(with_jobs, "load", owner="two", by="local", now=at)
    assert refused.value.cause == "job_running"
    run = (await jobs.runs(with_jobs, "load"))[0]
    for second in range(0, 320, 20):
        assert await jobs.keep(with_jobs, run.run_id, owner="one", now=at + timedelta(seconds=second))
    assert await due(with_jobs, at + timedelta(minutes=5), owner="two") == []
    view = await jobs.show(with_jobs, "load")
    assert (view.running, view.missed) == (True, 1)
    await end(with_jobs, "load", now=at + timedelta(minutes=6))
    assert await due(with_jobs, at + timedelta(minutes=10), owner="two") == ["load"]


async def test_times_that_passed_while_nobody_ran_are_missed_and_not_made_up_for(with_jobs) -> None:
    await enable(with_jobs)
    assert await due(with_jobs, START + timedelta(hours=3, minutes=2)) == []  # 36 times, the last 2.5 minutes ago
    view = await jobs.show(with_jobs, "load")
    assert (view.missed, view.next_due_at) == (36, datetime(2030, 1, 1, 15, 5, tzinfo=UTC))
    missed = await jobs.runs(with_jobs, "load")
    assert len(missed) == jobs.MISSED_ROWS
    assert {one.state for one in missed} == {RunState.MISSED}
    assert await due(with_jobs, view.next_due_at) == ["load"]
    await end(with_jobs, "load")
    assert (await jobs.show(with_jobs, "load")).missed == 0  # told, and over


async def test_a_service_that_starts_just_in_time_runs_the_last_one(with_jobs) -> None:
    await enable(with_jobs)
    assert await due(with_jobs, START + timedelta(minutes=14, seconds=50)) == ["load"]  # due at 12:15:00
    assert (await jobs.show(with_jobs, "load")).missed == 2


async def test_a_run_whose_process_is_gone_is_lost_and_its_end_counts_for_nothing(with_jobs) -> None:
    started = await jobs.begin(with_jobs, "load", owner="one", by="local", now=START)
    later = START + jobs.LEASE + timedelta(seconds=1)
    again = await jobs.begin(with_jobs, "load", owner="two", by="local", now=later)
    assert not await jobs.keep(with_jobs, started.run_id, owner="one", now=later)
    await jobs.finish(with_jobs, started.run_id, owner="one", state=RunState.DONE, result={}, cause=None, now=later)
    states = [(one.run_id, one.state) for one in await jobs.runs(with_jobs, "load")]
    assert states == [(again.run_id, RunState.RUNNING), (started.run_id, RunState.LOST)]


async def test_somebody_may_want_a_run_of_a_disabled_job(with_jobs) -> None:
    await jobs.want(with_jobs, "nightly", by="alice", now=START)
    assert (await jobs.show(with_jobs, "nightly")).wanted_by == "alice"
    assert await due(with_jobs, START) == ["nightly"]
    assert await due(with_jobs, START) == []
    (run,) = await jobs.runs(with_jobs, "nightly")
    assert (run.account, run.due_at) == ("alice", None)
    with pytest.raises(ServiceError):
        await jobs.want(with_jobs, "nobody", by="alice", now=START)


async def test_old_runs_go(with_jobs, monkeypatch) -> None:
    monkeypatch.setattr(jobs, "KEPT_RUNS", 3)
    for _ in range(6):
        await jobs.begin(with_jobs, "load", owner="one", by="local", now=START)
        await end(with_jobs, "load")
    assert len(await jobs.runs(with_jobs, "load")) == 3


def a_job(work, declared: Declared = LOAD) -> Job:
    return Job(declared, work)


async def finished(database, name: str = "load"):
    async with asyncio.timeout(30):
        while True:
            found = await jobs.runs(database, name)
            if found and found[0].state is not RunState.RUNNING:
                return found[0]
            await asyncio.sleep(0.01)


async def test_the_scheduler_runs_what_is_due_and_stores_what_came_of_it(database) -> None:
    now = START

    async def work():
        return {"files": 3}

    async def broken():
        raise RuntimeError("a secret")

    async def refusing():
        raise ServiceError("CONFLICT", "there is no key yet", cause="x")

    table = {
        "load": a_job(work),
        "broken": a_job(broken, Declared("broken", Kind.JOB, "* * * * *")),
        "refusing": a_job(refusing, Declared("refusing", Kind.JOB, "* * * * *")),
    }
    scheduler = Scheduler(database, table, clock=lambda: now, watch_s=0.01)
    await jobs.declare(database, {name: one.declared for name, one in table.items()}, now)
    await enable(database)
    task = asyncio.create_task(scheduler.run())
    try:
        now = START.replace(minute=5)
        run = await finished(database)
        assert (run.state, run.result, run.due_at) == (RunState.DONE, {"files": 3}, now.replace(second=0))
        for name, why in (("broken", "a fault of the service"), ("refusing", "there is no key yet")):
            await jobs.want(database, name, by="local", now=now)
            run = await finished(database, name)
            assert (run.state, run.cause) == (RunState.FAILED, why)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_service_that_stops_ends_its_runs_as_failed(database) -> None:
    begun = asyncio.Event()

    async def work():
        begun.set()
        await asyncio.sleep(3600)
        return {}

    scheduler = Scheduler(database, {"load": a_job(work)}, clock=lambda: START, watch_s=0.01)
    await jobs.declare(database, {"load": LOAD}, START)
    await jobs.want(database, "load", by="local", now=START)
    task = asyncio.create_task(scheduler.run())
    async with asyncio.timeout(30):
        await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (run,) = await jobs.runs(database, "load")
    assert (run.state, run.cause) == (RunState.FAILED, "stopped")


async def test_a_run_whose_lease_was_taken_stops_working(with_jobs) -> None:
    stopped = asyncio.Event()

    async def work():
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    started = await jobs.begin(with_jobs, "load", owner="one", by="local", now=START)
    later = START + jobs.LEASE + timedelta(seconds=1)
    await jobs.begin(with_jobs, "load", owner="two", by="local", now=later)
    async with asyncio.timeout(30):
        state = await job_runs.run(with_jobs, a_job(work), started, owner="one", clock=lambda: later, keep_s=0.01)
    assert state is RunState.LOST
    assert stopped.is_set()
