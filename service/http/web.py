"""The HTTP interfaces of things, partners and administrators: one FastAPI app on uvicorn, on a port of its own.

Owns how the app is put together, how its sockets are had, and how it is drained. Which interfaces there are is said by
service/interfaces.py; what stands before every route by guards.py. uvicorn leaves signals alone: app.py starts and stops it.
The health endpoint (health.py) is another server.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from ipaddress import ip_address
from typing import Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI
from starlette.types import ASGIApp

from service.http import refusals
from service.http.connection import MAX_HEAD_BYTES, Connection, connection_class
from service.http.guards import BodyLimit, RateLimit, Tracing
from service.http.services import Services
from service.settings import WebSettings

KEEP_ALIVE_S = 15
DRAIN_TIMEOUT_S = 10  # requests that are not answered by then are cut off
BACKLOG = 512


class WebError(Exception):
    """It cannot listen; the text is one line that says why."""


async def open_to_all() -> None:
    """The guard of routes that need none, such as the one that gives a nonce. Say in the route's file why."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One router and who may call it.

    `guard` is a dependency that every one of its routes has: it raises ServiceError REFUSED (or Answered) for whoever
    may not. `body_limits`: bytes by path, where not the usual bound holds. `forms`: by prefix of a path, what whatever
    is refused below it looks like, where not the house's form is wanted; also what no route has refused.
    """

    router: APIRouter
    guard: Callable[..., Awaitable[Any]]
    body_limits: Mapping[str, int] = field(default_factory=dict)
    forms: Mapping[str, refusals.Form] = field(default_factory=dict)


def build_app(interfaces: Sequence[Interface], services: Services | None = None) -> FastAPI:
    """The app of these interfaces; without services only its document is of use."""
    app = FastAPI(
        title="Firstlight",
        version=version("firstlight"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # `firstlight openapi` writes the document: no route is open without need
        redirect_slashes=False,
        responses={
            "4XX": {"model": refusals.Refusal, "description": "Refused"},
            "5XX": {"model": refusals.Refusal, "description": "Not possible now"},
        },
    )
    refusals.install(app, _forms(interfaces))
    app.state.services = services
    for interface in interfaces:
        app.include_router(interface.router, dependencies=[Depends(interface.guard)])
    return app


def guarded(app: FastAPI, interfaces: Sequence[Interface], settings: WebSettings) -> ASGIApp:
    """The app with what stands before it."""
    limits = {path: limit for interface in interfaces for path, limit in interface.body_limits.items()}
    inner = BodyLimit(app, max_bytes=settings.max_body_bytes, limits=limits)
    limited = RateLimit(inner, rate=settings.rate, burst=settings.burst, trusted=settings.trusted_proxies)
    return Tracing(limited, tls=settings.certificate is not None, forms=_forms(interfaces))


def _forms(interfaces: Sequence[Interface]) -> refusals.Forms:
    return refusals.Forms({prefix: form for interface in interfaces for prefix, form in interface.forms.items()})


class Web:
    """`listen`, then `run` in a task; `drain` ends that task. `close` is for a start that went no further."""

    def __init__(self, settings: WebSettings, interfaces: Sequence[Interface], services: Services | None) -> None:
        self.host = settings.host
        self.port = settings.port
        self._settings = settings
        self.app = build_app(interfaces, services)
        self._guarded = guarded(self.app, interfaces, settings)
        self._sockets: list[socket.socket] = []
        self._server: _Server | None = None

    @property
    def scheme(self) -> str:
        return "http" if self._settings.certificate is None else "https"

    def listen(self) -> None:
        """Take the address; from here on connections wait for `run`. Port 0 takes a free one. Raises WebError."""
        tls = self._tls()
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise WebError(f"[web] host {self.host}: {error.strerror or error}") from error
        addresses = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
        if tls is None and not all(_is_loopback(address) for _, address in addresses):
            raise WebError(
                f"[web] {self.host} is not loopback: set certificate and key, for there is no plain HTTP to elsewhere"
            )
        try:
            for family, address in addresses:
                self._sockets.append(_listening(family, address, self.port))
                self.port = self._sockets[0].getsockname()[1]
        except OSError as error:
            self.close()
            raise WebError(f"cannot listen on {self.host}:{self.port} (web): {error.strerror or error}") from error
        self._server = _Server(self._config(tls))

    async def run(self) -> None:
        """Serve until `drain`."""
        assert self._server is not None, "listen first"
        try:
            await self._server.serve(self._sockets)
        finally:
            for connection in list(self._server.server_state.connections):
                if isinstance(connection, Connection):
                    connection.abort()

    def drain(self) -> None:
        """Take no more requests; `run` ends when those under way are answered, or were cut off after 10 s."""
        if self._server is not None:
            self._server.should_exit = True

    def close(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    def _tls(self) -> ssl.SSLContext | None:
        certificate, key = self._settings.certificate, self._settings.key
        if certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(certificate, key)
        except OSError as error:  # SSLError is one: not PEM, or a key of another certificate
            raise WebError(f"[web] certificate {certificate} with its key: {error.strerror or error}") from error
        return context

    def _config(self, tls: ssl.SSLContext | None) -> uvicorn.Config:
        config = uvicorn.Config(
            self._guarded,
            http=connection_class(self._settings.max_connections),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,  # Tracing writes one without queries
            proxy_headers=False,  # RateLimit believes listed proxies only
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            backlog=BACKLOG,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
        config.load()
        return config


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn would take SIGTERM for itself and raise it again; signals are the commands' business."""
        yield


def _listening(family: int, address: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made


def _is_loopback(address: str) -> bool:
    return ip_address(address.split("%", 1)[0]).is_loopback
