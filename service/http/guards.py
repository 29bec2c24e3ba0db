"""What stands before every HTTP route: trace id and log line, who asks, how often, how much, and a last catch.

Owns three ASGI wrappers; knows no route. In the order in which a request meets them:

1. Tracing: a trace id for each request (header X-Trace of its answer), one log line with the route's pattern, never
   with a path, a query or a header; whatever escapes below is logged and answered INTERNAL.
2. RateLimit: the address of the client, believed from a proxy's header only where the proxy is one of ours; a token
   bucket for each address.
3. BodyLimit: size and time of a request's body, however it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from device_sdk.wire import codes
from service.errors import ServiceError
from service.http.refusals import Forms, internal
from service.pipeline.throttle import BucketTable

log = logging.getLogger("firstlight.web")
ADDRESSES = 16384  # buckets; beyond, the longest unused is forgotten
RETRY_AFTER_S = 5
BODY_TIMEOUT_S = 30.0  # beside the time that its size needs at the slowest rate
SLOWEST_BYTES_S = 64 * 1024
DISCARD_TIMEOUT_S = 2.0
DISCARD_BYTES = 8 * 1024 * 1024
MAX_FORWARDED = 64  # entries of X-Forwarded-For that are looked at

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class Tracing:
    def __init__(
        self, app: ASGIApp, *, tls: bool, forms: Forms, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._forms = forms
        self._monotonic = monotonic
        self._headers = [(b"x-content-type-options", b"nosniff")]
        if tls:
            self._headers.append((b"strict-transport-security", b"max-age=31536000"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        trace, began, status = secrets.token_hex(8), self._monotonic(), 0
        scope.setdefault("state", {})["trace"] = trace

        async def traced(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                if not any(name.lower() == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*headers, (b"x-trace", trace.encode()), *self._headers]}
            await send(message)

        try:
            await self._app(scope, receive, traced)
        except ServiceError as error:  # of the wrappers below; those of routes are answered there
            scope["state"]["cause"] = error.cause
            response = self._forms.response_of(scope["path"], error, trace)
            response.headers["connection"] = "close"  # there may be more of it to come, which nobody will read
            await response(scope, receive, traced)
        except Exception:
            log.exception("a request failed", extra={"trace": trace, "route": _route(scope)})
            if status == 0:
                await self._forms.response_of(scope["path"], internal(), trace)(scope, receive, traced)
        finally:
            took_ms = round((self._monotonic() - began) * 1000)
            fields = {"trace": trace, "client": _host(scope), "ms": took_ms, "cause": scope["state"].get("cause", "")}
            log.info("%s %s %d", scope["method"][:16], _route(scope), status, extra=fields)


class RateLimit:
    def __init__(
        self,
        app: ASGIApp,
        *,
        rate: float,
        burst: float,
        trusted: Sequence[Network],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._buckets = BucketTable(rate, burst, ADDRESSES)
        self._trusted = tuple(trusted)
        self._monotonic = monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        address = client_address(_host(scope), forwarded, self._trusted)
        scope["client"] = (address, 0)  # from here on, whoever asks for the client gets the true one
        if not self._buckets.take(_bucket_of(address), self._monotonic()):
            raise ServiceError(
                codes.THROTTLED, "too many requests", cause="http_throttled", retry_after_s=RETRY_AFTER_S
            )
        await self._app(scope, receive, send)


class BodyLimit:
    """`limits` names paths with another bound: exactly, or all below where it ends in a slash; the longest counts."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, limits: Mapping[str, int]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._limits = sorted(limits.items(), key=lambda one: len(one[0]), reverse=True)

    def limit_of(self, path: str) -> int:
        for prefix, limit in self._limits:
            if path == prefix or (prefix.endswith("/") and path.startswith(prefix)):
                return limit
        return self._max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self.limit_of(scope["path"])
        # 1. What says that it is too long is not given to anybody.
        announced = [int(value) for name, value in scope["headers"] if name == b"content-length"]  # h11 has checked it
        if announced and announced[0] > limit:
            await _discard(receive)
            raise _too_large(limit)
        # 2. What does not say is counted; both have to come in time.
        body = _Body(receive, send, limit)
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:
            if body.over is None or body.answered:
                raise
        # 3. Whatever the framework made of a body that ended so, the answer is ours.
        if body.over is not None and not body.answered:
            raise body.over


class _Body:
    """One request's body on its way in. `over`: why it was not taken."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self.over: ServiceError | None = None
        self.answered = False
        self._receive = receive
        self._send = send
        self._limit = limit
        self._until = asyncio.get_running_loop().time() + BODY_TIMEOUT_S + limit / SLOWEST_BYTES_S
        self._got = 0
        self._whole = False

    async def receive(self) -> Message:
        if self._whole:  # what follows is the news that the client has gone: that may take as long as it likes
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError as error:
            self.over = ServiceError(codes.BAD_REQUEST, "the body did not come in time", cause="http_body_slow")
            raise self.over from error
        self._got += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._got > self._limit:
            if not self._whole:
                await _discard(self._receive)
            self.over = _too_large(self._limit)
            raise self.over
        return message

    async def send(self, message: Message) -> None:
        if self.over is None or self.answered:
            self.answered = True
            await self._send(message)


async def _discard(receive: Receive) -> None:
    """Read on for a little: a client that is still sending when the connection ends never sees its answer."""
    got = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_TIMEOUT_S):
            while got < DISCARD_BYTES:
                message = await receive()
                got += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Who asks: the peer, or, where that is a trusted proxy, the nearest address it was told that is not one.

    Each proxy adds the address that it saw at the right; what stands left of the first one that we do not trust is
    that one's invention.
    """
    hops = [hop.strip() for value in forwarded for hop in value.split(",")][-MAX_FORWARDED:]
    believed = _parsed(peer)
    while believed is not None and _within(believed, trusted) and hops:
        told = _parsed(hops.pop())
        if told is None:
            break
        believed = told
    return peer if believed is None else str(believed)


def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _bucket_of(address: str) -> str:
    """IPv6 by its /64: one customer has all of them."""
    parsed = _parsed(address)
    return str(IPv6Network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address


def _too_large(limit: int) -> ServiceError:
    return ServiceError(codes.TOO_LARGE, f"the body is longer than {limit} bytes", cause="http_body_large")


def _host(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _route(scope: Scope) -> str:
    """The pattern of the route; what a path holds beside it is a partner's: mail addresses, serial numbers."""
    return str(getattr(scope.get("route"), "path", "-"))
