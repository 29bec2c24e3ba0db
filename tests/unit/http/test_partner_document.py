"""Whatever the OpenAPI document of partners allows, and much that it does not, is answered as the document says.

FIRSTLIGHT_EXAMPLES sets how many cases each operation gets (15).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.http.web import build_app
from tests.support.partner_site import INTERFACE, partner_site

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = int(os.environ.get("FIRSTLIGHT_EXAMPLES", "15"))
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
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_request_is_answered_as_the_document_says(case: schemathesis.Case, server: Server, known: bool) -> None:
    headers = {"Service-Token": server.token} if known else {}
    response = case.call_and_validate(base_url=server.url, headers=headers, checks=CHECKS)
    if not known:
        assert response.status_code >= 400
