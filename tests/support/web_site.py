"""The web layer alone, on a free port of loopback: for tests that bring their own interfaces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from service.http.services import Services
from service.http.web import Interface, Web
from service.settings import WebSettings


@asynccontextmanager
async def web_site(
    interfaces: Sequence[Interface], services: Services | None = None, **settings: Any
) -> AsyncIterator[Web]:
    """Serving until the block ends, then drained."""
    web = Web(WebSettings(**{"port": 0, **settings}), interfaces, services)
    web.listen()
    task = asyncio.create_task(web.run())
    try:
        yield web
    finally:
        web.drain()
        await task


def client_of(web: Web, **options: Any) -> httpx.AsyncClient:
    """A client that is not ours; `verify` for TLS."""
    host = "localhost" if web.scheme == "https" else "127.0.0.1"
    return httpx.AsyncClient(base_url=f"{web.scheme}://{host}:{web.port}", trust_env=False, **options)
