"""The disk fails under a running service: refused for now, nothing half-written, and it goes on by itself."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import auditor
from tests.support.mqtt_peer import MqttPeer
from tests.support.site import Site, made_site, until


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with made_site(tmp_path) as made:
        await made.register(["sn-1", "sn-2"])
        await made.start_service()
        yield made


@contextmanager
def full_disk(site: Site) -> Iterator[None]:
    """No file of the service's process may grow or be written (RLIMIT_FSIZE of 0)."""
    before = resource.prlimit(site.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(site.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def locked(site: Site) -> Iterator[None]:
    """Another process holds the write lock for longer than the service waits."""
    connection = sqlite3.connect(site.settings.database_path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (full_disk, ("storage_full", "storage_io_error")),
        pytest.param(locked, ("storage_busy",), marks=pytest.mark.long),  # the service waits 5 s for the lock, twice
    ],
)
async def test_devices_are_put_off_and_served_again_without_a_restart(
    site: Site, fault: Callable[[Site], Iterator[None]], cause: tuple[str, ...]
) -> None:
    async with MqttPeer(site, "sn-1") as new, MqttPeer(site, "sn-2") as known:
        assert (await known.activate())["ok"]
        assert (await known.online())["ok"]
        nonce = await new.hello()
        body = new.pack({"id": "again", **new.activate_body(nonce)})
        with fault(site):
            rows = site.rows()
            refused = [new.unpack(await new.ask_raw("b", "activate", body)), await known.report()]
            assert site.rows() == rows
        for reply in refused:
            assert (reply["ok"], reply["code"]) == (False, "UNAVAILABLE")
            assert 5 <= reply["retry_after_s"] <= 15
        reply = new.unpack(await new.ask_raw("b", "activate", body))
        assert reply["ok"]
        known.n -= 1
        assert (await known.report())["ok"]

        def counted() -> bool:
            counters = dict(site.query("SELECT name, value FROM counter"))
            return any(counters.get(one, 0) >= 2 for one in cause)

        await until(counted)  # counted while nothing could be stored, and stored when it could
    assert (await site.ask("/health") or {})["ok"]
    assert await site.stop_service() == 0
    assert auditor.audit(site.settings.database_path) == []
    assert "Traceback" not in site.log()


async def test_a_read_only_database_puts_devices_off_until_it_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.storage.connections.is_writable", lambda _: False)
    async with made_site(tmp_path) as site:
        await site.register(["sn-1"])
        async with site.serving_here() as service, MqttPeer(site, "sn-1") as peer:
            nonce = await peer.hello()
            body = peer.pack({"id": "again", **peer.activate_body(nonce)})
            await set_read_only(service.database, on=True)
            rows = site.rows()
            refused = peer.unpack(await peer.ask_raw("b", "activate", body))
            assert (refused["code"], refused["ok"]) == ("UNAVAILABLE", False)
            assert 5 <= refused["retry_after_s"] <= 15
            assert site.rows() == rows
            await set_read_only(service.database, on=False)
            assert peer.unpack(await peer.ask_raw("b", "activate", body))["ok"]
        assert auditor.audit(site.settings.database_path) == []


async def set_read_only(database, *, on: bool) -> None:
    """The writer refuses as it does on a read-only file system; root's own files cannot be made so."""
    async with database._lock:
        connection = await database._writer()
        raw = await connection.get_raw_connection()
        await (await raw.driver_connection.execute(f"PRAGMA query_only={int(on)}")).close()


async def test_many_devices_meet_a_full_disk_and_all_are_served_when_there_is_room(site: Site) -> None:
    serials = [f"many-{number}" for number in range(20)]
    await site.register(serials)

    async def put_off(serial: str) -> None:
        async with MqttPeer(site, serial) as peer:
            body = peer.pack({"id": "again", **peer.activate_body(await peer.hello())})
            ready.append(serial)
            await full.wait()
            assert peer.unpack(await peer.ask_raw("b", "activate", body))["code"] == "UNAVAILABLE"
            refused.append(serial)
            await room.wait()
            assert peer.unpack(await peer.ask_raw("b", "activate", body))["ok"]

    ready, refused = [], []
    full, room = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for serial in serials:
            group.create_task(put_off(serial))
        await until(lambda: len(ready) == len(serials))
        with full_disk(site):
            full.set()
            await until(lambda: len(refused) == len(serials))
        room.set()
    assert site.query("SELECT count(*) FROM credential") == [(len(serials),)]
    assert await site.stop_service() == 0
    assert auditor.audit(site.settings.database_path) == []
