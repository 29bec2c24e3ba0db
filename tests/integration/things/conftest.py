"""A running service with the thing API on a free port of loopback: in this process, or as one of its own."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest_asyncio

from service.domain.group import Reactivation
from service.operations import devices
from service.settings import load_settings
from tests.support.http_device import HttpDevice
from tests.support.installation import free_ports
from tests.support.site import GROUP, Site, made_site

IMAGE = secrets.token_bytes(200_003)  # five pages, the last one short
WEB = "\n[web]\nport = {port}\nrate = 10000\nburst = 10000\n"


class Place:
    def __init__(self, site: Site, client: httpx.AsyncClient, version_id: str) -> None:
        self.site, self.client, self.version_id = site, client, version_id

    async def device(self, serial: str, group_id: str = GROUP) -> HttpDevice:
        """A registered device that knows its key."""
        await self.site.register([serial], group_id)
        return HttpDevice(self.client, group_id, serial, self.site.keys[group_id, serial])

    async def activated(self, serial: str) -> HttpDevice:
        made = await self.device(serial)
        assert (await made.activate()).status_code == 200
        return made

    async def block(self, serial: str) -> None:
        async with self.site.database() as database:
            await devices.block(database, f"{GROUP}/{serial}", now=datetime.now(UTC), trace_id="0" * 16)


@asynccontextmanager
async def made_place(folder: Path, *, process: bool) -> AsyncIterator[Place]:
    async with made_site(folder, reactivation=Reactivation.OPEN) as site:
        (port,) = free_ports(1)
        site.config.write_text(site.config.read_text() + WEB.format(port=port))
        site.settings = load_settings(site.config)
        version_id = await site.add_version("2.0", 2, IMAGE)
        async with AsyncExitStack() as stack:
            if process:
                await site.start_service(level="debug")
            else:
                await stack.enter_async_context(site.serving_here())
            base = f"http://127.0.0.1:{port}"
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=base, trust_env=False, timeout=60))
            yield Place(site, client, version_id)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory) -> AsyncIterator[Place]:
    async with made_place(tmp_path_factory.mktemp("things"), process=False) as made:
        yield made


@pytest_asyncio.fixture
async def served(tmp_path) -> AsyncIterator[Place]:
    """As a process, which writes its log with everything in it."""
    async with made_place(tmp_path, process=True) as made:
        yield made
