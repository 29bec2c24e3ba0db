"""One site for a file's tests: the service in the test's process, its embedded brokers on real sockets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from service.app import Application
from tests.support.site import Site, made_site

IMAGE = os.urandom(100_000)


@dataclass(frozen=True)
class Running:
    site: Site
    service: Application

    async def settled(self, name: str) -> int:
        """How often so far, while nothing comes in: what is on its way to the database is waited for."""
        await self.service.pipeline.ticker.flush()
        async with self.service.database.write() as transaction:
            transaction.abandon()
        return self.counted(name)

    def counted(self, name: str) -> int:
        """How often at least: what is just being written is in neither place."""
        stored = dict(self.site.query("SELECT name, value FROM counter"))
        return stored.get(name, 0) + self.service.pipeline.record._counters[name]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with made_site(tmp_path_factory.mktemp("site")) as site:
        await site.register([f"sn-{number}" for number in range(20)])
        await site.add_version("1.0", 1, b"the old one" * 1000, target=False)
        await site.add_version("2.0", 2, IMAGE)
        async with site.serving_here() as service:
            yield Running(site, service)


@pytest.fixture(autouse=True)
def _audited_while_it_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    site = request.getfixturevalue("running").site if "running" in request.fixturenames else None
    yield
    if site is not None:
        site.audit()
