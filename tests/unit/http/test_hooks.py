"""Asking an activation hook over HTTP and in Python."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from service.domain.hook import Answer, HookError, Question, Verdict
from service.http import hooks
from service.http.hooks import Hooks

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


def question(hook):
    return Question(hook, "c" * 32, "line-1", "sn-1", True, None, "acme", "prod")


@asynccontextmanager
async def endpoint(answer, seen=None):
    """A server that answers every request with these bytes; None: never."""

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        if seen is not None:
            seen.append((head.decode(), json.loads(body)))
        if answer is not None:
            writer.write(answer)
            await writer.drain()
        else:
            await reader.read()  # until the other side has gone
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?of=plant"


async def ask(hook, offered=None):
    asking = Hooks(offered)
    try:
        return await asking.ask(question(hook))
    finally:
        asking.close()


async def test_an_endpoint_is_told_of_the_device_and_answers():
    seen = []
    async with endpoint(OK + b'{"decision": "allow", "ou": "acme/x"}', seen) as url:
        assert await ask(url) == Answer(Verdict.ALLOW, ou="acme/x")
    ((head, body),) = seen
    assert head.startswith("POST /hook?of=plant HTTP/1.0\r\nHost: 127.0.0.1:")
    assert (body["group"], body["serial"]) == ("line-1", "sn-1")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\n{}", "status 500"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", "status 302"),
        (OK + b"<html>", "no JSON"),
        (OK + b'{"decision": "perhaps"}', "neither"),
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP"),
        (b"", "no HTTP"),
        (OK + b" " * (hooks.MAX_ANSWER_BYTES + 1), "longer than"),
    ],
)
async def test_anything_else_is_no_answer(answer, words):
    async with endpoint(answer) as url:
        with pytest.raises(HookError, match=words):
            await ask(url)


async def test_an_endpoint_that_is_not_there_is_no_answer():
    async with endpoint(OK) as url:
        pass
    with pytest.raises(HookError, match="cannot be reached"):
        await ask(url)


async def test_an_endpoint_that_hangs_is_left_with_its_connection():
    async with endpoint(None) as url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ask(url)


async def test_a_python_hook_may_be_a_function_or_a_coroutine_function():
    def plain(document):
        return {"decision": "deny", "reason": document["serial"]}

    async def waiting(document):
        return {"decision": "allow"}

    offered = {"plain": plain, "waiting": waiting}
    assert await ask("python:plain", offered.__getitem__) == Answer(Verdict.DENY, "sn-1")
    assert await ask("python:waiting", offered.__getitem__) == Answer(Verdict.ALLOW)


async def test_a_python_hook_that_nobody_offers_is_no_answer():
    with pytest.raises(HookError, match="no installed package offers"):
        await ask("python:nowhere")


@pytest.mark.parametrize("hook", ["http://127.0.0.1:8080/x", "https://hooks.example.org", "python:allow_all"])
def test_a_hook_is_an_address_or_a_name(hook):
    hooks.check(hook)


@pytest.mark.parametrize(
    "hook",
    [
        "",
        "ftp://x",
        "http://",
        "http:///x",
        "http://a:b@c/",
        "http://a:0x/",
        "http://a b/",
        "python:",
        "python:a b",
        "file:///etc/passwd",
    ],
)
def test_anything_else_is_no_hook(hook):
    with pytest.raises(HookError):
        hooks.check(hook)
