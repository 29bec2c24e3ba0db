"""The health endpoint: what it answers, and what a client that misbehaves gets."""

from __future__ import annotations

import asyncio
import json

import pytest

from service.errors import ServiceError
from service.http import health
from service.http.health import HealthServer


@pytest.fixture
async def server():
    state = {"ok": True}

    async def report(_query):
        return dict(state)

    async def stats(query):
        return {"counters": {"activated": 3}, "asked": query}

    one = HealthServer("127.0.0.1", 0, {"/health": report, "/stats": stats})
    one.state = state  # type: ignore[attr-defined]
    await one.start()
    yield one
    await one.stop()


async def ask(server: HealthServer, raw: bytes) -> tuple[int, dict]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(raw)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, body = answer.split(b"\r\n\r\n", 1)
    return int(head.split(b" ")[1]), json.loads(body)


async def test_health_is_200_while_all_is_well_and_503_with_the_reason_when_not(server) -> None:
    assert await ask(server, b"GET /health HTTP/1.1\r\n\r\n") == (200, {"ok": True})
    server.state.update(ok=False, problems=["local operational: not connected"])
    status, body = await ask(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 503
    assert body["problems"] == ["local operational: not connected"]


async def test_stats_shows_the_counters(server) -> None:
    assert await ask(server, b"GET /stats?x=1 HTTP/1.0\r\n\r\n") == (
        200,
        {"counters": {"activated": 3}, "asked": {"x": "1"}},
    )


async def test_a_report_that_storage_refuses_is_503_and_no_fault_of_the_server(caplog) -> None:
    async def stats(_query):
        raise ServiceError("UNAVAILABLE", "not now", cause="storage_busy", detail="locked")

    one = HealthServer("127.0.0.1", 0, {"/stats": stats})
    await one.start()
    assert await ask(one, b"GET /stats HTTP/1.1\r\n\r\n") == (503, {"error": "storage_busy"})
    await one.stop()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST /health HTTP/1.1\r\n\r\n", 405),
        (b"\x16\x03\x01 tls\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 404),
        (b"GET /health HTTP/1.1\r\nX: " + b"a" * (3 * health.MAX_REQUEST_BYTES) + b"\r\n\r\n", 400),
    ],
    ids=["an unknown path", "another method", "no HTTP", "no path", "a head that is too large"],
)
async def test_a_wrong_request_is_refused(server, raw: bytes, status: int) -> None:
    assert (await ask(server, raw))[0] == status


async def test_a_client_that_says_nothing_is_cut_and_one_connection_too_many_is_closed(server, monkeypatch) -> None:
    monkeypatch.setattr(health, "REQUEST_TIMEOUT_S", 0.2)
    monkeypatch.setattr(health, "MAX_CONNECTIONS", 1)
    silent_reader, silent = await asyncio.open_connection("127.0.0.1", server.port)
    extra_reader, extra = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        assert await _end(extra_reader) == b""
        assert await _end(silent_reader) == b""
    finally:
        for writer in (silent, extra):
            writer.close()
    assert (await ask(server, b"GET /health HTTP/1.1\r\n\r\n"))[0] == 200


async def _end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionError:
        return b""
