"""Whatever the OpenAPI document of partners allows, and much that it does not, ends in no server error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from service.http.web import build_app
from tests.support.partner_site import INTERFACE, partner_site

schema = schemathesis.openapi.from_dict(build_app([INTERFACE]).openapi())


@dataclass
class Server:
    url: str
    token: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The interface in a thread of its own: this client blocks."""
    found: list[Server] = []
    ready = threading.Event()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with partner_site(tmp_path_factory.mktemp("partners")) as site:
            end = asyncio.Event()
            stop.append((asyncio.get_running_loop(), end))
            found.append(Server(str(site.client.base_url), site.token))
            ready.set()
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    yield found[0]
    loop, end = stop[0]
    loop.call_soon_threadsafe(end.set)
    thread.join()


@pytest.mark.parametrize("known", [True, False])
@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_ends_in_a_server_error(case: schemathesis.Case, server: Server, known: bool) -> None:
    headers = {"Service-Token": server.token} if known else {}
    response = case.call(base_url=server.url, headers=headers)
    assert response.status_code < 500, response.text
    if not known:
        assert response.status_code >= 400
