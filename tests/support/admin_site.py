"""The administration pages and enrolment's routes on a free port of loopback, with one administrator of each role."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
from argon2 import PasswordHasher

from service.errors import Secret
from service.fleet.scheduler import Scheduler
from service.http.admin import pages
from service.http.admin.session import signed_in
from service.http.services import Services
from service.http.web import Interface, Web, open_to_all
from service.operations import administrators
from service.operations.job_runs import Job
from service.operations.verbs.verb import Role
from service.storage.database import Database
from tests.support.commands import Clock
from tests.support.web_site import client_of, web_site

PASSWORD = "correct horse battery"
INTERFACES = (Interface(pages.opening, open_to_all), Interface(pages.pages, signed_in))
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class AdminSite:
    def __init__(self, database: Database, web: Web, clock: Clock) -> None:
        self.database, self.web, self.clock = database, web, clock
        self.url = f"http://127.0.0.1:{web.port}"

    def client(self) -> httpx.AsyncClient:
        return client_of(self.web)

    @asynccontextmanager
    async def signed_in(self, name: str = "admin", password: str = PASSWORD) -> AsyncIterator[httpx.AsyncClient]:
        async with self.client() as client:
            answer = await sign_in(client, name, password)
            assert answer.status_code == 303, answer.text
            yield client


async def sign_in(client: httpx.AsyncClient, name: str, password: str) -> httpx.Response:
    page = await client.get("/admin/sign-in")
    return await client.post("/admin/sign-in", data={"name": name, "password": password, "form": field(page, "form")})


def field(page: httpx.Response, name: str) -> str:
    """The value of a form's hidden field."""
    found = re.search(rf'name="{name}" value="([0-9a-f]+)"', page.text)
    assert found is not None, page.text
    return found[1]


async def post(client: httpx.AsyncClient, path: str, page: str = "/admin/daemons", **fields: str) -> httpx.Response:
    """Send a form as the page has it."""
    return await client.post(path, data={"csrf": field(await client.get(page), "csrf"), **fields})


def a_bundle(database: Database, clock: Clock, folder: Path) -> Services:
    return Services(
        settings=cast("Any", SimpleNamespace(web=None, data_dir=folder)),
        environments={},
        database=database,
        keys=cast("Any", None),
        images=cast("Any", None),
        pipeline=cast("Any", None),
        looks=cast("Any", None),
        clock=clock,
        random_bytes=os.urandom,
    )


@asynccontextmanager
async def admin_site(database: Database, clock: Clock, folder: Path, monkeypatch: Any) -> AsyncIterator[AdminSite]:
    monkeypatch.setattr(administrators, "_hasher", QUICK)
    monkeypatch.setattr(administrators, "_NOBODY", QUICK.hash("nobody has this password"))
    for role in Role:
        await administrators.create(database, role.value, role, Secret(PASSWORD.encode()), by="local", now=clock())
    async with web_site(INTERFACES, a_bundle(database, clock, folder), rate=1000, burst=1000) as web:
        yield AdminSite(database, web, clock)


@asynccontextmanager
async def scheduling(database: Database, table: dict[str, Job], clock: Clock) -> AsyncIterator[None]:
    """The service's scheduler over these jobs."""
    task = asyncio.create_task(Scheduler(database, table, clock=clock, watch_s=0.02).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
