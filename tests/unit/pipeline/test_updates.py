"""Firmware through the pipeline: held back, deferred, asked again; and what else the document says."""

from dataclasses import replace
from datetime import timedelta

from device_sdk.wire import ids
from service.domain import updates
from service.domain.catalogue import Endpoint, Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialKind, CredentialState
from service.domain.device import DeviceState, FirmwareState
from service.domain.event import Event
from service.domain.group import Reactivation
from service.domain.product import ReleaseKey
from tests.support.pipeline_site import NEW, Peer, catalogue, group, running


def device_of(site):
    return site.store.device("line-1", "sn-1")


async def in_service(site):
    peer = Peer(site)
    assert (await peer.activate())["ok"]
    assert (await peer.online())["ok"]
    return peer


async def says(peer, state, **fields):
    return await peer.report(desired_rev=99, firmware={"state": state, "version_id": NEW.version_id, **fields})


async def change(site, kind, decide):
    """An operator's change from another process."""
    async with site.store.batch() as batch:
        before = device_of(site)
        event = Event(kind, before.group_id, before.serial)
        await batch.save(Changes(devices=((before, decide(before)),), events=(event,)))
    await site.pipeline.ticker.tick()
    await site.settle()


async def pushes(site, peer):
    found = [payload for topic, payload in site.op.published if topic.endswith("/dn/desired")]
    site.op.published.clear()
    return [peer.document(peer.unpack(one)["desired"]) for one in found]


async def test_a_version_that_failed_twice_leaves_the_document_until_it_is_released(tmp_path):
    async with running(tmp_path) as site:
        peer = await in_service(site)
        assert device_of(site).firmware.state is FirmwareState.OFFERED
        await says(peer, "failed", cause="wrong_hash")
        await says(peer, "downloading")
        reply = await says(peer, "failed", cause="wrong_hash")
        assert "firmware" not in peer.document(reply["desired"])
        told = [one.kind for one in site.store.events if one.kind.startswith("firmware")]
        assert told == ["firmware_failed", "firmware_failed", "firmware_held_back"]
        await change(site, "version_released", updates.release)
        (doc,) = await pushes(site, peer)
        assert (doc["firmware"]["version_id"], doc["firmware"]["release"]) == (NEW.version_id, 1)


async def test_a_device_that_goes_on_with_what_is_held_back_is_told_over_its_new_credential_too(tmp_path):
    async with running(tmp_path, world=catalogue(group(reactivation=Reactivation.OPEN))) as site:
        peer = await in_service(site)
        for _ in range(2):
            await says(peer, "downloading")
            await says(peer, "failed", cause="wrong_hash")
        again = Peer(site)
        again.session, again.nonce, again.boot_count = "5" * 32, b"n" * 16, 2
        assert (await again.activate())["ok"]
        assert "desired" not in await again.online()  # nothing is wanted, as far as the service knows
        reply = await again.report(desired_rev=0, firmware={"state": "downloading", "version_id": NEW.version_id})
        document = again.document(reply["desired"])
        assert "firmware" not in document
        assert "desired" not in await again.report(desired_rev=document["rev"])


async def test_a_silent_update_is_asked_about_three_times_and_then_timed_out(tmp_path):
    async with running(tmp_path) as site:
        peer = await in_service(site)
        await says(peer, "deferred", until_s=7200, cause="in use")
        said = device_of(site).firmware
        assert (said.deferred_reason, said.deferred_until) == ("in use", site.clock.now + timedelta(hours=2))
        site.op.published.clear()
        site.clock.advance(3 * 3600 - 1)
        await site.pipeline.ticker.tick()
        await site.settle()
        assert await pushes(site, peer) == []
        site.clock.advance(1)
        for _ in range(3):
            await site.pipeline.ticker.tick()
            await site.settle()
            (doc,) = await pushes(site, peer)
            assert doc["firmware"]["version_id"] == NEW.version_id
            site.clock.advance(3600)
        await site.pipeline.ticker.tick()
        await site.settle()
        assert device_of(site).firmware.state is FirmwareState.TIMED_OUT
        assert site.store.events[-1].kind == "firmware_timed_out"
        await says(peer, "downloading", progress=3)
        assert device_of(site).firmware.state is FirmwareState.DOWNLOADING


async def test_settings_are_in_the_document_and_what_the_device_makes_of_them_is_kept(tmp_path):
    async with running(tmp_path, world=catalogue(target=None)) as site:
        peer = await in_service(site)

        def give(device):
            return replace(device, thing=replace(device.thing, settings={"interval_s": 5}, settings_rev=1))

        await change(site, "settings_changed", give)
        (doc,) = await pushes(site, peer)
        assert doc["settings"] == {"rev": 1, "values": {"interval_s": 5}}
        await peer.report(desired_rev=doc["rev"], settings={"rev": 1, "state": "failed"})
        thing = device_of(site).thing
        assert (thing.settings_reported_rev, thing.settings_state) == (1, "failed")
        assert site.store.events[-1].kind == "settings_failed"


async def test_a_retired_device_is_told_and_its_credential_ends_once_it_has_read_it(tmp_path):
    async with running(tmp_path) as site:
        peer = await in_service(site)
        await change(site, "retired", lambda device: replace(device, state=DeviceState.RETIRED))
        (doc,) = await pushes(site, peer)
        assert set(doc) == {"rev", "retired"}
        assert device_of(site).credentials[-1].state is CredentialState.CONFIRMED
        await peer.report(desired_rev=doc["rev"])
        assert device_of(site).credentials[-1].state is CredentialState.DROPPED
        await site.pipeline.revoker.revoke_all()
        assert not site.gate.logins


async def test_several_authorities_and_release_keys_are_to_be_trusted_while_they_are_rolled_over(tmp_path):
    pem = "".join(f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n" for name in ("old", "new"))
    ends = {CredentialKind.API_KEY: Endpoint("broker.example", 8883, True)}
    keys = [ReleaseKey(ids.release_key_id(bytes([n]) * 32), bytes([n]) * 32, f"key {n}") for n in (1, 2)]
    world = replace(
        catalogue(target=None),
        environments={"prod": Environment("prod", ends, pem)},
        release_keys={one.key_id: one for one in keys},
    )
    async with running(tmp_path, world=world) as site:
        peer = Peer(site)
        assert (await peer.activate())["ok"]
        trust = peer.document((await peer.online())["desired"])["trust"]
        assert [one.splitlines()[1] for one in trust["cas"]] == ["old", "new"]
        assert sorted(trust["release_keys"]) == sorted(one.public_key for one in keys)
        site.set_catalogue(catalogue(target=None))
        await site.pipeline.ticker.tick()
        await site.settle()
        (doc,) = await pushes(site, peer)
        assert "trust" not in doc
