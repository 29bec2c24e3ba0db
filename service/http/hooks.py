"""How an activation hook is asked: an HTTP endpoint, or a function that another Python package offers.

Owns the two ways and their bounds. Who is asked when stands in pipeline/hooks.py, the form of question and answer in
domain/hook.py. HTTP/1.0 on asyncio's own streams: the answer is one JSON document up to the end of the connection, a
question that takes too long is cancelled with its socket, and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import SplitResult, urlsplit

from service.domain.hook import Answer, HookError, Question, read

ENTRY_POINTS = "firstlight.activation_hooks"
PYTHON = "python:"
MAX_ANSWER_BYTES = 64 * 1024
THREADS = 32  # of hooks that are plain functions; one that never returns keeps its thread

Hook = Callable[[Mapping[str, Any]], Any]  # a function or a coroutine function: question -> answer, both JSON maps


class Hooks:
    """`ask` is given to the pipeline. `offered` finds a Python hook by its name."""

    def __init__(self, offered: Callable[[str], Hook] | None = None) -> None:
        self._offered = offered or installed
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="hook")

    async def ask(self, question: Question) -> Answer:
        """Raises HookError; the caller ends it after its budget."""
        if question.hook.startswith(PYTHON):
            return read(await self._call(question.hook.removeprefix(PYTHON), question.document()))
        return read(await post(question.hook, question.document()))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, name: str, document: Mapping[str, Any]) -> Any:
        hook = self._offered(name)
        if inspect.iscoroutinefunction(hook):
            return await hook(document)
        return await asyncio.get_running_loop().run_in_executor(self._threads, hook, document)


@cache
def installed(name: str) -> Hook:
    """The hook that some installed package offers under this name. Raises HookError."""
    found = [one for one in entry_points(group=ENTRY_POINTS) if one.name == name]
    if len(found) != 1:
        raise HookError(f"{'no' if not found else 'more than one'} installed package offers the hook {name[:64]!r}")
    try:
        loaded: Hook = found[0].load()
    except Exception as error:
        raise HookError(f"the hook {name} cannot be loaded: {error}") from error
    return loaded


async def post(url: str, document: Mapping[str, Any]) -> object:
    """The JSON answer to a JSON question. Raises HookError."""
    parts = _split(url)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    assert parts.hostname is not None
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
    except (OSError, ssl.SSLError) as error:
        raise HookError(f"{parts.hostname}:{port} cannot be reached: {error}") from error
    try:
        writer.write(_request(parts, document))
        await writer.drain()
        raw = await _read_all(reader)
    except (OSError, ssl.SSLError) as error:
        raise HookError(f"{parts.hostname}:{port} broke off: {error}") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
    return _answer(raw)


def check(hook: str) -> None:
    """Raise HookError unless it is http://..., https://... or python:NAME."""
    if hook.startswith(PYTHON):
        if not hook.removeprefix(PYTHON).isidentifier():
            raise HookError("python: is followed by the name of an entry point")
        return
    _split(hook)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known or not url.isascii() or not url.isprintable() or " " in url or "@" in parts.netloc:
        raise HookError("a hook is http://..., https://... or python:NAME")
    return parts


def _request(parts: SplitResult, document: Mapping[str, Any]) -> bytes:
    body = json.dumps(document).encode()
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"POST {target} HTTP/1.0",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        "Accept: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    raw = bytearray()
    while part := await reader.read(MAX_ANSWER_BYTES):
        raw += part
        if len(raw) > MAX_ANSWER_BYTES:
            raise HookError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(raw)


def _answer(raw: bytes) -> object:
    head, _, body = raw.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if len(status) < 2 or not status[0].startswith(b"HTTP/1."):
        raise HookError("the answer is no HTTP")
    if status[1] != b"200":
        raise HookError(f"the answer has status {status[1][:3].decode('ascii', 'replace')}")
    try:
        return json.loads(body)
    except ValueError as error:
        raise HookError("the answer is no JSON") from error
