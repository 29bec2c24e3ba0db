"""What the unproven learn and cost: foreign nonces, wrong proofs, and answers that only a valid proof gets."""

from contextlib import asynccontextmanager

import pytest

from device_sdk.wire import codes, keys
from service.credentials import proofs
from service.domain.device import DeviceState
from service.domain.group import KeyKind
from service.errors import Secret
from service.pipeline.bounds import Bounds
from tests.support.fake_store import FakeBatch
from tests.support.pipeline_site import QUICK, Peer, catalogue, credentials, group, registered, running


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(0, None), (119, None), (174, None), (240, codes.NONCE_EXPIRED), (-55, None), (-200, codes.NONCE_EXPIRED)],
)
async def test_a_server_nonce_is_good_for_two_minutes_and_a_little(tmp_path, seconds, code):
    async with running(tmp_path) as site:
        peer = Peer(site)
        nonce = await peer.hello()
        site.clock.advance(seconds)
        reply = await peer.ask("b", "activate", peer.activate_body(nonce))
        assert reply.get("code") == code


NONCES = {
    "an invented one": lambda peer, site: bytes(16),
    "that of another session": lambda peer, site: nonce_for(site, "f" * 32, peer.group_id, peer.serial, peer.nonce),
    "that of another serial": lambda peer, site: nonce_for(site, peer.session, peer.group_id, "sn-2", peer.nonce),
    "that of another group": lambda peer, site: nonce_for(site, peer.session, "line-2", peer.serial, peer.nonce),
    "that of another nonce": lambda peer, site: nonce_for(site, peer.session, peer.group_id, peer.serial, bytes(16)),
}


def nonce_for(site, session, group_id, serial, nonce):
    minute = int(site.clock.now.timestamp()) // 60
    return keys.server_nonce(site.keys.nonce_current.reveal(), session, group_id, serial, nonce, minute)


@pytest.mark.parametrize("foreign", NONCES.values(), ids=NONCES)
async def test_a_foreign_server_nonce_is_refused_before_any_look_up(tmp_path, foreign):
    async with running(tmp_path) as site:
        loads = counted_loads(site)
        peer = Peer(site)
        reply = await peer.ask("b", "activate", peer.activate_body(foreign(peer, site)))
        assert reply["code"] == codes.NONCE_EXPIRED
        assert not loads


def counted_loads(site) -> list:
    loads = []

    class Counting(FakeBatch):
        async def load(self, **asked):
            loads.append({name: len(value) for name, value in asked.items()})
            return await super().load(**asked)

        async def save(self, changes):
            loads.append("save")
            await super().save(changes)

    @asynccontextmanager
    async def batch():
        counting = Counting(site.store)
        yield counting
        if counting.saved:
            site.store.devices, site.store.numbers = counting.devices, counting.numbers

    site.store.batch = batch
    return loads


async def test_a_nonce_made_under_the_previous_key_is_good(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        nonce = await peer.hello()
        site.pipeline.admission.nonce_keys = site.keys.rotate_nonce().nonce_keys()
        assert (await peer.ask("b", "activate", peer.activate_body(nonce)))["ok"]


CLAIMANTS = {
    "a wrong proof": ("sn-1", "line-1"),
    "an unknown serial": ("sn-404", "line-1"),
    "an unknown group": ("sn-1", "line-404"),
    "an unknown serial of a derived group": ("sn-404", "line-d"),
}


@pytest.mark.parametrize("size", [32, 64, 256])
async def test_the_unproven_cannot_be_told_apart(tmp_path, monkeypatch, size):
    """Same code, same fields, same queries, same HMACs."""
    world = catalogue(group(), group("line-d", key_kind=KeyKind.DERIVED, secret=Secret(b"s" * 32)))
    async with running(tmp_path, world=world, bounds=QUICK) as site:
        loads, hmacs = counted_loads(site), []
        real = proofs.hmac_sha256
        monkeypatch.setattr(proofs, "hmac_sha256", lambda key, data: hmacs.append(1) or real(key, data))
        seen = set()
        for name, (serial, group_id) in CLAIMANTS.items():
            peer = Peer(site, serial, group_id)
            body = peer.activate_body(await peer.hello())
            loads.clear()
            hmacs.clear()
            reply = await peer.ask("b", "activate", {**body, "proof": b"x" * size})
            assert 30 <= reply["retry_after_s"] <= 90, name
            seen.add((reply["code"], reply["reason"], tuple(reply), tuple(map(str, loads)), len(hmacs)))
        ((code, *_),) = seen
        assert code == codes.REFUSED
        assert [one.cause for one in site.pipeline.record.unproven][-4:] == [
            "refused_wrong_proof" if size == 32 else "refused_no_such_key",
            "refused_unknown_serial",
            "refused_unknown_group",
            "refused_wrong_proof" if size == 32 else "refused_unknown_serial",
        ]
        assert not site.store.traces


async def test_a_right_proof_under_a_wrong_session_is_refused(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        other = Peer(site)
        other.session = "e" * 32
        nonce = await other.hello()
        reply = await other.ask("b", "activate", {**body, "server_nonce": nonce})
        assert reply["code"] == codes.REFUSED


STATES = {
    DeviceState.BLOCKED: (codes.BLOCKED, True),
    DeviceState.REPLACED: (codes.REPLACED, False),
    DeviceState.RETIRED: (codes.RETIRED, False),
}


@pytest.mark.parametrize("state", STATES)
async def test_a_state_is_told_only_to_a_valid_proof(tmp_path, state):
    code, waits = STATES[state]
    async with running(tmp_path, devices=[registered(state=state)]) as site:
        reply = await Peer(site).activate()
        assert reply["code"] == code
        assert (300 <= reply["retry_after_s"] <= 900) if waits else ("retry_after_s" not in reply)
        assert not credentials(site)
        assert [one.code for one in site.store.traces] == [code]
        stranger = Peer(site, key=b"w" * 32)
        assert (await stranger.activate())["code"] == codes.REFUSED


async def test_a_serial_that_activates_too_often_is_throttled_only_after_its_proof(tmp_path):
    bounds = Bounds(session_burst=1000, serial_burst=2, serial_rate=0.001)
    async with running(tmp_path, bounds=bounds) as site:
        stranger = Peer(site, key=b"w" * 32)
        for _ in range(10):
            assert (await stranger.activate())["code"] == codes.REFUSED
        peer = Peer(site)
        peer.session = "d" * 32
        assert (await peer.activate())["ok"]
        assert (await peer.activate())["ok"]
        reply = await peer.activate()
        assert reply["code"] == codes.THROTTLED
        assert 1 <= reply["retry_after_s"] <= 5
