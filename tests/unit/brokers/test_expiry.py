"""The brokers' own certificates: somebody is told before they run out, by what the broker shows and not by a file."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from service.brokers import expiry
from service.brokers.expiry import End, Watch
from service.brokers.mosquitto import certificates
from tests.support.mosquitto import make_issuer
from tests.support.ports import free_ports

NOW = datetime.now(UTC)
ISSUER = make_issuer()


@asynccontextmanager
async def shown(folder, days: int, *, asks_for_a_certificate: bool = False) -> AsyncIterator[End]:
    """A server with a certificate that lasts for so many days more."""
    pem, key = certificates.server_certificate(
        ISSUER, ["localhost"], NOW - certificates.SERVER_LIFE + timedelta(days=days, hours=1)
    )
    (folder / "both.pem").write_bytes(key + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    if asks_for_a_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=certificates.pem(ISSUER).decode())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield End("127.0.0.1", server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(("days", "said"), [(200, ""), (60, ""), (59, "ends in 59 days"), (-1, "has ended")])
@pytest.mark.parametrize("asks", [False, True])
async def test_a_certificate_that_soon_ends_is_seen_where_it_is_shown(tmp_path, days, said, asks) -> None:
    async with shown(tmp_path, days, asks_for_a_certificate=asks) as end:
        found = await expiry.check("operational", end, NOW)
        assert found.ok is (said == "")
        assert said in found.reason
        watch = Watch({"local operational": end}, lambda: NOW)
        assert (watch.warnings, watch.ended) == ([], [])
        await watch.look()
        assert [one.startswith("local operational: the broker's") and said in one for one in watch.warnings] == (
            [True] if said else []
        )
        assert len(watch.ended) == (days < 0)
    await watch.look()  # the broker is away: what it showed last still counts
    assert len(watch.warnings) == bool(said)


async def test_where_nothing_is_shown_the_doctor_says_so_and_the_watch_has_nothing_to_say() -> None:
    end = End("127.0.0.1", *free_ports(1))
    found = await expiry.check("bootstrap", end, NOW)
    assert not found.ok
    watch = Watch({"bootstrap": end}, lambda: NOW)
    await watch.look()
    assert watch.warnings == []
