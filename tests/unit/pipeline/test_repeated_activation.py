"""An activation that is said again: repeats, failures on the way, renewal and several credentials of one device."""

import asyncio
from dataclasses import replace

import msgpack
import pytest

from device_sdk.wire import codes, topics
from service.domain.credential import CredentialState
from service.domain.group import Reactivation
from service.errors import ServiceError
from tests.support.fake_link import START
from tests.support.pipeline_site import QUICK, Peer, catalogue, credentials, group, running


async def test_a_repeated_activate_gets_the_same_grant_and_is_granted_again(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        nonce = await peer.hello()
        body = peer.activate_body(nonce)
        first = await peer.ask("b", "activate", body)
        commits = site.store.commits
        again = await peer.ask("b", "activate", body)
        assert (first["grant"], first["server_proof"]) == (again["grant"], again["server_proof"])
        assert site.store.commits == commits
        assert len(credentials(site)) == 1
        assert site.gate.calls == [("grant", 1), ("grant", 1)]


async def test_two_equal_activates_in_one_batch_make_one_credential(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        payload = peer.pack({"id": "x", **peer.activate_body(await peer.hello())})
        up = topics.up("b", peer.session, "activate")
        site.boot.send(up, payload)
        site.boot.send(up, payload)
        down = topics.down("b", peer.session, "activate")
        one, two = msgpack.unpackb(await site.boot.next(down)), msgpack.unpackb(await site.boot.next(down))
        assert one["grant"] == two["grant"]
        assert len(credentials(site)) == 1


async def test_a_grant_that_the_broker_does_not_confirm_is_unavailable_and_a_repeat_gets_it(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        site.gate.fail = True
        body = peer.activate_body(await peer.hello())
        reply = await peer.ask("b", "activate", body)
        assert reply["code"] == codes.UNAVAILABLE
        assert 5 <= reply["retry_after_s"] <= 15
        site.gate.fail = False
        assert (await peer.ask("b", "activate", body))["ok"]
        assert len(credentials(site)) == 1


async def test_a_dropped_credentials_activate_says_hello_again(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        await peer.ask("b", "activate", body)
        device = site.store.device("line-1", "sn-1")
        dropped = replace(device.credentials[0], state=CredentialState.DROPPED, dropped_at=START)
        site.store.add(replace(device, credentials=(dropped,)))
        assert (await peer.ask("b", "activate", body))["code"] == codes.NONCE_EXPIRED
        assert len(credentials(site)) == 1


async def test_a_fifth_pending_credential_drops_the_oldest_and_the_broker_hears_of_it(tmp_path):
    async with running(tmp_path, bounds=QUICK) as site:
        made = []
        for number in range(5):
            peer = Peer(site)
            peer.session = f"{number:032x}"
            site.clock.advance(1)
            assert (await peer.activate())["ok"]
            made.append(peer.credential_id)
        await site.settle()
        states = {one.credential_id: one.state for one in credentials(site)}
        assert [states[one] for one in made] == [CredentialState.DROPPED] + [CredentialState.PENDING] * 4
        async with asyncio.timeout(30):
            while made[0] in site.gate.logins:
                await asyncio.sleep(0.001)
        assert site.upkeep.revoked == [made[0]]


@pytest.mark.parametrize("where", ["enter", "load", "save", "commit"])
async def test_storage_that_fails_answers_unavailable_and_the_repeat_succeeds(tmp_path, where):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        site.store.fail_with[where] = ServiceError(codes.UNAVAILABLE, "later", cause="storage_unavailable")
        reply = await peer.ask("b", "activate", body)
        assert reply["code"] == codes.UNAVAILABLE
        assert not credentials(site)
        assert not site.gate.logins
        assert (await peer.ask("b", "activate", body))["ok"]
        assert site.counted("activated") == 1


async def test_renewal_on_its_own_topic_needs_no_hold(tmp_path):
    async with running(tmp_path, world=catalogue(group(reactivation=Reactivation.HOLD))) as site:
        peer = Peer(site)
        await peer.activate()
        await peer.online()
        first = peer.credential_id
        assert (await peer.activate("c"))["ok"]
        assert peer.credential_id != first
        peer.n = 0
        assert (await peer.online())["ok"]
        assert {one.credential_id: one.state for one in credentials(site)} == {
            first: CredentialState.DROPPED,
            peer.credential_id: CredentialState.CONFIRMED,
        }
