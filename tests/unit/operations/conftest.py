"""A database with two groups, and the commands on it."""

from __future__ import annotations

import os

import pytest

from service.operations.commands import Commands
from tests.support.commands import ENVIRONMENTS, Clock
from tests.support.storage import new_database


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def commands(database, clock):
    return Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=clock)
