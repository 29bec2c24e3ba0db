"""Asking an enrolment provider over HTTP: bounds of time and size, and no way to somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.errors import Secret
from service.http import providers
from service.operations.enrolment.working import AskError


@asynccontextmanager
async def answering(answer: bytes, *, heard: list[bytes] | None = None, hold: bool = False) -> AsyncIterator[str]:
    """A server that answers every request with these bytes, or not at all."""
    done = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heard is not None:
            heard.append(head)
        if hold:
            await done.wait()
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x/bulk"
    finally:
        done.set()
        server.close()


def http(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""])
    return head.encode() + body


async def test_the_answer_and_its_status_come_back_and_the_token_goes_along() -> None:
    heard: list[bytes] = []
    async with answering(http("409 Conflict", b'{"a": 1}'), heard=heard) as url:
        assert await providers.ask(url, b"{}", Secret(b"hush")) == (409, b'{"a": 1}')
        assert await providers.ask(url, b"{}", None) == (409, b'{"a": 1}')
    assert heard[0].startswith(b"POST /x/bulk HTTP/1.1")
    assert b"Authorization: Bearer hush" in heard[0]
    assert b"Authorization" not in heard[1]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_a_redirect_is_not_followed(status: str) -> None:
    heard: list[bytes] = []
    async with (
        answering(http("200 OK"), heard=heard) as elsewhere,
        answering(http(status, b"", f"Location: {elsewhere}")) as url,
    ):
        with pytest.raises(AskError, match="redirect"):
            await providers.ask(url, b"{}", Secret(b"hush"))
    assert heard == []


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "MAX_ANSWER_BYTES", 1000)
    async with answering(http("200 OK", b"x" * 1001)) as url:
        with pytest.raises(AskError, match="longer"):
            await providers.ask(url, b"{}", None)


async def test_who_does_not_answer_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "TIMEOUT_S", 0.2)
    async with answering(b"", hold=True) as url:
        with pytest.raises(AskError):
            await providers.ask(url, b"{}", None)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"]
)
async def test_what_is_no_http_is_an_error_that_holds_no_secret(answer: bytes) -> None:
    async with answering(answer) as url:
        with pytest.raises(AskError) as failed:
            await providers.ask(url, b"{}", Secret(b"hush"))
    assert "hush" not in str(failed.value)


async def test_nobody_there_is_an_error() -> None:
    async with answering(b"") as url:
        pass
    with pytest.raises(AskError):
        await providers.ask(url, b"{}", None)
    with pytest.raises(AskError):
        await providers.ask("file:///etc/passwd", b"{}", None)
