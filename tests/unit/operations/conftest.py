"""A database with two groups, the commands on it, and a release key with an image to sign."""

from __future__ import annotations

import os

import pytest

from service.images.files import ImageFiles
from service.operations import releases
from service.operations.commands import Commands
from tests.support.commands import ENVIRONMENTS, Clock
from tests.support.storage import NOW, new_database


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


@pytest.fixture
def images(tmp_path):
    return ImageFiles(tmp_path / "images")


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "release.pem"
    releases.keygen(path)
    return path


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.bin"
    path.write_bytes(b"firmware" * 100)
    return path


@pytest.fixture
async def trusted(database, key):
    public = releases.read_public_key(key.with_name("release.pem.pub"))
    return await releases.add_key(database, public, "main", now=NOW)
