"""Items, `staged` and the handshake through the pipeline: what a unit may do with its credential, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device_sdk.wire import codes, frames, keys, topics
from service.domain.credential import CredentialState
from service.domain.manifest import SiteSettings
from service.domain.warehouse import Step
from service.mqtt.port import Role
from service.pipeline.executor import TEND
from service.pipeline.jobs import Job
from tests.support.pipeline_site import IMAGE, IMAGE_ID, NEW, Peer, credentials, registered, running
from tests.support.staged_peer import (
    BUILD,
    CERTIFICATE,
    SECRET,
    SITE,
    VALUES,
    StagedPeer,
    change_unit,
    handed_over,
    step_of,
)


async def fetched(site, peer, image_id: str = IMAGE_ID) -> dict | bytes:
    """The first chunk, or the refusal."""
    body = {"image": bytes.fromhex(image_id)[:8], "stream": 0, "chunk_size": 1024, "first": 0, "count": 1}
    site.op.send(topics.up("c", peer.credential_id, "fetch"), peer.pack({"id": "f", **body}))
    await site.settle()
    (topic, payload) = site.op.published.pop()
    return payload if topic.endswith("/chunk") else peer.unpack(payload)


async def at_site(site, peer) -> dict:
    """The whole way there; the answer to the first handshake."""
    await peer.stage()
    await peer.all_work()
    assert (await peer.staged())["ok"]
    peer.boot_count += 1
    assert (await peer.online())["ok"]
    return await shake(peer)


async def shake(peer, settings_rev: int = 0) -> dict:
    reply = await peer.ask("c", "handshake", {"settings_rev": settings_rev})
    assert reply["ok"], reply
    return peer.signed(reply["settings"], keys.handshake_message) if "settings" in reply else {}


async def test_images_of_the_manifest_are_streamed_to_the_pending_credential_and_no_others(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await peer.stage()
        assert frames.decode_chunk(await fetched(site, peer))[3] == IMAGE[:1024]
        assert (await fetched(site, peer, "00" * 32))["code"] == codes.IMAGE_UNKNOWN
        assert credentials(site)[0].state is CredentialState.PENDING


async def test_an_ordinary_pending_credential_still_says_online_first(tmp_path):
    async with running(tmp_path) as site:
        peer = StagedPeer(site)
        await Peer.activate(_ordinary(peer))
        assert (await fetched(site, peer, NEW.image_id))["code"] == codes.FORBIDDEN
        assert (await peer.ask("c", "item", {"name": "ca", "offset": 0}))["code"] == codes.FORBIDDEN
        peer.manifest = {"manifest_id": "0" * 64}
        assert (await peer.staged())["code"] == codes.FORBIDDEN
        assert (await peer.ask("c", "handshake", {"settings_rev": 0}))["code"] == codes.FORBIDDEN


async def test_what_is_no_image_comes_in_pieces_and_a_secret_sealed_for_this_device_alone(tmp_path):
    async with running(tmp_path, devices=[handed_over(), handed_over("sn-2")]) as site:
        peer, other = StagedPeer(site), StagedPeer(site, "sn-2")
        await peer.stage()
        await other.stage()
        assert await peer.bytes_of("ca") == CERTIFICATE
        sealed = await peer.bytes_of("licence")
        assert SECRET not in sealed
        assert peer.opened("licence", "1.2", sealed) == SECRET
        # The nonce follows from the content: another secret of the same name and version never meets it.
        digest = bytes.fromhex(BUILD.item("licence").sha256)
        assert sealed[:12] == keys.item_nonce(keys.item_key(peer.key, "licence", "1.2"), digest)
        assert await peer.bytes_of("licence") == sealed  # however often it is asked for
        assert await other.bytes_of("licence") != sealed
        assert SECRET not in str(site.store.devices).encode()


@pytest.mark.parametrize(
    ("name", "offset", "code"),
    [("none", 0, codes.NOT_FOUND), ("app", 0, codes.NOT_FOUND), ("ca", len(CERTIFICATE), codes.RANGE)],
)
async def test_a_piece_that_there_is_not(tmp_path, name, offset, code):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await peer.stage()
        assert (await peer.ask("c", "item", {"name": name, "offset": offset}))["code"] == code


async def test_reports_of_items_are_kept_and_confirm_nothing(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await peer.stage()
        await peer.say("app", "2.1", "pending", progress=40)
        await peer.say("ca", "1.0", "installed")
        items = site.store.device("line-1", "sn-1").unit.items
        assert {name: (one.state, one.progress) for name, one in items.items()} == {
            "app": ("pending", 40),
            "ca": ("installed", None),
        }
        assert credentials(site)[0].state is CredentialState.PENDING
        steps = [one.step for one in site.store.traces if one.verb == "report"]
        assert steps == ["item_pending", "item_installed"]


async def test_an_item_of_another_manifest_or_version_does_not_count(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await peer.stage()
        assert (await peer.say("app", "9.9", "working"))["ok"]
        assert (await peer.say("other", "1.0", "working"))["ok"]
        assert not site.store.device("line-1", "sn-1").unit.items


async def test_a_failed_item_stops_the_unit_with_its_cause_on_the_operators_list_until_it_goes_on(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await peer.stage()
        await peer.say("ca", "1.0", "failed", cause="wrong_hash")
        assert site.store.device("line-1", "sn-1").unit.equipment.cause == "ca: wrong_hash"
        assert site.store.events[-1].kind == "item_failed"
        assert site.store.events[-1].data == {"item": "ca", "version": "1.0", "cause": "wrong_hash"}
        assert (await peer.staged())["code"] == codes.CONFLICT
        await peer.say("ca", "1.0", "working")
        assert site.store.device("line-1", "sn-1").unit.equipment.cause is None


async def test_staged_needs_a_working_report_of_every_item_and_names_those_that_miss(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await peer.stage()
        await peer.say("ca", "1.0", "working")
        reply = await peer.staged()
        assert (reply["code"], reply["state"]) == (codes.CONFLICT, {"items": ["licence", "app"]})
        assert step_of(site) is Step.STAGED
        await peer.all_work()
        assert (await peer.staged(manifest_id="0" * 64))["code"] == codes.CONFLICT
        assert (await peer.staged())["ok"]
        assert step_of(site) is Step.OUT_OF_BOX
        assert site.store.events[-1].kind == "out_of_box"


async def test_staged_again_gets_the_same_answer_by_number_and_after_a_restart(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await peer.stage()
        await peer.all_work()
        body = {"n": 50, "boot_count": 1, "manifest_id": BUILD.manifest_id}
        raw = peer.pack({"id": "s", **body})
        assert await peer.ask_raw("c", "staged", raw) == await peer.ask_raw("c", "staged", raw)
        peer.boot_count, peer.n = 2, 0
        assert (await peer.staged())["ok"]
        assert [one.kind for one in site.store.events].count("out_of_box") == 1
        assert credentials(site)[0].state is CredentialState.PENDING


@pytest.mark.parametrize("step", [Step.OUT_OF_BOX, Step.SHIPPED])
async def test_a_unit_that_lost_power_before_it_heard_the_answer_may_do_it_all_again_wherever_it_is(tmp_path, step):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await peer.stage()
        await peer.all_work()
        assert (await peer.staged())["ok"]
        change_unit(site, step=step)
        # It kept its credential and its manifest, and no record of its items.
        assert (await peer.say("ca", "1.0", "pending"))["ok"]
        assert await peer.bytes_of("ca") == CERTIFICATE
        assert frames.decode_chunk(await fetched(site, peer))[3] == IMAGE[:1024]
        assert (await peer.staged())["state"] == {"items": ["ca"]}
        await peer.all_work()
        assert (await peer.staged()).get("shipped", False) is (step is Step.SHIPPED)
        assert (step_of(site), credentials(site)[0].state) == (step, CredentialState.PENDING)
        assert [one.kind for one in site.store.events].count("out_of_box") == 1
        peer.boot_count += 1
        assert (await peer.online())["ok"]
        assert (await shake(peer))["rev"] == SITE.rev
        assert step_of(site) is Step.AT_SITE


async def test_online_waits_until_the_unit_is_out_of_its_box(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await peer.stage()
        assert (await peer.online())["code"] == codes.CONFLICT
        await peer.all_work()
        await peer.staged()
        reply = await peer.online()
        assert reply["ok"]
        assert peer.document(reply["desired"])["handshake"] == {"settings_rev": SITE.rev}
        assert credentials(site)[0].state is CredentialState.CONFIRMED


async def test_the_handshake_brings_the_settings_of_the_site_and_the_unit_is_there(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        assert await at_site(site, peer) == {"rev": 3, "values": VALUES}
        assert step_of(site) is Step.AT_SITE
        assert site.store.events[-1].kind == "at_site"
        assert await shake(peer, 3) == {}
        assert [one.kind for one in site.store.events].count("at_site") == 1


async def test_settings_of_the_site_are_stored_nowhere_with_the_device(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        await at_site(site, StagedPeer(site))
        (row,) = credentials(site)
        for stored in (
            row.last_reply,
            row.desired_doc,
            row.grant,
            str(site.store.traces).encode(),
            str(site.store.events).encode(),
        ):
            assert b"salt-and-sea" not in stored


async def test_a_product_gets_only_those_settings_that_it_names(tmp_path):
    device = handed_over()
    of_type = replace(device.unit.type, warehouse_settings=("network",), handshake_settings=("features",))
    device = replace(device, unit=replace(device.unit, type=of_type))
    async with running(tmp_path, devices=[device]) as site:
        peer = StagedPeer(site)
        settings = await at_site(site, peer)
        assert settings["values"] == {"features": VALUES["features"], "network": VALUES["network"]}
        assert peer.manifest["settings"]["values"] == {"network": VALUES["network"]}


async def test_a_site_without_settings_still_sees_the_unit_arrive(tmp_path):
    async with running(tmp_path, devices=[handed_over(settings=None)]) as site:
        assert await at_site(site, StagedPeer(site)) == {}
        assert step_of(site) is Step.AT_SITE


async def test_changed_settings_reach_the_device_as_a_revision_in_its_document(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await at_site(site, peer)
        changed = SiteSettings(4, {**VALUES, "payment": {"terminal": "T2"}})
        change_unit(site, settings=changed)
        site.pipeline.admission.submit(_tend(site))
        push = peer.unpack(await site.op.next(topics.down("c", peer.credential_id, "desired")))
        assert peer.document(push["desired"])["handshake"] == {"settings_rev": 4}
        assert (await shake(peer, 3))["values"]["payment"] == {"terminal": "T2"}
        assert site.store.device("line-1", "sn-1").unit.said.sent_rev == 4


async def test_what_the_device_says_of_its_settings_is_kept_and_a_failure_is_on_the_list(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await at_site(site, peer)
        await peer.report(site={"rev": 3, "state": "trying"})
        assert site.store.device("line-1", "sn-1").unit.said.state == "sent"
        await peer.report(site={"rev": 3, "state": "failed", "cause": "no_contact"})
        device = site.store.device("line-1", "sn-1")
        assert (device.unit.said.rev, device.unit.said.state, device.unit.said.cause) == (3, "failed", "no_contact")
        assert device.unit.equipment.cause == "settings: no_contact"
        assert site.store.events[-1].kind == "settings_failed"
        assert await shake(peer, 3) == {}  # the same are not sent twice
        await peer.report(site={"rev": 3, "state": "applied"})
        assert site.store.device("line-1", "sn-1").unit.equipment.cause is None


async def test_a_device_that_is_no_unit_may_shake_hands_and_gets_nothing(tmp_path):
    async with running(tmp_path, devices=[registered()]) as site:
        peer = StagedPeer(site)
        await Peer.activate(_ordinary(peer))
        reply = await peer.online()
        assert "handshake" not in peer.document(reply["desired"])
        assert await shake(peer) == {}


def _ordinary(peer: StagedPeer) -> StagedPeer:
    peer.at_role = Role.BOOTSTRAP
    return peer


def _tend(site):
    return Job(TEND, site.store.device("line-1", "sn-1").device_id, operational=False, trace_id="t")
