"""What has ended goes after its time, and nothing that is open; a file is never taken twice, however long ago it was."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from sqlalchemy import insert

from service.operations import configuration, jobs
from service.operations.enrolment import adopting, folders, requesting, upkeep, wishes
from service.operations.enrolment.table import DECLARED
from service.storage.enrolment_tables import enrolment_batch, enrolment_device, enrolment_transaction, workflow_event
from service.storage.job_tables import job_run, taken_file
from service.storage.rows import to_ms
from tests.support.commands import rows_of
from tests.support.enrolment import (
    ENROLLED,
    SENT,
    EnrolmentSite,
    answer_by_file,
    enrolment_site,
    file_provider,
)

LONG = timedelta(days=401)


@pytest.fixture
async def site(database, commands, tmp_path, clock) -> EnrolmentSite:
    made = await enrolment_site(database, commands, tmp_path / "enrolment", clock)
    await file_provider(made)
    made.working.config["enrolment.files_kept_d"] = 3650  # by the machine's clock; the test's is years ahead
    return made


async def enrolled(site: EnrolmentSite, *serials: str) -> None:
    """One request by file, and its answer."""
    await site.dispatch(*serials, provider="billing")
    await site.run("enrolment-request", "extract")
    await answer_by_file(site, "COMPLETE")
    await site.run("load", "enrolment-response")
    site.clock.now += timedelta(minutes=1)


async def test_what_has_ended_goes_and_the_order_stands_as_before(site: EnrolmentSite) -> None:
    site.working.config["enrolment.events_on_success"] = True
    await enrolled(site, "T-1")
    await enrolled(site, "T-2")
    site.clock.now += timedelta(days=399)
    assert await upkeep.run(site.working) == {}
    before = await site.order()
    site.clock.now += timedelta(days=2)
    gone = await upkeep.run(site.working)
    assert gone == {"transactions": 1, "batches": 3, "events": 2, "hashes": 2}
    assert await site.order() == before  # held, by the one transaction that stays
    assert [row["request_type"] for row in await rows_of(site.database, enrolment_transaction)] == ["OV"]
    assert {row["serial"] for row in await rows_of(site.database, enrolment_device)} == {"T-1", "T-2"}
    assert await rows_of(site.database, workflow_event) == []
    assert await upkeep.run(site.working) == {}
    await adopting.void(site.working, "SO-1", by="local")
    assert await requesting.run(site.working) == {"VD": 1, "batches": 1}


async def test_what_is_open_stays_however_old_it_is(site: EnrolmentSite) -> None:
    await site.dispatch("T-1", provider="billing")
    await site.run("enrolment-request", "extract")
    site.clock.now += LONG
    assert await upkeep.run(site.working) == {}
    assert (await site.states())[""] == SENT
    await answer_by_file(site, "COMPLETE")
    await site.run("load", "enrolment-response")
    assert (await site.states())[""] == ENROLLED


async def test_refusals_since_the_last_success_stay(site: EnrolmentSite) -> None:
    await site.dispatch("T-1", provider="billing")
    for _ in range(2):
        await site.run("enrolment-request", "extract")
        await answer_by_file(site, "ERROR")
        await site.run("load", "enrolment-response")
        site.clock.now += timedelta(minutes=1)
        await wishes.retry(site.database, "SO-1", by="local", now=site.clock())
    site.clock.now += LONG
    await upkeep.run(site.working)
    assert (await site.order()).doubtful
    assert len(await rows_of(site.database, enrolment_transaction)) == 2


async def test_a_file_is_not_taken_twice_when_its_hash_is_gone(site: EnrolmentSite) -> None:
    await site.dispatch("T-1", provider="billing")
    await site.run("enrolment-request", "extract")
    await answer_by_file(site, "COMPLETE")
    inbox, (name,) = site.folder / "inbox", site.files("inbox")
    kept = {one.name: one.read_bytes() for one in (inbox / "billing").iterdir()}
    site.clock.now += timedelta(hours=20)  # it lay there for a while
    await site.run("load", "enrolment-response")
    for day in (1, 397, 1, 1, 1, 200):  # from when it is known, to long after it was forgotten
        site.clock.now += timedelta(days=day)
        await upkeep.run(site.working)
        for file, data in kept.items():
            (inbox / "billing" / file).write_bytes(data)
        came_of = await site.run("load")
        assert came_of in ({"repeated": 1}, {"failed": 1}), day
        assert [row["direction"] for row in await rows_of(site.database, enrolment_batch)].count("response") <= 1
    assert came_of == {"failed": 1}
    assert name.startswith("billing/")
    assert await rows_of(site.database, taken_file) != []  # of the last try


async def test_a_document_of_a_time_to_come_is_refused(site: EnrolmentSite) -> None:
    await site.dispatch("T-1", provider="billing")
    await site.run("enrolment-request", "extract")
    await answer_by_file(site, "COMPLETE")
    site.clock.now -= timedelta(hours=23)
    back = site.clock()
    site.clock.now -= timedelta(hours=2)
    site.working.config["enrolment.settle_s"] = -(10**9)  # the files are of now
    assert await site.run("load") == {"failed": 1}
    site.clock.now = back
    assert (await site.states())[""] == SENT


async def test_files_go_with_their_reports(site: EnrolmentSite) -> None:
    await enrolled(site, "T-1")
    folder = site.folder / "done/load/billing"
    (file,) = folder.glob("*.p7m")
    (folder / "notes.txt").write_text("an operator's")
    assert len(list(folder.iterdir())) == 4
    now = site.clock()
    at = (now - timedelta(days=89)).timestamp()
    os.utime(f"{file}.report.json", (at, at))
    assert folders.prune(site.folder, now - timedelta(days=90)) == 0
    assert folders.prune(site.folder, now - timedelta(days=88)) == 1
    assert [one.name for one in folder.iterdir()] == ["notes.txt"]
    assert len(site.files("outbox")) == 1  # the platform's


async def test_runs_go_and_the_last_good_one_stays(site: EnrolmentSite) -> None:
    now = site.clock()
    await jobs.declare(site.database, DECLARED, now)
    states = ["done", "failed", "done", "missed", "running"]
    rows = [
        {"job": "load", "state": state, "due_at": to_ms(now), "started_at": to_ms(now),
         "finished_at": None if state in ("running", "missed") else to_ms(now)}
        for state in states
    ]  # fmt: skip
    async with site.database.write() as transaction:
        await transaction.connection.execute(insert(job_run), rows)
    before = await jobs.show(site.database, "load")
    site.clock.now += timedelta(days=91)
    assert await upkeep.run(site.working) == {"runs": 2}
    assert [row["state"] for row in await rows_of(site.database, job_run)] == ["done", "missed", "running"]
    assert await jobs.show(site.database, "load") == before


async def test_times_are_configured(site: EnrolmentSite) -> None:
    await enrolled(site, "T-1")
    await configuration.put(site.database, "enrolment.history_kept_d", "2", by="local", now=site.clock())
    site.working.config.update(await configuration.values(site.database))
    site.clock.now += timedelta(days=3)
    site.working.config["enrolment.files_kept_d"] = 3650
    assert await upkeep.run(site.working) == {"batches": 1}
