"""The web layer with an interface of the test's own: limits, errors, trace ids, TLS, draining, signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import ssl
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Form, Header, Request
from pydantic import BaseModel

from service.errors import ServiceError
from service.http import connection, guards
from service.http import web as web_module
from service.http.guards import client_address
from service.http.refusals import Answered
from service.http.services import trace_of
from service.http.web import Interface, Web, WebError
from service.settings import WebSettings
from tests.support.certificates import Authority
from tests.support.web_site import client_of, web_site

KEY = "the-key-of-this-test"


class Thing(BaseModel):
    name: str
    secret: int = 0


async def guard(key: Annotated[str, Header()] = "") -> None:
    if key != KEY:
        raise ServiceError("REFUSED", "who are you", cause="test_key_wrong", detail="not for the client")


class Desk:
    """The routes, and what the tests must know of a request that is under way."""

    def __init__(self) -> None:
        self.router = APIRouter()
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()
        self.clients: list[str] = []
        add = self.router.add_api_route
        add("/v1/things/{serial}", self.put, methods=["PUT"])
        add("/v1/slow", self.slow, methods=["GET"])
        add("/v1/broken", self.broken, methods=["GET"])
        add("/v1/bodyless", self.bodyless, methods=["GET"])
        add("/v1/form", self.form, methods=["POST"])
        add("/v1/large", self.raw, methods=["POST"])
        add("/v1/small", self.raw, methods=["POST"])

    async def put(self, serial: str, thing: Thing, request: Request) -> dict[str, str]:
        self.clients.append(request.client.host if request.client else "")
        return {"serial": serial, "name": thing.name, "trace": trace_of(request)}

    async def slow(self) -> dict[str, bool]:
        self.entered.set()
        await self.leave.wait()
        return {"done": True}

    async def broken(self) -> None:
        raise RuntimeError("a secret of the inside")

    async def bodyless(self) -> None:
        raise Answered(401)

    async def form(self, word: Annotated[str, Form()]) -> dict[str, int]:
        return {"length": len(word)}

    async def raw(self, request: Request) -> dict[str, int]:
        return {"length": len(await request.body())}

    @property
    def interface(self) -> Interface:
        return Interface(self.router, guard, {"/v1/large": 3_000_000})


@pytest.fixture
def desk() -> Desk:
    return Desk()


def a_client(web: Web, **options: object) -> httpx.AsyncClient:
    return client_of(web, headers={"key": KEY}, **options)


async def test_a_request_is_answered_with_its_trace_id(desk: Desk) -> None:
    async with web_site([desk.interface]) as web, a_client(web) as client:
        answer = await client.put("/v1/things/sn-1", json={"name": "x"})
    assert answer.status_code == 200
    assert answer.json() == {"serial": "sn-1", "name": "x", "trace": answer.headers["x-trace"]}
    assert len(answer.headers["x-trace"]) == 16
    assert "server" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"


async def test_every_route_has_the_guard_and_a_refusal_says_no_detail(desk: Desk) -> None:
    async with web_site([desk.interface]) as web, client_of(web) as client:
        for method, path in (("PUT", "/v1/things/s"), ("GET", "/v1/broken"), ("POST", "/v1/large")):
            answer = await client.request(method, path, json={"name": "x"})
            assert answer.status_code == 401
            body = {"code": "REFUSED", "reason": "who are you", "trace": answer.headers["x-trace"]}
            assert answer.json() == body


async def test_what_goes_wrong_inside_is_not_told(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    async with web_site([desk.interface]) as web, a_client(web) as client:
        answer = await client.get("/v1/broken")
    assert answer.status_code == 500
    assert answer.json()["code"] == "INTERNAL"
    assert "inside" not in answer.text
    assert [record.trace for record in caplog.records if record.exc_info] == [answer.headers["x-trace"]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"name": 5, "secret": 7}', "name: is not as it must be"),
        (b'{"secret": "swordfish"}', "name: Field required"),
        (b'{"name": "swordfish', "the body is no JSON"),
        (b"", "body: Field required"),
    ],
)
async def test_a_wrong_body_is_a_bad_request_that_repeats_nothing_of_it(
    desk: Desk, content: bytes, reason: str
) -> None:
    async with web_site([desk.interface]) as web, a_client(web) as client:
        answer = await client.put("/v1/things/s", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"], answer.json()["reason"]) == (400, "BAD_REQUEST", reason)
    assert "swordfish" not in answer.text


async def test_other_paths_and_methods_are_refused_in_our_form(desk: Desk) -> None:
    async with web_site([desk.interface]) as web, a_client(web) as client:
        found = [await client.get("/nowhere"), await client.get("/docs"), await client.get("/openapi.json")]
        assert {(one.status_code, one.json()["code"]) for one in found} == {(404, "NOT_FOUND")}
        other = await client.delete("/v1/broken")
        assert (other.status_code, other.json()["code"]) == (405, "UNKNOWN_VERB")


async def test_an_interface_may_answer_without_a_body(desk: Desk) -> None:
    async with web_site([desk.interface]) as web, a_client(web) as client:
        answer = await client.get("/v1/bodyless")
    assert (answer.status_code, answer.content) == (401, b"")


async def test_the_log_has_the_pattern_of_the_route_and_never_path_query_or_header(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with web_site([desk.interface]) as web, a_client(web) as client:
        await client.put("/v1/things/serial-5?service_token=swordfish", json={"name": "x"})
        await client.get("/nowhere/swordfish")
    lines = [record for record in caplog.records if record.name == "firstlight.web"]
    assert [record.getMessage() for record in lines] == ["PUT /v1/things/{serial} 200", "GET - 404"]
    assert not any(word in str(vars(record)) for record in lines for word in ("swordfish", "serial-5", KEY))


async def chunks(size: int):
    for _ in range(size // 50_000):
        yield b"x" * 50_000


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/v1/small", 1_000_000, 200),
        ("/v1/small", 1_100_000, 413),
        ("/v1/large", 2_900_000, 200),
        ("/v1/large", 3_100_000, 413),
        ("/v1/form", 1_100_000, 413),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_bounded_however_it_is_sent(
    desk: Desk, path: str, size: int, status: int, chunked: bool
) -> None:
    content = chunks(size) if chunked else b"x" * size
    headers = {"content-type": "application/x-www-form-urlencoded"}
    async with web_site([desk.interface]) as web, a_client(web) as client:
        answer = await client.post(path, content=content, headers=headers)
    assert answer.status_code == status
    assert answer.json() == {"length": size} if status == 200 else answer.json()["code"] == "TOO_LARGE"


async def test_a_query_may_be_as_long_as_a_body(desk: Desk) -> None:
    async with web_site([desk.interface]) as web, a_client(web) as client:
        answer = await client.put("/v1/things/s?keys=" + "k" * 60_000, json={"name": "x"})
        assert answer.status_code == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        line = b"GET /v1/bodyless?keys=" + b"k" * 900_000
        writer.write(line + b" HTTP/1.1\r\nHost: x\r\nKey: " + KEY.encode() + b"\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 401 Unauthorized\r\n"
        writer.close()
        await writer.wait_closed()


async def test_a_body_that_does_not_come_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "BODY_TIMEOUT_S", -16.0)  # with a bound of 1 MiB: now
    async with web_site([desk.interface]) as web:
        head = f"POST /v1/small HTTP/1.1\r\nHost: x\r\nKey: {KEY}\r\nContent-Length: 5\r\n\r\n"
        said = await talk(web, head.encode() + b"x")
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"did not come in time" in said


async def talk(web: Web, data: bytes) -> bytes:
    """Everything that the server says to these bytes, up to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    try:
        writer.write(data)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_head_that_does_not_come_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.05)
    async with web_site([desk.interface]) as web:
        assert await talk(web, b"") == b""
        assert await talk(web, b"GET /v1/things HTT") == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        writer.write(f"GET /v1/bodyless HTTP/1.1\r\nHost: x\r\nKey: {KEY}\r\n\r\n".encode())
        assert b"401" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /v1")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_what_is_no_http_is_refused_in_our_form(desk: Desk) -> None:
    async with web_site([desk.interface]) as web:
        said = await talk(web, b"\x10\x1e\x00\x04MQTT\x04\x02\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["code"] == "BAD_REQUEST"


async def test_more_connections_than_allowed_are_cut_off(desk: Desk) -> None:
    async with web_site([desk.interface], max_connections=1) as web, a_client(web) as client:
        assert (await client.get("/v1/bodyless")).status_code == 401  # and stays open
        assert await talk(web, b"GET / HTTP/1.1\r\n\r\n") == b""


async def test_each_address_has_its_own_rate(desk: Desk) -> None:
    settings = {"burst": 3, "rate": 0.001, "trusted_proxies": ["127.0.0.1"]}
    async with web_site([desk.interface], **settings) as web, a_client(web) as client:

        async def ask(address: str) -> httpx.Response:
            return await client.get("/v1/bodyless", headers={"x-forwarded-for": address})

        assert [(await ask("192.0.2.1")).status_code for _ in range(4)] == [401, 401, 401, 429]
        assert (await ask("192.0.2.2")).status_code == 401
        over = await ask("192.0.2.1")
        assert (over.json()["code"], over.headers["retry-after"]) == ("THROTTLED", "5")


async def test_a_client_address_header_counts_from_listed_proxies_only(desk: Desk) -> None:
    for trusted, seen in (([], "127.0.0.1"), (["127.0.0.0/8"], "192.0.2.9")):
        async with web_site([desk.interface], trusted_proxies=trusted) as web, a_client(web) as client:
            headers = {"x-forwarded-for": "198.51.100.1, 192.0.2.9"}
            await client.put("/v1/things/s", json={"name": "x"}, headers=headers)
        assert desk.clients.pop() == seen


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.2.3.4, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["1.2.3.4", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("::ffff:10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_who_asks_is_the_nearest_address_that_is_no_proxy_of_ours(
    peer: str, forwarded: list[str], expected: str
) -> None:
    trusted = WebSettings(trusted_proxies=["10.0.0.0/8"]).trusted_proxies
    assert client_address(peer, forwarded, trusted) == expected


def test_all_addresses_of_one_ipv6_network_share_a_bucket() -> None:
    assert guards._bucket_of("2001:db8::1") == guards._bucket_of("2001:db8::ffff:1")
    assert guards._bucket_of("2001:db8:0:1::1") != guards._bucket_of("2001:db8::1")
    assert guards._bucket_of("192.0.2.1") != guards._bucket_of("192.0.2.2")


async def takes_connections(web: Web) -> bool:
    async with a_client(web) as other:
        try:
            await other.get("/v1/bodyless")
        except httpx.TransportError:
            return False
        return True


async def test_a_request_under_way_is_answered_before_the_end(desk: Desk) -> None:
    async with web_site([desk.interface]) as web, a_client(web) as client:
        asked = asyncio.create_task(client.get("/v1/slow"))
        await desk.entered.wait()
        web.drain()
        async with asyncio.timeout(20):
            while await takes_connections(web):
                pass
        assert not asked.done()
        desk.leave.set()
        assert (await asked).json() == {"done": True}


async def test_a_request_that_never_ends_is_cut_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "DRAIN_TIMEOUT_S", 0.05)
    async with web_site([desk.interface]) as web, a_client(web) as client:
        asked = asyncio.create_task(client.get("/v1/slow"))
        await desk.entered.wait()
        web.drain()
        assert (await asyncio.gather(asked, return_exceptions=True))[0].__class__ is httpx.RemoteProtocolError


async def test_signals_stay_whose_they_were(desk: Desk) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    async with web_site([desk.interface]) as web, a_client(web) as client:
        await client.get("/v1/bodyless")
        assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


def refusal_of(**settings: object) -> str:
    with pytest.raises(WebError) as refused:
        Web(WebSettings(**settings), [], None).listen()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_port_in_use_is_an_error_of_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert refusal_of(port=port) == f"cannot listen on 127.0.0.1:{port} (web): Address already in use"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_plain_http_is_refused_except_on_loopback(host: str) -> None:
    assert "there is no plain HTTP to elsewhere" in refusal_of(host=host, port=0)


def test_a_host_that_is_unknown_and_a_certificate_that_is_none_are_errors_of_one_line(tmp_path) -> None:
    assert "[web] host nowhere.invalid" in refusal_of(host="nowhere.invalid", port=0)
    files = {"certificate": tmp_path / "c.pem", "key": tmp_path / "k.pem"}
    assert "No such file" in refusal_of(port=0, **files)
    for file in files.values():
        file.write_text("nothing")
    assert "c.pem with its key" in refusal_of(port=0, **files)


async def test_with_a_certificate_it_speaks_tls(desk: Desk, tmp_path) -> None:
    authority = Authority()
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    for file, pem in zip((certificate, key), authority.issue("web", "localhost"), strict=True):
        file.write_text(pem)
    trusting = ssl.create_default_context(cadata=authority.pem)
    async with (
        web_site([desk.interface], certificate=certificate, key=key) as web,
        a_client(web, verify=trusting) as client,
    ):
        answer = await client.get("/v1/bodyless")
        assert answer.status_code == 401
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        async with httpx.AsyncClient(trust_env=False) as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(f"http://127.0.0.1:{web.port}/v1/bodyless")
