"""Faults inside the service: poison, brokers that do not answer, links that are down, the end."""

import asyncio
import logging

import pytest

from device_sdk.wire import codes, topics
from service.brokers.gate import Login
from service.domain.credential import CredentialKind
from service.errors import ServiceError
from service.handlers import simple
from service.pipeline.bounds import Bounds
from service.pipeline.granter import Granter
from service.pipeline.record import Record
from tests.support.fake_link import FakeGate
from tests.support.fake_store import FakeBatch
from tests.support.pipeline_site import Peer, registered, running


async def batch_of(site, count):
    """As many devices as asked for, each with a rename that waits in the queue."""
    peers = []
    for number in range(count):
        peer = Peer(site, f"sn-{number}")
        await peer.activate()
        await peer.online()
        peers.append(peer)
    return peers


async def test_a_handler_that_fails_for_one_message_answers_internal_to_it_alone(tmp_path, monkeypatch, caplog):
    devices = [registered(f"sn-{number}") for number in range(3)]
    async with running(tmp_path, devices=devices) as site:
        peers = await batch_of(site, 3)
        real = simple.rename

        def poisoned(device, request, context):
            if request.name == "poison":
                raise KeyError("a bug")
            return real(device, request, context)

        monkeypatch.setattr(simple, "rename", poisoned)
        caplog.set_level(logging.ERROR)
        replies = await asyncio.gather(
            *(
                peer.ask("c", "rename", {"n": 2, "name": name})
                for peer, name in zip(peers, ("a", "poison", "c"), strict=True)
            )
        )
        assert [reply.get("code") for reply in replies] == [None, codes.INTERNAL, None]
        assert len(replies[1]["trace"]) == 16
        assert len([one for one in caplog.records if one.levelno >= logging.ERROR]) == 1
        assert site.counted("internal_fault") == 1


@pytest.mark.parametrize(
    "fault", [ValueError("constraint"), ServiceError(codes.INTERNAL, "a damaged value", cause="seal_broken")]
)
async def test_a_device_that_cannot_be_stored_does_not_take_the_batch_down(tmp_path, monkeypatch, fault):
    devices = [registered(f"sn-{number}") for number in range(3)]
    async with running(tmp_path, devices=devices) as site:
        peers = await batch_of(site, 3)
        real = FakeBatch.save

        async def save(self, changes):
            if any(after.thing.name == "poison" for _, after in changes.devices):
                raise fault
            await real(self, changes)

        monkeypatch.setattr(FakeBatch, "save", save)
        replies = await asyncio.gather(
            *(
                peer.ask("c", "rename", {"n": 2, "name": name})
                for peer, name in zip(peers, ("a", "poison", "c"), strict=True)
            )
        )
        assert [reply.get("code") for reply in replies] == [None, codes.INTERNAL, None]
        assert [site.store.device("line-1", f"sn-{n}").thing.name for n in (0, 2)] == ["a", "c"]


async def test_a_link_that_is_down_loses_replies_and_the_repeat_is_answered(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        site.boot.down = True
        site.boot.send(topics.up("b", peer.session, "activate"), peer.pack({"id": "1", **body}))
        await site.settle()
        assert site.counted("reply_dropped_link_down") == 1
        site.boot.down = False
        assert (await peer.ask("b", "activate", body))["ok"]
        assert len(site.store.device("line-1", "sn-1").credentials) == 1


async def test_a_fault_while_a_reply_is_sent_costs_that_reply(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        site.boot.faults.append(KeyError("a bug"))
        site.boot.send(topics.up("b", peer.session, "activate"), peer.pack({"id": "1", **body}))
        await site.settle()
        assert site.counted("internal_fault") == 1
        assert (await peer.ask("b", "activate", body))["ok"]


async def test_a_fault_after_the_commit_costs_that_reply(tmp_path, monkeypatch):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        granter = site.pipeline.granters["prod"]
        with monkeypatch.context() as patched:
            patched.setattr(granter, "submit", lambda *_: 1 / 0)
            site.boot.send(topics.up("b", peer.session, "activate"), peer.pack({"id": "1", **body}))
            await site.settle()
        assert site.counted("internal_fault") == 1
        assert (await peer.ask("b", "activate", body))["ok"]


async def test_a_fault_of_a_gate_is_a_grant_that_failed(tmp_path, monkeypatch):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        with monkeypatch.context() as patched:
            patched.setattr(site.gate, "grant", lambda _: 1 / 0)
            refused = await peer.ask("b", "activate", body)
        assert refused["code"] == codes.UNAVAILABLE
        assert site.counted("internal_fault") == 1
        assert (await peer.ask("b", "activate", body))["ok"]


async def test_a_broker_that_does_not_revoke_is_asked_again_until_it_does(tmp_path):
    async with running(tmp_path) as site:
        one, two = Peer(site), Peer(site)
        two.session = "2" * 32
        await one.activate()
        await one.online()
        await two.activate()
        site.gate.fail = True
        await two.online()
        await site.settle()
        await site.pipeline.revoker.revoke_all()
        assert site.upkeep.revoked == []
        site.gate.fail = False
        await site.pipeline.revoker.revoke_all()
        assert site.upkeep.revoked == [one.credential_id]
        assert set(site.gate.logins) == {two.credential_id}


async def test_draining_finishes_what_was_taken_and_takes_nothing_new(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        site.boot.send(topics.up("b", peer.session, "activate"), peer.pack({"id": "1", **body}))
        assert await site.pipeline.drain(5)
        assert any(topic.endswith("/dn/activate") for topic, _ in site.boot.published)
        taken = site.boot.acknowledged
        site.boot.send(topics.up("b", peer.session, "hello"), b"{}")
        await asyncio.sleep(0.01)
        assert site.boot.acknowledged == taken
        assert site.upkeep.counters["hello"] == 1


async def test_upkeep_that_fails_is_put_off_and_its_counters_are_kept(tmp_path, monkeypatch):
    async with running(tmp_path) as site:
        await Peer(site).hello()

        async def fails(*_args, **_kwargs):
            raise ServiceError(codes.UNAVAILABLE, "later", cause="storage")

        with monkeypatch.context() as patch:
            patch.setattr(site.upkeep, "add_counters", fails)
            patch.setattr(site.upkeep, "catalogue_rev", fails)
            await site.pipeline.ticker.tick()
        await site.pipeline.ticker.tick()
        assert site.upkeep.counters["hello"] == 1
        assert site.counted("refresh_put_off") == 1


async def test_no_secret_is_logged_or_traced(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    async with running(tmp_path) as site:
        peer = Peer(site)
        await peer.activate()
        await peer.online()
        api_key = next(iter(site.gate.logins.values())).api_key.reveal().decode()
        await Peer(site, key=b"canary" * 6).activate()
        told = " ".join(str(one.__dict__) for one in caplog.records) + repr(site.store.traces)
        told += repr(site.pipeline.record.unproven)
        for secret in (peer.key.hex(), repr(peer.key), api_key, "canary", site.keys.nonce_current.reveal().hex()):
            assert secret not in told
        assert {"activated", "confirmed"} <= {trace.step for trace in site.store.traces}
        assert any(getattr(one, "trace_id", None) for one in caplog.records)


async def test_a_grant_that_is_under_way_when_its_credential_is_dropped_does_not_outlive_the_revocation():
    started, go_on = asyncio.Event(), asyncio.Event()

    class SlowGate(FakeGate):
        async def grant(self, logins) -> None:
            started.set()
            await go_on.wait()
            await super().grant(logins)

    gate = SlowGate()
    granter = Granter(gate, Bounds(), Record(10))
    slow, waiting = (Login(name * 32, CredentialKind.API_KEY, api_key_sha256=bytes(32)) for name in "ab")
    answers = []
    task = asyncio.create_task(granter.run())
    granter.submit(slow, answers.append)
    await started.wait()
    granter.submit(waiting, answers.append)
    revocation = asyncio.create_task(granter.revoke([slow, waiting]))
    await asyncio.sleep(0)
    go_on.set()
    await revocation
    while not granter.idle:
        await asyncio.sleep(0)
    assert gate.logins == {}
    assert [error and error.cause for error in answers] == ["grant_unavailable", None]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
