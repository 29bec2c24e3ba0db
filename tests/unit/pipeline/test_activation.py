"""Activation through the pipeline: what a device is granted, and where it is placed."""

import asyncio
import hashlib
from dataclasses import replace

from device_sdk.wire import codes, keys
from service.domain.device import DeviceState
from service.domain.group import KeyKind
from service.errors import Secret
from tests.support.pipeline_site import Peer, catalogue, credentials, group, registered, running


async def test_the_reply_comes_only_after_the_broker_has_the_login_and_its_hash_is_that_of_the_derived_key(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        await peer.activate()
        (row,) = credentials(site)
        api_key = keys.api_key(peer.key, peer.nonce, row.server_nonce, peer.grant["thing_id"], peer.credential_id)
        login = site.gate.logins[peer.credential_id]
        assert login.api_key.reveal() == api_key.encode()
        assert row.api_key_sha256 == login.api_key_sha256 == hashlib.sha256(api_key.encode()).digest()
        assert peer.grant["endpoint"] == {"host": "broker.example", "port": 8883, "tls": False}
        assert "ca" not in peer.grant
        assert peer.grant["time"] == int(site.clock.now.timestamp())


async def test_things_are_numbered_one_by_one_within_a_batch(tmp_path):
    devices = [registered(f"sn-{i}") for i in range(5)]
    async with running(tmp_path, devices=devices) as site:
        peers = [Peer(site, f"sn-{i}") for i in range(5)]
        await asyncio.gather(*(peer.activate() for peer in peers))
        assert sorted(peer.grant["name"] for peer in peers) == [f"Thermometer {i}" for i in range(1, 6)]
        assert site.store.numbers == {"thermometer": 6}


async def test_a_device_without_a_place_is_not_allocated_until_it_has_one(tmp_path):
    world = catalogue(group(default_ou=None, default_environment=None))
    async with running(tmp_path, world=world) as site:
        peer = Peer(site)
        reply = await peer.activate()
        assert reply["code"] == codes.NOT_ALLOCATED
        assert 300 <= reply["retry_after_s"] <= 900
        site.store.add(replace(site.store.device("line-1", "sn-1"), ou="acme/own", environment="prod"))
        assert (await peer.activate())["ok"]
        assert peer.grant["ou"] == "acme/own"


async def test_an_environment_that_this_service_does_not_have_is_no_place(tmp_path):
    async with running(tmp_path, devices=[registered(ou="x", environment="mars")]) as site:
        assert (await Peer(site).activate())["code"] == codes.NOT_ALLOCATED


async def test_a_pending_credential_lapses_after_the_groups_time(tmp_path):
    async with running(tmp_path, world=catalogue(group(pending_expiry_s=100))) as site:
        peer = Peer(site)
        await peer.activate()
        site.clock.advance(101)
        reply = await peer.online()
        assert reply["code"] == codes.CONFLICT
        await site.pipeline.ticker.tick()
        await site.settle()
        assert credentials(site)[0].drop_cause == "expired"
        assert site.counted("pending_expired") == 1


async def test_self_registration_makes_a_device_only_where_the_group_allows_it(tmp_path):
    secret = Secret(b"s" * 32)
    world = catalogue(
        group("open", key_kind=KeyKind.DERIVED, secret=secret, self_registration=True),
        group("shut", key_kind=KeyKind.DERIVED, secret=secret),
    )
    async with running(tmp_path, devices=[], world=world) as site:
        key = keys.derive_key(b"s" * 32, "sn-7")
        assert (await Peer(site, "sn-7", "shut", key).activate())["code"] == codes.REFUSED
        peer = Peer(site, "sn-7", "open", key)
        peer.session = "a" * 32
        assert (await peer.activate())["ok"]
        device = site.store.device("open", "sn-7")
        assert device.state is DeviceState.ACTIVATED
        assert device.key is None
        assert site.counted("self_registered") == 1
