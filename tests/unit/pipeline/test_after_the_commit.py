"""Nothing is said of a message before its commit: neither to the broker, nor to the device, nor to the list of logins."""

import asyncio
import json
import logging

import pytest

from device_sdk.wire import codes, topics
from service.pipeline.record import log as pipeline_log
from service.telemetry import JsonFormatter, MaskFilter
from tests.support.fake_store import FakeBatch, FakeStore
from tests.support.pipeline_site import Peer, running


class Held:
    """A step of the store that waits until it is let go."""

    def __init__(self) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.go_on.wait()


class HeldCommit(FakeStore):
    """Everything is saved, but the transaction does not end."""

    held: Held

    def batch(self):
        return _HeldBatch(super().batch(), self.held)


class _HeldBatch:
    def __init__(self, batch, held) -> None:
        self._batch, self._held = batch, held

    async def __aenter__(self):
        return await self._batch.__aenter__()

    async def __aexit__(self, *error):
        await self._held.wait()
        return await self._batch.__aexit__(*error)


def hold_saving(site, monkeypatch) -> Held:
    held, real = Held(), FakeBatch.save

    async def save(self, changes):
        await held.wait()
        await real(self, changes)

    monkeypatch.setattr(FakeBatch, "save", save)
    return held


def hold_committing(site, _monkeypatch) -> Held:
    site.store.__class__ = HeldCommit
    site.store.held = Held()
    return site.store.held


@pytest.mark.parametrize("hold", [hold_saving, hold_committing])
async def test_a_message_is_acknowledged_granted_and_answered_only_after_its_commit(tmp_path, monkeypatch, hold):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        await site.settle()
        before, held = site.boot.acknowledged, hold(site, monkeypatch)
        site.boot.send(topics.up("b", peer.session, "activate"), peer.pack({"id": "1", **body}))
        await held.reached.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        assert (site.boot.acknowledged, site.gate.logins, list(site.boot.published)) == (before, {}, [])
        held.go_on.set()
        await site.settle()
        assert site.boot.acknowledged == before + 1
        assert len(site.gate.logins) == len(site.boot.published) == 1


async def test_a_batch_that_is_cut_off_before_its_commit_leaves_its_messages_unacknowledged(tmp_path, monkeypatch):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        await site.settle()
        before, held = site.boot.acknowledged, hold_saving(site, monkeypatch)
        site.boot.send(topics.up("b", peer.session, "activate"), peer.pack({"id": "1", **body}))
        await held.reached.wait()
    assert site.boot.acknowledged == before


def logged(caplog, verb: str) -> set[str]:
    """The trace ids of this verb's lines, as the log writes them."""
    lines = [json.loads(JsonFormatter(MaskFilter()).format(one)) for one in caplog.records]
    return {line["trace_id"] for line in lines if line.get("verb") == verb}


async def test_the_trace_of_a_reply_is_the_one_in_the_log(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger=pipeline_log.name)
    async with running(tmp_path) as site:
        peer = Peer(site)
        taken = await peer.activate()
        assert taken["ok"]
        assert logged(caplog, "activate") == {taken["trace"]}
        assert logged(caplog, "online") == set()
        online = await peer.online()
        assert logged(caplog, "online") == {online["trace"]}
        refused = await peer.ask("c", "rename", {"n": 99, "boot_count": 0, "name": "late"})
        assert refused["code"] == codes.CONFLICT
        assert logged(caplog, "rename") == {refused["trace"]}
        stranger = await Peer(site, key=bytes(32)).activate()
        assert stranger["code"] == codes.REFUSED
        assert logged(caplog, "activate") == {taken["trace"], stranger["trace"]}
        unread = await peer.ask("c", "rename", {"n": "not a number", "name": "x"})
        assert unread["code"] == codes.BAD_REQUEST
        assert logged(caplog, "rename") == {refused["trace"], unread["trace"]}
        kept = {one.trace_id for one in site.store.traces} | {one.trace_id for one in site.pipeline.record.unproven}
        assert kept == {one["trace"] for one in (taken, online, refused, stranger, unread)}
