"""Watching an order until all of it is out of box."""

from __future__ import annotations

import asyncio
import io
import os
from dataclasses import replace

import pytest

from service.cli.warehouse import follow
from service.cli.warehouse_display import PlainLines
from service.domain.warehouse import Step
from service.operations.commands import Commands
from service.storage.database import Database
from tests.support.commands import ENVIRONMENTS, Clock
from tests.support.storage import a_sealer, new_database
from tests.support.warehouse import Warehouse, put_unit, unit_of


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    house = Warehouse(Commands(opened, ENVIRONMENTS, random_bytes=os.urandom, clock=Clock()))
    await house.furnish("t-1", "t-2")
    await house.done("hand-over", order="SO-1")
    yield opened
    await opened.close()


@pytest.fixture
async def service(database):
    """A second opening, as the running service has it."""
    opened = await Database.open(database.path, a_sealer())
    yield opened
    await opened.close()


class Seen(PlainLines):
    """Plain lines, and an event for each look."""

    def __init__(self, out: io.StringIO) -> None:
        super().__init__(out)
        self.looked = asyncio.Event()
        self.closed = False

    def show(self, found):
        super().show(found)
        self.looked.set()

    def close(self):
        self.closed = True


async def test_an_order_is_followed_until_every_unit_is_out_of_box(database, service):
    out = io.StringIO()
    display = Seen(out)
    task = asyncio.create_task(follow(database, "SO-1", display, 0.001))
    await display.looked.wait()
    for serial, step in (("t-1", Step.STAGED), ("t-1", Step.OUT_OF_BOX), ("t-2", Step.OUT_OF_BOX)):
        unit = await unit_of(service, serial)
        display.looked.clear()
        await put_unit(service, replace(unit, step=step))
        await display.looked.wait()
    last = await task
    assert last.is_done
    assert display.closed
    lines = out.getvalue().splitlines()
    assert [line for line in lines if not line.startswith("SO-1")] == [
        "line-2/t-1 staged", "line-2/t-1 out_of_box", "line-2/t-2 out_of_box",
    ]  # fmt: skip
    assert lines[-1] == "SO-1: 2 of 2 out of box (2 out_of_box)"


async def test_a_terminal_is_left_as_it_was_when_watching_is_ended(database):
    display = Seen(io.StringIO())
    task = asyncio.create_task(follow(database, "SO-1", display, 0.001))
    await display.looked.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert display.closed


async def test_one_look_is_enough_where_that_is_asked_for(database):
    found = await follow(database, "SO-1", Seen(io.StringIO()), None)
    assert dict(found.steps) == {"received": 2}
