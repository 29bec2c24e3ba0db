"""History is let go of after its time: whole, the oldest first, bit by bit, and nothing that is younger."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import insert, select

from service.storage.operator_tables import audit, command, command_outcome, event
from service.storage.upkeep import Upkeep
from tests.support.pipeline_site import running
from tests.support.storage import NOW, new_database

DAY_MS = 86_400_000


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


def days_ago(days):
    return int(NOW.timestamp() * 1000) - days * DAY_MS


def a_command(name, *, state="done", created=100, finished=None):
    return {
        "command_id": name,
        "account": "anna",
        "request_id": name,
        "digest": b"d",
        "verb": "block",
        "selector": "{}",
        "arguments": "{}",
        "dry_run": False,
        "state": state,
        "created_at": days_ago(created),
        "finished_at": None if finished is None else days_ago(finished),
    }


async def write(database, table, rows):
    async with database.write() as transaction:
        await transaction.connection.execute(insert(table), rows)


async def kept(database, column):
    async with database.read() as connection:
        return list((await connection.execute(select(column).order_by(column))).scalars())


async def prune(database, *, days=90, audit_days=90, limit=2000):
    before = NOW - timedelta(days=days)
    return await Upkeep(database).prune_history(
        events_before=before, commands_before=before, audit_before=NOW - timedelta(days=audit_days), limit=limit
    )


async def test_events_go_oldest_first_and_their_numbers_never_come_back(database):
    rows = [{"at": days_ago(age), "kind": "moved", "group_id": "g", "serial": "s", "data": "{}"} for age in (99, 95, 1)]
    await write(database, event, rows)
    assert await prune(database, limit=1) == 1
    assert await kept(database, event.c.seq) == [2, 3]
    assert await prune(database) == 1
    assert await prune(database) == 0
    assert await prune(database, days=0) == 1
    await write(database, event, rows[:1])
    assert await kept(database, event.c.seq) == [4]


async def test_a_command_goes_with_its_outcomes_and_only_when_it_is_finished(database):
    commands = [
        a_command("old", finished=91),
        a_command("young", finished=89),
        a_command("open", state="running"),
        a_command("paused", state="paused"),
    ]
    await write(database, command, commands)
    outcomes = [
        {"command_id": of, "device_id": f"d{k}", "group_id": "g", "serial": "s", "result": "changed", "at": 1}
        for of in ("old", "young")
        for k in range(5)
    ]
    await write(database, command_outcome, outcomes)
    assert [await prune(database, limit=2) for _ in range(4)] == [2, 2, 2, 0]  # the command counts with its last ones
    assert await kept(database, command.c.command_id) == ["open", "paused", "young"]
    assert await kept(database, command_outcome.c.command_id) == ["young"] * 5


async def test_the_audit_has_a_time_of_its_own(database):
    row = {"account": "anna", "verb": "block", "selector": "{}", "arguments": "{}", "outcome": "changed"}
    await write(database, audit, [{**row, "at": days_ago(age)} for age in (500, 399)])
    assert await prune(database, audit_days=400) == 1
    assert await kept(database, audit.c.at) == [days_ago(399)]


async def test_what_only_looked_goes_with_the_commands_and_other_rows_stay_between(database):
    row = {"account": "anna", "verb": "list", "selector": "{}", "arguments": "{}", "outcome": "looked"}
    refused, changed = ({**row, "outcome": outcome, "at": days_ago(96)} for outcome in ("refused", "changed"))
    looks = [{**row, "at": days_ago(age)} for age in (97, 95, 91, 89)]
    await write(database, audit, [looks[0], refused, changed, *looks[1:]])
    assert [await prune(database, audit_days=400, limit=2) for _ in range(4)] == [1, 1, 1, 0]
    assert await kept(database, audit.c.seq) == [2, 3, 6]
    assert await prune(database, audit_days=400, days=88) == 1
    await write(database, audit, looks[:1])
    assert await kept(database, audit.c.seq) == [2, 3, 7]


async def test_the_clock_prunes_by_what_the_installation_keeps(tmp_path):
    async with running(tmp_path) as site:
        await site.pipeline.ticker.tick()
        now, bounds = site.clock.wall(), site.pipeline.bounds
        seconds = [(now - before).total_seconds() for before in site.upkeep.history_kept_from]
        assert seconds == [bounds.events_kept_s, bounds.commands_kept_s, bounds.audit_kept_s]
