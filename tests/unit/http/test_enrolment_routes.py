"""What enrolment's partners post: tokens, bodies, and answers that are as the OpenAPI document says.

FIRSTLIGHT_EXAMPLES sets how many cases each operation gets (15).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.http import enrolment
from service.http.web import Interface, build_app
from service.operations import audits
from service.operations.commands import Commands
from service.operations.enrolment import providers, tokens
from service.operations.enrolment.generic import MAX_ORDERS
from tests.support.admin_site import a_bundle
from tests.support.commands import ENVIRONMENTS, Clock
from tests.support.enrolment import PENDING, EnrolmentSite, enrolment_site
from tests.support.storage import new_database
from tests.support.web_site import client_of, web_site

INBOUND, DISPATCH = enrolment.INBOUND_PATH, enrolment.DISPATCH_PATH
INTERFACES = (
    Interface(enrolment.inbound, enrolment.provider_guard, {INBOUND: enrolment.MAX_BODY_BYTES}),
    Interface(enrolment.dispatching, enrolment.dispatch_guard, {DISPATCH: 100_000}),
)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = int(os.environ.get("FIRSTLIGHT_EXAMPLES", "15"))
schema = schemathesis.openapi.from_dict(build_app(INTERFACES).openapi())


class Posting:
    def __init__(self, site: EnrolmentSite, client: httpx.AsyncClient, provider: str, business: str) -> None:
        self.site, self.client = site, client
        self.tokens = {INBOUND: provider, DISPATCH: business}

    async def post(self, path: str, body: object, token: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.tokens[path] if token is None else token}"}
        return await self.client.post(path, json=body, headers=headers)


@asynccontextmanager
async def posting(folder: Path) -> AsyncIterator[Posting]:
    database = await new_database(folder / "firstlight.db")
    clock = Clock()
    made = {"by": "local", "random_bytes": os.urandom}
    try:
        commands = Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=clock)
        site = await enrolment_site(database, commands, folder / "enrolment", clock)
        dep = await providers.rotate_token(database, "dep", **made)
        business = await tokens.rotate(database, now=clock(), **made)
        bundle = a_bundle(database, clock, folder)
        async with web_site(INTERFACES, bundle, rate=1000, burst=5000) as web, client_of(web) as client:
            yield Posting(site, client, dep.reveal().decode(), business.reveal().decode())
    finally:
        await database.close()


@pytest.fixture
async def posted(tmp_path: Path):
    async with posting(tmp_path) as made:
        yield made


def an_order(*serials: str, order: str = "SO-1") -> dict[str, object]:
    wish = {"providerId": "dep", "organisation": "venue-9"}
    return {"orderId": order, "lines": [{"line": 1, "serials": list(serials)}], "enrolment": wish}


async def test_a_dispatched_order_is_taken_and_again_without_harm(posted: Posting) -> None:
    for bound, already in ((2, 0), (0, 2)):
        answer = await posted.post(DISPATCH, an_order("T-1", "T-2"))
        assert answer.status_code == 200
        (one,) = answer.json()["orders"]
        assert (one["bound"], one["already"], one["enrolment"]) == (bound, already, PENDING)
    assert {one.account for one in await audits.page(posted.site.database) if one.verb == "order-dispatch"} == {
        "business-system"
    }


async def test_of_several_orders_each_is_taken_or_refused_by_itself(posted: Posting) -> None:
    answer = await posted.post(DISPATCH, [an_order("T-1"), an_order("T-2", order="SO-9"), an_order("T-3")])
    found = [(one["order_id"], one["bound"], one["code"]) for one in answer.json()["orders"]]
    assert found == [("SO-1", 1, None), ("SO-9", 0, "NOT_FOUND"), ("SO-1", 1, None)]
    assert (await posted.post(DISPATCH, an_order(order="SO-9"))).status_code == 404
    assert (await posted.post(DISPATCH, [an_order()] * (MAX_ORDERS + 1))).status_code == 413


@pytest.mark.parametrize("path", [INBOUND, DISPATCH])
async def test_without_the_right_token_nothing_is_looked_at(posted: Posting, path: str) -> None:
    other = posted.tokens[DISPATCH if path == INBOUND else INBOUND]
    said = set()
    for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Basic {posted.tokens[path]}"},
                    {"Authorization": f"Bearer {other}"}, {"Authorization": "Bearer x" * 50}):  # fmt: skip
        answer = await posted.client.post(path, json={"nonsense": 1}, headers=headers)
        said.add((answer.status_code, answer.json()["code"], answer.json()["reason"]))
    assert said == {(401, "REFUSED", "refused")}


async def test_a_new_token_ends_the_old_one(posted: Posting) -> None:
    made = {"by": "local", "random_bytes": os.urandom}
    await tokens.rotate(posted.site.database, now=posted.site.clock(), **made)
    await providers.rotate_token(posted.site.database, "dep", **made)
    for path in (INBOUND, DISPATCH):
        assert (await posted.post(path, {})).status_code == 401


async def test_a_disabled_provider_posts_nothing(posted: Posting) -> None:
    await providers.set_enabled(posted.site.database, "dep", enabled=False, by="local", now=posted.site.clock())
    assert (await posted.post(INBOUND, {})).status_code == 401


async def test_a_provider_s_answer_is_taken_over_http(posted: Posting) -> None:
    site = posted.site
    await posted.post(DISPATCH, an_order("T-1"))
    await site.round()
    assert (
        await posted.post(INBOUND, {"deviceEnrollmentTransactionId": "ref-1", "statusCode": "IN_PROGRESS"})
    ).json() == {"status": "in_progress"}
    for status in ("taken", "repeated"):
        answer = await posted.post(INBOUND, site.provider.result("ref-1"))
        assert (answer.status_code, answer.json()) == (202, {"status": status})
    site.clock.now += timedelta(seconds=10)
    await site.run("load", "enrolment-response")
    assert (await site.states())[""] == "enrolled"
    assert (await posted.post(INBOUND, {"deviceEnrollmentTransactionId": "ref-9"})).status_code == 404
    assert (await posted.post(INBOUND, {})).status_code == 404


async def test_bodies_have_their_bounds_and_their_form(posted: Posting) -> None:
    large = {**an_order(), "lines": [{"line": 1, "serials": [f"T-{n}" for n in range(30000)]}]}
    assert (await posted.post(DISPATCH, large)).status_code == 413
    for body in ([], 7, None, "x", {"orderId": "SO-1", "more": 1}, {"orderId": "SO-1", "lines": [{"line": 0}]}):
        answer = await posted.post(DISPATCH, body)
        assert answer.status_code in (200, 400), body
        assert answer.status_code == (200 if body == [] else 400), body


async def test_what_is_taken_is_answered_as_the_document_says(posted: Posting) -> None:
    """What is made at random is seldom an order or a transaction that there is."""
    orders = [an_order("T-1"), an_order("T-2", order="SO-9")]  # one that is taken and one that is refused
    answers = [(DISPATCH, await posted.post(DISPATCH, orders))]
    await posted.site.round()
    result = posted.site.provider.result("ref-1")
    answers += [(INBOUND, await posted.post(INBOUND, result)) for _ in range(2)]
    answers.append((INBOUND, await posted.post(INBOUND, {"deviceEnrollmentTransactionId": "ref-9"})))
    assert [one.status_code for _, one in answers] == [200, 202, 202, 404]
    for path, answer in answers:
        schema[path]["POST"].validate_response(answer)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The routes in a thread of their own: this client blocks."""
    found: list[tuple[str, dict[str, str]]] = []
    ready = threading.Event()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with posting(tmp_path_factory.mktemp("posted")) as one:
            end = asyncio.Event()
            stop.append((asyncio.get_running_loop(), end))
            found.append((str(one.client.base_url), one.tokens))
            ready.set()
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    yield found[0]
    loop, end = stop[0]
    loop.call_soon_threadsafe(end.set)
    thread.join()


@pytest.mark.parametrize("known", [True, False])
@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_request_is_answered_as_the_document_says(case: schemathesis.Case, server, known: bool) -> None:
    url, by_path = server
    headers = {"Authorization": f"Bearer {by_path[case.operation.path]}"} if known else {"Authorization": "Bearer x"}
    response = case.call_and_validate(base_url=url, headers=headers, checks=CHECKS)
    if not known:
        assert response.status_code >= 400
