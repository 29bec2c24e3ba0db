"""A credential is renewed in good time, and a device that changed hands speaks with a new key only."""

from dataclasses import replace
from datetime import timedelta

import pytest

from device_sdk.wire import codes, keys, topics
from service import logins
from service.credentials.authority import Authority
from service.domain import transfer
from service.domain.changes import Changes
from service.domain.credential import CredentialKind, CredentialState
from service.domain.group import KeyKind, Reactivation
from service.errors import Secret, ServiceError
from tests.support.certificates import a_csr
from tests.support.pipeline_site import NEW, START, Peer, catalogue, group, registered, running

LIFE_S = 30 * 24 * 3600


def device_of(site):
    return site.store.device("line-1", "sn-1")


async def in_service(site, **fields):
    peer = Peer(site, **fields)
    assert (await peer.activate())["ok"]
    assert (await peer.online())["ok"]
    return peer


async def renewed(peer):
    peer.nonce = bytes(16)
    assert (await peer.activate("c"))["ok"]
    peer.n = 0
    return await peer.online()


async def test_an_api_key_is_renewed_after_two_thirds_of_its_life(tmp_path):
    world = catalogue(group(credential_life_s=LIFE_S, reactivation=Reactivation.OPERATOR), target=None)
    async with running(tmp_path, world=world) as site:
        peer = await in_service(site)
        old = peer.credential_id
        site.clock.advance(LIFE_S * 2 / 3 - 1)
        assert "desired" not in await peer.online()
        site.clock.advance(1)
        wanted = peer.document((await peer.online())["desired"])["credential"]["renew"]
        assert wanted > 0
        reply = await renewed(peer)
        assert "desired" not in reply
        assert peer.credential_id != old
        assert [one.state for one in device_of(site).credentials] == [
            CredentialState.DROPPED,
            CredentialState.CONFIRMED,
        ]
        assert [one.kind for one in site.store.events] == ["activated", "confirmed", "renewed"]


async def test_a_device_that_never_asks_is_told_by_push_that_its_credential_grows_old(tmp_path):
    world = catalogue(group(credential_life_s=LIFE_S), target=None)
    async with running(tmp_path, world=world) as site:
        peer = await in_service(site)
        await site.pipeline.ticker.tick()
        site.clock.advance(LIFE_S)
        for _ in range(2):
            await site.pipeline.ticker.tick()
            await site.settle()
        (pushed,) = [payload for topic, payload in site.op.published if topic.endswith("/dn/desired")]
        assert "renew" in peer.document(peer.unpack(pushed)["desired"])["credential"]


async def test_a_clock_that_was_ahead_for_a_while_holds_up_no_renewal(tmp_path):
    world = catalogue(group(credential_life_s=LIFE_S), target=None)
    async with running(tmp_path, world=world) as site:
        peer = await in_service(site)

        async def pushed():
            site.op.published.clear()
            for _ in range(2):
                await site.pipeline.ticker.tick()
                await site.settle()
            docs = [payload for topic, payload in site.op.published if topic.endswith("/dn/desired")]
            return ["renew" in peer.document(peer.unpack(one)["desired"]).get("credential", {}) for one in docs]

        ahead_s = LIFE_S * 0.9
        site.clock.advance(ahead_s)
        assert await pushed() == [True]
        site.clock.now -= timedelta(seconds=ahead_s)
        await pushed()
        site.clock.advance(LIFE_S * 2 / 3)
        assert True in await pushed()


async def lives_end(site):
    """The next minute of the clock."""
    for _ in range(60):
        await site.pipeline.ticker.tick()
    await site.settle()


@pytest.mark.parametrize("policy", list(Reactivation))
async def test_an_api_key_that_nobody_renewed_ends_with_its_life_and_the_device_activates_anew(tmp_path, policy):
    world = catalogue(group(credential_life_s=LIFE_S, reactivation=policy), target=None)
    async with running(tmp_path, world=world) as site:
        peer = await in_service(site)
        old = peer.credential_id
        site.clock.advance(LIFE_S - 1)
        await lives_end(site)
        assert device_of(site).credentials[-1].state is CredentialState.CONFIRMED
        site.clock.advance(1)
        await lives_end(site)
        (ended,) = device_of(site).credentials
        assert (ended.state, ended.drop_cause) == (CredentialState.DROPPED, "outlived")
        assert site.counted("api_key_outlived") == 1
        await site.pipeline.revoker.revoke_all()
        assert old not in site.gate.logins
        peer.session, peer.nonce, peer.n, peer.boot_count = "5" * 32, b"n" * 16, 0, 2
        assert (await peer.activate())["ok"]
        reply = await peer.online()
        assert reply["ok"] is (policy is not Reactivation.OPERATOR)  # that policy asks for approval each time
        assert reply.get("code") == (codes.CONFLICT if policy is Reactivation.OPERATOR else None)
        assert peer.credential_id != old


async def test_the_end_of_a_life_takes_neither_a_credential_that_waits_nor_one_of_a_group_without(tmp_path):
    devices = [registered(), registered("sn-2", "line-2")]
    world = catalogue(group(credential_life_s=LIFE_S), group("line-2"), target=None)
    async with running(tmp_path, world=world, devices=devices) as site:
        peer = await in_service(site)
        other = Peer(site, "sn-2", "line-2")
        assert (await other.activate())["ok"]
        assert (await other.online())["ok"]
        site.clock.advance(LIFE_S - 60)
        peer.nonce = bytes(16)
        assert (await peer.activate("c"))["ok"]  # renewed in the last minute
        site.clock.advance(120)
        await lives_end(site)
        assert [one.state for one in device_of(site).credentials] == [CredentialState.DROPPED, CredentialState.PENDING]
        peer.n = 0
        assert (await peer.online())["ok"]
        assert (await other.online())["ok"]


async def test_a_certificate_s_life_is_its_own(tmp_path):
    world = catalogue(group(credential_life_s=3600), target=None, kinds=(CredentialKind.X509,), tls=True)
    issuer = Authority.create(tmp_path / "ca", "prod", START)
    async with running(tmp_path, world=world, authorities={"prod": issuer}) as site:
        peer = Peer(site)
        assert (await peer.activate(csr=a_csr()))["ok"]
        assert (await peer.online())["ok"]
        site.clock.advance(7200)
        await lives_end(site)
        assert (await peer.online())["ok"]


async def opened(site, **more):
    async with site.store.batch() as batch:
        before = device_of(site)
        after, events = transfer.begin(before, site.store.catalogue.groups["line-1"], site.clock.now, **more)
        await batch.save(Changes(devices=((before, after),), events=events))


def new_key(peer, server_nonce):
    thing_id = peer.grant["thing_id"]
    return keys.rekey(peer.key, peer.nonce, server_nonce, thing_id, peer.credential_id)


KINDS = {
    "individual": (group(reactivation=Reactivation.OPERATOR), registered(), None),
    "derived": (
        group(key_kind=KeyKind.DERIVED, secret=Secret(b"G" * 32)),
        replace(registered(), key=None),
        keys.derive_key(b"G" * 32, "sn-1"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_after_a_transfer_only_the_new_key_counts(tmp_path, kind):
    of_kind, device, burned = KINDS[kind]
    async with running(tmp_path, world=catalogue(of_kind), devices=[device]) as site:
        first = await in_service(site, key=burned)
        await opened(site)
        again = Peer(site, key=burned)
        again.session, again.nonce, again.boot_count = "5" * 32, b"n" * 16, 2
        server_nonce = await again.hello()
        assert (await again.activate())["ok"]
        assert again.grant["rekey"] is True
        key = new_key(again, server_nonce)
        password = keys.api_key(key, again.nonce, server_nonce, again.grant["thing_id"], again.credential_id)
        assert site.gate.logins[again.credential_id].api_key.reveal() == password.encode()
        assert (await first.online())["ok"]  # the old key counts until the new one is in use
        stored = device_of(site)
        waiting = stored.credentials[-1]
        login = logins.login_of(site.store.catalogue, stored, waiting, site.keys.service_private_key())
        assert login.api_key.reveal() == password.encode()
        again.key = key
        reply = await again.online()
        assert again.document(reply["desired"])
        stored = device_of(site)
        assert (stored.rekey, stored.credentials[-1].rekey) == (False, False)
        login = logins.login_of(site.store.catalogue, stored, stored.credentials[-1], site.keys.service_private_key())
        assert login.api_key.reveal() == password.encode()
        assert [one.kind for one in site.store.events][-2:] == ["rekeyed", "confirmed"]
        thief = Peer(site, key=first.key)
        thief.session, thief.nonce = "6" * 32, b"t" * 16
        assert (await thief.activate())["code"] == codes.REFUSED
        again.session, again.nonce = "7" * 32, b"m" * 16
        assert (await again.activate())["ok"]
        assert "rekey" not in again.grant


async def test_a_connected_device_is_told_at_once_that_it_changes_hands_and_renews_under_the_new_key(tmp_path):
    async with running(tmp_path, world=catalogue(group(reactivation=Reactivation.OPERATOR), target=None)) as site:
        peer = await in_service(site)
        await opened(site)
        await site.pipeline.ticker.tick()
        await site.settle()
        message = await site.op.next(topics.down("c", peer.credential_id, "desired"))
        wanted = peer.document(peer.unpack(message)["desired"])
        assert wanted["credential"]["renew"] > 0
        peer.nonce = bytes(16)
        server_nonce = await peer.hello("c")
        old_owner, peer.credential_id = peer.credential_id, peer.credential_id
        reply = await peer.ask("c", "activate", peer.activate_body(server_nonce, "c"))
        peer.grant = peer.unpack(peer.raw(reply["grant"]))
        assert peer.grant["rekey"] is True
        peer.credential_id, peer.n = peer.grant["credential_id"], 0
        key = new_key(peer, server_nonce)
        assert (await peer.online())["ok"]
        assert device_of(site).key.reveal() == key
        assert [one.kind for one in site.store.events][-2:] == ["rekeyed", "renewed"]
        assert old_owner != peer.credential_id


async def test_a_device_with_certificates_changes_hands_too(tmp_path):
    world = catalogue(group(), target=NEW, kinds=(CredentialKind.X509,), tls=True)
    issuer = Authority.create(tmp_path / "ca", "prod", START)
    async with running(tmp_path, world=world, authorities={"prod": issuer}) as site:
        peer = Peer(site)
        assert (await peer.activate(csr=a_csr()))["ok"]
        assert (await peer.online())["ok"]
        old = peer.key
        await opened(site)
        again = Peer(site)
        again.session, again.nonce, again.boot_count = "5" * 32, b"n" * 16, 2
        server_nonce = await again.hello()
        body = again.activate_body(server_nonce, csr=a_csr())
        again.grant = again.unpack((await again.ask("b", "activate", body))["grant"])
        assert (again.grant["kind"], again.grant["rekey"]) == ("x509", True)
        again.credential_id = again.grant["credential_id"]
        again.key = new_key(again, server_nonce)
        assert again.document((await again.online())["desired"])["firmware"]  # its mac is made with the new key
        assert device_of(site).key.reveal() == again.key
        thief = Peer(site, key=old)
        thief.session, thief.nonce = "6" * 32, b"t" * 16
        assert (await thief.activate(csr=a_csr()))["code"] == codes.REFUSED


async def test_a_transfer_is_opened_once_and_not_for_public_keys():
    device = registered()
    open_, events = transfer.begin(device, group(), device.registered_at)
    assert [one.kind for one in events] == ["transfer_opened"]
    assert transfer.begin(open_, group(), device.registered_at) == (open_, ())
    assert transfer.end(open_) == device
    with pytest.raises(ServiceError) as refused:
        transfer.begin(device, group(key_kind=KeyKind.PUBLIC_KEY), device.registered_at)
    assert refused.value.cause == "transfer_public_key"


async def test_a_transfer_that_is_asked_for_again_may_be_open_for_longer():
    device, hour = registered(), timedelta(hours=1)
    now = device.registered_at
    open_, _ = transfer.begin(device, group(), now, deadline=hour)
    assert open_.rekey_deadline_at == now + hour
    assert transfer.begin(open_, group(), now, deadline=hour / 2) == (open_, ())
    assert transfer.begin(open_, group(), now, deadline=hour * 2)[0].rekey_deadline_at == now + hour * 2
    assert transfer.begin(open_, group(), now)[0].rekey_deadline_at is None


async def test_a_transfer_whose_time_is_over_leaves_the_device_its_key(tmp_path):
    async with running(tmp_path, world=catalogue(group(reactivation=Reactivation.OPEN))) as site:
        await in_service(site)
        key = device_of(site).key
        await opened(site, deadline=timedelta(minutes=10), command_id="c1")
        site.clock.advance(599)
        await site.pipeline.ticker.tick()
        await site.settle()
        assert device_of(site).rekey
        site.clock.advance(1)
        await site.pipeline.ticker.tick()
        await site.settle()
        assert not device_of(site).rekey
        told = site.store.events[-1]
        assert (told.kind, told.command_id, told.data) == ("transfer_failed", "c1", {"cause": "deadline"})
        again = Peer(site)
        again.session, again.nonce, again.boot_count = "5" * 32, b"n" * 16, 2
        assert (await again.activate())["ok"]
        assert "rekey" not in again.grant
        assert (await again.online())["ok"]
        assert device_of(site).key == key
