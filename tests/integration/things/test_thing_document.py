"""The OpenAPI document of the thing API against the running service: whatever it allows, there is no server error.

FIRSTLIGHT_EXAMPLES sets how many cases each operation gets (8).
"""

from __future__ import annotations

import asyncio
import json
import os

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)

from service.http.web import build_app
from service.interfaces import INTERFACES
from tests.integration.things.conftest import Place

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = int(os.environ.get("FIRSTLIGHT_EXAMPLES", "8"))
OURS = ("/v1/hello", "/v1/things")


def operations():
    document = build_app(INTERFACES).openapi()
    document["paths"] = {path: item for path, item in document["paths"].items() if path.startswith(OURS)}
    return [one.ok() for one in schemathesis.openapi.from_dict(document).get_all_operations()]


def test_every_address_of_the_page_is_in_the_document() -> None:
    assert {(one.method.upper(), one.path) for one in operations()} == {
        ("POST", "/v1/hello"),
        ("PUT", "/v1/things/activate/{serial}.json"),
        ("POST", "/v1/things/serial/{serial}.json"),
        ("PUT", "/v1/things/{thing_id}.json"),
        ("GET", "/v1/things/{thing_id}/version/target.json"),
        ("GET", "/v1/things/{thing_id}/version/current.json"),
        ("PUT", "/v1/things/{thing_id}/version/current.json"),
        ("GET", "/v1/things/{thing_id}/versions/{version_id}/firmware.json"),
        ("GET", "/v1/things/{thing_id}/versions/{version_id}/firmware.bin"),
    }


def hammer(place: Place, thing_id: str, api_key: str, owner: str, examples: int) -> int:
    """Cases of every operation, half of them with names and keys that are good. How many there were."""
    known = {"thing_id": thing_id, "version_id": place.version_id, "serial": "S-1"}
    base, asked = str(place.client.base_url), 0
    for operation in operations():

        @given(case=operation.as_strategy(), is_known=st.booleans())
        @settings(max_examples=examples, deadline=None, database=None, derandomize=examples <= 8,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        def one(case, is_known):
            nonlocal asked
            asked += 1
            headers = {}
            if is_known:
                case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
                headers["Authorization"] = f"Bearer {api_key}"
            elif "serial" in case.path:
                case.headers.pop("Authorization", None)
            more = {"auth": ("line", owner)} if is_known and "/serial/" in case.path else {"headers": headers}
            checks = [*CHECKS, ignored_auth] if is_known else CHECKS
            case.call_and_validate(base_url=base, checks=checks, timeout=60, **more)

        one()
    return asked


@pytest.mark.asyncio(loop_scope="module")
async def test_no_request_of_the_document_is_a_server_error(place: Place) -> None:
    device = await place.activated("S-1")
    key = json.loads(await place.site.command("account", "create", "line", "--role", "operator", "--json"))["key"]
    asked = await asyncio.to_thread(hammer, place, device.thing_id, device.api_key, key, EXAMPLES)
    assert asked >= 9
    assert (await device.ask("GET", "/version/current.json")).status_code in (200, 401)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.asyncio(loop_scope="module")
async def test_many_requests_of_the_document_are_no_server_error(place: Place) -> None:
    device = await place.activated("S-2")
    key = json.loads(await place.site.command("account", "create", "line2", "--role", "operator", "--json"))["key"]
    await asyncio.to_thread(hammer, place, device.thing_id, device.api_key, key, 40 * EXAMPLES)
