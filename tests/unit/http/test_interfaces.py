"""Every route of every interface asks who calls, but for those that are named here; and the OpenAPI document says so."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from service.http.web import Interface, build_app, open_to_all
from service.interfaces import INTERFACES
from tests.support.admin_site import a_bundle
from tests.support.commands import Clock
from tests.support.storage import new_database
from tests.support.web_site import client_of, web_site

# Why these are open: a nonce says nothing and stores nothing, an activation proves itself in its body, and whoever is
# to sign in has not done so yet.
OPEN = {
    "POST /v1/hello",
    "PUT /v1/things/activate/{serial}.json",
    "GET /admin/style.css",
    "GET /admin/sign-in",
    "POST /admin/sign-in",
}
# Which schemes of the document let whoever has one of them in.
PARTNER = {"ServiceToken", "ServiceTokenParameter"}
SCHEMES = {
    "POST /v1/hello": set(),
    "PUT /v1/things/activate/{serial}.json": set(),
    "POST /v1/things/serial/{serial}.json": {"Owner"},
    "PUT /v1/things/{thing_id}.json": {"ApiKey"},
    "GET /v1/things/{thing_id}/version/target.json": {"ApiKey"},
    "GET /v1/things/{thing_id}/version/current.json": {"ApiKey"},
    "PUT /v1/things/{thing_id}/version/current.json": {"ApiKey"},
    "GET /v1/things/{thing_id}/versions/{version_id}/firmware.json": {"ApiKey"},
    "GET /v1/things/{thing_id}/versions/{version_id}/firmware.bin": {"ApiKey"},
    "POST /api/management/stb/link_user": PARTNER,
    "POST /api/management/stb/import": PARTNER,
    "POST /api/management/user": PARTNER,
    "GET /api/user/{email}/product/{product_id}/buy/option/{option_id}": PARTNER,
    "POST /api/inboundDeviceEnrolment": {"ProviderToken"},
    "POST /api/orderDispatchResponse": {"DispatchToken"},
}
WRONG = {
    "Authorization": "Bearer nobody",
    "Service-Token": "nobody",
    "Cookie": "firstlight-session=nobody; __Host-firstlight-session=nobody",
}
VALUES = {"email": "stb_user@example.com", "thing_id": "0" * 32, "version_id": "0" * 32}


def routes_of(interface: Interface) -> list[str]:
    return [f"{method} {route.path}" for route in interface.router.routes for method in route.methods]  # type: ignore[attr-defined]


ROUTES = sorted(one for interface in INTERFACES for one in routes_of(interface))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    folder = tmp_path_factory.mktemp("interfaces")
    database = await new_database(folder / "firstlight.db")
    bundle = a_bundle(database, Clock(), folder)
    try:
        async with web_site(INTERFACES, bundle, rate=1000, burst=1000) as web, client_of(web) as made:
            yield made
    finally:
        await database.close()


def test_exactly_these_routes_are_open() -> None:
    assert {one for interface in INTERFACES if interface.guard is open_to_all for one in routes_of(interface)} == OPEN


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("headers", [{}, WRONG], ids=["without", "wrong"])
@pytest.mark.parametrize("route", [one for one in ROUTES if one not in OPEN])
async def test_whoever_has_no_credentials_is_not_let_in(
    client: httpx.AsyncClient, route: str, headers: dict[str, str]
) -> None:
    method, path = route.split(" ")
    address = re.sub(r"\{(\w+)\}", lambda found: VALUES.get(found[1], "x-1"), path)
    answer = await client.request(method, address, headers=headers)
    if path.startswith("/admin"):
        assert (answer.status_code, answer.headers["location"]) == (303, "/admin/sign-in")
    elif SCHEMES[route] is not PARTNER:
        assert (answer.status_code, answer.json()["code"]) == (401, "REFUSED")
        assert "www-authenticate" in answer.headers
    elif headers:
        assert (answer.status_code, answer.content) == (401, b"")
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, 1426)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "route", [one for one in ROUTES if one not in OPEN and one.startswith(("POST /api", "POST /v1", "PUT "))]
)
async def test_whoever_has_no_credentials_is_not_told_what_is_wrong_with_a_body(
    client: httpx.AsyncClient, route: str
) -> None:
    """It is not even read as JSON: the guard is asked first."""
    method, path = route.split(" ")
    address = re.sub(r"\{(\w+)\}", lambda found: VALUES.get(found[1], "x-1"), path)
    for content, kind in ((b"{", "json"), (b"[]", "json"), (b'{"name": 5}', "json"), (b"\xff", "xml"), (b"", "json")):
        headers = {**WRONG, "content-type": f"application/{kind}"}
        answer = await client.request(method, address, content=content, headers=headers)
        assert answer.status_code == 401, content


def test_the_document_has_every_route_but_the_pages_and_says_what_lets_one_in() -> None:
    document = build_app(INTERFACES).openapi()
    found = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert all(len(one) == 1 for one in operation.get("security", []))  # one of them is enough
            found[f"{method.upper()} {path}"] = {name for one in operation.get("security", []) for name in one}
    assert found == SCHEMES
    assert set(found) == {one for one in ROUTES if not one.split(" ")[1].startswith("/admin")}
    schemes = document["components"]["securitySchemes"]
    assert set(schemes) == {name for names in SCHEMES.values() for name in names}
    said = {name: (one["type"], one.get("scheme") or (one["in"], one["name"])) for name, one in schemes.items()}
    assert said == {
        "ApiKey": ("http", "bearer"),
        "Owner": ("http", "basic"),
        "ProviderToken": ("http", "bearer"),
        "DispatchToken": ("http", "bearer"),
        "ServiceToken": ("apiKey", ("header", "Service-Token")),
        "ServiceTokenParameter": ("apiKey", ("query", "service_token")),
    }
