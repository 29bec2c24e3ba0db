"""The health endpoint: GET /health, /stats and /unproven, for a load balancer, a supervisor and the commands.

Owns a server of a few dozen lines on asyncio's streams; reads one bounded request per connection and closes it. Shows
what it is given, decides nothing. Plain HTTP without login: it listens on loopback unless told otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from service.errors import ServiceError

MAX_REQUEST_BYTES = 4096  # request line and headers together
REQUEST_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 32  # more are closed unheard
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}

Report = Callable[[Mapping[str, str]], Awaitable[Mapping[str, Any]]]  # of the query's parameters


class HealthServer:
    """Answers each path of `pages` with what its report says, as JSON: 200, or 503 where its "ok" is false."""

    def __init__(self, host: str, port: int, pages: Mapping[str, Report]) -> None:
        self.host = host
        self.port = port
        self._pages = pages
        self._open = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; port 0 takes a free one. Raises OSError when the address cannot be had."""
        self._server = await asyncio.start_server(self._connected, self.host, self.port, limit=MAX_REQUEST_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                writer.write(await self._answer(reader))
                await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        # 1. One whole, small request head; a body is neither expected nor read.
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(400, {"error": "request too large"})
        # 2. Method and path; the rest of the head is ignored.
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(400, {"error": "not an HTTP/1 request"})
        if words[0] != b"GET":
            return _response(405, {"error": "only GET"})
        path, query = _asked(words[1].decode("latin-1"))
        page = self._pages.get(path)
        if page is None:
            return _response(404, {"error": "there are " + " ".join(self._pages)})
        # 3. The report says itself whether all is well; one that cannot be made says why.
        try:
            body = await page(query)
        except ServiceError as error:
            return _response(503, {"error": error.cause})
        return _response(200 if body.get("ok", True) else 503, body)


def _asked(target: str) -> tuple[str, dict[str, str]]:
    """Path and parameters; no path where it is no address."""
    try:
        found = urlsplit(target)
    except ValueError:
        return "", {}
    return found.path, dict(parse_qsl(found.query))


def _response(status: int, body: Mapping[str, Any]) -> bytes:
    data = json.dumps(body, default=str).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + data
