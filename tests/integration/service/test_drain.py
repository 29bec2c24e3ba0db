"""A service that is told to end finishes what it has taken: the row is stored, and the device has its reply."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from device_sdk.wire import topics
from tests.support.mqtt_peer import MqttPeer
from tests.support.site import Site, made_site, until


@contextlib.contextmanager
def locked(site: Site) -> Iterator[sqlite3.Connection]:
    """Nobody else writes to the database, until the transaction ends."""
    connection = sqlite3.connect(site.settings.database_path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
    finally:
        connection.close()


async def received(site: Site) -> int:
    """How many messages of devices the service has got from its bootstrap broker."""
    health = await site.ask("/health")
    return health["links"]["local bootstrap"]["received"] if health is not None else 0


async def test_an_activate_that_waits_at_sigterm_is_stored_and_answered(tmp_path: Path) -> None:
    async with made_site(tmp_path) as site:
        await site.register(["sn-1"])
        await site.start_service()
        async with MqttPeer(site, "sn-1") as peer:
            body = peer.activate_body(await peer.hello())
            before = await received(site)
            with locked(site) as other:
                await peer.say(topics.up("b", peer.session, "activate"), peer.pack({"id": "1", **body}))

                async def taken() -> bool:
                    return await received(site) > before

                await until(taken)
                assert site.query("SELECT 1 FROM credential") == []
                ending = asyncio.create_task(site.stop_service())
                await until(lambda: "no more messages are taken" in site.log())
                other.execute("ROLLBACK")
            reply = peer.unpack(await peer.heard("b", "activate"))
            assert reply["ok"], reply
            assert await ending == 0
        assert site.query("SELECT state FROM credential") == [("pending",)]
